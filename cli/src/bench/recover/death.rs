//! How a process dies, and when that was.

use anyhow::Result;
use rustix::process::{Signal, getpid, kill_process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sleeping ends late by less than this, mostly.
const SLEEP_ERROR: Duration = Duration::from_micros(200);

/// Nanoseconds of a clock that all processes of a machine share.
pub(super) fn machine_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A thread that kills this process at a moment that it is told later. It is there before, so that small operations
/// are not over by the time it runs.
pub(super) struct Fuse {
    /// 0: not known yet.
    at: Arc<AtomicU64>,
}

impl Fuse {
    /// The moment of death goes to `word`.
    pub(super) fn new(word: File) -> Result<Fuse> {
        let at = Arc::new(AtomicU64::new(0));
        let told = at.clone();
        std::thread::Builder::new().spawn(move || {
            wait(&told);
            die(&word);
        })?;
        Ok(Fuse { at })
    }

    pub(super) fn light(&self, at: u64) {
        self.at.store(at, Ordering::Release);
    }
}

fn wait(told: &AtomicU64) {
    while told.load(Ordering::Acquire) == 0 {
        std::hint::spin_loop();
    }
    let at = told.load(Ordering::Acquire);
    let left = Duration::from_nanos(at.saturating_sub(machine_clock()));
    std::thread::sleep(left.saturating_sub(SLEEP_ERROR));
    while machine_clock() < at {
        std::hint::spin_loop();
    }
}

/// As by an operator or the system: nothing is cleaned up.
fn die(word: &File) {
    let _ = word.write_all_at(&machine_clock().to_le_bytes(), 0);
    let _ = kill_process(getpid(), Signal::KILL);
}
