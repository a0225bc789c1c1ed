//! Rules of the source tree that no compiler checks: which crate may depend on which, where `unsafe` may
//! stand, how long a file may be, and which facts of the documents have to agree with the manifests.
//!
//! The tests in `tests/` apply them to the tree; what is here decides, and is tested on made-up cases.

pub mod layers;
pub mod sources;

/// The Rust examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
