//! Direct gather and scatter: one message per rank and window between it and the root, straight into
//! the output.

use super::geometry::{Range, piece_limit};
use super::{BlockList, Pieces};
use crate::Tuning;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Gather {
    rank: u32,
    world: u32,
    root: u32,
    in_place: bool,
    /// To the root (gather) or from it (scatter).
    to_root: bool,
    /// The blocks at the root; elsewhere only one's own is known.
    blocks: BlockList,
    own: usize,
    piece: usize,
    in_flight: u32,
}

impl Gather {
    pub(super) fn to_root(shape: &Shape<'_>, tuning: &Tuning) -> Gather {
        Gather::new(shape, tuning, true)
    }

    pub(super) fn from_root(shape: &Shape<'_>, tuning: &Tuning) -> Gather {
        Gather::new(shape, tuning, false)
    }

    fn new(shape: &Shape<'_>, tuning: &Tuning, to_root: bool) -> Gather {
        let uneven = shape.collective.is_uneven();
        let blocks = match uneven && shape.rank == shape.peer {
            true => BlockList::uneven(if to_root { shape.recv } else { shape.send }, shape.element),
            false => BlockList::Even(shape.count * shape.element),
        };
        Gather {
            rank: shape.rank,
            world: shape.world,
            root: shape.peer,
            in_place: shape.in_place,
            to_root,
            own: shape.count * shape.element,
            blocks,
            piece: piece_limit(tuning).min(tuning.window_bytes),
            in_flight: tuning.windows_in_flight,
        }
    }

    fn root_window(&self, index: u32, window: &mut Window) {
        for step in 1..self.world {
            let other = (self.rank + step) % self.world;
            let Range { offset, len } = self.blocks.piece(other, self.piece, index);
            if len == 0 {
                continue;
            }
            match self.to_root {
                true => window.recv(other, Span::output(offset, len), 0),
                false => window.send(other, Span::input(offset, len), 0, &[]),
            };
        }
        let own = self.blocks.piece(self.rank, self.piece, index);
        if own.len > 0 && !self.in_place {
            let alone = own.offset - self.blocks.get(self.rank).offset;
            let (src, dst) = if self.to_root { (alone, own.offset) } else { (own.offset, alone) };
            window.copy(Span::input(src, own.len), Span::output(dst, own.len), &[]);
        }
    }
}

impl Plan for Gather {
    fn windows(&self) -> u32 {
        let longest = if self.rank == self.root { self.blocks.longest() } else { self.own };
        Pieces::new(longest, self.piece).count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        if self.rank == self.root {
            return self.root_window(index, window);
        }
        let Range { offset, len } = Pieces::new(self.own, self.piece).get(index);
        match self.to_root {
            true => window.send(self.root, Span::input(offset, len), 0, &[]),
            false => window.recv(self.root, Span::output(offset, len), 0),
        };
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "direct"
    }
}
