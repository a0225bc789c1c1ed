//! A pair's link.

use crate::buffer::Registry;
use crate::region::{self, Mapping};
use crate::ring::{Counters, Reader, Writer};
use crate::socket::{End, Message, Socket};
use ronde_core::Segment;
use ronde_core::frame::{HEADER_BYTES, Header, LINK_BYTE, pad};
use ronde_core::memory::Access;
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Receiver, Submit, ViewToken, WakeSource,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Counters take the first page of a region.
const HEAD: usize = 4096;
/// Payloads in registered memory below this are copied all the same: it is cheaper than a completion.
const SMALLEST_IN_PLACE: usize = 4096;
/// Empty polls between two looks at the socket.
const POLLS_PER_LOOK: u32 = 2048;
/// Empty polls after which views that hold up what came behind them are asked back.
const STUCK_POLLS: u32 = 64;
/// Pieces of registered memory that a peer may announce.
const MOST_REGIONS: usize = 1 << 16;
/// Records handed over per poll.
const RECORDS_PER_POLL: usize = 64;
/// Byte of a header that says what a record is: the payload follows...
const MARK: usize = LINK_BYTE;
/// ...or a descriptor of registered memory that it is in...
const IN_PLACE: u8 = 1;
/// ...or nothing: the ring goes on at its beginning.
const START_OVER: u8 = 2;

/// Sizes of a link.
#[derive(Clone, Debug)]
pub struct ShmOptions {
    /// Bytes of each direction's ring, a power of two of at least 64 KiB. Default 1 MiB.
    pub ring_bytes: usize,
    /// A ring starts over at its beginning once so much of it was given back. Default all of it.
    pub short_lap: usize,
}

/// What the rings of a machine may take of its caches.
const CACHED_BYTES: usize = 4 << 20;
/// Starting over costs a record, and a look at a counter of the peer's.
const SHORTEST_LAP: usize = 64 << 10;

/// Largest payload beside a ring of this size: several fit, so that one can be filled while another is read.
const fn max_payload(ring_bytes: usize) -> usize {
    ring_bytes / 4
}

impl ShmOptions {
    /// For the links among so many processes of a machine. Each of two had better go round all of its ring, of whose lines the
    /// other's cache has given up most by then; the rings of many would push all else out of the caches.
    pub fn among(processes: usize) -> ShmOptions {
        let rings = processes.saturating_mul(processes.saturating_sub(1)).max(1);
        ShmOptions { short_lap: (CACHED_BYTES / rings).max(SHORTEST_LAP), ..ShmOptions::default() }
    }

    /// Largest payload of one frame.
    pub fn max_payload(&self) -> usize {
        max_payload(self.ring())
    }

    fn ring(&self) -> usize {
        self.ring_bytes.max(64 << 10).next_power_of_two()
    }
}

impl Default for ShmOptions {
    fn default() -> ShmOptions {
        ShmOptions { ring_bytes: 1 << 20, short_lap: 1 << 20 }
    }
}

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShmError {
    #[error("shared memory: {0}")]
    Os(#[from] std::io::Error),
    #[error("the peer did not send its region in time")]
    Timeout,
    #[error("the peer's region is not what it should be")]
    Region,
}

/// A link over shared memory.
pub struct ShmLink {
    link: usize,
    ring_bytes: usize,
    mine: Mapping,
    theirs: Mapping,
    socket: Socket,
    registry: Arc<Registry>,
    writer: Writer,
    /// Ends of records whose payload the peer reads in place, with their cookies.
    pending: VecDeque<(u64, u64)>,
    reader: Reader,
    woken: u64,
    empty_polls: u32,
    /// Empty polls since views began to hold up the peer.
    stuck_polls: u32,
    /// Regions that the peer knows.
    known_there: Vec<u64>,
    drops_seen: u64,
    /// The peer's registered memory.
    known_here: BTreeMap<u64, Mapping>,
    /// Of that, what it has taken back and views may still be of.
    forgotten: BTreeSet<u64>,
    bye: bool,
    ended: Option<LinkFailure>,
}

impl ShmLink {
    /// Makes a link over a connected and authenticated socket; both sides call it.
    pub fn connect(
        link: usize,
        stream: UnixStream,
        options: &ShmOptions,
        registry: Arc<Registry>,
        deadline: Instant,
    ) -> Result<ShmLink, ShmError> {
        let ring_bytes = options.ring();
        let file = region::create("ronde-ring", HEAD + ring_bytes).map_err(std::io::Error::from)?;
        let mine = Mapping::mirrored(file.as_fd(), HEAD, ring_bytes, true).map_err(std::io::Error::from)?;
        let mut socket = Socket::new(stream);
        if !socket.region(u64::MAX, ring_bytes as u64, &file) || !socket.is_flushed() {
            return Err(ShmError::Region);
        }
        let (their_bytes, their_file, others) = await_region(&mut socket, deadline)?;
        if their_bytes != ring_bytes as u64 || !region::is_sound(&their_file, HEAD + ring_bytes) {
            return Err(ShmError::Region);
        }
        let theirs =
            Mapping::mirrored(their_file.as_fd(), HEAD, ring_bytes, false).map_err(std::io::Error::from)?;
        socket.stream().set_nonblocking(true)?;
        let mut link = ShmLink {
            link,
            ring_bytes,
            mine,
            theirs,
            socket,
            registry,
            writer: Writer::new(ring_bytes, options.short_lap.min(ring_bytes)),
            pending: VecDeque::with_capacity(64),
            reader: Reader::new(ring_bytes),
            woken: 0,
            empty_polls: 0,
            stuck_polls: 0,
            known_there: Vec::new(),
            drops_seen: 0,
            known_here: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            bye: false,
            ended: None,
        };
        // The peer may have been ready first, and said more.
        others.into_iter().for_each(|message| link.take_in(message));
        Ok(link)
    }

    fn counters(mapping: &Mapping) -> &Counters {
        // SAFETY: the first page of every region is the counters; it is aligned, lives as long as the
        // mapping, and is only touched through atomics. In the peer's region this side only loads.
        unsafe { &*mapping.at(0).cast::<Counters>() }
    }

    fn my_counters(&self) -> &Counters {
        Self::counters(&self.mine)
    }

    fn their_counters(&self) -> &Counters {
        Self::counters(&self.theirs)
    }

    fn ring_at(&self, mapping: &Mapping, position: u64, len: usize) -> Segment {
        let offset = HEAD + (position as usize & (self.ring_bytes - 1));
        // SAFETY: the ring is mapped twice in a row, so `len` (at most the ring's size) bytes from any
        // position are mapped; the counters keep writer and reader off each other's bytes.
        unsafe { Segment::from_raw(mapping.at(offset), len) }
    }

    fn wake_peer(&mut self) {
        if let Some(sleep) = self.their_counters().must_wake(self.woken) {
            self.woken = sleep;
            self.socket.wake();
        }
    }

    /// Where a record of so many bytes may be written, if anywhere.
    fn room(&mut self, bytes: usize) -> Option<u64> {
        if let Some(from) = self.writer.start_over(bytes, Self::counters(&self.theirs)) {
            let mut head = Header::EMPTY.encode();
            head[MARK] = START_OVER;
            self.ring_at(&self.mine, from, HEADER_BYTES).fill_from(&head);
        }
        self.writer.room(bytes, Self::counters(&self.theirs))
    }

    /// Lets the peer see a record; returns where it ends.
    fn publish(&mut self, bytes: usize) -> u64 {
        let end = self.writer.publish(bytes, Self::counters(&self.mine));
        self.wake_peer();
        end
    }

    /// Sends where the payload lies instead of the payload.
    fn submit_in_place(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Option<Submit> {
        if payload.len() < SMALLEST_IN_PLACE {
            return None;
        }
        let (buffer, offset) = self.registry.find(payload)?;
        // One at a time: a peer that reads nothing would have a descriptor wait for it with each.
        if !self.socket.is_flushed() {
            return None;
        }
        if !self.known_there.contains(&buffer.id) {
            if !self.socket.region(buffer.id, buffer.len() as u64, &buffer.file) {
                return None;
            }
            self.known_there.push(buffer.id);
            // A record must not be there before the region that it names.
            if !self.socket.is_flushed() {
                return None;
            }
        }
        // Asked for last: what starts over has to be followed by the record that it was done for.
        let Some(position) = self.room(2 * HEADER_BYTES) else { return Some(Submit::Full) };
        let mut head = header.encode();
        head[MARK] = IN_PLACE;
        let record = self.ring_at(&self.mine, position, 2 * HEADER_BYTES);
        record.fill_from(&head);
        record.slice(HEADER_BYTES, 8).fill_from(&buffer.id.to_le_bytes());
        record.slice(HEADER_BYTES + 8, 8).fill_from(&(offset as u64).to_le_bytes());
        let end = self.publish(2 * HEADER_BYTES);
        self.pending.push_back((end, cookie));
        Some(Submit::Pending)
    }

    /// Tells the peer of registered memory that is gone.
    fn forget_dropped(&mut self) {
        let drops = self.registry.drops();
        if drops == self.drops_seen {
            return;
        }
        self.drops_seen = drops;
        for at in (0..self.known_there.len()).rev() {
            if !self.registry.contains(self.known_there[at]) {
                let id = self.known_there.swap_remove(at);
                self.socket.forget(id);
            }
        }
    }

    fn report_sent(&mut self, receiver: &mut dyn Receiver) -> bool {
        let Some((end, _)) = self.pending.front() else { return false };
        let given_back = self.writer.given_back(Self::counters(&self.theirs));
        if *end > given_back {
            return false;
        }
        while let Some((end, cookie)) = self.pending.front().copied() {
            if end > given_back {
                break;
            }
            self.pending.pop_front();
            receiver.sent(self.link, cookie);
        }
        true
    }

    /// Reads the socket: regions, the end.
    fn look_at_socket(&mut self) {
        let mut messages = Vec::new();
        let end = self.socket.read(|message| messages.push(message));
        messages.into_iter().for_each(|message| self.take_in(message));
        let failure = match end {
            End::Open => return,
            End::Ended if self.bye => LinkFailure::Closed,
            End::Ended => LinkFailure::PeerDied,
            End::Broken => LinkFailure::Violation("bytes on the socket that mean nothing"),
        };
        self.ended.get_or_insert(failure);
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Bye => self.bye = true,
            Message::Forget(id) => {
                if !self.known_here.contains_key(&id) || !self.forgotten.insert(id) {
                    let why = "memory that was not shared is taken back";
                    self.ended.get_or_insert(LinkFailure::Violation(why));
                }
            }
            Message::Region(id, len, file) => {
                if let Err(why) = self.learn_region(id, len, &file) {
                    self.ended.get_or_insert(LinkFailure::Violation(why));
                }
            }
        }
    }

    fn learn_region(&mut self, id: u64, len: u64, file: &std::os::fd::OwnedFd) -> Result<(), &'static str> {
        // Views of the first may be out: its mapping must stay.
        if id == u64::MAX || self.known_here.contains_key(&id) {
            return Err("memory that was announced twice");
        }
        if self.known_here.len() >= MOST_REGIONS {
            return Err("more pieces of registered memory than a process can have");
        }
        let len = usize::try_from(len).ok().filter(|&len| len > 0 && region::is_sound(file, len));
        let len = len.ok_or("registered memory that is not sealed, or shorter than announced")?;
        let mapping =
            Mapping::of(file.as_fd(), len, false).map_err(|_| "registered memory that cannot be mapped")?;
        self.known_here.insert(id, mapping);
        Ok(())
    }

    /// Memory of the peer may only be unmapped while no view of it is out.
    fn unmap_forgotten(&mut self) {
        if !self.forgotten.is_empty() && self.reader.holds_none() {
            for id in std::mem::take(&mut self.forgotten) {
                self.known_here.remove(&id);
            }
        }
    }

    fn read_record(&mut self, tail: u64, receiver: &mut dyn Receiver) -> Result<(), LinkFailure> {
        let violation = LinkFailure::Violation;
        let start = self.reader.head();
        if tail - start < HEADER_BYTES as u64 {
            return Err(violation("a record shorter than its header"));
        }
        let mut head = [0u8; HEADER_BYTES];
        head.copy_from_slice(self.ring_at(&self.theirs, start, HEADER_BYTES).bytes());
        let mark = std::mem::take(&mut head[MARK]);
        let header = Header::decode(&head)?;
        let len = header.payload_len as usize;
        let body = match mark {
            0 => pad(len),
            IN_PLACE => HEADER_BYTES,
            START_OVER if header == Header::EMPTY => {
                let starts_over_within = self.reader.start_over() <= tail;
                return starts_over_within
                    .then_some(())
                    .ok_or(violation("a lap longer than what was published"));
            }
            _ => return Err(violation("an unknown kind of record")),
        };
        let end = start + (HEADER_BYTES + body) as u64;
        if end > tail {
            return Err(violation("a record longer than what was published"));
        }
        let payload = match mark {
            0 => self.ring_at(&self.theirs, start + HEADER_BYTES as u64, len),
            _ => self.their_memory(start + HEADER_BYTES as u64, len)?,
        };
        let number = self.reader.take(end);
        if !receiver.arrived(self.link, &header, Payload::View(payload, ViewToken(number))) {
            self.reader.give_back(number);
        }
        Ok(())
    }

    /// The bytes of the peer's registered memory that a descriptor names.
    fn their_memory(&mut self, position: u64, len: usize) -> Result<Segment, LinkFailure> {
        let descriptor = self.ring_at(&self.theirs, position, 16);
        let word =
            |at: usize| u64::from_le_bytes(descriptor.bytes()[at..at + 8].try_into().unwrap_or([0; 8]));
        let (id, offset) = (word(0), word(8));
        if !self.known_here.contains_key(&id) {
            self.look_at_socket();
        }
        let unknown = LinkFailure::Violation("a descriptor of memory that was not shared");
        let mapping = self.known_here.get(&id).ok_or(unknown)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > mapping.len()) {
            return Err(LinkFailure::Violation("a descriptor that leaves its memory"));
        }
        // SAFETY: in bounds of a sealed mapping that stays while views are out (`unmap_forgotten`). The
        // peer promises not to write the bytes before this side gives them back.
        Ok(unsafe { Segment::from_raw(mapping.at(offset), len) })
    }

    /// Lets the peer see what was given back.
    fn announce_consumed(&mut self) {
        if self.reader.announce(Self::counters(&self.mine)) {
            self.wake_peer();
        }
    }

    /// Ring space and the sends of registered memory come back to the peer in order. A view may have to
    /// wait for what another peer sends, which may wait for what this link holds up.
    fn unblock(&mut self, receiver: &mut dyn Receiver) {
        if !self.reader.holds_up_the_writer() {
            self.stuck_polls = 0;
            return;
        }
        self.stuck_polls += 1;
        if self.stuck_polls >= STUCK_POLLS {
            self.stuck_polls = 0;
            receiver.give_up_views(self.link);
        }
    }

    /// After the receiver had a chance to read: fails if the peer has taken its memory back.
    fn check_lent(&self) -> Result<(), LinkFailure> {
        if self.their_counters().has_revoked() { Err(LinkFailure::Revoked) } else { Ok(()) }
    }

    fn nothing_came(&mut self) -> Result<(), LinkFailure> {
        self.empty_polls += 1;
        if self.empty_polls >= POLLS_PER_LOOK {
            self.empty_polls = 0;
            self.look_at_socket();
            self.unmap_forgotten();
            self.forget_dropped();
        }
        match &self.ended {
            // What was published before the end is delivered first.
            Some(failure) if self.reader.has_read_all(self.their_counters()) => Err(*failure),
            _ => Ok(()),
        }
    }
}

/// The peer's ring, which comes first on the socket, and what else came with it.
fn await_region(
    socket: &mut Socket,
    deadline: Instant,
) -> Result<(u64, std::os::fd::OwnedFd, Vec<Message>), ShmError> {
    loop {
        let mut messages = VecDeque::new();
        let end = socket.read(|message| messages.push_back(message));
        match messages.pop_front() {
            Some(Message::Region(u64::MAX, len, file)) => return Ok((len, file, messages.into())),
            Some(_) => return Err(ShmError::Region),
            None => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if end != End::Open || left.is_zero() {
            return Err(ShmError::Timeout);
        }
        let mut set = [rustix::event::PollFd::new(socket.stream(), rustix::event::PollFlags::IN)];
        let left =
            rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut set, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
}

impl Link for ShmLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "shm",
            views: true,
            max_payload: max_payload(self.ring_bytes),
            syscall_per_frame: false,
            registered_memory: true,
        }
    }

    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit {
        if let Some(answer) = self.submit_in_place(header, payload, cookie) {
            return answer;
        }
        let bytes = HEADER_BYTES + pad(payload.len());
        let Some(position) = self.room(bytes) else { return Submit::Full };
        let record = self.ring_at(&self.mine, position, bytes);
        record.fill_from(&header.encode());
        if !payload.is_empty() {
            payload.copy_to(&record.slice(HEADER_BYTES, payload.len()));
        }
        self.publish(bytes);
        Submit::Sent
    }

    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let sent = self.report_sent(receiver);
        let tail = self.reader.published(self.their_counters());
        let tail = tail.ok_or(LinkFailure::Violation("a position that cannot be"))?;
        if tail == self.reader.head() {
            self.announce_consumed();
            self.unblock(receiver);
            // The receiver may have read lent memory just now.
            self.check_lent()?;
            self.nothing_came()?;
            return Ok(sent);
        }
        for _ in 0..RECORDS_PER_POLL {
            if self.reader.head() == tail {
                break;
            }
            self.read_record(tail, receiver)?;
        }
        self.announce_consumed();
        self.check_lent()?;
        Ok(true)
    }

    fn release(&mut self, token: ViewToken) {
        self.reader.give_back(token.0);
        self.announce_consumed();
    }

    fn prepare_sleep(&mut self) -> bool {
        // Who sleeps polls rarely.
        self.stuck_polls += STUCK_POLLS / 2;
        self.look_at_socket();
        self.forget_dropped();
        self.announce_consumed();
        self.my_counters().start_sleep();
        let theirs = self.their_counters();
        // Room that was asked for since the last poll may have taken note of it.
        let theirs_given_back = theirs.given_back();
        let is_sent = |&(end, _): &(u64, u64)| theirs_given_back >= end;
        let unreported = self.pending.front().is_some_and(is_sent);
        let news = !self.reader.has_read_all(theirs)
            || self.writer.has_news(theirs)
            || unreported
            || self.ended.is_some();
        if news {
            self.writer.given_back(Self::counters(&self.theirs));
            self.empty_polls = POLLS_PER_LOOK;
        }
        !news
    }

    fn cancel_sleep(&mut self) {
        self.my_counters().end_sleep();
        self.look_at_socket();
    }

    fn wake_source(&self) -> Option<WakeSource> {
        Some(WakeSource { descriptor: self.socket.stream().as_raw_fd(), write: false })
    }

    fn is_sound(&self) -> bool {
        !self.their_counters().has_revoked()
    }

    fn close(&mut self) {
        // The owners of memory that is lent get it back now, whether the peer has read it or not.
        if !self.pending.is_empty() {
            self.my_counters().revoke();
        }
        self.socket.bye();
        let _ = self.socket.stream().shutdown(std::net::Shutdown::Write);
    }
}
