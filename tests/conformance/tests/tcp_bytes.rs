//! What a TCP link makes of bytes that no correct peer sends: an error, never a panic or a frame.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use ronde_conformance::end::{End, LINK, PATIENCE, Rule, fill, header};
use ronde_conformance::tcp_sockets;
use ronde_core::frame::{FrameError, HEADER_BYTES, pad};
use ronde_core::transport::LinkFailure;
use ronde_tcp::{MAX_PAYLOAD, TcpLink, TcpOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

const SALT: u64 = 3;

/// A link under test and the socket of its peer.
fn link_and_socket() -> (End, TcpStream) {
    let (near, far) = tcp_sockets();
    let link = TcpLink::new(LINK, vec![near], &TcpOptions::default()).expect("connected");
    (End::new(Box::new(link), 1, SALT, Rule::default()), far)
}

fn frame(salt: u64, seq: u64, len: usize) -> Vec<u8> {
    let mut bytes = header(salt, seq, len).encode().to_vec();
    bytes.resize(HEADER_BYTES + pad(len), 0);
    fill(salt, seq, &mut bytes[HEADER_BYTES..HEADER_BYTES + len]);
    bytes
}

fn run_to_end(end: &mut End) -> LinkFailure {
    let start = Instant::now();
    loop {
        if let Err(failure) = end.step() {
            return failure;
        }
        assert!(start.elapsed() < PATIENCE, "the end of the link was not told");
    }
}

#[test]
fn garbage_ends_the_link() {
    let mut rng = SmallRng::seed_from_u64(1);
    for len in [64, 65, 1000, 70_000] {
        let (mut end, mut socket) = link_and_socket();
        let mut bytes = vec![0; len];
        rng.fill_bytes(&mut bytes);
        bytes[0] = 0;
        socket.write_all(&bytes).expect("the link reads");
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        assert_eq!(run_to_end(&mut end), LinkFailure::Frame(FrameError::Magic(magic)));
        assert_eq!(end.inbox.count(), 0);
    }
}

#[test]
fn garbage_behind_a_frame_spoils_only_what_follows() {
    let (mut end, mut socket) = link_and_socket();
    let mut bytes = frame(SALT, 0, 777);
    bytes.extend([0xff; HEADER_BYTES]);
    socket.write_all(&bytes).expect("the link reads");
    assert_eq!(run_to_end(&mut end), LinkFailure::Frame(FrameError::Magic(0xffff)));
    end.inbox.assert_complete(&[777]);
}

#[test]
fn lengths_above_the_limit_are_refused() {
    for len in [MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD, u32::MAX as usize] {
        let (mut end, mut socket) = link_and_socket();
        socket.write_all(&header(SALT, 0, len).encode()).expect("the link reads");
        assert_eq!(run_to_end(&mut end), LinkFailure::Frame(FrameError::TooLong(len as u32)));
    }
}

#[test]
fn a_stream_cut_within_a_frame_is_a_death() {
    let whole = frame(SALT, 0, 1000);
    for cut in [1, 63, 64, 65, 600, HEADER_BYTES + 1000, whole.len() - 1] {
        let (mut end, mut socket) = link_and_socket();
        socket.write_all(&whole[..cut]).expect("the link reads");
        socket.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(run_to_end(&mut end), LinkFailure::PeerDied, "cut after {cut} bytes");
        assert_eq!(end.inbox.count(), usize::from(cut >= HEADER_BYTES + 1000));
    }
}

/// How a link says that it ends.
fn farewell() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..7].copy_from_slice(b"GOODBYE");
    bytes
}

#[test]
fn a_stream_that_ends_between_frames_is_a_death_unless_it_says_so() {
    for (frames, says) in [(0, false), (0, true), (1, false), (3, true)] {
        let (mut end, mut socket) = link_and_socket();
        for seq in 0..frames {
            socket.write_all(&frame(SALT, seq, 100)).expect("the link reads");
        }
        if says {
            socket.write_all(&farewell()).expect("the link reads");
        }
        socket.shutdown(Shutdown::Write).expect("connected");
        let expected = if says { LinkFailure::Closed } else { LinkFailure::PeerDied };
        assert_eq!(run_to_end(&mut end), expected);
        end.inbox.assert_complete(&vec![100; frames as usize]);
    }
}

/// The wire format of frames numbered from 0.
fn frames(salt: u64, sizes: &[usize]) -> Vec<u8> {
    sizes.iter().enumerate().flat_map(|(seq, &len)| frame(salt, seq as u64, len)).collect()
}

#[test]
fn frames_in_pieces_of_any_size_are_put_together() {
    let mut rng = SmallRng::seed_from_u64(2);
    for (most, count) in [(1, 15), (3, 40), (64, 150), (5000, 400)] {
        let sizes: Vec<usize> = (0..count).map(|i| if i % 20 == 19 { 90_000 + i } else { i * 7 }).collect();
        let bytes = frames(SALT, &sizes);
        let mut rest = &bytes[..];
        let (mut end, mut socket) = link_and_socket();
        while !rest.is_empty() {
            let piece = rng.random_range(1..=most).min(rest.len());
            socket.write_all(&rest[..piece]).expect("the link reads");
            rest = &rest[piece..];
            end.step().expect("valid frames");
        }
        let start = Instant::now();
        while end.inbox.count() < sizes.len() {
            end.step().expect("valid frames");
            assert!(start.elapsed() < PATIENCE, "frames are missing");
        }
        end.inbox.assert_complete(&sizes);
    }
}

#[test]
fn the_wire_carries_what_the_format_says() {
    let (mut end, mut socket) = link_and_socket();
    socket.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    let sizes = [0, 1, 64, 256, 257, 5000, 70_001];
    end.queue(&sizes);
    let start = Instant::now();
    while !end.has_sent_all() {
        end.step().expect("the peer reads later");
        assert!(start.elapsed() < PATIENCE, "so little fits into the socket");
    }
    end.link.close();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("an orderly end");
    assert!(bytes == [frames(1, &sizes), farewell().to_vec()].concat(), "other bytes than the format says");
}
