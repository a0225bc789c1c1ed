//! The bounded log of small ops.
//!
//! An op that commits by log returns as soon as this peer has every contribution. The result stays here
//! until every member's `returned_through` has passed the op, since members that lack a contribution of a
//! peer that died take the result of one that has returned. The log survives in front of later ops only up to its bound; an op that does not fit waits
//! for the slowest member (which is asked for an acknowledgement).

use super::group::GroupIndex;
use super::slots::SlotPool;
use crate::memory::{Access, Arena};
use crate::planted::{self, Bug};
use crate::{Segment, Seq, Tag};
use std::collections::VecDeque;

struct Entry {
    group: GroupIndex,
    tag: Tag,
    seq: Seq,
    /// Nothing for an op without one, such as a barrier.
    result: Option<(Arena, usize)>,
    /// Of a weighted average, what it weighs.
    weight: Option<f64>,
}

/// Results of ops that have returned here but perhaps not everywhere.
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

    /// Whether an op with so many bytes of result fits now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < self.max_entries && self.bytes + bytes <= self.max_bytes)
    }

    pub(crate) fn push(
        &mut self,
        (group, tag, seq): (GroupIndex, Tag, Seq),
        (result, weight): (&Segment, Option<f64>),
        pool: &mut SlotPool,
    ) {
        let result = (!result.is_empty()).then(|| {
            let block = pool.take(result.len());
            result.copy_to(&block.segment(0, result.len()));
            self.bytes += block.len();
            (block, result.len())
        });
        self.entries.push_back(Entry { group, tag, seq, result, weight });
    }

    /// The result of an op that is in the log, and what it weighs.
    pub(crate) fn result(&self, group: GroupIndex, tag: Tag, seq: Seq) -> Option<(Segment, Option<f64>)> {
        let entry = self.entries.iter().find(|e| (e.group, e.tag, e.seq) == (group, tag, seq))?;
        let result = entry.result.as_ref();
        Some((result.map_or_else(Segment::empty, |(block, len)| block.segment(0, *len)), entry.weight))
    }

    /// Drops the entries of this tag below `seq`: every member has returned from them.
    pub(crate) fn release(&mut self, group: GroupIndex, tag: Tag, below: Seq, pool: &mut SlotPool) {
        let mut freed = 0;
        self.entries.retain_mut(|entry| {
            let keep = entry.group != group || entry.tag != tag || entry.seq >= below;
            if !keep && let Some((block, _)) = entry.result.take() {
                freed += block.len();
                pool.give(block);
            }
            keep
        });
        self.bytes -= freed;
        // Places in the table of groups are used again.
        if !planted::has(Bug::LogsAskOnceForEachPlace) {
            self.asked.take_if(|(of, about, seq)| (*of, *about) == (group, tag) && *seq < below);
        }
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
            entry.result.into_iter().for_each(|(block, _)| pool.give(block));
        }
        self.bytes = 0;
    }
}
