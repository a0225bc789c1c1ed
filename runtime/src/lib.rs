//! Ronde: fault-tolerant collective communication.
#![forbid(unsafe_code)]

pub mod group;

pub use group::{Group, Op};
pub use ronde_core::call::{Blocks, Call, CallOptions};
pub use ronde_core::error::{Aborted, Misuse, Outcome, PeerLost};
pub use ronde_core::reduce::{Reduction, UserReduce};
pub use ronde_core::{Collective, DType, Error, Rank, ReduceOp, Result, Segment, Tag, Tolerance};
