//! Ronde: fault-tolerant collective communication.
//!
//! ```no_run
//! let group = ronde::Config::from_env()?.join()?;
//! let mut gradients = vec![0.5f32; 1 << 20];
//! let outcome = group.all_reduce(&mut gradients, ronde::ReduceOp::Avg)?;
//! println!("rank {} of {}: averaged over {}", group.rank(), group.size(), outcome.contributors);
//! group.close()?;
//! # Ok::<(), ronde::Error>(())
//! ```
#![forbid(unsafe_code)]

mod bootstrap;
mod commit_group;
mod config;
mod control;
mod coordinator;
mod costs;
mod engine;
mod environment;
mod group;
mod jobs;
mod op;
mod planner;
mod session;
#[doc(hidden)]
pub mod strangers;
mod until;
mod validate;

pub use bootstrap::{AddressSource, Reach, RondeId, Store};
pub use commit_group::{CommitGroup, CommitOptions};
pub use config::{Config, Preset, Reconnect};
pub use coordinator::{job_status, serve_coordinator};
pub use engine::diagnosis::RecentCall;
pub use group::{Element, Group, LinkInfo, Update};
/// Floats of 16 bits as elements.
pub use half::{bf16, f16};
/// Complex numbers, with the feature `num-complex`.
#[cfg(feature = "num-complex")]
pub use num_complex::Complex;
pub use op::Op;
pub use ronde_algorithms::{CostTable, Costs};
pub use ronde_core::call::{Blocks, Call, CallOptions};
pub use ronde_core::collective::{CallState, Digests};
pub use ronde_core::error::{Aborted, Hole, Misuse, Outcome, Part, PeerLost};
/// Lending slices to operations.
pub mod memory {
    pub use ronde_core::memory::{Lender, Pod, lend};
}
pub use ronde_core::membership::{LastCall, MemberStatus, NextStatus, PendingStatus, Status, Suspicion};
pub use ronde_core::reduce::{Reduction, UserReduce};
pub use ronde_core::{Collective, DType, Error, Rank, ReduceOp, Result, Segment, Tag, Tolerance};
pub use ronde_shm::SharedBuffer;
pub use validate::{algorithm_name, algorithm_names};
