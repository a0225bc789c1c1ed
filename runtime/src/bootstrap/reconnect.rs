//! Connections that take the place of those that were cut while both processes live.
//!
//! Of each pair the higher rank connects, as it did first. So the lower one, if it is the one that finds a connection dead, can only
//! say so (a *nudge*). A member's connection to its coordinator has a name (a *session*), by which the member asks for it. What is
//! said then stands in [`super::request`].
//!
//! Where nothing comes back on the direct way, others lead to the member ([`super::relay`]).

use super::ControlEvents;
use super::handshake::{self, Errand, Identity, SessionId};
use super::relay::{Reached, Relayed, reach_through};
use super::request::{REQUEST_BYTES, Refusal, Request, Verdict, What, ask_on, reply};
use crate::config::Config;
use crate::engine::lock;
use crate::session::{Offer, Session};
use crate::until::Until;
use ronde_core::PeerId;
use ronde_core::membership::{MachineId, MemberInfo};
use ronde_core::transport::LinkFailure;
use ronde_tcp::{Cut, Delivery, Mailbox, Resumption};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Threads that make connections at one time: a switch that restarts may cut those to thousands of members.
const MOST_WORKERS: usize = 32;
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of the time that there is, an attempt may take one part in so many: others may lead through.
const ATTEMPTS: u32 = 4;
/// Members that are asked for a way in one attempt.
const RELAYS_ASKED: usize = 3;
/// It is tried for so many times as long as a member may be silent.
const SILENCES: u32 = 2;
/// Who cannot be told that its connection is dead, since nobody listens where it should, may still find out and connect. A process that
/// has ended is known by other signs.
const UNTOLD: Duration = Duration::from_millis(500);
/// Who was told to connect and does not is told again in one attempt of so many.
const TELL_AGAIN: u32 = 10;
/// Pauses between attempts double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Former members that are told so.
const MOST_FORMER: usize = 4096;

/// A member whose link may be taken up again.
struct Linked {
    mailbox: Mailbox,
    addresses: Vec<SocketAddr>,
    machine: MachineId,
    /// This side makes the connections.
    connects: bool,
    name: String,
}

/// A stream that is to be taken up.
struct Task {
    peer: PeerId,
    linked: Arc<Linked>,
    cut: Cut,
    begun: Instant,
    deadline: Instant,
    /// Pause after the next attempt.
    pause: Duration,
    attempts: u32,
    /// The other side knows that it has to connect, or cannot be told.
    told: bool,
    /// Why it would be given up now.
    failure: LinkFailure,
    /// What is known of the member that the stream was led through, and the number of that connection. The kernel of one that has stopped
    /// answers for it.
    through: Option<(Mailbox, u32)>,
    /// The link has taken that up.
    settled: bool,
}

#[derive(Default)]
struct Tasks {
    /// By when each is to be seen to, and a number.
    waiting: BTreeMap<(Instant, u64), Task>,
    next: u64,
    workers: usize,
    /// One of the workers waits for what is not due yet.
    is_watched: bool,
}

impl Tasks {
    fn push(&mut self, due: Instant, task: Task) {
        self.next += 1;
        self.waiting.insert((due, self.next), task);
    }

    fn first_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }
}

impl Task {
    /// Once the link to the relay has ended, or waits itself, the stream needs another way. True as long as there is something to
    /// look after.
    fn looks_after_relay(&mut self, linked: &Linked) -> bool {
        let Some((relay, connection)) = &self.through else { return false };
        let (stream, connection) = (self.cut.stream, *connection);
        self.pause = LAST_PAUSE;
        if linked.mailbox.is_cut(stream) && self.settled {
            return false;
        }
        self.settled |= !linked.mailbox.is_cut(stream);
        if relay.is_whole() {
            return true;
        }
        let _ = linked.mailbox.deliver(Delivery::Nudged { stream, connection });
        false
    }

    /// What follows an attempt that came to nothing.
    fn refused(&mut self, refusal: Refusal) -> Option<Result<(), LinkFailure>> {
        match refusal {
            Refusal::Final(failure) => Some(Err(failure)),
            Refusal::Later(error) => {
                self.failure = if says_nothing(&error) { LinkFailure::Silent } else { self.cut.failure };
                None
            }
        }
    }
}

/// Takes up streams that were cut.
pub(crate) struct Reconnections {
    identity: Identity,
    /// For how long it is tried.
    patience: Duration,
    links: Mutex<BTreeMap<PeerId, Arc<Linked>>>,
    /// Who was a member, the last ones: the job goes on without them.
    former: Mutex<VecDeque<PeerId>>,
    /// Of coordinators here, with members that may come back to them.
    sessions: Mutex<BTreeMap<SessionId, (PeerId, Weak<Session>)>>,
    relayed: Relayed,
    tasks: Mutex<Tasks>,
    /// A task was left for later.
    more: Condvar,
    /// Who polls the links.
    events: Mutex<Option<Arc<dyn ControlEvents>>>,
}

impl Reconnections {
    pub(crate) fn new(identity: &Identity, config: &Config) -> Arc<Reconnections> {
        Arc::new(Reconnections {
            identity: identity.clone(),
            patience: config.suspect_after() * SILENCES,
            links: Mutex::default(),
            former: Mutex::default(),
            sessions: Mutex::default(),
            relayed: Relayed::default(),
            tasks: Mutex::default(),
            more: Condvar::new(),
            events: Mutex::default(),
        })
    }

    /// This is who polls the links.
    pub(super) fn wakes(&self, events: Arc<dyn ControlEvents>) {
        *lock(&self.events) = Some(events);
    }

    /// What the new link to a member needs to be taken up; `connects`: by this side.
    pub(super) fn link(self: &Arc<Self>, member: &MemberInfo, connects: bool) -> Resumption {
        let mailbox = Mailbox::default();
        let linked = Arc::new(Linked {
            mailbox: mailbox.clone(),
            addresses: member.addresses.clone(),
            machine: member.machine.clone(),
            connects,
            name: format!("process {} on {}", member.pid, member.host),
        });
        let peer = member.peer;
        lock(&self.links).insert(peer, linked.clone());
        let reconnections: Weak<Reconnections> = Arc::downgrade(self);
        let redial = move |cut| {
            if let Some(reconnections) = reconnections.upgrade() {
                reconnections.ask(peer, linked.clone(), cut);
            }
        };
        Resumption { redial: Box::new(redial), mailbox }
    }

    /// Only these are members any more.
    pub(super) fn retain(&self, is_member: impl Fn(PeerId) -> bool) {
        let mut former = lock(&self.former);
        lock(&self.links).retain(|&peer, _| {
            let stays = is_member(peer);
            if !stays {
                former.push_back(peer);
            }
            stays
        });
        while former.len() > MOST_FORMER {
            former.pop_front();
        }
    }

    /// A connection that a peer has made for this.
    pub(super) fn receive(&self, stream: TcpStream, peer: PeerId) -> io::Result<()> {
        let mut limited = Until(&stream, Instant::now() + PATIENCE);
        let mut request = [0; REQUEST_BYTES];
        limited.read_exact(&mut request)?;
        let request =
            Request::decode(&request).ok_or_else(|| io::Error::other("no request for a connection"))?;
        if request.what == What::Session {
            limited.lift()?;
            return self.resume(stream, peer, &request);
        }
        let linked = lock(&self.links).get(&peer).cloned();
        let verdict = match &linked {
            _ if request.to != self.identity.peer.0 => Verdict::Another,
            None if lock(&self.former).contains(&peer) => Verdict::HasEnded,
            None => Verdict::NotYet,
            Some(linked) if linked.mailbox.is_closed() => Verdict::HasEnded,
            Some(_) => Verdict::GoOn,
        };
        let Some(linked) = linked.filter(|_| verdict == Verdict::GoOn) else {
            return limited.write_all(&reply(verdict, 0));
        };
        let Request { stream: at, connection, received, .. } = request;
        if request.what == What::Nudge {
            limited.write_all(&reply(Verdict::GoOn, 0))?;
            // Of no use to a link that has just ended.
            let _ = linked.mailbox.deliver(Delivery::Nudged { stream: at, connection });
            self.wake();
            return Ok(());
        }
        limited.lift()?;
        let answer = |mut stream: &TcpStream, received| stream.write_all(&reply(Verdict::GoOn, received));
        let offer =
            Delivery::Offered { stream: at, connection, received, socket: stream, answer: Box::new(answer) };
        if let Err(Delivery::Offered { mut socket, .. }) = linked.mailbox.deliver(offer) {
            return socket.write_all(&reply(Verdict::HasEnded, 0));
        }
        self.wake();
        Ok(())
    }

    /// A member may come back to this session.
    pub(crate) fn keep(&self, id: SessionId, peer: PeerId, session: &Arc<Session>) {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, (_, session)| session.upgrade().is_some_and(|session| !session.is_over()));
        sessions.insert(id, (peer, Arc::downgrade(session)));
    }

    /// A member has come back.
    fn resume(&self, socket: TcpStream, peer: PeerId, request: &Request) -> io::Result<()> {
        let of = lock(&self.sessions).get(&SessionId(request.to)).cloned();
        let session = of.filter(|(of, _)| *of == peer).and_then(|(_, session)| session.upgrade());
        let Request { connection, received, .. } = *request;
        let taken = match session {
            Some(session) => session.offer(Offer { socket, connection, received }),
            None => Err(socket),
        };
        taken.or_else(|socket| {
            Reconnections::has_ended(socket);
            Ok(())
        })
    }

    /// Says to a member that has come back that its session does not go on.
    pub(crate) fn has_ended(mut socket: TcpStream) {
        // Of no use to one that has gone.
        let _ = socket.write_all(&reply(Verdict::HasEnded, 0));
    }

    /// Says to a member that has come back that its session goes on.
    pub(crate) fn go_on(mut socket: &TcpStream, received: u64) -> io::Result<()> {
        socket.write_all(&reply(Verdict::GoOn, received))
    }

    /// Goes back to a coordinator that was found at this address. [`LinkFailure::Closed`] says that it lives and has ended the session.
    pub(crate) fn take_up_session(
        &self,
        address: SocketAddr,
        id: SessionId,
        mut connection: u32,
        received: u64,
        deadline: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Offer, LinkFailure> {
        let attempt = |left: Duration| {
            if is_over() {
                return Err(Refusal::Final(LinkFailure::Closed));
            }
            connection = connection.wrapping_add(1);
            let request = Request { to: id.0, what: What::Session, stream: 0, connection, received };
            let until = Instant::now() + left.min(PATIENCE);
            let socket = handshake::try_each(&[address], &self.identity, Errand::RESUME, left.min(PATIENCE));
            let (socket, received) = ask_on(socket.map_err(Refusal::of)?, &request, until)?;
            Ok(Offer { socket, connection, received })
        };
        let is_final = |refusal: &Refusal| matches!(refusal, Refusal::Final(_));
        handshake::retry(deadline, attempt, is_final).map_err(|refusal| match refusal {
            Refusal::Final(failure) => failure,
            Refusal::Later(_) => LinkFailure::Torn,
        })
    }

    fn wake(&self) {
        if let Some(events) = &*lock(&self.events) {
            events.links_have_news();
        }
    }

    fn ask(self: Arc<Self>, peer: PeerId, linked: Arc<Linked>, cut: Cut) {
        let begun = Instant::now();
        let deadline = begun + self.patience;
        let (pause, failure) = (FIRST_PAUSE, cut.failure);
        let task = Task {
            peer,
            linked,
            cut,
            begun,
            deadline,
            pause,
            attempts: 0,
            told: false,
            failure,
            through: None,
            settled: false,
        };
        let mut tasks = lock(&self.tasks);
        tasks.push(begun, task);
        self.employ(&mut tasks);
        self.more.notify_one();
    }

    /// One thread more, if there may be. Without any, nothing is taken up: links fail as they would otherwise.
    fn employ(self: &Arc<Self>, tasks: &mut Tasks) {
        if tasks.workers >= MOST_WORKERS {
            return;
        }
        let works = self.clone();
        let worker = std::thread::Builder::new().name("ronde-reconnect".into()).spawn(move || works.work());
        match worker {
            Ok(_) => tasks.workers += 1,
            // Others come to it.
            Err(_) if tasks.workers > 0 => {}
            Err(error) => {
                tracing::warn!("no thread to make connections again: {error}");
                for task in std::mem::take(&mut tasks.waiting).into_values() {
                    give_up(&task.linked, &task.cut, task.failure);
                }
            }
        }
    }

    /// Sees to tasks until there are none. Of those who have nothing to do one waits for what is not due: others may be busy for as
    /// long as an attempt takes.
    fn work(self: Arc<Self>) {
        let mut tasks = lock(&self.tasks);
        loop {
            let now = Instant::now();
            let Some(due) = tasks.first_due().filter(|due| *due <= now || !tasks.is_watched) else {
                tasks.workers -= 1;
                return;
            };
            if due > now {
                tasks.is_watched = true;
                let waited = self.more.wait_timeout(tasks, due - now);
                tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
                tasks.is_watched = false;
                continue;
            }
            let Some((_, mut task)) = tasks.waiting.pop_first() else { continue };
            if tasks.first_due().is_some_and(|due| due <= now) {
                self.employ(&mut tasks);
            }
            drop(tasks);
            let goes_on = self.attempt(&mut task);
            tasks = lock(&self.tasks);
            if goes_on {
                tasks.push(Instant::now() + task.pause, task);
                self.more.notify_one();
            }
        }
    }

    /// One attempt; true if there shall be another.
    fn attempt(&self, task: &mut Task) -> bool {
        let linked = task.linked.clone();
        if linked.mailbox.is_closed() {
            return false;
        }
        if !lock(&self.links).contains_key(&task.peer) {
            // It is no member any more: its link ends as it would without all this.
            give_up(&linked, &task.cut, task.failure);
            self.wake();
            return false;
        }
        task.attempts += 1;
        if task.through.is_some() {
            let goes_on = task.looks_after_relay(&linked);
            if !goes_on {
                self.wake();
            }
            return goes_on;
        }
        let done = match linked.connects {
            _ if Instant::now() >= task.deadline => Some(Err(task.failure)),
            true => self.connect(&linked, task),
            false => self.be_connected_to(&linked, task),
        };
        match done {
            None => {
                task.pause = (task.pause * 2).min(LAST_PAUSE);
                return true;
            }
            Some(Ok(())) => tracing::warn!(
                "a connection to {} was cut ({}) and taken up again after {:.0?}",
                linked.name,
                task.cut.failure,
                task.begun.elapsed()
            ),
            Some(Err(failure)) => give_up(&linked, &task.cut, failure),
        }
        self.wake();
        task.through.is_some()
    }

    /// Connects, and agrees with the other side on how far both are.
    fn connect(&self, linked: &Linked, task: &mut Task) -> Option<Result<(), LinkFailure>> {
        let Cut { stream, received, .. } = task.cut;
        // One whose answer was lost has used its number.
        let connection = task.cut.connection.wrapping_add(task.attempts);
        let request = Request { to: task.peer.0, what: What::Offer, stream, connection, received };
        match self.request(linked, &request, task) {
            Ok(((socket, received), relay)) => {
                // Of no use to a link that has ended meanwhile.
                let _ = linked.mailbox.deliver(Delivery::Connected { stream, connection, received, socket });
                task.through = relay.map(|relay| (relay, connection));
                Some(Ok(()))
            }
            Err(refusal) => task.refused(refusal),
        }
    }

    /// Has the other side connect, which may know already that it has to.
    fn be_connected_to(&self, linked: &Linked, task: &mut Task) -> Option<Result<(), LinkFailure>> {
        let Cut { stream, connection, .. } = task.cut;
        if !linked.mailbox.is_cut(stream) {
            return Some(Ok(()));
        }
        // Who was told may have been on another connection just then.
        if task.told && !task.attempts.is_multiple_of(TELL_AGAIN) {
            return None;
        }
        let request = Request { to: task.peer.0, what: What::Nudge, stream, connection, received: 0 };
        match self.request(linked, &request, task) {
            Ok(_) => {
                task.told = true;
                None
            }
            Err(Refusal::Final(LinkFailure::PeerDied)) => {
                (task.told, task.failure) = (true, LinkFailure::PeerDied);
                task.deadline = task.deadline.min(Instant::now() + UNTOLD);
                None
            }
            Err(refusal) => task.refused(refusal),
        }
    }

    /// One connection, and what the other side says on it. Where nothing comes back, others are asked for a way; the one that has
    /// led there is given too.
    fn request(&self, linked: &Linked, request: &Request, task: &Task) -> Result<Answered, Refusal> {
        let until = || (Instant::now() + self.patience / ATTEMPTS).min(task.deadline);
        let refusal = match self.ask_directly(linked, request, until()) {
            Ok(both) => return Ok((both, None)),
            Err(Refusal::Later(error)) if says_nothing(&error) => Refusal::Later(error),
            Err(refusal) => return Err(refusal),
        };
        for relay in self.relays(linked, task) {
            let until = until();
            let left = until.saturating_duration_since(Instant::now());
            let socket = match reach_through(&relay.addresses, task.peer, &self.identity, left) {
                Ok(Reached::Connected(socket)) => socket,
                Ok(Reached::Ended) => return Err(Refusal::Final(LinkFailure::PeerDied)),
                // It does not lead there, or has ended itself.
                Err(_) => continue,
            };
            match ask_on(socket, request, until) {
                Ok(both) => {
                    tracing::warn!("what is said to {} goes through {} from now on", linked.name, relay.name);
                    return Ok((both, Some(relay.mailbox.clone())));
                }
                // Where that one looks for the member there may be another process.
                Err(Refusal::Final(LinkFailure::PeerDied) | Refusal::Later(_)) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(refusal)
    }

    /// At each of the member's addresses. Some may be those of other machines too, in networks of the same numbers: only if nobody
    /// listens at any, or others do, has it ended.
    fn ask_directly(
        &self,
        linked: &Linked,
        request: &Request,
        until: Instant,
    ) -> Result<(TcpStream, u64), Refusal> {
        let mut refusal = Refusal::Final(LinkFailure::PeerDied);
        for (at, address) in linked.addresses.iter().enumerate() {
            let others = (linked.addresses.len() - at) as u32;
            let left = until.saturating_duration_since(Instant::now()) / others;
            let here = Instant::now() + left;
            let socket =
                handshake::try_each(std::slice::from_ref(address), &self.identity, Errand::RESUME, left);
            match socket.map_err(Refusal::of).and_then(|socket| ask_on(socket, request, here)) {
                Ok(both) => return Ok(both),
                Err(Refusal::Final(LinkFailure::PeerDied)) => {}
                Err(Refusal::Later(error)) => refusal = Refusal::Later(error),
                Err(refusal) => return Err(refusal),
            }
        }
        Err(refusal)
    }

    /// Some members on other machines to which the links are whole, others at each attempt.
    fn relays(&self, linked: &Linked, task: &Task) -> Vec<Arc<Linked>> {
        let links = lock(&self.links);
        let may = |(peer, other): &(&PeerId, &Arc<Linked>)| {
            **peer != task.peer && other.machine != linked.machine && other.mailbox.is_whole()
        };
        let able: Vec<&Arc<Linked>> = links.iter().filter(may).map(|(_, other)| other).collect();
        // Pairs whose path is the same do not all ask the same ones first.
        let pair = self.identity.peer.0[0] ^ task.peer.0[0];
        let skipped = (usize::from(pair) + task.attempts as usize * RELAYS_ASKED) % able.len().max(1);
        able.iter()
            .cycle()
            .skip(skipped)
            .take(RELAYS_ASKED.min(able.len()))
            .map(|&other| other.clone())
            .collect()
    }

    /// This process is found no more: what goes through it goes another way.
    pub(super) fn end(&self) {
        self.relayed.end();
    }

    /// Somebody wants to reach a member through this one.
    pub(super) fn relay(&self, stream: TcpStream) -> io::Result<()> {
        self.relayed.serve(stream, |to| Some(lock(&self.links).get(&to)?.addresses.clone()))
    }
}

/// A connection on which the other side goes on, how many bytes it has received, and where it leads through.
type Answered = ((TcpStream, u64), Option<Mailbox>);

fn give_up(linked: &Linked, cut: &Cut, failure: LinkFailure) {
    // Of no use to a link that has ended meanwhile.
    let _ =
        linked.mailbox.deliver(Delivery::GivenUp { stream: cut.stream, connection: cut.connection, failure });
}

/// The path may be cut, and not this connection alone.
fn says_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc;

    /// Long enough for anything that is not stuck.
    const WELL: Duration = Duration::from_secs(10);

    fn reconnections(number: u8) -> Arc<Reconnections> {
        let identity = Identity::new("token", PeerId([number; 16]));
        Reconnections::new(&identity, &Config::new().preset(crate::Preset::Lan))
    }

    fn member(number: u8, addresses: Vec<SocketAddr>) -> MemberInfo {
        MemberInfo {
            peer: PeerId([number; 16]),
            id: ronde_core::MemberId(u32::from(number)),
            host: String::new(),
            addresses,
            machine: MachineId::default(),
            user: 0,
            pid: 0,
            transports: Vec::new(),
            costs: String::new(),
        }
    }

    /// Serves what comes to a process for links that were cut, so many connections, and says when it has.
    fn serve(process: &Arc<Reconnections>, connections: usize) -> (SocketAddr, mpsc::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, process) = (listener.local_addr().unwrap(), process.clone());
        let (done, served) = mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                let introduction = handshake::receive(&mut stream, &process.identity).unwrap();
                process.receive(stream, introduction.peer).unwrap();
            }
            let _ = done.send(());
        });
        (address, served)
    }

    /// Of 1, what 2 says to a request for a connection where it is looked for.
    fn asks(addresses: Vec<SocketAddr>, what: What) -> Result<u64, Refusal> {
        let me = reconnections(1);
        let _kept = me.link(&member(2, addresses), true);
        let linked = lock(&me.links)[&PeerId([2; 16])].clone();
        let request = Request { to: [2; 16], what, stream: 0, connection: 1, received: 0 };
        let answer = me.ask_directly(&linked, &request, Instant::now() + WELL);
        answer.map(|(_, received)| received)
    }

    /// Each machine has networks of its own whose addresses others have too.
    #[test]
    fn another_process_at_one_address_is_passed_over() {
        let (other, right) = (reconnections(3), reconnections(2));
        let _kept = right.link(&member(1, Vec::new()), false);
        let (elsewhere, other_served) = serve(&other, 2);
        let (address, served) = serve(&right, 1);
        assert_eq!(asks(vec![elsewhere, address], What::Nudge).unwrap(), 0);
        served.recv_timeout(WELL).unwrap();
        // Nobody listens there any more.
        let refusal = asks(vec![elsewhere, address], What::Nudge);
        assert!(matches!(refusal, Err(Refusal::Final(LinkFailure::PeerDied))), "{refusal:?}");
        other_served.recv_timeout(WELL).unwrap();
    }

    /// Who went on without a member says so, also when it has forgotten the link.
    #[test]
    fn a_former_member_is_told_that_it_has_ended() {
        let other = reconnections(2);
        let (address, served) = serve(&other, 2);
        let refusal = asks(vec![address], What::Offer);
        assert!(matches!(refusal, Err(Refusal::Later(_))), "not linked yet: {refusal:?}");
        let _kept = other.link(&member(1, Vec::new()), false);
        other.retain(|_| false);
        let refusal = asks(vec![address], What::Offer);
        assert!(matches!(refusal, Err(Refusal::Final(LinkFailure::Closed))), "{refusal:?}");
        served.recv_timeout(WELL).unwrap();
    }

    /// One attempt may take long: what comes due meanwhile is not left to it.
    #[test]
    fn a_task_that_is_not_due_is_waited_for_while_others_are_busy() {
        let me = reconnections(1);
        // Takes connections and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        // It answers, and is not linked yet: asked again and again.
        let soon = reconnections(3);
        let (address, served) = serve(&soon, 5);
        let cut = || Cut { stream: 0, connection: 1, received: 0, failure: LinkFailure::Torn };
        let silent = me.link(&member(2, vec![mute.local_addr().unwrap()]), true);
        let answers = me.link(&member(3, vec![address]), true);
        (silent.redial)(cut());
        (answers.redial)(cut());
        let begun = Instant::now();
        served.recv_timeout(WELL).unwrap();
        // The pauses of four attempts are 1, 2, 4, and 8 ms; one that hears nothing takes half a second.
        assert!(begun.elapsed() < Duration::from_millis(450), "{:?}", begun.elapsed());
        me.retain(|_| false);
    }
}
