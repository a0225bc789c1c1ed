//! Data connections that have come and that nobody has asked for yet.
//!
//! A member may connect before this process knows of it, so connections wait. Those of processes that no view ever
//! names would wait for ever, and take all descriptors in the end: they go when the other side has closed, after a
//! while, and when there are too many.

use super::handshake::Errand;
use crate::engine::lock;
use ronde_core::PeerId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Connections that may wait beyond those of the members there shall be.
const SPARE: usize = 128;
/// How often it is looked which of them still may.
const LOOK: Duration = Duration::from_secs(1);

/// An authenticated data connection.
pub(crate) enum Arrival {
    Tcp(PeerId, TcpStream, Errand),
    Unix(PeerId, UnixStream),
}

impl Arrival {
    fn peer(&self) -> PeerId {
        let (Arrival::Tcp(peer, ..) | Arrival::Unix(peer, _)) = self;
        *peer
    }

    /// The other side says nothing more on it.
    fn has_ended(&self) -> bool {
        let fd = match self {
            Arrival::Tcp(_, stream, _) => stream.as_fd(),
            Arrival::Unix(_, stream) => stream.as_fd(),
        };
        let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|changed| changed > 0)
    }
}

/// Where connections wait.
pub(crate) struct WaitingRoom {
    /// How long.
    keep: Duration,
    /// How many of processes that are in no view.
    most: usize,
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which they came.
    waiting: VecDeque<(Instant, Arrival)>,
    /// The members of the view that was proposed last.
    members: BTreeSet<PeerId>,
    /// A thread looks after them.
    watched: bool,
    warned: bool,
    closed: bool,
}

impl WaitingRoom {
    /// One for a job of so many connections, each of which may wait for so long.
    pub(crate) fn new(expected: usize, keep: Duration) -> (Arc<WaitingRoom>, Inbox) {
        let most = SPARE.saturating_add(expected);
        let room = WaitingRoom { keep, most, state: Mutex::default(), came: Condvar::new() };
        let room = Arc::new(room);
        (room.clone(), Inbox(room))
    }

    /// Lets a connection wait.
    pub(crate) fn enter(self: &Arc<WaitingRoom>, arrival: Arrival) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(io::Error::other("nobody takes connections any more"));
        }
        state.waiting.push_back((Instant::now(), arrival));
        if state.first_of_too_many(self.most).is_some() {
            state.waiting.retain(|(_, arrival)| !arrival.has_ended());
        }
        while let Some(oldest) = state.first_of_too_many(self.most) {
            state.waiting.remove(oldest);
            state.warn();
        }
        if !state.watched {
            let room = Arc::downgrade(self);
            let watch = std::thread::Builder::new().name("ronde-waiting".into()).spawn(move || watch(&room));
            state.watched = watch.is_ok();
        }
        self.came.notify_all();
        Ok(())
    }
}

impl State {
    /// The places of those that are in no view.
    fn strangers(&self) -> impl Iterator<Item = usize> {
        let places = self.waiting.iter().enumerate();
        places.filter(|(_, (_, arrival))| !self.members.contains(&arrival.peer())).map(|(place, _)| place)
    }

    fn first_of_too_many(&self, most: usize) -> Option<usize> {
        self.strangers().nth(most).and_then(|_| self.strangers().next())
    }

    fn warn(&mut self) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "connections are closed that prove the token of the job and that no member of it waits for"
            );
        }
    }
}

/// Ends connections that have waited for too long or in vain, until none is left.
fn watch(room: &Weak<WaitingRoom>) {
    loop {
        std::thread::park_timeout(LOOK);
        let Some(room) = room.upgrade() else { return };
        let mut state = lock(&room.state);
        state.waiting.retain(|(_, arrival)| !arrival.has_ended());
        while state.waiting.front().is_some_and(|(came, _)| came.elapsed() >= room.keep) {
            state.waiting.pop_front();
            state.warn();
        }
        if state.waiting.is_empty() {
            state.watched = false;
            return;
        }
    }
}

/// Takes connections out of where they wait. Without it, none may.
pub(crate) struct Inbox(Arc<WaitingRoom>);

impl Inbox {
    /// Connections of these are wanted, however many there are.
    pub(crate) fn expect(&self, members: impl Iterator<Item = PeerId>) {
        lock(&self.0.state).members = members.collect();
    }

    /// The first connection of a process, if one comes in time.
    pub(crate) fn take(&self, peer: PeerId, patience: Duration) -> Option<Arrival> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.0.state);
        loop {
            if let Some(place) = state.waiting.iter().position(|(_, arrival)| arrival.peer() == peer) {
                return state.waiting.remove(place).map(|(_, arrival)| arrival);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.0.came.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.closed = true;
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(60);

    fn peer(number: usize) -> PeerId {
        PeerId((number as u128).to_le_bytes())
    }

    /// The other side of a connection of a process that waits here.
    fn connect(room: &Arc<WaitingRoom>, number: usize) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        room.enter(Arrival::Unix(peer(number), here)).unwrap();
        there.set_nonblocking(true).unwrap();
        there
    }

    fn is_closed(stream: &mut UnixStream) -> bool {
        matches!(stream.read(&mut [0]), Ok(0))
    }

    fn waiting(room: &WaitingRoom) -> usize {
        lock(&room.state).waiting.len()
    }

    #[test]
    fn the_oldest_strangers_go_first_and_members_never() {
        let (room, inbox) = WaitingRoom::new(2, LONG);
        inbox.expect([peer(0), peer(1)].into_iter());
        let mut there: Vec<_> = (0..SPARE + 302).map(|number| connect(&room, number)).collect();
        assert_eq!(waiting(&room), SPARE + 4);
        for (number, stream) in there.iter_mut().enumerate() {
            assert_eq!(is_closed(stream), (2..300).contains(&number), "{number}");
        }
        assert!(inbox.take(peer(1), Duration::ZERO).is_some());
        assert!(inbox.take(peer(1), Duration::ZERO).is_none());
        drop(inbox);
        assert!(there.iter_mut().all(is_closed));
        assert!(room.enter(Arrival::Unix(peer(0), UnixStream::pair().unwrap().0)).is_err());
    }

    #[test]
    fn who_has_gone_makes_room_first() {
        let (room, inbox) = WaitingRoom::new(0, LONG);
        let mut first = connect(&room, 0);
        for number in 0..400 {
            drop(connect(&room, number));
        }
        assert!(!is_closed(&mut first) && inbox.take(peer(0), Duration::ZERO).is_some());
    }

    /// Nobody takes anything here, as while a job runs.
    #[test]
    fn who_waits_in_vain_goes() {
        let (room, _inbox) = WaitingRoom::new(0, Duration::from_millis(1500));
        drop(connect(&room, 0));
        let mut stays = connect(&room, 1);
        let since = Instant::now();
        let mut went = [None; 2];
        while went[1].is_none() {
            assert!(since.elapsed() < LONG);
            std::thread::park_timeout(Duration::from_millis(10));
            let gone = [waiting(&room) < 2, is_closed(&mut stays)];
            for (went, gone) in went.iter_mut().zip(gone) {
                *went = went.or(gone.then(|| since.elapsed()));
            }
        }
        assert!(went[0] < went[1] && went[1] >= Some(Duration::from_millis(1400)), "{went:?}");
    }
}
