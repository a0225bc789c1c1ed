//! The last calls that ended here: for errors that are noticed later, and for people who ask what a process was doing.

use super::Descriptor;
use super::executor::Executor;
use super::op::Phase;
use crate::membership::CallProgress;
use crate::plan::Plan;
use crate::{Collective, Instant, MemberId, OpId};

/// How many are kept.
const KEPT: usize = 256;

pub(super) struct Entry {
    op: OpId,
    /// Of a message, the link of the other side and whether it was received here.
    side: Option<(usize, bool)>,
    pub(super) descriptor: Descriptor,
    started: Instant,
    failed: bool,
    /// By rank: data was expected in windows below this one.
    expected: Vec<u32>,
    /// That another made another call has been said.
    pub(super) told: bool,
}

impl Entry {
    /// It ended well, and without a word from all others.
    pub(super) fn ended_alone(&self) -> bool {
        self.descriptor.ends_alone() && !self.failed
    }

    /// Whether data of a rank in a window can have been meant for it, as far as that is known.
    pub(super) fn expects(&self, from: usize, window: u32) -> bool {
        let known = self.ended_alone() && self.descriptor.is_uneven();
        !known || self.expected.get(from).is_some_and(|&windows| window < windows)
    }
}

/// The last [`KEPT`] calls.
#[derive(Default)]
pub(crate) struct RecentCalls {
    entries: Vec<Entry>,
    next: usize,
    /// All that there were.
    count: u64,
    /// What was started last.
    last: Option<(OpId, Collective)>,
}

/// A call that a process has made, open or ended.
#[derive(Clone, Debug)]
pub struct RecentCall {
    /// Its identity.
    pub op: OpId,
    /// What was called, in words.
    pub call: String,
    /// When.
    pub started: Instant,
    /// How it stands.
    pub state: CallState,
    /// Members that hold it up, if it is open.
    pub waits_for: Vec<MemberId>,
}

/// How a call stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallState {
    /// It has not ended.
    Open,
    /// A peer was lost: it waits for the plan of recovery, or for its result from another.
    Recovering,
    /// It has returned success.
    Returned,
    /// It has returned an error.
    Failed,
}

impl RecentCalls {
    pub(crate) fn started(&mut self, op: OpId, collective: Collective) {
        self.last = Some((op, collective));
    }

    pub(crate) fn ended(
        &mut self,
        op: OpId,
        side: Option<(usize, bool)>,
        descriptor: Descriptor,
        started: Instant,
        expected: Vec<u32>,
        failed: bool,
    ) {
        let entry = Entry { op, side, descriptor, started, failed, expected, told: false };
        match self.entries.get_mut(self.next) {
            Some(oldest) => *oldest = entry,
            None => self.entries.push(entry),
        }
        self.next = (self.next + 1) % KEPT;
        self.count += 1;
    }

    pub(super) fn find(&mut self, op: &OpId, side: Option<(usize, bool)>) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.op == *op && entry.side == side)
    }
}

impl<P: Plan> Executor<P> {
    /// The last calls that ended here and all that are open, each in the order in which they ended or started.
    pub fn recent_calls(&self) -> Vec<RecentCall> {
        let RecentCalls { entries, next, .. } = &self.shared.recent;
        let (newer, older) = entries.split_at((*next).min(entries.len()));
        let ended = older.iter().chain(newer).map(|entry| RecentCall {
            op: entry.op,
            call: entry.descriptor.to_string(),
            started: entry.started,
            state: if entry.failed { CallState::Failed } else { CallState::Returned },
            waits_for: Vec::new(),
        });
        let open = self.active.iter().map(|&at| &self.ops[at]).map(|op| RecentCall {
            op: op.id,
            call: op.call.as_ref().map_or_else(String::new, |call| call.collective.name().to_owned()),
            started: op.started,
            state: match op.phase {
                Phase::Frozen | Phase::Awaiting => CallState::Recovering,
                _ => CallState::Open,
            },
            waits_for: op.missing().into_iter().map(|rank| op.member(rank, &self.shared)).collect(),
        });
        ended.chain(open).collect()
    }

    /// How far this process is, for the others.
    pub fn progress(&self, now: Instant) -> CallProgress {
        let open = self.active.iter().map(|&at| &self.ops[at]).min_by_key(|op| op.started);
        let collective = |op: &super::op::OpState<P>| op.call.as_ref().map(|call| call.collective);
        CallProgress {
            ended: self.shared.recent.count,
            last: self.shared.recent.last,
            open: open.and_then(|op| Some((op.id, collective(op)?, now.since(op.started)))),
        }
    }
}
