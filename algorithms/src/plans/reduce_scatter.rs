//! Reduce-scatter, direct or around a ring.
//!
//! Direct: every rank sends block i of its vector to rank i, which reduces all n pieces in ascending rank
//! order. (n-1)/n of the vector leaves each rank, in one latency. Ring: partial sums travel around, n-1
//! latencies, to one neighbour only: for many ranks.
//!
//! A window is one piece of every block. Since pieces land in slots, their sender gets an empty credit
//! once they are reduced, unless no window waits for that.

use super::circle::Circle;
use super::gathering::{Ranks, reduce_all};
use super::geometry::{Range, block_piece};
use super::{BlockList, Pieces};
use crate::{Algorithm, Tuning};
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

const RAW: u16 = 0;
const CREDIT: u16 = u16::MAX;

/// See the module.
#[derive(Debug, PartialEq)]
pub struct ReduceScatter {
    rank: u32,
    world: u32,
    algorithm: Algorithm,
    blocks: BlockList,
    piece: usize,
    in_flight: u32,
}

impl ReduceScatter {
    pub(super) fn new(shape: &Shape<'_>, algorithm: Algorithm, tuning: &Tuning) -> ReduceScatter {
        ReduceScatter {
            rank: shape.rank,
            world: shape.world,
            algorithm,
            blocks: match shape.collective {
                Collective::ReduceScatterV => BlockList::uneven(shape.send, shape.element),
                _ => BlockList::Even(shape.count * shape.element),
            },
            piece: block_piece(shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }

    /// Where a piece of one's own block goes.
    fn output(&self, own: Range) -> Span {
        Span::output(own.offset - self.blocks.get(self.rank).offset, own.len)
    }

    fn ring(&self, index: u32, window: &mut Window) {
        let circle = Circle::new(self.rank, self.world, false);
        let owned = |rank| self.blocks.piece(rank, self.piece, index);
        let mut sums = window.borrow_list();
        circle.reduce_scatter(window, owned, |window, owner, range| {
            // The step that comes next makes the sum.
            sums.push(window.steps.len() as StepId);
            if owner == self.rank { self.output(range) } else { window.slot(range.len) }
        });
        if self.lets_open(index) {
            window.send(circle.previous(), Span::nothing(), CREDIT, &sums);
            window.recv(circle.next(), Span::nothing(), CREDIT);
        }
        window.give_back_list(sums);
    }
}

impl Plan for ReduceScatter {
    fn windows(&self) -> u32 {
        Pieces::new(self.blocks.longest(), self.piece).count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        if self.algorithm == Algorithm::Ring && self.world > 1 {
            return self.ring(index, window);
        }
        let credits = self.lets_open(index);
        for step in 1..self.world {
            let owner = (self.rank + step) % self.world;
            let raw = self.blocks.piece(owner, self.piece, index);
            if raw.len > 0 {
                window.send(owner, Span::input(raw.offset, raw.len), RAW, &[]);
                if credits {
                    window.recv(owner, Span::nothing(), CREDIT);
                }
            }
        }
        let own = self.blocks.piece(self.rank, self.piece, index);
        if own.len == 0 {
            return;
        }
        let ranks = Ranks { me: self.rank, world: self.world };
        let reduced =
            reduce_all(window, ranks, Span::input(own.offset, own.len), self.output(own), RAW, 0..0);
        if credits {
            for step in 1..self.world {
                window.send((self.rank + step) % self.world, Span::nothing(), CREDIT, &[reduced]);
            }
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        self.algorithm.name()
    }
}
