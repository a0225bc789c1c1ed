//! Turns the calls of one group into plans, among those of its members that are there.

use crate::engine::{links, lock};
use crate::validate;
use ronde_algorithms::{AnyPlan, Survivors, Topology, Tuning};
use ronde_core::Rank;
use ronde_core::call::{Call, Shape};
use ronde_core::error::Result;
use ronde_core::membership::View;
use ronde_core::reduce::Reduction;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What a plan is a function of, besides the call.
pub(crate) struct Planner {
    rank: Rank,
    /// Number in the job (link) of each rank.
    members: Vec<usize>,
    topology: Arc<Topology>,
    tuning: Tuning,
    /// Those who are left, once somebody was lost.
    survivors: Mutex<Option<Survivors>>,
    /// Counts losses: a plan is good for the members of one count.
    losses: AtomicU32,
}

/// A plan, and for which members it is.
pub(crate) struct Planned {
    pub(crate) plan: AnyPlan,
    losses: u32,
}

impl Planner {
    /// For members of a view, by their numbers.
    pub(crate) fn new(view: &View, rank: Rank, members: Vec<usize>) -> Planner {
        let topology = links::topology(view, &members);
        let tuning = links::tuning(&topology);
        let (survivors, losses) = (Mutex::new(None), AtomicU32::new(0));
        Planner { rank, members, topology, tuning, survivors, losses }
    }

    pub(crate) fn members(&self) -> &[usize] {
        &self.members
    }

    /// This process's rank.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// Whether the members run on more than one machine.
    pub(crate) fn has_machines(&self) -> bool {
        self.topology.has_machines()
    }

    /// Whether a frame between some two members costs a system call.
    pub(crate) fn is_slow(&self) -> bool {
        self.topology.nodes().count() > 1
    }

    /// Plans from now on without the members for which this holds, by their numbers.
    pub(crate) fn lose(&self, view: &View, is_lost: impl Fn(usize) -> bool) {
        let left = self.members.iter().zip(0..).filter(|(member, _)| !is_lost(**member));
        let (members, ranks): (Vec<usize>, Vec<u32>) = left.map(|(&member, rank)| (member, rank)).unzip();
        let mut survivors = lock(&self.survivors);
        let before = survivors.as_ref().map_or(self.members.len(), Survivors::count);
        if members.len() < before {
            let topology = links::topology(view, &members);
            let tuning = links::tuning(&topology);
            *survivors = Some(Survivors::new(&ranks, Topology::clone(&topology), tuning));
            self.losses.fetch_add(1, Ordering::Release);
        }
    }

    /// This rank's plan for a call that was checked.
    pub(crate) fn plan(&self, call: &Call) -> Result<Planned> {
        let shape = Shape {
            collective: call.collective,
            rank: self.rank.0,
            world: self.members.len() as u32,
            count: call.count,
            element: call.dtype.size(),
            peer: call.peer,
            send: &call.send,
            recv: &call.recv,
            stand_ins: &call.stand_ins,
            // They are the same memory or disjoint, as was checked.
            in_place: call.input.overlaps(&call.output),
            ordered: matches!(call.reduction, Some(Reduction::User(_))),
            narrow: call.dtype.is_narrow_float(),
        };
        let named = call.options.algorithm.map(validate::algorithm).transpose()?;
        let losses = self.losses.load(Ordering::Acquire);
        if losses > 0
            && let Some(survivors) = &*lock(&self.survivors)
        {
            return Ok(Planned { plan: survivors.plan(&shape, named)?, losses });
        }
        let algorithm = named.unwrap_or_else(|| ronde_algorithms::choose(&shape, &self.topology));
        Ok(Planned {
            plan: ronde_algorithms::build(&shape, algorithm, &self.topology, &self.tuning)?,
            losses,
        })
    }

    /// The plan, or a new one if members were lost since it was made.
    pub(crate) fn renew(&self, planned: Planned, call: &Call) -> Result<AnyPlan> {
        match planned.losses == self.losses.load(Ordering::Acquire) {
            true => Ok(planned.plan),
            false => Ok(self.plan(call)?.plan),
        }
    }
}
