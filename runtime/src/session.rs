//! The connection between a member and its coordinator, and the others that take its place when it is cut.
//!
//! A [`Talk`] is one connection on which each side counts what it says and hears. Once it is known what for, it becomes a
//! [`Session`]: whoever reads it or writes to it does not notice that its connection was cut, as long as both processes live and
//! can reach each other. The member connects again ([`Reconnections`]); the coordinator waits for that, unless nobody listens at the
//! member's addresses any more, which proves that its process has ended.

use crate::bootstrap::{Reconnections, SessionId};
use crate::control::read_message;
use crate::coordinator::Addresses;
use crate::engine::lock;
use crate::until::Until;
use ronde_core::membership::encode;
use ronde_core::transport::LinkFailure;
use ronde_tcp::Replay;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that may have ended has to answer. It is asked for again after pauses that double, the first and the last of which
/// are these: one that is just ending may take connections for a moment.
const PROBE_PATIENCE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_micros(250);
const LAST_PAUSE: Duration = Duration::from_millis(64);
/// Who hears nothing for so many times as long as a connection may be gone has another connection by now, or has given up.
const PATIENCES: u32 = 4;
/// Bytes that were said and that the other side may not have heard, at most: heartbeats, and the longest message twice.
const KEPT: usize = 64 << 10;

/// A control connection of which not everything is known yet.
pub(crate) struct Talk {
    pub(crate) stream: TcpStream,
    /// Of the other side: a socket that is cut does not tell it any more.
    address: Option<SocketAddr>,
    /// If it may be taken up again.
    id: Option<SessionId>,
    written: u64,
    received: u64,
}

impl Talk {
    pub(crate) fn new(stream: TcpStream, id: Option<SessionId>) -> Talk {
        let address = stream.peer_addr().ok();
        Talk { stream, address, id, written: 0, received: 0 }
    }

    pub(crate) fn say<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let bytes = encode(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        (&self.stream).write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The next message, if all of it comes in time.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self, deadline: Instant) -> io::Result<T> {
        let mut limited = Until(&self.stream, deadline);
        read_message(Counting(&mut limited, &mut self.received))
    }
}

/// Counts what is read.
struct Counting<'a, R>(&'a mut R, &'a mut u64);

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        *self.1 += count as u64;
        Ok(count)
    }
}

/// How a session comes by another connection.
pub(crate) enum Way {
    /// From a member to its coordinator: it connects to where that was found, for so long at most.
    Connects(Arc<Reconnections>, Duration),
    /// From a coordinator to a member, whose process listens at the first addresses; of these the second are this process's own
    /// by now. It waits for so long at most.
    Waits(Vec<SocketAddr>, Addresses, Duration),
}

impl Way {
    fn patience(&self) -> Duration {
        let (Way::Connects(_, patience) | Way::Waits(.., patience)) = self;
        *patience
    }
}

/// A connection that takes the place of another.
pub(crate) struct Offer {
    pub(crate) socket: TcpStream,
    pub(crate) connection: u32,
    /// Bytes that the other side has received.
    pub(crate) received: u64,
}

/// What is being written, and what of it the other side may lack.
struct Writing {
    replay: Replay,
    /// How many bytes of it are kept.
    most: usize,
    /// How much was written then.
    mark: (Instant, u64),
    write_timeout: Option<Duration>,
}

impl Writing {
    fn keep(&mut self, bytes: &[u8], patience: Duration) {
        let Writing { replay, most, mark: (when, written), .. } = self;
        // A view of thousands must not be kept for each of them.
        if when.elapsed() >= patience * PATIENCES {
            replay.confirm(*written);
            replay.shrink();
            (*when, *written) = (Instant::now(), replay.written());
            *most = KEPT;
        }
        *most = (*most).max(KEPT + 2 * bytes.len());
        replay.push(&[IoSlice::new(bytes)], bytes.len(), *most);
    }
}

struct Line {
    socket: Arc<TcpStream>,
    connection: u32,
    offer: Option<Offer>,
    read_timeout: Option<Duration>,
}

/// A byte stream between a member and its coordinator. One thread reads it, any may write.
pub(crate) struct Session {
    id: Option<SessionId>,
    /// Of the other side.
    address: Option<SocketAddr>,
    way: Way,
    line: Mutex<Line>,
    /// An offer has come, or the end.
    changed: Condvar,
    writing: Mutex<Writing>,
    received: AtomicU64,
    /// Another connection was made since something was heard, because nothing was.
    was_silent: AtomicBool,
    was_ended: AtomicBool,
    /// No other connection is wanted.
    is_over: AtomicBool,
}

impl Session {
    pub(crate) fn new(talk: Talk, way: Way) -> Session {
        let Talk { stream, address, id, written, received } = talk;
        let line = Line { socket: Arc::new(stream), connection: 0, offer: None, read_timeout: None };
        Session {
            id,
            address,
            way,
            line: Mutex::new(line),
            changed: Condvar::new(),
            writing: Mutex::new(Writing {
                replay: Replay::starting_at(written),
                most: KEPT,
                mark: (Instant::now(), written),
                write_timeout: None,
            }),
            received: AtomicU64::new(received),
            was_silent: AtomicBool::new(false),
            was_ended: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// By which the other side asks for it, if it can be taken up.
    pub(crate) fn id(&self) -> Option<SessionId> {
        self.id
    }

    pub(crate) fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        lock(&self.writing).write_timeout = write;
        let mut line = lock(&self.line);
        line.read_timeout = read;
        line.socket.set_read_timeout(read)?;
        line.socket.set_write_timeout(write)
    }

    /// Writes all of it, now or, if the connection is cut, to the next one.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writing = lock(&self.writing);
        let socket = self.socket();
        if self.id.is_some() {
            writing.keep(bytes, self.way.patience());
        }
        let written = (&*socket).write_all(bytes);
        if written.is_err() && self.id.is_some() && !self.is_over() {
            // Whoever reads sees the end, and sees to another.
            let _ = socket.shutdown(Shutdown::Both);
            return Ok(());
        }
        written
    }

    pub(crate) fn say<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let bytes = encode(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        self.write(&bytes)
    }

    /// From now on the end of its connection is its end.
    pub(crate) fn finish(&self) {
        self.is_over.store(true, Ordering::Release);
        drop(lock(&self.line));
        self.changed.notify_all();
    }

    /// Ends it.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        self.finish();
        // Fails if the other side was quicker, which is as good.
        let _ = self.socket().shutdown(how);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Of a coordinator's: another connection was made for it. Gives it back if it is of no use.
    pub(crate) fn offer(&self, offer: Offer) -> Result<(), TcpStream> {
        let mut line = lock(&self.line);
        let newest = line.offer.as_ref().map_or(line.connection, |earlier| earlier.connection);
        if self.is_over() || offer.connection <= newest {
            return Err(offer.socket);
        }
        line.offer = Some(offer);
        // Whoever reads it goes on with what has come, and then with the new one.
        let _ = line.socket.shutdown(Shutdown::Both);
        drop(line);
        self.changed.notify_all();
        Ok(())
    }

    fn socket(&self) -> Arc<TcpStream> {
        lock(&self.line).socket.clone()
    }

    /// After its connection has ended for this reason: false if that is the end.
    fn mend(&self, why: &io::Error) -> bool {
        let Some(id) = self.id.filter(|_| !self.is_over()) else { return false };
        let since = Instant::now();
        if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            // One that only says nothing may still hear something. If it says nothing on another connection either, it is silent.
            if self.was_silent.swap(true, Ordering::AcqRel) {
                return false;
            }
            // A coordinator that has just been slow must not meet all its members at once.
            std::thread::park_timeout(self.way.patience() / 4 * u32::from(id.0[0]) / 256);
        } else {
            let _ = self.socket().shutdown(Shutdown::Both);
        }
        let mended = match &self.way {
            Way::Connects(reconnections, patience) => self.connect(reconnections, id, since + *patience),
            Way::Waits(addresses, taken_over, patience) => {
                self.wait(addresses, taken_over, since + *patience)
            }
        };
        if mended {
            let took = since.elapsed();
            tracing::warn!("a control connection was cut ({why}) and taken up again after {took:.0?}");
        }
        mended
    }

    fn connect(&self, reconnections: &Reconnections, id: SessionId, deadline: Instant) -> bool {
        let Some(address) = self.address else { return false };
        let connection = lock(&self.line).connection;
        let received = self.received.load(Ordering::Acquire);
        let is_over = || self.is_over();
        match reconnections.take_up_session(address, id, connection, received, deadline, &is_over) {
            Ok(offer) => self.take_up(offer),
            Err(failure) => {
                self.was_ended.store(failure == LinkFailure::Closed, Ordering::Release);
                false
            }
        }
    }

    /// The other side lives, and has ended it.
    pub(crate) fn was_ended(&self) -> bool {
        self.was_ended.load(Ordering::Acquire)
    }

    /// Waits for the other side, while its process may live.
    fn wait(&self, addresses: &[SocketAddr], taken_over: &Addresses, deadline: Instant) -> bool {
        let mut left = addresses.to_vec();
        let mut pause = FIRST_PAUSE;
        loop {
            if self.is_over() {
                return false;
            }
            let offer = lock(&self.line).offer.take();
            if let Some(offer) = offer {
                let received = self.received.load(Ordering::Acquire);
                if !self.has_since(offer.received) {
                    // Too much was said meanwhile.
                    Reconnections::has_ended(offer.socket);
                    return false;
                }
                if Reconnections::go_on(&offer.socket, received).is_ok() && self.take_up(offer) {
                    return true;
                }
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            left.retain(|address| !lock(taken_over).contains(address));
            let Some(address) = left.first() else { return false };
            match TcpStream::connect_timeout(address, PROBE_PATIENCE) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    left.remove(0);
                    continue;
                }
                // It lives, or nothing is known of it.
                _ => {}
            }
            let line = lock(&self.line);
            if line.offer.is_none() && !self.is_over() {
                let waited = self.changed.wait_timeout(line, pause.min(deadline - now));
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn has_since(&self, received: u64) -> bool {
        lock(&self.writing).replay.since(received).is_some()
    }

    /// Goes on with another connection: says again what the other side lacks.
    fn take_up(&self, offer: Offer) -> bool {
        let writing = lock(&self.writing);
        let Some(lacks) = writing.replay.since(offer.received) else { return false };
        let mut line = lock(&self.line);
        let prepared = offer
            .socket
            .set_read_timeout(line.read_timeout)
            .and_then(|()| offer.socket.set_write_timeout(writing.write_timeout))
            .and_then(|()| lacks.iter().try_for_each(|part| (&offer.socket).write_all(part)));
        (line.socket, line.connection) = (Arc::new(offer.socket), offer.connection);
        if prepared.is_err() {
            // It is cut again, as the next read finds.
            let _ = line.socket.shutdown(Shutdown::Both);
        }
        if self.is_over() {
            let _ = line.socket.shutdown(Shutdown::Both);
        }
        true
    }
}

impl Read for &Session {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let error = match (&*self.socket()).read(bytes) {
                Ok(count) if count > 0 || bytes.is_empty() => {
                    self.received.fetch_add(count as u64, Ordering::AcqRel);
                    self.was_silent.store(false, Ordering::Release);
                    return Ok(count);
                }
                Ok(_) => io::ErrorKind::UnexpectedEof.into(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if !self.mend(&error) {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LONG: Duration = Duration::from_secs(60);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A coordinator's session with a member that listens there, and the member's end.
    fn session(listens: SocketAddr, patience: Duration) -> (Arc<Session>, TcpStream) {
        let (near, far) = pair();
        let way = Way::Waits(vec![listens], Addresses::default(), patience);
        let session = Session::new(Talk::new(near, Some(SessionId::default())), way);
        (Arc::new(session), far)
    }

    fn read(session: &Arc<Session>, count: usize) -> std::thread::JoinHandle<io::Result<Vec<u8>>> {
        let session = session.clone();
        std::thread::spawn(move || {
            let mut bytes = vec![0; count];
            (&*session).read_exact(&mut bytes).map(|()| bytes)
        })
    }

    #[test]
    fn both_directions_go_on_where_they_were() {
        let lives = TcpListener::bind("127.0.0.1:0").unwrap();
        let (session, mut far) = session(lives.local_addr().unwrap(), LONG);
        session.write(b"one two").unwrap();
        far.write_all(b"three f").unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).unwrap();
        let reading = read(&session, 18);
        drop(far);
        // The member has read four bytes, and writes again what was not read of its own.
        let (near, mut far) = pair();
        let offer = Offer { socket: near, connection: 1, received: 4 };
        session.offer(offer).map_err(drop).unwrap();
        let mut answer = [0; 16];
        far.read_exact(&mut answer).unwrap();
        let received = u64::from_le_bytes(*answer.last_chunk().unwrap()) as usize;
        assert!(answer[0] == 1 && received <= 7, "{answer:?}");
        far.write_all(&b"three four is more"[received..]).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), b"three four is more");
        session.write(b", six").unwrap();
        let mut heard = [0; 8];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"two, six");
        // One of an earlier number, and any once it is over, is of no use.
        assert!(session.offer(Offer { socket: pair().0, connection: 1, received: 4 }).is_err());
        session.finish();
        assert!(session.offer(Offer { socket: pair().0, connection: 2, received: 4 }).is_err());
    }

    #[test]
    fn who_has_ended_is_not_waited_for() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (session, far) = session(gone, LONG);
        let since = Instant::now();
        drop(far);
        assert!(read(&session, 1).join().unwrap().is_err());
        assert!(since.elapsed() < LONG / 2);
    }

    #[test]
    fn who_lives_and_does_not_come_back_is_given_up() {
        let lives = TcpListener::bind("127.0.0.1:0").unwrap();
        let patience = Duration::from_millis(300);
        let (session, far) = session(lives.local_addr().unwrap(), patience);
        let since = Instant::now();
        drop(far);
        assert!(read(&session, 1).join().unwrap().is_err());
        assert!(since.elapsed() >= patience && since.elapsed() < LONG / 2, "{:?}", since.elapsed());
    }

    #[test]
    fn a_session_that_is_over_ends_with_its_connection() {
        let lives = TcpListener::bind("127.0.0.1:0").unwrap();
        let (session, far) = session(lives.local_addr().unwrap(), LONG);
        let since = Instant::now();
        let reading = read(&session, 1);
        drop(far);
        session.shutdown(Shutdown::Write);
        assert!(reading.join().unwrap().is_err());
        assert!(since.elapsed() < LONG / 2);
    }

    /// Of what was said long ago nothing is kept.
    #[test]
    fn long_messages_are_not_kept_for_ever() {
        let start = Instant::now();
        let mut writing =
            Writing { replay: Replay::starting_at(0), most: KEPT, mark: (start, 0), write_timeout: None };
        writing.keep(&[1; 1 << 20], LONG);
        writing.keep(&[2; 100], LONG);
        let lacks = |writing: &Writing| writing.replay.since(0).map(|parts| parts.concat().len());
        assert_eq!(lacks(&writing), Some((1 << 20) + 100));
        for _ in 0..2 {
            writing.keep(&[3; 50], Duration::ZERO);
        }
        assert_eq!((lacks(&writing), writing.most), (None, KEPT + 100));
        assert_eq!(writing.replay.since(writing.replay.written() - 50).unwrap().concat(), [3; 50]);
    }
}
