//! Direct reduce: everybody sends its vector to the root, which reduces all of them in ascending rank
//! order. Since pieces land in slots, the root answers each with an empty credit.

use super::gathering::{Ranks, reduce_all};
use super::geometry::{Pieces, block_piece};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

const RAW: u16 = 0;
const CREDIT: u16 = 1;

/// See the module.
#[derive(Debug)]
pub struct Reduce {
    rank: u32,
    world: u32,
    root: u32,
    pieces: Pieces,
    in_flight: u32,
}

impl Reduce {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> Reduce {
        let piece = block_piece(shape.world, tuning);
        Reduce {
            rank: shape.rank,
            world: shape.world,
            root: shape.peer,
            pieces: Pieces::new(shape.count * shape.element, piece),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for Reduce {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let own = Span::input(piece.offset, piece.len);
        if self.rank != self.root {
            window.send(self.root, own, RAW, &[]);
            window.recv(self.root, Span::nothing(), CREDIT);
            return;
        }
        let ranks = Ranks { me: self.rank, world: self.world };
        let reduced = reduce_all(window, ranks, own, Span::output(piece.offset, piece.len), RAW, 0..0);
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
