//! The group handle: what users call.
//!
//! This is the agreed interface; the engine behind it is being built.

use ronde_core::call::{Call, CallOptions};
use ronde_core::error::{Outcome, Result};
use ronde_core::memory::Pod;
use ronde_core::{DType, ReduceOp};
use std::time::Duration;

/// Rust types that are element types.
pub trait Element: Pod {
    /// Their number.
    const DTYPE: DType;
}

/// A group of peers. Cheap to clone; clones are the same group.
#[derive(Clone)]
pub struct Group {}

/// An operation in flight. Dropping it lets the op run on to its end.
pub struct Op {}

impl Op {
    /// The result if the op has ended; makes progress.
    pub fn test(&self) -> Option<Result<Outcome>> { unreachable!() }
    /// Waits for the end; makes progress on this thread.
    pub fn wait(&self) -> Result<Outcome> { unreachable!() }
    /// Calls `f` once when the op ends (at once if it has), on whichever thread notices.
    pub fn on_complete(&self, f: impl FnOnce(&Result<Outcome>) + Send + 'static) { let _ = f; }
}

/// What bytes moved how, for `ronde demo` and diagnosis.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Rank of the other side.
    pub rank: u32,
    /// `"shm"` or `"tcp"`.
    pub transport: &'static str,
    /// Host name of the other side.
    pub host: String,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
}

impl Group {
    /// This process's rank.
    pub fn rank(&self) -> u32 { unreachable!() }
    /// Number of ranks.
    pub fn size(&self) -> u32 { unreachable!() }
    /// Starts a call.
    pub fn start(&self, call: Call) -> Result<Op> { let _ = call; unreachable!() }
    /// Makes a call and waits for its end on this thread.
    pub fn run(&self, call: Call) -> Result<Outcome> { let _ = call; unreachable!() }
    /// Splits by colour; ranks follow (key, old rank). `None` joins no new group. Collective.
    pub fn split(&self, color: Option<u32>, key: i32) -> Result<Option<Group>> { let _ = (color, key); unreachable!() }
    /// Ends every op of the group on all ranks with an error that carries `reason`. Never blocks for long.
    pub fn abort(&self, reason: &str) { let _ = reason; }
    /// Leaves in order: waits until the peers need nothing more from this one.
    pub fn close(&self) -> Result<()> { unreachable!() }
    /// The links of this group.
    pub fn links(&self) -> Vec<LinkInfo> { unreachable!() }
    /// The default deadline of a call.
    pub fn timeout(&self) -> Duration { unreachable!() }
    /// The first error that ended the group, if any.
    pub fn failure(&self) -> Option<ronde_core::Error> { unreachable!() }
    /// Memory that local peers read without a copy (shared memory), zeroed; plain memory where no local peer exists.
    pub fn mem_alloc(&self, bytes: usize) -> Result<ronde_shm::SharedBuffer> { let _ = bytes; unreachable!() }

    // Typed calls. Each has a `_with(…, &CallOptions)` twin.

    /// All-reduce in place.
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<Outcome> { let _ = (data, op); unreachable!() }
    /// All-reduce out of place.
    pub fn all_reduce_into<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<Outcome> { let _ = (input, output, op); unreachable!() }
    /// Gathers every rank's `input` into `output` (size × input).
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<Outcome> { let _ = (input, output); unreachable!() }
    /// Reduces and scatters: `input` is size × `output`.
    pub fn reduce_scatter<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<Outcome> { let _ = (input, output, op); unreachable!() }
    /// Exchanges equal blocks.
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<Outcome> { let _ = (input, output); unreachable!() }
    /// Broadcast in place.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: u32) -> Result<Outcome> { let _ = (data, root); unreachable!() }
    /// Waits for all.
    pub fn barrier(&self) -> Result<Outcome> { unreachable!() }
    /// Sends to a rank.
    pub fn send<T: Element>(&self, data: &[T], to: u32, options: &CallOptions) -> Result<Outcome> { let _ = (data, to, options); unreachable!() }
    /// Receives from a rank.
    pub fn recv<T: Element>(&self, data: &mut [T], from: u32, options: &CallOptions) -> Result<Outcome> { let _ = (data, from, options); unreachable!() }
}
