//! Whatever a peer of the same machine writes into its ring and its counters, says over the socket or announces as memory:
//! a link delivers what stands there, or ends. It reads nothing else, and the end of the socket ends it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde_core::frame::{HEADER_BYTES, Header, LINK_BYTE, pad};
use ronde_core::memory::{Access, lend};
use ronde_core::transport::{Link, Payload, Placement, Receiver, Submit, ViewToken};
use ronde_core::{Segment, Seq};
use ronde_shm::{Registry, SharedBuffer, ShmLink, ShmOptions};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RING: usize = 64 << 10;
/// Page of the counters, and where they stand in it.
const HEAD: usize = 4096;
const TAIL: u64 = 0;
const CONSUMED: u64 = 128;
const SLEEPING: u64 = 256;
const REVOKED: u64 = 384;
/// Number of the region that is the ring.
const RING_ID: u64 = u64::MAX;
/// What marks a record with which the writer starts over.
const STARTS_OVER: u8 = 2;
const SHRINK: u32 = 2;
const ALL_SEALS: u32 = 15;
/// Within so many polls a link looks at its socket.
const POLLS: usize = 2100;

/// The other side. It keeps a copy of all that the link may read, and is told what the link has read.
struct Peer {
    file: File,
    stream: UnixStream,
    ring: Vec<u8>,
    /// Behind the record that it wrote last.
    tail: u64,
    /// Where the link reads next.
    head: u64,
    /// Memory that was announced, by its number.
    memory: Vec<(u64, Vec<u8>)>,
    kept: Vec<(Segment, ViewToken)>,
    /// What the link has lent and not got back.
    pending: BTreeSet<u64>,
}

impl Receiver for Peer {
    fn place(&mut self, _: usize, _: &Header) -> Placement {
        unreachable!("views need no place")
    }

    fn arrived(&mut self, _: usize, header: &Header, payload: Payload) -> bool {
        let Payload::View(view, token) = payload else { unreachable!("nothing was placed") };
        while self.read(self.head, HEADER_BYTES)[LINK_BYTE] == STARTS_OVER {
            self.head = (self.head / RING as u64).wrapping_add(1).wrapping_mul(RING as u64);
        }
        let mut head = self.read(self.head, HEADER_BYTES);
        let mark = std::mem::take(&mut head[LINK_BYTE]);
        assert_eq!(Header::decode(&head.try_into().expect("64 bytes")), Ok(*header));
        let (at, len) = (self.head + HEADER_BYTES as u64, header.payload_len as usize);
        assert_eq!(view.len(), len);
        if mark == 0 {
            assert!(view.bytes() == self.read(at, len), "not what stands in the ring");
            self.head = at + pad(len) as u64;
        } else {
            let word = |at| u64::from_le_bytes(self.read(at, 8).try_into().expect("8 bytes"));
            let (id, offset) = (word(at), word(at + 8) as usize);
            let is_it = |(known, bytes): &(u64, Vec<u8>)| {
                *known == id && bytes.get(offset..).and_then(|rest| rest.get(..len)) == Some(view.bytes())
            };
            assert!(self.memory.iter().any(is_it), "not what stands in memory that was announced");
            self.head = at + HEADER_BYTES as u64;
        }
        let keeps = header.label & 1 == 1;
        if keeps {
            self.kept.push((view, token));
        }
        keeps
    }

    fn sent(&mut self, _: usize, cookie: u64) {
        assert!(self.pending.remove(&cookie), "given back twice");
    }
}

impl Peer {
    fn new(stream: UnixStream) -> Peer {
        let file = memory(&[0; HEAD + RING], SHRINK);
        let (ring, memory, kept) = (vec![0; RING], Vec::new(), Vec::new());
        Peer { file, stream, ring, tail: 0, head: 0, memory, kept, pending: BTreeSet::new() }
    }

    fn read(&self, position: u64, len: usize) -> Vec<u8> {
        (0..len).map(|at| self.ring[(position as usize % RING + at) % RING]).collect()
    }

    fn write(&mut self, position: u64, bytes: &[u8]) {
        for (at, &byte) in bytes.iter().enumerate() {
            self.ring[(position as usize % RING + at) % RING] = byte;
        }
        let start = position as usize % RING;
        let (here, wrapped) = bytes.split_at(bytes.len().min(RING - start));
        self.file.write_all_at(here, (HEAD + start) as u64).expect("in the file");
        self.file.write_all_at(wrapped, HEAD as u64).expect("in the file");
    }

    fn count(&self, counter: u64, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), counter).expect("in the file");
    }

    /// A record as a link writes it, of which only the beginning of the payload is given.
    fn record(&mut self, mut header: [u8; HEADER_BYTES], in_place: bool, payload: &[u8], len: usize) {
        header[LINK_BYTE] = in_place.into();
        self.write(self.tail, &header);
        self.write(self.tail.wrapping_add(HEADER_BYTES as u64), payload);
        let body = if in_place { HEADER_BYTES } else { pad(len) };
        self.tail = self.tail.wrapping_add((HEADER_BYTES + body) as u64);
        self.count(TAIL, self.tail);
    }

    /// The rest of the lap is left out.
    fn start_over(&mut self) {
        let mut header = Header::EMPTY.encode();
        header[LINK_BYTE] = STARTS_OVER;
        self.write(self.tail, &header);
        self.tail = (self.tail / RING as u64).wrapping_add(1).wrapping_mul(RING as u64);
        self.count(TAIL, self.tail);
    }

    fn say(&self, bytes: &[u8], files: &[&File]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(&files)));
        // Fails where the socket is full or has ended.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags);
    }

    fn announce(&mut self, id: u64, claimed: u64, len: usize, seals: u32) {
        let content: Vec<u8> = (0..len).map(|at| (at as u64 * 31).wrapping_add(id) as u8).collect();
        let file = memory(&content, seals);
        let may_read = content.len().min(claimed as usize);
        self.memory.push((id, content[..may_read].to_vec()));
        self.say(&[&b"R"[..], &id.to_le_bytes(), &claimed.to_le_bytes()].concat(), &[&file]);
    }
}

fn memory(content: &[u8], seals: u32) -> File {
    let file =
        File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd"));
    file.write_all_at(content, 0).expect("room");
    fcntl_add_seals(&file, SealFlags::from_bits_retain(seals & ALL_SEALS)).expect("it allows seals");
    file
}

/// Something that either side does: which, with what numbers and bytes.
type Event<'a> = (u8, u64, u16, &'a [u8]);

/// The link's side.
struct Near {
    link: ShmLink,
    registry: Arc<Registry>,
    buffers: Vec<SharedBuffer>,
    cookie: u64,
}

impl Near {
    fn submit(&mut self, peer: &mut Peer, len: usize, registered: bool) {
        let plain = [7u8; 9000];
        if registered && (self.buffers.is_empty() || len.is_multiple_of(5)) {
            self.buffers.truncate(3);
            self.buffers.insert(0, SharedBuffer::new(9000, &self.registry).expect("room"));
        }
        let bytes = if registered { self.buffers[0].as_slice() } else { &plain[..] };
        let header = Header { payload_len: len as u32, op: Header::EMPTY.op, ..Header::EMPTY };
        self.cookie += 1;
        let submitted = lend(|lender| self.link.submit(&header, &lender.shared(&bytes[..len]), self.cookie));
        if submitted == Submit::Pending {
            peer.pending.insert(self.cookie);
        }
    }

    fn release(&mut self, peer: &mut Peer) {
        if let Some((view, token)) = peer.kept.pop() {
            // It is readable for so long.
            std::hint::black_box(view.bytes().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
            self.link.release(token);
        }
    }

    /// False once the link has ended.
    fn poll(&mut self, peer: &mut Peer, times: usize) -> bool {
        (0..times).all(|_| self.link.poll(peer).is_ok())
    }
}

/// False once the link has ended.
fn happens((what, a, b, bytes): Event<'_>, peer: &mut Peer, near: &mut Near) -> bool {
    let len = usize::from(b);
    let header = |payload_len| {
        let op = ronde_core::OpId { seq: Seq(a), ..Header::EMPTY.op };
        Header { payload_len, label: b, op, ..Header::EMPTY }.encode()
    };
    match what % 17 {
        0 | 1 => peer.record(header(len as u32 % 5000), false, bytes, len % 5000),
        2 => {
            let descriptor = [(a & 3).to_le_bytes(), (a >> 2 & 0x3fff).to_le_bytes()].concat();
            peer.record(header(len as u32 % 5000), true, &descriptor, 0);
        }
        3 => peer.record(header(a as u32 % (5 << 20)), a & 1 == 1, bytes, a as usize % (5 << 20)),
        4 => peer.write(peer.tail.wrapping_sub(b.into()), bytes),
        5 => {
            peer.tail = if b & 1 == 1 { a } else { peer.tail.wrapping_add_signed((a as i16).into()) };
            peer.count(TAIL, peer.tail);
        }
        6 => peer.count(CONSUMED, if b & 1 == 1 { a } else { u64::from(b) << 5 }),
        7 => peer.count(SLEEPING, a),
        8 if b == 0 => peer.count(REVOKED, a),
        8 => peer.announce(a & 3, (a >> 2 & 0x3fff) + 1, 1 << 14, SHRINK),
        9 => peer.announce(a, b.into(), bytes.len() << (b % 8), a as u32),
        10 => peer.say(bytes, &vec![&peer.file; len % 8]),
        11 => peer.say(&[&b"F"[..], &(a & 7).to_le_bytes()].concat(), &[]),
        12 => peer.say(if a & 7 == 0 { b"B" } else { b"W" }, &[]),
        13 => near.submit(peer, len % 9000, a & 1 == 1),
        14 => near.release(peer),
        15 => peer.start_over(),
        _ if b & 1 == 1 => {
            if near.link.prepare_sleep() {
                near.link.cancel_sleep();
            }
        }
        _ => return near.poll(peer, if b & 2 == 2 { POLLS } else { 1 + len % 8 }),
    }
    true
}

/// A peer that begins otherwise: there is no link then, or one of its ring.
fn begins_badly(peer: &mut Peer, near: UnixStream, (what, a, b, bytes): Event<'_>) {
    match what % 3 {
        0 => peer.announce(RING_ID, a, usize::from(b) * 16, what.into()),
        1 => peer.announce(a, RING as u64, HEAD + RING, SHRINK),
        _ => peer.say(bytes, &vec![&peer.file; usize::from(b) % 8]),
    }
    peer.stream.shutdown(Shutdown::Write).expect("connected");
    let options = ShmOptions { ring_bytes: RING, short_lap: RING / 8 };
    let started = Instant::now();
    let link = ShmLink::connect(0, near, &options, Arc::default(), started + Duration::from_secs(9));
    assert!(started.elapsed() < Duration::from_secs(5), "it waited for somebody who has gone");
    drop(link);
}

fuzz_target!(|input: (Option<Event<'_>>, Vec<Event<'_>>)| {
    let (beginning, events) = input;
    let (here, there) = UnixStream::pair().expect("sockets");
    let mut peer = Peer::new(there);
    if let Some(event) = beginning.filter(|(what, ..)| what & 128 != 0) {
        return begins_badly(&mut peer, here, event);
    }
    peer.say(&[&b"R"[..], &RING_ID.to_le_bytes(), &(RING as u64).to_le_bytes()].concat(), &[&peer.file]);
    let (options, registry) =
        (ShmOptions { ring_bytes: RING, short_lap: RING / 8 }, Arc::<Registry>::default());
    let deadline = Instant::now() + Duration::from_secs(9);
    let link = ShmLink::connect(0, here, &options, registry.clone(), deadline).expect("a good beginning");
    let mut near = Near { link, registry, buffers: Vec::new(), cookie: 0 };
    if events.into_iter().all(|event| happens(event, &mut peer, &mut near)) {
        peer.stream.shutdown(Shutdown::Both).expect("connected");
        // Each poll reads something, until the socket is looked at.
        assert!(!near.poll(&mut peer, POLLS + RING / HEADER_BYTES), "the end was not told");
    }
    near.link.close();
    while !peer.kept.is_empty() {
        near.release(&mut peer);
    }
});
