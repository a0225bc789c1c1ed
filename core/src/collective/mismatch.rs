//! Calls of two ranks that do not fit together: whoever finds out says so to the other and to the coordinator.
//!
//! Most differences show in the fingerprint that every frame carries. Sizes that may differ from rank to rank, the blocks of
//! uneven calls, do not: there the Done of each rank tells every other how many bytes it sends to it and takes from it, so
//! that nobody returns before that is known to agree. After a loss Done is told again, also of what the plan commits as it
//! stands: what told of a difference may have been on its way. Who waits for long asks, which tells the same. Calls that
//! tolerate no loss send no Done. What comes for one that has no step for it, open or ended, is noticed all the same.

use super::executor::{Effect, Executor};
use super::op::Phase;
use super::receive::{TO_SENDER, for_sender};
use super::{Descriptor, Links};
use crate::frame::{FrameKind, Header};
use crate::memory::{Access, Arena, Segment};
use crate::plan::Plan;
use crate::{Instant, MemberId, OpId};

impl<P: Plan> Executor<P> {
    pub(super) fn tell_mismatch(&mut self, at: usize, to: usize) {
        let op = &mut self.ops[at];
        op.phase = Phase::Stalled;
        // Its commit group must not be final.
        op.leave_commit(&mut self.shared);
        if std::mem::replace(&mut op.disagrees, true) {
            return;
        }
        let label = if op.receives { TO_SENDER } else { 0 };
        let header = Header { kind: FrameKind::Mismatch, label, ..op.header };
        let link = self.shared.groups[op.group.0].members[to];
        let descriptor = op.descriptor;
        self.tell_call(link, header, &descriptor);
    }

    fn tell_call(&mut self, link: usize, header: Header, call: &Descriptor) {
        let block = Arena::new(super::descriptor::DESCRIPTOR_BYTES);
        let payload = block.segment(0, block.len());
        payload.fill_from(&call.encode());
        self.told.push(block);
        self.shared.unsent.push((link, header, payload));
    }

    pub(super) fn learn_mismatch(&mut self, at: usize, from: usize, payload: &Segment) {
        let Some(theirs) = Descriptor::decode(payload.bytes()) else { return };
        self.tell_mismatch(at, from);
        let words = self.ops[at].descriptor.versus(&theirs);
        self.report_mismatch(at, from, words);
    }

    /// Says to the coordinator what this rank and another have called.
    fn report_mismatch(&mut self, at: usize, from: usize, (call, other_call): (String, String)) {
        let op = &self.ops[at];
        let me = self.shared.groups[op.group.0].me;
        self.shared.effects.push(Effect::Mismatch {
            op: op.id,
            member: op.member(me as u32, &self.shared),
            call,
            other: op.member(from as u32, &self.shared),
            other_call,
        });
    }

    /// As [`Executor::learn_mismatch`], for an op that has ended here: it needed nothing from the peer
    /// that now finds its own call to be another.
    pub(super) fn learn_late_mismatch(&mut self, link: usize, header: &Header, payload: &Segment) {
        let Some(theirs) = Descriptor::decode(payload.bytes()) else { return };
        let side = header.point_to_point.then(|| (link, !for_sender(header)));
        let words = match self.shared.recent.find(&header.op, side) {
            Some(mine) => mine.descriptor.versus(&theirs),
            None => ("a call that has ended".to_owned(), theirs.to_string()),
        };
        self.report_late(link, &header.op, words);
    }

    fn report_late(&mut self, link: usize, op: &OpId, (call, other_call): (String, String)) {
        let Some(group) = self.group_of(op) else { return };
        let group = &self.shared.groups[group.0];
        self.shared.effects.push(Effect::Mismatch {
            op: *op,
            member: MemberId(group.members[group.me] as u32),
            call,
            other: MemberId(link as u32),
            other_call,
        });
    }

    /// A piece of a block is not as long as this side expects.
    pub(super) fn wrong_length(&mut self, at: usize, link: usize, header: &Header, expected: usize) {
        let op = &self.ops[at];
        let what = match (op.windows(), header.window) {
            (1, 0) => "a block".to_owned(),
            (_, window) => format!("piece {} of a block", window + 1),
        };
        let bytes = |n: usize| format!("{} with {what} of {n} bytes for this pair", op.descriptor);
        let words = (bytes(expected), bytes(header.payload_len as usize));
        let Some(from) = self.shared.groups[op.group.0].rank_of(link) else { return };
        self.report_blocks(at, from, words);
    }

    /// A member sends more than this side expects of it.
    pub(super) fn larger_block(&mut self, at: usize, from: usize) {
        let words = self.ops[at].descriptor.with_larger_block();
        self.report_blocks(at, from, words);
    }

    /// A member says what it sends to this side and takes from it.
    pub(super) fn compare_blocks(&mut self, at: usize, from: usize, told: &Header) {
        let op = &self.ops[at];
        let (sent, taken) = op.blocks_with(from, self.shared.groups[op.group.0].me);
        let call = &op.descriptor;
        if told.digest != taken {
            let words = (
                format!("{call} with {taken} bytes from the other"),
                format!("{call} with {} bytes for it", told.digest),
            );
            self.report_blocks(at, from, words);
        } else if told.window != told_taken(sent) {
            let words = (
                format!("{call} with {sent} bytes for the other"),
                format!("{call} with {} bytes from it", told.window),
            );
            self.report_blocks(at, from, words);
        }
    }

    /// Asks the members that calls started before an instant still wait for how they make them: ranks that only wait for
    /// each other, say since each takes another for the root, would not find out.
    pub fn ask_the_missing(&mut self, started_before: Instant, links: &mut Links) {
        for &at in &self.active {
            let op = &mut self.ops[at];
            if op.pair.is_none() && matches!(op.phase, Phase::Running) && op.started < started_before {
                op.ask_the_missing(&mut self.shared, links);
            }
        }
    }

    /// Whether a call that was made before a moment is not done yet.
    pub fn has_waited_since(&self, moment: Instant) -> bool {
        self.active.iter().any(|&at| self.ops[at].started < moment)
    }

    /// Reports, once, that this rank and another disagree on the blocks between them.
    fn report_blocks(&mut self, at: usize, from: usize, words: (String, String)) {
        let op = &mut self.ops[at];
        if matches!(op.phase, Phase::Running) {
            (op.phase, op.disagrees) = (Phase::Stalled, true);
            op.leave_commit(&mut self.shared);
            self.report_mismatch(at, from, words);
        }
    }

    /// A data frame came for an op that was started here and is not open any more.
    pub(super) fn check_late_data(&mut self, link: usize, header: &Header) {
        if header.point_to_point || self.tell_late_mismatch(link, header) {
            return;
        }
        let Some(group) = self.group_of(&header.op) else { return };
        let Some(from) = self.shared.groups[group.0].rank_of(link) else { return };
        let Some(ended) = self.shared.recent.find(&header.op, None) else { return };
        if ended.expects(from, header.window) || std::mem::replace(&mut ended.told, true) {
            return;
        }
        let words = ended.descriptor.with_larger_block();
        self.report_late(link, &header.op, words);
    }

    /// Tells a peer, once, if its call is not the one that has ended here. Only calls that tolerate no loss end before all
    /// have been found to be alike.
    pub(super) fn tell_late_mismatch(&mut self, link: usize, header: &Header) -> bool {
        let Some(ended) = self.shared.recent.find(&header.op, None) else { return false };
        if !ended.ended_alone() || ended.descriptor.fingerprint() == header.fingerprint {
            return false;
        }
        if std::mem::replace(&mut ended.told, true) {
            return true;
        }
        let descriptor = ended.descriptor;
        let Some(group) = self.group_of(&header.op) else { return true };
        let returned_through = self.shared.returned_through(group, header.op.tag);
        let kind = FrameKind::Mismatch;
        let answer = Header { kind, label: 0, returned_through, digest: 0, weighed: false, ..*header };
        self.tell_call(link, answer, &descriptor);
        true
    }
}

/// What a frame says of the bytes that its sender takes: it has room for 32 bits, which is no loss, since what its receiver
/// sends is compared in full at the other end.
pub(super) fn told_taken(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
