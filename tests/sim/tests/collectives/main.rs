//! Every collective on the production executor over links that misbehave, against an oracle.
//!
//! Elements are random 64-bit numbers added modulo 2^64, so a contribution that is lost, doubled or
//! put in the wrong place shows in the sum.

mod case;
mod churn;
mod in_flight;
mod losses;
mod partitions;
mod plans;
mod random_op;
mod recovery;
mod scale;
mod sub_groups;
