//! Waiting for an op on the caller's thread.

use super::{Engine, Inner, Prepared, TURNS_BETWEEN_LOOKS, lock};
use ronde_core::Tag;
use ronde_core::call::Call;
use ronde_core::collective::{GroupIndex, OpHandle};
use ronde_core::error::{Outcome, Result};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Polls without a pause between them before the thread starts to yield, at most.
pub(super) const SPINS: u32 = 200;
/// The same, at least: where yielding is what lets the peer run.
const FEWEST_SPINS: u32 = 4;
/// One wait in so many spins as long as it may, in case the peers have moved to other cores.
const PROBE: u32 = 64;
/// News within so many yields was brought by them.
const YIELD_HELPED: u32 = 8;
/// How long a thread yields before it blocks.
const YIELD_FOR: Duration = Duration::from_millis(1);
/// Longest single block: deadlines are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Counts this thread among those that wait.
struct Waiting<'a>(&'a Engine);

impl<'a> Waiting<'a> {
    fn new(engine: &'a Engine) -> Waiting<'a> {
        engine.waiters.fetch_add(1, Ordering::Relaxed);
        Waiting(engine)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// The result if the op has ended; makes progress.
    pub(crate) fn test(&self, handle: OpHandle) -> Option<Result<Outcome>> {
        let mut inner = lock(&self.inner);
        self.poll(&mut inner);
        self.check_time(&mut inner);
        let result = inner.take(handle);
        drop(self.run_callbacks(inner));
        result
    }

    /// Moves everything that can be moved.
    pub(crate) fn progress(&self) {
        let mut inner = lock(&self.inner);
        self.poll(&mut inner);
        self.check_time(&mut inner);
        drop(self.run_callbacks(inner));
    }

    /// Starts an op and waits for its end, as one: a small op often ends before the lock is given back.
    pub(crate) fn run(&self, prepared: Prepared, call: Call) -> Result<Outcome> {
        let mut inner = lock(&self.inner);
        let handle = self.start_locked(&mut inner, prepared, call)?;
        self.drive(inner, |inner| inner.take(handle))
    }

    /// Waits for the end of an op, driving all of them.
    pub(crate) fn wait(&self, handle: OpHandle) -> Result<Outcome> {
        self.drive(lock(&self.inner), |inner| inner.take(handle))
    }

    /// Waits until no op of this process is open.
    pub(crate) fn await_all_ops(&self) {
        self.drive(lock(&self.inner), |inner| (inner.executor.open_ops() == 0).then_some(()));
    }

    /// Waits for something that a callback brings, driving all ops.
    pub(crate) fn wait_until<T>(&self, done: impl Fn() -> Option<T>) -> T {
        self.drive(lock(&self.inner), |_| done())
    }

    /// Waits for something until then, driving all ops; `None` if it has not come by then.
    pub(crate) fn wait_before<T>(
        &self,
        until: std::time::Instant,
        mut done: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Option<T> {
        let is_past = || std::time::Instant::now() >= until;
        let done = |inner: &mut Inner| match done(inner) {
            None => is_past().then_some(None),
            some => Some(some),
        };
        self.drive_before(lock(&self.inner), Some(until), done)
    }

    /// Waits until then for a message that nobody receives yet; gives the rank that it comes from.
    pub(crate) fn probe(
        &self,
        group: GroupIndex,
        tag: Tag,
        until: std::time::Instant,
    ) -> Result<Option<usize>> {
        let found = self.wait_before(until, |inner| match inner.executor.probe(group, tag) {
            Some(rank) => Some(Ok(rank)),
            None => self.failure().map(Err),
        });
        found.transpose()
    }

    pub(super) fn drive<'a, T>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        done: impl FnMut(&mut Inner) -> Option<T>,
    ) -> T {
        self.drive_before(inner, None, done)
    }

    /// `until`: when it looks whether that is done, though nothing has come.
    fn drive_before<'a, T>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        until: Option<std::time::Instant>,
        mut done: impl FnMut(&mut Inner) -> Option<T>,
    ) -> T {
        let waiting = Waiting::new(self);
        let mut idle = Idle { until, ..Idle::default() };
        loop {
            let moved = self.poll(&mut inner);
            if let Some(result) = done(&mut inner) {
                self.learn(&idle);
                self.leave(inner, waiting);
                return result;
            }
            if moved {
                inner.turns = inner.turns.wrapping_add(1);
                if inner.turns.is_multiple_of(TURNS_BETWEEN_LOOKS) {
                    self.check_time(&mut inner);
                }
                self.learn(&idle);
                idle = Idle { until, ..Idle::default() };
                drop(if inner.callbacks.is_empty() { inner } else { self.run_callbacks(inner) });
            } else {
                if idle.rounds == 0 {
                    idle.spins = self.spins_of_a_wait();
                }
                idle.rounds += 1;
                if idle.rounds <= idle.spins {
                    drop(inner);
                    std::hint::spin_loop();
                } else {
                    self.rest(inner, &mut idle);
                }
            }
            // The lock was free for a moment: other threads get their turn.
            inner = lock(&self.inner);
        }
    }

    /// Whether to spin, and for how long, depends on where the peers run. With one of them on this core,
    /// spinning only keeps it from working; the system may take long to move one away.
    fn spins_of_a_wait(&self) -> u32 {
        if self.oversubscribed.load(Ordering::Relaxed) {
            return 0;
        }
        match self.waits.fetch_add(1, Ordering::Relaxed) % PROBE {
            0 => SPINS,
            _ => self.spins.load(Ordering::Relaxed),
        }
    }

    /// Takes in what ended a wait.
    fn learn(&self, idle: &Idle) {
        if idle.rounds == 0 || self.oversubscribed.load(Ordering::Relaxed) {
            return;
        }
        if idle.rounds <= idle.spins {
            self.spins.store(SPINS, Ordering::Relaxed);
        } else if idle.rounds <= idle.spins + YIELD_HELPED {
            self.spins.store((idle.spins / 2).max(FEWEST_SPINS), Ordering::Relaxed);
        }
    }

    /// Past the spinning: yield for a while, then block.
    fn rest<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, idle: &mut Idle) {
        let since = *idle.since.get_or_insert_with(std::time::Instant::now);
        if idle.rounds.is_multiple_of(16) {
            self.check_time(&mut inner);
            if since.elapsed() > YIELD_FOR {
                if !inner.callbacks.is_empty() {
                    inner = self.run_callbacks(inner);
                }
                let left = idle.until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
                drop(self.sleep(inner, left.map_or(LONGEST_SLEEP, |left| left.min(LONGEST_SLEEP))));
                return;
            }
        }
        drop(inner);
        std::thread::yield_now();
    }

    /// The end of a wait: others may have to be told, or the background thread takes over.
    fn leave<'a>(&'a self, inner: MutexGuard<'a, Inner>, waiting: Waiting<'a>) {
        drop(waiting);
        let open = inner.executor.open_ops() > 0 || !inner.callbacks.is_empty();
        let inner = if inner.callbacks.is_empty() { inner } else { self.run_callbacks(inner) };
        drop(inner);
        if self.waiters.load(Ordering::Relaxed) > 0 {
            self.ended.notify_all();
        } else if open {
            self.announced.background.notify_one();
        }
    }
}

#[derive(Default)]
struct Idle {
    rounds: u32,
    /// Of these, how many without a pause.
    spins: u32,
    since: Option<std::time::Instant>,
    /// It blocks no longer than until then.
    until: Option<std::time::Instant>,
}
