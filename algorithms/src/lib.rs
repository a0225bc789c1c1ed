//! Plans, the chooser and reduction kernels of Ronde.
#![deny(unsafe_code)]

mod algorithm;
mod chooser;
pub mod kernels;
mod plans;
mod topology;

pub use algorithm::{Algorithm, algorithms_for};
pub use chooser::choose;
pub use plans::{AnyPlan, Survivors, build};
pub use topology::{CostTable, Costs, Nodes, Topology, Tuning};
