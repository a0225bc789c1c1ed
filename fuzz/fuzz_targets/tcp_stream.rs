//! Any bytes from a peer make a link deliver frames or end; it writes only where it was told to.
//!
//! The input is a list of pieces, each sent by itself, so that frames are cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde_core::frame::Header;
use ronde_core::memory::Arena;
use ronde_core::transport::{Link, Payload, Placement, Receiver};
use ronde_fuzz::sockets;
use ronde_tcp::{MAX_PAYLOAD, TcpLink, TcpOptions};
use std::io::Write;

struct Sink {
    target: Arena,
    placed: Option<Header>,
}

impl Receiver for Sink {
    fn place(&mut self, _: usize, header: &Header) -> Placement {
        assert!(self.placed.is_none(), "a frame begins within another");
        match header.label % 8 {
            0 => Placement::Discard,
            1 if header.window == 1 => Placement::Refuse("refused"),
            _ => {
                self.placed = Some(*header);
                Placement::Into(self.target.segment(0, header.payload_len as usize))
            }
        }
    }

    fn arrived(&mut self, _: usize, header: &Header, _: Payload) -> bool {
        assert_eq!(self.placed.take(), Some(*header));
        false
    }

    fn sent(&mut self, _: usize, _: u64) {
        unreachable!("nothing was submitted");
    }
}

fuzz_target!(|pieces: Vec<Vec<u8>>| {
    let (near, mut far) = sockets();
    let mut link = TcpLink::new(0, vec![near], &TcpOptions::default()).expect("connected");
    let mut sink = Sink { target: Arena::new(MAX_PAYLOAD), placed: None };
    for piece in &pieces {
        if far.write_all(piece).is_err() || link.poll(&mut sink).is_err() {
            break;
        }
    }
    drop(far);
    // Everything is in the socket by now, so the end comes within as many polls as reads.
    let polls = pieces.iter().map(Vec::len).sum::<usize>() + 2;
    assert!((0..polls).any(|_| link.poll(&mut sink).is_err()), "the end was not told");
});
