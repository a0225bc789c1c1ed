//! Recursive doubling all-reduce (Thakur, Rabenseifner, Gropp 2005).
//!
//! In round k, ranks at distance 2^k exchange their whole partial sums. With p = largest power of two
//! up to n, the n-p ranks left over give their vector to a neighbour first and get the result at the
//! end. ceil(log2 n) latencies, as many S bytes: for small vectors on many ranks. The operand of the
//! lower group always comes first, so both sides compute the same bits.

use super::geometry::Pieces;
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

const FOLD: u16 = 0x100;
const UNFOLD: u16 = 0x101;

/// See the module.
#[derive(Debug)]
pub struct RecursiveDoubling {
    rank: u32,
    world: u32,
    pieces: Pieces,
    in_flight: u32,
}

impl RecursiveDoubling {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> RecursiveDoubling {
        RecursiveDoubling {
            rank: shape.rank,
            world: shape.world,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }

    /// Ranks that fold: the first 2·(n-p) do so in pairs.
    fn folding(&self) -> u32 {
        2 * (self.world - self.power())
    }

    fn power(&self) -> u32 {
        1 << self.world.ilog2()
    }

    /// The rank that plays number `virtual_rank` of the power of two.
    fn real(&self, virtual_rank: u32) -> u32 {
        let folded = self.folding() / 2;
        if virtual_rank < folded { 2 * virtual_rank } else { virtual_rank + folded }
    }

    fn rounds(
        &self,
        mut current: Span,
        mut waits: Vec<StepId>,
        output: Span,
        window: &mut Window,
    ) -> Vec<StepId> {
        let folding = self.folding();
        let me = if self.rank < folding { self.rank / 2 } else { self.rank - folding / 2 };
        let mut mask = 1;
        while mask < self.power() {
            let partner = self.real(me ^ mask);
            let sent = window.send(partner, current, mask as u16, &waits);
            let slot = window.slot(output.len);
            let got = window.recv(partner, slot, mask as u16);
            let operands = if me & mask == 0 { [current, slot] } else { [slot, current] };
            let last = mask * 2 == self.power();
            // After the send, since the result may overwrite what it reads.
            let reduced = window.reduce(&operands, output, last, &[&waits[..], &[sent, got]].concat());
            current = output;
            waits = vec![reduced];
            mask *= 2;
        }
        waits
    }
}

impl Plan for RecursiveDoubling {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        let (input, output) = (Span::input(piece.offset, piece.len), Span::output(piece.offset, piece.len));
        if self.world == 1 {
            window.reduce(&[input], output, true, &[]);
            return;
        }
        if self.rank >= self.folding() {
            self.rounds(input, Vec::new(), output, window);
        } else if self.rank % 2 == 1 {
            window.send(self.rank - 1, input, FOLD, &[]);
            window.recv(self.rank - 1, output, UNFOLD);
        } else {
            let slot = window.slot(piece.len);
            let got = window.recv(self.rank + 1, slot, FOLD);
            let folded = window.reduce(&[input, slot], output, false, &[got]);
            let done = self.rounds(output, vec![folded], output, window);
            window.send(self.rank + 1, output, UNFOLD, &done);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "recursive-doubling"
    }
}
