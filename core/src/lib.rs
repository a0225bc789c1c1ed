//! Ronde's core: vocabulary, wire format, memory, the transport trait and the two state machines
//! (membership and collective).
//!
//! Nothing here opens a socket, reads a clock, starts a thread or asks the operating system for
//! randomness. Time is an argument ([`Instant`], nanoseconds since a start of the caller's
//! choosing), so that the same code runs in production and under a deterministic simulator.
#![deny(unsafe_code)]

pub mod call;
pub mod collective;
pub mod dtype;
pub mod error;
#[doc(hidden)]
pub mod failpoint;
pub mod frame;
pub mod membership;
pub mod memory;
pub mod plan;
#[doc(hidden)]
pub mod planted;
pub mod recovery;
pub mod reduce;
pub mod transport;
pub mod vocab;

pub use dtype::{DType, ReduceOp};
pub use error::{Error, Result};
pub use memory::Segment;
pub use vocab::*;
