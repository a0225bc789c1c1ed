//! What happens to open ops when a peer is lost: they freeze, are reported, and go on by a plan.

use super::executor::{Executor, Shared};
use super::group::{GroupIndex, GroupState, has_ended_by_loss};
use super::op::{Commit, Phase};
use super::{Links, OpHandle};
use crate::call::Call;
use crate::error::{Error, PeerLost, Result};
use crate::frame::{FrameKind, Header};
use crate::memory::{Access, Segment};
use crate::plan::Plan;
use crate::planted::{self, Bug};
use crate::recovery::{RecoveryPlan, Report, TagReport};
use crate::reduce::Kernels;
use crate::transport::{Payload, Placement};
use crate::{Epoch, Formation, GroupId, Instant, MemberId, OpId, Rank, Tolerance};
use std::sync::Arc;

impl<P: Plan> Executor<P> {
    /// True between a report and its plan.
    pub fn is_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }

    /// Whether the peer behind a link is lost.
    pub fn is_lost(&self, link: usize) -> bool {
        self.losses[link].is_some()
    }

    /// A view of this epoch without the peers behind `lost` is to come: ends the attempts of all open ops,
    /// closes the links to the lost, and says how far every op is. Nothing returns until [`Executor::resume`].
    ///
    /// Messages between two that are there go on: they do not depend on the view.
    pub fn freeze(
        &mut self,
        epoch: Epoch,
        lost: &[Arc<PeerLost>],
        now: Instant,
        links: &mut Links,
    ) -> Report {
        self.frozen_since.get_or_insert(now);
        self.epoch = epoch;
        self.log_complete_ops();
        // A newcomer may hear of some whom it never knew.
        let known = self.losses.len();
        for lost in lost.iter().filter(|lost| lost.member.index() < known) {
            let link = lost.member.index();
            self.losses[link].get_or_insert_with(|| lost.clone());
            self.close_link(links, link);
            // Nothing of the log is kept for it.
            self.peer_left(link);
            self.shared.groups.iter_mut().for_each(|group| group.lose(link));
        }
        let is_over = |header: &Header| is_over(&self.shared.groups, header);
        links.iter_mut().flatten().for_each(|link| link.fence(&is_over));
        for group in &mut self.shared.groups {
            group.epoch = epoch;
        }
        for at in self.active.clone() {
            let op = &self.ops[at];
            let broken = !self.shared.groups[op.group.0].is_whole();
            let ends = if op.is_strict() { broken } else { op.starts_again() && (broken || !op.stands()) };
            if !ends {
                continue;
            }
            let op = &mut self.ops[at];
            if op.is_held() {
                // Until now it waited for its caller, from now on for others.
                op.deadline = now.after(op.patience);
            }
            op.freeze(&mut self.shared);
            if planted::has(Bug::OpsReturnWhileFrozen) && self.ops[at].is_complete() {
                self.ops[at].end_well(&mut self.shared);
            }
        }
        self.withhold();
        self.forget_attempts();
        self.shared.give_views_back(links);
        self.report(epoch)
    }

    /// An op that waits for room in the log holds its result and counts as returned: now it does return,
    /// before anything is reported.
    fn log_complete_ops(&mut self) {
        for at in self.active.clone() {
            let op = &mut self.ops[at];
            if matches!(op.phase, Phase::Running) && op.commit == Commit::Log && op.is_complete() {
                op.log_result(&mut self.shared);
                op.end_well(&mut self.shared);
                self.active.retain(|&active| active != at);
            }
        }
    }

    /// Drops what belongs to attempts that have ended, on its way in or out.
    fn forget_attempts(&mut self) {
        let losses = &self.losses;
        let Shared { unsent, ack_requests, groups, pool, .. } = &mut self.shared;
        unsent.retain(|(_, header, _)| !is_over(groups, header));
        ack_requests.retain(|(group, rank, _)| !groups[group.0].is_lost(*rank));
        self.early.drop_frames(pool, |link, header| is_over(groups, header) || losses[link].is_some());
    }

    /// Takes what was sent in attempts that have ended from the accounts. Everybody has dropped it by now: while
    /// some had not, what goes on between two that are there could have been too much for them.
    fn settle_attempts(&mut self) {
        let Shared { owed, unentered, asking, groups, .. } = &mut self.shared;
        // Of calls with one attempt the receiver may keep what came before it had made the group: they are on the account
        // until it is heard of in that.
        owed.retain(|owed| self.losses[owed.link].is_none() && (owed.pair.is_some() || owed.one_attempt));
        unentered.fill(0);
        asking.fill(false);
        owed.iter().for_each(|owed| unentered[owed.link] += owed.bytes);
        for op in self.active.iter().map(|&at| &self.ops[at]) {
            let group = &groups[op.group.0];
            for (rank, bytes) in op.unentered() {
                unentered[group.members[rank]] += bytes;
            }
        }
    }

    fn report(&self, epoch: Epoch) -> Report {
        let groups = &self.shared.groups;
        let mut tags: Vec<_> = groups.iter().flat_map(|group| group.tag_reports()).collect();
        // Of groups that only others have made so far, what the last plans said.
        for &(formation, tag, started) in &self.horizons {
            if !tags.iter().any(|known| (known.formation, known.tag) == (formation, tag)) {
                tags.push(TagReport { formation, tag, started, ..TagReport::default() });
            }
        }
        self.report_aborted(&mut tags);
        for op in self.active.iter().map(|&at| &self.ops[at]) {
            let of_op = |tag: &&mut TagReport| (tag.formation, tag.tag) == (op.id.formation(), op.id.tag);
            let Some(tag) = tags.iter_mut().find(of_op) else { continue };
            if !matches!(op.phase, Phase::Frozen) && !op.is_withheld {
                continue;
            }
            // Of a commit group only the seal counts.
            if op.is_complete() && op.commit != Commit::Group {
                tag.complete.push((op.id.seq, op.given_in));
            }
            tag.partial.extend(op.partial());
            if op.holds_data() {
                tag.held.push(op.id.seq);
            }
            let group = &self.shared.groups[op.group.0];
            let blocks: Vec<MemberId> = op.blocks_of_the_lost(group).collect();
            if !blocks.is_empty() {
                tag.blocks.push((op.id.seq, blocks));
            }
            if op.lets_others_return() {
                tag.unannounced.push(op.id.seq);
            }
        }
        let used = |group: &&GroupState| tags.iter().any(|tag| tag.formation == group.formation);
        let is_split = |group: &&GroupState| group.formation.group != GroupId(0) && used(group);
        let members = |group: &GroupState| group.members.iter().map(|&m| MemberId(m as u32)).collect();
        let splits = groups.iter().filter(is_split).map(|group| (group.formation, members(group))).collect();
        let formations = groups.iter().map(|group| group.formation).collect();
        Report {
            epoch,
            groups: formations,
            splits,
            tags,
            ending: self.agreed.ending().map(Box::new),
            resumed: self.resumed,
        }
    }

    /// Goes on by the plan of the epoch that was last reported: commits what it commits, sends results to
    /// those who lack them, and starts all other ops again with what `replan` makes of their calls among
    /// the members that are left. Ops that cannot go on without the lost end with the error of the loss.
    pub fn resume(
        &mut self,
        plan: &RecoveryPlan,
        now: Instant,
        replan: &mut dyn FnMut(GroupIndex, &Call) -> Result<P>,
        links: &mut Links,
        kernels: &dyn Kernels,
    ) {
        let Some(since) = self.frozen_since.take() else { return };
        self.resumed = self.epoch;
        for &at in &self.active {
            let op = &mut self.ops[at];
            if matches!(op.phase, Phase::Frozen) {
                let from = since.max(op.started);
                if op.interruptions == 0 {
                    op.interrupted_after = from.since(op.started);
                }
                op.interruptions += 1;
                op.interrupted_for += now.since(from);
            }
        }
        for (formation, tag, horizon) in &plan.horizons {
            match self.shared.groups.iter_mut().find(|state| state.formation == *formation) {
                Some(group) => group.recover_below(*tag, *horizon),
                None => self.horizons.push((*formation, *tag, *horizon)),
            }
        }
        self.sources.clear();
        if !planted::has(Bug::SourcesAreForgotten) {
            self.sources.extend_from_slice(&plan.sources);
        }
        self.stand_ins.clear();
        if !planted::has(Bug::StandInsAreForgotten) {
            self.stand_ins.extend_from_slice(&plan.stand_ins);
        }
        self.learn_aborts(plan, links);
        self.settle_attempts();
        self.provide_results(plan);
        let sealed = self.sealed_by(|op| {
            let OpId { tag, seq, .. } = op.id;
            matches!(op.phase, Phase::Frozen) && plan.commit(op.id.formation(), tag, seq).is_some()
        });
        let complete = self.settle_commit_groups(&sealed);
        for at in self.active.clone() {
            if !complete.contains(&at) {
                self.go_on(at, plan, replan, links, kernels);
            }
        }
        for at in self.active.clone() {
            if self.ops[at].seals && !self.ops[at].is_open() {
                self.end_commit_group(at);
            }
        }
        let ops = &self.ops;
        self.active.retain(|&at| ops[at].is_open());
    }

    fn go_on(
        &mut self,
        at: usize,
        plan: &RecoveryPlan,
        replan: &mut dyn FnMut(GroupIndex, &Call) -> Result<P>,
        links: &mut Links,
        kernels: &dyn Kernels,
    ) {
        if let Some(error) = self.agreed_end(at, plan) {
            self.keep_what_is_final(at, plan);
            return self.ops[at].end(Err(error), &mut self.shared);
        }
        if self.ends_with_the_job(at, plan) {
            self.keep_what_is_final(at, plan);
            self.ops[at].freeze(&mut self.shared);
            return self.wait_for_the_end(at);
        }
        let loss = self.loss_that_ends(at);
        let op = &mut self.ops[at];
        op.is_withheld = false;
        let (Phase::Frozen, None, Some(call)) = (&op.phase, op.pair, &op.call) else {
            if let (Some(loss), Some(_)) = (loss, op.pair) {
                op.end(Err(loss), &mut self.shared);
            }
            return;
        };
        let commit = plan.commit(op.id.formation(), op.id.tag, op.id.seq);
        let committed = commit.is_some() && call.options.tolerance != Tolerance::None;
        if let Some(commit) = commit.filter(|_| committed && op.is_complete()) {
            if op.commit != Commit::Done {
                // It holds something of every member, so all have made this call.
                op.end_if_alike(&mut self.shared);
                return;
            }
            let group = &self.shared.groups[op.group.0];
            op.confirm(group, commit.holders.iter().filter_map(|member| group.rank_of(member.index())));
            self.deliver_early(at);
            return;
        }
        // Others count as returned also where they ended with an error, for want of somebody who was lost:
        // what does not commit by log has no result to wait for, and ends alike here.
        if let Some(commit) = commit.filter(|_| committed && op.commits_by_log()) {
            op.phase = Phase::Awaiting;
            op.provider = commit.provider.map(MemberId::index);
            // The provider may be lost with half of it sent.
            op.save_input(&mut self.shared.pool);
            self.deliver_early(at);
            return;
        }
        if let Some(loss) = loss {
            let group = &self.shared.groups[op.group.0];
            let source = plan.source(op.id.formation(), op.id.tag, op.id.seq);
            let source = source.and_then(|source| group.rank_of(source.index()));
            match source.filter(|&source| !group.is_lost(source) && !op.is_strict()) {
                Some(source) if source != group.me || op.holds_data() => op.take_from(source, group.me),
                _ => return op.end(Err(loss), &mut self.shared),
            }
        }
        let begin = plan.rest(op.id.formation(), op.id.tag, op.id.seq);
        if begin > 0 && !op.go_on_from(begin, &mut self.shared) {
            let OpId { seq, tag, .. } = op.id;
            let text = format!(
                "the plan of recovery of epoch {} lets op #{seq} (tag {tag}) go on from byte {begin}, where no window of it \
                 ends here: please report it",
                self.epoch
            );
            op.end(Err(Error::internal(text)), &mut self.shared);
            return;
        }
        op.restore_input(&mut self.shared.pool);
        op.take_stand_ins(&self.shared.groups[op.group.0], plan);
        let Some(call) = &op.call else { return };
        let again = replan(op.group, call);
        match again {
            Ok(again) => {
                op.start_attempt(&self.shared.groups[op.group.0]);
                self.begin(at, again, links, kernels);
            }
            Err(error) => op.end(Err(error), &mut self.shared),
        }
    }

    /// Of an op that ends: windows that are final stay, all else of what it has overwritten in place comes back.
    fn keep_what_is_final(&mut self, at: usize, plan: &RecoveryPlan) {
        let op = &mut self.ops[at];
        let final_bytes = plan.rest(op.id.formation(), op.id.tag, op.id.seq);
        if final_bytes > 0 && matches!(op.phase, Phase::Frozen) {
            op.go_on_from(final_bytes, &mut self.shared);
        }
    }

    /// The loss without whose victim a call cannot be carried out: the other side of a message, the root, or
    /// any member where losses are not tolerated. Of several it is the first that there was: others may have
    /// ended the same call for that before they heard of the next.
    pub(super) fn loss_that_ends(&self, at: usize) -> Option<Error> {
        let op = &self.ops[at];
        let call = op.call.as_ref()?;
        let root = op.lost_root.unwrap_or(call.peer);
        let group = &self.shared.groups[op.group.0];
        let strict = call.is_strict();
        let names_one = call.collective.is_point_to_point() || call.collective.has_root();
        let ends = |rank: &u32| strict || names_one && *rank == root;
        let lost = group.lost_ranks().filter(ends).map(|rank| group.members[rank as usize]);
        let first = lost.filter_map(|link| self.losses[link].as_ref()).min_by_key(|lost| lost.epoch)?;
        // It was announced with its rank of then; the caller knows it by that of its own generation.
        let world = Formation { group: GroupId(0), ..group.formation };
        let world = self.shared.groups.iter().find(|group| group.formation == world);
        let rank = world.and_then(|world| world.rank_of(first.member.index()));
        let rank = rank.map_or(first.rank, |rank| Rank(rank as u32));
        Some(Error::PeerLost(match rank == first.rank {
            true => first.clone(),
            false => Arc::new(PeerLost { rank, ..PeerLost::clone(first) }),
        }))
    }

    /// Sends the results that the plan wants from this peer.
    fn provide_results(&mut self, plan: &RecoveryPlan) {
        let Shared { groups, log, unsent, .. } = &mut self.shared;
        for commit in &plan.commits {
            let Some(index) = groups.iter().position(|state| state.formation == commit.formation) else {
                continue;
            };
            let group = &groups[index];
            if commit.provider.map(MemberId::index) != Some(group.members[group.me]) {
                continue;
            }
            let index = GroupIndex(index);
            // An op that needs nobody's result has none in the log.
            let Some((result, weight)) = log.result(index, commit.tag, commit.seq) else { continue };
            if planted::has(Bug::LateResultsAreNotForwarded) {
                continue;
            }
            let op = group.formation.op(commit.tag, commit.seq);
            let header = Header {
                kind: FrameKind::Result,
                op,
                epoch: group.epoch,
                returned_through: group.returned_through(commit.tag),
                weighed: weight.is_some(),
                digest: weight.map_or(0, f64::to_bits),
                ..Header::EMPTY
            };
            let receivers = commit.receivers.iter().map(|member| member.index());
            for link in receivers.filter(|&link| group.rank_of(link).is_some()) {
                unsent.push((link, header, result.clone()));
            }
        }
    }

    /// Where the result of an op goes that waits for one.
    pub(super) fn place_result(&mut self, link: usize, header: &Header) -> Placement {
        let Some(at) = self.find(link, header) else { return self.place_early(link, header) };
        let op = &self.ops[at];
        match &op.call {
            Some(call) if matches!(op.phase, Phase::Awaiting) && fits(call, header) => {
                Placement::Into(call.output.clone())
            }
            _ => Placement::Discard,
        }
    }

    pub(super) fn result_arrived(&mut self, link: usize, header: &Header, payload: Payload) {
        match payload {
            Payload::Placed => {
                if !self.early.is_empty() && self.early.completed(link, header, &mut self.shared.pool) {
                    if let Some(at) = self.find(link, header) {
                        self.deliver_early(at);
                    }
                } else if let Some(at) = self.find(link, header) {
                    self.result_is_here(at, header);
                }
            }
            Payload::View(bytes, _) => match self.place_result(link, header) {
                Placement::Into(memory) => {
                    bytes.copy_to(&memory);
                    self.result_arrived(link, header, Payload::Placed);
                }
                Placement::Refuse(why) => self.shared.violations.push((link, why)),
                Placement::Discard => {}
            },
        }
    }

    /// A result that came before its op went on.
    pub(super) fn take_result(&mut self, at: usize, header: &Header, bytes: &Segment) {
        let op = &self.ops[at];
        if let (Some(call), Phase::Awaiting) = (&op.call, &op.phase)
            && call.output.len() == bytes.len()
        {
            bytes.copy_to(&call.output);
            self.result_is_here(at, header);
        }
    }

    fn result_is_here(&mut self, at: usize, header: &Header) {
        let op = &mut self.ops[at];
        if matches!(op.phase, Phase::Awaiting) {
            op.weight = header.weight();
            op.log_result(&mut self.shared);
            op.end_well(&mut self.shared);
            self.active.retain(|&active| active != at);
        }
    }

    /// Whether an op that waits for what nobody may bring any more exists, for tests.
    pub fn is_awaiting(&self, handle: OpHandle) -> bool {
        matches!(self.ops[handle.at as usize].phase, Phase::Awaiting)
    }
}

/// Whether a frame means nothing any more after a loss.
fn is_over(groups: &[GroupState], header: &Header) -> bool {
    header.is_of_attempt() || has_ended_by_loss(groups, header)
}

fn fits(call: &Call, header: &Header) -> bool {
    call.output.len() == header.payload_len as usize
}
