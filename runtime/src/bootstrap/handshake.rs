//! The first bytes of every connection: a preamble of 64 bytes, then both sides prove the token.
//!
//! ```text
//! client  -> magic 6 | version 1 | purpose 1 | flags 1 (TLS: reserved, 0) | 0 × 7 | peer id 16 | nonce 32
//! server  -> nonce 32 | HMAC-SHA256(token, "server" | preamble | server nonce) 32
//! client  -> HMAC-SHA256(token, "client" | preamble | server nonce) 32
//! server  -> "ok" 2
//! ```
//!
//! The nonces make a recorded proof worthless; who does not know the token learns nothing from it.
//! Until TLS is built an attacker on the path can still take a connection over after the proof.

use hmac::{Hmac, Mac};
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use sha2::Sha256;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 6] = b"RONDE\0";
const VERSION: u8 = 1;
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

/// The client's side.
pub(crate) fn introduce<S: Read + Write>(
    stream: &mut S,
    identity: &Identity,
    purpose: Purpose,
) -> io::Result<()> {
    let mut preamble = [0u8; 64];
    preamble[..6].copy_from_slice(MAGIC);
    preamble[6] = VERSION;
    preamble[7] = purpose as u8;
    preamble[16..32].copy_from_slice(&identity.peer.0);
    fill_random(&mut preamble[32..]).map_err(io::Error::other)?;
    stream.write_all(&preamble)?;
    let mut answer = [0u8; 64];
    stream.read_exact(&mut answer)?;
    let (nonce, proof) = answer.split_at(32);
    identity
        .proof(b"server", &preamble, nonce)
        .verify_slice(proof)
        .map_err(|_| refused("the other side does not know this token (RONDE_TOKEN)"))?;
    let own = identity.proof(b"client", &preamble, nonce).finalize().into_bytes();
    stream.write_all(&own)?;
    let mut ok = [0u8; 2];
    stream.read_exact(&mut ok)?;
    if &ok == b"ok" { Ok(()) } else { Err(refused("the other side refused the connection")) }
}

/// The server's side: who it is and what for.
pub(crate) fn receive<S: Read + Write>(stream: &mut S, identity: &Identity) -> io::Result<(PeerId, Purpose)> {
    let mut preamble = [0u8; 64];
    stream.read_exact(&mut preamble)?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if &preamble[..6] != MAGIC {
        return Err(bad("not a Ronde connection"));
    }
    if preamble[6] != VERSION || preamble[8..16] != [0u8; 8] {
        return Err(bad("another version of Ronde, or flags that this one does not know"));
    }
    let purpose = match preamble[7] {
        1 => Purpose::Control,
        2 => Purpose::Data,
        _ => return Err(bad("unknown purpose")),
    };
    let mut answer = [0u8; 64];
    fill_random(&mut answer[..32]).map_err(io::Error::other)?;
    let nonce: [u8; 32] = answer[..32].try_into().unwrap_or([0; 32]);
    let own = identity.proof(b"server", &preamble, &nonce).finalize().into_bytes();
    answer[32..].copy_from_slice(&own);
    stream.write_all(&answer)?;
    let mut proof = [0u8; 32];
    stream.read_exact(&mut proof)?;
    identity
        .proof(b"client", &preamble, &nonce)
        .verify_slice(&proof)
        .map_err(|_| refused("a peer with a wrong token"))?;
    stream.write_all(b"ok")?;
    let mut peer = [0u8; 16];
    peer.copy_from_slice(&preamble[16..32]);
    Ok((PeerId(peer), purpose))
}

/// Connects to an address, again and again until the deadline, and introduces this process.
pub(crate) fn connect(
    address: SocketAddr,
    identity: &Identity,
    purpose: Purpose,
    deadline: Instant,
) -> io::Result<TcpStream> {
    retry(deadline, |left| {
        let mut stream = TcpStream::connect_timeout(&address, left.min(PATIENCE))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(left.min(PATIENCE)))?;
        introduce(&mut stream, identity, purpose)?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    })
}

/// Tries with growing pauses until it works, the deadline passes, or the answer is a clear no.
pub(crate) fn retry<T>(
    deadline: Instant,
    mut attempt: impl FnMut(Duration) -> io::Result<T>,
) -> io::Result<T> {
    let mut pause = Duration::from_millis(1);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let error = match attempt(left) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let hopeless = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData);
        if hopeless || Instant::now() + pause >= deadline {
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

    fn meet(client: &str, server: &str) -> (io::Result<()>, io::Result<(PeerId, Purpose)>) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let server = Identity::new(server, PeerId([2; 16]));
        let receiving = std::thread::spawn(move || receive(&mut b, &server));
        let client = Identity::new(client, PeerId([1; 16]));
        let introduced = introduce(&mut a, &client, Purpose::Data);
        drop(a);
        (introduced, receiving.join().unwrap())
    }

    #[test]
    fn equal_tokens_meet() {
        let (introduced, received) = meet("secret", "secret");
        introduced.unwrap();
        assert_eq!(received.unwrap(), (PeerId([1; 16]), Purpose::Data));
    }

    #[test]
    fn different_tokens_do_not() {
        let (introduced, received) = meet("secret", "guess");
        assert_eq!(introduced.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(received.is_err());
    }

    #[test]
    fn garbage_is_refused() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(&[0x47; 64]).unwrap();
        let error = receive(&mut b, &Identity::new("", PeerId([0; 16]))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
