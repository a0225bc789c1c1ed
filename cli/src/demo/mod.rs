//! `ronde demo`: several processes train one model on real data, and the result is held against a
//! single process that saw the same batches.

mod digits;
mod training;

use crate::args::{DemoArgs, JoinArgs};
use crate::bench::{GroupBackend, gather, to_json};
use crate::exit::Code;
use crate::output_file::OutputFile;
use crate::quantity::show_bytes;
use crate::{launch, session};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use ronde::{Group, ReduceOp};
use serde::Serialize;
use std::convert::Infallible;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;
use training::{Epoch, Model, Share, train};

/// Without a terminal, every how many epochs a line is printed.
const LINES_EVERY: u32 = 5;
/// Longest name of a transport that is passed on.
const NAME: usize = 8;

/// What the demonstration found.
#[derive(Serialize, Debug, PartialEq)]
struct Report {
    /// Part of the test images that the model names rightly.
    accuracy: f64,
    /// xxh3-128 of each rank's parameters.
    digests: Vec<String>,
    /// Largest difference between a parameter and that of the single-process run.
    max_abs_diff: f64,
    /// Payload that all ranks sent in all-reduces.
    bytes: u64,
    transports: Vec<PairTransport>,
}

#[derive(Serialize, Debug, PartialEq)]
struct PairTransport {
    ranks: [u32; 2],
    transport: String,
}

/// Runs the command: starts the processes, or is one of them.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    if !args.spawned {
        return launch::spawn_self(args.ranks).map(ExitCode::from);
    }
    let join =
        JoinArgs { ranks: None, coordinator: None, rank: None, size: None, transports: None, spawned: true };
    let group = session::join(&join)?;
    let code = take_part(args, &group)?;
    group.close()?;
    Ok(code.into())
}

fn take_part(args: &DemoArgs, group: &Group) -> Result<Code> {
    let first = group.rank() == 0;
    let file = match &args.output_file {
        Some(path) if first => Some(OutputFile::create(path)?),
        _ => None,
    };
    let (training, test) = digits::load();
    if first {
        let (n, size) = (group.size(), training.len());
        println!(
            "{n} processes train a softmax classifier on {size} images of handwritten digits (8x8, UCI)"
        );
    }
    let share = Share { rank: group.rank(), ranks: group.size() };
    let screen = Screen::new(args.epochs, first);
    let mut sent = 0u64;
    let mut operations = 0u64;
    let start = Instant::now();
    let sum = |vector: &mut [f32]| {
        let outcome = group.all_reduce(vector, ReduceOp::Sum)?;
        sent += outcome.bytes_sent;
        operations += 1;
        Ok::<(), ronde::Error>(())
    };
    let model = train(&training, share, args.epochs, sum, |epoch| screen.show(epoch))?;
    let elapsed = start.elapsed();
    screen.finish();
    let report = report(args, group, &model, sent, &training, &test)?;
    if first {
        println!("{operations} all-reduces in {:.2} s", elapsed.as_secs_f64());
        print!("{}", show(&report, test.len()));
    }
    if let Some(file) = file {
        println!("written to {}", file.finish(&to_json(&report))?.display());
    }
    Ok(if identical(&report.digests) { Code::Ok } else { Code::Wrong })
}

/// Gathers what every rank knows. All ranks call it and get the same, except that only rank 0 trains
/// alone for comparison.
fn report(
    args: &DemoArgs,
    group: &Group,
    model: &Model,
    sent: u64,
    training: &[digits::Digit],
    test: &[digits::Digit],
) -> Result<Report> {
    let backend = GroupBackend::new(group);
    let digest = model.digest();
    let digests = gather(&backend, &[(digest >> 64) as u64, digest as u64])?;
    let mut bytes = [sent];
    let _ = group.all_reduce(&mut bytes, ReduceOp::Sum)?;
    let transports = gather(&backend, &own_transports(group))?;
    let max_abs_diff =
        if group.rank() == 0 { model.max_abs_diff(&alone(training, args.epochs)) } else { 0.0 };
    let _ = group.barrier()?;
    Ok(Report {
        accuracy: model.accuracy(test),
        digests: digests.chunks_exact(2).map(|half| format!("{:016x}{:016x}", half[0], half[1])).collect(),
        max_abs_diff,
        bytes: bytes[0],
        transports: pairs(&transports, group.size()),
    })
}

/// The same training by one process.
fn alone(training: &[digits::Digit], epochs: u32) -> Model {
    let sum = |_: &mut [f32]| Ok::<(), Infallible>(());
    let Ok(model) = train(training, Share { rank: 0, ranks: 1 }, epochs, sum, drop);
    model
}

/// Names of the transports to each rank, [`NAME`] bytes each; zeros for one's own.
fn own_transports(group: &Group) -> Vec<u8> {
    let mut names = vec![0u8; NAME * group.size() as usize];
    for link in group.links() {
        let start = NAME * link.rank as usize;
        let name = link.transport.as_bytes();
        let len = name.len().min(NAME);
        names[start..start + len].copy_from_slice(&name[..len]);
    }
    names
}

/// The pairs of different ranks from everybody's names.
fn pairs(names: &[u8], ranks: u32) -> Vec<PairTransport> {
    let name = |a: u32, b: u32| {
        let start = NAME * (a * ranks + b) as usize;
        let bytes = names[start..start + NAME].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let all = (0..ranks).flat_map(|a| (a + 1..ranks).map(move |b| [a, b]));
    all.map(|[a, b]| PairTransport { ranks: [a, b], transport: name(a, b) }).collect()
}

fn identical(digests: &[String]) -> bool {
    digests.iter().all(|digest| *digest == digests[0])
}

fn show(report: &Report, test: usize) -> String {
    let same = if identical(&report.digests) { "identical" } else { "DIFFERENT" };
    let mut text = format!("test accuracy          {:.4} (of {test} images)\n", report.accuracy);
    for (rank, digest) in report.digests.iter().enumerate() {
        text += &format!("model of rank {rank:<8} {digest}\n");
    }
    text += &format!("models                 {same}\n");
    text += &format!("max |difference|       {:.3e} from the single-process run\n", report.max_abs_diff);
    text += &format!("bytes moved            {} ({})\n", report.bytes, show_bytes(report.bytes));
    for PairTransport { ranks: [a, b], transport } in &report.transports {
        text += &format!("ranks {a} and {b:<11} {transport}\n");
    }
    text
}

/// Live progress of rank 0: a bar on a terminal, else a line now and then.
struct Screen {
    bar: Option<ProgressBar>,
    prints: bool,
    epochs: u32,
}

impl Screen {
    fn new(epochs: u32, prints: bool) -> Screen {
        let bar = (prints && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(u64::from(epochs));
            match ProgressStyle::with_template("epoch {pos:>3}/{len} {bar:30} {msg} {elapsed_precise}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Screen { bar, prints, epochs }
    }

    fn show(&self, Epoch { number, loss }: Epoch) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("loss {loss:.4}"));
                bar.inc(1);
            }
            None if self.prints && (number % LINES_EVERY == 0 || number == self.epochs) => {
                println!("epoch {number:>3} of {}: loss {loss:.4}", self.epochs);
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(digests: [&str; 2]) -> Report {
        Report {
            accuracy: 0.95,
            digests: digests.map(str::to_owned).to_vec(),
            max_abs_diff: 1.5e-6,
            bytes: 2048,
            transports: vec![PairTransport { ranks: [0, 1], transport: "shm".into() }],
        }
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let value: serde_json::Value = serde_json::from_slice(&to_json(&example(["a", "a"]))).unwrap();
        let expected = serde_json::json!({
            "accuracy": 0.95,
            "digests": ["a", "a"],
            "max_abs_diff": 1.5e-6,
            "bytes": 2048,
            "transports": [{"ranks": [0, 1], "transport": "shm"}],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn models_that_differ_are_shown_so() {
        assert!(show(&example(["a", "a"]), 359).contains("models                 identical"));
        assert!(show(&example(["a", "b"]), 359).contains("models                 DIFFERENT"));
    }

    #[test]
    fn pairs_come_from_the_names_of_the_lower_rank() {
        let mut names = vec![0u8; 4 * NAME];
        names[NAME..NAME + 3].copy_from_slice(b"tcp");
        let expected = [PairTransport { ranks: [0, 1], transport: "tcp".into() }];
        assert_eq!(pairs(&names, 2), expected);
    }
}
