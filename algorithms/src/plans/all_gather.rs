//! All-gather, direct or around a ring, straight into the outputs.
//!
//! Direct: every rank sends its block to every other; one latency, (n-1) blocks out of each rank. Ring:
//! as many bytes, n-1 latencies, to one neighbour only: for many ranks.

use super::circle::Circle;
use super::geometry::piece_limit;
use super::{BlockList, Pieces};
use crate::{Algorithm, Tuning};
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct AllGather {
    rank: u32,
    world: u32,
    algorithm: Algorithm,
    in_place: bool,
    blocks: BlockList,
    piece: usize,
    in_flight: u32,
}

impl AllGather {
    pub(super) fn new(shape: &Shape<'_>, algorithm: Algorithm, tuning: &Tuning) -> AllGather {
        AllGather {
            rank: shape.rank,
            world: shape.world,
            algorithm,
            in_place: shape.in_place,
            blocks: match shape.collective {
                Collective::AllGatherV => BlockList::uneven(shape.recv, shape.element),
                _ => BlockList::Even(shape.count * shape.element),
            },
            piece: piece_limit(tuning).min(tuning.window_bytes),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for AllGather {
    fn windows(&self) -> u32 {
        Pieces::new(self.blocks.longest(), self.piece).count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let block = self.blocks.get(self.rank);
        let own = self.blocks.piece(self.rank, self.piece, index);
        let input = Span::input(own.offset - block.offset, own.len);
        let direct = self.algorithm != Algorithm::Ring;
        for step in (1..self.world).filter(|_| direct) {
            if own.len > 0 {
                window.send((self.rank + step) % self.world, input, 0, &[]);
            }
            let from = (self.rank + self.world - step) % self.world;
            let theirs = self.blocks.piece(from, self.piece, index);
            if theirs.len > 0 {
                window.recv(from, Span::output(theirs.offset, theirs.len), 0);
            }
        }
        if !direct {
            let owned = |rank| self.blocks.piece(rank, self.piece, index);
            Circle::new(self.rank, self.world, false).all_gather(window, owned, input, None);
        }
        if own.len > 0 && !self.in_place {
            window.copy(input, Span::output(own.offset, own.len), &[]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        self.algorithm.name()
    }
}
