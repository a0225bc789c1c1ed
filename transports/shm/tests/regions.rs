//! Registered memory between two links: announced early, twice, or badly.
#![allow(missing_docs)]

use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::memory::Access;
use ronde_core::transport::{Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken};
use ronde_shm::{Registry, SharedBuffer, ShmLink, ShmOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keeps every view.
#[derive(Default)]
struct Keep(Vec<(Segment, ViewToken)>);

impl Receiver for Keep {
    fn place(&mut self, _: usize, _: &Header) -> Placement {
        Placement::Discard
    }
    fn arrived(&mut self, _: usize, _: &Header, payload: Payload) -> bool {
        let Payload::View(segment, token) = payload else { return false };
        self.0.push((segment, token));
        true
    }
    fn sent(&mut self, _: usize, _: u64) {}
}

fn connect(stream: UnixStream, registry: &Arc<Registry>) -> ShmLink {
    let deadline = Instant::now() + Duration::from_secs(20);
    ShmLink::connect(0, stream, &ShmOptions::default(), registry.clone(), deadline).unwrap()
}

/// Two links over a socket.
fn connected((a, b): (UnixStream, UnixStream), registry: &Arc<Registry>) -> (ShmLink, ShmLink) {
    let other = std::thread::spawn(move || connect(b, &Arc::default()));
    let near = connect(a, registry);
    (near, other.join().unwrap())
}

/// Polls until something is there.
fn receive(link: &mut ShmLink) -> Result<Keep, LinkFailure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut kept = Keep::default();
    while kept.0.is_empty() {
        assert!(Instant::now() < deadline, "nothing came");
        link.poll(&mut kept)?;
    }
    Ok(kept)
}

fn send_registered(link: &mut ShmLink, buffer: &SharedBuffer) {
    let header = Header { payload_len: buffer.len() as u32, ..Header::EMPTY };
    // SAFETY: the tests keep the buffer and write nothing until their end.
    let payload = unsafe { buffer.segment() };
    assert_eq!(link.submit(&header, &payload, 1), Submit::Pending);
}

/// One side may be ready, and use registered memory, before the other has read its first message.
#[test]
fn registered_memory_right_after_connecting() {
    for round in 0..300 {
        let (a, b) = UnixStream::pair().unwrap();
        let other = std::thread::spawn(move || {
            let mut link = connect(b, &Arc::default());
            receive(&mut link).map(|kept| kept.0[0].0.bytes()[0])
        });
        let registry = Arc::new(Registry::new());
        let mut link = connect(a, &registry);
        let mut buffer = SharedBuffer::new(8192, &registry).unwrap();
        buffer.as_mut_slice::<u8>().fill(7);
        send_registered(&mut link, &buffer);
        assert_eq!(other.join().unwrap(), Ok(7), "round {round}");
    }
}

#[test]
fn a_region_announced_twice_ends_the_link_and_spares_the_view() {
    let (a, b) = UnixStream::pair().unwrap();
    let raw = a.try_clone().unwrap();
    let registry = Arc::new(Registry::new());
    let (mut near, mut far) = connected((a, b), &registry);
    let mut buffer = SharedBuffer::new(8192, &registry).unwrap();
    buffer.as_mut_slice::<u8>().fill(7);
    send_registered(&mut near, &buffer);
    let kept = receive(&mut far).unwrap();

    // The same number again, for other memory.
    let file = rustix::fs::memfd_create("other", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 1 << 20).unwrap();
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK).unwrap();
    let message = [&b"R"[..], &0u64.to_le_bytes(), &(1u64 << 20).to_le_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(&raw, &[IoSlice::new(&message)], &mut control, SendFlags::empty()).unwrap();

    assert!(!far.prepare_sleep(), "there is news");
    let failure = far.poll(&mut Keep::default()).unwrap_err();
    assert!(matches!(failure, LinkFailure::Violation(why) if why.contains("twice")), "{failure}");
    assert!(kept.0[0].0.bytes().iter().all(|&byte| byte == 7));
}

/// What a peer has taken back is remembered while views are out: it must not be able to have anything remembered.
#[test]
fn memory_that_was_not_shared_cannot_be_taken_back() {
    let (a, b) = UnixStream::pair().unwrap();
    let mut raw = a.try_clone().unwrap();
    let registry = Arc::new(Registry::new());
    let (mut near, mut far) = connected((a, b), &registry);
    let buffer = SharedBuffer::new(8192, &registry).unwrap();
    send_registered(&mut near, &buffer);
    let _view = receive(&mut far).unwrap();
    drop(buffer);
    near.prepare_sleep();
    assert!(far.prepare_sleep(), "what was shared may be taken back, once");
    raw.write_all(&[&b"F"[..], &0u64.to_le_bytes()].concat()).unwrap();
    assert!(!far.prepare_sleep(), "there is news");
    let failure = far.poll(&mut Keep::default()).unwrap_err();
    assert!(matches!(failure, LinkFailure::Violation(why) if why.contains("not shared")), "{failure}");
}

/// Descriptors of a process that are memory for peers.
fn descriptors_of_memory() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter(|fd| {
        std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("ronde-memory"))
    })
    .count()
}

/// A peer that reads nothing must not use up the descriptors of whoever sends to it.
#[test]
fn memory_waits_for_a_peer_that_does_not_hear_of_it() {
    let (a, b) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&a, 1).unwrap();
    let registry = Arc::new(Registry::new());
    let (mut near, _far) = connected((a, b), &registry);
    let header = Header { payload_len: 8192, ..Header::EMPTY };
    let mut was_copied = false;
    for _ in 0..800 {
        let buffer = SharedBuffer::new(8192, &registry).unwrap();
        // SAFETY: nobody writes to it, and the other side reads nothing.
        was_copied |= near.submit(&header, &unsafe { buffer.segment() }, 1) != Submit::Pending;
    }
    assert!(was_copied, "the socket has room for all");
    assert!(descriptors_of_memory() < 100, "{}", descriptors_of_memory());
}

/// Descriptors that belong to no message must not pile up.
#[test]
fn stray_descriptors_end_the_link() {
    let (a, b) = UnixStream::pair().unwrap();
    let raw = a.try_clone().unwrap();
    let (_near, mut far) = connected((a, b), &Arc::default());
    let mut failed = false;
    for _ in 0..200 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [raw.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&raw, &[IoSlice::new(b"W")], &mut control, SendFlags::empty()).unwrap();
        far.prepare_sleep();
        failed |= far.poll(&mut Keep::default()).is_err();
    }
    assert!(failed);
}

/// The sender's op ends before the other side has read its memory: that side must not take what it reads.
#[test]
fn memory_that_was_taken_back_is_not_taken_for_data() {
    let registry = Arc::new(Registry::new());
    let (mut near, mut far) = connected(UnixStream::pair().unwrap(), &registry);
    let mut buffer = SharedBuffer::new(8192, &registry).unwrap();
    send_registered(&mut near, &buffer);
    assert!(far.is_sound());
    near.close();
    buffer.as_mut_slice::<u8>().fill(9);
    assert!(!far.is_sound());
    assert_eq!(far.poll(&mut Keep::default()), Err(LinkFailure::Revoked));
}

/// A link that closes with nothing lent takes nothing back.
#[test]
fn what_was_sent_before_an_orderly_end_is_sound() {
    let (mut near, mut far) = connected(UnixStream::pair().unwrap(), &Arc::default());
    assert_eq!(near.submit(&Header { payload_len: 0, ..Header::EMPTY }, &Segment::EMPTY, 1), Submit::Sent);
    near.close();
    assert_eq!(far.poll(&mut Keep::default()), Ok(true));
    assert!(far.is_sound());
}

/// A receiver that is asked for its views reads them then: that must be checked like any other reading.
struct CopiesWhenAsked {
    kept: Vec<(Segment, ViewToken)>,
    asked: bool,
}

impl Receiver for CopiesWhenAsked {
    fn place(&mut self, _: usize, _: &Header) -> Placement {
        Placement::Discard
    }
    fn arrived(&mut self, _: usize, header: &Header, payload: Payload) -> bool {
        let Payload::View(segment, token) = payload else { return false };
        // Keeps the first, so that what comes after it is held up.
        let keep = header.payload_len > 0;
        if keep {
            self.kept.push((segment, token));
        }
        keep
    }
    fn sent(&mut self, _: usize, _: u64) {}
    fn give_up_views(&mut self, _: usize) {
        self.asked = true;
    }
}

#[test]
fn views_copied_on_request_are_not_taken_for_data_if_taken_back() {
    let registry = Arc::new(Registry::new());
    let (mut near, mut far) = connected(UnixStream::pair().unwrap(), &registry);
    let buffer = SharedBuffer::new(8192, &registry).unwrap();
    send_registered(&mut near, &buffer);
    assert_eq!(near.submit(&Header { payload_len: 0, ..Header::EMPTY }, &Segment::EMPTY, 2), Submit::Sent);
    let mut receiver = CopiesWhenAsked { kept: Vec::new(), asked: false };
    far.poll(&mut receiver).unwrap();
    near.close();
    let mut polled = Ok(true);
    for _ in 0..1000 {
        polled = far.poll(&mut receiver);
        if receiver.asked || polled.is_err() {
            break;
        }
    }
    assert_eq!(polled, Err(LinkFailure::Revoked));
}
