//! Commit groups: calls that start at once and become final together.

use crate::collectives::{call, options, ronde_call, ronde_options, ronde_outcome};
use crate::group::ronde_group;
use crate::kept::Kept;
use crate::op::{conclude, ronde_op};
use crate::sized;
use crate::status::{InGroup, Status, give, guard, guard_group, guard_in, handle};
use runtime::{CallOptions, CommitGroup, CommitOptions, Group, Misuse, Result, Tolerance};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

/// See the header.
pub struct ronde_commit {
    /// Threads that start calls at once take turns.
    commit: Mutex<CommitGroup>,
    group: Group,
    kept: Arc<Kept>,
}

impl InGroup for ronde_commit {
    fn group(&self) -> &Group {
        &self.group
    }
}

/// # Safety
///
/// As [`options`].
unsafe fn commit_options(place: *const ronde_options, most_kept: usize) -> Result<CommitOptions> {
    // SAFETY: by the contract of this function.
    // A commit group always commits strictly.
    let CallOptions { timeout, tag, tolerance, algorithm, strict_commit: _ } = unsafe { options(place) }?;
    if tolerance != Tolerance::Recover || algorithm.is_some() {
        let text =
            "a commit has a tag and a timeout: its calls name their algorithms, all with RONDE_RECOVER";
        return Err(Misuse::Other(text.into()).into());
    }
    let most_kept = if most_kept == 0 { CommitOptions::default().most_kept } else { most_kept };
    Ok(CommitOptions { tag, timeout, most_kept })
}

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_commit_begin(
    group: *const ronde_group,
    options: *const ronde_options,
    most_kept: usize,
    commit: *mut *mut ronde_commit,
) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { give(commit, null_mut(), "the place for the commit") }?;
        // SAFETY: by the contract of this function.
        let opened = owner.group.commit_group(unsafe { commit_options(options, most_kept) }?)?;
        let (group, kept) = (owner.group.clone(), owner.kept.clone());
        let opened = Box::new(ronde_commit { commit: Mutex::new(opened), group, kept });
        // SAFETY: by the contract of this function.
        unsafe { give(commit, Box::into_raw(opened), "the place for the commit") }?;
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
pub unsafe extern "C" fn ronde_commit_start(commit: *const ronde_commit, place: *const ronde_call) -> i32 {
    let body = |owner: &ronde_commit| {
        // SAFETY: by the contract of this function.
        let call = unsafe { call(&owner.group, &sized::read(place)?) }?;
        owner.commit.lock().unwrap_or_else(PoisonError::into_inner).start(call)?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(commit, "commit", body) }
}

/// Frees the handle, and gives `body` what was behind it. What `body` drops unsealed is sealed by that.
///
/// # Safety
///
/// `commit` is null or a live handle that nobody else uses any more.
unsafe fn ending(
    commit: *mut ronde_commit,
    body: impl FnOnce(CommitGroup, &Group, &Arc<Kept>) -> Result<Status>,
) -> i32 {
    // SAFETY: by the contract of this function.
    if let Err(error) = unsafe { handle(commit.cast_const(), "commit") } {
        return guard(|| Err(error));
    }
    // SAFETY: made by `ronde_commit_begin`, and by the contract of this function nobody else has it.
    let ronde_commit { commit, group, kept } = *unsafe { Box::from_raw(commit) };
    guard_group(&group, || body(commit.into_inner().unwrap_or_else(PoisonError::into_inner), &group, &kept))
}

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_commit_seal(commit: *mut ronde_commit, op: *mut *mut ronde_op) -> i32 {
    let body = |commit: CommitGroup, group: &Group, kept: &Arc<Kept>| {
        // SAFETY: by the contract of this function.
        if let Err(misuse) = unsafe { give(op, null_mut(), "the place for the op") } {
            // After an error no call may use its buffers.
            let _ = commit.commit()?;
            return Err(misuse);
        }
        let sealed = ronde_op::boxed(commit.seal()?, kept, group);
        // SAFETY: by the contract of this function.
        unsafe { give(op, sealed, "the place for the op") }?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { ending(commit, body) }
}

/// See the header.
///
/// # Safety
///
/// As the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_commit_wait(commit: *mut ronde_commit, outcome: *mut ronde_outcome) -> i32 {
    let body = |commit: CommitGroup, _: &Group, kept: &Arc<Kept>| {
        // Also where the outcome cannot be written: the buffers are the caller's again when this returns.
        let ended = commit.commit();
        // SAFETY: by the contract of this function.
        unsafe { conclude(ended, kept, outcome) }
    };
    // SAFETY: by the contract of this function.
    unsafe { ending(commit, body) }
}
