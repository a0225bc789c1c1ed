//! The first bytes of every connection: a preamble of 64 bytes, then both sides prove the token.
//!
//! ```text
//! client  -> magic 6 | version 1 | purpose 1 | flags 1 (1: reserved for TLS, 0; 2: resumes) | stream 1 | streams 1 | 0 × 5
//!            | peer id 16 | nonce 32 (of a control connection that resumes: its name 16 | nonce 16)
//! server  -> nonce 32, its first bit set; to another version: magic 6 | version 1 | 0 × 25, and no more
//! client  -> HMAC-SHA256(token, "client" | preamble | server nonce) 32
//! server  -> verdict 1 (1: welcome) | HMAC-SHA256(token, "server" | preamble | server nonce) 32
//! ```
//!
//! The client proves itself first: who only connects gets nothing to guess a weak token from. The nonces
//! make a recorded proof worthless. Magic and version stay where they are in all versions, so that the two sides can
//! name each other's. Until TLS is built an attacker on the path can still take a connection
//! over after the proof.

use super::reach::local_end;
use crate::config::Reconnect;
use crate::until::Until;
use hmac::{Hmac, Mac};
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use sha2::Sha256;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 6] = b"RONDE\0";
const VERSION: u8 = 5;
/// First byte of the answer to a good proof.
const WELCOME: u8 = 1;
/// The first byte of what a server says to a wrong token.
const REFUSED: u8 = 0;
/// Set in the first byte of every nonce, so that it is neither text nor a version.
const NO_TEXT: u8 = 0x80;
/// A flag: the connection is replaced by another if it is cut.
const RESUMES: u8 = 2;
/// Most connections between two members.
pub(crate) const MAX_STREAMS: u8 = 64;
/// How long a connection may take to prove itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// Between a member and the coordinator.
    Control = 1,
    /// Between two members.
    Data = 2,
    /// In place of one between two members that was cut, see [`super::reconnect`].
    Resume = 3,
    /// To a third member, which passes on to another, see [`super::relay`].
    Relay = 4,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errand {
    pub(crate) purpose: Purpose,
    /// Which of the connections of this purpose it is, and how many the peer opens.
    pub(crate) stream: u8,
    pub(crate) streams: u8,
    /// It is replaced by another if it is cut.
    pub(crate) resumes: bool,
    /// Of a control connection that is: by which it is asked for then. Random, and a part of the nonce.
    pub(crate) session: SessionId,
}

/// Names a control connection and those that take its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct SessionId(pub(crate) [u8; 16]);

impl Errand {
    pub(crate) const CONTROL: Errand = Errand::of(Purpose::Control);
    /// The one connection of a link without streams that are taken up.
    pub(crate) const DATA: Errand = Errand::of(Purpose::Data);
    pub(crate) const RESUME: Errand = Errand::of(Purpose::Resume);
    pub(crate) const RELAY: Errand = Errand::of(Purpose::Relay);

    const fn of(purpose: Purpose) -> Errand {
        Errand { purpose, stream: 0, streams: 1, resumes: false, session: SessionId([0; 16]) }
    }

    /// To a coordinator at one of these addresses, for a member that stays.
    pub(crate) fn stay(policy: Reconnect, addresses: &[SocketAddr]) -> Result<Errand> {
        let resumes = match policy {
            Reconnect::Always => true,
            Reconnect::Remote => !addresses.iter().all(|address| is_here(*address)),
            Reconnect::Never => false,
        };
        let mut session = SessionId::default();
        fill_random(&mut session.0)?;
        Ok(Errand { resumes, session, ..Errand::CONTROL })
    }

    /// By which a control connection is asked for again, if it is.
    pub(crate) fn session(&self) -> Option<SessionId> {
        (self.resumes && self.purpose == Purpose::Control).then_some(self.session)
    }
}

/// Whether this is an address of this machine: nothing in between cuts connections to it.
fn is_here(address: SocketAddr) -> bool {
    address.ip().is_loopback() || local_end(address).is_ok_and(|ip| ip == address.ip())
}

/// What a connection is, as its preamble says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub(crate) peer: PeerId,
    pub(crate) errand: Errand,
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

/// What the other side is, if it is not of this version: by the first bytes of all that it says.
fn foreign(start: &[u8]) -> Option<io::Error> {
    match start.strip_prefix(MAGIC) {
        Some([VERSION, ..]) => None,
        Some([other, ..]) => Some(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "it speaks version {other} of Ronde's connections, this process version {VERSION}: use one version of \
                 Ronde"
            ),
        )),
        _ => Some(no_ronde(start)),
    }
}

fn no_ronde(said: &[u8]) -> io::Error {
    let line = said.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let text = format!("it is not Ronde: what it says begins with \"{}\"", line.escape_ascii());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

pub(super) fn preamble(identity: &Identity, errand: Errand) -> io::Result<[u8; 64]> {
    let mut preamble = [0u8; 64];
    preamble[..6].copy_from_slice(MAGIC);
    preamble[6] = VERSION;
    preamble[7] = errand.purpose as u8;
    preamble[8] = if errand.resumes { RESUMES } else { 0 };
    (preamble[9], preamble[10]) = (errand.stream, errand.streams);
    preamble[16..32].copy_from_slice(&identity.peer.0);
    fill_random(&mut preamble[32..]).map_err(io::Error::other)?;
    if let Some(session) = errand.session() {
        preamble[32..48].copy_from_slice(&session.0);
    }
    Ok(preamble)
}

/// The client's side.
pub(crate) fn introduce<S: Read + Write>(
    stream: &mut S,
    identity: &Identity,
    errand: Errand,
) -> io::Result<()> {
    let preamble = preamble(identity, errand)?;
    stream.write_all(&preamble)?;
    let nonce = read_nonce(stream)?;
    let own = identity.proof(b"client", &preamble, &nonce).finalize().into_bytes();
    stream.write_all(&own)?;
    let mut answer = [0u8; 33];
    stream.read_exact(&mut answer)?;
    match answer[0] {
        WELCOME => {}
        REFUSED => return Err(refused("the other side does not accept this token (RONDE_TOKEN)")),
        _ => return Err(no_ronde(&nonce)),
    }
    let proof = identity.proof(b"server", &preamble, &nonce);
    proof
        .verify_slice(&answer[1..])
        .map_err(|_| refused("the other side does not know this token (RONDE_TOKEN)"))
}

/// The server's nonce, unless what it says shows that it is not a server of this version.
fn read_nonce<S: Read>(stream: &mut S) -> io::Result<[u8; 32]> {
    let mut answer = [0u8; 32];
    let mut came = 0;
    let ended = loop {
        match stream.read(&mut answer[came..]) {
            Ok(0) if came < answer.len() => break Some(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => came += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
        if came == answer.len() {
            break None;
        }
    };
    let said = &answer[..came];
    let is_text = said.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    match ended {
        Some(error) if said.is_empty() => Err(without_a_word(&error)),
        _ if said.starts_with(MAGIC) && came > MAGIC.len() => {
            Err(foreign(said).unwrap_or_else(|| no_ronde(said)))
        }
        // No Ronde says a part of its nonce, or one that begins otherwise.
        _ if is_text || ended.is_some() || answer[0] & NO_TEXT == 0 => Err(no_ronde(said)),
        _ => Ok(answer),
    }
}

fn without_a_word(error: &io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "it accepts the connection and says nothing: it is stopped or overloaded, or not Ronde"
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "it closes the connection without a word: it is just ending, or an old version of Ronde, or not Ronde"
        }
        _ => return io::Error::new(error.kind(), error.to_string()),
    };
    io::Error::new(error.kind(), text)
}

/// The server's side: who it is and what for.
pub(crate) fn receive<S: Read + Write>(stream: &mut S, identity: &Identity) -> io::Result<Introduction> {
    let mut preamble = [0u8; 64];
    let (start, rest) = preamble.split_at_mut(MAGIC.len() + 1);
    stream.read_exact(start)?;
    if let Some(error) = foreign(start) {
        if error.kind() == io::ErrorKind::Unsupported {
            let mut own = [0u8; 32];
            own[..MAGIC.len()].copy_from_slice(MAGIC);
            own[MAGIC.len()] = VERSION;
            stream.write_all(&own)?;
        }
        return Err(error);
    }
    stream.read_exact(rest)?;
    let introduction = read_preamble(&preamble)?;
    let mut nonce = [0u8; 32];
    fill_random(&mut nonce).map_err(io::Error::other)?;
    nonce[0] |= NO_TEXT;
    stream.write_all(&nonce)?;
    let mut proof = [0u8; 32];
    stream.read_exact(&mut proof)?;
    let mut answer = [REFUSED; 33];
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
    if preamble[8] & !RESUMES != 0 || preamble[11..16] != [0u8; 5] {
        return Err(bad("flags that this version of Ronde does not know"));
    }
    let purpose = match preamble[7] {
        1 => Purpose::Control,
        2 => Purpose::Data,
        3 => Purpose::Resume,
        4 => Purpose::Relay,
        _ => return Err(bad("unknown purpose")),
    };
    let (stream, streams) = (preamble[9], preamble[10]);
    if !(1..=MAX_STREAMS).contains(&streams) || stream >= streams {
        return Err(bad("an impossible number of streams"));
    }
    let resumes = preamble[8] & RESUMES != 0;
    let (mut peer, mut session) = (PeerId::default(), SessionId::default());
    peer.0.copy_from_slice(&preamble[16..32]);
    if purpose == Purpose::Control && resumes {
        session.0.copy_from_slice(&preamble[32..48]);
    }
    Ok(Introduction { peer, errand: Errand { purpose, stream, streams, resumes, session } })
}

/// Connects to the first of these addresses that answers, each tried once. Says that the connection was refused only
/// if all of them refuse it, so that no process listens there.
pub(crate) fn try_each(
    addresses: &[SocketAddr],
    identity: &Identity,
    errand: Errand,
    left: Duration,
) -> io::Result<TcpStream> {
    let mut failure: Option<io::Error> = None;
    // A dead address must not use up the time of those after it.
    let share = (left / addresses.len().max(1) as u32).min(PATIENCE);
    for address in addresses {
        match connect_once(address, identity, errand, share) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) if failure.as_ref().is_some_and(is_hopeless) => {}
            Err(error) if failure.is_some() && error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => failure = Some(io::Error::new(error.kind(), format!("{address}: {error}"))),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "it has no address")))
}

fn connect_once(
    address: &SocketAddr,
    identity: &Identity,
    errand: Errand,
    patience: Duration,
) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let stream = TcpStream::connect_timeout(address, patience)?;
    stream.set_nodelay(true)?;
    let mut limited = Until(&stream, deadline);
    introduce(&mut limited, identity, errand)?;
    limited.lift()?;
    Ok(stream)
}

/// The answer will not change: no use in asking again.
pub(crate) fn is_hopeless(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, PermissionDenied, Unsupported};
    matches!(error.kind(), PermissionDenied | InvalidData | Unsupported)
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

    const THIRD_OF_FOUR: Errand = Errand { stream: 2, streams: 4, resumes: true, ..Errand::DATA };

    fn meet(client: &str, server: &str) -> (io::Result<()>, io::Result<Introduction>) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let server = Identity::new(server, PeerId([2; 16]));
        let receiving = std::thread::spawn(move || receive(&mut b, &server));
        let client = Identity::new(client, PeerId([1; 16]));
        let introduced = introduce(&mut a, &client, THIRD_OF_FOUR);
        drop(a);
        (introduced, receiving.join().unwrap())
    }

    #[test]
    fn equal_tokens_meet() {
        let (introduced, received) = meet("secret", "secret");
        introduced.unwrap();
        let expected = Introduction { peer: PeerId([1; 16]), errand: THIRD_OF_FOUR };
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
            try_each(addresses, &me, Errand::CONTROL, patience).unwrap_err().kind()
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
            b.write_all(&[0x87; 32]).unwrap();
            let mut answer = [WELCOME; 33];
            b.read_exact(&mut answer[1..]).unwrap();
            b.write_all(&answer).unwrap();
        });
        let error = introduce(&mut a, &Identity::new("t", PeerId([1; 16])), Errand::CONTROL).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        mirror.join().unwrap();
    }

    /// A server of something else that says random bytes.
    #[test]
    fn noise_is_no_refusal() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        b.write_all(&[0x9c; 80]).unwrap();
        let error = introduce(&mut a, &Identity::new("t", PeerId([1; 16])), Errand::CONTROL).unwrap_err();
        assert!(
            error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("not Ronde"),
            "{error}"
        );
    }

    #[test]
    fn garbage_is_refused() {
        let identity = Identity::new("", PeerId([0; 16]));
        let good = preamble(&identity, Errand::DATA).unwrap();
        for (at, value) in [(7, 5), (8, 1), (8, 4), (9, 1), (10, 0), (10, 65), (15, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(read_preamble(&bad).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        assert!(read_preamble(&good).is_ok());
    }

    /// What a server says of this to a client that begins so, and what of it the client hears.
    fn greeted(start: &[u8]) -> (io::Error, Vec<u8>) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(start).unwrap();
        let error = receive(&mut b, &Identity::new("", PeerId([2; 16]))).unwrap_err();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        a.read_to_end(&mut answer).unwrap();
        (error, answer)
    }

    #[test]
    fn other_versions_are_told_this_one() {
        let (error, answer) = greeted(b"RONDE\0\x09");
        assert!(
            error.to_string().contains("version 9") && error.to_string().contains("version 5"),
            "{error}"
        );
        assert_eq!((answer.len(), &answer[..7]), (32, &b"RONDE\0\x05"[..]));
        let (error, answer) = greeted(b"GET / HTTP/1.1\r\n\r\n");
        assert!(error.to_string().contains("not Ronde") && error.to_string().contains("GET /"), "{error}");
        assert!(answer.is_empty());
    }

    /// How a client takes what a server says.
    fn heard(answer: &'static [u8]) -> io::Result<[u8; 32]> {
        read_nonce(&mut &answer[..])
    }

    #[test]
    fn what_is_no_nonce_is_named() {
        for (answer, kind, word) in [
            (
                &b"RONDE\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
                io::ErrorKind::Unsupported,
                "version 9",
            ),
            (b"RONDE\0\x02", io::ErrorKind::Unsupported, "version 2"),
            (
                b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
                io::ErrorKind::InvalidData,
                "400 Bad Request\"",
            ),
            (b"220 mail\r\n", io::ErrorKind::InvalidData, "220 mail\""),
            (b"\x15\x03\x03\0\x02\x02\x32", io::ErrorKind::InvalidData, "\\x15"),
            (b"RONDE\0\x05\x02", io::ErrorKind::InvalidData, "RONDE"),
            (&[0x13; 32], io::ErrorKind::InvalidData, "\\x13"),
            (b"", io::ErrorKind::UnexpectedEof, "without a word"),
        ] {
            let error = heard(answer).unwrap_err();
            assert!(error.kind() == kind && error.to_string().contains(word), "{error:?}");
        }
        assert_eq!(heard(&[0x93; 40]).unwrap(), [0x93; 32]);
    }
}
