//! What must be true whatever happens, kept apart from what any process believes.

use super::ops::{Op, Outcome};
use super::{World, peer_id, process_of};
use ronde_core::membership::View;
use ronde_core::{Epoch, MemberId};
use std::collections::{BTreeMap, BTreeSet};

/// How the job ended for a process.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Ending {
    Expelled(String),
    Deposed,
    NoQuorum,
    CoordinatorLost,
    Refused,
    NotJoined,
}

/// How often something happened that is looked for.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Coordinators that took the place of one whose host lived, and were obeyed.
    pub successions_beside_the_living: usize,
    /// Coordinators that ran alone, were started again, and were obeyed.
    pub restarts: usize,
    /// Processes for which the job ended for want of a quorum.
    pub no_quorum: usize,
    /// Processes that heard that the others have another coordinator.
    pub deposed: usize,
    /// Processes that heard that the others go on without them.
    pub expelled: usize,
    /// Processes that found no coordinator.
    pub coordinator_lost: usize,
    /// Processes that asked to join.
    pub newcomers: usize,
    /// Those of them that came into a view.
    pub admitted: usize,
    /// Ops that returned.
    pub ops: usize,
    /// Views that took effect.
    pub views: usize,
    /// Control connections that were cut and taken up again.
    pub taken_up: usize,
    /// Processes that have left in order.
    pub left: usize,
    /// One process that goes on alone, of several, since all others have died.
    pub lone_survivors: usize,
    /// Processes that were not let go on alone, after the others had finished.
    pub left_behind: usize,
}

/// Everything that was seen to happen.
#[derive(Default)]
pub(super) struct Truth {
    /// By generation.
    views: BTreeMap<u32, (Epoch, Vec<(MemberId, usize)>)>,
    numbers: BTreeMap<usize, MemberId>,
    outcomes: BTreeMap<Op, Vec<(usize, Outcome)>>,
    /// With whom each process has finished its last op of each generation.
    company: BTreeMap<(u32, usize), BTreeSet<usize>>,
    successors: BTreeSet<usize>,
    initial: usize,
    pub(super) newcomers: usize,
    pub(super) tally: Tally,
}

impl Truth {
    pub(super) fn starts_with(&mut self, members: usize) {
        self.initial = members;
    }

    /// Of each generation there is one view, and nobody is in two places.
    pub(super) fn is_in_effect(&mut self, process: usize, view: &View, goes_on: &dyn Fn(usize) -> bool) {
        let members: Vec<(MemberId, usize)> =
            view.members.iter().map(|m| (m.id, process_of(m.peer))).collect();
        for &(id, member) in &members {
            let known = *self.numbers.entry(member).or_insert(id);
            assert_eq!(known, id, "process {member} has two numbers");
        }
        assert!(members.iter().any(|m| m.1 == process), "process {process} is in a view without it");
        let now = (view.epoch, members);
        // Of what only those knew who have died nobody can know.
        let generation = view.generation.0;
        if self.views.get(&generation).is_some_and(|known| !known.1.iter().any(|m| goes_on(m.1))) {
            self.views.retain(|&later, _| later < generation);
        }
        let known = self.views.entry(generation).or_insert_with(|| {
            self.tally.views += 1;
            now.clone()
        });
        assert_eq!(*known, now, "two views of generation {} (at process {process})", view.generation);
        let same_epoch = self.views.values().filter(|known| known.0 == view.epoch).count();
        assert_eq!(same_epoch, 1, "two views of epoch {}", view.epoch);
    }

    /// Nobody goes on without anybody of another part that goes on too.
    pub(super) fn returns(
        &mut self,
        process: usize,
        op: Op,
        outcome: Outcome,
        goes_on: &dyn Fn(usize) -> bool,
    ) {
        self.tally.ops += 1;
        for (&(_, other), with) in self.company.range((op.0, 0)..=(op.0, usize::MAX)) {
            assert!(
                !goes_on(other) || !with.is_disjoint(&outcome.contributors),
                "process {process} has finished {op:?} with {:?}, process {other} another with {with:?}",
                outcome.contributors
            );
        }
        self.company.insert((op.0, process), outcome.contributors.clone());
        self.outcomes.entry(op).or_default().push((process, outcome));
    }

    pub(super) fn ends(&mut self, ending: &Ending) {
        let count = match ending {
            Ending::NoQuorum => &mut self.tally.no_quorum,
            Ending::Deposed => &mut self.tally.deposed,
            Ending::Expelled(_) => &mut self.tally.expelled,
            Ending::CoordinatorLost => &mut self.tally.coordinator_lost,
            Ending::Refused | Ending::NotJoined => return,
        };
        *count += 1;
    }

    /// A coordinator that took the place of another is obeyed.
    pub(super) fn succession(&mut self, coordinator: usize, beside_the_living: bool, alone: bool) {
        if self.successors.insert(coordinator) {
            self.tally.successions_beside_the_living += usize::from(beside_the_living && !alone);
            self.tally.restarts += usize::from(alone);
        }
    }

    fn agree(&self, survivors: &BTreeSet<usize>) {
        for (op, outcomes) in &self.outcomes {
            let mut told = outcomes.iter().filter(|(process, _)| survivors.contains(process));
            if let Some((one, first)) = told.next() {
                for (other, outcome) in told {
                    assert_eq!(first, outcome, "{op:?} at processes {one} and {other}");
                }
            }
        }
    }
}

impl World {
    /// Ops count anew.
    pub fn begin_calm(&mut self) {
        self.processes.iter_mut().for_each(|process| process.ops.returned = 0);
    }

    /// Processes that are in a view, have a coordinator and wait for no plan.
    pub fn at_work(&self) -> BTreeSet<usize> {
        let works = |&process: &usize| {
            let this = &self.processes[process];
            let listens = this.control.is_some() && this.search.is_none() && !this.ops.frozen;
            this.active && this.ended.is_none() && this.closing.is_none() && listens
        };
        self.alive().into_iter().filter(works).collect()
    }

    /// Whether everybody is at work, in one view without holes and with a coordinator that has all it waited for, or knows that it is over;
    /// and those at work have got on since calm began.
    pub fn is_settled(&self) -> bool {
        let at_work = self.at_work();
        let ended = |process: &usize| self.processes[*process].ended.is_some();
        let in_one_view = at_work.iter().all(|&process| {
            let this = &self.processes[process];
            let Some(follower) = &this.follower else { return false };
            let view = follower.view();
            let is_all = view.members.len() == at_work.len();
            let coordinator = self.coordinator_of(process).map(|c| &self.coordinators[c].machine);
            let has_taken_over = coordinator.is_some_and(|machine| !machine.is_succeeding());
            is_all
                && has_taken_over
                && at_work.iter().all(|&p| view.rank_of(peer_id(p)).is_some())
                && this.ops.returned >= 3
        });
        self.alive().iter().all(|process| ended(process) || at_work.contains(process)) && in_one_view
    }

    /// What was seen to happen agrees with where everybody is now.
    pub fn check(&mut self) -> Tally {
        let at_work = self.at_work();
        let finished: BTreeSet<usize> = (0..self.processes.len())
            .filter(|&p| self.processes[p].released() && self.processes[p].goes_on())
            .collect();
        self.truth.agree(&at_work.union(&finished).copied().collect());
        let followed: BTreeSet<Option<usize>> = at_work.iter().map(|&p| self.coordinator_of(p)).collect();
        assert!(
            followed.len() <= 1,
            "several coordinators are followed: {followed:?}: {:#?}",
            self.describe()
        );
        let admitted = self.truth.numbers.len() - self.truth.initial.min(self.truth.numbers.len());
        let is_over = at_work.is_empty() && !finished.is_empty();
        let stayed = |p: &usize| *p < self.truth.initial && self.processes[*p].ended.is_some();
        Tally {
            newcomers: self.truth.newcomers,
            admitted,
            lone_survivors: usize::from(
                at_work.len() == 1 && finished.is_empty() && self.truth.newcomers == 0,
            ),
            left_behind: if is_over { (0..self.processes.len()).filter(stayed).count() } else { 0 },
            ..self.truth.tally
        }
    }

    fn coordinator_of(&self, process: usize) -> Option<usize> {
        self.processes[process].control.and_then(|connection| self.connections[connection].coordinator)
    }

    /// Where everybody is, in words.
    pub fn describe(&self) -> Vec<String> {
        let word = |process: usize| {
            let this = &self.processes[process];
            let view = this.follower.as_ref().map(|f| {
                let members: Vec<usize> = f.view().members.iter().map(|m| process_of(m.peer)).collect();
                (f.view().epoch.0, f.view().host.map(|h| h.0), members, f.armed().map(|a| a.epoch.0))
            });
            format!(
                "process {process} on machine {}: alive {}, stopped {}, ended {:?}, active {}, frozen {}, follows {:?}, \
                 searches {}, view {view:?}, ends {:?}, returned {}",
                this.machine,
                this.alive,
                this.stopped,
                this.ended,
                this.active,
                this.ops.frozen,
                self.coordinator_of(process),
                this.search.is_some(),
                this.ends,
                this.ops.returned
            )
        };
        let coordinators = (0..self.coordinators.len()).map(|c| {
            let seat = &self.coordinators[c];
            let there = self.is_there(c);
            format!(
                "coordinator {c} at {}: there {there}, {:?}",
                seat.home,
                seat.machine.status(self.instant())
            )
        });
        (0..self.processes.len()).map(word).chain(coordinators).collect()
    }
}
