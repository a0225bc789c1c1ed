//! Ring all-reduce (Patarasuk and Yuan 2009): reduce-scatter, then all-gather around a ring.
//!
//! Each window has n shards. Reduce-scatter step s: send the partial sum of shard r-s to r+1, receive
//! that of shard r-s-1 and add one's own. After n-1 steps rank r owns shard r+1, finishes it, and the
//! all-gather passes final shards on, byte by byte. 2(n-1) latencies, 2(n-1)/n S bytes to one neighbour
//! only: for many ranks. Each shard is summed along one chain, so all ranks get the same bits; 8- and
//! 16-bit floats round at each hop, unlike in the direct algorithms.

use super::geometry::{Pieces, Range, shard};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};

/// See the module.
#[derive(Debug)]
pub struct Ring {
    rank: u32,
    world: u32,
    windows: Pieces,
    in_flight: u32,
}

impl Ring {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> Ring {
        Ring {
            rank: shape.rank,
            world: shape.world,
            windows: Pieces::shared_by(shape.count * shape.element, shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }

    /// The shard `back` places before this rank's.
    fn behind(&self, window: Range, back: u32) -> Range {
        shard(window, (self.rank + 2 * self.world - back) % self.world, self.world)
    }

    fn reduce_scatter(&self, whole: Range, window: &mut Window) -> Option<StepId> {
        let (next, prev) = ((self.rank + 1) % self.world, (self.rank + self.world - 1) % self.world);
        let mut reduced = None;
        for step in 0..self.world - 1 {
            let out = self.behind(whole, step);
            if out.len > 0 {
                let src = match step {
                    0 => Span::input(out.offset, out.len),
                    _ => Span::output(out.offset, out.len),
                };
                window.send(next, src, step as u16, reduced.as_slice());
            }
            let into = self.behind(whole, step + 1);
            reduced = (into.len > 0).then(|| {
                let slot = window.slot(into.len);
                let got = window.recv(prev, slot, step as u16);
                let sources = [slot, Span::input(into.offset, into.len)];
                let last = step == self.world - 2;
                window.reduce(&sources, Span::output(into.offset, into.len), last, &[got])
            });
        }
        reduced
    }

    fn all_gather(&self, whole: Range, mut ready: Option<StepId>, window: &mut Window) {
        let (next, prev) = ((self.rank + 1) % self.world, (self.rank + self.world - 1) % self.world);
        for step in 0..self.world - 1 {
            let label = (self.world - 1 + step) as u16;
            let out = self.behind(whole, step + self.world - 1);
            if out.len > 0 {
                window.send(next, Span::output(out.offset, out.len), label, ready.as_slice());
            }
            let into = self.behind(whole, step + self.world);
            ready = (into.len > 0).then(|| window.recv(prev, Span::output(into.offset, into.len), label));
        }
    }
}

impl Plan for Ring {
    fn windows(&self) -> u32 {
        self.windows.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let whole = self.windows.get(index);
        if self.world == 1 {
            let span = Span::input(whole.offset, whole.len);
            window.reduce(&[span], Span::output(whole.offset, whole.len), true, &[]);
            return;
        }
        let reduced = self.reduce_scatter(whole, window);
        self.all_gather(whole, reduced, window);
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "ring"
    }
}
