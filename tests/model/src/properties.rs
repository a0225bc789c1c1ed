//! What has to hold in every state, and what has to occur for the search to mean anything.

use crate::executor::{Commit, End, Key, Phase};
use crate::steps::Step;
use crate::world::{Status, World, members_of};
use crate::{Scenario, Search};
use ronde_core::Generation;
use ronde_core::membership::View;
use stateright::Property;

pub(crate) fn all() -> Vec<Property<Search>> {
    vec![
        Property::always("nothing goes wrong", |_, world: &World| world.fault.is_none()),
        Property::always("calls end alike", |search: &Search, world: &World| {
            world.calls_end_alike(&search.scenario)
        }),
        Property::always("views are the same", |_, world: &World| world.views_agree()),
        Property::always("who rests is done", |search: &Search, world: &World| {
            world.rests_well(&search.scenario)
        }),
    ]
}

/// A generation has no more safe points without a change than this.
const ROUNDS: u8 = 3;

impl World {
    fn results(&self) -> impl Iterator<Item = (usize, Key, End, Commit)> + '_ {
        self.processes.iter().enumerate().flat_map(|(p, process)| {
            let ops = process.executor.iter().flat_map(|executor| executor.ops());
            ops.filter_map(move |(key, _, op)| match op.phase {
                Phase::Ended(end, commit) => Some((p, key, end, commit)),
                _ => None,
            })
        })
    }

    /// Survivors agree, also with what a process was told for certain that has gone. Where coordinators are silent,
    /// members may go on in vain for a while: until all is quiet only what is certain counts.
    fn calls_end_alike(&self, scenario: &Scenario) -> bool {
        let silent = scenario.silences > 0;
        let stays = |p: usize| matches!(self.processes[p].status, Status::Alive | Status::Left);
        let survivors_only = !silent || self.is_quiet(scenario);
        for (p, key, end, commit) in self.results() {
            let is_success = |end: End| matches!(end, End::Success(..));
            let certain = commit == Commit::Done && is_success(end);
            for (q, other) in (0..self.processes.len()).filter(|&q| q != p).map(|q| (q, &self.processes[q])) {
                let told = other.executor.as_ref().and_then(|e| e.op(key)).map(|op| op.phase);
                let Some(Phase::Ended(told, committed)) = told else { continue };
                let together = survivors_only && stays(q) && (stays(p) || certain && !silent);
                let both = certain && committed == Commit::Done && is_success(told);
                if told != end && (together && (!silent || self.are_together(p, q)) || both) {
                    return false;
                }
            }
        }
        true
    }

    /// Two members have one coordinator.
    fn are_together(&self, p: usize, q: usize) -> bool {
        let life = |p: usize| self.processes[p].link.as_ref().map(|link| link.life);
        life(p).is_some() && life(p) == life(q)
    }

    /// All who enter a generation see the same members, and each number names one view.
    fn views_agree(&self) -> bool {
        let active = self.processes.iter().filter(|process| process.active);
        let views: Vec<&View> = active.filter_map(|p| p.follower.as_ref()).map(|f| f.view()).collect();
        let is_same = |one: &View, other: &View| {
            let members = |view: &View| members_of(view);
            one.generation == other.generation && members(one) == members(other)
        };
        views.iter().enumerate().all(|(at, one)| {
            views[at + 1..].iter().all(|other| {
                let differ = one.generation != other.generation && one.epoch != other.epoch;
                differ || one.epoch == other.epoch && is_same(one, other)
            })
        })
    }

    pub(crate) fn is_quiet(&self, scenario: &Scenario) -> bool {
        let waits = |p: &crate::world::Process| {
            p.link.as_ref().is_some_and(|l| !l.up.is_empty() || p.lives() && !l.down.is_empty())
        };
        if self.processes.iter().any(|p| waits(p)) {
            return false;
        }
        let mut steps: Vec<Step> = Vec::new();
        self.steps(scenario, &mut steps);
        steps.is_empty()
    }

    /// A process has nothing left to do.
    fn is_idle(&self, p: usize) -> bool {
        let process = &self.processes[p];
        let connected = process.link.as_ref().is_some_and(|link| !link.broken);
        let done = process
            .executor
            .as_ref()
            .is_some_and(|executor| !executor.frozen && executor.ops().all(|(_, _, op)| op.has_ended()));
        connected && done && !process.updating && process.linking.is_none()
    }

    /// All that live are in one view, and nobody else.
    fn is_in_one_view(&self) -> bool {
        let alive: Vec<usize> = self.alive().collect();
        alive.iter().all(|&p| {
            let Some(follower) = self.processes[p].follower.as_ref().filter(|_| self.processes[p].active)
            else {
                return false;
            };
            let mut members: Vec<usize> = members_of(follower.view()).into_iter().map(|m| m.1).collect();
            members.sort_unstable();
            members == alive && follower.armed().is_none()
        })
    }

    pub(crate) fn is_final(&self, scenario: &Scenario) -> bool {
        self.is_quiet(scenario) && self.is_in_one_view() && self.alive().all(|p| self.is_idle(p))
    }

    /// The generation in which some member makes its calls.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.alive().filter(|&p| self.processes[p].active).find_map(|p| self.processes[p].generation())
    }

    /// In the generation in which everybody rests.
    fn rounds_passed(&self) -> u8 {
        if self.generation() == Some(self.rounds.0) { self.rounds.1 } else { 0 }
    }

    /// Everybody has nothing to do, and there is a view to come.
    pub(crate) fn needs_round(&self, scenario: &Scenario) -> bool {
        self.is_quiet(scenario) && !self.is_in_one_view() && self.rounds_passed() < ROUNDS
    }

    fn rests_well(&self, scenario: &Scenario) -> bool {
        if scenario.silences > 0 || !self.is_quiet(scenario) {
            return true;
        }
        let active = |p: &usize| self.processes[*p].active;
        self.alive().filter(active).all(|p| self.is_idle(p))
            && (self.is_in_one_view() || self.rounds_passed() < ROUNDS)
    }
}
