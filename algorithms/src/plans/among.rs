//! Plans among the members that are left of a group.
//!
//! Ranks, roots and blocks keep their meaning after a loss, and the dead leave holes: a plan is built for as
//! many ranks as are left, over the blocks that those have in the vectors of the whole group, and the ranks
//! in its steps are put back to those of the group.

use super::barrier::Barrier;
use super::{AnyPlan, build};
use crate::{Algorithm, Topology, Tuning};
use ronde_core::Collective;
use ronde_core::call::{Blocks, Shape};
use ronde_core::error::Misuse;
use ronde_core::plan::{Action, Plan, Window};
use std::sync::Arc;

/// Who is left of a group, and where they run.
#[derive(Clone, Debug)]
pub struct Survivors {
    ranks: Arc<[u32]>,
    topology: Topology,
    tuning: Tuning,
}

/// A plan whose ranks are those of the survivors, in order.
#[derive(Debug, PartialEq)]
pub struct Among {
    plan: Box<AnyPlan>,
    ranks: Arc<[u32]>,
}

impl Plan for Among {
    fn windows(&self) -> u32 {
        self.plan.windows()
    }

    fn window(&self, index: u32, window: &mut Window) {
        self.plan.window(index, window);
        for step in &mut window.steps {
            if let Action::Send { to: rank, .. } | Action::Recv { from: rank, .. } = &mut step.action {
                *rank = self.ranks[*rank as usize];
            }
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.plan.windows_in_flight()
    }

    fn writes_once(&self) -> bool {
        self.plan.writes_once()
    }

    fn name(&self) -> &'static str {
        self.plan.name()
    }
}

/// What blocks of the whole group a collective works on, seen from one rank.
struct Holes {
    collective: Collective,
    send: Blocks,
    recv: Blocks,
}

impl Survivors {
    /// The members with these ranks, ascending; the topology is theirs alone.
    pub fn new(ranks: &[u32], topology: Topology, tuning: Tuning) -> Survivors {
        Survivors { ranks: ranks.into(), topology, tuning }
    }

    /// How many are left.
    pub fn count(&self) -> usize {
        self.ranks.len()
    }

    /// The plan of a call whose shape is that of the whole group. A call that needs a rank which is lost gets
    /// one without steps: the executor ends it with the reason.
    pub fn plan(&self, shape: &Shape<'_>, algorithm: Option<Algorithm>) -> Result<AnyPlan, Misuse> {
        let place = |rank: u32| self.ranks.iter().position(|&left| left == rank).map(|at| at as u32);
        let holes = self.holes(shape);
        let names_one = shape.collective.has_root() || shape.collective.is_point_to_point();
        let peer = if names_one { place(shape.peer) } else { Some(0) };
        let (Some(rank), Some(peer)) = (place(shape.rank), peer) else {
            return Ok(AnyPlan::Barrier(Barrier::without_rounds()));
        };
        let among = Shape {
            collective: holes.collective,
            rank,
            world: self.ranks.len() as u32,
            peer,
            send: &holes.send,
            recv: &holes.recv,
            ..*shape
        };
        let algorithm = algorithm.unwrap_or_else(|| crate::choose(&among, &self.topology));
        let plan = build(&among, algorithm, &self.topology, &self.tuning)?;
        Ok(AnyPlan::Among(Among { plan: Box::new(plan), ranks: self.ranks.clone() }))
    }

    fn holes(&self, shape: &Shape<'_>) -> Holes {
        use Collective::*;
        let left = |blocks: &Blocks| Blocks {
            counts: self.ranks.iter().filter_map(|&rank| blocks.counts.get(rank as usize).copied()).collect(),
            offsets: self
                .ranks
                .iter()
                .filter_map(|&rank| blocks.offsets.get(rank as usize).copied())
                .collect(),
        };
        let even = || Blocks {
            counts: vec![shape.count; self.ranks.len()],
            offsets: self.ranks.iter().map(|&rank| rank as usize * shape.count).collect(),
        };
        let none = Blocks::default;
        let (collective, send, recv) = match shape.collective {
            AllGather => (AllGatherV, none(), even()),
            Gather => (GatherV, none(), even()),
            Scatter => (ScatterV, even(), none()),
            ReduceScatter => (ReduceScatterV, even(), none()),
            AllToAll => (AllToAllV, even(), even()),
            other => (other, left(shape.send), left(shape.recv)),
        };
        Holes { collective, send, recv }
    }
}
