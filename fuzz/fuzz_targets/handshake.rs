//! Whoever connects, or is connected to, may say anything: who does not know the token gets nowhere, on either side, and a
//! connection is what its preamble says.
#![no_main]

use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use ronde::strangers;
use sha2::Sha256;
use std::io::{self, ErrorKind, Read, Write};

const TOKEN: &str = "token";
const START: &[u8; 7] = b"RONDE\0\x05";

/// What is said after that was heard.
type Answer<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// The other side of a connection: what it says first, and what once it has heard so many bytes.
struct Stranger<'a> {
    says: Vec<u8>,
    said: usize,
    heard: Vec<u8>,
    answers_after: usize,
    answer: Answer<'a>,
    /// Most bytes of one read.
    piece: usize,
    end: Option<ErrorKind>,
}

impl Read for Stranger<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = &self.says[self.said..];
        let len = left.len().min(bytes.len()).min(self.piece);
        bytes[..len].copy_from_slice(&left[..len]);
        self.said += len;
        match self.end {
            Some(kind) if left.is_empty() => Err(kind.into()),
            _ => Ok(len),
        }
    }
}

impl Write for Stranger<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard.extend(bytes);
        if self.heard.len() == self.answers_after {
            self.says.extend((self.answer)(&self.heard));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn proof(side: &str, preamble: &[u8], nonce: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(TOKEN.as_bytes()).expect("any length will do");
    [side.as_bytes(), preamble, nonce].into_iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// What is the same on both sides: whether it knows the token, how it cuts what it says, how it ends; and what it says else.
type Manner<'a> = (bool, u8, u8, &'a [u8]);

fn stranger<'a>(
    says: Vec<u8>,
    answers_after: usize,
    answer: impl Fn(&[u8]) -> Vec<u8> + 'a,
    (_, piece, end, _): Manner<'_>,
) -> Stranger<'a> {
    let end = [None, Some(ErrorKind::WouldBlock), Some(ErrorKind::ConnectionReset)][usize::from(end % 3)];
    let (piece, answer) = (usize::from(piece) + 1, Box::new(answer));
    Stranger { says, said: 0, heard: Vec::new(), answers_after, answer, piece, end }
}

/// It connects: with a preamble like this.
fn connects(preamble: &[u8], manner: Manner<'_>) {
    let (knows, _, _, rest) = manner;
    let answer = |nonce: &[u8]| match knows {
        true => [&proof("client", preamble, nonce), rest].concat(),
        false => rest.to_vec(),
    };
    let mut stranger = stranger(preamble.to_vec(), 32, answer, manner);
    let received = strangers::receive(&mut stranger, TOKEN);
    let sound = preamble.len() == 64
        && preamble.starts_with(START)
        && matches!(preamble[7], 1..=4)
        && preamble[8] & !2 == 0
        && matches!(preamble[10], 1..=64)
        && preamble[9] < preamble[10]
        && preamble[11..16] == [0; 5];
    assert_eq!(received.is_ok(), sound && knows, "{received:?}");
    if let Ok((peer, control, stream, streams, resumes)) = received {
        assert_eq!((&peer.0[..], control), (&preamble[16..32], preamble[7] == 1));
        assert_eq!((stream, streams, resumes), (preamble[9], preamble[10], preamble[8] == 2));
        assert_eq!(stranger.said, 96, "more than the proof was read");
    }
}

/// It is connected to, and says this for a nonce.
fn listens(nonce: &[u8], welcome: u8, manner: Manner<'_>) {
    let (knows, _, _, rest) = manner;
    let answer = |heard: &[u8]| match knows && nonce.len() == 32 {
        true => [&[welcome], &proof("server", &heard[..64], nonce)[..], rest].concat(),
        false => rest.to_vec(),
    };
    let mut stranger = stranger(nonce.to_vec(), 96, answer, manner);
    let introduced = strangers::introduce(&mut stranger, TOKEN);
    assert!(stranger.heard.len() == 64 || nonce.len() >= 32, "an answer to half a nonce");
    assert!(introduced.is_err() || knows && welcome == 1 && nonce.len() == 32);
}

/// Changes a good preamble, or says something else.
fn preamble(edits: &[(u8, u8)], instead: &[u8]) -> Vec<u8> {
    let mut preamble = [0; 64];
    preamble[..7].copy_from_slice(START);
    (preamble[7], preamble[10]) = (2, 1);
    edits.iter().for_each(|(at, value)| preamble[usize::from(*at) % 64] = *value);
    if instead.is_empty() { preamble.to_vec() } else { instead[..instead.len().min(64)].to_vec() }
}

/// Whether it connects; how its preamble differs from a good one, or what it says instead; a byte; and its manner.
type Input<'a> = (bool, Vec<(u8, u8)>, &'a [u8], u8, Manner<'a>);

fuzz_target!(|input: Input<'_>| {
    let (connecting, edits, instead, byte, manner) = input;
    if connecting {
        return connects(&preamble(&edits, instead), manner);
    }
    let nonce = match byte % 3 {
        0 => instead.to_vec(),
        1 => [&START[..], instead].concat(),
        _ => [0x80 | byte; 32].to_vec(),
    };
    listens(&nonce, byte / 3 % 3, manner);
});
