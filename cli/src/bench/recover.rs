//! `ronde bench recover`: the last rank dies in the middle of an all-reduce, and the others say what it cost.
//!
//! Every trial is a job of its own. Its moment of death is a random part of the time that the operation takes
//! without one. Figures are the largest over the survivors; the table has medians over the trials.

use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::launch::{self, Job};
use crate::output_file::OutputFile;
use anyhow::{Context, Result, bail};
use ronde::{CallOptions, Group, ReduceOp};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// Operations without a death, before it and to compare with.
const CALM: usize = 9;
/// The latest moment of death: later ones often find the operation over.
const LATEST: f64 = 0.9;
/// How long a survivor waits for word of the moment of death.
const PATIENCE: Duration = Duration::from_secs(10);

/// One trial.
#[derive(Clone, Serialize, Deserialize)]
struct Trial {
    collective: String,
    ranks: u32,
    size: u64,
    moment: f64,
    /// From the death until the last survivor had heard of it; none if the operation was over by then.
    detect_ms: Option<f64>,
    /// From hearing of it until going on.
    recover_ms: Option<f64>,
    total_ms: f64,
    fault_free_ms: f64,
    /// Payload sent beyond that of an operation without a death, by all survivors.
    extra_bytes: i64,
}

/// Runs all trials and prints a table.
pub(super) fn run(args: &BenchArgs, sizes: &[u64]) -> Result<u8> {
    let ranks = args.join.ranks.filter(|&ranks| ranks >= 2);
    let ranks =
        ranks.ok_or_else(|| Failure::usage("recover starts jobs of its own: give --ranks 2 or more"))?;
    let output = args.output_file.as_deref().map(OutputFile::create).transpose()?;
    let mut trials = Vec::new();
    println!("# Medians over {} deaths of rank {}, in ms", args.iters, ranks - 1);
    println!(
        "{:>12}{:>12}{:>12}{:>12}{:>12}{:>8}{:>14}",
        "bytes", "detect", "recover", "total", "fault-free", "ratio", "extra bytes"
    );
    for &size in sizes {
        let mut row = Vec::new();
        for number in 0..args.iters {
            // The golden ratio spreads the moments evenly, however many there are.
            let moment = (f64::from(number) * 0.618_033_988_749_895).fract() * LATEST;
            row.push(run_trial(ranks, size, moment)?);
        }
        print_row(size, &row);
        trials.extend(row);
    }
    if let Some(output) = output {
        output.finish(&serde_json::to_vec_pretty(&trials)?)?;
    }
    Ok(0)
}

fn run_trial(ranks: u32, size: u64, moment: f64) -> Result<Trial> {
    let file = std::env::temp_dir().join(format!("ronde-recover-{}.json", std::process::id()));
    let mut command = launch::own_command()?;
    for (flag, value) in [
        ("--trial-bytes", size.to_string().into()),
        ("--trial-moment", moment.to_string().into()),
        ("--trial-file", file.clone().into_os_string()),
    ] {
        command.extend([flag.into(), value]);
    }
    let code = launch::run(&Job { command, ranks, keep_going: true, quiet: true, ..Job::default() })?;
    let text = std::fs::read(&file);
    let _ = std::fs::remove_file(&file);
    let _ = std::fs::remove_file(death_file(&file));
    match text {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(_) => bail!("a trial of {size} bytes ended with code {code} and without figures"),
    }
}

/// A figure, or a dash where no operation was interrupted.
fn figure(value: f64) -> String {
    if value.is_nan() { "-".into() } else { format!("{value:.3}") }
}

fn print_row(size: u64, trials: &[Trial]) {
    let detect = median(trials.iter().filter_map(|trial| trial.detect_ms));
    let recover = median(trials.iter().filter_map(|trial| trial.recover_ms));
    let total = median(trials.iter().map(|trial| trial.total_ms));
    let calm = median(trials.iter().map(|trial| trial.fault_free_ms));
    let extra = median(trials.iter().map(|trial| trial.extra_bytes as f64));
    let ratio = total / calm;
    let (detect, recover) = (figure(detect), figure(recover));
    println!("{size:>12}{detect:>12}{recover:>12}{total:>12.3}{calm:>12.3}{ratio:>8.2}{extra:>14.0}");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where the rank that dies leaves the moment of its death.
fn death_file(file: &Path) -> std::path::PathBuf {
    file.with_extension("death")
}

/// Nanoseconds of a clock that all processes of a machine share.
fn machine_clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The part of one process in one trial.
pub(super) fn trial(args: &BenchArgs, group: &Group) -> Result<Code> {
    let file = args.trial_file.as_deref().context("a trial without a file")?;
    let (victim, ranks) = (group.size() - 1, group.size());
    let count = (args.trial_bytes / 4).max(1) as usize;
    let input = vec![(group.rank() + 1) as f32; count];
    let mut output = vec![-1f32; count];
    let options = CallOptions { algorithm: super::options(args)?.algorithm, ..CallOptions::default() };
    let mut reduce = || {
        let (from, started) = (machine_clock(), Instant::now());
        let outcome = group.all_reduce_into_with(&input, &mut output, ReduceOp::Sum, &options)?;
        Ok::<_, ronde::Error>((from, started.elapsed(), outcome))
    };
    let mut calm = Vec::new();
    let mut bytes = 0;
    for _ in 0..CALM {
        let (_, time, outcome) = reduce()?;
        calm.push(time.as_secs_f64() * 1e3);
        bytes = outcome.bytes_sent;
    }
    let mut slowest = vec![0f64];
    let _ = group.all_reduce_into(&[median(calm.into_iter())], &mut slowest, ReduceOp::Max)?;
    let _ = group.barrier()?;
    if group.rank() == victim {
        die_after(Duration::from_secs_f64(slowest[0] * 1e-3 * args.trial_moment), death_file(file));
    }
    let (from, time, outcome) = reduce()?;
    if group.rank() == victim {
        loop {
            std::thread::park();
        }
    }
    let here = (0..ranks).filter(|rank| !outcome.absent.contains(rank));
    let sum: u32 = here.map(|rank| rank + 1).sum();
    if output.iter().any(|&value| value != sum as f32) {
        bail!("the sum over the survivors is wrong");
    }
    let death = moment_of_death(&death_file(file))?;
    let heard = from as f64 + outcome.interrupted_after.as_secs_f64() * 1e9;
    let mine = [
        (heard - death as f64) / 1e6,
        outcome.interrupted_for.as_secs_f64() * 1e3,
        time.as_secs_f64() * 1e3,
        outcome.bytes_sent as f64 - bytes as f64,
        f64::from(outcome.interruptions),
    ];
    let mut all = vec![0f64; mine.len() * ranks as usize];
    let outcome = group.all_gather(&mine, &mut all)?;
    let survivors: Vec<&[f64]> = all
        .chunks(mine.len())
        .zip(0..)
        .filter(|(_, rank)| *rank != victim && !outcome.absent.contains(rank))
        .map(|(figures, _)| figures)
        .collect();
    let largest = |at: usize| survivors.iter().map(|figures| figures[at]).fold(f64::MIN, f64::max);
    let interrupted = largest(4) > 0.0;
    if group.rank() == 0 {
        let trial = Trial {
            collective: "all_reduce".into(),
            ranks,
            size: args.trial_bytes,
            moment: args.trial_moment,
            detect_ms: interrupted.then(|| largest(0)),
            recover_ms: interrupted.then(|| largest(1)),
            total_ms: largest(2),
            fault_free_ms: slowest[0],
            extra_bytes: survivors.iter().map(|figures| figures[3] as i64).sum(),
        };
        std::fs::write(file, serde_json::to_vec(&trial)?)?;
    }
    Ok(Code::Ok)
}

/// Kills this process after some time, and leaves word of when.
fn die_after(time: Duration, file: std::path::PathBuf) {
    let at = Instant::now() + time;
    std::thread::spawn(move || {
        std::thread::sleep(time.saturating_sub(Duration::from_micros(200)));
        while Instant::now() < at {
            std::hint::spin_loop();
        }
        let _ = std::fs::write(file, machine_clock().to_string());
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    });
}

fn moment_of_death(file: &Path) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(moment) = std::fs::read_to_string(file).ok().and_then(|text| text.parse().ok()) {
            return Ok(moment);
        }
        std::thread::yield_now();
    }
    bail!("the rank that was to die did not")
}
