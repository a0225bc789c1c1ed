//! Plays schedules; one that fails is replayed from a line that is printed, and made smaller first.
//!
//! `RONDE_SEED=N` replays the schedule of one seed, `RONDE_SEEDS=N` runs so many (from that one on), and
//! `RONDE_SCENARIO=…` replays one that was printed.

use crate::scenario::{Scenario, line, parse, shrink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Plays the scenarios of so many seeds, or those that the environment names, and says how long it took. Gives their
/// number.
pub(crate) fn play_seeds<S: Scenario>(
    test: &str,
    usually: u64,
    draw: impl Fn(u64) -> S,
    play: &dyn Fn(&S),
) -> u64 {
    if let Some(scenario) = named(test) {
        play(&scenario);
        return 1;
    }
    let (from, count) = (number("RONDE_SEED"), number("RONDE_SEEDS"));
    let count = count.unwrap_or(if from.is_some() { 1 } else { usually });
    let first = from.unwrap_or(0);
    let start = std::time::Instant::now();
    for seed in first..first + count {
        check(test, Some(seed), &draw(seed), play);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} schedules in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    count
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
