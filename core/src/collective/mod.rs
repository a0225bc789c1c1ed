//! The collective machine.
