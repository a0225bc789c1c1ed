//! Attempts of an op: each starts from the same input, also where the one before has overwritten some of it.

use super::{Commit, OpState, Phase};
use crate::Collective;
use crate::call::Call;
use crate::collective::executor::{Limits, Shared};
use crate::collective::group::GroupState;
use crate::collective::slots::SlotPool;
use crate::failpoint::{self, Point};
use crate::frame::Header;
use crate::plan::Plan;
use crate::planted::{self, Bug};
use std::time::Duration;

impl<P: Plan> OpState<P> {
    /// Sets the counters for the first attempt in a group.
    pub(crate) fn reset(&mut self, group: &GroupState) {
        self.life = self.life.wrapping_add(1);
        self.counted = false;
        self.planned = false;
        self.holds_data = false;
        self.provider = None;
        self.whole_blocks.clear();
        self.interruptions = 0;
        self.interrupted_after = Duration::ZERO;
        self.interrupted_for = Duration::ZERO;
        self.sent_bytes = 0;
        self.received_bytes = 0;
        self.windowed.reset();
        self.is_ready = false;
        self.is_withheld = false;
        self.start_attempt(group);
    }

    /// Sets the counters for an attempt among the members that are there.
    pub(crate) fn start_attempt(&mut self, group: &GroupState) {
        let world = group.members.len();
        self.attempt = self.attempt.wrapping_add(1);
        self.contributors = match planted::has(Bug::TheLostStillCount) {
            true => world as u32,
            false => group.present() as u32,
        };
        self.phase = Phase::Running;
        self.next_window = 0;
        self.finished_windows = 0;
        self.weight = None;
        self.digest = None;
        self.enter_to.clear();
        self.expected.clear();
        self.window_limits.clear();
        self.window_limit = 0;
        self.absent.clear();
        self.absent.extend(group.lost_ranks());
        self.expect(group, (0..world).filter(|&rank| !group.is_lost(rank)));
    }

    /// The plan of recovery commits the complete result that is here. Those who hold theirs and have not returned still tell
    /// each other so: what Done compares (calls, blocks, digests) was perhaps on its way when the attempt ended. Who has
    /// returned has compared with all.
    pub(crate) fn confirm(&mut self, group: &GroupState, holders: impl Iterator<Item = usize>) {
        self.attempt = self.attempt.wrapping_add(1);
        self.phase = Phase::Running;
        self.header.epoch = group.epoch;
        self.expect(group, holders);
    }

    /// One of those who hold the result of an op that is confirmed cannot tell any more.
    pub(crate) fn confirm_without(&mut self, rank: usize) {
        let waits = self.commit == Commit::Done && matches!(self.phase, Phase::Running) && self.is_complete();
        if waits && self.done_from.get(rank) == Some(&false) {
            self.done_from[rank] = true;
            self.done_missing -= 1;
        }
    }

    /// Nothing has come yet. The op commits once it and the others of these ranks have told each other Done.
    fn expect(&mut self, group: &GroupState, tellers: impl Iterator<Item = usize>) {
        let world = group.members.len();
        self.disagrees = false;
        self.done_next = 0;
        self.digests.clear();
        for flags in [&mut self.entered, &mut self.asked, &mut self.done_to] {
            flags.clear();
            flags.resize(world, false);
        }
        self.eager.clear();
        self.eager.resize(world, 0);
        tellers.filter(|&rank| rank != group.me).for_each(|rank| self.done_to[rank] = true);
        self.done_from.clear();
        self.done_from.extend(self.done_to.iter().map(|tells| !tells));
        self.done_missing = self.done_from.iter().filter(|told| !**told).count() as u32;
    }

    /// An op in place copies what it overwrites of its input, since it may have to start again: each window as it
    /// opens, just before it reads the same bytes. With a plan that overwrites nothing before it holds the result the
    /// log is enough.
    pub(crate) fn plan_backup(&mut self, limits: &Limits) {
        use crate::Collective::{AllToAll, AllToAllV};
        let Some(call) = &self.call else { return };
        let changes = call.collective.reduces() || matches!(call.collective, AllToAll | AllToAllV);
        let starts_again = match self.commit {
            Commit::Done | Commit::Window | Commit::Group | Commit::Pair => true,
            Commit::Log => self.plan.as_ref().is_some_and(|plan| !plan.writes_once()),
            Commit::Local => false,
        };
        if changes && starts_again && call.is_in_place() {
            // Windows that soon are final give their blocks to the next, which are in the cache then.
            let streams = self.commit != Commit::Window && call.output.len() >= limits.streaming_bytes;
            self.backup.start(streams);
        }
    }

    /// Ends the attempt: gives slots and views back.
    pub(crate) fn freeze(&mut self, shared: &mut Shared) {
        // What two found out, one may not have heard, nor the coordinator: they find it out again.
        let disagrees = self.disagrees && matches!(self.phase, Phase::Stalled);
        if disagrees || matches!(self.phase, Phase::Running) {
            self.frozen_at = self.held_windows();
            self.note_blocks(shared.groups[self.group.0].me);
            let is_broadcast =
                self.call.as_ref().is_some_and(|call| call.collective == Collective::Broadcast);
            self.holds_data |=
                is_broadcast && (self.is_complete() || planted::has(Bug::WhoHoldsPartHoldsAll));
        }
        if disagrees || matches!(self.phase, Phase::Running | Phase::Awaiting) {
            self.phase = Phase::Frozen;
        }
        self.unload_windows(shared);
        if self.header.one_attempt {
            self.keep_owed(shared);
        }
        self.enter_to.clear();
        // All accounts start anew.
        self.eager.fill(0);
        failpoint::reach(Point::Frozen, &self.id, 0);
    }

    /// Before a result comes from another member: that overwrites the input of an op in place, also where its own steps have
    /// not. Without what it lacks an all-gather has its own block unchanged.
    pub(crate) fn save_input(&mut self, pool: &mut SlotPool) {
        if let Some(call) = &self.call
            && call.collective.reduces()
            && call.is_in_place()
        {
            self.backup.save_all(call, pool);
        }
    }

    /// What the op had overwritten is as before.
    pub(crate) fn restore_input(&mut self, pool: &mut SlotPool) {
        if let Some(call) = &self.call
            && !planted::has(Bug::InputInPlaceIsNotRestored)
        {
            self.backup.restore(call);
        }
        self.backup.clear(pool);
    }

    /// A broadcast whose data is here: another root than the one that was lost may send it.
    pub(crate) fn holds_data(&self) -> bool {
        self.holds_data
    }

    /// From now on a broadcast comes from this rank instead of the root that was lost.
    pub(crate) fn take_from(&mut self, source: usize, me: usize) {
        let Some(call) = &mut self.call else { return };
        self.lost_root.get_or_insert(call.peer);
        call.peer = source as u32;
        if source == me {
            call.input = call.output.clone();
        }
    }

    /// Nobody's part of the result is missing.
    pub(crate) fn is_without_holes(&self) -> bool {
        self.absent.is_empty()
    }

    /// It is tried again after a loss. Messages, and collectives that tolerate no loss, are not: they end, or
    /// it is no concern of theirs.
    pub(crate) fn starts_again(&self) -> bool {
        self.pair.is_none() && !self.is_strict()
    }

    /// Its attempt stands unless one of the two is lost, or they disagree: then they find that out again, as others do.
    pub(crate) fn stands(&self) -> bool {
        let disagrees = self.disagrees && matches!(self.phase, Phase::Stalled);
        self.commit == Commit::Pair && matches!(self.phase, Phase::Running | Phase::Stalled) && !disagrees
    }

    /// Two whose attempt stands may have begun in different epochs: both name the later one.
    pub(crate) fn note_epoch_of_peer(&mut self, header: &Header) {
        let ahead = (header.epoch.0 as u32).wrapping_sub(self.given_in.0 as u32);
        if self.commit == Commit::Pair && ahead <= u32::MAX / 2 {
            self.given_in.0 += u64::from(ahead);
        }
    }

    /// A collective that tolerates no loss.
    pub(crate) fn is_strict(&self) -> bool {
        self.call.as_ref().is_some_and(Call::is_strict)
    }
}
