//! Status codes, the text of the last error, and the wall that stops panics.

use runtime::{Aborted, Error, Group, Misuse};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `ronde_status` of the header. The numbers are stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(crate) enum Status {
    Ok = 0,
    InProgress = 1,
    InvalidArgument = 2,
    PeerLost = 3,
    Timeout = 4,
    Mismatch = 5,
    Aborted = 6,
    Expelled = 7,
    Resource = 8,
    JoinFailed = 9,
    Closed = 10,
    Internal = 11,
    Diverged = 12,
    Cancelled = 13,
}

impl Status {
    pub(crate) const ALL: [(Status, &CStr); 14] = [
        (Status::Ok, c"ok"),
        (Status::InProgress, c"in progress"),
        (Status::InvalidArgument, c"invalid argument"),
        (Status::PeerLost, c"peer lost"),
        (Status::Timeout, c"timeout"),
        (Status::Mismatch, c"mismatched calls"),
        (Status::Aborted, c"aborted"),
        (Status::Expelled, c"expelled"),
        (Status::Resource, c"local resource"),
        (Status::JoinFailed, c"cannot join"),
        (Status::Closed, c"closed"),
        (Status::Internal, c"internal error"),
        (Status::Diverged, c"results differ"),
        (Status::Cancelled, c"cancelled"),
    ];

    pub(crate) fn of(error: &Error) -> Status {
        match error {
            Error::Misuse(Misuse::Closed) => Status::Closed,
            Error::Misuse(_) => Status::InvalidArgument,
            Error::PeerLost(_) => Status::PeerLost,
            Error::Aborted(aborted) => match **aborted {
                Aborted::Mismatch { .. } => Status::Mismatch,
                Aborted::Timeout { .. } => Status::Timeout,
                Aborted::Diverged { .. } => Status::Diverged,
                Aborted::Cancelled => Status::Cancelled,
                _ => Status::Aborted,
            },
            Error::Expelled { .. } => Status::Expelled,
            Error::Resource(_) => Status::Resource,
            Error::Join(_) => Status::JoinFailed,
            _ => Status::Internal,
        }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Keeps the text for `ronde_last_error` on this thread.
fn remember(text: String) {
    // An inner zero byte would end it early for C anyway.
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending has nobody left to ask.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = Some(text));
}

/// The status of an error, whose text is kept.
pub(crate) fn fail(error: &Error) -> Status {
    remember(error.to_string());
    Status::of(error)
}

/// Runs `body`; neither an error nor a panic leaves it other than as a status.
pub(crate) fn guard(body: impl FnOnce() -> Result<Status, Error>) -> i32 {
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => fail(&error),
        Err(panic) => fail(&Error::internal(panic_text(&*panic))),
    };
    status as i32
}

/// As [`guard`], for calls on a group: a panic may have left it between two states, so it ends.
pub(crate) fn guard_group(group: &Group, body: impl FnOnce() -> Result<Status, Error>) -> i32 {
    guard(|| contain_in(group, body))
}

/// What `body` gives; after a panic the group ends, and this is its error.
pub(crate) fn contain_in<T>(group: &Group, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        group.abort(&text);
        Err(Error::internal(text))
    })
}

/// A handle behind which there is a group.
pub(crate) trait InGroup {
    /// The group that ends when a call on the handle panics.
    fn group(&self) -> &Group;
}

/// As [`guard_group`], for a handle that may be null.
///
/// # Safety
///
/// As [`handle`], also for as long as `body` runs.
pub(crate) unsafe fn guard_in<'a, T: InGroup + 'a>(
    place: *const T,
    what: &'static str,
    body: impl FnOnce(&'a T) -> Result<Status, Error>,
) -> i32 {
    // SAFETY: by the contract of this function.
    match unsafe { handle(place, what) } {
        Ok(owner) => guard_group(owner.group(), || body(owner)),
        Err(error) => guard(|| Err(error)),
    }
}

/// For functions that have no status to give: what they give instead after a panic.
pub(crate) fn contain<T>(instead: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(instead)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic was contained: {}", text.unwrap_or("without a message"))
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ronde_last_error() -> *const c_char {
    let kept = LAST_ERROR.try_with(|last| last.borrow().as_ref().map(|text| text.as_ptr()));
    kept.ok().flatten().unwrap_or(c"".as_ptr())
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ronde_status_name(status: i32) -> *const c_char {
    let found = Status::ALL.iter().find(|(known, _)| *known as i32 == status);
    found.map_or(c"unknown status", |(_, name)| name).as_ptr()
}

/// The text of a C string that may be null.
///
/// # Safety
///
/// `text` is null or a zero-terminated string that stays unchanged while the result is used.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &'static str) -> Result<Option<&'a str>, Error> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by the contract of this function.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Misuse::Other(format!("{what} is not UTF-8").into()).into())
}

/// The error for a pointer that must not be null.
pub(crate) fn null(what: &str) -> Error {
    Misuse::Other(format!("{what} is null").into()).into()
}

/// The object behind a handle that may be null.
///
/// # Safety
///
/// `handle` is null or came from this library and was not freed.
pub(crate) unsafe fn handle<'a, T>(handle: *const T, what: &'static str) -> Result<&'a T, Error> {
    // SAFETY: by the contract of this function.
    unsafe { handle.as_ref() }.ok_or_else(|| null(what))
}

/// Where to write a result.
///
/// # Safety
///
/// `place` is null or valid for a write of `T`.
pub(crate) unsafe fn give<T>(place: *mut T, value: T, what: &'static str) -> Result<(), Error> {
    if place.is_null() {
        return Err(null(what));
    }
    // SAFETY: by the contract of this function; C may have put it anywhere.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the library's own string, read at once.
        unsafe { CStr::from_ptr(ronde_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn panics_become_errors_of_this_thread() {
        let status = guard(|| panic!("on {}", "purpose"));
        assert_eq!(status, Status::Internal as i32);
        assert!(last_error().contains("on purpose"), "{}", last_error());
        std::thread::spawn(|| assert_eq!(last_error(), "")).join().unwrap();
        assert_eq!((contain(1, || 2), contain(1, || panic!("on purpose"))), (2, 1));
    }

    struct Handle(Group);

    impl InGroup for Handle {
        fn group(&self) -> &Group {
            &self.0
        }
    }

    #[test]
    fn a_panic_in_a_call_on_a_handle_ends_its_group() {
        let handle = Handle(runtime::Config::new().join().unwrap());
        // SAFETY: null is allowed.
        let status = unsafe { guard_in::<Handle>(std::ptr::null(), "op", |_| unreachable!()) };
        assert_eq!((status, &*last_error()), (Status::InvalidArgument as i32, "misuse: op is null"));
        // SAFETY: a reference that lives.
        let call =
            |body: fn(&Handle) -> Result<Status, Error>| unsafe { guard_in(&raw const handle, "op", body) };
        assert_eq!(call(|_| Ok(Status::Ok)), Status::Ok as i32);
        assert!(handle.0.failure().is_none());
        assert_eq!(call(|_| panic!("on purpose")), Status::Internal as i32);
        // Others hear of it, too, through the coordinator.
        let start = std::time::Instant::now();
        while handle.0.failure().is_none() {
            assert!(start.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
        assert_eq!(call(|handle| handle.0.barrier().map(|_| Status::Ok)), Status::Aborted as i32);
        assert!(last_error().contains("a panic was contained: on purpose"), "{}", last_error());
        let text: Result<(), Error> = contain_in(&handle.0, || panic!("once more"));
        assert!(text.unwrap_err().to_string().contains("once more"));
    }

    #[test]
    fn texts_survive_zero_bytes() {
        assert_eq!(guard(|| Err(Error::resource("a\0b"))), Status::Resource as i32);
        assert_eq!(last_error(), "local resource: a b");
    }

    #[test]
    fn numbers_are_dense_and_named() {
        for (at, (status, _)) in Status::ALL.iter().enumerate() {
            assert_eq!(*status as usize, at);
        }
        // SAFETY: static strings.
        let name = |n| unsafe { CStr::from_ptr(ronde_status_name(n)) };
        assert_eq!((name(3), name(-1), name(99)), (c"peer lost", c"unknown status", c"unknown status"));
    }
}
