//! Situations that a search has to meet to mean anything.

use crate::Scenario;
use crate::executor::{Commit, End, Op, Phase};
use crate::world::{Process, Status, World};
use ronde_core::Epoch;
use std::collections::BTreeSet;

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Something that happens to jobs.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Situation {
            $($(#[$doc])* $name,)+
        }

        impl Situation {
            const ALL: &[Situation] = &[$(Situation::$name,)+];
        }
    };
}

situations! {
    /// All that live have done all that they had to, in one view.
    AllIsWell,
    /// An op has started again after a loss.
    OpStartsAgain,
    /// One that has returned from an op sends the result to one that lacks it.
    ResultIsProvided,
    /// Two hold complete results of different attempts of one op.
    ResultsOfTwoAttempts,
    /// One was told of a success before it died.
    DeadHadReturned,
    /// An op ended for want of somebody.
    OpEndsByLoss,
    /// An op ended by agreement.
    OpEndsLate,
    /// So it did for some, and the coordinator is gone that would have told the others.
    CoordinatorLostWhileOpEnds,
    /// A call was found late, and it was final.
    LateOpIsFinal,
    /// A member goes on alone.
    OneIsLeft,
    /// Somebody waits for a plan, and the coordinator that would make it is gone.
    CoordinatorLostBeforePlan,
    /// The coordinator is gone; some have its plan, others do not.
    CoordinatorLostInsidePlan,
    /// A successor waits for members.
    Succession,
    /// A coordinator of the third life is there.
    SuccessorSucceeded,
    /// A view is armed for some and not for others, and the coordinator is gone.
    CoordinatorLostWhileArming,
    /// Somebody is in a generation that others have yet to enter.
    GenerationsApart,
    /// A newcomer takes part.
    NewcomerTakesPart,
    /// The coordinator is lost while a newcomer makes its links.
    CoordinatorLostWhileLinking,
    /// One that left in order was missed.
    LeaverIsMissed,
    /// Two coordinators are there.
    TwoCoordinators,
    /// A member was told that the others go on without it, or that nobody does.
    MemberExpelled,
}

impl Situation {
    fn bit(self) -> u32 {
        1 << self as u32
    }

    pub(crate) fn of_bits(bits: u32) -> BTreeSet<Situation> {
        Situation::ALL.iter().copied().filter(|situation| bits & situation.bit() != 0).collect()
    }
}

impl World {
    /// The situations that a job is in, a bit for each.
    pub(crate) fn situations(&self, scenario: &Scenario) -> u32 {
        let here = |situation: &&Situation| self.is_in(scenario, **situation);
        Situation::ALL.iter().filter(here).fold(0, |bits, situation| bits | situation.bit())
    }

    fn is_in(&self, scenario: &Scenario, situation: Situation) -> bool {
        use Situation::*;
        match situation {
            AllIsWell => self.is_final(scenario),
            OpStartsAgain => {
                self.any_op(|_, op| matches!(op.phase, Phase::Running(_)) && op.epoch > Epoch(1))
            }
            ResultIsProvided => self.any_op(|_, op| !op.provided.is_empty()),
            ResultsOfTwoAttempts => self.any_op(|p, op| {
                matches!(op.phase, Phase::Frozen(Some(_))) && self.holds_another(p, op.epoch)
            }),
            DeadHadReturned => self.any_op(|p, op| {
                let certain = matches!(op.phase, Phase::Ended(End::Success(..), Commit::Done));
                certain && self.processes[p].status == Status::Dead
            }),
            OpEndsByLoss => self.any_op(|_, op| matches!(op.phase, Phase::Ended(End::Loss, _))),
            OpEndsLate => self.any_op(|_, op| matches!(op.phase, Phase::Ended(End::Late, _))),
            CoordinatorLostWhileOpEnds => self.any(|p| {
                let executor = p.executor.as_ref();
                let told = executor.iter().flat_map(|executor| executor.aborted());
                let lacks =
                    |key| self.any(|q| is_orphan(q) && q.executor.as_ref().is_some_and(|e| !e.knows(key)));
                is_orphan(p) && told.into_iter().any(lacks)
            }),
            LateOpIsFinal => {
                scenario.late > self.late_left
                    && self.alive().all(|p| {
                        let executor = self.processes[p].executor.as_ref();
                        executor
                            .is_some_and(|e| e.epoch > Epoch(1) && !e.frozen && e.aborted().next().is_none())
                    })
                    && self.any_op(|_, op| matches!(op.phase, Phase::Ended(End::Success(..), _)))
            }
            OneIsLeft => self.alive().count() == 1,
            CoordinatorLostBeforePlan => self.any(|p| is_frozen(p) && is_orphan(p)),
            CoordinatorLostInsidePlan => {
                let epoch = |p: &Process| p.executor.as_ref().map_or(Epoch(0), |e| e.epoch);
                let has_plan = |p: &Process, of: Epoch| is_orphan(p) && !is_frozen(p) && epoch(p) == of;
                self.any(|p| is_frozen(p) && is_orphan(p) && self.any(|q| has_plan(q, epoch(p))))
            }
            Succession => self.lives.iter().any(|life| life.machine.is_succeeding()),
            SuccessorSucceeded => self.lives.iter().any(|life| life.number > 1),
            CoordinatorLostWhileArming => {
                let armed = |p: &Process| p.follower.as_ref().map(|f| f.armed().is_some());
                let is = |it: bool| self.any(|p| is_orphan(p) && armed(p) == Some(it));
                is(true) && is(false)
            }
            GenerationsApart => {
                let mut generations = self.alive().filter_map(|p| self.processes[p].generation());
                let first = generations.next();
                generations.any(|generation| Some(generation) != first)
            }
            NewcomerTakesPart => self.alive().any(|p| p >= scenario.peers && self.processes[p].active),
            CoordinatorLostWhileLinking => {
                self.any(|p| p.linking.is_some() && p.follower.is_some() && is_orphan(p))
            }
            LeaverIsMissed => self.has_missed,
            TwoCoordinators => self.lives.len() > 1,
            MemberExpelled => self.processes.iter().any(|p| p.status == Status::Expelled),
        }
    }

    fn any(&self, is: impl Fn(&Process) -> bool) -> bool {
        self.alive().any(|p| is(&self.processes[p]))
    }

    fn any_op(&self, is: impl Fn(usize, &Op) -> bool) -> bool {
        self.processes.iter().enumerate().any(|(p, process)| {
            process.executor.as_ref().is_some_and(|executor| executor.ops().any(|(_, _, op)| is(p, op)))
        })
    }

    fn holds_another(&self, than: usize, epoch: Epoch) -> bool {
        self.any_op(|p, op| p != than && op.epoch != epoch && matches!(op.phase, Phase::Frozen(Some(_))))
    }
}

fn is_frozen(process: &Process) -> bool {
    process.executor.as_ref().is_some_and(|executor| executor.frozen)
}

fn is_orphan(process: &Process) -> bool {
    process.link.as_ref().is_none_or(|link| link.broken)
}
