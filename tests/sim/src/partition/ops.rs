//! What processes do with their membership: one op after another, each of which is that of a safe point.
//!
//! An op needs a contribution of every member that is not lost, of one attempt, and returns at each member for
//! itself. What becomes of it after a loss follows from the production plan; results that have returned are
//! kept, so that they can be given to those who lack them.

use super::wires::Data;
use super::{Event, MS, World, process_of};
use ronde_core::error::PeerLost;
use ronde_core::membership::{FromMember, View};
use ronde_core::recovery::{RecoveryPlan, Report, TagReport};
use ronde_core::{Epoch, Formation, Generation, GroupId, MemberId, Seq, Tag};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An op by its generation and its number there.
pub(super) type Op = (u32, usize);

/// What an op gave, and of whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub(super) least: [u32; 2],
    pub(super) contributors: BTreeSet<usize>,
}

/// The members as they stand in one generation.
struct Group {
    epoch: Epoch,
    attempt: u64,
    members: Vec<(MemberId, usize)>,
    lost: BTreeSet<usize>,
    /// What each op was called with, and what it gave once it has returned.
    ops: Vec<([u32; 2], Option<Outcome>)>,
}

/// The ops of one process.
#[derive(Default)]
pub(super) struct Ops {
    groups: BTreeMap<u32, Group>,
    contributions: BTreeMap<(Op, u64), BTreeMap<usize, [u32; 2]>>,
    given: BTreeMap<(Op, u64), Outcome>,
    lost: BTreeSet<usize>,
    pub(super) frozen: bool,
    /// The result of a safe point that is being passed.
    passing: Option<[u32; 2]>,
    /// How many have returned since that was asked for.
    pub(super) returned: usize,
    /// Who wants to know that an op has returned.
    pub(super) askers: Vec<(Op, usize)>,
}

fn formation(generation: u32) -> Formation {
    Formation { group: GroupId(0), generation: Generation(generation) }
}

impl Group {
    fn new(view: &View, lost: &BTreeSet<usize>) -> Group {
        Group {
            epoch: view.epoch,
            attempt: view.epoch.0,
            members: view.members.iter().map(|m| (m.id, process_of(m.peer))).collect(),
            lost: lost.clone(),
            ops: Vec::new(),
        }
    }

    fn present(&self) -> BTreeSet<usize> {
        self.members.iter().map(|m| m.1).filter(|process| !self.lost.contains(process)).collect()
    }

    fn open(&self) -> Option<usize> {
        let last = self.ops.len().checked_sub(1)?;
        self.ops[last].1.is_none().then_some(last)
    }

    fn report(&self, generation: u32) -> TagReport {
        let returned = self.ops.iter().filter(|(_, outcome)| outcome.is_some()).count();
        TagReport {
            formation: formation(generation),
            started: Seq(self.ops.len() as u64),
            returned: Seq(returned as u64),
            ..TagReport::default()
        }
    }
}

impl World {
    fn generation(&self, process: usize) -> Option<u32> {
        self.processes[process].follower.as_ref().map(|follower| follower.view().generation.0)
    }

    /// The group of a process's first view.
    pub(super) fn add_group(&mut self, process: usize) {
        let this = &mut self.processes[process];
        let Some(follower) = &this.follower else { return };
        let view = follower.view();
        this.ops.groups.insert(view.generation.0, Group::new(view, &this.ops.lost));
    }

    /// A view waits for the next safe point: its group is there from now on.
    pub(super) fn arm(&mut self, process: usize) {
        let this = &mut self.processes[process];
        let Some(view) = this.follower.as_ref().and_then(|follower| follower.armed()) else { return };
        let known = this.ops.groups.get(&view.generation.0).is_some_and(|group| group.epoch == view.epoch);
        if !known {
            this.ops.groups.insert(view.generation.0, Group::new(view, &this.ops.lost));
        }
    }

    /// Makes the next call, unless the one before is not over.
    pub(super) fn call(&mut self, process: usize) {
        let delay = 50 * MS + self.some_ms(250);
        let Some(generation) = self.generation(process) else { return };
        let this = &mut self.processes[process];
        if this.ended.is_some() {
            return;
        }
        self.schedule(delay, Event::Call(process));
        let this = &mut self.processes[process];
        let flags = this.follower.as_ref().map(|follower| follower.flags()).unwrap_or_default();
        let group = this.ops.groups.get_mut(&generation).expect("the group of the view in effect");
        if this.ops.frozen || this.ops.passing.is_some() || group.open().is_some() || this.closing.is_some() {
            return;
        }
        let op = (generation, group.ops.len());
        if this.leaves || self.last_op.is_some_and(|last| op > last) {
            return self.close(process);
        }
        group.ops.push((flags, None));
        self.contribute(process, op);
    }

    fn contribute(&mut self, process: usize, op: Op) {
        let ops = &mut self.processes[process].ops;
        let group = &ops.groups[&op.0];
        let (flags, attempt) = (group.ops[op.1].0, group.attempt);
        let others = group.present();
        ops.contributions.entry((op, attempt)).or_default().insert(process, flags);
        for other in others.into_iter().filter(|&other| other != process) {
            if !self.processes[process].ends.contains(&other) {
                self.send_data(process, other, Data::Contribution { op, attempt, flags });
            }
        }
        self.return_what_is_complete(process);
        self.miss_the_left(process);
    }

    pub(super) fn contributes(&mut self, from: usize, to: usize, op: Op, attempt: u64, flags: [u32; 2]) {
        self.processes[to].ops.contributions.entry((op, attempt)).or_default().insert(from, flags);
        self.return_what_is_complete(to);
    }

    pub(super) fn waits_for_an_op(&self, process: usize) -> bool {
        let ops = &self.processes[process].ops;
        self.generation(process).is_some_and(|generation| ops.groups[&generation].open().is_some())
    }

    /// Processes whose contribution to its open op one waits for.
    pub(super) fn awaited(&self, process: usize) -> Vec<usize> {
        let ops = &self.processes[process].ops;
        let group = self.generation(process).map(|generation| (generation, &ops.groups[&generation]));
        let Some((generation, group)) = group.filter(|_| !ops.frozen) else { return Vec::new() };
        let Some(seq) = group.open() else { return Vec::new() };
        let there = ops.contributions.get(&((generation, seq), group.attempt));
        let is_missing = |p: &usize| there.is_none_or(|there| !there.contains_key(p));
        group.present().into_iter().filter(is_missing).collect()
    }

    /// The op that has returned last, and who has to have it too.
    pub(super) fn last_returned(&self, process: usize) -> Option<(Op, BTreeSet<usize>)> {
        let this = &self.processes[process];
        let (&generation, group) = this.ops.groups.iter().rfind(|(_, group)| !group.ops.is_empty())?;
        let seq = group.ops.iter().rposition(|(_, outcome)| outcome.is_some())?;
        let others = group.present().into_iter().filter(|p| *p != process && !this.left.contains(p));
        Some(((generation, seq), others.collect()))
    }

    /// The highest op that any process that lives has started.
    pub(super) fn newest_op(&self) -> Option<Op> {
        let groups = self.processes.iter().filter(|p| p.goes_on()).flat_map(|p| &p.ops.groups);
        groups.filter_map(|(&generation, group)| Some((generation, group.ops.len().checked_sub(1)?))).max()
    }

    pub(super) fn has_outcome(&self, process: usize, op: Op) -> bool {
        let groups = &self.processes[process].ops.groups;
        let later = groups.keys().next().is_some_and(|&first| first > op.0);
        let outcome = groups.get(&op.0).and_then(|group| group.ops.get(op.1)).map(|(_, o)| o.is_some());
        outcome.unwrap_or(later)
    }

    pub(super) fn is_given(&mut self, process: usize, op: Op, attempt: u64, outcome: Outcome) {
        self.processes[process].ops.given.insert((op, attempt), outcome);
        self.return_what_is_complete(process);
    }

    fn return_what_is_complete(&mut self, process: usize) {
        let Some(generation) = self.generation(process) else { return };
        let this = &mut self.processes[process];
        let ops = &mut this.ops;
        let Some(group) = ops.groups.get_mut(&generation) else { return };
        let Some(seq) = group.open().filter(|_| !ops.frozen && this.ended.is_none()) else { return };
        let op = (generation, seq);
        let key = (op, group.attempt);
        let present = group.present();
        let complete = || {
            let all = ops.contributions.get(&key)?;
            let mut of_present = present.iter().map(|process| all.get(process));
            let mut least = [u32::MAX; 2];
            of_present.try_for_each(|flags| {
                least = [least[0].min(flags?[0]), least[1].min(flags?[1])];
                Some(())
            })?;
            Some(Outcome { least, contributors: present.clone() })
        };
        let Some(outcome) = ops.given.get(&key).cloned().or_else(complete) else { return };
        group.ops[seq].1 = Some(outcome.clone());
        ops.passing = Some(outcome.least);
        ops.returned += 1;
        self.note(&[40, process as u64, u64::from(generation), seq as u64]);
        let goes_on = |p: usize| self.processes[p].goes_on();
        self.truth.returns(process, op, outcome, &goes_on);
        self.answer_askers(process);
        let delay = self.some_ms(3);
        self.schedule(delay, Event::Enter(process));
    }

    /// Passes a safe point whose op has returned.
    pub(super) fn enter(&mut self, process: usize) {
        let this = &mut self.processes[process];
        let Some(least) = this.ops.passing.take().filter(|_| this.ended.is_none()) else { return };
        let Some(view) = this.follower.as_mut().and_then(|follower| follower.enter(least)).cloned() else {
            return;
        };
        this.ops.groups.retain(|&generation, _| generation + 1 >= view.generation.0);
        self.note(&[41, process as u64, view.epoch.0]);
        let goes_on = |p: usize| self.processes[p].goes_on();
        self.truth.is_in_effect(process, &view, &goes_on);
        self.say(process, FromMember::Entered(view.epoch));
    }

    /// Ends all attempts and reports how far the ops are.
    pub(super) fn freeze(&mut self, process: usize, epoch: Epoch, lost: Vec<PeerLost>) {
        let this = &mut self.processes[process];
        let Some(follower) = &mut this.follower else { return };
        follower.note(epoch);
        this.ops.frozen = true;
        for lost in lost.into_iter().map(Arc::new) {
            follower.is_lost(&lost);
            this.ops.lost.insert(process_of(lost.peer));
        }
        let all_lost = this.ops.lost.clone();
        for group in this.ops.groups.values_mut() {
            group.lost.extend(&all_lost);
            group.attempt = epoch.0;
        }
        let groups = this.ops.groups.keys().map(|&generation| formation(generation)).collect();
        let tags = this.ops.groups.iter().map(|(&generation, group)| group.report(generation)).collect();
        self.note(&[42, process as u64, epoch.0]);
        all_lost.into_iter().for_each(|other| self.close_link(process, other));
        self.say(process, FromMember::Report(Report { epoch, groups, tags, ..Report::default() }));
    }

    /// Goes on by the plan.
    pub(super) fn resume(&mut self, process: usize, plan: &RecoveryPlan) {
        let this = &mut self.processes[process];
        this.follower.iter_mut().for_each(|follower| follower.goes_on());
        let ops = &mut this.ops;
        ops.frozen = false;
        let generations: Vec<u32> = ops.groups.keys().copied().collect();
        for generation in generations {
            let started = self.processes[process].ops.groups[&generation].ops.len();
            for op in (0..started).map(|seq| (generation, seq)) {
                self.settle(process, op, plan);
            }
        }
        self.return_what_is_complete(process);
    }

    fn settle(&mut self, process: usize, op: Op, plan: &RecoveryPlan) {
        let group = &self.processes[process].ops.groups[&op.0];
        let outcome = group.ops[op.1].1.clone();
        match (plan.commit(formation(op.0), Tag(0), Seq(op.1 as u64)), outcome) {
            (Some(commit), Some(outcome)) => {
                let process_of = |id: MemberId| group.members.iter().find(|m| m.0 == id).map(|m| m.1);
                let provides = commit.provider.and_then(process_of) == Some(process);
                let receivers: Vec<usize> =
                    commit.receivers.iter().filter_map(|&id| process_of(id)).collect();
                let attempt = group.attempt;
                for receiver in receivers.into_iter().filter(|_| provides) {
                    self.send_data(process, receiver, Data::Result { op, attempt, outcome: outcome.clone() });
                }
            }
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => self.contribute(process, op),
        }
    }
}
