//! Groups: what they are, how they are split and left, and registered memory.

use crate::kept::Kept;
use crate::status::{InGroup, Status, contain, give, guard, guard_group, guard_in, handle, text};
use runtime::{Error, Group, LinkInfo, Misuse, Result, SharedBuffer, Tag};
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// See the header.
pub struct ronde_group {
    pub(crate) group: Group,
    /// What `ronde_mem_alloc` gave, by address.
    memory: Mutex<HashMap<usize, SharedBuffer>>,
    /// The links, as they were in this generation.
    links: Mutex<Option<(u32, Vec<LinkInfo>)>>,
    /// Also of ops that outlive this handle.
    pub(crate) kept: Arc<Kept>,
}

impl InGroup for ronde_group {
    fn group(&self) -> &Group {
        &self.group
    }
}

impl ronde_group {
    pub(crate) fn boxed(group: Group) -> *mut ronde_group {
        let (memory, links, kept) = Default::default();
        Box::into_raw(Box::new(ronde_group { group, memory, links, kept }))
    }

    /// Something about the link to a rank; the empty string where there is none.
    fn of_link(&self, rank: i32, what: impl FnOnce(&LinkInfo) -> *const c_char) -> *const c_char {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.group.generation();
        if links.as_ref().is_none_or(|(of, _)| *of != generation) {
            *links = Some(links_of_one_generation(&self.group));
        }
        let mut all = links.iter().flat_map(|(_, links)| links);
        let found = all.find(|link| u32::try_from(rank) == Ok(link.rank));
        found.map_or(c"".as_ptr(), what)
    }
}

/// Another thread may be passing a safe point.
fn links_of_one_generation(group: &Group) -> (u32, Vec<LinkInfo>) {
    loop {
        let generation = group.generation();
        let links = group.links();
        if group.generation() == generation {
            return (generation, links);
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_rank(group: *const ronde_group) -> i32 {
    // SAFETY: by the contract of this function.
    unsafe { group.as_ref() }.map_or(-1, |g| g.group.rank() as i32)
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_size(group: *const ronde_group) -> i32 {
    // SAFETY: by the contract of this function.
    unsafe { group.as_ref() }.map_or(-1, |g| g.group.size() as i32)
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_transport(group: *const ronde_group, rank: i32) -> *const c_char {
    // SAFETY: by the contract of this function.
    let Some(group) = (unsafe { group.as_ref() }) else { return c"".as_ptr() };
    let name = |link: &LinkInfo| match link.transport {
        "shm" => c"shm".as_ptr(),
        "tcp" => c"tcp".as_ptr(),
        _ => c"other".as_ptr(),
    };
    contain(c"".as_ptr(), || group.of_link(rank, name))
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_host(group: *const ronde_group, rank: i32) -> *const c_char {
    // SAFETY: by the contract of this function.
    let Some(group) = (unsafe { group.as_ref() }) else { return c"".as_ptr() };
    contain(c"".as_ptr(), || group.of_link(rank, |link| group.kept.name(&link.host)))
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; `text` is null or points to `size` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_recent_calls(
    group: *const ronde_group,
    text: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: by the contract of this function.
    let Some(group) = (unsafe { group.as_ref() }) else { return 0 };
    contain(0, || {
        let lines: String = group.group.recent_calls().iter().map(|call| format!("{call}\n")).collect();
        if !text.is_null() && size > 0 {
            let shown = lines.len().min(size - 1);
            // SAFETY: both are at least so long, and do not overlap: the lines were just made.
            unsafe {
                std::ptr::copy_nonoverlapping(lines.as_ptr(), text.cast(), shown);
                *text.add(shown) = 0;
            }
        }
        lines.len()
    })
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_failure(group: *const ronde_group) -> i32 {
    guard(|| {
        // SAFETY: by the contract of this function.
        match unsafe { handle(group, "group") }?.group.failure() {
            None => Ok(Status::Ok),
            Some(error) => Err(error),
        }
    })
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; `from` is null or a place for an int32_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_probe(
    group: *const ronde_group,
    tag: u32,
    timeout_ms: i64,
    from: *mut i32,
) -> i32 {
    let body = |group: &ronde_group| {
        let found = group.group.probe(Tag(tag), Duration::from_millis(timeout_ms.max(0) as u64))?;
        // SAFETY: by the contract of this function.
        unsafe { give(from, found.map_or(-1, |rank| rank as i32), "the place for the rank") }?;
        Ok(if found.is_some() { Status::Ok } else { Status::InProgress })
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; `part` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_split(
    group: *const ronde_group,
    color: i32,
    key: i32,
    part: *mut *mut ronde_group,
) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { give(part, std::ptr::null_mut(), "the place for the part") }?;
        let split = owner.group.split(u32::try_from(color).ok(), key)?;
        if let Some(split) = split {
            // SAFETY: by the contract of this function.
            unsafe { give(part, ronde_group::boxed(split), "the place for the part") }?;
        }
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle, `reason` null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_abort(group: *const ronde_group, reason: *const c_char) -> i32 {
    guard(|| {
        // SAFETY: by the contract of this function.
        let group = &unsafe { handle(group, "group") }?.group;
        // SAFETY: by the contract of this function.
        let reason = unsafe { text(reason, "reason") }?;
        group.abort(reason.unwrap_or("no reason given"));
        Ok(Status::Ok)
    })
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_close(group: *const ronde_group) -> i32 {
    // SAFETY: by the contract of this function.
    let Some(group) = (unsafe { group.as_ref() }) else { return Status::Ok as i32 };
    guard_group(&group.group, || group.group.close().map(|()| Status::Ok))
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_group_free(group: *mut ronde_group) {
    guard(|| {
        if !group.is_null() {
            // SAFETY: made by `boxed`, and by the contract of this function nobody else has it.
            drop(unsafe { Box::from_raw(group) });
        }
        Ok(Status::Ok)
    });
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; `place` is null or a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_mem_alloc(
    group: *const ronde_group,
    bytes: usize,
    place: *mut *mut c_void,
) -> i32 {
    let body = |owner: &ronde_group| {
        // SAFETY: by the contract of this function.
        unsafe { give(place, std::ptr::null_mut(), "the place for the memory") }?;
        let buffer = owner.group.mem_alloc(bytes)?;
        let start = buffer.as_ptr();
        owner.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(start as usize, buffer);
        // SAFETY: by the contract of this function.
        unsafe { give(place, start.cast(), "the place for the memory") }?;
        Ok(Status::Ok)
    };
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

/// See the header.
///
/// # Safety
///
/// `group` is null or a live handle; no op uses the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_mem_free(group: *const ronde_group, memory: *mut c_void) -> i32 {
    if memory.is_null() {
        return Status::Ok as i32;
    }
    let body = |owner: &ronde_group| free(owner, memory as usize).map(|()| Status::Ok);
    // SAFETY: by the contract of this function.
    unsafe { guard_in(group, "group", body) }
}

fn free(owner: &ronde_group, start: usize) -> Result<()> {
    let buffer = owner.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(&start);
    let text = "this memory did not come from ronde_mem_alloc of this group, or was freed before";
    buffer.map(drop).ok_or_else(|| Error::from(Misuse::Other(text.into())))
}
