//! Processes are killed, stopped and cut off at every point of every collective, and the others go on.
//!
//! Which points there are a job says in which nothing happens. All of them, with what may happen there, are shuffled
//! and made into jobs that lose one or two ranks a call. `RONDE_TEST_JOBS` says about how many of these jobs to run
//! (all without it), and `RONDE_TEST_SEED` which: as many seeds as it prints, one after the other, run all. What a
//! failure prints of its job runs again alone with `RONDE_TEST_REPLAY`.

mod case;
mod ending;
mod footprint;
mod job;
mod oracle;
mod product;
mod worker;

use job::Job;
use ronde_multiprocess::is_child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Jobs that run at a time. Where one waits for a process that has stopped, others work.
const AT_A_TIME: usize = 8;
/// Enough to see what they have in common.
const MOST_FAILURES: usize = 5;

#[test]
fn rank() {
    if is_child() {
        worker::work();
    }
}

#[test]
fn somebody_is_lost_at_every_point() {
    if is_child() {
        return;
    }
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name| variable(name).map(|text| text.parse::<usize>().expect("a number"));
    if let Some(text) = variable("RONDE_TEST_REPLAY") {
        let job = Job::parse(&text).expect("a job as a failure prints it");
        return job.run().unwrap_or_else(|error| panic!("{job}:\n{error}"));
    }
    let shared_memory = shared_memory();
    let all = product::jobs();
    let seeds = number("RONDE_TEST_JOBS").map_or(1, |wanted| all.len().div_ceil(wanted.max(1)));
    let seed = number("RONDE_TEST_SEED").unwrap_or(0) % seeds;
    let (in_all, total) = (all.iter().map(|job| job.cases.len()).sum::<usize>(), all.len());
    let jobs: Vec<Job> = all.into_iter().skip(seed).step_by(seeds).collect();
    let cases: usize = jobs.iter().map(|job| job.cases.len()).sum();
    println!("seed {seed} of {seeds}: {cases} of {in_all} cases, in {} of {total} jobs", jobs.len());
    let failures = run_all(&jobs);
    assert!(failures.is_empty(), "seed {seed} of {seeds}:\n\n{}", failures.join("\n\n"));
    println!("{cases} cases, and nothing was wrong");
    assert_eq!(self::shared_memory(), shared_memory, "shared memory is left over");
}

/// Runs jobs, some at a time, until a few have failed; says how they did.
fn run_all(jobs: &[Job]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = job.run() {
                let mut failures = failures.lock().expect("no panic");
                failures.push(format!("RONDE_TEST_REPLAY='{job}':\n{error}"));
                if failures.len() == MOST_FAILURES {
                    next.store(jobs.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    failures.into_inner().expect("no panic")
}

/// Names of shared memory of Ronde that outlives its processes.
fn shared_memory() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.contains("ronde")).collect();
    names.sort();
    names
}
