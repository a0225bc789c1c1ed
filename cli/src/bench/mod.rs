//! `ronde bench`: measure a collective and check its results.

mod backend;
mod costs;
mod heatmap;
mod json;
mod layout;
mod measure;
#[cfg(test)]
pub(crate) mod mesh;
pub(crate) mod names;
mod number;
mod oracle;
mod pairs;
mod recover;
mod stats;
mod sweep;
mod table;

pub(crate) use backend::{Backend, GroupBackend, gather};

use backend::Output;

#[cfg(test)]
pub(crate) use backend::combine;
pub(crate) use json::to_json;

use crate::args::{BenchArgs, Target};
use crate::exit::{Code, Failure};
use crate::say::say;
use crate::session;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use json::{Device, Report};
use measure::{Bench, Case, Method, Vectors};
use ronde::{Call, CallOptions};
use std::process::ExitCode;
use std::time::Duration;
use table::{Columns, Row};

/// Below this part of the least bandwidth asked for, the bench fails.
const BANDWIDTH_MARGIN: f64 = 0.9;

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    refuse_splits(|name| std::env::var(name).ok())?;
    let (min, max) = sweep::bounds(args)?;
    let sizes = sweep::sizes(args, min, max)?;
    if args.target == Target::Recover {
        return recover::run(args, &sizes).map(ExitCode::from);
    }
    if let Some(code) = session::spawn_if_asked(&args.join)? {
        return Ok(ExitCode::from(code));
    }
    let group = session::join(&args.join)?;
    let backend = GroupBackend::new(&group);
    let code = match args.target {
        Target::Costs => costs::run(args, &group, &backend),
        Target::Pairs => pairs::run(args, &backend, (min, max)),
        _ => measure_all(args, &backend, &sizes, (min, max)),
    };
    // Leaving in order also after an error keeps it from becoming a lost peer on the other ranks.
    let left = if group.failure().is_none() { group.close() } else { Ok(()) };
    let code = code?;
    left?;
    Ok(code.into())
}

/// With these variables nccl-tests measures several groups side by side. The figures of one group must not pass for theirs.
fn refuse_splits(variable: impl Fn(&str) -> Option<String>) -> Result<(), Failure> {
    for name in ["NCCL_TESTS_SPLIT", "NCCL_TESTS_SPLIT_MASK"] {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            return Err(Failure::usage(format!(
                "{name}=\"{value}\" asks for several groups side by side, but all ranks are one here: unset it and start \
                 one job for each group"
            )));
        }
    }
    Ok(())
}

/// What the rows came to.
#[derive(Default)]
struct Totals {
    sides: u32,
    bus_bw: f64,
    wrong_sides: u64,
    fewer_ranks: bool,
}

/// Where rows go: rank 0 prints and writes, the others keep quiet.
struct Sink {
    columns: Columns,
    prints: bool,
    bar: ProgressBar,
    report: Report,
}

fn measure_all(
    args: &BenchArgs,
    backend: &dyn Backend,
    sizes: &[u64],
    (min, max): (u64, u64),
) -> Result<Code> {
    let prints = backend.rank() == 0;
    let file = backend::create_output(args.output_file.as_deref(), backend)?;
    let cases = sweep::cases(args, backend.ranks())?;
    let devices = devices(backend)?;
    let mut sink = Sink {
        columns: columns(args),
        prints,
        bar: progress_bar(prints, args.run_cycles, sizes.len() * cases.len()),
        report: Report::new(args, min, max, devices.clone()),
    };
    sink.print(&head(args, min, max, &devices))?;
    let mut totals = Totals::default();
    let measured = measure_rows(args, backend, &cases, sizes, &mut sink, &mut totals);
    sink.bar.finish_and_clear();
    if let Err(error) = &measured {
        sink.report.add_error(format!("{error:#}"));
    }
    conclude(args, backend, sink, totals, measured, file)
}

fn measure_rows(
    args: &BenchArgs,
    backend: &dyn Backend,
    cases: &[Case],
    sizes: &[u64],
    sink: &mut Sink,
    totals: &mut Totals,
) -> Result<()> {
    let method = method(args)?;
    let count_of = |case: &Case, bytes: u64| case.target.count(bytes, case.dtype.size(), backend.ranks());
    let largest = sizes.iter().copied().max().unwrap_or(0);
    // A batch of small vectors may take more than one large vector: all sizes are asked.
    let rows = cases.iter().flat_map(|case| sizes.iter().map(move |&bytes| (*case, count_of(case, bytes))));
    let mut vectors = Vectors::for_rows(backend, &method, rows)
        .with_context(|| format!("no memory for vectors of {largest} bytes"))?;
    let mut cycle = 0;
    while args.run_cycles == 0 || cycle < args.run_cycles {
        for &bytes in sizes {
            for case in cases {
                let count = count_of(case, bytes);
                let bench = Bench { backend, method: &method, case: *case, count };
                let row = measure_row(&bench, &mut vectors)?;
                totals.add(&row, backend.ranks());
                sink.row(&row, args)?;
            }
        }
        cycle += 1;
    }
    Ok(())
}

fn measure_row(bench: &Bench<'_>, vectors: &mut Vectors) -> Result<Row> {
    let case = bench.case;
    let bytes = case.target.row_bytes(bench.count, case.dtype.size(), bench.backend.ranks());
    let during = |side: &'static str| format!("{} of {bytes} bytes, {side}", case.target.name());
    let out_of_place = bench.side(vectors, false).with_context(|| during("out of place"))?;
    let in_place = match case.target.has_in_place() {
        true => Some(bench.side(vectors, true).with_context(|| during("in place"))?),
        false => None,
    };
    Ok(Row { case, bytes, count: bench.count, out_of_place, in_place })
}

impl Totals {
    fn add(&mut self, row: &Row, ranks: u32) {
        for side in std::iter::once(&row.out_of_place).chain(&row.in_place) {
            self.sides += 1;
            self.bus_bw += side.bus_bw;
            self.wrong_sides += u64::from(side.wrong.is_some_and(|wrong| wrong > 0));
            self.fewer_ranks |= side.contributors < ranks;
        }
    }

    fn average_bus_bw(&self) -> f64 {
        self.bus_bw / f64::from(self.sides.max(1))
    }
}

impl Sink {
    fn print(&self, text: &str) -> Result<()> {
        if !self.prints {
            return Ok(());
        }
        self.bar.suspend(|| say!("{}\n", text.trim_end_matches('\n')));
        Ok(())
    }

    fn row(&mut self, row: &Row, args: &BenchArgs) -> Result<()> {
        self.print(&self.columns.row(row, &crate::clock::now_utc()))?;
        self.report.add_row(row, args.iters, args.cpu_time);
        self.bar.inc(1);
        Ok(())
    }
}

/// Prints the foot, writes the file, and finds the exit code. The file is written after a failure too.
fn conclude(
    args: &BenchArgs,
    backend: &dyn Backend,
    sink: Sink,
    totals: Totals,
    measured: Result<()>,
    file: Output,
) -> Result<Code> {
    let bandwidth = totals.average_bus_bw();
    let bandwidth_ok = args.min_bw.map(|least| bandwidth >= BANDWIDTH_MARGIN * least);
    if measured.is_ok() {
        let memory = args.memory.then(memory_line);
        let name = args.target.name();
        sink.print(&table::foot(name, totals.wrong_sides, bandwidth, bandwidth_ok, memory.as_deref()))?;
    }
    let content = sink.report.finish(totals.wrong_sides, bandwidth, bandwidth_ok);
    if let Err(error) = measured {
        // The first error is the one to name.
        let _ = file.finish_alone(|| Ok(content));
        return Err(error);
    }
    if let Some(path) = file.finish(|| Ok(content), backend)? {
        // A name that was taken has got a suffix.
        say!("# written to {}\n", path.display());
    }
    // Whoever was lost after the last operation is missed here.
    let fewer_ranks = totals.fewer_ranks || backend.run(Call::EMPTY)?.contributors < backend.ranks();
    Ok(match () {
        () if totals.wrong_sides > 0 || bandwidth_ok == Some(false) => Code::Wrong,
        () if fewer_ranks => Code::FewerRanks,
        () => Code::Ok,
    })
}

fn columns(args: &BenchArgs) -> Columns {
    Columns { cpu_time: args.cpu_time, per_iter: args.per_iter, timestamps: args.timestamps }
}

fn method(args: &BenchArgs) -> ronde::Result<Method> {
    Ok(Method {
        iters: args.iters,
        agg_iters: args.agg_iters,
        warmup_iters: args.warmup_iters,
        check: args.check,
        blocking: args.blocking > 0,
        cpu_time: args.cpu_time,
        average: args.average,
        per_iter: args.per_iter,
        per_iter_skip: args.per_iter_skip,
        unalign: args.unalign,
        registered: args.is_registered(),
        options: options(args)?,
    })
}

/// The options of every measured call.
fn options(args: &BenchArgs) -> ronde::Result<CallOptions> {
    Ok(CallOptions {
        timeout: args
            .timeout
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(u64::from(seconds))),
        tolerance: args.tolerance.into(),
        algorithm: args
            .algorithm
            .as_deref()
            .map(ronde::algorithm_name)
            .transpose()
            .map_err(ronde::Error::from)?,
        ..CallOptions::default()
    })
}

fn head(args: &BenchArgs, min: u64, max: u64, devices: &[Device]) -> String {
    let step = match args.step_factor {
        Some(factor) => format!("{factor}(factor)"),
        None => format!("{}(bytes)", args.step_bytes),
    };
    let mut text = format!(
        "# ronde version {}\n# Collective test starting: {}\n\
         # nThread 1 nGpus 0 nRanks {} minBytes {min} maxBytes {max} step: {step} warmup iters: {} iters: {} \
         agg iters: {} validation: {} graph: 0 unalign: {}\n\
         # tolerance: {} algorithm: {} memory: {} time: {} over ranks\n\
         # every vector is written anew before each operation, outside the measured time\n#\n# Using devices\n",
        env!("CARGO_PKG_VERSION"),
        args.target.name(),
        devices.len(),
        args.warmup_iters,
        args.iters,
        args.agg_iters,
        args.check,
        args.unalign,
        json::tolerance_name(args.tolerance),
        args.algorithm.as_deref().unwrap_or("chosen"),
        if args.is_registered() { "registered" } else { "plain" },
        json::average_name(args.average),
    );
    for device in devices {
        let Device { rank, group, pid, hostname, .. } = device;
        text +=
            &format!("#  Rank {rank:>2} Group {group:>2} Pid {pid:>6} on {hostname:>10} device -- [cpu]\n");
    }
    text + &columns(args).head()
}

/// Who takes part, gathered from all ranks.
fn devices(backend: &dyn Backend) -> Result<Vec<Device>> {
    const NAME: usize = 64;
    let mut mine = [0u8; NAME + 4];
    let host = hostname();
    let len = host.len().min(NAME);
    mine[..len].copy_from_slice(&host.as_bytes()[..len]);
    mine[NAME..].copy_from_slice(&std::process::id().to_le_bytes());
    let all = gather(backend, &mine)?;
    let device = |(rank, record): (usize, &[u8])| {
        let name = record[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
        Device {
            rank: rank as u32,
            group: 0,
            pid: number::read_bits(&record[NAME..]) as u32,
            hostname: String::from_utf8_lossy(name).into_owned(),
            device: None,
            device_hex: None,
            device_info: "cpu",
        }
    };
    Ok(all.chunks_exact(NAME + 4).enumerate().map(device).collect())
}

pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The most memory this process ever held, as the kernel counts it.
fn memory_line() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    format!("# Memory usage (peak of rank 0): {}", peak.map_or("unknown", str::trim))
}

/// A bar on the terminal of the rank that prints, and nowhere else.
fn progress_bar(prints: bool, cycles: u32, rows: usize) -> ProgressBar {
    use std::io::IsTerminal;
    if !prints || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let length = (cycles > 0).then(|| rows as u64 * u64::from(cycles));
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {elapsed_precise}") {
        bar.set_style(style);
    }
    bar
}
