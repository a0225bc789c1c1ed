//! `ronde bench recover`: processes are killed in the middle of all-reduces, others take their places, and those
//! that live say what it cost.
//!
//! Every number of ranks and every size has a job of its own, in which one process after another dies. The moments
//! of death take turns in it, so that a machine that is busy for a while spoils all rows a little and none much.
//! [`member`] is the part of one process.

mod death;
mod member;
mod notes;
mod vectors;

use super::to_json;
use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::launch::{self, Job};
use crate::output_file::OutputFile;
use crate::quantity::show_bytes;
use crate::say::say;
use anyhow::{Context, Result, ensure};
use notes::Notes;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

const DEFAULT_RANKS: [u32; 2] = [2, 4];
const DEFAULT_SIZES: [u64; 4] = [8, 64 << 10, 1 << 20, 64 << 20];
/// Vectors that a process holds at most: input, output and the library's own. One is to spare.
const VECTORS: u64 = 4;

/// What one death cost. Times are those of the survivor that had the longest.
#[derive(Clone, Serialize, Deserialize)]
struct Kill {
    /// From the death until the survivor had heard of it.
    detect_ms: f64,
    /// That it stood still before it went on.
    recover_ms: f64,
    /// The whole operation in which the process died.
    total_ms: f64,
    /// The same without a death.
    fault_free_ms: f64,
    /// Payload beyond that of an operation without a death, from all survivors.
    extra_bytes: f64,
    /// Payload of an operation without a death, from all survivors.
    fault_free_bytes: f64,
    /// From asking to join until the first operation of the new process had ended.
    join_ms: f64,
}

/// What it costs to ask whether anybody wants to come, when nobody does, and the smallest all-reduce, in turn: medians of the
/// lowest rank.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct SafePoint {
    safe_point_us: f64,
    /// Of 8 bytes.
    all_reduce_us: f64,
}

/// Medians over the kills at one moment.
#[derive(Serialize)]
struct Row {
    collective: &'static str,
    ranks: u32,
    size: u64,
    moment: f64,
    kills: usize,
    detect_ms: f64,
    detect_max_ms: f64,
    recover_ms: f64,
    total_ms: f64,
    fault_free_ms: f64,
    extra_bytes: i64,
    /// Payload of an operation without a death, from all survivors.
    fault_free_bytes: i64,
    /// What starting again costs beyond that, if what was sent by then is that part of it which the moment is of its time.
    formula_bytes: i64,
    join_ms: f64,
    #[serde(flatten)]
    safe_point: SafePoint,
}

/// Runs all jobs and prints a table. In a process of such a job: takes part in it.
pub(super) fn run(args: &BenchArgs, sizes: &[u64]) -> Result<u8> {
    if let Some(folder) = &args.recover.member_folder {
        return Ok(member::run(args, &Notes::in_folder(folder.clone())) as u8);
    }
    if args.join.spawned {
        return Err(Failure::usage("recover starts all processes of its jobs itself").into());
    }
    let ranks = ranks(args)?;
    let output = args.output_file.as_deref().map(OutputFile::create).transpose()?;
    let mut rows = Vec::new();
    let measured = measure(args, &ranks, sizes, &mut rows);
    // What was measured before a failure is of use too.
    if let Some(output) = output {
        output.finish(&to_json(&rows))?;
    }
    measured.map(|()| 0)
}

fn ranks(args: &BenchArgs) -> Result<Vec<u32>, Failure> {
    let join = &args.join;
    if join.coordinator.is_some() || join.rank.is_some() || join.size.is_some() {
        let text = "recover starts jobs of its own: it does not go with --coordinator, --rank or --size";
        return Err(Failure::usage(text));
    }
    match args.rank_list.0.as_slice() {
        [] => Ok(DEFAULT_RANKS.to_vec()),
        ranks if ranks.contains(&1) => {
            Err(Failure::usage("recover needs --ranks 2 or more: one has to live"))
        }
        ranks => Ok(ranks.to_vec()),
    }
}

/// The sizes that were asked for, or those of the defaults that fit into memory.
fn sizes(args: &BenchArgs, swept: &[u64], ranks: u32) -> Vec<u64> {
    let sweeps = args.min_bytes.is_some() || args.max_bytes.is_some() || args.step_factor.is_some();
    if !args.recover.sizes.is_empty() || sweeps {
        return if sweeps { swept.to_vec() } else { args.recover.sizes.clone() };
    }
    let available = available_memory().unwrap_or(u64::MAX);
    let (fit, others): (Vec<u64>, Vec<u64>) =
        DEFAULT_SIZES.iter().partition(|&&size| size * VECTORS * u64::from(ranks) <= available);
    for size in others {
        say!("# Left out: {} with {ranks} ranks, which memory is too small for\n", show_bytes(size));
    }
    fit
}

/// Bytes that processes may still take, as the kernel counts them.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn measure(args: &BenchArgs, ranks: &[u32], swept: &[u64], rows: &mut Vec<Row>) -> Result<()> {
    print_head(args);
    let mut all = Vec::new();
    let mut safe_points = Vec::new();
    for &ranks in ranks {
        for size in sizes(args, swept, ranks) {
            let (kills, safe_point) = run_job(args, ranks, size)?;
            safe_points.push((ranks, safe_point));
            let moments = &args.recover.moments;
            for (turn, &moment) in moments.iter().enumerate() {
                let of_moment: Vec<&Kill> = kills.iter().skip(turn).step_by(moments.len()).collect();
                let row = Row::new((ranks, size, moment), &of_moment, safe_point);
                row.print();
                rows.push(row);
            }
            all.extend(kills);
        }
    }
    print_foot(&all);
    // It is the same whatever size is reduced otherwise.
    safe_points.dedup_by_key(|(ranks, _)| *ranks);
    for (ranks, SafePoint { safe_point_us, all_reduce_us }) in safe_points {
        say!(
            "# {ranks} ranks: a safe point with nobody waiting {safe_point_us:.1} us, an all-reduce of 8 bytes \
             {all_reduce_us:.1} us\n"
        );
    }
    Ok(())
}

/// Runs one job and returns its deaths in order, and what a safe point cost before.
fn run_job(args: &BenchArgs, ranks: u32, size: u64) -> Result<(Vec<Kill>, SafePoint)> {
    let notes = Notes::new()?;
    let restarts = args.recover.kills * args.recover.moments.len() as u32;
    let command = member_command(size, notes.folder())?;
    let code = launch::run(&Job { command, ranks, restarts, quiet: true, ..Job::default() })?;
    let during = || format!("with {ranks} ranks and {size} bytes");
    if let Some(failure) = notes.failure() {
        return Err(failure).with_context(during);
    }
    if code != 0 {
        return Err(Failure::new(Code::Library, format!("the job ended with code {code}")))
            .with_context(during);
    }
    let kills = notes.kills()?;
    ensure!(kills.len() == restarts as usize, "{} of {restarts} deaths were measured", kills.len());
    Ok((kills, notes.safe_point()?))
}

/// This program as it was started, as one process of a job.
fn member_command(size: u64, folder: PathBuf) -> Result<Vec<OsString>> {
    let mut command = vec![std::env::current_exe()?.into_os_string()];
    command.extend(std::env::args_os().skip(1));
    command.extend(["--member-bytes".into(), size.to_string().into()]);
    command.extend(["--member-folder".into(), folder.into_os_string()]);
    Ok(command)
}

/// What each of those that are left sends in an all-reduce of two shots or around a ring, by what it sent before one was lost:
/// 2 (n - 2) / (n - 1) vectors instead of 2 (n - 1) / n.
fn work_without_one(ranks: u32) -> f64 {
    let ranks = f64::from(ranks);
    ranks * (ranks - 2.0) / (ranks - 1.0).powi(2)
}

impl Row {
    fn new((ranks, size, moment): (u32, u64, f64), kills: &[&Kill], safe_point: SafePoint) -> Row {
        let median = |figure: fn(&Kill) -> f64| percentile(kills.iter().map(|kill| figure(kill)), 50);
        let again = moment + work_without_one(ranks) - 1.0;
        Row {
            collective: "all_reduce",
            ranks,
            size,
            moment,
            kills: kills.len(),
            detect_ms: median(|kill| kill.detect_ms),
            detect_max_ms: percentile(kills.iter().map(|kill| kill.detect_ms), 100),
            recover_ms: median(|kill| kill.recover_ms),
            total_ms: median(|kill| kill.total_ms),
            fault_free_ms: median(|kill| kill.fault_free_ms),
            extra_bytes: median(|kill| kill.extra_bytes) as i64,
            fault_free_bytes: median(|kill| kill.fault_free_bytes) as i64,
            formula_bytes: (median(|kill| kill.fault_free_bytes) * again) as i64,
            join_ms: median(|kill| kill.join_ms),
            safe_point,
        }
    }

    fn print(&self) {
        let Row { ranks, size, moment, kills, detect_ms, detect_max_ms, recover_ms, .. } = self;
        let Row { total_ms, fault_free_ms, extra_bytes, formula_bytes, join_ms, .. } = self;
        let ratio = total_ms / fault_free_ms;
        say!(
            "{ranks:>6}{size:>12}{moment:>8.2}{kills:>7}{detect_ms:>10.3}{detect_max_ms:>10.3}{recover_ms:>10.3}\
             {total_ms:>11.3}{fault_free_ms:>12.3}{ratio:>8.2}{extra_bytes:>13}{formula_bytes:>13}{join_ms:>10.3}\n"
        );
    }
}

fn print_head(args: &BenchArgs) {
    let victim = if args.recover.host { "the host of the coordinator" } else { "a rank" };
    say!(
        "# All-reduces in which {victim} is killed, at a part (moment) of the time that they take without\n"
    );
    say!("# Medians in ms; times are those of the survivor that had the longest\n");
    say!(
        "{:>6}{:>12}{:>8}{:>7}{:>10}{:>10}{:>10}{:>11}{:>12}{:>8}{:>13}{:>13}{:>10}\n",
        "ranks",
        "bytes",
        "moment",
        "kills",
        "detect",
        "(max)",
        "recover",
        "total",
        "fault-free",
        "ratio",
        "extra bytes",
        "(formula)",
        "join"
    );
}

fn print_foot(kills: &[Kill]) {
    for (name, figure) in
        [("detected", (|kill| kill.detect_ms) as fn(&Kill) -> f64), ("joined", |kill| kill.join_ms)]
    {
        let [median, p99, max] = [50, 99, 100].map(|percent| percentile(kills.iter().map(figure), percent));
        let kills = kills.len();
        say!("# {name} after: median {median:.3} ms, p99 {p99:.3} ms, max {max:.3} ms of {kills} kills\n");
    }
}

/// The least of the values that so many percent do not exceed; 0 of none.
fn percentile(values: impl Iterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let place = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_known_values() {
        let of = |len: u32, percent| percentile((1..=len).rev().map(f64::from), percent);
        assert_eq!((of(5, 50), of(5, 99), of(5, 100)), (3.0, 5.0, 5.0));
        assert_eq!((of(100, 50), of(100, 99), of(100, 100)), (50.0, 99.0, 100.0));
        assert_eq!((of(1, 50), of(0, 50)), (1.0, 0.0));
    }
}
