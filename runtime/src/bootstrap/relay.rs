//! A way through a third member, for two that cannot reach each other any more.
//!
//! Whoever wants to reach a member asks another that has a link to it. That one connects, and from then on passes bytes on, in both
//! directions; the two at the ends prove themselves to each other as on any connection. After the handshake:
//!
//! ```text
//! client  -> to peer id 16
//! server  -> verdict 1 (1: connected, 2: that process has ended, 3: out of reach of this one too) | 0 × 7
//! ```
//!
//! What is passed on is acknowledged to the kernels of the two by that of the third; streams that are taken up do not rely on
//! that (`ronde_tcp`), so if it dies nothing is lost but the way.

use super::handshake::{self, Errand, Identity};
use crate::engine::lock;
use crate::until::Until;
use ronde_core::PeerId;
use rustix::net::sockopt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Connections that one process passes on at a time, each with two threads.
const MOST_RELAYED: usize = 128;
/// How long the member at the far end may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// After so long without an answer from a machine at one end the connection is cut for both. So is one of a process that does
/// not read for so long, which is no loss: it is made again.
const SILENCE: Duration = Duration::from_secs(3);
const BUFFER_BYTES: usize = 64 << 10;

const CONNECTED: u8 = 1;
const ENDED: u8 = 2;
const OUT_OF_REACH: u8 = 3;
const REPLY_BYTES: usize = 8;

/// Both ends of a connection that is passed on.
type Ends = [TcpStream; 2];

/// What a member passes on for others.
#[derive(Default)]
pub(super) struct Relayed(Mutex<State>);

#[derive(Default)]
struct State {
    open: Vec<Weak<Ends>>,
    /// Nothing is passed on any more.
    ended: bool,
}

impl Relayed {
    fn takes_more(&self) -> bool {
        let mut state = lock(&self.0);
        state.open.retain(|ends| ends.strong_count() > 0);
        !state.ended && state.open.len() < MOST_RELAYED
    }

    /// Passes nothing on any more: those at the ends look for another way.
    pub(super) fn end(&self) {
        let mut state = lock(&self.0);
        state.ended = true;
        for ends in state.open.iter().filter_map(Weak::upgrade) {
            // Fails if it has ended already, which is as good.
            ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        }
    }

    /// Passes on what somebody says who has connected for that; `addresses_of` knows where members listen.
    pub(super) fn serve(
        &self,
        stream: TcpStream,
        addresses_of: impl FnOnce(PeerId) -> Option<Vec<SocketAddr>>,
    ) -> io::Result<()> {
        let mut limited = Until(&stream, Instant::now() + PATIENCE);
        let mut to = PeerId::default();
        limited.read_exact(&mut to.0)?;
        let addresses = addresses_of(to).filter(|_| self.takes_more());
        let reached = match addresses.as_deref().map(reach) {
            Some(Ok(reached)) => Ok(reached),
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(ENDED),
            _ => Err(OUT_OF_REACH),
        };
        let mut reply = [0; REPLY_BYTES];
        reply[0] = reached.as_ref().map_or_else(|verdict| *verdict, |_| CONNECTED);
        let mut limited = Until(&stream, Instant::now() + PATIENCE);
        limited.write_all(&reply)?;
        limited.lift()?;
        match reached {
            Ok(far) => self.pass_on([stream, far]),
            Err(_) => Ok(()),
        }
    }

    fn pass_on(&self, ends: Ends) -> io::Result<()> {
        tracing::info!("what two members say to each other goes through this one");
        for end in &ends {
            sockopt::set_tcp_user_timeout(end, SILENCE.as_millis() as u32)?;
            sockopt::set_socket_keepalive(end, true)?;
            sockopt::set_tcp_keepidle(end, SILENCE / 3)?;
            sockopt::set_tcp_keepintvl(end, SILENCE / 3)?;
        }
        let ends = Arc::new(ends);
        let mut state = lock(&self.0);
        if state.ended {
            return Ok(());
        }
        state.open.push(Arc::downgrade(&ends));
        drop(state);
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = ends.clone();
            let copy = move || copy(&ends[from], &ends[to]);
            std::thread::Builder::new().name("ronde-relay".into()).spawn(copy)?;
        }
        Ok(())
    }
}

/// One direction, to its end.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes)
        && to.write_all(&bytes[..count]).is_ok()
    {}
    // What was cut ends for the other side without a farewell, and so is a cut for it too.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// A connection to the first of these addresses that takes one. Refused only if all refuse it.
fn reach(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let share = PATIENCE / addresses.len().max(1) as u32;
    let mut failure = io::Error::from(io::ErrorKind::ConnectionRefused);
    for address in addresses {
        match TcpStream::connect_timeout(address, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What came of asking a third member.
pub(super) enum Reached {
    /// A connection on which the member at the far end has proved itself.
    Connected(TcpStream),
    /// Its process has ended.
    Ended,
}

/// A connection to a member through another that listens at these addresses.
pub(super) fn reach_through(
    relay: &[SocketAddr],
    to: PeerId,
    identity: &Identity,
    patience: Duration,
) -> io::Result<Reached> {
    let deadline = Instant::now() + patience;
    let stream = handshake::try_each(relay, identity, Errand::RELAY, patience)?;
    let mut limited = Until(&stream, deadline);
    limited.write_all(&to.0)?;
    let mut reply = [0; REPLY_BYTES];
    limited.read_exact(&mut reply)?;
    match reply[0] {
        CONNECTED => {}
        ENDED => return Ok(Reached::Ended),
        _ => return Err(io::ErrorKind::HostUnreachable.into()),
    }
    handshake::introduce(&mut limited, identity, Errand::RESUME)?;
    limited.lift()?;
    Ok(Reached::Connected(stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PEER: PeerId = PeerId([3; 16]);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Asks for a way to the member that listens there.
    fn ask(relayed: &Relayed, listens: Option<SocketAddr>) -> (TcpStream, u8) {
        let (mut near, far) = pair();
        near.write_all(&PEER.0).unwrap();
        let known =
            |to| (to == PEER).then(|| listens.into_iter().collect::<Vec<_>>()).filter(|all| !all.is_empty());
        relayed.serve(far, known).unwrap();
        let mut reply = [0; REPLY_BYTES];
        near.read_exact(&mut reply).unwrap();
        (near, reply[0])
    }

    #[test]
    fn what_is_said_is_passed_on_until_both_have_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relayed = Relayed::default();
        let (mut near, verdict) = ask(&relayed, Some(listener.local_addr().unwrap()));
        assert_eq!(verdict, CONNECTED);
        let (mut far, _) = listener.accept().unwrap();
        let long: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        for (mut one, mut other) in [(&near, &far), (&far, &near)] {
            let mut heard = vec![0; long.len()];
            std::thread::scope(|scope| {
                scope.spawn(|| one.write_all(&long).unwrap());
                other.read_exact(&mut heard).unwrap();
            });
            assert!(heard == long);
        }
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        far.write_all(b"the other direction goes on").unwrap();
        let mut heard = [0; 27];
        near.read_exact(&mut heard).unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        while lock(&relayed.0).open.iter().any(|ends| ends.strong_count() > 0) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_has_ended_who_is_unknown_and_too_many_are_told() {
        let relayed = Relayed::default();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(&relayed, Some(gone)).1, ENDED);
        assert_eq!(ask(&relayed, None).1, OUT_OF_REACH);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Some(listener.local_addr().unwrap());
        let open: Vec<_> =
            (0..MOST_RELAYED).map(|_| (ask(&relayed, address), listener.accept().unwrap())).collect();
        assert!(open.iter().all(|((_, verdict), _)| *verdict == CONNECTED));
        assert_eq!(ask(&relayed, address).1, OUT_OF_REACH);
        // Whoever has passed on leaves: both ends see that.
        relayed.end();
        for ((mut near, _), (mut far, _)) in open {
            assert_eq!((near.read(&mut [0]).unwrap(), far.read(&mut [0]).unwrap()), (0, 0));
        }
    }
}
