//! Links of several TCP streams: who carries what, and when the link has ended.

use ronde_conformance::end::{End, LINK, PATIENCE, Rule, fill, header};
use ronde_conformance::tcp_sockets;
use ronde_core::frame::{HEADER_BYTES, pad};
use ronde_core::transport::LinkFailure;
use ronde_tcp::{TcpLink, TcpOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

const SALT: u64 = 3;
/// Each stream is ended with a word.
const FAREWELL: usize = HEADER_BYTES;

/// A link of two streams and the sockets of its peer.
fn link_and_sockets() -> (End, [TcpStream; 2]) {
    let ((near_0, far_0), (near_1, far_1)) = (tcp_sockets(), tcp_sockets());
    let link = TcpLink::new(LINK, vec![near_0, near_1], &TcpOptions::default()).expect("connected");
    (End::new(Box::new(link), 1, SALT, Rule::default()), [far_0, far_1])
}

fn send(socket: &mut TcpStream, seq: u64, len: usize) {
    let mut bytes = header(SALT, seq, len).encode().to_vec();
    bytes.resize(HEADER_BYTES + pad(len), 0);
    fill(SALT, seq, &mut bytes[HEADER_BYTES..HEADER_BYTES + len]);
    socket.write_all(&bytes).expect("the link reads");
}

fn bytes_received(end: &mut End, sockets: [TcpStream; 2]) -> [usize; 2] {
    let start = Instant::now();
    while !end.has_sent_all() {
        end.step().expect("the peer reads later");
        assert!(start.elapsed() < PATIENCE, "so little fits into the sockets");
    }
    end.link.close();
    sockets.map(|mut socket| {
        socket.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).expect("an orderly end")
    })
}

#[test]
fn large_payloads_are_spread() {
    let (mut end, sockets) = link_and_sockets();
    end.queue(&[100_000, 100_001, 100_002, 100_003]);
    let each = 2 * (HEADER_BYTES + pad(100_000)) + FAREWELL;
    assert_eq!(bytes_received(&mut end, sockets), [each, each]);
}

#[test]
fn small_frames_stay_on_one_stream() {
    let (mut end, sockets) = link_and_sockets();
    end.queue(&[100; 50]);
    assert_eq!(bytes_received(&mut end, sockets), [50 * (HEADER_BYTES + pad(100)) + FAREWELL, FAREWELL]);
}

#[test]
fn one_ended_stream_does_not_end_the_link() {
    let (mut end, [first, mut second]) = link_and_sockets();
    first.shutdown(Shutdown::Write).expect("connected");
    send(&mut second, 0, 500);
    send(&mut second, 1, 70_000);
    let start = Instant::now();
    while end.inbox.count() < 2 {
        if !end.step().expect("one stream is left") {
            end.sleep();
        }
        assert!(start.elapsed() < PATIENCE, "frames are missing");
    }
    drop(second);
    let failure = loop {
        match end.step() {
            Ok(moved) => assert!(moved || start.elapsed() < PATIENCE, "the end of the link was not told"),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure, LinkFailure::PeerDied);
    end.inbox.assert_complete(&[500, 70_000]);
}
