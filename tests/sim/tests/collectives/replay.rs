//! Plays schedules, each twice; one that fails is replayed from a line that is printed, and made smaller first.
//!
//! `RONDE_SEED=N` replays the schedule of one seed, `RONDE_SEEDS=N` runs so many (from that one on), and
//! `RONDE_SCENARIO=…` replays one that was printed.

use crate::scenario::{Scenario, Sum, line, parse, shrink};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Plays the scenarios of so many seeds on all processors, or those that the environment names, and says how long it took.
/// Gives their number and what they came to. `play` gives what happened in one number, which is always the same.
pub(crate) fn play_seeds<S: Scenario, C: Sum>(
    test: &str,
    usually: u64,
    draw: impl Fn(u64) -> S + Sync,
    play: impl Fn(&S, &mut C) -> u64 + Sync,
) -> (u64, C) {
    let mut sum = C::default();
    if let Some(scenario) = named(test) {
        play(&scenario, &mut sum);
        return (1, sum);
    }
    let (from, count) = (number("RONDE_SEED"), number("RONDE_SEEDS"));
    let count = count.unwrap_or(if from.is_some() { 1 } else { usually });
    let first = from.unwrap_or(0);
    let start = Instant::now();
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let work = || {
        let sum = RefCell::new(C::default());
        let _fails = Fails(&failed);
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let trace = Cell::new(0);
            let scenario = draw(seed);
            check(test, Some(seed), &scenario, &|scenario| {
                trace.set(play(scenario, &mut sum.borrow_mut()));
            });
            let again = play(&scenario, &mut C::default());
            assert_eq!(trace.get(), again, "what follows of seed {seed} is not always the same");
        }
        sum.into_inner()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count as usize);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            sum.add(worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{count} schedules, each twice, in {seconds:.1} s: {:.0} a second",
        2.0 * count as f64 / seconds
    );
    (count, sum)
}

/// Who fails keeps the others from going on.
struct Fails<'a>(&'a AtomicBool);

impl Drop for Fails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A number in the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The scenario that is to be replayed, if there is one.
pub(crate) fn named<S: Scenario>(test: &str) -> Option<S> {
    let line = std::env::var("RONDE_SCENARIO").ok()?;
    println!("replaying one schedule of {test}");
    Some(parse(&line))
}

/// Plays one scenario and reports it if it fails.
pub(crate) fn check<S: Scenario>(test: &str, found: Option<u64>, scenario: &S, play: &dyn Fn(&S)) {
    if catch_unwind(AssertUnwindSafe(|| play(scenario))).is_err() {
        let found = found
            .map_or_else(|| format!("RONDE_SCENARIO='{}'", line(scenario)), |s| format!("RONDE_SEED={s}"));
        report(test, &found, scenario, play);
    }
}

/// Says how a scenario that has failed is replayed, makes it smaller, and fails with what is left.
fn report<S: Scenario>(test: &str, found: &str, scenario: &S, play: &dyn Fn(&S)) -> ! {
    let command = format!("cargo test --release -p ronde-sim --test collectives {test} -- --nocapture");
    eprintln!("failed ({}); replay it:\n{found} {command}", scenario.size());
    let smallest = shrink(scenario, play);
    eprintln!("shrunk ({}); replay that:\nRONDE_SCENARIO='{}' {command}", smallest.size(), line(&smallest));
    play(&smallest);
    panic!("it does not fail again");
}
