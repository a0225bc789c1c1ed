//! Links between simulated processes.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::Segment;
use ronde_core::frame::{FrameKind, Header};
use ronde_core::memory::{Access, Arena};
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often links misbehave, in 256ths; drawn from the seed so that every mixture occurs.
#[derive(Clone, Debug)]
pub struct Rates {
    full: u32,
    pending: u32,
    hold: u32,
    reorder: u32,
    duplicate: u32,
    /// Of a payload the first half comes alone.
    halves: u32,
    /// Links hand out views.
    views: bool,
    /// Bytes of a direction of a link with views; they come back in the order in which they went.
    ring: usize,
    /// In 65536ths: the connection of a link without views is cut. What was lost is sent again once there is another.
    cut: u32,
}

impl Rates {
    /// Rates from a seed's generator.
    pub fn draw(rng: &mut SmallRng) -> Rates {
        // Everything else stays as it was drawn.
        let mut others = SmallRng::seed_from_u64(rng.clone().random::<u64>() ^ 0xc07);
        let cut = if others.random() { others.random_range(0..128) } else { 0 };
        let mut rate = |most: u32| if rng.random() { rng.random_range(0..most) } else { 0 };
        Rates {
            full: rate(128),
            pending: rate(257),
            hold: rate(200),
            reorder: rate(257),
            duplicate: rate(64),
            halves: rate(128),
            views: rate(2) == 1 || rng.random(),
            ring: 1 << rng.random_range(12..17),
            cut,
        }
    }
}

/// What becomes of what a process has sent and that has not arrived when it dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum InFlight {
    /// All of it arrives.
    Delivered,
    /// Nothing of it arrives.
    Lost,
    /// Of each connection what was sent first arrives, up to some point, which may be within a frame.
    Cut,
}

impl InFlight {
    /// How many of so many, sent one after the other on one connection, arrive.
    pub(crate) fn kept(self, sent: usize, rng: &mut SmallRng) -> usize {
        match self {
            InFlight::Delivered => sent,
            InFlight::Lost => 0,
            InFlight::Cut => rng.random_range(0..=sent),
        }
    }
}

/// A process dies right before something happens.
#[derive(Clone, Copy, Debug)]
struct Doom {
    /// Number of what does not happen any more, or not to this process.
    event: u64,
    process: usize,
    in_flight: InFlight,
}

/// Idle polls after which views that hold up the ring are asked back.
const STUCK_POLLS: u32 = 8;
/// So often at most either side of a connection that is cut looks before there is another.
const LONGEST_CUT: u32 = 200;

enum Bytes {
    /// The sender's memory, not to be touched by it before delivery.
    Lent(Segment, u64),
    /// The first so many bytes.
    Copied(Arena, usize),
}

/// Memory for copies, used over and over; by the logarithm of its length.
#[derive(Default)]
struct Pool([Vec<Arena>; 24]);

impl Pool {
    fn class(len: usize) -> usize {
        len.next_power_of_two().ilog2() as usize
    }

    fn copy(&mut self, payload: &Segment) -> Bytes {
        let len = payload.len();
        if len == 0 {
            return Bytes::Copied(Arena::new(0), 0);
        }
        let class = Pool::class(len);
        let arena = self.0[class].pop().unwrap_or_else(|| Arena::new(1 << class));
        payload.copy_to(&arena.segment(0, len));
        Bytes::Copied(arena, len)
    }

    fn take_back(&mut self, arena: Arena) {
        if !arena.is_empty() {
            self.0[Pool::class(arena.len())].push(arena);
        }
    }
}

impl Bytes {
    fn segment(&self) -> Segment {
        match self {
            Bytes::Lent(segment, _) => segment.clone(),
            Bytes::Copied(arena, len) => arena.segment(0, *len),
        }
    }
}

struct Message {
    header: Header,
    bytes: Bytes,
    /// Half of the payload comes, and then nothing more.
    torn: bool,
}

/// From one process to another.
#[derive(Default)]
struct Direction {
    /// Frames on the way.
    frames: Vec<Message>,
    /// Cookies of sends that have left.
    sent: Vec<u64>,
    /// Bytes on the way and not given back.
    used: usize,
    /// Memory that was lent has been taken back.
    revoked: bool,
    /// The connection was cut when its sender died: what had not arrived never does.
    lost: bool,
}

struct Wire {
    /// Links are streams of bytes, not rings of frames.
    streams: bool,
    /// By (from, to).
    directions: Vec<Direction>,
    /// By (lower, higher): for so many looks its connection is cut.
    cut_for: Vec<u32>,
    /// What links did to those who use them.
    faults: Faults,
    /// By process: it has died.
    dead: Vec<bool>,
    /// By process, a bit for each other: polling its link would do something.
    due: Vec<Vec<u64>>,
    /// Frames accepted or delivered and control messages delivered so far.
    events: u64,
    /// What they were, in one number.
    trace: u64,
    dooms: Vec<Doom>,
    /// Whose doom has come and was not asked for yet.
    struck: Vec<(usize, InFlight)>,
    pool: Pool,
    rng: SmallRng,
}

/// What links have done to those who use them.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Connections that were cut, and what was on its way sent again.
    pub cuts: usize,
    /// Payloads that were still being written when their link was fenced or closed.
    pub late_writes: usize,
}

impl Wire {
    /// Where the connection of two is among all.
    fn pair(&self, one: usize, other: usize) -> usize {
        one.min(other) * self.dead.len() + one.max(other)
    }

    /// Whether nothing arrives just now, seen by one of both: its connection is cut, perhaps since now.
    fn is_cut(&mut self, one: usize, other: usize, rate: u32) -> bool {
        if rate == 0 {
            return false;
        }
        let pair = self.pair(one, other);
        if self.cut_for[pair] > 0 {
            self.cut_for[pair] -= 1;
            return true;
        }
        // Nobody makes another connection to the dead.
        if self.dead[one] || self.dead[other] || self.rng.random_range(0..1 << 16) >= rate {
            return false;
        }
        self.cut_for[pair] = self.rng.random_range(1..LONGEST_CUT);
        self.faults.cuts += 1;
        true
    }

    fn make_due(&mut self, process: usize, other: usize) {
        self.due[process][other / 64] |= 1 << (other % 64);
    }

    fn kill(&mut self, process: usize, in_flight: InFlight) {
        let processes = self.dead.len();
        self.dead[process] = true;
        for other in (0..processes).filter(|&other| other != process) {
            let pair = self.pair(process, other);
            let is_cut = std::mem::take(&mut self.cut_for[pair]) > 0;
            let in_flight = if is_cut { InFlight::Lost } else { in_flight };
            let Direction { frames, lost, .. } = &mut self.directions[process * processes + other];
            *lost = is_cut;
            let kept = in_flight.kept(frames.len(), &mut self.rng);
            let torn = in_flight == InFlight::Cut && self.streams && kept < frames.len();
            frames.truncate(kept + usize::from(torn));
            if let Some(last) = frames.last_mut().filter(|_| torn) {
                last.torn = true;
            }
            self.make_due(other, process);
        }
    }

    /// Something is about to happen, unless somebody's death prevents it.
    fn count_event(&mut self, what: &[u64]) {
        let event = self.events;
        self.events += 1;
        for word in what {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        while let Some(at) = self.dooms.iter().position(|doom| doom.event == event) {
            let Doom { process, in_flight, .. } = self.dooms.swap_remove(at);
            if !self.dead[process] {
                self.kill(process, in_flight);
                self.struck.push((process, in_flight));
            }
        }
    }

    /// Counts what a process does with a frame, unless that is dead; false if it does not happen.
    fn happens_to(&mut self, process: usize, header: &Header) -> bool {
        if !self.dead[process] {
            let Header { kind, payload_len, op, epoch, window, label, digest, .. } = header;
            let frame = u64::from(*payload_len) << 32 | u64::from(*label) << 8 | *kind as u64;
            self.count_event(&[process as u64, frame, op.seq.0, epoch.0 << 32 | u64::from(*window), *digest]);
        }
        !self.dead[process]
    }
}

/// The links between all processes that a job may have in its life.
pub struct Network {
    processes: usize,
    rates: Rates,
    wire: Arc<Mutex<Wire>>,
}

impl Network {
    /// A full mesh of so many.
    pub fn new(processes: usize, rates: Rates, seed: u64) -> Network {
        let wire = Wire {
            streams: !rates.views,
            directions: (0..processes * processes).map(|_| Direction::default()).collect(),
            cut_for: vec![0; processes * processes],
            faults: Faults::default(),
            dead: vec![false; processes],
            due: vec![vec![0; processes.div_ceil(64)]; processes],
            events: 0,
            trace: 0,
            dooms: Vec::new(),
            struck: Vec::new(),
            pool: Pool::default(),
            rng: SmallRng::seed_from_u64(seed),
        };
        Network { processes, rates, wire: Arc::new(Mutex::new(wire)) }
    }

    /// Whether the links are like sockets.
    pub fn syscall_per_frame(&self) -> bool {
        !self.rates.views
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process dies: its links end once what arrives of what it had sent is delivered.
    pub fn kill(&self, process: usize, in_flight: InFlight) {
        self.wire().kill(process, in_flight);
    }

    /// A process will die right before the event with this number.
    pub(crate) fn doom(&self, process: usize, event: u64, in_flight: InFlight) {
        self.wire().dooms.push(Doom { event, process, in_flight });
    }

    /// Counts an event that is about to happen elsewhere than on a link.
    pub(crate) fn count_event(&self, what: &[u64]) {
        self.wire().count_event(what);
    }

    /// Events until now.
    pub(crate) fn events(&self) -> u64 {
        self.wire().events
    }

    /// What they were, in one number.
    pub(crate) fn trace(&self) -> u64 {
        self.wire().trace
    }

    /// What links have done until now.
    pub(crate) fn faults(&self) -> Faults {
        self.wire().faults
    }

    /// A process whose doom has come.
    pub(crate) fn take_struck(&self) -> Option<(usize, InFlight)> {
        self.wire().struck.pop()
    }

    /// The links of a process have nothing to do.
    pub(crate) fn is_still(&self, process: usize) -> bool {
        self.wire().due[process].iter().all(|bits| *bits == 0)
    }

    /// The processes to which the links of one have something to do.
    pub(crate) fn due(&self, process: usize, others: &mut Vec<usize>) {
        others.clear();
        for (word, &bits) in self.wire().due[process].iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                others.push(word * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }

    /// The link from a process to another, which it knows by this number.
    pub fn link(&self, me: usize, other: usize, number: usize) -> Box<dyn Link> {
        Box::new(SimLink {
            peer: number,
            me,
            other,
            out: me * self.processes + other,
            back: other * self.processes + me,
            rates: self.rates.clone(),
            wire: self.wire.clone(),
            views: Vec::new(),
            records: VecDeque::new(),
            stuck: 0,
            lent: 0,
            sent: Vec::new(),
            next_view: 0,
            half: None,
            ended: false,
        })
    }
}

struct SimLink {
    /// Number of the other side in the job.
    peer: usize,
    /// The processes on both sides.
    me: usize,
    other: usize,
    out: usize,
    back: usize,
    rates: Rates,
    wire: Arc<Mutex<Wire>>,
    /// Handed out: copies (a ring), or the sender's own memory (registered memory).
    views: Vec<(u64, Bytes)>,
    next_view: u64,
    /// Half of it is here, and where the rest goes. Until it has come, that is written at any time, as by an adapter that
    /// reaches into memory.
    half: Option<(Message, Segment)>,
    /// Views in order, with their bytes in the ring, and whether they were given back.
    records: VecDeque<(u64, usize, bool)>,
    stuck: u32,
    /// Sends that have not left this rank's memory.
    lent: usize,
    /// Room for cookies.
    sent: Vec<u64>,
    ended: bool,
}

/// The rest of a payload is written, which is not said.
fn write_rest(payload: &Segment, memory: &Segment) {
    let half = payload.len() / 2;
    payload.slice(half, payload.len() - half).copy_to(&memory.slice(half, payload.len() - half));
}

/// Bytes of a frame in a ring.
fn ring_bytes(payload: usize) -> usize {
    64 + payload
}

impl SimLink {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&mut self, message: Message, receiver: &mut dyn Receiver) {
        let Message { header, bytes, torn } = message;
        let payload = bytes.segment();
        if torn {
            if let Placement::Into(memory) = receiver.place(self.peer, &header) {
                let half = payload.len() / 2;
                payload.slice(0, half).copy_to(&memory.slice(0, half));
                if self.half.is_none() {
                    self.half = Some((Message { header, bytes, torn }, memory));
                    return;
                }
            }
        } else if self.rates.views {
            let token = self.next_view;
            self.next_view += 1;
            self.views.push((token, bytes));
            self.records.push_back((token, ring_bytes(payload.len()), false));
            if !receiver.arrived(self.peer, &header, Payload::View(payload, ViewToken(token))) {
                self.release(ViewToken(token));
            }
            return;
        } else {
            match receiver.place(self.peer, &header) {
                Placement::Into(memory) => {
                    assert_eq!(memory.len(), payload.len(), "a placement of the wrong size");
                    if self.half.is_none() && payload.len() > 1 && self.comes_by_halves() {
                        let half = payload.len() / 2;
                        payload.slice(0, half).copy_to(&memory.slice(0, half));
                        self.half = Some((Message { header, bytes, torn }, memory));
                        return;
                    }
                    payload.copy_to(&memory);
                    receiver.arrived(self.peer, &header, Payload::Placed);
                }
                Placement::Discard => {}
                Placement::Refuse(why) => panic!("a correct peer was refused: {why}"),
            }
        }
        self.spend(bytes);
    }

    fn spend(&self, bytes: Bytes) {
        match bytes {
            Bytes::Lent(_, cookie) => self.has_left(cookie),
            Bytes::Copied(arena, _) => self.wire().pool.take_back(arena),
        }
    }

    /// Nothing is written to its memory any more, but until now something was.
    fn give_up(&self, (message, memory): (Message, Segment)) {
        write_rest(&message.bytes.segment(), &memory);
        self.wire().faults.late_writes += 1;
        self.spend(message.bytes);
    }

    fn comes_by_halves(&self) -> bool {
        // Who sends streams sends nothing twice.
        if self.rates.duplicate > 0 {
            return false;
        }
        let mut wire = self.wire();
        let by_halves = wire.rng.random_range(0..256) < self.rates.halves;
        if by_halves {
            wire.make_due(self.me, self.other);
        }
        by_halves
    }

    /// The rest of a payload comes, unless something else comes first. Of one that died, what had left it.
    fn deliver_rest(&mut self, receiver: &mut dyn Receiver) -> bool {
        let Some((Message { header, torn, bytes }, memory)) = &self.half else { return false };
        let mut wire = self.wire();
        if *torn || wire.directions[self.back].lost {
            return false;
        }
        let waits =
            wire.cut_for[wire.pair(self.me, self.other)] > 0 || wire.rng.random() && !wire.dead[self.other];
        if waits || !wire.happens_to(self.me, header) {
            wire.make_due(self.me, self.other);
            write_rest(&bytes.segment(), memory);
            return false;
        }
        drop(wire);
        let Some((Message { header, bytes, .. }, memory)) = self.half.take() else { return false };
        write_rest(&bytes.segment(), &memory);
        receiver.arrived(self.peer, &header, Payload::Placed);
        self.spend(bytes);
        true
    }

    /// The memory of a send is the sender's again.
    fn has_left(&self, cookie: u64) {
        let mut wire = self.wire();
        wire.directions[self.back].sent.push(cookie);
        wire.make_due(self.other, self.me);
    }

    /// Views hold up the ring, so that they may have to be asked back.
    fn is_held_up(&self) -> bool {
        let used = self.records.iter().map(|record| record.1).sum::<usize>();
        self.records.iter().any(|record| record.2) || used > self.rates.ring / 2
    }

    /// The next frame to deliver, if one has come.
    fn next_message(&self) -> Result<Option<Message>, LinkFailure> {
        let back = self.back;
        let mut wire = self.wire();
        if wire.directions[back].revoked {
            return Err(LinkFailure::Revoked);
        }
        let is_over = |wire: &Wire| wire.directions[back].frames.is_empty() && wire.dead[self.other];
        if is_over(&wire) {
            return Err(LinkFailure::PeerDied);
        }
        let Some(first) = wire.directions[back].frames.first().map(|message| message.header) else {
            return Ok(None);
        };
        if wire.is_cut(self.me, self.other, self.rates.cut) || wire.rng.random_range(0..256) < self.rates.hold
        {
            wire.make_due(self.me, self.other);
            return Ok(None);
        }
        let reorder = wire.rng.random_range(0..256) < self.rates.reorder;
        if !wire.happens_to(self.me, &first) {
            return Ok(None);
        }
        if is_over(&wire) {
            return Err(LinkFailure::PeerDied);
        }
        let frames = &wire.directions[back].frames;
        // Nothing comes after half a frame.
        let torn = frames.len() > 1 && frames.last().is_some_and(|last| last.torn);
        let waiting = frames.len() - usize::from(torn);
        let at = if reorder { wire.rng.random_range(0..waiting) } else { 0 };
        Ok(Some(wire.directions[back].frames.remove(at)))
    }
}

impl Link for SimLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "sim",
            views: self.rates.views,
            max_payload: 1 << 20,
            syscall_per_frame: !self.rates.views,
            registered_memory: false,
        }
    }

    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit {
        let rates = &self.rates;
        let out = self.out;
        let mut wire = self.wire();
        let bytes = ring_bytes(payload.len());
        let no_room =
            rates.views && wire.directions[out].used > 0 && wire.directions[out].used + bytes > rates.ring;
        let mut chance = |rate: u32| wire.rng.random_range(0..256) < rate;
        if chance(rates.full) || no_room {
            return Submit::Full;
        }
        let pending = chance(rates.pending);
        let duplicated = chance(rates.duplicate) && header.kind != FrameKind::Mismatch;
        if !wire.happens_to(self.me, header) {
            return Submit::Sent;
        }
        wire.directions[out].used += bytes * (1 + usize::from(duplicated));
        if duplicated {
            let bytes = wire.pool.copy(payload);
            wire.directions[out].frames.push(Message { header: *header, bytes, torn: false });
        }
        let bytes = match pending {
            true => Bytes::Lent(payload.clone(), cookie),
            false => wire.pool.copy(payload),
        };
        wire.directions[out].frames.push(Message { header: *header, bytes, torn: false });
        wire.make_due(self.other, self.me);
        drop(wire);
        self.lent += usize::from(pending);
        if pending { Submit::Pending } else { Submit::Sent }
    }

    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let mut sent = std::mem::take(&mut self.sent);
        let idle = {
            let mut wire = self.wire();
            wire.due[self.me][self.other / 64] &= !(1 << (self.other % 64));
            std::mem::swap(&mut wire.directions[self.out].sent, &mut sent);
            wire.directions[self.back].frames.is_empty()
        };
        let mut moved = !sent.is_empty();
        self.lent -= sent.len();
        sent.drain(..).for_each(|cookie| receiver.sent(self.peer, cookie));
        self.sent = sent;
        self.stuck = if idle && self.is_held_up() { self.stuck + 1 } else { 0 };
        if self.stuck > STUCK_POLLS {
            self.stuck = 0;
            receiver.give_up_views(self.peer);
        }
        moved |= self.deliver_rest(receiver);
        while let Some(message) = self.next_message()? {
            self.deliver(message, receiver);
            moved = true;
        }
        if self.is_held_up() {
            self.wire().make_due(self.me, self.other);
        }
        Ok(moved)
    }

    fn release(&mut self, token: ViewToken) {
        if let Some(record) = self.records.iter_mut().find(|record| record.0 == token.0) {
            record.2 = true;
        }
        while let Some((_, bytes, true)) = self.records.front().copied() {
            self.records.pop_front();
            let back = self.back;
            self.wire().directions[back].used -= bytes;
        }
        let at = self.views.iter().position(|(t, _)| *t == token.0).expect("a view is released once");
        match self.views.swap_remove(at).1 {
            Bytes::Copied(arena, len) => {
                arena.segment(0, len).bytes_mut().fill(0xaa);
                self.wire().pool.take_back(arena);
            }
            // Memory read in place is the sender's again only now.
            Bytes::Lent(_, cookie) => self.has_left(cookie),
        }
        if self.is_held_up() {
            self.wire().make_due(self.me, self.other);
        }
    }

    fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        if let Some(half) = self.half.take_if(|(message, _)| is_over(&message.header)) {
            self.give_up(half);
        }
        // What is on its way is not read from the caller's memory any more.
        let mut wire = self.wire();
        let Wire { directions, pool, .. } = &mut *wire;
        let mut fenced = 0;
        for message in &mut directions[self.out].frames {
            if let (Bytes::Lent(payload, _), true) = (&message.bytes, is_over(&message.header)) {
                message.bytes = pool.copy(payload);
                fenced += 1;
            }
        }
        drop(wire);
        self.lent -= fenced;
    }

    fn wake_source(&self) -> Option<WakeSource> {
        None
    }

    fn is_settled(&self) -> bool {
        let wire = self.wire();
        wire.cut_for[wire.pair(self.me, self.other)] == 0
    }

    fn is_sound(&self) -> bool {
        !self.wire().directions[self.back].revoked
    }

    fn close(&mut self) {
        self.ended = true;
        if let Some(half) = self.half.take() {
            self.give_up(half);
        }
        if self.lent > 0 {
            let mut wire = self.wire();
            // Who dies takes nothing back.
            if !wire.dead[self.me] {
                wire.directions[self.out].revoked = true;
                wire.make_due(self.other, self.me);
            }
        }
    }
}

impl Drop for SimLink {
    /// A real link unmaps its memory here. What a dead process held does not matter.
    fn drop(&mut self) {
        let held = self.views.len();
        if held > 0 && self.ended && !self.wire().dead[self.me] && !std::thread::panicking() {
            panic!("the link to {} is dropped while {held} views of its memory are held", self.peer);
        }
    }
}
