//! One-shot all-reduce: every rank sends its whole vector to every other and reduces alone.
//!
//! One message latency; (n-1) S bytes out of each rank. For small vectors, and for two ranks up to
//! about 1 MiB. All contributions are reduced in ascending rank order in one pass, so every rank gets
//! the same bits.
//!
//! Steps of a window: send it to r+1, r+2, …; receive n-1 contributions into slots; reduce.

use super::gathering::{Ranks, reduce_all};
use super::geometry::Pieces;
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct OneShot {
    rank: u32,
    world: u32,
    in_place: bool,
    pieces: Pieces,
    in_flight: u32,
}

impl OneShot {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> OneShot {
        OneShot {
            rank: shape.rank,
            world: shape.world,
            in_place: shape.in_place,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for OneShot {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let own = Span::input(piece.offset, piece.len);
        for step in 1..self.world {
            window.send((self.rank + step) % self.world, own, 0, &[]);
        }
        // In place the result overwrites what the sends read.
        let also_after = if self.in_place { 0..self.world - 1 } else { 0..0 };
        let ranks = Ranks { me: self.rank, world: self.world };
        reduce_all(window, ranks, own, Span::output(piece.offset, piece.len), 0, also_after);
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn writes_once(&self) -> bool {
        self.pieces.count() == 1
    }

    fn name(&self) -> &'static str {
        "one-shot"
    }
}
