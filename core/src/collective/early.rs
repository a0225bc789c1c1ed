//! Frames that came before this process entered their op.
//!
//! A peer may be ahead. What it may send before it knows that the receiver entered is bounded by
//! [`super::Limits::eager_bytes`] per op and [`super::Limits::early_bytes`] per link; a peer that
//! sends more breaks the protocol. Both sides reckon with [`charge`] for every frame.

use super::slots::SlotPool;
use crate::frame::{HEADER_BYTES, Header, pad};
use crate::memory::Arena;
use crate::{OpId, Segment};
use std::collections::VecDeque;

/// What a frame that may come early counts for, in bytes.
pub(crate) fn charge(payload: usize) -> usize {
    HEADER_BYTES + pad(payload)
}

/// One frame that waits for its op.
pub(crate) struct Early {
    pub(crate) link: usize,
    pub(crate) header: Header,
    pub(crate) block: Option<Arena>,
    /// The payload is complete (a placed frame is announced before its bytes are there).
    complete: bool,
    /// Nobody wants it, but its link still writes the rest of the payload.
    orphan: bool,
}

impl Early {
    pub(crate) fn payload(&self) -> Segment {
        match &self.block {
            Some(block) => block.segment(0, self.header.payload_len as usize),
            None => Segment::empty(),
        }
    }
}

/// All frames that wait for their op.
pub(crate) struct EarlyFrames {
    frames: VecDeque<Early>,
    /// Bytes held, by link.
    held: Vec<usize>,
    /// How many frames are held, by a digest of their op: most ops have none, and need not search.
    by_op: Vec<u32>,
}

/// Entries of [`EarlyFrames::by_op`]: 16 KiB, since they are looked up at every step of a call.
const DIGESTS: usize = 1 << 12;

fn digest(op: &OpId) -> usize {
    let mixed = (op.seq.0 ^ u64::from(op.tag.0) << 40 ^ op.group.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % DIGESTS
}

impl EarlyFrames {
    pub(crate) fn new(links: usize) -> EarlyFrames {
        EarlyFrames { frames: VecDeque::new(), held: vec![0; links], by_op: vec![0; DIGESTS] }
    }

    /// Makes room for so many links.
    pub(crate) fn grow(&mut self, links: usize) {
        self.held.resize(links, 0);
    }

    /// Makes room for a frame; `None` if the link is over its budget.
    pub(crate) fn admit(
        &mut self,
        link: usize,
        header: &Header,
        budget: usize,
        pool: &mut SlotPool,
    ) -> Option<Segment> {
        let cost = charge(header.payload_len as usize);
        if self.held[link] + cost > budget {
            return None;
        }
        self.held[link] += cost;
        self.by_op[digest(&header.op)] += 1;
        let block = (header.payload_len > 0).then(|| pool.take(header.payload_len as usize));
        self.frames.push_back(Early { link, header: *header, block, complete: false, orphan: false });
        self.frames.back().map(Early::payload)
    }

    /// The payload of an admitted frame has arrived. Returns false if there is none (the frame was
    /// claimed by its op while its bytes were on the way; see [`EarlyFrames::take_complete`]).
    pub(crate) fn completed(&mut self, link: usize, header: &Header, pool: &mut SlotPool) -> bool {
        let is_this = |f: &Early| f.link == link && !f.complete && f.header == *header;
        // The last one, nearly always.
        let Some(at) = self.frames.iter().rposition(is_this) else { return false };
        self.frames[at].complete = true;
        if self.frames[at].orphan {
            self.remove(at).into_iter().filter_map(|frame| frame.block).for_each(|block| pool.give(block));
        }
        true
    }

    fn remove(&mut self, at: usize) -> Option<Early> {
        let frame = self.frames.remove(at)?;
        self.held[frame.link] -= charge(frame.header.payload_len as usize);
        self.by_op[digest(&frame.header.op)] -= 1;
        Some(frame)
    }

    /// Takes the next complete frame that `wanted` picks.
    pub(crate) fn take_complete(&mut self, wanted: impl Fn(usize, &Header) -> bool) -> Option<Early> {
        let at = self.frames.iter().position(|f| f.complete && wanted(f.link, &f.header))?;
        self.remove(at)
    }

    /// The first frame that `wanted` picks, whether all of it has come or not.
    pub(crate) fn first(&self, wanted: impl Fn(usize, &Header) -> bool) -> Option<usize> {
        self.frames.iter().find(|f| !f.orphan && wanted(f.link, &f.header)).map(|f| f.link)
    }

    /// Drops the frames that `unwanted` picks. What is still on its way of them stays until it is here, or a link would
    /// write into memory that something else uses by then.
    pub(crate) fn forget_frames(&mut self, pool: &mut SlotPool, unwanted: impl Fn(usize, &Header) -> bool) {
        for frame in self.frames.iter_mut().filter(|frame| !frame.complete) {
            frame.orphan |= unwanted(frame.link, &frame.header);
        }
        self.drop_where(pool, |frame| frame.complete && unwanted(frame.link, &frame.header));
    }

    /// A link has ended: drops what has come of it in part.
    pub(crate) fn drop_halves(&mut self, link: usize, pool: &mut SlotPool) {
        self.drop_where(pool, |frame| frame.link == link && !frame.complete);
    }

    /// Drops the frames that `unwanted` picks, to which no link writes any more.
    pub(crate) fn drop_frames(&mut self, pool: &mut SlotPool, unwanted: impl Fn(usize, &Header) -> bool) {
        self.drop_where(pool, |frame| unwanted(frame.link, &frame.header));
    }

    fn drop_where(&mut self, pool: &mut SlotPool, unwanted: impl Fn(&Early) -> bool) {
        let EarlyFrames { frames, held, by_op } = self;
        frames.retain_mut(|frame| {
            let keep = !unwanted(frame);
            if !keep {
                held[frame.link] -= charge(frame.header.payload_len as usize);
                by_op[digest(&frame.header.op)] -= 1;
                if let Some(block) = frame.block.take() {
                    pool.give(block);
                }
            }
            keep
        });
    }

    /// False if nothing waits for this op.
    pub(crate) fn may_have(&self, op: &OpId) -> bool {
        self.by_op[digest(op)] > 0
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives all memory back.
    pub(crate) fn clear(&mut self, pool: &mut SlotPool) {
        for frame in self.frames.drain(..) {
            if let Some(block) = frame.block {
                pool.give(block);
            }
        }
        self.held.fill(0);
        self.by_op.fill(0);
    }
}
