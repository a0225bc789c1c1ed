//! The calls. Every one is a `ronde_call`; the named functions only fill it in.

use crate::config::{milliseconds, unknown};
use crate::group::ronde_group;
use crate::kept::Kept;
use crate::op::{conclude, ronde_op};
use crate::reduction;
use crate::sized::{self, Sized};
use crate::status::{Status, give, guard, guard_in, text};
use runtime::{
    Blocks, Call, CallOptions, Collective, DType, Group, Misuse, Outcome, Result, Segment, Tag, Tolerance,
};
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::LazyLock;
use std::time::Duration;

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_options {
    pub(crate) size: usize,
    pub(crate) timeout_ms: i64,
    pub(crate) algorithm: *const c_char,
    pub(crate) tag: u32,
    pub(crate) tolerance: i32,
    pub(crate) strict_commit: i32,
    pub(crate) reserved: i32,
}
// SAFETY: `repr(C)`, starts with a `usize`, no padding, pointers and integers take any value.
unsafe impl Sized for ronde_options {
    const NAME: &'static str = "ronde_options";
}

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_outcome {
    pub(crate) size: usize,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) algorithm: *const c_char,
    pub(crate) contributors: u32,
    pub(crate) interruptions: u32,
    pub(crate) interrupted_ns: u64,
    pub(crate) absent: *const i32,
    pub(crate) absent_count: usize,
    pub(crate) parts: *const ronde_part,
    pub(crate) part_count: usize,
    pub(crate) stable_through: u64,
    pub(crate) generation: u32,
    pub(crate) reserved: u32,
    pub(crate) weight: f64,
    pub(crate) part_size: usize,
    pub(crate) detected_ns: u64,
    pub(crate) holes: *const ronde_hole,
    pub(crate) hole_count: usize,
    pub(crate) hole_size: usize,
}

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_hole {
    pub(crate) first: usize,
    pub(crate) bytes: usize,
    pub(crate) call: usize,
}

/// See the header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ronde_part {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) absent: *const i32,
    pub(crate) absent_count: usize,
    pub(crate) contributors: u32,
    pub(crate) reserved: u32,
}
// SAFETY: the list that it points to is kept beside it, and never written.
unsafe impl Send for ronde_part {}
// SAFETY: as above.
unsafe impl Sync for ronde_part {}

// SAFETY: as above.
unsafe impl Sized for ronde_outcome {
    const NAME: &'static str = "ronde_outcome";
}

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_call {
    pub(crate) size: usize,
    pub(crate) collective: c_int,
    pub(crate) dtype: c_int,
    pub(crate) reduction: u64,
    pub(crate) count: usize,
    pub(crate) send: *const c_void,
    pub(crate) recv: *mut c_void,
    pub(crate) send_counts: *const usize,
    pub(crate) send_offsets: *const usize,
    pub(crate) recv_counts: *const usize,
    pub(crate) recv_offsets: *const usize,
    pub(crate) options: *const ronde_options,
    pub(crate) peer: i32,
    pub(crate) reserved: i32,
}
// SAFETY: as above.
unsafe impl Sized for ronde_call {
    const NAME: &'static str = "ronde_call";
}

impl ronde_call {
    fn new(collective: Collective) -> ronde_call {
        use std::ptr::{null, null_mut};
        ronde_call {
            size: size_of::<ronde_call>(),
            collective: collective as c_int,
            dtype: 0,
            reduction: 0,
            count: 0,
            send: null(),
            recv: null_mut(),
            send_counts: null(),
            send_offsets: null(),
            recv_counts: null(),
            recv_offsets: null(),
            options: null(),
            peer: 0,
            reserved: 0,
        }
    }
}

impl ronde_outcome {
    pub(crate) fn of(outcome: &Outcome, kept: &Kept) -> ronde_outcome {
        ronde_outcome {
            size: size_of::<ronde_outcome>(),
            epoch: outcome.epoch.0,
            seq: outcome.seq.0,
            bytes_sent: outcome.bytes_sent,
            bytes_received: outcome.bytes_received,
            algorithm: algorithm_name(outcome.algorithm),
            contributors: outcome.contributors,
            interruptions: outcome.interruptions,
            interrupted_ns: nanoseconds(outcome.interrupted_for),
            absent: kept.ranks(&outcome.absent),
            absent_count: outcome.absent.len(),
            parts: kept.parts(&outcome.parts),
            part_count: outcome.parts.len(),
            stable_through: outcome.stable_through.0,
            generation: outcome.generation.0,
            reserved: 0,
            weight: outcome.weight.unwrap_or(f64::NAN),
            part_size: size_of::<ronde_part>(),
            detected_ns: nanoseconds(outcome.interrupted_after),
            holes: kept.holes(&outcome.holes),
            hole_count: outcome.holes.len(),
            hole_size: size_of::<ronde_hole>(),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The name of an algorithm as C wants it.
fn algorithm_name(name: &'static str) -> *const c_char {
    // All of them, each ended by a zero; made once.
    static NAMES: LazyLock<Vec<CString>> =
        LazyLock::new(|| runtime::algorithm_names().filter_map(|name| CString::new(name).ok()).collect());
    let found = NAMES.iter().find(|known| known.to_bytes() == name.as_bytes());
    found.map_or(c"none".as_ptr(), |known| known.as_ptr())
}

/// # Safety
///
/// `place` is null or a `ronde_options` whose string is alive.
pub(crate) unsafe fn options(place: *const ronde_options) -> Result<CallOptions> {
    // SAFETY: by the contract of this function.
    let Some(given) = (unsafe { sized::read_optional(place) })? else { return Ok(CallOptions::default()) };
    // SAFETY: by the contract of this function.
    let algorithm = unsafe { text(given.algorithm, "algorithm") }?;
    Ok(CallOptions {
        timeout: milliseconds(given.timeout_ms, "timeout_ms")?,
        tag: Tag(given.tag),
        tolerance: match given.tolerance {
            0 => Tolerance::Recover,
            1 => Tolerance::None,
            2 => Tolerance::PerWindow,
            other => return Err(unknown("tolerance", other.into())),
        },
        algorithm: algorithm.map(runtime::algorithm_name).transpose()?,
        strict_commit: given.strict_commit != 0,
    })
}

/// Counts and offsets of `ranks` blocks; without offsets they follow each other.
///
/// # Safety
///
/// The arrays are null or have `ranks` entries.
unsafe fn blocks(counts: *const usize, offsets: *const usize, ranks: usize) -> Blocks {
    if counts.is_null() {
        return Blocks::default();
    }
    // SAFETY: by the contract of this function.
    let counts = unsafe { std::slice::from_raw_parts(counts, ranks) };
    if offsets.is_null() {
        return Blocks::dense(counts);
    }
    // SAFETY: by the contract of this function.
    let offsets = unsafe { std::slice::from_raw_parts(offsets, ranks) };
    Blocks { counts: counts.to_vec(), offsets: offsets.to_vec() }
}

/// Counts and offsets of the blocks that are sent and received, as far as the call uses them: the pointers of others may be
/// anything.
///
/// # Safety
///
/// The arrays that the call uses are null or as the header says.
unsafe fn all_blocks(
    raw: &ronde_call,
    collective: Collective,
    at_root: bool,
    ranks: usize,
) -> (Blocks, Blocks) {
    use Collective::*;
    let sends = matches!(collective, AllToAllV | ReduceScatterV) || collective == ScatterV && at_root;
    let receives = matches!(collective, AllToAllV | AllGatherV) || collective == GatherV && at_root;
    // SAFETY: by the contract of this function.
    let of = |counts, offsets| unsafe { blocks(counts, offsets, ranks) };
    (
        if sends { of(raw.send_counts, raw.send_offsets) } else { Blocks::default() },
        if receives { of(raw.recv_counts, raw.recv_offsets) } else { Blocks::default() },
    )
}

/// The root or the other rank of a call that has one.
fn peer(raw: &ronde_call, collective: Collective) -> Result<u32> {
    if !collective.has_root() && !collective.is_point_to_point() {
        return Ok(0);
    }
    u32::try_from(raw.peer)
        .map_err(|_| Misuse::Other(format!("the root or other rank is {}", raw.peer).into()).into())
}

/// The call, without what it does not use.
///
/// # Safety
///
/// The pointers of `raw` that the call uses are null or as the header says.
pub(crate) unsafe fn call(group: &Group, raw: &ronde_call) -> Result<Call> {
    let number = raw.collective;
    let collective = u8::try_from(number).ok().and_then(Collective::from_number);
    let collective = collective.ok_or_else(|| unknown("collective", number.into()))?;
    let ranks = group.size() as usize;
    let reduces = collective.reduces();
    let dtype = match collective {
        Collective::Barrier => DType::U8,
        _ => reduction::dtype(raw.dtype)?,
    };
    let peer = peer(raw, collective)?;
    let mut call = Call {
        collective,
        dtype,
        count: raw.count,
        reduction: reduces.then(|| reduction::find(raw.reduction, dtype)).transpose()?,
        peer,
        // SAFETY: by the contract of this function.
        options: unsafe { options(raw.options) }?,
        ..Call::EMPTY
    };
    if collective.is_uneven() {
        let rank = group.rank();
        // SAFETY: by the contract of this function.
        (call.send, call.recv) = unsafe { all_blocks(raw, collective, peer == rank, ranks) };
        own_count(&mut call, rank)?;
    }
    let (input, output) = group.buffer_bytes(&call)?;
    for (bytes, pointer, what) in
        [(input, raw.send, "the send buffer"), (output, raw.recv, "the receive buffer")]
    {
        if bytes > 0 && pointer.is_null() {
            return Err(Misuse::NullPointer { what }.into());
        }
    }
    // SAFETY: the caller vouches for as many bytes as the call says, until it has ended.
    call.input = unsafe { Segment::from_raw(raw.send.cast_mut().cast(), input) };
    // SAFETY: as above.
    call.output = unsafe { Segment::from_raw(raw.recv.cast(), output) };
    Ok(call)
}

/// Some calls give the size of one's own block twice.
fn own_count(call: &mut Call, rank: u32) -> Result<()> {
    use Collective::*;
    let at_root = call.peer == rank;
    let blocks = match call.collective {
        AllGatherV => &call.recv,
        ReduceScatterV => &call.send,
        GatherV if at_root => &call.recv,
        ScatterV if at_root => &call.send,
        _ => return Ok(()),
    };
    // Without counts the check of the call says what is missing.
    let Some(&own) = blocks.counts.get(rank as usize) else { return Ok(()) };
    if matches!(call.collective, GatherV | ScatterV) && call.count != own {
        let text = format!("the root's own block has {own} elements in counts, {} in the call", call.count);
        return Err(Misuse::Other(text.into()).into());
    }
    call.count = own;
    Ok(())
}

/// # Safety
///
/// As [`call`]; `outcome` is null or a `ronde_outcome`.
unsafe fn run(group: *const ronde_group, raw: &ronde_call, outcome: *mut ronde_outcome) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        // SAFETY: by the contract of this function.
        let result = owner.group.run(unsafe { call(&owner.group, raw) }?);
        // SAFETY: by the contract of this function.
        unsafe { conclude(result, &owner.kept, outcome) }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// # Safety
///
/// As [`call`]; `op` is null or a place for a pointer.
unsafe fn start(group: *const ronde_group, raw: &ronde_call, op: *mut *mut ronde_op) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { give(op, std::ptr::null_mut(), "the place for the op") }?;
        // SAFETY: by the contract of this function.
        let started = owner.group.start(unsafe { call(&owner.group, raw) }?)?;
        let started = ronde_op::boxed(started, &owner.kept, &owner.group);
        // SAFETY: by the contract of this function.
        unsafe { give(op, started, "the place for the op") }?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_start(
    group: *const ronde_group,
    place: *const ronde_call,
    op: *mut *mut ronde_op,
) -> i32 {
    // SAFETY: by the contract of this function.
    match unsafe { sized::read(place) } {
        // SAFETY: by the contract of this function.
        Ok(raw) => unsafe { start(group, &raw, op) },
        Err(error) => guard(|| Err(error)),
    }
}

/// See the header.
///
/// # Safety
///
/// As the header says: `calls` has `count` structs of the size that the first one states, and so has `outcomes` unless it is
/// null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_run(
    group: *const ronde_group,
    calls: *const ronde_call,
    count: usize,
    outcomes: *mut ronde_outcome,
) -> i32 {
    let body = |owner: &ronde_group| {
        if count == 0 {
            return Ok(Status::Ok);
        }
        // SAFETY: by the contract of this function.
        let raw = unsafe { sized::entries(calls, count) }?;
        let places = match outcomes.is_null() {
            true => Vec::new(),
            // SAFETY: by the contract of this function.
            false => unsafe { sized::entries(outcomes.cast_const(), count) }?,
        };
        // SAFETY: by the contract of this function.
        let one = |place: &*const ronde_call| unsafe { call(&owner.group, &sized::read(*place)?) };
        let ended = owner.group.run_all(raw.iter().map(one).collect::<Result<Vec<Call>>>()?)?;
        for (place, outcome) in places.into_iter().zip(ended) {
            // SAFETY: by the contract of this function.
            unsafe { conclude(Ok(outcome), &owner.kept, place.cast_mut()) }?;
        }
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// Two functions for one collective: one that waits, one that starts.
macro_rules! collective {
    ($name:ident, $start:ident, $collective:ident, ($($argument:ident: $type:ty => $field:ident),*)) => {
        /// See the header.
        ///
        /// # Safety
        ///
        /// As the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            group: *const ronde_group,
            $($argument: $type,)*
            options: *const ronde_options,
            outcome: *mut ronde_outcome,
        ) -> i32 {
            let raw = ronde_call { $($field: $argument,)* options, ..ronde_call::new(Collective::$collective) };
            // SAFETY: by the contract of this function.
            unsafe { run(group, &raw, outcome) }
        }

        /// See the header.
        ///
        /// # Safety
        ///
        /// As the header says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $start(
            group: *const ronde_group,
            $($argument: $type,)*
            options: *const ronde_options,
            op: *mut *mut ronde_op,
        ) -> i32 {
            let raw = ronde_call { $($field: $argument,)* options, ..ronde_call::new(Collective::$collective) };
            // SAFETY: by the contract of this function.
            unsafe { start(group, &raw, op) }
        }
    };
}

type In = *const c_void;
type Out = *mut c_void;
type Sizes = *const usize;

collective!(ronde_all_reduce, ronde_all_reduce_start, AllReduce,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype, reduction: u64 => reduction));
collective!(ronde_reduce, ronde_reduce_start, Reduce,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype, reduction: u64 => reduction,
     root: i32 => peer));
collective!(ronde_reduce_scatter, ronde_reduce_scatter_start, ReduceScatter,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype, reduction: u64 => reduction));
collective!(ronde_reduce_scatter_v, ronde_reduce_scatter_v_start, ReduceScatterV,
    (from: In => send, counts: Sizes => send_counts, offsets: Sizes => send_offsets, to: Out => recv,
     dtype: c_int => dtype, reduction: u64 => reduction));
collective!(ronde_all_gather, ronde_all_gather_start, AllGather,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype));
collective!(ronde_all_gather_v, ronde_all_gather_v_start, AllGatherV,
    (from: In => send, to: Out => recv, counts: Sizes => recv_counts, offsets: Sizes => recv_offsets,
     dtype: c_int => dtype));
collective!(ronde_all_to_all, ronde_all_to_all_start, AllToAll,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype));
collective!(ronde_all_to_all_v, ronde_all_to_all_v_start, AllToAllV,
    (from: In => send, send_counts: Sizes => send_counts, send_offsets: Sizes => send_offsets,
     to: Out => recv, recv_counts: Sizes => recv_counts, recv_offsets: Sizes => recv_offsets,
     dtype: c_int => dtype));
collective!(ronde_gather, ronde_gather_start, Gather,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype, root: i32 => peer));
collective!(ronde_gather_v, ronde_gather_v_start, GatherV,
    (from: In => send, count: usize => count, to: Out => recv, counts: Sizes => recv_counts,
     offsets: Sizes => recv_offsets, dtype: c_int => dtype, root: i32 => peer));
collective!(ronde_scatter, ronde_scatter_start, Scatter,
    (from: In => send, to: Out => recv, count: usize => count, dtype: c_int => dtype, root: i32 => peer));
collective!(ronde_scatter_v, ronde_scatter_v_start, ScatterV,
    (from: In => send, counts: Sizes => send_counts, offsets: Sizes => send_offsets, to: Out => recv,
     count: usize => count, dtype: c_int => dtype, root: i32 => peer));
collective!(ronde_send, ronde_send_start, Send,
    (from: In => send, count: usize => count, dtype: c_int => dtype, rank: i32 => peer));
collective!(ronde_recv, ronde_recv_start, Recv,
    (to: Out => recv, count: usize => count, dtype: c_int => dtype, rank: i32 => peer));
collective!(ronde_barrier, ronde_barrier_start, Barrier, ());

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_broadcast(
    group: *const ronde_group,
    data: *mut c_void,
    count: usize,
    dtype: c_int,
    root: i32,
    options: *const ronde_options,
    outcome: *mut ronde_outcome,
) -> i32 {
    // SAFETY: by the contract of this function.
    unsafe { run(group, &broadcast(data, count, dtype, root, options), outcome) }
}

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_broadcast_start(
    group: *const ronde_group,
    data: *mut c_void,
    count: usize,
    dtype: c_int,
    root: i32,
    options: *const ronde_options,
    op: *mut *mut ronde_op,
) -> i32 {
    // SAFETY: by the contract of this function.
    unsafe { start(group, &broadcast(data, count, dtype, root, options), op) }
}

fn broadcast(
    data: *mut c_void,
    count: usize,
    dtype: c_int,
    root: i32,
    options: *const ronde_options,
) -> ronde_call {
    ronde_call {
        send: data,
        recv: data,
        count,
        dtype,
        peer: root,
        options,
        ..ronde_call::new(Collective::Broadcast)
    }
}
