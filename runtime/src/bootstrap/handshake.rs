//! The first bytes of every connection: a preamble of 64 bytes, then both sides prove the token.
//!
//! ```text
//! client  -> magic 6 | version 1 | purpose 1 | flags 1 (TLS: reserved, 0) | stream 1 | streams 1 | 0 × 5
//!            | peer id 16 | nonce 32
//! server  -> nonce 32
//! client  -> HMAC-SHA256(token, "client" | preamble | server nonce) 32
//! server  -> verdict 1 (1: welcome) | HMAC-SHA256(token, "server" | preamble | server nonce) 32
//! ```
//!
//! The client proves itself first: who only connects gets nothing to guess a weak token from. The nonces
//! make a recorded proof worthless. Until TLS is built an attacker on the path can still take a connection
//! over after the proof.

use hmac::{Hmac, Mac};
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use sha2::Sha256;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 6] = b"RONDE\0";
const VERSION: u8 = 3;
/// First byte of the answer to a good proof.
const WELCOME: u8 = 1;
/// Most connections between two members.
pub(crate) const MAX_STREAMS: u8 = 64;
/// How long one side waits for the other's next bytes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Between a member and the coordinator.
    Control = 1,
    /// Between two members.
    Data = 2,
}

/// What a connection is, as its preamble says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub(crate) peer: PeerId,
    pub(crate) purpose: Purpose,
    /// How many connections of this purpose the peer opens.
    pub(crate) streams: u8,
}

/// Who this process is and what it can prove.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) peer: PeerId,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn new(token: &str, peer: PeerId) -> Identity {
        Identity { peer, key: token.as_bytes().to_vec() }
    }

    fn proof(&self, side: &[u8], preamble: &[u8; 64], nonce: &[u8]) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this cannot fail; an empty token is an empty key.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.key).unwrap_or_else(|_| unreachable!());
        mac.update(side);
        mac.update(preamble);
        mac.update(nonce);
        mac
    }
}

/// Random bytes of the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    use rand::TryRngCore;
    rand::rngs::OsRng
        .try_fill_bytes(bytes)
        .map_err(|e| Error::resource(format!("the system gives no random bytes: {e}")))
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned())
}

fn preamble(identity: &Identity, purpose: Purpose, streams: u8) -> io::Result<[u8; 64]> {
    let mut preamble = [0u8; 64];
    preamble[..6].copy_from_slice(MAGIC);
    preamble[6] = VERSION;
    preamble[7] = purpose as u8;
    preamble[10] = streams;
    preamble[16..32].copy_from_slice(&identity.peer.0);
    fill_random(&mut preamble[32..]).map_err(io::Error::other)?;
    Ok(preamble)
}

/// The client's side.
pub(crate) fn introduce<S: Read + Write>(
    stream: &mut S,
    identity: &Identity,
    purpose: Purpose,
    streams: u8,
) -> io::Result<()> {
    let preamble = preamble(identity, purpose, streams)?;
    stream.write_all(&preamble)?;
    let mut nonce = [0u8; 32];
    stream.read_exact(&mut nonce)?;
    let own = identity.proof(b"client", &preamble, &nonce).finalize().into_bytes();
    stream.write_all(&own)?;
    let mut answer = [0u8; 33];
    stream.read_exact(&mut answer)?;
    if answer[0] != WELCOME {
        return Err(refused("the other side does not accept this token (RONDE_TOKEN)"));
    }
    let proof = identity.proof(b"server", &preamble, &nonce);
    proof
        .verify_slice(&answer[1..])
        .map_err(|_| refused("the other side does not know this token (RONDE_TOKEN)"))
}

/// The server's side: who it is and what for.
pub(crate) fn receive<S: Read + Write>(stream: &mut S, identity: &Identity) -> io::Result<Introduction> {
    let mut preamble = [0u8; 64];
    stream.read_exact(&mut preamble)?;
    let introduction = read_preamble(&preamble)?;
    let mut nonce = [0u8; 32];
    fill_random(&mut nonce).map_err(io::Error::other)?;
    stream.write_all(&nonce)?;
    let mut proof = [0u8; 32];
    stream.read_exact(&mut proof)?;
    let mut answer = [0u8; 33];
    if identity.proof(b"client", &preamble, &nonce).verify_slice(&proof).is_err() {
        stream.write_all(&answer)?;
        return Err(refused("a peer with a wrong token"));
    }
    answer[0] = WELCOME;
    answer[1..].copy_from_slice(&identity.proof(b"server", &preamble, &nonce).finalize().into_bytes());
    stream.write_all(&answer)?;
    Ok(introduction)
}

fn read_preamble(preamble: &[u8; 64]) -> io::Result<Introduction> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if &preamble[..6] != MAGIC {
        return Err(bad("not a Ronde connection"));
    }
    if preamble[6] != VERSION || preamble[8] != 0 || preamble[11..16] != [0u8; 5] {
        return Err(bad("another version of Ronde, or flags that this one does not know"));
    }
    let purpose = match preamble[7] {
        1 => Purpose::Control,
        2 => Purpose::Data,
        _ => return Err(bad("unknown purpose")),
    };
    let streams = preamble[10];
    if !(1..=MAX_STREAMS).contains(&streams) {
        return Err(bad("an impossible number of streams"));
    }
    let mut peer = PeerId::default();
    peer.0.copy_from_slice(&preamble[16..32]);
    Ok(Introduction { peer, purpose, streams })
}

/// Connects to the first of these addresses that answers, each tried once. Says that the connection was refused only
/// if all of them refuse it, so that no process listens there.
pub(crate) fn try_each(
    addresses: &[SocketAddr],
    identity: &Identity,
    purpose: Purpose,
    streams: u8,
    left: Duration,
) -> io::Result<TcpStream> {
    let mut failure: Option<io::Error> = None;
    // A dead address must not use up the time of those after it.
    let share = (left / addresses.len().max(1) as u32).min(PATIENCE);
    for address in addresses {
        match connect_once(address, identity, purpose, streams, share) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_hopeless(&error) => return Err(error),
            Err(error) if failure.is_some() && error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => failure = Some(io::Error::new(error.kind(), format!("{address}: {error}"))),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "it has no address")))
}

fn connect_once(
    address: &SocketAddr,
    identity: &Identity,
    purpose: Purpose,
    streams: u8,
    patience: Duration,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    introduce(&mut stream, identity, purpose, streams)?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// The answer will not change: no use in asking again.
pub(crate) fn is_hopeless(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData)
}

/// Tries with growing pauses until it works, the deadline passes, or the answer is a clear no.
pub(crate) fn retry<T, E>(
    deadline: Instant,
    mut attempt: impl FnMut(Duration) -> Result<T, E>,
    is_hopeless: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut pause = Duration::from_millis(1);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let error = match attempt(left) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if is_hopeless(&error) || Instant::now() + pause >= deadline {
            return Err(error);
        }
        // Nothing can be waited for but time: the other side is not there yet.
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn meet(client: &str, server: &str) -> (io::Result<()>, io::Result<Introduction>) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let server = Identity::new(server, PeerId([2; 16]));
        let receiving = std::thread::spawn(move || receive(&mut b, &server));
        let client = Identity::new(client, PeerId([1; 16]));
        let introduced = introduce(&mut a, &client, Purpose::Data, 3);
        drop(a);
        (introduced, receiving.join().unwrap())
    }

    #[test]
    fn equal_tokens_meet() {
        let (introduced, received) = meet("secret", "secret");
        introduced.unwrap();
        let expected = Introduction { peer: PeerId([1; 16]), purpose: Purpose::Data, streams: 3 };
        assert_eq!(received.unwrap(), expected);
    }

    #[test]
    fn different_tokens_do_not() {
        let (introduced, received) = meet("secret", "guess");
        assert_eq!(introduced.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(received.is_err());
    }

    /// One address of a process that lives may be refused: the process has not ended for that.
    #[test]
    fn only_all_addresses_together_refuse() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let lives = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = lives.local_addr().unwrap();
        let me = Identity::new("", PeerId([1; 16]));
        let kind = |addresses: &[SocketAddr]| {
            let patience = Duration::from_millis(200);
            try_each(addresses, &me, Purpose::Control, 1, patience).unwrap_err().kind()
        };
        assert_eq!(kind(&[gone, gone]), io::ErrorKind::ConnectionRefused);
        for addresses in [[gone, mute], [mute, gone]] {
            assert_ne!(kind(&addresses), io::ErrorKind::ConnectionRefused, "{addresses:?}");
        }
    }

    /// A server that echoes what it hears cannot pass for one that knows the token.
    #[test]
    fn a_reflected_proof_is_refused() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let mirror = std::thread::spawn(move || {
            b.read_exact(&mut [0u8; 64]).unwrap();
            b.write_all(&[7u8; 32]).unwrap();
            let mut answer = [WELCOME; 33];
            b.read_exact(&mut answer[1..]).unwrap();
            b.write_all(&answer).unwrap();
        });
        let error = introduce(&mut a, &Identity::new("t", PeerId([1; 16])), Purpose::Control, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        mirror.join().unwrap();
    }

    #[test]
    fn garbage_is_refused() {
        let identity = Identity::new("", PeerId([0; 16]));
        let good = preamble(&identity, Purpose::Data, 1).unwrap();
        for (at, value) in [(0, 0x47), (6, 9), (7, 3), (8, 1), (10, 0), (10, 65), (15, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(read_preamble(&bad).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        assert!(read_preamble(&good).is_ok());
    }
}
