//! What is asked and answered on a connection that takes the place of another. After the handshake:
//!
//! ```text
//! client  -> to 16 (a peer id or a session) | what 1 (1: offer, 2: nudge, 3: session) | stream 1 | 0 × 2 | connection 4
//!            | bytes received 8
//! server  -> verdict 1 (1: go on, 2: it has ended here, 3: another process, 4: not linked yet) | 0 × 7 | bytes received 8
//! ```
//!
//! Numbers are little endian. A connection that is refused proves that the process has ended, as everywhere else.

use crate::until::Until;
use ronde_core::transport::LinkFailure;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

pub(super) const REQUEST_BYTES: usize = 32;
const REPLY_BYTES: usize = 16;

/// What a connection with [`super::handshake::Errand::RESUME`] is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) to: [u8; 16],
    pub(super) what: What,
    pub(super) stream: u8,
    pub(super) connection: u32,
    pub(super) received: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum What {
    Offer = 1,
    Nudge = 2,
    Session = 3,
}

/// What is said to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Verdict {
    GoOn = 1,
    HasEnded = 2,
    Another = 3,
    NotYet = 4,
}

impl Request {
    pub(super) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..16].copy_from_slice(&self.to);
        bytes[16] = self.what as u8;
        bytes[17] = self.stream;
        bytes[20..24].copy_from_slice(&self.connection.to_le_bytes());
        bytes[24..].copy_from_slice(&self.received.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
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

pub(super) fn reply(verdict: Verdict, received: u64) -> [u8; REPLY_BYTES] {
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
pub(super) enum Refusal {
    /// Another may do better.
    Later(io::Error),
    Final(LinkFailure),
}

impl Refusal {
    /// Of one who tried to connect.
    pub(super) fn of(error: io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Refusal::Final(LinkFailure::PeerDied),
            _ => Refusal::Later(error),
        }
    }
}

pub(super) fn ask_on(
    socket: TcpStream,
    request: &Request,
    until: Instant,
) -> Result<(TcpStream, u64), Refusal> {
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
