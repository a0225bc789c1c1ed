//! The membership machine: who belongs, and what everybody is told when somebody is lost.
//!
//! [`Coordinator`] decides; it is a pure state machine. Connections are numbers, time is an argument,
//! what it wants done is pulled out as [`Effect`]s. Members follow it (the shell in `ronde` needs no
//! machine of its own yet: it says hello, links, and obeys the first verdict).
//!
//! What is here: rendezvous to one view, activation once all links are up, orderly leave, heartbeats,
//! what follows a loss (`Prepare`, reports, `Resume` with the plan), and one verdict that ends a job, which
//! every survivor gets in the same words. Joins, arming and succession (PROTOCOL, Views) build on the same
//! messages: each carries its epoch and the coordinator's incarnation.

mod coordinator;
mod message;

pub use coordinator::{Coordinator, CoordinatorOptions, Effect, VERSION};
pub use message::{
    FromMember, Hello, MAX_MESSAGE_BYTES, MachineId, MemberInfo, MessageError, ToMember, Verdict, View,
    decode, encode,
};
