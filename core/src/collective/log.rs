//! The bounded log of small ops.
//!
//! An op that commits by log returns as soon as this peer has every contribution. The contributions
//! stay here until every member's `returned_through` has passed the op: from then on nobody can need
//! them. The log survives in front of later ops only up to its bound; an op that does not fit waits
//! for the slowest member (which is asked for an acknowledgement).

use super::group::GroupIndex;
use super::slots::SlotPool;
use crate::memory::Arena;
use crate::{Seq, Tag};
use std::collections::VecDeque;

struct Entry {
    group: GroupIndex,
    tag: Tag,
    seq: Seq,
    contributions: [Option<Arena>; 2],
}

/// Contributions of ops that have returned here but perhaps not everywhere.
pub(crate) struct CommitLog {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
    max_entries: usize,
    /// The op whose laggards were asked last.
    asked: Option<(GroupIndex, Tag, Seq)>,
}

impl CommitLog {
    pub(crate) fn new(max_bytes: usize, max_entries: usize) -> CommitLog {
        CommitLog {
            entries: VecDeque::with_capacity(max_entries),
            bytes: 0,
            max_bytes,
            max_entries,
            asked: None,
        }
    }

    /// Whether an op with so many bytes of contributions fits now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < self.max_entries && self.bytes + bytes <= self.max_bytes)
    }

    pub(crate) fn push(&mut self, group: GroupIndex, tag: Tag, seq: Seq, contributions: [Option<Arena>; 2]) {
        self.bytes += contributions.iter().flatten().map(Arena::len).sum::<usize>();
        self.entries.push_back(Entry { group, tag, seq, contributions });
    }

    /// Drops the entries of this tag below `seq`: every member has returned from them.
    pub(crate) fn release(&mut self, group: GroupIndex, tag: Tag, below: Seq, pool: &mut SlotPool) {
        let before = self.entries.len();
        let mut freed = 0;
        self.entries.retain_mut(|entry| {
            let keep = entry.group != group || entry.tag != tag || entry.seq >= below;
            if !keep {
                for block in entry.contributions.iter_mut().filter_map(Option::take) {
                    freed += block.len();
                    pool.give(block);
                }
            }
            keep
        });
        self.bytes -= freed;
        debug_assert!(self.entries.len() <= before);
    }

    /// True if nobody can need anything of this peer any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The oldest op, if its laggards have not been asked since it became the oldest.
    pub(crate) fn ask_about(&mut self) -> Option<(GroupIndex, Tag, Seq)> {
        let oldest = self.entries.front().map(|e| (e.group, e.tag, e.seq));
        if oldest == self.asked {
            return None;
        }
        self.asked = oldest;
        oldest
    }

    pub(crate) fn clear(&mut self, pool: &mut SlotPool) {
        for entry in self.entries.drain(..) {
            entry.contributions.into_iter().flatten().for_each(|block| pool.give(block));
        }
        self.bytes = 0;
    }
}
