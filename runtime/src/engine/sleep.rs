//! Blocking until a link, another thread or the control thread has something.

use super::links::LinkState;
use super::{Engine, Inner, lock};
use ronde_core::error::{Error, Result};
use ronde_core::transport::Link;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
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

    fn flags(self) -> EventFlags {
        match self {
            Watched::Ended => EventFlags::empty(),
            Watched::Reads => EventFlags::IN,
            Watched::Writes => EventFlags::IN | EventFlags::OUT,
        }
    }
}

/// How often links are polled that the kernel does not watch.
const UNWATCHED: Duration = Duration::from_millis(1);

fn no_descriptor(error: &io::Error) -> Error {
    Error::resource(format!("no descriptor to wait with: {error}"))
}

/// Ends the sleep of whoever blocks.
pub(crate) struct Waker {
    event: OwnedFd,
    sources: Mutex<Arc<Sources>>,
}

/// The links as the kernel watches them: it need not be told of thousands of them for each sleep.
struct Sources {
    epoll: OwnedFd,
    /// Each link's number and a duplicate of its descriptor, which is valid without the lock of the links.
    links: Vec<(usize, OwnedFd)>,
    /// What the kernel watches each of them for.
    awaited: Mutex<Vec<Watched>>,
}

impl Sources {
    fn new(event: &OwnedFd, links: &[LinkState]) -> io::Result<Sources> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, event, epoll::EventData::new_u64(0), EventFlags::IN)?;
        let described =
            links.iter().enumerate().filter_map(|(at, link)| Some((at, link.descriptor.as_ref()?)));
        let watch = |(at, descriptor): (usize, &OwnedFd)| {
            let duplicate = descriptor.try_clone()?;
            epoll::add(&epoll, &duplicate, epoll::EventData::new_u64(0), EventFlags::IN)?;
            Ok((at, duplicate))
        };
        let links = described.map(watch).collect::<io::Result<Vec<_>>>()?;
        let awaited = Mutex::new(vec![Watched::Reads; links.len()]);
        Ok(Sources { epoll, links, awaited })
    }

    /// Has the kernel watch for this, of links by their numbers.
    fn watch_for(&self, watched: &[Watched]) -> rustix::io::Result<()> {
        for ((link, descriptor), awaited) in self.links.iter().zip(&mut *lock(&self.awaited)) {
            // One that was added meanwhile is watched for what comes.
            let wanted = watched.get(*link).copied().unwrap_or(Watched::Reads);
            if wanted == *awaited {
                continue;
            }
            let (data, flags) = (epoll::EventData::new_u64(0), wanted.flags());
            match (*awaited, wanted) {
                (_, Watched::Ended) => epoll::delete(&self.epoll, descriptor)?,
                (Watched::Ended, _) => epoll::add(&self.epoll, descriptor, data, flags)?,
                _ => epoll::modify(&self.epoll, descriptor, data, flags)?,
            }
            *awaited = wanted;
        }
        Ok(())
    }

    /// True if something has happened.
    fn wait(&self, timeout: Duration) -> rustix::io::Result<bool> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        // What it was is found out by polling the links.
        let mut any = [MaybeUninit::<epoll::Event>::uninit()];
        Ok(!epoll::wait(&self.epoll, &mut any, Some(&timeout))?.0.is_empty())
    }
}

impl Waker {
    pub(crate) fn new() -> Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = event.map_err(|e| no_descriptor(&e.into()))?;
        let none = Sources::new(&event, &[]).map_err(|e| no_descriptor(&e))?;
        Ok(Waker { event, sources: Mutex::new(Arc::new(none)) })
    }

    /// Watches these links from now on.
    pub(super) fn watch(&self, links: &[LinkState]) -> Result<()> {
        let sources = Sources::new(&self.event, links).map_err(|e| no_descriptor(&e))?;
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
        match sources.watch_for(links).and_then(|()| sources.wait(timeout)) {
            Ok(true) => {
                let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
            }
            // The caller polls and comes back.
            Ok(false) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::debug!("the links cannot be watched, and are polled now and then: {error}");
                std::thread::park_timeout(timeout.min(UNWATCHED));
            }
        }
    }
}

impl Engine {
    /// Has the next poll of each link see whether it has ended, which links look for now and then, and before a sleep.
    pub(super) fn look_at_links(&self, inner: &mut Inner) {
        for link in inner.links.iter_mut().flatten() {
            link.prepare_sleep();
            link.cancel_sleep();
        }
        // Nobody wakes a thread that sleeps since before.
        self.waker.wake();
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const AT_ONCE: Duration = Duration::ZERO;

    fn link(stream: &UnixStream) -> LinkState {
        LinkState::new("tcp", Some(stream.try_clone().unwrap().into()))
    }

    #[test]
    fn the_kernel_watches_for_what_is_awaited() {
        let [(one, mut far), (other, _kept)] = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
        let waker = Waker::new().unwrap();
        // The link between them has no descriptor.
        waker.watch(&[link(&one), LinkState::default(), link(&other)]).unwrap();
        let sources = lock(&waker.sources).clone();
        let has_something = |watched: &[Watched]| {
            sources.watch_for(watched).unwrap();
            sources.wait(AT_ONCE).unwrap()
        };
        use Watched::*;
        assert!(has_something(&[Reads, Reads, Reads]), "they are watched since now");
        waker.block(&[Reads; 3], AT_ONCE);
        assert!(!has_something(&[Reads, Reads, Reads]));
        assert!(has_something(&[Reads, Reads, Writes]));
        assert!(!has_something(&[Reads, Reads, Reads]));
        far.write_all(&[1]).unwrap();
        assert!(has_something(&[Reads, Reads, Reads]));
        assert!(!has_something(&[Ended, Reads, Reads]));
        assert!(has_something(&[Reads, Reads, Reads]));
        assert!(!has_something(&[Ended, Ended, Ended]));
        assert!(has_something(&[]), "one that came meanwhile is watched for what comes");
        drop(far);
        assert!(!has_something(&[Ended, Ended, Ended]));
        waker.wake();
        assert!(has_something(&[Ended, Ended, Ended]));
    }

    #[test]
    fn who_sleeps_is_woken() {
        let waker = Arc::new(Waker::new().unwrap());
        let sleeps = waker.clone();
        let begun = std::time::Instant::now();
        let sleeper = std::thread::spawn(move || sleeps.block(&[], Duration::from_secs(60)));
        waker.wake();
        sleeper.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
