//! Every collective on the production executor over links that misbehave, against an oracle.
//!
//! Elements are random 64-bit numbers added modulo 2^64, so a contribution that is lost, doubled or
//! put in the wrong place shows in the sum.

mod blocks;
mod case;
mod churn;
mod crash_points;
mod disagreement;
mod in_flight;
mod job;
mod losses;
mod pairs;
mod partitions;
mod plans;
mod random_op;
mod recovery;
#[cfg(not(feature = "planted-bugs"))]
mod replay;
mod scale;
mod scenario;
mod sub_groups;

/// A schedule is a fresh job, and a fifth of its time goes into making and freeing small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
