//! What every direct reduction does: collect all ranks' pieces, then reduce them in ascending rank order.

use ronde_core::plan::{Span, StepId, Window};
use std::ops::Range;

/// This rank and how many there are.
#[derive(Clone, Copy)]
pub(super) struct Ranks {
    pub(super) me: u32,
    pub(super) world: u32,
}

/// Receives every other rank's piece into a slot and reduces all of them, `own` at its place, into
/// `result`, which completes the reduction. The reduction also waits for the steps in `also_after`.
pub(super) fn reduce_all(
    window: &mut Window,
    ranks: Ranks,
    own: Span,
    result: Span,
    label: u16,
    also_after: Range<StepId>,
) -> StepId {
    let mut waits = window.borrow_list();
    let mut sources = window.borrow_spans();
    for origin in 0..ranks.world {
        if origin == ranks.me {
            sources.push(own);
            continue;
        }
        let slot = window.slot(own.len);
        waits.push(window.recv(origin, slot, label));
        sources.push(slot);
    }
    waits.extend(also_after);
    let reduced = window.reduce(&sources, result, true, &waits);
    window.give_back_list(waits);
    window.give_back_spans(sources);
    reduced
}
