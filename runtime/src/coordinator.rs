//! The shell around the coordinator's state machine: sockets, threads and the clock.

use crate::bootstrap::{
    Errand, Identity, Listener, coordinator_addresses, new_peer_id, refuse_open_networks, try_each,
};
use crate::config::Config;
use crate::control::introduce;
use crate::engine::lock;
use crate::jobs::Coordinators;
use crate::session::{Session, Talk};
use ronde_core::Instant;
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use ronde_core::failpoint;
use ronde_core::membership::{Coordinator, Effect, FromMember, MemberInfo, Status, ToMember, encode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// How long a message to a member may take to leave before the member counts as gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a connection that this side has ended is kept for the other side to end it too.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a process that may have ended has to answer, and how often and with which pause it is asked for.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
const PROBES: u32 = 10;
const PROBE_PAUSE: Duration = Duration::from_millis(5);

/// What a coordinator hears.
pub(crate) enum Event {
    /// By which number it is known from now on.
    Connected(u64, Served),
    Message(u64, FromMember),
    Closed(u64),
    /// It is known whether a process has ended.
    Probed(PeerId, bool),
    /// Nobody wants this coordinator any more.
    Stop,
}

/// A connection that a coordinator writes to. It ends with this, since another thread still reads from it.
pub(crate) struct Served(pub(crate) Arc<Session>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Both);
    }
}

/// Addresses that threads share.
pub(crate) type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// Coordinates all jobs that come to `address`, each by its name ([`Config::job`]), until there has been one and all have
/// ended; with `keep` it goes on for the next ones. What the configuration says of sizes holds for each job.
pub fn serve_coordinator(config: &Config, address: SocketAddr, keep: bool) -> Result<()> {
    refuse_open_networks(config, address)?;
    let identity = Identity::new(&config.token, new_peer_id()?);
    let tcp = TcpListener::bind(address)
        .map_err(|e| Error::resource(format!("cannot listen at {address}: {e}")))?;
    let coordinators = Coordinators::of_all_jobs(config)?;
    let (listener, inbox) = Listener::new(config, &identity, tcp, Some(coordinators))?;
    // No member is in this process.
    drop(inbox);
    if !keep {
        listener.wait_for_the_jobs();
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}

/// Asks the coordinator of the job that a configuration describes how that is.
pub fn job_status(config: &Config) -> Result<Status> {
    let addresses = coordinator_addresses(config)?;
    let failed = |e: std::io::Error| {
        let at: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let at = at.join(", ");
        Error::join(format!(
            "no word from the coordinator at {at}: {e}. Check RONDE_COORDINATOR and RONDE_TOKEN"
        ))
    };
    let identity = Identity::new(&config.token, new_peer_id()?);
    let patience = config.connect_timeout;
    let stream = try_each(&addresses, &identity, Errand::CONTROL, patience).map_err(failed)?;
    let mut talk = Talk::new(stream, None);
    introduce(&mut talk, &config.job, &FromMember::Status).map_err(failed)?;
    // Who is no member hears nothing else.
    match talk.hear(std::time::Instant::now() + patience).map_err(failed)? {
        ToMember::Status(status) => Ok(*status),
        ToMember::NotHere(why) => Err(Error::join(why)),
        _ => Err(failed(std::io::Error::other("it answered something else"))),
    }
}

/// The coordinator of one job.
pub(crate) struct Shell {
    machine: Coordinator,
    streams: BTreeMap<u64, Served>,
    events: mpsc::SyncSender<Event>,
    taken_over: Addresses,
    /// Processes of which it is being found out whether they have ended.
    probing: BTreeSet<PeerId>,
    /// Connections that this side has ended, and until when the other side may end them.
    farewells: VecDeque<(std::time::Instant, u64)>,
    start: std::time::Instant,
    stopped: bool,
    /// It ends when everybody who came has gone again before the job has formed.
    may_idle: bool,
    was_joined: bool,
}

impl Shell {
    /// `may_idle`: it ends when everybody who came has gone again before the job has formed.
    pub(crate) fn new(
        machine: Coordinator,
        events: mpsc::SyncSender<Event>,
        taken_over: Addresses,
        may_idle: bool,
    ) -> Shell {
        Shell {
            machine,
            streams: BTreeMap::new(),
            events,
            taken_over,
            probing: BTreeSet::new(),
            farewells: VecDeque::new(),
            start: std::time::Instant::now(),
            stopped: false,
            may_idle,
            was_joined: false,
        }
    }

    fn now(&self) -> Instant {
        Instant(self.start.elapsed().as_nanos() as u64)
    }

    /// Until the job has ended; false if it never was one.
    pub(crate) fn run(&mut self, queue: &mpsc::Receiver<Event>) -> bool {
        while !self.machine.is_finished() && !self.stopped {
            if self.may_idle && self.was_joined && self.streams.is_empty() && self.machine.is_unused() {
                return false;
            }
            let wait = match self.machine.next_deadline() {
                Some(deadline) => deadline.since(self.now()).max(Duration::from_millis(1)),
                None => Duration::from_secs(1),
            };
            let farewell = self.farewells.front().map(|(until, _)| *until);
            let wait = farewell
                .map_or(wait, |until| wait.min(until.saturating_duration_since(std::time::Instant::now())));
            match queue.recv_timeout(wait) {
                Ok(event) => self.handle(event),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            }
            // Everything that is already here is taken in before time passes judgement.
            while let Ok(event) = queue.try_recv() {
                self.handle(event);
            }
            self.machine.handle_tick(self.now());
            self.perform();
            self.end_farewells();
        }
        self.see_them_off(queue);
        true
    }

    /// Members that have not closed in time, such as those that are stopped, keep no thread here.
    fn end_farewells(&mut self) {
        let now = std::time::Instant::now();
        while let Some(&(until, connection)) = self.farewells.front()
            && until <= now
        {
            self.farewells.pop_front();
            if let Some(Served(session)) = self.streams.get(&connection) {
                session.shutdown(Shutdown::Both);
            }
        }
    }

    /// Ends this side of every connection and waits until the members have ended theirs: a connection
    /// that is closed with bytes unread is reset, which can overtake the last message.
    fn see_them_off(&mut self, queue: &mpsc::Receiver<Event>) {
        for Served(session) in self.streams.values() {
            session.shutdown(Shutdown::Write);
        }
        let deadline = std::time::Instant::now() + FAREWELL;
        while !self.streams.is_empty() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match queue.recv_timeout(left) {
                Ok(Event::Closed(connection)) => drop(self.streams.remove(&connection)),
                // A member of the next job.
                Ok(Event::Connected(connection, stream)) => {
                    let _ = stream.0.say(&ToMember::TryLater);
                    stream.0.shutdown(Shutdown::Write);
                    self.connected(connection, stream);
                }
                Ok(Event::Message(..) | Event::Probed(..)) => {}
                Ok(Event::Stop) | Err(_) => return,
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Stop => self.stopped = true,
            Event::Connected(connection, stream) => self.connected(connection, stream),
            Event::Probed(peer, has_ended) => {
                self.probing.remove(&peer);
                if has_ended {
                    self.machine.handle_ended(peer, now);
                }
            }
            Event::Message(connection, message) => self.machine.handle_message(connection, message, now),
            Event::Closed(connection) => {
                self.streams.remove(&connection);
                self.machine.handle_closed(connection, now);
            }
        }
        self.perform();
    }

    fn connected(&mut self, connection: u64, stream: Served) {
        // A member may be silent for as long as the machine says.
        if stream.0.set_timeouts(None, Some(WRITE_PATIENCE)).is_ok() {
            self.streams.insert(connection, stream);
            self.was_joined = true;
        }
    }

    /// Finds out whether a process has ended, unless that is being done.
    fn probe(&mut self, member: MemberInfo) {
        if !self.probing.insert(member.peer) {
            return;
        }
        let (events, taken_over, peer) = (self.events.clone(), self.taken_over.clone(), member.peer);
        let look = move || {
            let has_ended = has_ended(&member.addresses, &taken_over);
            let _ = events.send(Event::Probed(peer, has_ended));
        };
        if let Err(error) = std::thread::Builder::new().name("ronde-probe".into()).spawn(look) {
            tracing::warn!("whether a member has ended cannot be found out: {error}");
            self.probing.remove(&peer);
        }
    }

    fn perform(&mut self) {
        // What goes to many is often the same, and a view may be long.
        let mut encoded: Option<(ToMember, Vec<u8>)> = None;
        for effect in self.machine.take_effects() {
            match effect {
                Effect::Send(connection, message) => {
                    let Some(Served(session)) = self.streams.get(&connection) else { continue };
                    let known =
                        encoded.take_if(|(before, _)| is_same(before, &message)).map(|(_, bytes)| bytes);
                    let Some(bytes) = known.or_else(|| encode(&message).ok()) else {
                        // What a member does not hear it would wait for.
                        tracing::error!("a message to a member is too long: the member is given up");
                        session.shutdown(Shutdown::Both);
                        continue;
                    };
                    let written = session.write(&bytes);
                    failpoint::told(&message);
                    encoded = Some((message, bytes));
                    if written.is_err() {
                        // Its reader sees the end and reports it.
                        session.shutdown(Shutdown::Both);
                    }
                }
                Effect::Probe(member) => self.probe(member),
                // Its reader goes on until the member closes too.
                Effect::Close(connection) => {
                    if let Some(Served(session)) = self.streams.get(&connection) {
                        session.shutdown(Shutdown::Write);
                        self.farewells.push_back((std::time::Instant::now() + FAREWELL, connection));
                    }
                }
            }
        }
    }
}

/// Whether nobody listens at any of these addresses any more. A process that is just ending may do so for a moment.
fn has_ended(addresses: &[SocketAddr], taken_over: &Addresses) -> bool {
    let mut left: Vec<SocketAddr> = addresses.to_vec();
    for _ in 0..PROBES {
        left.retain(|address| !lock(taken_over).contains(address));
        let tried = left.first().map(|address| TcpStream::connect_timeout(address, PROBE_PATIENCE));
        match tried {
            None => return !addresses.is_empty(),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => drop(left.remove(0)),
            Some(Err(_)) => return false,
            Some(Ok(_)) => std::thread::park_timeout(PROBE_PAUSE),
        }
    }
    left.is_empty() && !addresses.is_empty()
}

/// Whether two messages are the same for certain, without looking into long ones.
fn is_same(one: &ToMember, other: &ToMember) -> bool {
    match (one, other) {
        (ToMember::View(one), ToMember::View(other)) => Arc::ptr_eq(one, other),
        (ToMember::View(_), _) | (_, ToMember::View(_)) => false,
        _ => one == other,
    }
}
