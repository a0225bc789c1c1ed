//! Reduce: direct (everybody to the root), a binomial tree, or a chain (pipeline).
//!
//! Direct: the root reduces all vectors in ascending rank order; (n-1) S into it. Tree: ceil(log2 n)
//! latencies, S per round. Chain: every rank adds its own to what it gets and passes it on, so that S
//! bytes move once per rank at full rate after n-1 latencies: for large vectors. Tree and chain round
//! 8- and 16-bit floats at each hop.
//!
//! Since pieces land in slots, the receiver answers each with an empty credit, unless no window waits for that.

use super::gathering::{Ranks, reduce_all};
use super::geometry::{Pieces, block_piece};
use super::rooted::Rooted;
use crate::{Algorithm, Tuning};
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

const RAW: u16 = 0;
const CREDIT: u16 = 1;

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Reduce {
    ways: Rooted,
    pieces: Pieces,
    in_flight: u32,
}

impl Reduce {
    pub(super) fn new(shape: &Shape<'_>, algorithm: Algorithm, tuning: &Tuning) -> Reduce {
        let bytes = shape.count * shape.element;
        Reduce {
            ways: Rooted { rank: shape.rank, world: shape.world, root: shape.peer, algorithm },
            pieces: match algorithm {
                Algorithm::Direct => Pieces::new(bytes, block_piece(shape.world, tuning)),
                _ => Pieces::whole(bytes, tuning),
            },
            in_flight: tuning.windows_in_flight,
        }
    }

    /// Adds the children's sums to one's own vector. Returns where the result is and the step that makes
    /// it, if there is one.
    fn collect(&self, own: Span, window: &mut Window) -> (Span, Option<StepId>) {
        let is_root = self.ways.is_root();
        let mut waits = window.borrow_list();
        let mut sources = window.borrow_spans();
        sources.push(own);
        for child in self.ways.children() {
            let slot = window.slot(own.len);
            waits.push(window.recv(child, slot, RAW));
            sources.push(slot);
        }
        let leaf = waits.is_empty() && !is_root;
        let sum = match is_root {
            true => Span::output(own.offset, own.len),
            // What came first is not needed any more.
            false => sources.get(1).copied().unwrap_or(own),
        };
        let reduced = (!leaf).then(|| window.reduce(&sources, sum, is_root, &waits));
        window.give_back_list(waits);
        window.give_back_spans(sources);
        (sum, reduced)
    }
}

impl Plan for Reduce {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let own = Span::input(piece.offset, piece.len);
        let (sum, reduced) = match self.ways.algorithm {
            Algorithm::Direct if self.ways.is_root() => {
                let ranks = Ranks { me: self.ways.rank, world: self.ways.world };
                let output = Span::output(piece.offset, piece.len);
                (output, Some(reduce_all(window, ranks, own, output, RAW, 0..0)))
            }
            _ => self.collect(own, window),
        };
        let credits = self.lets_open(index);
        if credits {
            for child in self.ways.children() {
                window.send(child, Span::nothing(), CREDIT, reduced.as_slice());
            }
        }
        if !self.ways.is_root() {
            window.send(self.ways.parent(), sum, RAW, reduced.as_slice());
            if credits {
                window.recv(self.ways.parent(), Span::nothing(), CREDIT);
            }
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        self.ways.algorithm.name()
    }
}
