//! Safe points: who came, who is gone, and which rank that makes of this process.

use crate::collectives::ronde_outcome;
use crate::group::ronde_group;
use crate::op::conclude;
use crate::sized::{self, Sized};
use crate::status::{Status, give, guard_in, null};
use runtime::Update;
use std::ffi::c_void;

/// See the header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ronde_change {
    pub(crate) size: usize,
    pub(crate) changed: i32,
    pub(crate) generation: u32,
    pub(crate) rank: i32,
    pub(crate) ranks: i32,
    pub(crate) joined: i32,
    pub(crate) gone: i32,
    pub(crate) gone_ranks: *const i32,
}
// SAFETY: `repr(C)`, starts with a `usize`, no padding, pointers and integers take any value.
unsafe impl Sized for ronde_change {
    const NAME: &'static str = "ronde_change";
}

impl ronde_change {
    fn of(update: &Update, owner: &ronde_group) -> ronde_change {
        ronde_change {
            size: size_of::<ronde_change>(),
            changed: i32::from(update.changed),
            generation: owner.group.generation(),
            rank: owner.group.rank() as i32,
            ranks: owner.group.size() as i32,
            joined: update.joined.len() as i32,
            gone: update.gone.len() as i32,
            gone_ranks: owner.kept.ranks(&update.gone),
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; `change` is null or a `ronde_change`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_update(group: *const ronde_group, change: *mut ronde_change) -> i32 {
    let body = |owner: &ronde_group| {
        // Before the others count on it: a change that happened cannot be refused.
        // SAFETY: by the contract of this function.
        unsafe { sized::check(change) }?;
        let update = owner.group.update()?;
        // SAFETY: by the contract of this function.
        unsafe { sized::write(change, ronde_change::of(&update, owner)) }?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_generation(group: *const ronde_group) -> u32 {
    // SAFETY: by the contract of this function.
    unsafe { group.as_ref() }.map_or(0, |g| g.group.generation())
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle, `all` null or a place for a number, `outcome` null or a `ronde_outcome`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_agree(
    group: *const ronde_group,
    flag: i32,
    all: *mut i32,
    outcome: *mut ronde_outcome,
) -> i32 {
    let body = |owner: &ronde_group| {
        // Before the others count on it.
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        // SAFETY: by the contract of this function.
        unsafe { give(all, 0, "the place for the answer") }?;
        let (agreed, what) = owner.group.agree(flag != 0)?;
        // SAFETY: by the contract of this function.
        unsafe { give(all, i32::from(agreed), "the place for the answer") }?;
        // SAFETY: by the contract of this function.
        unsafe { conclude(Ok(what), &owner.kept, outcome) }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle, `state` has `bytes` bytes (or is null where that is 0), `outcome` is null or
/// a `ronde_outcome`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_share(
    group: *const ronde_group,
    state: *mut c_void,
    bytes: usize,
    has_it: i32,
    outcome: *mut ronde_outcome,
) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { sized::check(outcome) }?;
        let state: &mut [u8] = match bytes {
            0 => &mut [],
            _ if state.is_null() => return Err(null("the state")),
            // SAFETY: by the contract of this function, and nobody else uses it meanwhile.
            _ => unsafe { std::slice::from_raw_parts_mut(state.cast(), bytes) },
        };
        let shared = owner.group.share(state, has_it != 0);
        // SAFETY: by the contract of this function.
        unsafe { conclude(shared, &owner.kept, outcome) }
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}
