//! After warm-up, moving frames allocates nothing. The only test of this program, since it replaces
//! the allocator.

use ronde_conformance::{Counting, Pair, TcpPair};
use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::memory::Arena;
use ronde_core::transport::{Link, Payload, Placement, Receiver, Submit};
use ronde_tcp::TcpOptions;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Sink {
    target: Arena,
    arrived: usize,
    sent: usize,
}

impl Receiver for Sink {
    fn place(&mut self, _: usize, header: &Header) -> Placement {
        Placement::Into(self.target.segment(0, header.payload_len as usize))
    }

    fn arrived(&mut self, _: usize, _: &Header, _: Payload) -> bool {
        self.arrived += 1;
        false
    }

    fn sent(&mut self, _: usize, _: u64) {
        self.sent += 1;
    }
}

struct End {
    link: Box<dyn Link>,
    sink: Sink,
    source: Arena,
    pending: usize,
}

impl End {
    fn new(link: Box<dyn Link>) -> End {
        let most = link.capabilities().max_payload;
        End {
            link,
            sink: Sink { target: Arena::new(most), arrived: 0, sent: 0 },
            source: Arena::new(most),
            pending: 0,
        }
    }

    fn submit(&mut self, len: usize) -> bool {
        let header = Header { payload_len: len as u32, ..Header::EMPTY };
        let payload: Segment = self.source.segment(0, len);
        let answer = self.link.submit(&header, &payload, 1);
        self.pending += usize::from(answer == Submit::Pending);
        answer != Submit::Full
    }

    fn poll(&mut self) {
        self.link.poll(&mut self.sink).expect("the peer lives");
    }
}

/// Sends `frames` frames each way, with the queue full and empty by turns.
fn traffic(near: &mut End, far: &mut End, frames: usize) {
    let sizes = [0, 8, 200, 300, 5000, 100_000, near.source.len()];
    let goal = near.sink.arrived + frames;
    let (mut there, mut back) = (0, 0);
    let start = Instant::now();
    while near.sink.arrived < goal || far.sink.arrived < goal || near.pending > near.sink.sent {
        while there < frames && near.submit(sizes[there % sizes.len()]) {
            there += 1;
        }
        while back < frames && far.submit(sizes[back % sizes.len()]) {
            back += 1;
        }
        near.poll();
        far.poll();
        assert!(start.elapsed() < Duration::from_secs(30), "the ends got stuck");
    }
}

fn assert_no_allocation(name: &str, pair: Pair) {
    let (mut near, mut far) = (End::new(pair.near), End::new(pair.far));
    traffic(&mut near, &mut far, 400);
    let before = Counting::allocations();
    traffic(&mut near, &mut far, 400);
    assert_eq!(Counting::allocations() - before, 0, "allocations of {name} after warm-up");
}

#[test]
fn nothing_is_allocated_after_warm_up() {
    let before = Counting::allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(Counting::allocations() - before, 1, "the counter counts");
    for streams in [1, 3] {
        let pair = TcpPair { streams, options: TcpOptions::default() }.connect();
        assert_no_allocation(&format!("tcp with {streams} stream(s)"), pair);
    }
}
