//! Send and receive, in windows. An empty message is one empty window, so that it still matches.

use super::geometry::Pieces;
use crate::Tuning;
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, Window};

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Message {
    peer: u32,
    sends: bool,
    pieces: Pieces,
    in_flight: u32,
}

impl Message {
    pub(super) fn new(shape: &Shape<'_>, tuning: &Tuning) -> Message {
        Message {
            peer: shape.peer,
            sends: shape.collective == Collective::Send,
            pieces: Pieces::whole(shape.count * shape.element, tuning),
            in_flight: tuning.windows_in_flight,
        }
    }
}

impl Plan for Message {
    fn windows(&self) -> u32 {
        self.pieces.count().max(1)
    }

    fn window(&self, index: u32, window: &mut Window) {
        let piece = self.pieces.get(index);
        match self.sends {
            true => window.send(self.peer, Span::input(piece.offset, piece.len), 0, &[]),
            false => window.recv(self.peer, Span::output(piece.offset, piece.len), 0),
        };
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "point-to-point"
    }
}
