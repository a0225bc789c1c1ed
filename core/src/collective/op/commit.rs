//! The end of an op: its commit (PROTOCOL, Commit without a coordinator), and what it gives back.

use super::holes::holes;
use super::{NOTHING, OpState, Owed, Phase};
use crate::call::Call;
use crate::collective::executor::{Effect, Shared};
use crate::collective::group::GroupState;
use crate::collective::{Limits, Links};
use crate::error::{Error, Outcome};
use crate::failpoint::{self, Point};
use crate::frame::{FrameKind, Header};
use crate::memory::Segment;
use crate::plan::Plan;
use crate::planted::{self, Bug};
use crate::{Collective, Result, Seq, Tolerance};

/// How the op becomes final (PROTOCOL, Commit without a coordinator).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Commit {
    /// Local completion is enough (`tolerance = none`, sends and receives).
    Local,
    /// The result stays in the log.
    Log,
    /// Everybody tells everybody.
    Done,
    /// Everybody tells everybody of each window.
    Window,
    /// With the seal of its commit group.
    Group,
    /// Of two ranks each is done for itself: none but the other could miss what it returned with, and once it is lost
    /// nobody is left to agree with. So the attempt stands until one of them is lost, whatever befalls others.
    Pair,
}

impl Commit {
    /// How an op commits: the same on every rank, since call and group are.
    pub(crate) fn of<P: Plan>(
        group: &GroupState,
        seq: crate::Seq,
        (call, in_commit_group): (&Call, bool),
        plan: &P,
        limits: &Limits,
    ) -> Commit {
        if in_commit_group && call.collective != Collective::Commit {
            return Commit::Group;
        }
        let alone = group.present() == 1;
        if call.is_strict() || call.collective.is_point_to_point() || alone {
            return Commit::Local;
        }
        if Commit::is_of_pair(group, call, limits) {
            return Commit::Pair;
        }
        let per_window = call.options.tolerance == Tolerance::PerWindow;
        if per_window && call.collective == Collective::AllReduce && plan.windows() > 1 {
            return Commit::Window;
        }
        // Who returns from an op holds something of every member, so that none can enter it after a loss for the
        // first time: an empty vector, of which nobody hears anything, commits by Done.
        let by_log = match call.collective {
            Collective::Barrier => true,
            Collective::AllReduce | Collective::AllGather => call.count > 0 && plan.windows() == 1,
            _ => false,
        };
        if !by_log || call.options.strict_commit || group.is_recovered(call.options.tag, seq) {
            return Commit::Done;
        }
        let limit = limits.log_op_bytes(group.syscall_per_frame);
        let blocks = if call.collective == Collective::AllGather { group.members.len() } else { 1 };
        if blocks * call.count * call.dtype.size() <= limit { Commit::Log } else { Commit::Done }
    }

    /// Small calls of two ranks that get different data. Each gets something of the other: by that it knows that both make
    /// this call, and since when.
    fn is_of_pair(group: &GroupState, call: &Call, limits: &Limits) -> bool {
        let exchanges = matches!(call.collective, Collective::ReduceScatter | Collective::AllToAll);
        let world = group.members.len();
        let most = if planted::has(Bug::ThreeCommitAsTwo) { 3 } else { 2 };
        let bytes = world * call.count * call.dtype.size();
        exchanges
            && world <= most
            && (1..=limits.pair_op_bytes).contains(&bytes)
            && !call.options.strict_commit
    }
}

impl<P: Plan> OpState<P> {
    /// Whether the complete result is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.planned && self.finished_windows == self.windows && (self.is_ready || !self.seals)
    }

    pub(super) fn try_commit(&mut self, shared: &mut Shared, links: &mut Links) -> bool {
        match self.commit {
            Commit::Local => self.end_well(shared),
            Commit::Pair if self.is_withheld => false,
            Commit::Pair => self.end_for_itself(shared),
            Commit::Log => self.commit_by_log(shared, links),
            Commit::Done => self.commit_by_done(shared, links),
            Commit::Window => self.commit_windows(shared, links),
            Commit::Group => self.wait_for_seal(shared),
        }
    }

    /// Bytes of an uneven call that this rank sends to another, and that it takes from it. Where the counts of all ranks are
    /// in the fingerprint nothing is left to compare.
    pub(crate) fn blocks_with(&self, rank: usize, me: usize) -> (u64, u64) {
        let Some(call) = &self.call else { return (0, 0) };
        let of = |counts: &[usize]| counts.get(rank).copied().unwrap_or(0);
        let root = call.peer as usize;
        let (sent, taken) = match call.collective {
            Collective::AllToAllV => (of(&call.send.counts), of(&call.recv.counts)),
            Collective::GatherV if me == root => (0, of(&call.recv.counts)),
            Collective::GatherV if rank == root => (call.count, 0),
            Collective::ScatterV if me == root => (of(&call.send.counts), 0),
            Collective::ScatterV if rank == root => (0, call.count),
            _ => (0, 0),
        };
        let bytes = |count: usize| (count as u64).saturating_mul(call.dtype.size() as u64);
        (bytes(sent), bytes(taken))
    }

    fn commit_by_done(&mut self, shared: &mut Shared, links: &mut Links) -> bool {
        let mut moved = false;
        while (self.done_next as usize) < self.entered.len() {
            let rank = self.done_next as usize;
            let wanted = self.done_to[rank];
            if wanted && !self.control(FrameKind::Done, rank, shared, links) {
                return moved;
            }
            if wanted {
                failpoint::reach(Point::DoneSent, &self.id, 0);
            }
            self.done_next += 1;
            moved = true;
        }
        if self.done_missing == 0 || planted::has(Bug::CommitBeforeAllAreDone) {
            return self.end_if_alike(shared);
        }
        moved
    }

    /// Ends the op unless what others hold is known to be something else.
    pub(crate) fn end_if_alike(&mut self, shared: &mut Shared) -> bool {
        match self.divergence(shared) {
            None => self.end_well(shared),
            Some(divergence) => {
                // It must not end well: waits for the coordinator's verdict. If that is lost they compare again.
                (self.phase, self.disagrees) = (Phase::Stalled, true);
                shared.effects.push(Effect::Diverged(divergence));
                true
            }
        }
    }

    /// What the other lacks is on its way. Until it has returned too a place in the log, with nothing in it, keeps this process
    /// from leaving.
    fn end_for_itself(&mut self, shared: &mut Shared) -> bool {
        self.count_as_returned(shared);
        if !self.is_over_for_others(shared) && shared.log.has_room(0) {
            let Shared { log, pool, .. } = shared;
            log.push((self.group, self.id.tag, self.id.seq), (&NOTHING, None), pool);
        }
        self.end_well(shared)
    }

    fn commit_by_log(&mut self, shared: &mut Shared, links: &mut Links) -> bool {
        self.count_as_returned(shared);
        if !self.is_over_for_others(shared) && !shared.log.has_room(self.segments().1.len()) {
            return shared.ask_laggards(links);
        }
        self.log_result(shared);
        failpoint::reach(Point::Logged, &self.id, 0);
        let digest = self.digest_of_result(shared);
        if digest != 0 {
            shared.groups[self.group.0].note_digest(self.id.tag, self.id.seq, digest);
        }
        self.end_well(shared)
    }

    /// Everybody else has returned, and said so: nobody can need the log entry.
    fn is_over_for_others(&self, shared: &mut Shared) -> bool {
        let group = &mut shared.groups[self.group.0];
        let me = group.me;
        group.tag(self.id.tag).returned_by_all(me) > self.id.seq
    }

    /// Calls of the tag below this one have returned everywhere. Messages have numbers of their own.
    fn stable_through(&self, shared: &mut Shared) -> Seq {
        if self.pair.is_some() {
            return Seq(0);
        }
        let group = &mut shared.groups[self.group.0];
        let me = group.me;
        group.tag(self.id.tag).returned_by_all(me).min(self.id.seq)
    }

    /// Puts the result into the log, for those who may lack it.
    pub(crate) fn log_result(&self, shared: &mut Shared) {
        if self.is_over_for_others(shared) {
            return;
        }
        let Shared { log, pool, .. } = shared;
        log.push((self.group, self.id.tag, self.id.seq), (self.segments().1, self.weight), pool);
    }

    pub(crate) fn end_well(&mut self, shared: &mut Shared) -> bool {
        let stable_through = self.stable_through(shared);
        let me = shared.groups[self.group.0].me;
        let mut outcome = Outcome {
            epoch: self.given_in,
            contributors: self.contributors,
            absent: self.absent.clone(),
            holes: self.call.as_ref().map_or(Vec::new(), |call| holes(call, me, &self.absent)),
            parts: Vec::new(),
            interruptions: self.interruptions,
            interrupted_after: self.interrupted_after,
            interrupted_for: self.interrupted_for,
            seq: self.id.seq,
            generation: self.id.generation,
            stable_through,
            bytes_sent: self.sent_bytes,
            bytes_received: self.received_bytes,
            weight: self.weight,
            algorithm: self.plan.as_ref().map_or("none", Plan::name),
        };
        if self.interruptions > 0 {
            self.add_parts(&mut outcome);
        }
        self.end(Ok(outcome), shared);
        failpoint::reach(Point::Committed, &self.id, 0);
        true
    }

    pub(super) fn unload_windows(&mut self, shared: &mut Shared) {
        for mut window in self.open.drain(..) {
            window.unload(&mut shared.pool, |link, token, len| {
                shared.held_views[link] -= len;
                shared.releases.push((link, token));
            });
            self.spare.push(window);
        }
    }

    /// Ends the op: gives all memory back, so that the caller may have its buffers.
    pub(crate) fn end(&mut self, result: Result<Outcome>, shared: &mut Shared) {
        self.unload_windows(shared);
        if result.is_err() {
            self.restore_input(&mut shared.pool);
        }
        self.backup.clear(&mut shared.pool);
        if let (Err(error), Some(id)) = (&result, self.commit_group) {
            shared.commit_groups.fail(id, error);
        }
        self.call = None;
        // Who asked whether this side has entered is told, even now.
        for rank in self.enter_to.drain(..) {
            let mut header = Header { kind: FrameKind::Enter, ..self.header };
            header.returned_through = shared.returned_through(self.group, self.id.tag);
            let link = shared.groups[self.group.0].members[rank as usize];
            shared.unsent.push((link, header, Segment::EMPTY));
        }
        let side = self.pair.map(|link| (link, self.receives));
        let expected = if self.descriptor.ends_alone() { self.expected.clone() } else { Vec::new() };
        shared.recent.ended(self.id, side, self.descriptor, self.started, expected, result.is_err());
        self.keep_owed(shared);
        if result.is_err() && self.pair.is_none() {
            shared.groups[self.group.0].failed(self.id.tag, self.id.seq);
        }
        self.count_as_returned(shared);
        self.phase = Phase::Ended(result);
    }

    /// Lets `returned_through` pass the op. An op that waits for room in the log counts already: it
    /// holds every contribution, so it needs nobody's; else two peers with full logs could wait for
    /// each other.
    pub(crate) fn count_as_returned(&mut self, shared: &mut Shared) {
        if self.pair.is_none() && !std::mem::replace(&mut self.counted, true) {
            shared.groups[self.group.0].returned(self.id.tag, self.id.seq);
            shared.answer_ack_requests();
        }
    }

    /// Eager bytes whose receiver has not been heard of stay on its account.
    pub(super) fn keep_owed(&mut self, shared: &mut Shared) {
        for rank in 0..self.eager.len() {
            // Nothing is on the account of those who are lost.
            if self.eager[rank] > 0 && !self.entered[rank] && !shared.groups[self.group.0].is_lost(rank) {
                let link = shared.groups[self.group.0].members[rank];
                let (pair, one_attempt) = (self.pair, self.header.one_attempt);
                shared.owed.push(Owed { op: self.id, pair, one_attempt, link, bytes: self.eager[rank] });
            }
        }
    }

    /// Who returns from it leaves the result in the log.
    pub(crate) fn commits_by_log(&self) -> bool {
        self.planned && self.commit == Commit::Log
    }

    pub(crate) fn fail(&mut self, error: &Error, shared: &mut Shared) {
        if self.is_open() {
            self.end(Err(error.clone()), shared);
        }
    }
}
