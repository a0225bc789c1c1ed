//! Two-shot (direct) all-reduce: each window is shared out in n shards, one per owner.
//!
//! Shot 1: every rank sends the raw shard o of its vector to owner o. The owner reduces all n pieces in
//! ascending rank order in one pass and finishes (division, cast). Shot 2: the owner sends the final
//! bytes to all others, who only copy them. Two message latencies, 2(n-1)/n S bytes out of each rank:
//! the least possible, without the 2(n-1) latencies of a ring.
//!
//! In place is safe as it stands: the final shard o arrives only after owner o had one's raw piece of it.

use super::gathering::{Ranks, reduce_all};
use super::geometry::{Pieces, shard};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

const RAW: u16 = 0;
const FINAL: u16 = 1;

/// See the module.
#[derive(Debug, PartialEq)]
pub struct TwoShot {
    rank: u32,
    world: u32,
    windows: Pieces,
    in_flight: u32,
}

impl TwoShot {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> TwoShot {
        TwoShot {
            rank: shape.rank,
            world: shape.world,
            windows: Pieces::shared_by(shape.count * shape.element, shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for TwoShot {
    fn windows(&self) -> u32 {
        self.windows.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let whole = self.windows.get(index);
        let others = || (1..self.world).map(|step| (self.rank + step) % self.world);
        for owner in others() {
            let raw = shard(whole, owner, self.world);
            if raw.len > 0 {
                window.send(owner, Span::input(raw.offset, raw.len), RAW, &[]);
                window.recv(owner, Span::output(raw.offset, raw.len), FINAL);
            }
        }
        let own = shard(whole, self.rank, self.world);
        if own.len == 0 {
            return;
        }
        let result = Span::output(own.offset, own.len);
        let ranks = Ranks { me: self.rank, world: self.world };
        let reduced = reduce_all(window, ranks, Span::input(own.offset, own.len), result, RAW, 0..0);
        for other in others() {
            window.send(other, result, FINAL, &[reduced]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "two-shot"
    }
}
