//! Ring all-reduce (Patarasuk and Yuan 2009): reduce-scatter, then all-gather around a ring.
//!
//! Each window has a shard per rank. 2(n-1) latencies, 2(n-1)/n S bytes to one neighbour only: for many
//! ranks. The bidirectional form sends half of each window the other way round: as many bytes in all,
//! but on twice as many links, for machines whose links are slower than their interfaces. Each shard is
//! summed along one chain, so all ranks get the same bits; 8- and 16-bit floats round at each hop,
//! unlike in the direct algorithms.

use super::circle::Circle;
use super::geometry::{Pieces, Range, shard};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Ring {
    rank: u32,
    world: u32,
    both_ways: bool,
    windows: Pieces,
    in_flight: u32,
}

impl Ring {
    pub(super) fn new(shape: &Shape<'_>, both_ways: bool, tuning: &Tuning) -> Ring {
        Ring {
            rank: shape.rank,
            world: shape.world,
            both_ways,
            windows: Pieces::shared_by(shape.count * shape.element, shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }

    fn around(&self, part: Range, backward: bool, window: &mut Window) {
        let circle = Circle::new(self.rank, self.world, backward);
        let owned = |rank| shard(part, rank, self.world);
        let partial = |_: &mut Window, _, range: Range| Span::output(range.offset, range.len);
        let reduced = circle.reduce_scatter(window, owned, partial);
        let own = owned(self.rank);
        circle.all_gather(window, owned, Span::output(own.offset, own.len), reduced);
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
        } else if self.both_ways {
            self.around(shard(whole, 0, 2), false, window);
            self.around(shard(whole, 1, 2), true, window);
        } else {
            self.around(whole, false, window);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        if self.both_ways { "bidirectional-ring" } else { "ring" }
    }
}
