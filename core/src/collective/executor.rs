//! The table of open ops.

use super::abort::Agreed;
use super::commit_group::{CommitGroupId, CommitGroups};
use super::early::EarlyFrames;
use super::generation::Armed;
use super::group::{GroupIndex, GroupState, NewGroup};
use super::log::CommitLog;
use super::op::{Commit, Digests, Divergence, OpState, Owed, Phase};
use super::recent::RecentCalls;
use super::slots::SlotPool;
use super::{Descriptor, Links};
use crate::call::{Call, StandIn};
use crate::error::{Aborted, Error, Outcome, PeerLost};
use crate::failpoint::{self, Point};
use crate::frame::{FrameKind, Header};
use crate::memory::{Arena, Segment};
use crate::plan::Plan;
use crate::reduce::{Kernels, Reduction};
use crate::transport::{Link, LinkFailure, Submit, ViewToken};
use crate::{Collective, Generation, Instant, MemberId, OpId, Rank, Result, Tag};
use std::sync::Arc;

/// Bounds of one executor. Its memory is at most `early_bytes` per link for frames of calls not yet
/// made, `log_bytes`, and for each open op the slots of its plan's windows in flight.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that one op may send to a peer that is not known to have entered it. Default 256 KiB.
    pub eager_bytes: usize,
    /// Bytes of frames per link that wait for their op. Default 4 MiB.
    pub early_bytes: usize,
    /// Bytes that all ops together may send to a peer that is not known to have entered them; at most half of what it takes
    /// of this, since the rest is for frames without payload. Default 2 MiB.
    pub unentered_bytes: usize,
    /// Bytes per link that may be read in place at one time; above that, copies. Default 512 KiB.
    pub view_bytes: usize,
    /// Bytes of the commit log. Default 8 MiB.
    pub log_bytes: usize,
    /// Entries of the commit log. Default 1024.
    pub log_entries: usize,
    /// Largest vector that commits by log where a frame costs a system call. Default 64 KiB.
    pub log_op_bytes_syscall: usize,
    /// Largest vector that commits by log over shared memory, where Done is cheap. Default 1 KiB.
    pub log_op_bytes_memory: usize,
    /// Reduce-scatters and all-to-alls of two ranks need no Done up to so many bytes of all blocks.
    pub pair_op_bytes: usize,
    /// Windows that a peer may be ahead of the oldest one that is open here. Default 1024.
    pub open_windows: usize,
    /// Outputs, and copies of inputs in place, are written past the cache from this size on, where they are not
    /// read again. Default 8 MiB.
    pub streaming_bytes: usize,
    /// How much of the results is compared among members. Default sampled.
    pub digests: Digests,
}

impl Limits {
    /// The largest vector that commits by log, by whether a frame between some two members costs a system call.
    pub fn log_op_bytes(&self, syscall_per_frame: bool) -> usize {
        if syscall_per_frame { self.log_op_bytes_syscall } else { self.log_op_bytes_memory }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            eager_bytes: 256 << 10,
            early_bytes: 4 << 20,
            unentered_bytes: 2 << 20,
            view_bytes: 512 << 10,
            log_bytes: 8 << 20,
            log_entries: 1024,
            log_op_bytes_syscall: 64 << 10,
            log_op_bytes_memory: 1 << 10,
            pair_op_bytes: 64 << 10,
            open_windows: 1024,
            streaming_bytes: 8 << 20,
            digests: Digests::Sampled,
        }
    }
}

/// What the executor wants the coordinator to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Two ranks made different calls.
    Mismatch {
        /// The op.
        op: OpId,
        /// This member.
        member: MemberId,
        /// Its call.
        call: String,
        /// The other.
        other: MemberId,
        /// Its call.
        other_call: String,
    },
    /// Members do not hold the same.
    Diverged(Divergence),
}

/// Names an op that was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpHandle {
    pub(crate) at: u32,
    pub(crate) life: u8,
}

/// A call with what the executor needs to run it.
pub struct NewOp<P> {
    /// The group it is made on.
    pub group: GroupIndex,
    /// The call.
    pub call: Call,
    /// This rank's plan for it.
    pub plan: P,
    /// What [`Executor::redirect`] gave.
    pub source: Option<u32>,
    /// The time.
    pub now: Instant,
    /// When it is overdue.
    pub deadline: Instant,
    /// The commit group that it belongs to.
    pub commit_group: Option<CommitGroupId>,
}

/// Everything that ops share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) groups: Vec<GroupState>,
    pub(crate) pool: SlotPool,
    pub(crate) log: CommitLog,
    pub(crate) commit_groups: CommitGroups,
    /// By link: charge of frames whose receiver is not known to have entered their op.
    pub(crate) unentered: Vec<usize>,
    /// By link: the peer was asked how far it is, before that has become urgent.
    pub(crate) asking: Vec<bool>,
    /// By link: bytes of views held.
    pub(crate) held_views: Vec<usize>,
    pub(crate) releases: Vec<(usize, ViewToken)>,
    /// Links that ended while views of their memory are held.
    pub(crate) ended_links: Vec<(usize, Box<dyn Link>)>,
    pub(crate) owed: Vec<Owed>,
    pub(crate) recent: RecentCalls,
    /// Links whose peers have taken back memory that was read from.
    pub(crate) revoked: Vec<usize>,
    /// Links whose peers sent what no correct peer sends.
    pub(crate) violations: Vec<(usize, &'static str)>,
    pub(crate) effects: Vec<Effect>,
    /// Who wants to hear when this peer has returned from an op.
    pub(crate) ack_requests: Vec<(GroupIndex, usize, Header)>,
    /// Frames that their link had no room for.
    pub(crate) unsent: Vec<(usize, Header, Segment)>,
}

impl Shared {
    pub(crate) fn release(&mut self, link: usize, token: ViewToken, len: usize) {
        self.held_views[link] -= len;
        self.releases.push((link, token));
    }

    pub(crate) fn returned_through(&self, group: GroupIndex, tag: Tag) -> crate::Seq {
        self.groups[group.0].returned_through(tag)
    }

    /// The peer behind `link` has returned from all ops of this tag below `through`.
    pub(crate) fn peer_returned(&mut self, group: GroupIndex, link: usize, tag: Tag, through: crate::Seq) {
        let state = &mut self.groups[group.0];
        let Some(rank) = state.rank_of(link) else { return };
        if let Some(below) = state.peer_returned(rank, tag, through) {
            self.log.release(group, tag, below, &mut self.pool);
        }
    }

    pub(crate) fn submit_control(
        &mut self,
        link: usize,
        header: &Header,
        payload: &Segment,
        links: &mut Links,
    ) -> bool {
        let mut header = *header;
        header.payload_len = payload.len() as u32;
        // The payload of a Mismatch lies in the descriptor block, which is never reused.
        links[link].as_mut().is_none_or(|link| link.submit(&header, payload, u64::MAX) != Submit::Full)
    }

    /// Asks those who hold the oldest log entry back for an acknowledgement, once per entry.
    pub(crate) fn ask_laggards(&mut self, links: &mut Links) -> bool {
        let Some((group, tag, seq)) = self.log.ask_about() else { return false };
        let state = &mut self.groups[group.0];
        let me = state.me;
        let returned = state.returned_through(tag);
        let header = Header {
            kind: FrameKind::AckRequest,
            op: state.formation.op(tag, seq),
            epoch: state.epoch,
            returned_through: returned,
            ..Header::EMPTY
        };
        let laggards: Vec<usize> = state.tag(tag).laggards(me, seq).collect();
        for rank in laggards {
            let link = self.groups[group.0].members[rank];
            if !self.submit_control(link, &header, &Segment::EMPTY, links) {
                self.unsent.push((link, header, Segment::EMPTY));
            }
        }
        true
    }

    /// Answers those who wait to hear that this peer has returned from an op, where it has.
    pub(crate) fn answer_ack_requests(&mut self) {
        let mut at = 0;
        while at < self.ack_requests.len() {
            let (group, rank, header) = self.ack_requests[at];
            let returned_through = self.returned_through(group, header.op.tag);
            if returned_through <= header.op.seq {
                at += 1;
                continue;
            }
            self.ack_requests.swap_remove(at);
            let answer = Header { kind: FrameKind::Ack, returned_through, ..header };
            let link = self.groups[group.0].members[rank];
            self.unsent.push((link, answer, Segment::EMPTY));
        }
    }

    /// Whether views of a link's memory, just read, held what the peer sent.
    pub(crate) fn is_sound(&self, at: usize, links: &Links) -> bool {
        let ended = self.ended_links.iter().find(|(link, _)| *link == at).map(|(_, link)| link);
        links[at].as_ref().or(ended).is_none_or(|link| link.is_sound())
    }

    /// Gives views back. A link that has ended goes with its last one.
    pub(super) fn give_views_back(&mut self, links: &mut [Option<Box<dyn Link>>]) {
        for (at, token) in self.releases.drain(..) {
            let live = links.get_mut(at).and_then(Option::as_mut);
            let ended = self.ended_links.iter_mut().find(|(link, _)| *link == at).map(|(_, link)| link);
            if let Some(link) = live.or(ended) {
                link.release(token);
            }
        }
        self.ended_links.retain(|(at, _)| self.held_views[*at] > 0);
    }

    fn flush(&mut self, links: &mut Links) {
        self.give_views_back(links);
        let mut waiting = std::mem::take(&mut self.unsent);
        waiting.retain(|(link, header, payload)| !self.submit_control(*link, header, payload, links));
        self.unsent.append(&mut waiting);
    }
}

/// Every open op of a process.
pub struct Executor<P> {
    pub(crate) ops: Vec<OpState<P>>,
    /// Ops that are running or stalled.
    pub(crate) active: Vec<usize>,
    free: Vec<usize>,
    pub(crate) shared: Shared,
    pub(crate) early: EarlyFrames,
    /// A peer was lost: nothing moves until the plan of recovery.
    pub(super) frozen_since: Option<Instant>,
    /// The plan by which it last went on, or the view that took effect since.
    pub(super) resumed: crate::Epoch,
    /// By link: why the peer behind it is lost.
    pub(super) losses: Vec<Option<Arc<PeerLost>>>,
    /// Of the last view that ops froze for.
    pub(super) epoch: crate::Epoch,
    /// What plans said of groups that other members had already made.
    pub(super) horizons: Vec<(crate::Formation, Tag, crate::Seq)>,
    pub(super) agreed: Agreed,
    /// Who sends, by the last plan, broadcasts that have not started here and whose root was lost.
    pub(super) sources: Vec<(crate::Formation, Tag, crate::Seq, MemberId)>,
    /// Of gathers, those who were lost and whose blocks somebody has.
    pub(super) stand_ins: Vec<(crate::Formation, Tag, crate::Seq, MemberId, MemberId)>,
    pub(super) generation: Generation,
    /// The view that takes effect at the next safe point.
    pub(super) armed: Option<Armed>,
    /// Places in the table of groups that are free.
    pub(super) vacant_groups: Vec<usize>,
    /// The Mismatch descriptor that came last, by link.
    pub(crate) scratch: Vec<Arena>,
    /// Descriptors sent, kept until the executor ends.
    pub(crate) told: Vec<Arena>,
}

/// At most so many ops may be open at one time (a cookie has 16 bits for them).
const MAX_OPS: usize = 1 << 16;

impl<P: Plan> Executor<P> {
    /// An executor over `links` links (one per world rank, one's own unused).
    pub fn new(links: usize, limits: Limits) -> Executor<P> {
        Executor {
            ops: Vec::new(),
            active: Vec::with_capacity(64),
            free: Vec::with_capacity(64),
            early: EarlyFrames::new(links),
            frozen_since: None,
            resumed: crate::Epoch(0),
            losses: vec![None; links],
            epoch: crate::Epoch(0),
            horizons: Vec::new(),
            agreed: Agreed::default(),
            sources: Vec::new(),
            stand_ins: Vec::new(),
            generation: Generation(0),
            armed: None,
            vacant_groups: Vec::new(),
            scratch: (0..links).map(|_| Arena::new(super::descriptor::DESCRIPTOR_BYTES)).collect(),
            told: Vec::new(),
            shared: Shared {
                groups: Vec::new(),
                pool: SlotPool::new(),
                log: CommitLog::new(limits.log_bytes, limits.log_entries),
                commit_groups: CommitGroups::default(),
                unentered: vec![0; links],
                asking: vec![false; links],
                held_views: vec![0; links],
                releases: Vec::with_capacity(64),
                ended_links: Vec::new(),
                owed: Vec::new(),
                recent: RecentCalls::default(),
                revoked: Vec::new(),
                violations: Vec::new(),
                effects: Vec::new(),
                ack_requests: Vec::new(),
                unsent: Vec::new(),
                limits,
            },
        }
    }

    /// Adds a group of this generation; the first one says which that is.
    pub fn add_group(&mut self, mut new: NewGroup) -> GroupIndex {
        new.epoch = new.epoch.max(self.epoch);
        if self.shared.groups.is_empty() {
            self.generation = new.formation.generation;
            self.resumed = new.epoch;
        }
        let mut group = GroupState::new(new);
        for link in (0..self.losses.len()).filter(|&link| self.losses[link].is_some()) {
            group.lose(link);
        }
        for (id, tag, horizon) in &self.horizons {
            if *id == group.formation {
                group.recover_below(*tag, *horizon);
            }
        }
        let index = self.insert_group(group);
        if let Some(armed) = self.armed.clone() {
            self.add_successor(index.0, &armed);
        }
        index
    }

    /// To be asked before a call is planned that starts next: a broadcast whose root was lost takes its data from
    /// another, if others do so already. Gives the rank of that, for which it has to be planned.
    pub fn redirect(&mut self, group: GroupIndex, call: &Call) -> Option<u32> {
        if self.sources.is_empty() || call.collective != Collective::Broadcast || call.is_strict() {
            return None;
        }
        let state = &mut self.shared.groups[group.0];
        if !state.is_lost(call.peer as usize) {
            return None;
        }
        let (formation, tag) = (state.formation, call.options.tag);
        let seq = state.tag(tag).next();
        let known = self.sources.iter().find(|known| (known.0, known.1, known.2) == (formation, tag, seq))?;
        let rank = state.rank_of(known.3.index()).filter(|&rank| !state.is_lost(rank) && rank != state.me)?;
        Some(rank as u32)
    }

    /// To be asked before a call is planned that starts next, and given with it: of a gather that others have started again, the
    /// blocks of the lost that count.
    pub fn stand_ins(&mut self, group: GroupIndex, call: &Call) -> Vec<StandIn> {
        if self.stand_ins.is_empty() || !call.gathers() || call.is_strict() {
            return Vec::new();
        }
        let state = &mut self.shared.groups[group.0];
        let (formation, tag) = (state.formation, call.options.tag);
        let seq = state.tag(tag).next();
        let of_op =
            self.stand_ins.iter().filter(|known| (known.0, known.1, known.2) == (formation, tag, seq));
        of_op.filter_map(|known| state.stand_in(known.3, known.4)).collect()
    }

    /// Starts a call with its plan. The caller has checked the call's buffers against the plan.
    pub fn start(&mut self, new: NewOp<P>, links: &mut Links, kernels: &dyn Kernels) -> Result<OpHandle> {
        let NewOp { group, call, plan, source, now, deadline, commit_group } = new;
        let at = self.take_slot()?;
        if let Err(refused) = self.shared.commit_groups.admit(commit_group, group, &call, now) {
            self.release_slot(at);
            return Err(refused.into());
        }
        let state = &mut self.shared.groups[group.0];
        let op = &mut self.ops[at];
        op.reset(state);
        op.pair = None;
        op.receives = call.collective == Collective::Recv;
        op.id = if call.collective.is_point_to_point() {
            op.pair = Some(state.members[call.peer as usize]);
            state.next_message(Rank(call.peer), call.options.tag, !op.receives)
        } else {
            state.next_op(call.options.tag).0
        };
        self.shared.recent.started(op.id, call.collective);
        op.group = group;
        op.started = now;
        op.deadline = deadline;
        op.patience = deadline.since(now);
        op.commit_group = commit_group;
        op.seals = call.collective == Collective::Commit;
        op.own_weight = match call.reduction {
            Some(Reduction::WeightedAvg(weight)) => Some(weight),
            _ => None,
        };
        op.call = Some(call);
        op.lost_root = None;
        if let Some(source) = source {
            op.take_from(source as usize, state.me);
        }
        let handle = OpHandle { at: at as u32, life: op.life };
        if let Some(error) = self.ended_before_it_began(at) {
            self.end_unbegun(at, error);
            return Ok(handle);
        }
        if self.agreed.has_ended() {
            self.active.push(at);
            self.wait_for_the_end(at);
            return Ok(handle);
        }
        if self.is_frozen() && (self.ops[at].starts_again() || self.may_end_by_agreement(at)) {
            // What becomes of it, even that it cannot be carried out, is for the plan to say: others may hold
            // its result, and all have to end it alike.
            self.active.push(at);
            self.ops[at].phase = Phase::Frozen;
            return Ok(handle);
        }
        if source.is_none()
            && let Some(loss) = self.loss_that_ends(at)
        {
            // It has its number all the same: on other ranks it may have been open when the peer was lost.
            self.end_unbegun(at, loss);
            return Ok(handle);
        }
        self.active.push(at);
        self.begin(at, plan, links, kernels);
        Ok(handle)
    }

    /// Begins an attempt of an op with its plan.
    pub(super) fn begin(&mut self, at: usize, plan: P, links: &mut Links, kernels: &dyn Kernels) {
        let op = &mut self.ops[at];
        let Some(call) = &op.call else { return };
        let state = &self.shared.groups[op.group.0];
        let in_commit_group = op.commit_group.is_some();
        let commit = Commit::of(state, op.id.seq, (call, in_commit_group), &plan, &self.shared.limits);
        op.set_plan(plan);
        let Some(call) = &op.call else { return };
        op.commit = commit;
        op.given_in = state.epoch;
        op.descriptor = Descriptor::of(call, op.plan_digest(), commit);
        if let (Some(id), true) = (op.commit_group, op.seals) {
            op.descriptor = op.descriptor.of_calls(self.shared.commit_groups.called(id));
        }
        op.header = Header {
            op: op.id,
            point_to_point: op.pair.is_some(),
            one_attempt: call.is_strict() || commit == Commit::Pair,
            epoch: state.epoch,
            fingerprint: op.descriptor.fingerprint(),
            ..Header::EMPTY
        };
        op.count_stand_ins();
        failpoint::reach(Point::Started, &op.id, 0);
        op.plan_windows(state);
        op.plan_backup(&self.shared.limits);
        op.open_windows(&mut self.shared.pool);
        op.plan_entry(&self.shared.limits);
        self.run(at, links, kernels);
        self.deliver_early(at);
    }

    /// It has its number all the same, and all that others did with it.
    fn end_unbegun(&mut self, at: usize, error: Error) {
        self.ops[at].end(Err(error), &mut self.shared);
        self.deliver_early(at);
        if self.ops[at].seals {
            self.end_commit_group(at);
        }
    }

    fn take_slot(&mut self) -> Result<usize> {
        if let Some(at) = self.free.pop() {
            return Ok(at);
        }
        if self.ops.len() == MAX_OPS {
            return Err(Error::resource(format!("{MAX_OPS} operations are open already: wait for some")));
        }
        self.ops.push(OpState::new());
        Ok(self.ops.len() - 1)
    }

    pub(super) fn release_slot(&mut self, at: usize) {
        self.free.push(at);
    }

    /// Runs everything that can run. Returns true if anything moved.
    pub fn advance(&mut self, links: &mut Links, kernels: &dyn Kernels) -> bool {
        self.shared.flush(links);
        let mut moved = false;
        let mut i = 0;
        while i < self.active.len() {
            let at = self.active[i];
            moved |= self.run(at, links, kernels);
            if self.active.get(i) == Some(&at) {
                i += 1;
            }
        }
        moved
    }

    pub(super) fn run(&mut self, at: usize, links: &mut Links, kernels: &dyn Kernels) -> bool {
        let moved = self.ops[at].run(at, &mut self.shared, links, kernels);
        if matches!(self.ops[at].phase, Phase::Ended(_)) {
            self.active.retain(|&a| a != at);
            if self.ops[at].seals {
                self.end_commit_group(at);
            }
        }
        if !self.shared.releases.is_empty() {
            self.shared.flush(links);
        }
        moved
    }

    /// Takes a receive back of which nothing has come yet: it ends with [`Aborted::Cancelled`], and what is sent for it is dropped.
    /// False for any other call: what others take part in ends for all of them, by its deadline or with the job.
    pub fn cancel(&mut self, handle: OpHandle) -> bool {
        let op = &mut self.ops[handle.at as usize];
        if op.life != handle.life || !op.has_received_nothing() {
            return false;
        }
        op.end(Err(Error::Aborted(Arc::new(Aborted::Cancelled))), &mut self.shared);
        self.active.retain(|&at| at != handle.at as usize);
        true
    }

    /// A receive that is late and of which nothing has come ends here alone, with this error: its sender loses nothing by it. False for
    /// any other call.
    pub fn end_untouched(&mut self, late: &Overdue, error: &Error) -> bool {
        let op = &mut self.ops[late.at];
        if op.id != late.op || !op.has_received_nothing() {
            return false;
        }
        op.end(Err(error.clone()), &mut self.shared);
        self.active.retain(|&at| at != late.at);
        true
    }

    /// The result of an op, once it has ended; the handle is spent then.
    pub fn take(&mut self, handle: OpHandle) -> Option<Result<Outcome>> {
        let op = &mut self.ops[handle.at as usize];
        if op.life != handle.life {
            return Some(Err(Error::internal("an operation handle was used twice")));
        }
        if !matches!(op.phase, Phase::Ended(_)) {
            return None;
        }
        let Phase::Ended(result) = std::mem::replace(&mut op.phase, Phase::Free) else { return None };
        self.free.push(handle.at as usize);
        Some(result)
    }

    /// Whether [`Executor::take`] would give a result.
    pub fn has_ended(&self, handle: OpHandle) -> bool {
        let op = &self.ops[handle.at as usize];
        op.life != handle.life || matches!(op.phase, Phase::Ended(_))
    }

    /// Number of ops that have not ended.
    pub fn open_ops(&self) -> usize {
        self.active.len()
    }

    /// True if nothing that a peer may still need is held here.
    pub fn log_is_empty(&self) -> bool {
        self.shared.log.is_empty()
    }

    /// True if there are frames that no link has taken yet.
    pub fn has_unsent(&self) -> bool {
        !self.shared.unsent.is_empty()
    }

    /// Asks the members that hold log entries back to say how far they are.
    pub fn ask_for_acknowledgement(&mut self, links: &mut Links) {
        self.shared.ask_laggards(links);
    }

    /// The peer behind `link` has left in order, so it needs nothing more of any op.
    pub fn peer_left(&mut self, link: usize) {
        for group in (0..self.shared.groups.len()).map(GroupIndex) {
            for tag in self.shared.groups[group.0].tags() {
                self.shared.peer_returned(group, link, tag, crate::Seq(u64::MAX));
            }
        }
    }

    /// A link that cannot go on, and why: its peer broke the protocol, or took memory back. The caller
    /// closes it as failed.
    pub fn take_failure(&mut self) -> Option<(usize, LinkFailure)> {
        match self.shared.revoked.pop() {
            Some(link) => Some((link, LinkFailure::Revoked)),
            None => self.shared.violations.pop().map(|(link, why)| (link, LinkFailure::Violation(why))),
        }
    }

    /// The peer behind `link` took back memory that ops here have read: none of them can end well.
    pub fn stall_ops_with(&mut self, link: usize) {
        for &at in &self.active {
            let op = &mut self.ops[at];
            let concerned = op
                .pair
                .map_or_else(|| self.shared.groups[op.group.0].rank_of(link).is_some(), |pair| pair == link);
            if concerned && matches!(op.phase, Phase::Running) {
                op.phase = Phase::Stalled;
            }
        }
    }

    /// What the coordinator should hear.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.shared.effects)
    }

    /// An open op that still waits for the peer behind `link`.
    pub fn waits_on(&self, link: usize) -> Option<(OpId, Collective)> {
        self.active.iter().map(|&at| &self.ops[at]).find_map(|op| {
            let rank = self.shared.groups[op.group.0].rank_of(link)?;
            let collective = op.call.as_ref()?.collective;
            op.missing().contains(&(rank as u32)).then_some((op.id, collective))
        })
    }

    /// The earliest deadline of an open op.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.active.iter().filter_map(|&at| self.deadline_of(&self.ops[at])).min()
    }

    /// A call that is complete and waits for its seal is not overdue while that is made: then the seal's deadline counts. Until
    /// then the next call of its commit group has to come within the time that it has itself.
    fn deadline_of(&self, op: &OpState<P>) -> Option<Instant> {
        match op.commit_group {
            Some(id) if op.is_held() => self.shared.commit_groups.overdue_at(id, op.patience),
            _ => Some(op.deadline),
        }
    }

    /// An op that is past its deadline: its id, kind, time waited, and the members that hold it up,
    /// each with whether it has been heard of in this op.
    pub fn overdue(&self, now: Instant) -> Option<Overdue> {
        let is_late = |at: &usize| self.deadline_of(&self.ops[*at]).is_some_and(|deadline| deadline <= now);
        let late_at = self.active.iter().copied().find(is_late)?;
        let late = &self.ops[late_at];
        // A seal that others have not even been told of waits for a call of its own group.
        let waits = |at: &usize| {
            let op = &self.ops[*at];
            op.commit_group == late.commit_group && !op.seals && !op.is_held()
        };
        let holds_up = self.active.iter().copied().find(waits).filter(|_| late.seals && !late.is_ready);
        let at = holds_up.unwrap_or(late_at);
        let op = &self.ops[at];
        let missing = op.missing();
        let arrived = op.entered.iter().filter(|entered| **entered).count();
        let state = &self.shared.groups[op.group.0];
        let others = (0..state.members.len() as u32).filter(|rank| {
            let takes_part =
                op.pair.is_none() && *rank as usize != state.me && !state.is_lost(*rank as usize);
            takes_part && !missing.contains(rank)
        });
        Some(Overdue {
            others: others.map(|rank| op.member(rank, &self.shared)).collect(),
            strict: op.is_strict(),
            at,
            op: op.id,
            group: op.group,
            collective: op.call.as_ref().map_or(Collective::Barrier, |c| c.collective),
            waited: now.since(op.started),
            waits_for: match op.phase {
                Phase::Frozen => WaitsFor::Plan,
                Phase::Awaiting => WaitsFor::Result,
                _ if op.is_held() => WaitsFor::Seal,
                _ => WaitsFor::Members,
            },
            arrived: arrived as u32 + u32::from(op.pair.is_none()),
            of: if op.pair.is_some() { 2 } else { state.present() as u32 },
            window: op.oldest_window(),
            missing: missing
                .into_iter()
                .map(|r| (op.member(r, &self.shared), op.entered[r as usize]))
                .collect(),
        })
    }

    /// Closes a link that has failed or shall end. Ops may hold views of its memory, so it is only
    /// dropped when the last of them was given back.
    pub fn close_link(&mut self, links: &mut Links, at: usize) {
        let Some(mut link) = links[at].take() else { return };
        link.close();
        // It writes no more: what is half here will never be whole.
        self.early.drop_halves(at, &mut self.shared.pool);
        self.shared.ended_links.push((at, link));
        self.shared.give_views_back(links);
    }

    /// Ends every open op with the same error. All links are closed first, so that no late write lands
    /// in a caller's memory.
    pub fn fail_all(&mut self, links: &mut Links, error: &Error) {
        (0..links.len()).for_each(|at| self.close_link(links, at));
        for at in std::mem::take(&mut self.active) {
            self.ops[at].fail(error, &mut self.shared);
        }
        self.end_commit_groups();
        self.shared.give_views_back(links);
        self.shared.log.clear(&mut self.shared.pool);
        self.early.clear(&mut self.shared.pool);
    }

    /// What every open op waits for, for error texts and tests.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for op in self.active.iter().map(|&at| &self.ops[at]) {
            let waits = op.missing();
            text += &format!(
                "{} tag {} seq {}: commit {:?}, phase {:?}, waits for ranks {waits:?}; ",
                op.descriptor, op.id.tag, op.id.seq, op.commit, op.phase
            );
        }
        text
    }

    /// Most bytes of staging that were in use at one time.
    pub fn staging_peak(&self) -> usize {
        self.shared.pool.peak()
    }

    /// Bytes of staging in use, and of links' memory that is read in place: none once all calls have ended and the log is empty.
    pub fn bytes_in_use(&self) -> usize {
        self.shared.pool.in_use() + self.shared.held_views.iter().sum::<usize>()
    }
}

/// What an op waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitsFor {
    /// Its members, or the links to them.
    Members,
    /// The plan of recovery after a loss.
    Plan,
    /// Its result, from a member that has it.
    Result,
    /// The end of its commit group, which this process has not said.
    Seal,
}

/// An op that missed its deadline.
#[derive(Clone, Debug)]
pub struct Overdue {
    /// Its place in the table.
    at: usize,
    /// The op.
    pub op: OpId,
    /// Its group.
    pub group: GroupIndex,
    /// What kind.
    pub collective: Collective,
    /// Since its start.
    pub waited: std::time::Duration,
    /// For what.
    pub waits_for: WaitsFor,
    /// Members that are known to have entered it, with this one.
    pub arrived: u32,
    /// Of so many.
    pub of: u32,
    /// The first window that is not complete, and how many there are.
    pub window: Option<(u32, u32)>,
    /// Members that hold it up, and whether they have entered it.
    pub missing: Vec<(MemberId, bool)>,
    /// All others that take part in it: those that hold it up may wait for one of them.
    pub others: Vec<MemberId>,
    /// It tolerates no loss.
    pub strict: bool,
}
