//! Halving-doubling all-reduce (Rabenseifner 2004): reduce-scatter by recursive halving, then all-gather
//! by recursive doubling.
//!
//! Of p players, each exchanges in round k half of what it still holds with the player at distance
//! p/2^(k+1), and adds what it gets to the half that it keeps; the all-gather goes back the same way.
//! 2 log2 n latencies, 2(n-1)/n S bytes: for middling vectors on many ranks. Each shard is completed by
//! one rank, so all ranks get the same bits.

use super::folding::{Fold, fold};
use super::geometry::{Pieces, Range, shard};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

/// Labels of the all-gather's rounds; those of the reduce-scatter are below.
const GATHER: u16 = 32;

/// See the module.
#[derive(Debug, PartialEq)]
pub struct HalvingDoubling {
    rank: u32,
    world: u32,
    pieces: Pieces,
    in_flight: u32,
}

impl HalvingDoubling {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> HalvingDoubling {
        HalvingDoubling {
            rank: shape.rank,
            world: shape.world,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

/// The shards that a player holds at distance `mask`: those whose owners differ from it below `mask`.
fn held(whole: Range, players: u32, me: u32, mask: u32) -> Range {
    let first = me & !(mask - 1);
    let (start, last) = (shard(whole, first, players), shard(whole, first + mask - 1, players));
    Range { offset: start.offset, len: last.offset + last.len - start.offset }
}

/// Number of the round at this distance.
fn round(mask: u32) -> u16 {
    mask.ilog2() as u16
}

/// What player `me` does with a vector that lies in `current` after `ready`. Returns the steps that
/// complete the output.
fn rounds(
    players: Fold,
    me: u32,
    (whole, current): (Range, Span),
    mut ready: Option<StepId>,
    window: &mut Window,
) -> Vec<StepId> {
    let count = players.players();
    // A range of the vector, where it is now.
    let within = |of: Span, range: Range| Span {
        offset: of.offset + range.offset - whole.offset,
        len: range.len,
        ..of
    };
    let output = Span::output(whole.offset, whole.len);
    let mut source = current;
    let mut mask = count / 2;
    while mask > 0 {
        let partner = players.rank(me ^ mask);
        let (keep, give) = (held(whole, count, me, mask), held(whole, count, me ^ mask, mask));
        if give.len > 0 {
            window.send(partner, within(source, give), round(mask), ready.as_slice());
        }
        if keep.len > 0 {
            let slot = window.slot(keep.len);
            let got = window.recv(partner, slot, round(mask));
            let own = within(source, keep);
            let operands = if me & mask == 0 { [own, slot] } else { [slot, own] };
            let after = [got, ready.unwrap_or_default()];
            let after = &after[..1 + usize::from(ready.is_some())];
            ready = Some(window.reduce(&operands, within(output, keep), mask == 1, after));
        }
        source = output;
        mask /= 2;
    }
    let mut complete = window.borrow_list();
    complete.extend(ready.filter(|_| held(whole, count, me, 1).len > 0));
    mask = 1;
    while mask < count {
        let partner = players.rank(me ^ mask);
        let (have, want) = (held(whole, count, me, mask), held(whole, count, me ^ mask, mask));
        if have.len > 0 {
            window.send(partner, within(output, have), GATHER + round(mask), &complete);
        }
        if want.len > 0 {
            complete.push(window.recv(partner, within(output, want), GATHER + round(mask)));
        }
        mask *= 2;
    }
    complete
}

impl Plan for HalvingDoubling {
    fn windows(&self) -> u32 {
        self.pieces.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let whole = self.pieces.get(index);
        let (input, output) = (Span::input(whole.offset, whole.len), Span::output(whole.offset, whole.len));
        if self.world == 1 {
            window.reduce(&[input], output, true, &[]);
            return;
        }
        let players = Fold::new(self.world);
        fold(players, self.rank, (input, output), window, |window, me, current, ready| {
            rounds(players, me, (whole, current), ready, window)
        });
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "halving-doubling"
    }
}
