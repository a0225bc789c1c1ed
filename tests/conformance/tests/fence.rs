//! A fence takes the memory of attempts away from a link, and leaves messages alone.

use ronde_conformance::TcpPair;
use ronde_core::frame::{FrameKind, Header};
use ronde_core::memory::{Access, Arena};
use ronde_core::transport::{Link, Payload, Placement, Receiver, Submit};
use ronde_tcp::TcpOptions;
use std::time::{Duration, Instant};

const LARGE: usize = 1 << 20;

/// Places everything in its memory, one payload over the other, and notes what arrived.
struct Sink {
    memory: Arena,
    arrived: Vec<Header>,
    /// The byte that each payload repeats, looked at as it arrives: the next one may have begun to
    /// replace it when `poll` returns. None: the bytes of a payload differ.
    values: Vec<Option<u8>>,
    sent: Vec<u64>,
    /// Attempts have ended: their frames are not wanted.
    ended: bool,
}

impl Sink {
    fn new() -> Sink {
        let memory = Arena::new(LARGE);
        Sink { memory, arrived: Vec::new(), values: Vec::new(), sent: Vec::new(), ended: false }
    }
}

impl Receiver for Sink {
    fn place(&mut self, _: usize, header: &Header) -> Placement {
        match self.ended && header.is_of_attempt() {
            true => Placement::Discard,
            false => Placement::Into(self.memory.segment(0, header.payload_len as usize)),
        }
    }

    fn arrived(&mut self, _: usize, header: &Header, _: Payload) -> bool {
        self.arrived.push(*header);
        let memory = self.memory.segment(0, header.payload_len as usize);
        let bytes = memory.bytes();
        self.values.push(bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0]));
        false
    }

    fn sent(&mut self, _: usize, cookie: u64) {
        self.sent.push(cookie);
    }
}

fn header(window: u32, len: usize, point_to_point: bool) -> Header {
    Header { kind: FrameKind::Data, window, payload_len: len as u32, point_to_point, ..Header::EMPTY }
}

/// Submits so many frames of an attempt that some wait and one is half written.
fn fill(link: &mut dyn Link, source: &Arena) -> u32 {
    let mut window = 0;
    while link.submit(&header(window, LARGE, false), &source.segment(0, LARGE), window.into()) != Submit::Full
    {
        window += 1;
    }
    window
}

#[test]
fn payloads_are_not_read_after_a_fence() {
    for streams in [1, 3] {
        let mut pair = TcpPair { streams, options: TcpOptions::default() }.connect();
        let source = Arena::new(LARGE);
        source.segment(0, LARGE).bytes_mut().fill(1);
        let frames = fill(&mut *pair.near, &source);
        assert!(frames > 10, "{frames}");
        pair.near.fence(&Header::is_of_attempt);
        // The caller has its memory back.
        source.segment(0, LARGE).bytes_mut().fill(2);
        let message = Arena::new(LARGE);
        message.segment(0, LARGE).bytes_mut().fill(3);
        let last = header(7, LARGE, true);
        let mut taken = false;
        let (mut near, mut far) = (Sink::new(), Sink::new());
        let start = Instant::now();
        while !far.arrived.contains(&last) || near.sent.is_empty() {
            taken = taken || pair.near.submit(&last, &message.segment(0, LARGE), 99) != Submit::Full;
            pair.near.poll(&mut near).unwrap();
            pair.far.poll(&mut far).unwrap();
            assert!(start.elapsed() < Duration::from_secs(20), "stuck");
        }
        assert!(far.arrived.len() < frames as usize, "frames that had not begun were sent");
        assert_eq!(near.sent, [99], "of the others nothing is told");
        // Several streams write to the one memory at a time.
        if streams == 1 {
            for (header, value) in far.arrived.iter().zip(&far.values) {
                let sent = if *header == last { 3 } else { 1 };
                assert_eq!(*value, Some(sent), "a payload has changed: {header:?}");
            }
        }
    }
}

#[test]
fn memory_is_not_written_after_a_fence() {
    let mut pair = TcpPair { streams: 1, options: TcpOptions::default() }.connect();
    let source = Arena::new(LARGE);
    source.segment(0, LARGE).bytes_mut().fill(1);
    let (mut near, mut far) = (Sink::new(), Sink::new());
    fill(&mut *pair.near, &source);
    let start = Instant::now();
    // Polls until a payload is here in part: its first byte, but not its last.
    let byte = |sink: &Sink, at: usize| sink.memory.segment(at, 1).bytes()[0];
    while byte(&far, 0) == 0 || byte(&far, LARGE - 1) != 0 {
        far.memory.segment(0, LARGE).bytes_mut().fill(0);
        pair.far.poll(&mut far).unwrap();
        pair.near.poll(&mut near).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "a payload never arrives in part");
    }
    pair.far.fence(&Header::is_of_attempt);
    far.ended = true;
    far.arrived.clear();
    far.memory.segment(0, LARGE).bytes_mut().fill(9);
    let last = header(1, 1000, true);
    let message = Arena::new(1000);
    message.segment(0, 1000).bytes_mut().fill(3);
    let mut taken = false;
    while !far.arrived.contains(&last) {
        taken = taken || pair.near.submit(&last, &message.segment(0, 1000), 99) != Submit::Full;
        pair.near.poll(&mut near).unwrap();
        pair.far.poll(&mut far).unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "stuck");
    }
    assert_eq!(far.arrived, [last], "a payload that was fenced off is not reported");
    let memory = far.memory.segment(0, LARGE);
    assert!(memory.bytes()[..1000].iter().all(|&byte| byte == 3));
    assert!(memory.bytes()[1000..].iter().all(|&byte| byte == 9), "fenced memory was written");
}
