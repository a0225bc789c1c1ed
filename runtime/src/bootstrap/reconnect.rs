//! Connections that take the place of those that were cut while both processes live.
//!
//! Of each pair the higher rank connects, as it did first. So the lower one, if it is the one that finds a connection dead, can only
//! say so (a *nudge*). A member's connection to its coordinator has a name (a *session*), by which the member asks for it. After the
//! handshake:
//!
//! ```text
//! client  -> to 16 (a peer id or a session) | what 1 (1: offer, 2: nudge, 3: session) | stream 1 | 0 × 2 | connection 4
//!            | bytes received 8
//! server  -> verdict 1 (1: go on, 2: it has ended here, 3: another process, 4: not linked yet) | 0 × 7 | bytes received 8
//! ```
//!
//! Where nothing comes back on the direct way, others lead to the member ([`super::relay`]).
//!
//! Numbers are little endian. A connection that is refused proves that the process has ended, as everywhere else.

use super::ControlEvents;
use super::handshake::{self, Errand, Identity, SessionId};
use super::relay::{Reached, Relayed, reach_through};
use crate::config::Config;
use crate::engine::lock;
use crate::session::{Offer, Session};
use crate::until::Until;
use ronde_core::PeerId;
use ronde_core::membership::{MachineId, MemberInfo};
use ronde_core::transport::LinkFailure;
use ronde_tcp::{Cut, Delivery, Mailbox, Resumption};
use std::collections::BTreeMap;
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

const REQUEST_BYTES: usize = 32;
const REPLY_BYTES: usize = 16;

/// What a connection with [`Errand::RESUME`] is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request {
    to: [u8; 16],
    what: What,
    stream: u8,
    connection: u32,
    received: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum What {
    Offer = 1,
    Nudge = 2,
    Session = 3,
}

/// What is said to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Verdict {
    GoOn = 1,
    HasEnded = 2,
    Another = 3,
    NotYet = 4,
}

impl Request {
    fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..16].copy_from_slice(&self.to);
        bytes[16] = self.what as u8;
        bytes[17] = self.stream;
        bytes[20..24].copy_from_slice(&self.connection.to_le_bytes());
        bytes[24..].copy_from_slice(&self.received.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
        let (to, rest) = bytes.split_first_chunk()?;
        let (&[what, stream, 0, 0], rest) = rest.split_first_chunk()? else { return None };
        let (connection, received) = rest.split_first_chunk()?;
        Some(Request {
            to: *to,
            what: [What::Offer, What::Nudge, What::Session].into_iter().find(|known| *known as u8 == what)?,
            stream,
            connection: u32::from_le_bytes(*connection),
            received: u64::from_le_bytes(*received.first_chunk()?),
        })
    }
}

fn reply(verdict: Verdict, received: u64) -> [u8; REPLY_BYTES] {
    let mut bytes = [0; REPLY_BYTES];
    bytes[0] = verdict as u8;
    bytes[8..].copy_from_slice(&received.to_le_bytes());
    bytes
}

/// The bytes that the other side has received, if it goes on.
fn read_reply(bytes: &[u8; REPLY_BYTES]) -> Result<u64, Refusal> {
    let received = bytes.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    match bytes[0] {
        1 => Ok(received),
        2 => Err(Refusal::Final(LinkFailure::Closed)),
        3 => Err(Refusal::Final(LinkFailure::PeerDied)),
        4 => Err(Refusal::Later(io::ErrorKind::NotConnected.into())),
        _ => Err(Refusal::Final(LinkFailure::Violation("an unknown verdict on a connection"))),
    }
}

/// Why an attempt came to nothing.
#[derive(Debug)]
enum Refusal {
    /// Another may do better.
    Later(io::Error),
    Final(LinkFailure),
}

impl Refusal {
    /// Of one who tried to connect.
    fn of(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Refusal::Final(LinkFailure::PeerDied),
            _ => Refusal::Later(error),
        }
    }
}

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
        let linked = Linked {
            mailbox: mailbox.clone(),
            addresses: member.addresses.clone(),
            machine: member.machine.clone(),
            connects,
            name: format!("process {} on {}", member.pid, member.host),
        };
        let peer = member.peer;
        lock(&self.links).insert(peer, Arc::new(linked));
        let reconnections: Weak<Reconnections> = Arc::downgrade(self);
        let redial = move |cut| {
            if let Some(reconnections) = reconnections.upgrade() {
                reconnections.ask(peer, cut);
            }
        };
        Resumption { redial: Box::new(redial), mailbox }
    }

    /// Only these are members any more.
    pub(super) fn retain(&self, is_member: impl Fn(PeerId) -> bool) {
        lock(&self.links).retain(|&peer, _| is_member(peer));
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

    /// Goes back to a coordinator that was found at this address.
    pub(crate) fn take_up_session(
        &self,
        address: SocketAddr,
        id: SessionId,
        mut connection: u32,
        received: u64,
        deadline: Instant,
        is_over: &dyn Fn() -> bool,
    ) -> Option<Offer> {
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
        handshake::retry(deadline, attempt, is_final).ok()
    }

    fn wake(&self) {
        if let Some(events) = &*lock(&self.events) {
            events.links_have_news();
        }
    }

    fn ask(self: Arc<Self>, peer: PeerId, cut: Cut) {
        let begun = Instant::now();
        let deadline = begun + self.patience;
        let (pause, failure) = (FIRST_PAUSE, cut.failure);
        let task = Task {
            peer,
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
                let links = lock(&self.links);
                for task in std::mem::take(&mut tasks.waiting).into_values() {
                    links
                        .get(&task.peer)
                        .into_iter()
                        .for_each(|linked| give_up(linked, &task.cut, task.failure));
                }
            }
        }
    }

    /// Sees to tasks until there are none; of several workers only one waits for those that are not due.
    fn work(self: Arc<Self>) {
        let mut tasks = lock(&self.tasks);
        loop {
            let now = Instant::now();
            let Some(due) = tasks.first_due().filter(|due| *due <= now || tasks.workers == 1) else {
                tasks.workers -= 1;
                return;
            };
            if due > now {
                let waited = self.more.wait_timeout(tasks, due - now);
                tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
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
        let linked = lock(&self.links).get(&task.peer).cloned();
        let Some(linked) = linked.filter(|linked| !linked.mailbox.is_closed()) else { return false };
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
        let direct = until();
        let left = direct.saturating_duration_since(Instant::now());
        let refusal = match handshake::try_each(&linked.addresses, &self.identity, Errand::RESUME, left) {
            Ok(socket) => return ask_on(socket, request, direct).map(|both| (both, None)),
            Err(error) => match Refusal::of(error) {
                Refusal::Later(error) if says_nothing(&error) => Refusal::Later(error),
                refusal => return Err(refusal),
            },
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
                Err(Refusal::Final(failure)) => return Err(Refusal::Final(failure)),
                Err(Refusal::Later(_)) => {}
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
        let skipped = task.attempts as usize * RELAYS_ASKED % able.len().max(1);
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

fn ask_on(socket: TcpStream, request: &Request, until: Instant) -> Result<(TcpStream, u64), Refusal> {
    let ask = || -> io::Result<[u8; REPLY_BYTES]> {
        let mut limited = Until(&socket, until);
        limited.write_all(&request.encode())?;
        let mut reply = [0; REPLY_BYTES];
        limited.read_exact(&mut reply)?;
        limited.lift()?;
        Ok(reply)
    };
    let received = read_reply(&ask().map_err(Refusal::Later)?)?;
    Ok((socket, received))
}

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

    #[test]
    fn requests_come_back_as_they_are_and_nothing_else_is_one() {
        for what in [What::Offer, What::Nudge, What::Session] {
            let request =
                Request { to: [7; 16], what, stream: 63, connection: 0x0102_0304, received: u64::MAX - 5 };
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            for (at, value) in [(16, 0), (16, 4), (18, 1), (19, 0xff)] {
                let mut bad = bytes;
                bad[at] = value;
                assert_eq!(Request::decode(&bad), None, "byte {at}");
            }
        }
    }

    #[test]
    fn verdicts_say_what_follows() {
        assert_eq!(read_reply(&reply(Verdict::GoOn, 1 << 40)).unwrap(), 1 << 40);
        let failure = |verdict| match read_reply(&reply(verdict, 0)) {
            Err(Refusal::Final(failure)) => Some(failure),
            _ => None,
        };
        assert_eq!(failure(Verdict::HasEnded), Some(LinkFailure::Closed));
        assert_eq!(failure(Verdict::Another), Some(LinkFailure::PeerDied));
        assert!(matches!(read_reply(&reply(Verdict::NotYet, 0)), Err(Refusal::Later(_))));
        assert!(matches!(read_reply(&[9; REPLY_BYTES]), Err(Refusal::Final(LinkFailure::Violation(_)))));
    }
}
