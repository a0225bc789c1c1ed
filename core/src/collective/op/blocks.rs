//! Blocks of a gather that are here whole, so that what members gave who were lost is not lost with them.

use super::holes::{holes, merge};
use super::{Commit, OpState};
use crate::MemberId;
use crate::call::StandIn;
use crate::collective::group::GroupState;
use crate::plan::{Place, Plan, Span, Window};
use crate::planted::{self, Bug};
use crate::recovery::RecoveryPlan;
use std::ops::Range;

impl<P: Plan> OpState<P> {
    /// Before an attempt ends: whose blocks have come. A commit group has one set of contributors, so that of its calls none
    /// counts more than another.
    pub(super) fn note_blocks(&mut self, me: usize) {
        let Some(call) = self.call.as_ref().filter(|call| call.gathers()) else { return };
        if !self.planned || self.commit_group.is_some() || call.is_strict() {
            return;
        }
        let written = self.written();
        let is_here = |bytes: &Range<usize>| {
            let around = written.partition_point(|range| range.end < bytes.end);
            written.get(around).is_some_and(|range| match planted::has(Bug::PartsOfBlocksAreWhole) {
                true => range.start < bytes.end && bytes.start < range.end,
                false => range.start <= bytes.start && bytes.end <= range.end,
            })
        };
        self.whole_blocks.resize(self.entered.len(), false);
        for (rank, is_whole) in self.whole_blocks.iter_mut().enumerate() {
            let block = holes(call, me, &[rank as u32]);
            *is_whole |= !block.is_empty() && block.iter().all(|part| is_here(&part.bytes));
        }
    }

    /// What this attempt has written of the output.
    fn written(&self) -> Vec<Range<usize>> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let is_open = |index: &u32| self.open.iter().any(|window| window.index == *index);
        let mut written = Vec::new();
        let mut add = |span: Option<Span>| {
            written.extend(
                span.filter(|span| span.place == Place::Output)
                    .map(|span| span.offset..span.offset + span.len),
            );
        };
        let mut window = Window::default();
        for index in (0..self.next_window).filter(|index| !is_open(index)) {
            window.clear();
            plan.window(index, &mut window);
            window.steps.iter().for_each(|step| add(step.action.target()));
        }
        for window in &self.open {
            window.steps_done().for_each(|step| add(step.action.target()));
        }
        merge(&mut written);
        written
    }

    /// Lost members whose blocks are here.
    pub(crate) fn blocks_of_the_lost(&self, group: &GroupState) -> impl Iterator<Item = MemberId> + '_ {
        let is_whole = |rank: &u32| self.whole_blocks.get(*rank as usize) == Some(&true);
        let whole: Vec<u32> = group.lost_ranks().filter(is_whole).collect();
        let members: Vec<usize> = whole.iter().map(|&rank| group.members[rank as usize]).collect();
        members.into_iter().map(|member| MemberId(member as u32))
    }

    /// Another may have returned from it, and not have told: also one that was lost.
    pub(crate) fn lets_others_return(&self) -> bool {
        self.planned && (matches!(self.commit, Commit::Log | Commit::Pair) || self.is_strict())
    }

    /// Whose blocks count in the attempt to come. Those of others who were lost never will: others may go on without them.
    pub(crate) fn take_stand_ins(&mut self, group: &GroupState, plan: &RecoveryPlan) {
        let Some(call) = &mut self.call else { return };
        let known = plan.stand_ins(self.id.formation(), self.id.tag, self.id.seq);
        call.stand_ins = known.filter_map(|(lost, holder)| group.stand_in(lost, holder)).collect();
        for rank in group.lost_ranks() {
            let counts = call.stand_ins.iter().any(|stand_in| stand_in.lost == rank);
            if let Some(is_whole) = self.whole_blocks.get_mut(rank as usize) {
                *is_whole &= counts;
            }
        }
    }

    /// The lost whose blocks somebody has count as if they were there.
    pub(crate) fn count_stand_ins(&mut self) {
        let Some(call) = &self.call else { return };
        for StandIn { lost, .. } in &call.stand_ins {
            let before = self.absent.len();
            self.absent.retain(|absent| absent != lost);
            self.contributors += (before - self.absent.len()) as u32;
        }
    }
}
