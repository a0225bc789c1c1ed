//! Direct reduce-scatter: every rank sends block i of its vector to rank i, which reduces all n pieces in
//! ascending rank order. (n-1)/n of the vector leaves each rank, in one latency.
//!
//! A window is one piece of every block. Since pieces land in slots, the owner answers each with an
//! empty credit once it has reduced them.

use super::gathering::{Ranks, reduce_all};
use super::geometry::block_piece;
use super::{BlockList, Pieces};
use crate::Tuning;
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

const RAW: u16 = 0;
const CREDIT: u16 = 1;

/// See the module.
#[derive(Debug)]
pub struct ReduceScatter {
    rank: u32,
    world: u32,
    blocks: BlockList,
    piece: usize,
    in_flight: u32,
}

impl ReduceScatter {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> ReduceScatter {
        ReduceScatter {
            rank: shape.rank,
            world: shape.world,
            blocks: match shape.collective {
                Collective::ReduceScatterV => BlockList::uneven(shape.send, shape.element),
                _ => BlockList::Even(shape.count * shape.element),
            },
            piece: block_piece(shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for ReduceScatter {
    fn windows(&self) -> u32 {
        Pieces::new(self.blocks.longest(), self.piece).count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        for step in 1..self.world {
            let owner = (self.rank + step) % self.world;
            let raw = self.blocks.piece(owner, self.piece, index);
            if raw.len > 0 {
                window.send(owner, Span::input(raw.offset, raw.len), RAW, &[]);
                window.recv(owner, Span::nothing(), CREDIT);
            }
        }
        let own = self.blocks.piece(self.rank, self.piece, index);
        if own.len == 0 {
            return;
        }
        let output = Span::output(own.offset - self.blocks.get(self.rank).offset, own.len);
        let ranks = Ranks { me: self.rank, world: self.world };
        let reduced = reduce_all(window, ranks, Span::input(own.offset, own.len), output, RAW, 0..0);
        for step in 1..self.world {
            window.send((self.rank + step) % self.world, Span::nothing(), CREDIT, &[reduced]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "direct"
    }
}
