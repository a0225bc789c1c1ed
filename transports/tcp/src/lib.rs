//! Frames over TCP: a [`TcpLink`] moves them over one or more connected sockets to one peer.
//!
//! Everything on the wire is a multiple of 64 bytes: header, payload, padding. Payloads leave
//! straight from their segment and land straight in the place that the receiver names; only
//! payloads of up to 256 bytes, and what shares a read with a header, are copied once on the way.
//!
//! * `outgoing`: a bounded outbox per link, from which streams with room pull frames.
//! * `incoming`: a receive block and the frame being received, per stream.
//! * `outlet`, `replay`, `resume`, `word`: streams that go on with another connection when one was cut.
//! * `link`: all of these together, and what ends a link.
//! * `answers`: whether the machine at the other end still says anything.
#![forbid(unsafe_code)]

mod answers;
mod incoming;
mod link;
mod options;
mod outgoing;
mod outlet;
mod replay;
mod resume;
mod sleep;
mod word;

pub use link::TcpLink;
pub use options::{Congestion, TcpOptions};
pub use replay::Replay;
pub use resume::{Answer, Cut, Delivery, MAX_STREAMS, Mailbox, Resumption};

/// Largest payload of one frame.
pub const MAX_PAYLOAD: usize = 1 << 20;
