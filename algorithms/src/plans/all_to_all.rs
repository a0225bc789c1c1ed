//! Direct all-to-all: in step s, rank r sends to r+s and receives from r-s, so that no rank is the target
//! of all others at once. One message per pair and window, (n-1)/n of the vector out of each rank.
//!
//! In place, a block that arrives overwrites one that leaves: it is received into a slot and copied
//! when the other has left.

use super::geometry::block_piece;
use super::{BlockList, Pieces};
use crate::Tuning;
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct AllToAll {
    rank: u32,
    world: u32,
    in_place: bool,
    send: BlockList,
    recv: BlockList,
    piece: usize,
    in_flight: u32,
}

impl AllToAll {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> AllToAll {
        let (send, recv) = match shape.collective {
            Collective::AllToAllV => {
                (BlockList::uneven(shape.send, shape.element), BlockList::uneven(shape.recv, shape.element))
            }
            _ => {
                let block = shape.count * shape.element;
                (BlockList::Even(block), BlockList::Even(block))
            }
        };
        AllToAll {
            rank: shape.rank,
            world: shape.world,
            in_place: shape.in_place,
            send,
            recv,
            piece: block_piece(shape.world, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for AllToAll {
    fn windows(&self) -> u32 {
        Pieces::new(self.send.longest().max(self.recv.longest()), self.piece).count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        for step in 1..self.world {
            let to = (self.rank + step) % self.world;
            let out = self.send.piece(to, self.piece, index);
            if out.len > 0 {
                window.send(to, Span::input(out.offset, out.len), 0, &[]);
            }
        }
        let sends = window.steps.len() as u32;
        for step in 1..self.world {
            let from = (self.rank + self.world - step) % self.world;
            let into = self.recv.piece(from, self.piece, index);
            if into.len == 0 {
                continue;
            }
            let output = Span::output(into.offset, into.len);
            if !self.in_place {
                window.recv(from, output, 0);
                continue;
            }
            let slot = window.slot(into.len);
            let got = window.recv(from, slot, 0);
            // In place the blocks sent and received are the same, so the send to `from` is the one
            // that reads this block: number n - step - 1 of those above, less the empty ones.
            let sent = (0..sends).find(|&id| {
                matches!(window.steps[id as usize].action,
                    ronde_core::plan::Action::Send { to, .. } if to == from)
            });
            let waits = [got, sent.unwrap_or(got)];
            window.copy(slot, output, &waits[..1 + usize::from(sent.is_some())]);
        }
        let own = self.send.piece(self.rank, self.piece, index);
        if own.len > 0 && !self.in_place {
            let into = self.recv.piece(self.rank, self.piece, index);
            window.copy(Span::input(own.offset, own.len), Span::output(into.offset, own.len), &[]);
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "direct"
    }
}
