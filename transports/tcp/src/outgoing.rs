//! The sending half: an outbox of frames per link, batches of them per stream.
//!
//! A frame that cannot leave at once takes a slot of the [`Outbox`] and waits until a stream with
//! room pulls it into its [`Batch`]. Slots and queues are allocated once.

use crate::outlet::Outlet;
use crate::word::Word;
use ronde_core::Segment;
use ronde_core::frame::{HEADER_BYTES, Header, pad};
use ronde_core::memory::{Access, Arena};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Frames that a link holds before it answers `Full`.
const SLOTS: usize = 64;
/// Payloads up to this size are copied behind their header: one contiguous write, and the caller's
/// memory is free at once.
const INLINE_BYTES: usize = 256;
/// Frames that one write carries at most.
const BATCH_FRAMES: usize = 16;
/// A batch takes no further frame from here on, so that other streams find work too.
const BATCH_BYTES: usize = 512 << 10;
/// Head, payload and padding of each frame.
const MAX_PARTS: usize = 3 * BATCH_FRAMES;
static PADDING: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// A frame on its way out.
pub(crate) struct Outgoing {
    /// Header, and the padded payload if that is small.
    head: [u8; HEADER_BYTES + INLINE_BYTES],
    head_len: usize,
    /// Payload that is not in `head`.
    payload: Segment,
    /// To be reported when the payload has left; none for a payload that was copied.
    cookie: Option<u64>,
}

impl Outgoing {
    const NONE: Outgoing = Outgoing {
        head: [0; HEADER_BYTES + INLINE_BYTES],
        head_len: 0,
        payload: Segment::EMPTY,
        cookie: None,
    };

    pub(crate) fn new(header: &Header, payload: &Segment, cookie: u64) -> Outgoing {
        let mut frame = Outgoing { head_len: HEADER_BYTES, ..Outgoing::NONE };
        frame.head[..HEADER_BYTES].copy_from_slice(&header.encode());
        if payload.len() <= INLINE_BYTES {
            frame.head[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload.bytes());
            frame.head_len += pad(payload.len());
        } else {
            frame.payload = payload.clone();
            frame.cookie = Some(cookie);
        }
        frame
    }

    /// A word between frames.
    fn word(word: Word) -> Outgoing {
        let mut frame = Outgoing { head_len: HEADER_BYTES, ..Outgoing::NONE };
        frame.head[..HEADER_BYTES].copy_from_slice(&word.encode());
        frame
    }

    /// True if nothing of the caller's memory is needed any more.
    pub(crate) fn is_copied(&self) -> bool {
        self.cookie.is_none()
    }

    fn len(&self) -> usize {
        self.head_len + pad(self.payload.len())
    }

    fn is(&self, wanted: &dyn Fn(&Header) -> bool) -> bool {
        self.head.first_chunk().is_some_and(|head| Header::decode(head).is_ok_and(|header| wanted(&header)))
    }

    fn parts(&self) -> [&[u8]; 3] {
        let padding = pad(self.payload.len()) - self.payload.len();
        [&self.head[..self.head_len], self.payload.bytes(), &PADDING[..padding]]
    }

    /// Writes what the outlet takes of this frame; returns the bytes taken.
    fn write(&self, outlet: &mut Outlet) -> Result<usize, Errno> {
        let parts = self.parts().map(IoSlice::new);
        let count = if self.payload.is_empty() { 1 } else { parts.len() };
        outlet.write(&parts[..count])
    }
}

/// Frames that wait for a stream, and the memory of those being written.
pub(crate) struct Outbox {
    slots: Box<[Outgoing]>,
    free: Vec<usize>,
    waiting: VecDeque<usize>,
    /// Copies of payloads that a fence has taken from frames which were begun.
    fenced: Vec<Arena>,
}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox {
            slots: (0..SLOTS).map(|_| Outgoing::NONE).collect(),
            free: (0..SLOTS).rev().collect(),
            waiting: VecDeque::with_capacity(SLOTS),
            fenced: Vec::new(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// True if no frame waits for a stream.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True if no frame waits or is being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.len() == SLOTS
    }

    /// Queues a frame. Only for an outbox that is not full.
    pub(crate) fn push(&mut self, frame: Outgoing) {
        let slot = self.keep(frame);
        self.waiting.push_back(slot);
    }

    /// Of the frames that are over, drops those that no stream has begun. What has been promised to a stream must be
    /// written, from a copy: the other side may still take it for what it is.
    pub(crate) fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        let Outbox { slots, free, waiting, fenced } = self;
        waiting.retain(|&slot| {
            let keep = !slots[slot].is(is_over);
            if !keep {
                slots[slot].payload = Segment::EMPTY;
                free.push(slot);
            }
            keep
        });
        for slot in slots.iter_mut().filter(|slot| !slot.payload.is_empty() && slot.is(is_over)) {
            let copy = Arena::new(slot.payload.len());
            let bytes = copy.segment(0, copy.len());
            slot.payload.copy_to(&bytes);
            slot.payload = bytes;
            slot.cookie = None;
            fenced.push(copy);
        }
    }

    /// Forgets every frame, so that nothing refers to the callers' memory any more.
    pub(crate) fn clear(&mut self) {
        for slot in 0..SLOTS {
            self.slots[slot].payload = Segment::EMPTY;
        }
        self.free.clear();
        self.free.extend(0..SLOTS);
        self.waiting.clear();
    }

    fn keep(&mut self, frame: Outgoing) -> usize {
        let slot = self.free.pop().expect("the caller asked whether the outbox is full");
        self.slots[slot] = frame;
        slot
    }

    fn finish(&mut self, slot: usize) -> Option<u64> {
        // A lent payload must not outlive its frame: its lender waits for the last clone.
        self.slots[slot].payload = Segment::EMPTY;
        self.free.push(slot);
        if self.free.len() == SLOTS {
            self.fenced.clear();
        }
        self.slots[slot].cookie
    }
}

/// The frames that one stream is writing, in wire order.
pub(crate) struct Batch {
    slots: VecDeque<usize>,
    /// Bytes of the first frame that have been written.
    written: usize,
    /// What is said before the next frame.
    word: Option<Word>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch { slots: VecDeque::with_capacity(BATCH_FRAMES), written: 0, word: None }
    }

    /// Says this before the next frame, in the place of what was not said yet.
    pub(crate) fn say(&mut self, word: Word) {
        self.word = Some(word);
    }

    pub(crate) fn has_to_say(&self) -> bool {
        self.word.is_some()
    }

    /// True if the stream can begin a new frame.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Begins a frame at once. Returns whether all of it was written; otherwise the rest is kept,
    /// in a slot of an outbox that is not full.
    pub(crate) fn begin(
        &mut self,
        frame: Outgoing,
        outbox: &mut Outbox,
        outlet: &mut Outlet,
    ) -> Result<bool, Errno> {
        let written = frame.write(outlet)?;
        if written == frame.len() {
            return Ok(true);
        }
        self.slots.push_back(outbox.keep(frame));
        self.written = written;
        Ok(false)
    }

    /// Pulls and writes frames until the outlet is full or nothing waits; `sent` hears the cookies
    /// of those whose payload has left. Returns whether a byte moved.
    pub(crate) fn flush(
        &mut self,
        outbox: &mut Outbox,
        outlet: &mut Outlet,
        sent: &mut dyn FnMut(u64),
    ) -> Result<bool, Errno> {
        let mut moved = outlet.catch_up()?;
        if !outlet.takes_more() {
            return Ok(moved);
        }
        loop {
            if self.slots.is_empty() {
                if let Some(word) = self.word.take_if(|_| !outbox.is_full()) {
                    self.slots.push_back(outbox.keep(Outgoing::word(word)));
                }
                self.pull(outbox);
            }
            let Some((asked, written)) = self.write(outbox, outlet)? else { return Ok(moved) };
            moved |= written > 0;
            self.advance(written, outbox, sent);
            if written < asked {
                return Ok(moved);
            }
        }
    }

    /// Forgets the frames; the outbox is cleared with them.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        (self.written, self.word) = (0, None);
    }

    fn pull(&mut self, outbox: &mut Outbox) {
        let mut bytes = 0;
        while self.slots.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(slot) = outbox.waiting.pop_front() else { return };
            bytes += outbox.slots[slot].len();
            self.slots.push_back(slot);
        }
    }

    /// One write of the whole batch: bytes asked for and taken; nothing for an empty batch.
    fn write(&self, outbox: &Outbox, outlet: &mut Outlet) -> Result<Option<(usize, usize)>, Errno> {
        let mut parts = [IoSlice::new(&[]); MAX_PARTS];
        let (mut count, mut asked, mut skip) = (0, 0, self.written);
        for part in self.slots.iter().flat_map(|&slot| outbox.slots[slot].parts()) {
            let skipped = skip.min(part.len());
            skip -= skipped;
            if skipped < part.len() {
                parts[count] = IoSlice::new(&part[skipped..]);
                asked += part.len() - skipped;
                count += 1;
            }
        }
        if count == 0 {
            return Ok(None);
        }
        Ok(Some((asked, outlet.write(&parts[..count])?)))
    }

    fn advance(&mut self, written: usize, outbox: &mut Outbox, sent: &mut dyn FnMut(u64)) {
        self.written += written;
        while let Some(&slot) = self.slots.front() {
            let len = outbox.slots[slot].len();
            if self.written < len {
                return;
            }
            self.written -= len;
            self.slots.pop_front();
            if let Some(cookie) = outbox.finish(slot) {
                sent(cookie);
            }
        }
    }
}
