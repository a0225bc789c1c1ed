//! Dissemination barrier (Hensgen, Finkel, Manber 1988): in round k every rank tells r + 2^k that it and
//! all it has heard of are here. ceil(log2 n) rounds of empty messages.

use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Barrier {
    rank: u32,
    world: u32,
}

impl Barrier {
    pub(super) fn new(shape: &Shape<'_>) -> Barrier {
        Barrier { rank: shape.rank, world: shape.world }
    }

    /// For ops of which only their commit matters, or the error that they end with.
    pub(super) fn without_rounds() -> Barrier {
        Barrier { rank: 0, world: 1 }
    }
}

impl Plan for Barrier {
    fn windows(&self) -> u32 {
        u32::from(self.world > 1)
    }

    fn window(&self, _index: u32, window: &mut Window) {
        let mut heard = Vec::new();
        let (mut distance, mut round) = (1, 0);
        while distance < self.world {
            window.send((self.rank + distance) % self.world, Span::nothing(), round, &heard);
            let from = (self.rank + self.world - distance) % self.world;
            heard.push(window.recv(from, Span::nothing(), round));
            distance = distance.saturating_mul(2);
            round += 1;
        }
    }

    fn name(&self) -> &'static str {
        "dissemination"
    }
}
