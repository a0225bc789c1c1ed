//! One end of a pair: frames to send, memory of its own, and checks of everything that arrives.
//!
//! What a frame holds follows from the sender's salt and the frame's number, so the receiver can
//! check headers and every byte without being told. Buffers start at any address, targets are
//! poisoned and have guard bytes, and a payload's memory is overwritten as soon as the link says
//! that it has left.

use crate::memory::{Memory, Piece};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::frame::{FrameKind, Header};
use ronde_core::memory::Access;
use ronde_core::transport::{Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource};
use ronde_core::{Epoch, Generation, GroupId, OpId, Segment, Seq, Tag};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The number of every link under test.
pub const LINK: usize = 7;
/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POISON: u8 = 0xa5;
const OVERWRITTEN: u8 = 0xee;
const GUARD: usize = 64;

/// What a receiver does with frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule {
    /// Frames whose number is a multiple of this are discarded (links without views).
    pub discard_every: Option<u64>,
    /// The frame with this number is refused (links without views).
    pub refuse: Option<u64>,
    /// Views kept at most, to be given back in random order.
    pub keep_views: usize,
}

/// One end.
pub struct End {
    /// The link under test.
    pub link: Box<dyn Link>,
    /// What it has brought.
    pub inbox: Inbox,
    memory: Memory,
    salt: u64,
    to_send: VecDeque<(u64, usize)>,
    rng: SmallRng,
}

/// The receiver of an end.
pub struct Inbox {
    rule: Rule,
    /// The peer's salt.
    salt: u64,
    placed: BTreeMap<u64, Buffer>,
    arrived: BTreeMap<u64, usize>,
    discarded: u64,
    lent: BTreeMap<u64, Buffer>,
    /// Whose memory may be used again.
    returned: Vec<Buffer>,
    views: Vec<(ViewToken, u64, Segment)>,
    rng: SmallRng,
}

/// Memory at any address with guard bytes around it.
struct Buffer {
    piece: Piece,
    offset: usize,
    len: usize,
}

impl End {
    /// An end that sends with `salt` and expects frames of `peer_salt`.
    pub fn new(link: Box<dyn Link>, salt: u64, peer_salt: u64, rule: Rule) -> End {
        let inbox = Inbox {
            rule,
            salt: peer_salt,
            placed: BTreeMap::new(),
            arrived: BTreeMap::new(),
            discarded: 0,
            lent: BTreeMap::new(),
            returned: Vec::new(),
            views: Vec::new(),
            rng: SmallRng::seed_from_u64(salt ^ 1),
        };
        End {
            link,
            inbox,
            memory: Memory::Plain,
            salt,
            to_send: VecDeque::new(),
            rng: SmallRng::seed_from_u64(salt),
        }
    }

    /// The same, with its payloads in this memory.
    pub fn sending_from(self, memory: Memory) -> End {
        End { memory, ..self }
    }

    /// Queues frames of these sizes, numbered from 0.
    pub fn queue(&mut self, sizes: &[usize]) {
        self.to_send = sizes.iter().enumerate().map(|(seq, &len)| (seq as u64, len)).collect();
    }

    /// Whether the peer reads payloads where they lie.
    pub fn lends_memory(&self) -> bool {
        self.memory.is_registered()
    }

    /// Queues one frame.
    pub fn queue_one(&mut self, seq: u64, len: usize) {
        self.to_send.push_back((seq, len));
    }

    /// True if everything was submitted and no memory is lent.
    pub fn has_sent_all(&self) -> bool {
        self.to_send.is_empty() && self.inbox.lent.is_empty()
    }

    /// Frames that are still to be submitted.
    pub fn unsubmitted(&self) -> usize {
        self.to_send.len()
    }

    /// Forgets all but the first `keep` of the frames still to be submitted.
    pub fn truncate(&mut self, keep: usize) {
        self.to_send.truncate(keep);
    }

    /// Submits a few frames and polls once. Returns whether anything moved.
    pub fn step(&mut self) -> Result<bool, LinkFailure> {
        let submitted = (0..4).take_while(|_| self.submit_next()).count() > 0;
        let moved = self.link.poll(&mut self.inbox)?;
        self.give_views_back();
        for buffer in self.inbox.returned.drain(..) {
            self.memory.take_back(buffer.piece, &mut self.rng);
        }
        Ok(submitted || moved)
    }

    /// Submits the next frame, if there is one and the link takes it.
    pub fn submit_next(&mut self) -> bool {
        let Some(&(seq, len)) = self.to_send.front() else { return false };
        let buffer = Buffer::new(len, &mut self.memory, &mut self.rng);
        fill(self.salt, seq, buffer.segment().bytes_mut());
        match self.link.submit(&header(self.salt, seq, len), &buffer.segment(), seq) {
            Submit::Full => {
                self.memory.take_back(buffer.piece, &mut self.rng);
                return false;
            }
            Submit::Sent => {
                buffer.segment().bytes_mut().fill(OVERWRITTEN);
                self.memory.take_back(buffer.piece, &mut self.rng);
            }
            Submit::Pending => {
                assert!(self.inbox.lent.insert(seq, buffer).is_none(), "cookie {seq} twice");
            }
        }
        self.to_send.pop_front();
        true
    }

    /// Blocks until the link's descriptor is ready. Panics if that takes too long: a lost wake-up.
    pub fn sleep(&mut self) {
        if self.link.prepare_sleep() {
            match self.link.wake_source() {
                Some(source) => wait(source),
                None => std::thread::yield_now(),
            }
        }
        self.link.cancel_sleep();
    }

    fn give_views_back(&mut self) {
        let inbox = &mut self.inbox;
        let keep = inbox.rng.random_range(0..=inbox.rule.keep_views);
        while inbox.views.len() > keep {
            let at = inbox.rng.random_range(0..inbox.views.len());
            let (token, seq, segment) = inbox.views.swap_remove(at);
            assert!(is_filled(inbox.salt, seq, segment.bytes()), "view {seq} changed before its release");
            self.link.release(token);
        }
    }
}

impl Inbox {
    /// Frames that have arrived or were discarded.
    pub fn count(&self) -> usize {
        self.arrived.len() + self.discarded as usize
    }

    /// Asserts that the frames of these sizes have arrived, each once, but for those discarded.
    pub fn assert_complete(&self, sizes: &[usize]) {
        let discarded = |seq: u64| self.rule.discard_every.is_some_and(|every| seq.is_multiple_of(every));
        let expected: BTreeMap<u64, usize> =
            sizes.iter().enumerate().map(|(i, &len)| (i as u64, len)).filter(|f| !discarded(f.0)).collect();
        assert_eq!(self.arrived, expected);
        assert!(self.placed.is_empty(), "frames were placed and did not arrive");
    }

    fn note(&mut self, header: &Header, bytes: &[u8]) {
        let (seq, len) = (header.op.seq.0, header.payload_len as usize);
        assert_eq!(*header, self::header(self.salt, seq, len));
        assert!(
            is_filled(self.salt, seq, bytes) && bytes.len() == len,
            "frame {seq} of {len} bytes is damaged"
        );
        assert!(self.arrived.insert(seq, len).is_none(), "frame {seq} arrived twice");
    }
}

impl Receiver for Inbox {
    fn place(&mut self, link: usize, header: &Header) -> Placement {
        assert_eq!(link, LINK);
        let seq = header.op.seq.0;
        if self.rule.refuse == Some(seq) {
            return Placement::Refuse("refused by the test");
        }
        if self.rule.discard_every.is_some_and(|every| seq.is_multiple_of(every)) {
            self.discarded += 1;
            return Placement::Discard;
        }
        let buffer = Buffer::new(header.payload_len as usize, &mut Memory::Plain, &mut self.rng);
        let target = buffer.segment();
        assert!(self.placed.insert(seq, buffer).is_none(), "frame {seq} was placed twice");
        Placement::Into(target)
    }

    fn arrived(&mut self, link: usize, header: &Header, payload: Payload) -> bool {
        assert_eq!(link, LINK);
        let seq = header.op.seq.0;
        match payload {
            Payload::Placed => {
                let buffer = self.placed.remove(&seq).expect("a frame arrives after it was placed");
                buffer.assert_guards();
                self.note(header, buffer.segment().bytes());
                false
            }
            Payload::View(segment, token) => {
                self.note(header, segment.bytes());
                let keep = self.views.len() < self.rule.keep_views;
                if keep {
                    self.views.push((token, seq, segment));
                }
                keep
            }
        }
    }

    fn sent(&mut self, link: usize, cookie: u64) {
        assert_eq!(link, LINK);
        let buffer = self.lent.remove(&cookie).expect("a cookie is reported once, and only if pending");
        buffer.segment().bytes_mut().fill(OVERWRITTEN);
        self.returned.push(buffer);
    }
}

impl Buffer {
    fn new(len: usize, memory: &mut Memory, rng: &mut SmallRng) -> Buffer {
        let offset = GUARD + if rng.random() { 0 } else { rng.random_range(0..64) };
        let piece = memory.piece(offset + len + GUARD);
        piece.segment().slice(0, offset + len + GUARD).bytes_mut().fill(POISON);
        Buffer { piece, offset, len }
    }

    fn segment(&self) -> Segment {
        self.piece.segment().slice(self.offset, self.len)
    }

    fn assert_guards(&self) {
        let end = self.offset + self.len;
        let all = self.piece.segment().slice(0, end + GUARD);
        let intact = |bytes: &[u8]| bytes.iter().all(|&b| b == POISON);
        assert!(intact(&all.bytes()[..self.offset]), "bytes before the target were written");
        assert!(intact(&all.bytes()[end..]), "bytes behind the target were written");
    }
}

/// The header of a frame; every field depends on its number.
pub fn header(salt: u64, seq: u64, len: usize) -> Header {
    let mixed = mix(salt, seq);
    Header {
        kind: FrameKind::Data,
        payload_len: len as u32,
        op: OpId {
            group: GroupId(mixed),
            generation: Generation(mixed as u32),
            tag: Tag((mixed >> 8) as u32),
            seq: Seq(seq),
        },
        point_to_point: mixed % 3 == 1,
        one_attempt: mixed % 3 == 2,
        epoch: Epoch((mixed >> 32) & 0xffff_ffff),
        window: (mixed >> 16) as u32,
        label: (mixed >> 24) as u16,
        fingerprint: (mixed >> 5) as u32,
        returned_through: Seq(mixed >> 3),
        digest: mixed.rotate_left(9),
        weighed: mixed.is_multiple_of(5),
    }
}

/// Writes the payload of a frame.
pub fn fill(salt: u64, seq: u64, bytes: &mut [u8]) {
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&word(salt, seq, at)[..chunk.len()]);
    }
}

fn is_filled(salt: u64, seq: u64, bytes: &[u8]) -> bool {
    bytes.chunks(8).enumerate().all(|(at, chunk)| *chunk == word(salt, seq, at)[..chunk.len()])
}

fn word(salt: u64, seq: u64, at: usize) -> [u8; 8] {
    mix(salt ^ seq.rotate_left(32), at as u64).to_le_bytes()
}

/// The mixing function of splitmix64.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[allow(unsafe_code)]
fn wait(source: WakeSource) {
    // SAFETY: a wake source is valid while its link lives, and the caller has the link borrowed.
    let descriptor = unsafe { BorrowedFd::borrow_raw(source.descriptor) };
    let flags = if source.write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut set = [PollFd::from_borrowed_fd(descriptor, flags)];
    let start = Instant::now();
    let ready = loop {
        match poll(&mut set, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) if start.elapsed() < PATIENCE => {}
            other => break other.expect("the descriptor is open"),
        }
    };
    assert!(ready > 0, "nothing woke this end: a wake-up was lost");
}
