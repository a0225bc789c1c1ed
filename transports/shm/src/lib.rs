//! Shared memory between processes of one machine.
//!
//! Each side of a pair owns one region (a sealed memfd that only it can write): a page of counters and a
//! ring of records. The other side maps it read-only. Nothing has a name, so nothing is left over when a
//! process is killed. The Unix socket over which the regions are exchanged stays open: it carries
//! wake-ups and the descriptors of registered memory, and its end proves the death of the peer.
//!
//! * `ring`: the counters' protocol, and nothing else.
//! * `region`: memfds, mappings, passing descriptors.
//! * `buffer`: [`SharedBuffer`], memory that peers read in place.
//! * `link`: all of it as a [`ronde_core::transport::Link`].

mod buffer;
mod link;
mod region;
mod ring;
mod socket;

pub use buffer::{Registry, SharedBuffer};
pub use link::{ShmError, ShmLink, ShmOptions};
