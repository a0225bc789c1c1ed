//! Recursive doubling all-reduce (Thakur, Rabenseifner, Gropp 2005).
//!
//! In round k, players at distance 2^k exchange their whole partial sums. ceil(log2 n) latencies, as many
//! S bytes: for small vectors on many ranks. The operand of the lower group always comes first, so both
//! sides compute the same bits.

use super::folding::{Fold, fold};
use super::geometry::Pieces;
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

/// See the module.
#[derive(Debug, PartialEq)]
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
}

/// The rounds of player `me`, whose vector is in `current` after `ready`.
fn rounds(
    players: Fold,
    me: u32,
    (mut current, output): (Span, Span),
    mut ready: Option<StepId>,
    window: &mut Window,
) -> Option<StepId> {
    let mut mask = 1;
    while mask < players.players() {
        let partner = players.rank(me ^ mask);
        let sent = window.send(partner, current, mask as u16, ready.as_slice());
        let slot = window.slot(output.len);
        let got = window.recv(partner, slot, mask as u16);
        let operands = if me & mask == 0 { [current, slot] } else { [slot, current] };
        mask *= 2;
        // After the send, since the result may overwrite what it reads.
        ready = Some(window.reduce(&operands, output, mask == players.players(), &[sent, got]));
        current = output;
    }
    ready
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
        let players = Fold::new(self.world);
        fold(players, self.rank, (input, output), window, |window, me, current, ready| {
            let mut ended = window.borrow_list();
            ended.extend(rounds(players, me, (current, output), ready, window));
            ended
        });
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "recursive-doubling"
    }
}
