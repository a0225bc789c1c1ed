//! The handle of an asynchronous op.

use crate::engine::{Engine, lock};
use ronde_core::collective::OpHandle;
use ronde_core::error::{Error, Misuse, Outcome, Result};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// An operation in flight. Dropping it lets the op run on to its end; its buffers must stay valid
/// until then.
pub struct Op {
    engine: Arc<Engine>,
    handle: OpHandle,
    /// Once taken from the engine. Whoever waits holds the lock.
    result: Mutex<Option<Result<Outcome>>>,
    /// From the first call of [`Op::descriptor`] on the result comes this way.
    event: OnceLock<Arc<Event>>,
}

/// A descriptor that becomes readable when the op ends, with the result.
struct Event {
    descriptor: OwnedFd,
    result: Mutex<Option<Result<Outcome>>>,
    /// Called with the result.
    callback: Mutex<Option<Callback>>,
}

type Callback = Box<dyn FnOnce(&Result<Outcome>) + Send>;

impl Event {
    fn new() -> Result<Event> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::resource(format!("no descriptor for an op: {e}")))?;
        Ok(Event { descriptor, result: Mutex::new(None), callback: Mutex::new(None) })
    }

    fn complete(&self, result: Result<Outcome>) {
        *lock(&self.result) = Some(result);
        // A counter of 0 takes a 1 without fail.
        let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
        self.call_back();
    }

    /// Calls the callback once both it and the result are there.
    fn call_back(&self) {
        let Some(result) = lock(&self.result).clone() else { return };
        let callback = lock(&self.callback).take();
        if let Some(callback) = callback {
            callback(&result);
        }
    }
}

impl Op {
    pub(crate) fn new(engine: Arc<Engine>, handle: OpHandle) -> Op {
        Op { engine, handle, result: Mutex::new(None), event: OnceLock::new() }
    }

    /// The result if the op has ended; makes progress. `None` also while another thread waits for it.
    pub fn test(&self) -> Option<Result<Outcome>> {
        if let Some(event) = self.event.get() {
            self.engine.progress();
            return lock(&event.result).clone();
        }
        let mut kept = self.result.try_lock().ok()?;
        if kept.is_none() && self.event.get().is_none() {
            *kept = self.engine.test(self.handle);
        }
        kept.clone()
    }

    /// Waits for the end; makes progress on this thread. Bounded by the call's deadline.
    pub fn wait(&self) -> Result<Outcome> {
        if self.event.get().is_none() {
            let mut kept = lock(&self.result);
            if self.event.get().is_none() {
                return kept.get_or_insert_with(|| self.engine.wait(self.handle)).clone();
            }
        }
        self.engine.wait_until(|| self.event.get().and_then(|event| lock(&event.result).clone()))
    }

    /// Waits for the end, but not for longer than this; makes progress on this thread. `None` if it has not ended by then: it goes on.
    pub fn wait_for(&self, patience: Duration) -> Option<Result<Outcome>> {
        // What is too long to say is longer than any deadline.
        let Some(until) = Instant::now().checked_add(patience) else { return Some(self.wait()) };
        self.engine.wait_before(until, |inner| {
            if let Some(event) = self.event.get() {
                return lock(&event.result).clone();
            }
            // Another thread that waits for it leaves the result there.
            let mut kept = self.result.try_lock().ok()?;
            if kept.is_none() && self.event.get().is_none() {
                *kept = inner.take(self.handle);
            }
            kept.clone()
        })
    }

    /// Takes a receive back of which nothing has come yet: it ends with [`ronde_core::error::Aborted::Cancelled`], its buffer is the
    /// caller's again at once, and the message, if it still comes, is dropped. False, and nothing changes, for a receive that has
    /// begun or ended, and for any other call: a collective is everybody's, and ends for all by its deadline or by
    /// [`crate::Group::abort`].
    pub fn cancel(&self) -> bool {
        // Who waits for it holds the lock of the result, and is woken by its end.
        self.engine.cancel(self.handle)
    }

    /// A descriptor that poll(2) and its like find readable once the op has ended. It belongs to this
    /// handle; nothing needs to be read from it. [`Op::test`] then gives the result.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        let kept = lock(&self.result);
        if let Some(event) = self.event.get() {
            return Ok(event.descriptor.as_fd());
        }
        let event = Arc::new(Event::new()?);
        let to_tell = event.clone();
        let event = self.event.get_or_init(|| event);
        match &*kept {
            Some(result) => to_tell.complete(result.clone()),
            None => {
                self.engine
                    .on_complete(self.handle, Box::new(move |result| to_tell.complete(result.clone())));
            }
        }
        Ok(event.descriptor.as_fd())
    }

    /// Calls `f` once when the op ends (at once if it has), on whichever thread notices. Takes the op,
    /// since the callback gets its result. `f` may start ops but must not wait for any.
    pub fn on_complete(self, f: impl FnOnce(&Result<Outcome>) + Send + 'static) {
        if let Some(event) = self.event.get() {
            *lock(&event.callback) = Some(Box::new(f));
            return event.call_back();
        }
        let kept = lock(&self.result).clone();
        match kept {
            Some(result) => f(&result),
            None => {
                // The callback takes the result now, so dropping this handle must not.
                *lock(&self.result) = Some(Err(Misuse::Closed.into()));
                self.engine.on_complete(self.handle, Box::new(f));
            }
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if lock(&self.result).is_none() && self.event.get().is_none() {
            self.engine.on_complete(self.handle, Box::new(|_| ()));
        }
    }
}
