//! The membership machine: who belongs, and what everybody is told when somebody is lost.
//!
//! [`Coordinator`] decides; it is a pure state machine. Connections are numbers, time is an argument,
//! what it wants done is pulled out as [`Effect`]s. Members follow it ([`Follower`]) and, when it is lost, look
//! for another ([`Search`]).
//!
//! What is here: rendezvous to the first view, activation once all links are up, views with newcomers and
//! without those who are gone that take effect at safe points, orderly leave, heartbeats, and what follows a loss
//! (`Prepare`, reports, `Resume` with the plan). So end calls that are late, and jobs: with one verdict, which everybody gets
//! in the same words. Succession (PROTOCOL, Views) builds on the same messages.

mod coordinator;
mod follower;
mod message;
mod search;

pub use coordinator::{
    Coordinator, CoordinatorOptions, Effect, LastCall, MemberStatus, NextStatus, PendingStatus,
    QUORUM_SILENCES, Status, Suspicion, VERSION,
};
pub use follower::Follower;
pub use message::{
    CallProgress, FromMember, Hello, LinkEnd, MAX_MESSAGE_BYTES, MachineId, MemberInfo, MessageError, Rejoin,
    ToMember, Verdict, View, decode, encode,
};
pub use search::{Absence, Search, Step};
