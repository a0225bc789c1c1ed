//! Blocking until a link, another thread or the control thread has something.

use super::links::LinkState;
use super::{Engine, Inner, lock};
use ronde_core::error::{Error, Result};
use ronde_core::transport::Link;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is awaited of a link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    Ended,
    Reads,
    /// It also has something to write.
    Writes,
}

impl Watched {
    fn of(link: Option<&dyn Link>) -> Watched {
        match link {
            None => Watched::Ended,
            Some(link) if link.wake_source().is_some_and(|source| source.write) => Watched::Writes,
            Some(_) => Watched::Reads,
        }
    }
}

/// Ends the sleep of whoever blocks.
pub(crate) struct Waker {
    event: OwnedFd,
    /// Duplicates of every link's descriptor with the link's number: valid without the lock.
    sources: Mutex<Arc<Vec<(usize, OwnedFd)>>>,
}

impl Waker {
    pub(crate) fn new() -> Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::resource(format!("no descriptor to wait with: {e}")))?;
        Ok(Waker { event, sources: Mutex::default() })
    }

    /// Watches these links from now on.
    pub(super) fn watch(&self, links: &[LinkState]) -> Result<()> {
        let mut sources = Vec::new();
        for (link, state) in links.iter().enumerate() {
            if let Some(descriptor) = &state.descriptor {
                let duplicate = descriptor.try_clone();
                let duplicate =
                    duplicate.map_err(|e| Error::resource(format!("no descriptor to wait with: {e}")))?;
                sources.push((link, duplicate));
            }
        }
        *lock(&self.sources) = Arc::new(sources);
        self.wake();
        Ok(())
    }

    pub(crate) fn wake(&self) {
        // The only failure is a full counter, and then the sleeper wakes anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn block(&self, links: &[Watched], timeout: Duration) {
        let sources = lock(&self.sources).clone();
        let mut set: Vec<PollFd<'_>> = Vec::with_capacity(sources.len() + 1);
        set.push(PollFd::from_borrowed_fd(self.event.as_fd(), PollFlags::IN));
        // One that was added meanwhile is watched for what comes.
        let watched = |link: usize| links.get(link).copied().unwrap_or(Watched::Reads);
        for (link, descriptor) in sources.iter().filter(|(link, _)| watched(*link) != Watched::Ended) {
            let write = match watched(*link) {
                Watched::Writes => PollFlags::OUT,
                _ => PollFlags::empty(),
            };
            set.push(PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN | write));
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        // Interrupted or failed: the caller polls and comes back.
        if poll(&mut set, Some(&timeout)).is_ok_and(|n| n > 0) {
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
    }
}

impl Engine {
    /// Blocks until something may have happened, at most for `timeout`.
    pub(super) fn sleep<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        timeout: Duration,
    ) -> MutexGuard<'a, Inner> {
        if inner.sleeping {
            let waited = self.ended.wait_timeout(inner, timeout);
            return waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.links.iter_mut().flatten().all(|link| link.prepare_sleep()) {
            let mut watched = std::mem::take(&mut inner.watched);
            watched.clear();
            watched.extend(inner.links.iter().map(|link| Watched::of(link.as_deref())));
            inner.sleeping = true;
            drop(inner);
            self.waker.block(&watched, timeout);
            inner = lock(&self.inner);
            inner.sleeping = false;
            inner.watched = watched;
            self.ended.notify_all();
        }
        inner.links.iter_mut().flatten().for_each(|link| link.cancel_sleep());
        inner
    }
}
