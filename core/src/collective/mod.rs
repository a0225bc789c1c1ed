//! The collective machine: drives the plans of many ops over links, and commits them.
//!
//! * [`Executor`] holds every open op of a process. It is fed by links (it implements
//!   [`crate::transport::Receiver`]) and by [`Executor::start`], and moved on by
//!   [`Executor::advance`]. It never blocks, allocates nothing once warm, and reads no clock.
//! * `window::Running` is one open window of an op: which steps are done, ready, or wait.
//! * `early` keeps what peers sent before this process entered the op, within a budget that the
//!   senders know too, so no correct peer overruns it and a flood closes its link.
//! * `log` keeps the results of small ops until every member is known to have returned from them, so that
//!   their commit costs no message (PROTOCOL, Commit).
//! * `commit_group` makes many calls final at one time.
//! * `op::digest` compares results among members.
//! * `mismatch` finds ranks whose calls differ.
//! * `abort` ends calls by agreement.
//! * `generation` moves all groups over to a new view at a safe point.
//! * `recent` records the last calls, for people and for errors.
//! * `recover` stops everything when a peer is lost, and goes on by the plan of recovery.

mod abort;
mod commit_group;
mod cookie;
mod descriptor;
mod early;
mod executor;
mod generation;
mod group;
mod log;
mod mismatch;
mod op;
mod receive;
mod recent;
mod recover;
mod slots;
mod window;

pub use commit_group::CommitGroupId;
pub use descriptor::Descriptor;
pub use executor::{Effect, Executor, Limits, NewOp, OpHandle, Overdue, WaitsFor};
pub use group::{GroupIndex, NewGroup};
pub use op::{Digests, Divergence};
pub use recent::{CallState, RecentCall};

/// Links of a process by the other's number in the job; `None` for itself and for links that are gone.
pub type Links = Vec<Option<Box<dyn crate::transport::Link>>>;
