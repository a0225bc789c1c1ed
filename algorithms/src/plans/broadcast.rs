//! Broadcast: direct (the root sends to all), a binomial tree, or a chain (pipeline).
//!
//! Direct: one latency, (n-1) S out of the root. Tree: ceil(log2 n) latencies, S per round. Chain: every
//! rank passes each window on to the next, so S bytes move once per rank at full rate after n-1
//! latencies: for large vectors.

use super::geometry::Pieces;
use super::rooted::Rooted;
use crate::{Algorithm, Tuning};
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Broadcast {
    ways: Rooted,
    in_place: bool,
    pieces: Pieces,
    in_flight: u32,
}

impl Broadcast {
    pub(super) fn new(shape: &Shape<'_>, algorithm: Algorithm, tuning: &Tuning) -> Broadcast {
        Broadcast {
            ways: Rooted { rank: shape.rank, world: shape.world, root: shape.peer, algorithm },
            in_place: shape.in_place,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for Broadcast {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let output = Span::output(piece.offset, piece.len);
        if self.ways.is_root() {
            let input = Span::input(piece.offset, piece.len);
            for child in self.ways.children() {
                window.send(child, input, 0, &[]);
            }
            if !self.in_place {
                window.copy(input, output, &[]);
            }
            return;
        }
        let got = window.recv(self.ways.parent(), output, 0);
        for child in self.ways.children() {
            window.send(child, output, 0, &[got]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        self.ways.algorithm.name()
    }
}
