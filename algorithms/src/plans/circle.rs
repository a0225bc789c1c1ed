//! The two halves of a ring all-reduce, each of use alone: reduce-scatter and all-gather around a circle.
//!
//! Both pass shards from each rank to the next, n-1 times. The partial sum of a shard starts at the rank
//! after its owner and ends, complete, at the owner; a final shard starts at its owner. `owned` says
//! which range of bytes each rank owns.

use super::geometry::Range;
use ronde_core::plan::{Span, StepId, Window};

/// The ranks in a circle, seen from one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circle {
    rank: u32,
    world: u32,
    /// The circle in the other direction.
    backward: bool,
}

impl Circle {
    pub(super) fn new(rank: u32, world: u32, backward: bool) -> Circle {
        Circle { rank, world, backward }
    }

    /// The rank `steps` places further on.
    fn ahead(&self, steps: u32) -> u32 {
        let (world, steps) = (self.world, steps % self.world);
        if self.backward { (self.rank + world - steps) % world } else { (self.rank + steps) % world }
    }

    /// The rank `steps` places back.
    fn behind(&self, steps: u32) -> u32 {
        self.ahead(self.world - steps % self.world)
    }

    /// The rank that one sends to.
    pub(super) fn next(&self) -> u32 {
        self.ahead(1)
    }

    /// The rank that one receives from.
    pub(super) fn previous(&self) -> u32 {
        self.behind(1)
    }

    /// Label of a step. With two ranks both directions use the same pair.
    fn label(&self, step: u32) -> u16 {
        let taken = if self.backward && self.world == 2 { 2 * self.world } else { 0 };
        (step + taken) as u16
    }

    /// Reduces each rank's range of the inputs to its owner. `partial` says where a partial sum of a
    /// range is kept, and the last one, the result, of one's own. Returns the step that makes it.
    pub(super) fn reduce_scatter(
        &self,
        window: &mut Window,
        owned: impl Fn(u32) -> Range,
        mut partial: impl FnMut(&mut Window, u32, Range) -> Span,
    ) -> Option<StepId> {
        let (next, previous) = (self.next(), self.previous());
        let mut sum: Option<(Span, StepId)> = None;
        for step in 1..self.world {
            let out = owned(self.behind(step));
            if out.len > 0 {
                match &sum {
                    None => window.send(next, Span::input(out.offset, out.len), self.label(step), &[]),
                    Some((span, reduced)) => window.send(next, *span, self.label(step), &[*reduced]),
                };
            }
            let owner = self.behind(step + 1);
            let into = owned(owner);
            sum = (into.len > 0).then(|| {
                let slot = window.slot(into.len);
                let got = window.recv(previous, slot, self.label(step));
                let sources = [slot, Span::input(into.offset, into.len)];
                let to = partial(window, owner, into);
                (to, window.reduce(&sources, to, owner == self.rank, &[got]))
            });
        }
        sum.map(|(_, reduced)| reduced)
    }

    /// Passes each rank's range of the outputs on to all; one's own, `first`, is there after `ready`.
    pub(super) fn all_gather(
        &self,
        window: &mut Window,
        owned: impl Fn(u32) -> Range,
        first: Span,
        ready: Option<StepId>,
    ) {
        let (next, previous) = (self.next(), self.previous());
        let mut last = ready;
        for step in 0..self.world - 1 {
            let label = self.label(self.world + step);
            let out = owned(self.behind(step));
            if out.len > 0 {
                let src = if step == 0 { first } else { Span::output(out.offset, out.len) };
                window.send(next, src, label, last.as_slice());
            }
            let into = owned(self.behind(step + 1));
            last = (into.len > 0).then(|| window.recv(previous, Span::output(into.offset, into.len), label));
        }
    }
}
