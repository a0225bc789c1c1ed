//! Plans among the members that are left of a group.
//!
//! Ranks, roots and blocks keep their meaning after a loss, and the dead leave holes: a plan is built for as
//! many ranks as are left, over the blocks that those have in the vectors of the whole group, and the ranks
//! in its steps are put back to those of the group.

use super::barrier::Barrier;
use super::geometry::Pieces;
use super::{AnyPlan, build};
use crate::{Algorithm, Topology, Tuning};
use ronde_core::Collective;
use ronde_core::call::{Blocks, Shape};
use ronde_core::error::Misuse;
use ronde_core::plan::{Action, Plan, Span, Window};
use std::sync::Arc;

/// Who is left of a group, and where they run.
#[derive(Clone, Debug)]
pub struct Survivors {
    ranks: Arc<[u32]>,
    topology: Topology,
    tuning: Tuning,
}

/// A plan whose ranks are those of the survivors, in order. In windows behind it, those who hold blocks of the lost hand them on.
#[derive(Debug, PartialEq)]
pub struct Among {
    plan: Box<AnyPlan>,
    ranks: Arc<[u32]>,
    /// This rank's place among those.
    me: u32,
    handed_on: Vec<HandedOn>,
}

/// A block of the output that one of the survivors has and the others get.
#[derive(Debug, PartialEq)]
struct HandedOn {
    /// Rank in the whole group.
    holder: u32,
    offset: usize,
    /// In a window each.
    pieces: Pieces,
}

impl Among {
    fn hand_on(&self, mut index: u32, window: &mut Window) {
        for block in &self.handed_on {
            let windows = block.pieces.count();
            if index < windows {
                let piece = block.pieces.get(index);
                let span = Span::output(block.offset + piece.offset, piece.len);
                let me = self.ranks[self.me as usize];
                if block.holder != me {
                    window.recv(block.holder, span, 0);
                    return;
                }
                for &rank in self.ranks.iter().filter(|&&rank| rank != me) {
                    window.send(rank, span, 0, &[]);
                }
                return;
            }
            index -= windows;
        }
    }
}

impl Plan for Among {
    fn windows(&self) -> u32 {
        self.plan.windows() + self.handed_on.iter().map(|block| block.pieces.count()).sum::<u32>()
    }

    fn window(&self, index: u32, window: &mut Window) {
        if let Some(behind) = index.checked_sub(self.plan.windows()) {
            return self.hand_on(behind, window);
        }
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
        let plan = Box::new(build(&among, algorithm, &self.topology, &self.tuning)?);
        let (ranks, handed_on) = (self.ranks.clone(), self.handed_on(shape));
        Ok(AnyPlan::Among(Among { plan, ranks, me: rank, handed_on }))
    }

    /// Blocks of the lost that go from one to all. In a gather to one rank only that has any.
    fn handed_on(&self, shape: &Shape<'_>) -> Vec<HandedOn> {
        let block = |lost: u32| match shape.collective {
            Collective::AllGather => Some((lost as usize * shape.count, shape.count)),
            Collective::AllGatherV => {
                let (first, count) =
                    (shape.recv.offsets.get(lost as usize), shape.recv.counts.get(lost as usize));
                first.copied().zip(count.copied())
            }
            _ => None,
        };
        let handed_on = shape.stand_ins.iter().filter_map(|stand_in| {
            let (first, count) = block(stand_in.lost)?;
            let pieces = Pieces::whole(count * shape.element, &self.tuning);
            Some(HandedOn { holder: stand_in.holder, offset: first * shape.element, pieces })
        });
        handed_on.filter(|_| self.count() > 1).collect()
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
