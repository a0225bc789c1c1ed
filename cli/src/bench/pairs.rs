//! `ronde bench pairs`: latency and bandwidth between every two ranks, one pair at a time.
//!
//! Latency is half the time of a message of the smallest size there and back. Bandwidth is that of
//! messages of the largest size in one direction, a few in flight, until the receiver has answered.

use super::backend::{Backend, combine, create_output, meet};
use super::json::to_json;
use super::layout::{Piece, Source};
use super::oracle::Contents;
use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::say::say;
use anyhow::{Context, Result};
use ronde::memory::lend;
use ronde::{Call, CallOptions, Collective, DType, ReduceOp};
use serde::Serialize;
use std::fmt::Write;

/// Messages in flight while bandwidth is measured.
const IN_FLIGHT: usize = 4;

/// What was measured from one rank to another.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Pair {
    pub(super) latency_us: f64,
    pub(super) bandwidth: f64,
    wrong: u64,
}

/// All pairs; the diagonal is empty.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Matrix {
    ranks: u32,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    latency_bytes: u64,
    bandwidth_bytes: u64,
    ranks: u32,
    results: Vec<ReportPair>,
    wrong: u64,
}

#[derive(Serialize)]
struct ReportPair {
    from: u32,
    to: u32,
    #[serde(flatten)]
    pair: Pair,
}

impl Matrix {
    fn new(ranks: u32) -> Matrix {
        Matrix { ranks, pairs: vec![Pair::default(); (ranks * ranks) as usize] }
    }

    pub(super) fn ranks(&self) -> u32 {
        self.ranks
    }

    fn at(&mut self, from: u32, to: u32) -> &mut Pair {
        &mut self.pairs[(from * self.ranks + to) as usize]
    }

    /// (from, to, what was measured) for all pairs of different ranks.
    pub(super) fn cells(&self) -> impl Iterator<Item = (u32, u32, Pair)> {
        let all = self.pairs.iter().enumerate();
        let place = |(at, pair): (usize, &Pair)| (at as u32 / self.ranks, at as u32 % self.ranks, *pair);
        all.map(place).filter(|(from, to, _)| from != to)
    }

    fn wrong(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.wrong).sum()
    }

    /// One figure of all pairs as a table with a head line.
    fn table(&self, title: &str, figure: impl Fn(Pair) -> f64) -> String {
        let mut text = format!("# {title}\n#  from\\to");
        for to in 0..self.ranks {
            let _ = write!(text, "  {to:>9}");
        }
        for from in 0..self.ranks {
            let _ = write!(text, "\n{from:>10}");
            for to in 0..self.ranks {
                let _ = match from == to {
                    true => write!(text, "  {:>9}", "-"),
                    false => write!(text, "  {:>9.2}", figure(self.pairs[(from * self.ranks + to) as usize])),
                };
            }
        }
        text + "\n"
    }
}

/// Measures all pairs and reports them.
pub(super) fn run(args: &BenchArgs, backend: &dyn Backend, (small, large): (u64, u64)) -> Result<Code> {
    if backend.ranks() < 2 {
        return Err(Failure::usage("pairs need 2 ranks or more").into());
    }
    let prints = backend.rank() == 0;
    let json = create_output(args.output_file.as_deref(), backend)?;
    let heatmap = create_output(args.heatmap.as_deref(), backend)?;
    let matrix = measure(args, backend, small as usize, large as usize)?;
    if prints {
        say!("{}", show(&matrix, small, large));
    }
    let picture = || {
        let title = format!("GB/s from row to column, messages of {}", crate::quantity::show_bytes(large));
        super::heatmap::svg(&matrix, &title).map(String::into_bytes)
    };
    if let Some(path) = heatmap.finish(picture, backend)? {
        say!("# Heat map: {}\n", path.display());
    }
    json.finish(|| Ok(to_json(&report(&matrix, small, large))), backend)?;
    Ok(if matrix.wrong() > 0 { Code::Wrong } else { Code::Ok })
}

fn show(matrix: &Matrix, small: u64, large: u64) -> String {
    let latency = format!("Latency (us), {small} bytes, half of there and back");
    let bandwidth = format!("Bandwidth (GB/s), {large} bytes, one direction");
    let verdict = if matrix.wrong() == 0 { "OK" } else { "FAILED" };
    format!(
        "# ronde version {}\n# Collective test starting: pairs\n{}#\n{}# Out of bounds values : {} {verdict}\n",
        env!("CARGO_PKG_VERSION"),
        matrix.table(&latency, |pair| pair.latency_us),
        matrix.table(&bandwidth, |pair| pair.bandwidth),
        matrix.wrong(),
    )
}

fn report(matrix: &Matrix, latency_bytes: u64, bandwidth_bytes: u64) -> Report {
    Report {
        version: env!("CARGO_PKG_VERSION"),
        latency_bytes,
        bandwidth_bytes,
        ranks: matrix.ranks,
        results: matrix.cells().map(|(from, to, pair)| ReportPair { from, to, pair }).collect(),
        wrong: matrix.wrong(),
    }
}

fn measure(args: &BenchArgs, backend: &dyn Backend, small: usize, large: usize) -> Result<Matrix> {
    let mut matrix = Matrix::new(backend.ranks());
    let options = super::options(args)?;
    let half = small.max(large.saturating_mul(IN_FLIGHT)).max(1);
    let mut memory = backend
        .allocate(half.saturating_mul(2), args.is_registered())
        .with_context(|| format!("no memory for messages of {large} bytes"))?;
    for from in 0..backend.ranks() {
        for to in (0..backend.ranks()).filter(|to| *to != from) {
            let mut link = Link { backend, from, to, options: &options, bytes: memory.bytes_mut() };
            let pair = link.measure(args, small, large)?;
            *matrix.at(from, to) = shared(backend, from, pair)?;
        }
    }
    Ok(matrix)
}

/// What the sender timed and both checked, told to everybody.
fn shared(backend: &dyn Backend, from: u32, pair: Pair) -> Result<Pair> {
    let timed = if backend.rank() == from { [pair.latency_us, pair.bandwidth] } else { [0.0; 2] };
    let mut all = [timed[0], timed[1], pair.wrong as f64];
    combine(backend, &mut all, ReduceOp::Sum)?;
    Ok(Pair { latency_us: all[0], bandwidth: all[1], wrong: all[2] as u64 })
}

/// One direction between two ranks, seen from any rank: the others only wait.
struct Link<'a> {
    backend: &'a dyn Backend,
    from: u32,
    to: u32,
    options: &'a CallOptions,
    /// The first half is sent, the second received into.
    bytes: &'a mut [u8],
}

impl Link<'_> {
    fn measure(&mut self, args: &BenchArgs, small: usize, large: usize) -> Result<Pair> {
        meet(self.backend)?;
        if ![self.from, self.to].contains(&self.backend.rank()) {
            return Ok(Pair::default());
        }
        let wrong = if args.check > 0 { self.check(large)? } else { 0 };
        for _ in 0..args.warmup_iters {
            self.there_and_back(small)?;
        }
        let start = self.backend.elapsed();
        for _ in 0..args.iters {
            self.there_and_back(small)?;
        }
        let latency_us = (self.backend.elapsed() - start).as_secs_f64() * 1e6 / f64::from(2 * args.iters);
        for _ in 0..args.warmup_iters {
            self.stream(large)?;
        }
        let start = self.backend.elapsed();
        for _ in 0..args.iters {
            self.stream(large)?;
        }
        let seconds = (self.backend.elapsed() - start).as_secs_f64();
        let bytes = (large * IN_FLIGHT * args.iters as usize) as f64;
        let bandwidth = if seconds > 0.0 { bytes / seconds / 1e9 } else { 0.0 };
        Ok(Pair { latency_us, bandwidth, wrong })
    }

    fn sends(&self) -> bool {
        self.backend.rank() == self.from
    }

    /// Both directions, with contents that the receiver can check. Returns wrong bytes.
    fn check(&mut self, len: usize) -> Result<u64> {
        let contents = Contents { dtype: DType::U8, op: None, ranks: self.backend.ranks(), seed: len as u64 };
        let rank = self.backend.rank();
        let other = if self.sends() { self.to } else { self.from };
        let (out, into) = self.bytes.split_at_mut(self.bytes.len() / 2);
        contents.fill(rank, &mut out[..len]);
        into[..len].fill(0xa5);
        self.there_and_back(len)?;
        let piece = Piece { output: 0..len, source: Source::Copied { rank: other, start: 0 } };
        let half = self.bytes.len() / 2;
        Ok(contents.count_wrong(&piece, &self.bytes[half..half + len], &[]))
    }

    fn there_and_back(&mut self, len: usize) -> Result<()> {
        match self.sends() {
            true => {
                self.pass(Collective::Send, len, 1)?;
                self.pass(Collective::Recv, len, 1)
            }
            false => {
                self.pass(Collective::Recv, len, 1)?;
                self.pass(Collective::Send, len, 1)
            }
        }
    }

    /// [`IN_FLIGHT`] messages one way and an empty one back.
    fn stream(&mut self, len: usize) -> Result<()> {
        match self.sends() {
            true => {
                self.pass(Collective::Send, len, IN_FLIGHT)?;
                self.pass(Collective::Recv, 0, 1)
            }
            false => {
                self.pass(Collective::Recv, len, IN_FLIGHT)?;
                self.pass(Collective::Send, 0, 1)
            }
        }
    }

    /// Sends to or receives from the other rank, `times` messages of `len` bytes at once.
    fn pass(&mut self, collective: Collective, len: usize, times: usize) -> Result<()> {
        let peer = if self.sends() { self.to } else { self.from };
        let (out, into) = self.bytes.split_at_mut(self.bytes.len() / 2);
        lend(|lender| {
            let (out, into) = (lender.shared(out), lender.unique(into));
            let base = Call { collective, dtype: DType::U8, count: len, peer, ..Call::EMPTY };
            let message = |at: usize| {
                let mut call = Call { options: self.options.clone(), ..base.clone() };
                match collective {
                    Collective::Send => call.input = out.slice(at * len, len),
                    _ => call.output = into.slice(at * len, len),
                }
                call
            };
            match times {
                1 => self.backend.run(message(0)).map(drop),
                _ => self.backend.run_all((0..times).map(message).collect()).map(drop),
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let mut matrix = Matrix::new(2);
        *matrix.at(0, 1) = Pair { latency_us: 1.5, bandwidth: 4.25, wrong: 0 };
        *matrix.at(1, 0) = Pair { latency_us: 2.5, bandwidth: 8.0, wrong: 0 };
        matrix
    }

    #[test]
    fn golden_tables() {
        let text = show(&matrix(), 8, 1 << 20);
        let expected = format!(
            "# ronde version {}
# Collective test starting: pairs
# Latency (us), 8 bytes, half of there and back
#  from\\to          0          1
         0          -       1.50
         1       2.50          -
#
# Bandwidth (GB/s), 1048576 bytes, one direction
#  from\\to          0          1
         0          -       4.25
         1       8.00          -
# Out of bounds values : 0 OK
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn json_names_both_ends() {
        let value: serde_json::Value = serde_json::from_slice(&to_json(&report(&matrix(), 8, 64))).unwrap();
        assert_eq!(
            value["results"][1],
            serde_json::json!({"from": 1, "to": 0, "latency_us": 2.5, "bandwidth": 8.0, "wrong": 0})
        );
    }

    #[test]
    fn the_heat_map_shows_every_pair() {
        let svg = super::super::heatmap::svg(&matrix(), "GB/s").unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["4.25", "8.00", "1.5 us", "2.5 us"] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }
}
