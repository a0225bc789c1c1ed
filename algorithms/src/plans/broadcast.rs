//! Broadcast: direct (the root sends to all), a binomial tree, or a chain (pipeline).
//!
//! Direct: one latency, (n-1) S out of the root. Tree: ceil(log2 n) latencies, S per round. Chain: every
//! rank passes each window on to the next, so S bytes move once per rank at full rate after n-1
//! latencies: for large vectors.

use super::geometry::Pieces;
use crate::{Algorithm, Tuning};
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug)]
pub struct Broadcast {
    rank: u32,
    world: u32,
    root: u32,
    in_place: bool,
    algorithm: Algorithm,
    pieces: Pieces,
    in_flight: u32,
}

impl Broadcast {
    pub(super) fn new(shape: &Shape<'_>, algorithm: Algorithm, tuning: &Tuning) -> Broadcast {
        Broadcast {
            rank: shape.rank,
            world: shape.world,
            root: shape.peer,
            in_place: shape.in_place,
            algorithm,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }

    /// Distance from the root.
    fn relative(&self) -> u32 {
        (self.rank + self.world - self.root) % self.world
    }

    fn parent(&self) -> u32 {
        let relative = self.relative();
        let parent = match self.algorithm {
            Algorithm::Tree => relative & (relative - 1),
            Algorithm::Chain => relative - 1,
            _ => 0,
        };
        (parent + self.root) % self.world
    }

    fn children(&self) -> impl Iterator<Item = u32> + '_ {
        let relative = self.relative();
        let is_child = move |child: u32| match self.algorithm {
            Algorithm::Tree => child & (child - 1) == relative,
            Algorithm::Chain => child - 1 == relative,
            _ => relative == 0,
        };
        // The farthest first: it has the longest way to go on.
        (relative + 1..self.world).rev().filter(move |c| is_child(*c)).map(|c| (c + self.root) % self.world)
    }
}

impl Plan for Broadcast {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let output = Span::output(piece.offset, piece.len);
        if self.rank == self.root {
            let input = Span::input(piece.offset, piece.len);
            for child in self.children() {
                window.send(child, input, 0, &[]);
            }
            if !self.in_place {
                window.copy(input, output, &[]);
            }
            return;
        }
        let got = window.recv(self.parent(), output, 0);
        for child in self.children() {
            window.send(child, output, 0, &[got]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        self.algorithm.name()
    }
}
