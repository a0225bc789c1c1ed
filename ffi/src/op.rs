//! Asynchronous ops: tested, waited for, given a callback, or polled as a descriptor.

use crate::collectives::ronde_outcome;
use crate::kept::Kept;
use crate::sized;
use crate::status::{InGroup, Status, contain_in, give, guard, guard_in, handle, null};
use runtime::{Group, Op, Outcome, Result};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// See the header.
pub struct ronde_op {
    op: Op,
    /// What outcomes point to.
    kept: Arc<Kept>,
    /// A group that is freed early must not take its ops with it.
    group: Group,
}

impl InGroup for ronde_op {
    fn group(&self) -> &Group {
        &self.group
    }
}

type Callback = unsafe extern "C" fn(*mut c_void, i32, *const ronde_outcome, *const c_char);

/// A callback with its context, on its way to the thread that notices the end.
struct ToCall {
    callback: Callback,
    context: *mut c_void,
}

// SAFETY: the header says that callbacks run on any thread.
unsafe impl Send for ToCall {}

impl ToCall {
    fn call(self, result: &Result<Outcome>, kept: &Kept) {
        match result {
            Ok(outcome) => {
                let outcome = ronde_outcome::of(outcome, kept);
                // SAFETY: the caller's function, with arguments as the header promises.
                unsafe { (self.callback)(self.context, Status::Ok as i32, &outcome, c"".as_ptr()) }
            }
            Err(error) => {
                let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
                let status = Status::of(error) as i32;
                // SAFETY: as above.
                unsafe { (self.callback)(self.context, status, std::ptr::null(), text.as_ptr()) }
            }
        }
    }
}

impl ronde_op {
    pub(crate) fn boxed(op: Op, kept: &Arc<Kept>, group: &Group) -> *mut ronde_op {
        Box::into_raw(Box::new(ronde_op { op, kept: kept.clone(), group: group.clone() }))
    }
}

/// Writes what a call came to.
///
/// # Safety
///
/// `place` is null or a `ronde_outcome` that nobody else uses.
pub(crate) unsafe fn conclude(
    result: Result<Outcome>,
    kept: &Kept,
    place: *mut ronde_outcome,
) -> Result<Status> {
    let outcome = result?;
    if !place.is_null() {
        // SAFETY: by the contract of this function.
        unsafe { sized::write(place, ronde_outcome::of(&outcome, kept)) }?;
    }
    Ok(Status::Ok)
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle; `outcome` is null or a `ronde_outcome`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_test(op: *const ronde_op, outcome: *mut ronde_outcome) -> i32 {
    let body = |op: &ronde_op| {
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        match op.op.test() {
            None => Ok(Status::InProgress),
            // SAFETY: by the contract of this function.
            Some(result) => unsafe { conclude(result, &op.kept, outcome) },
        }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(op, "op", body) }
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_cancel(op: *const ronde_op) -> i32 {
    let body = |op: &ronde_op| Ok(if op.op.cancel() { Status::Ok } else { Status::InProgress });
    // SAFETY: by the contract of this function.
    unsafe { guard_in(op, "op", body) }
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle; `outcome` is null or a `ronde_outcome`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_wait(op: *const ronde_op, outcome: *mut ronde_outcome) -> i32 {
    let body = |op: &ronde_op| {
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        // SAFETY: by the contract of this function.
        unsafe { conclude(op.op.wait(), &op.kept, outcome) }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(op, "op", body) }
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle; `outcome` is null or a `ronde_outcome`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_wait_for(
    op: *const ronde_op,
    timeout_ms: i64,
    outcome: *mut ronde_outcome,
) -> i32 {
    let body = |op: &ronde_op| {
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        match op.op.wait_for(Duration::from_millis(timeout_ms.max(0) as u64)) {
            None => Ok(Status::InProgress),
            // SAFETY: by the contract of this function.
            Some(result) => unsafe { conclude(result, &op.kept, outcome) },
        }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(op, "op", body) }
}

/// See the header.
///
/// # Safety
///
/// `ops` is null or has `count` handles, each null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_wait_all(ops: *const *const ronde_op, count: usize) -> i32 {
    guard(|| {
        if count == 0 {
            return Ok(Status::Ok);
        }
        // SAFETY: not dereferenced unless it is the array that the caller promises.
        unsafe { handle(ops, "ops") }?;
        // SAFETY: by the contract of this function.
        let ops = unsafe { std::slice::from_raw_parts(ops, count) };
        let mut first = Ok(Status::Ok);
        for &op in ops.iter().filter(|op| !op.is_null()) {
            // SAFETY: by the contract of this function.
            let op = unsafe { handle(op, "op") }?;
            let ended = contain_in(&op.group, || op.op.wait());
            first = first.and_then(|_| ended.map(|_| Status::Ok));
        }
        first
    })
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle; `descriptor` is null or a place for an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_descriptor(op: *const ronde_op, descriptor: *mut c_int) -> i32 {
    let body = |op: &ronde_op| {
        let number = op.op.descriptor()?.as_raw_fd();
        // SAFETY: by the contract of this function.
        unsafe { give(descriptor, number, "the place for the descriptor") }?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(op, "op", body) }
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle, which this call frees; `callback` keeps to the header's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_on_complete(
    op: *mut ronde_op,
    callback: Option<Callback>,
    context: *mut c_void,
) -> i32 {
    guard(|| {
        // SAFETY: by the contract of this function.
        unsafe { handle(op.cast_const(), "op") }?;
        let callback = callback.ok_or_else(|| null("callback"))?;
        // SAFETY: made by `boxed`, and by the contract of this function nobody else has it.
        let ronde_op { op, kept, group } = *unsafe { Box::from_raw(op) };
        let (to_call, until_ended) = (ToCall { callback, context }, group.clone());
        contain_in(&group, || {
            op.on_complete(move |result| {
                // The group lives until its last op has ended.
                let _group = until_ended;
                to_call.call(result, &kept);
            });
            Ok(Status::Ok)
        })
    })
}

/// See the header.
///
/// # Safety
///
/// `op` is null or a live handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_op_free(op: *mut ronde_op) {
    guard(|| {
        if !op.is_null() {
            // SAFETY: made by `boxed`, and by the contract of this function nobody else has it.
            drop(unsafe { Box::from_raw(op) });
        }
        Ok(Status::Ok)
    });
}
