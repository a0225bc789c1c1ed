//! `ronde demo`: several processes train one model on real data. One is killed in the middle of an all-reduce,
//! the others go on; a new one takes its place. The result is held against a single process that saw the
//! same images.

mod digits;
mod report;
mod screen;
mod training;

use crate::args::{DemoArgs, JoinArgs};
use crate::bench::{GroupBackend, gather, to_json};
use crate::exit::Code;
use crate::launch::{self, Job};
use crate::output_file::OutputFile;
use crate::say::say;
use crate::session;
use anyhow::{Context, Result, ensure};
use digits::Digit;
use report::{Join, Kill, PairTransport, Report, View};
use ronde::memory::lend;
use ronde::{Call, Collective, DType, Group, Outcome, ReduceOp, Reduction};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, getpid, kill_process};
use screen::Screen;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use training::{Epoch, SUMMED, Share, Trainer, alone};

/// Longest name of a transport that is passed on.
const NAME: usize = 8;
/// A newcomer is waited for so long when the epochs are over.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(30);
/// Epochs that the newcomer trains along at least.
const EPOCHS_TOGETHER: u32 = 3;

/// Runs the command: starts the processes, or is one of them.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    if !args.spawned {
        return start(args);
    }
    let asked = Instant::now();
    let join =
        JoinArgs { ranks: None, coordinator: None, rank: None, size: None, transports: None, spawned: true };
    let group = session::join(&join)?;
    let code = Part::new(args, &group, asked)?.play()?;
    group.close()?;
    Ok(code.into())
}

/// Starts the processes. Their report comes back in memory: a file that cannot be written must not end one of them, since another
/// would take its place.
fn start(args: &DemoArgs) -> Result<ExitCode> {
    let mut command = launch::own_command()?;
    let output = match &args.output_file {
        Some(path) => {
            let file = OutputFile::create(path)?;
            // Open in the processes too, under the same number.
            let memory =
                memfd_create("ronde-demo", MemfdFlags::empty()).context("no memory for the report")?;
            let report = File::from(memory);
            command.extend(["--report".into(), format!("/proc/self/fd/{}", report.as_raw_fd()).into()]);
            Some((file, report))
        }
        None => None,
    };
    let restarts = u32::from(args.disturbs());
    let code = launch::run(&Job { command, ranks: args.ranks, restarts, quiet: true, ..Job::default() })?;
    if let Some((file, mut report)) = output {
        let mut content = Vec::new();
        report.read_to_end(&mut content).context("cannot read the report")?;
        ensure!(code != 0 || !content.is_empty(), "the processes have ended without a report");
        if !content.is_empty() {
            say!("written to {}\n", file.finish(&content)?.display());
        }
    }
    Ok(code.into())
}

impl DemoArgs {
    /// Whether a process is killed.
    fn disturbs(&self) -> bool {
        !self.undisturbed && self.ranks > 1
    }

    /// Which rank that is: not the first, which hosts the coordinator.
    fn victim(&self) -> u32 {
        (self.ranks / 2).max(1)
    }
}

/// One process's part.
struct Part<'a> {
    args: &'a DemoArgs,
    group: &'a Group,
    training: Vec<Digit>,
    test: Vec<Digit>,
    trainer: Trainer,
    screen: Screen,
    asked: Instant,
    /// Ranks that were lost since the last safe point.
    holes: Vec<u32>,
    sent: u64,
    /// Steps that this process began or took over.
    begun: u64,
    /// Shares of steps that died with their processes.
    lost_shares: Vec<(u64, Share)>,
    /// Seconds of each all-reduce.
    times: Vec<f64>,
    views: Vec<View>,
    kills: Vec<Kill>,
    joins: Vec<Join>,
    /// Of those since the view changed last.
    slowest_safe_point: Duration,
    /// How long joining took this process.
    join_ms: f64,
}

impl Part<'_> {
    fn new<'a>(args: &'a DemoArgs, group: &'a Group, asked: Instant) -> Result<Part<'a>> {
        let (training, test) = digits::load();
        let is_newcomer = group.generation() > 0;
        let mut part = Part {
            args,
            group,
            trainer: Trainer::new(&training),
            training,
            test,
            screen: Screen::new(args.epochs, group.rank() == 0),
            asked,
            holes: Vec::new(),
            sent: 0,
            begun: 0,
            lost_shares: Vec::new(),
            times: Vec::new(),
            views: vec![View { generation: group.generation(), ranks: group.size(), step: 0 }],
            kills: Vec::new(),
            joins: Vec::new(),
            slowest_safe_point: Duration::ZERO,
            join_ms: 0.0,
        };
        part.show_ring();
        if is_newcomer {
            part.share_state(false)?;
            part.join_ms = part.asked.elapsed().as_secs_f64() * 1e3;
        }
        Ok(part)
    }

    fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    fn show_ring(&mut self) {
        self.screen.show_ring(self.group.generation(), self.group.size(), &self.holes);
    }

    fn play(mut self) -> Result<Code> {
        if self.is_first() {
            say!(
                "{} processes train a softmax classifier on {} images of handwritten digits (8x8, UCI)\n",
                self.group.size(),
                self.training.len()
            );
        }
        let start = Instant::now();
        loop {
            let epoch = self.step(start)?;
            if let Some(epoch) = epoch {
                self.screen.show(epoch, self.trainer.steps);
                if epoch.is_last {
                    break;
                }
            }
            if self.is_first() {
                self.keep_pace(start);
            }
            self.safe_point()?;
        }
        let elapsed = start.elapsed();
        self.screen.finish();
        let (is_first, test) = (self.is_first(), self.test.len());
        let args = self.args;
        let report = self.report()?;
        if is_first {
            say!("{} all-reduces in {:.2} s\n", report.steps, elapsed.as_secs_f64());
            say!("{}", report.show(test));
        }
        if let (true, Some(path)) = (is_first, &args.report) {
            std::fs::write(path, to_json(&report)).context("cannot pass the report on")?;
        }
        Ok(if report.models_are_identical() { Code::Ok } else { Code::Wrong })
    }

    /// Ranks that are there, and this one's place among them.
    fn present(&self) -> (Vec<u32>, Share) {
        let here: Vec<u32> = (0..self.group.size()).filter(|rank| !self.holes.contains(rank)).collect();
        let place = here.iter().position(|&rank| rank == self.group.rank()).unwrap_or(0);
        let share = Share { rank: place as u32, ranks: here.len() as u32 };
        (here, share)
    }

    /// One step of the training; a death in the middle of it costs its share of the batch and a moment.
    fn step(&mut self, start: Instant) -> Result<Option<Epoch>> {
        self.begun += 1;
        let (here, share) = self.present();
        let mut vector = self.trainer.contribution(share);
        if self.is_first() && self.wants_to_stop(start) {
            Trainer::ask_to_stop(&mut vector);
        }
        if self.is_time_to_die() {
            self.die_in_all_reduce(&vector)?;
        }
        let started = Instant::now();
        let outcome = self.group.all_reduce(&mut vector, ReduceOp::Sum)?;
        let took = started.elapsed();
        self.sent += outcome.bytes_sent;
        self.times.push(took.as_secs_f64());
        if outcome.interruptions > 0 || outcome.absent != self.holes {
            self.note_loss(&here, &outcome, took);
        }
        Ok(self.trainer.step(&vector, &self.training))
    }

    /// Somebody died: either its contribution was complete, then it counts like any other, or it is left out.
    fn note_loss(&mut self, here: &[u32], outcome: &Outcome, took: Duration) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let step = self.trainer.steps;
        let dead: Vec<u32> = here.iter().copied().filter(|rank| outcome.absent.contains(rank)).collect();
        let counts = if dead.is_empty() { "its share counts" } else { "its share is left out" };
        for (place, _) in here.iter().enumerate().filter(|(_, rank)| dead.contains(rank)) {
            self.lost_shares.push((step, Share { rank: place as u32, ranks: here.len() as u32 }));
        }
        if outcome.interruptions > 0 {
            self.screen.say(&format!(
                "step {step}: a process was killed in the middle of the all-reduce, the others go on after {:.2} ms, {counts}",
                ms(took)
            ));
            self.kills.push(Kill {
                rank: dead.first().copied(),
                step,
                detect_ms: ms(outcome.interrupted_after),
                recover_ms: ms(outcome.interrupted_for),
                total_ms: ms(took),
                fault_free_ms: 0.0,
            });
        }
        self.holes.clone_from(&outcome.absent);
        self.show_ring();
    }

    /// Its part of the all-reduce may have been complete before it was killed: then the others have their sum, and
    /// meet the loss only at the safe point.
    fn note_who_is_gone(&mut self, gone: &[u32]) {
        let took = std::mem::take(&mut self.slowest_safe_point).as_secs_f64() * 1e3;
        for &rank in gone {
            if let Some(kill) = self.kills.iter_mut().find(|kill| kill.rank.is_none_or(|known| known == rank))
            {
                kill.rank = Some(rank);
                continue;
            }
            let step = self.trainer.steps.saturating_sub(1);
            self.screen.say(&format!(
                "step {step}: rank {rank} was killed in the middle of the all-reduce, its share counts, the others meet \
                 the loss at a safe point and go on after {took:.2} ms"
            ));
            let rank = Some(rank);
            self.kills.push(Kill {
                rank,
                step,
                detect_ms: took,
                recover_ms: 0.0,
                total_ms: took,
                fault_free_ms: 0.0,
            });
        }
    }

    /// Who wants to come in comes in here, and gets the model.
    fn safe_point(&mut self) -> Result<()> {
        let started = Instant::now();
        let update = self.group.update()?;
        self.slowest_safe_point = self.slowest_safe_point.max(started.elapsed());
        if !update.changed {
            return Ok(());
        }
        self.note_who_is_gone(&update.gone);
        self.holes.clear();
        self.show_ring();
        let (generation, ranks, step) = (self.group.generation(), self.group.size(), self.trainer.steps);
        self.views.push(View { generation, ranks, step });
        for &rank in &update.joined {
            self.screen.say(&format!(
                "step {step}: a new process joins as rank {rank} of {ranks} and gets the model"
            ));
            self.joins.push(Join { rank, step, join_ms: 0.0 });
        }
        if !update.joined.is_empty() {
            self.share_state(true)?;
        }
        Ok(())
    }

    /// The state of those who have it reaches all.
    fn share_state(&mut self, has_it: bool) -> Result<()> {
        let mut state = self.trainer.state();
        let _ = self.group.share(&mut state, has_it)?;
        self.trainer.restore(&state, &self.training);
        self.begun = self.trainer.steps;
        Ok(())
    }

    /// After a third of the epochs, in the middle of one.
    fn is_time_to_die(&self) -> bool {
        let steps = u64::from(self.args.epochs) * self.steps_per_epoch() / 3 + self.steps_per_epoch() / 2;
        let is_victim = self.group.rank() == self.args.victim() && self.group.generation() == 0;
        self.args.disturbs() && is_victim && self.trainer.steps == steps
    }

    fn steps_per_epoch(&self) -> u64 {
        training::steps_per_epoch(&self.training)
    }

    /// Starts the all-reduce, and is killed as by an operator or the system: nothing is cleaned up.
    fn die_in_all_reduce(&self, vector: &[f32]) -> Result<()> {
        let mut output = vec![0f32; SUMMED];
        lend(|lender| {
            let call = Call {
                collective: Collective::AllReduce,
                dtype: DType::F32,
                count: vector.len(),
                reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                input: lender.shared(vector),
                output: lender.unique(&mut output),
                ..Call::EMPTY
            };
            let _started = self.group.start(call)?;
            kill_process(getpid(), Signal::KILL).context("cannot kill this process")
        })
    }

    /// Rank 0 decides: after the epochs, but not before the newcomer has trained along for a while.
    fn wants_to_stop(&self, start: Instant) -> bool {
        let Some(epoch) = self.trainer.ends_epoch() else { return false };
        let joined = self.joins.last().map(|join| join.step / self.steps_per_epoch() + 1);
        let together = joined.is_some_and(|joined| u64::from(epoch) >= joined + u64::from(EPOCHS_TOGETHER));
        let waits = self.args.disturbs() && !together && start.elapsed() < NEWCOMER_PATIENCE;
        epoch >= self.args.epochs && !waits
    }

    /// A pace that people can follow.
    fn keep_pace(&self, start: Instant) {
        let all = u64::from(self.args.epochs) * self.steps_per_epoch();
        let part = self.trainer.steps.min(all) as f64 / all as f64;
        let left = Duration::from_secs_f64(self.args.seconds * part).saturating_sub(start.elapsed());
        if !left.is_zero() {
            std::thread::park_timeout(left);
        }
    }

    /// Gathers what every rank knows. All ranks call it and get the same, except that only rank 0 trains
    /// alone for comparison.
    fn report(self) -> Result<Report> {
        let backend = GroupBackend::new(self.group);
        let digest = self.trainer.model.digest();
        let digests = gather(&backend, &[(digest >> 64) as u64, digest as u64])?;
        let mut bytes = [self.sent];
        let _ = self.group.all_reduce(&mut bytes, ReduceOp::Sum)?;
        let transports = gather(&backend, &own_transports(self.group))?;
        let join_ms = gather(&backend, &[self.join_ms])?;
        let steps = self.trainer.steps;
        let max_abs_diff = match self.is_first() {
            true => self.trainer.model.max_abs_diff(&alone(&self.training, steps, &self.lost_shares)),
            false => 0.0,
        };
        let (here, _) = self.present();
        let fault_free_ms = median(self.times) * 1e3;
        let _ = self.group.barrier()?;
        let of_present = |all: &[u64]| {
            let halves = all.chunks_exact(2).enumerate().filter(|(rank, _)| here.contains(&(*rank as u32)));
            halves.map(|(_, half)| format!("{:016x}{:016x}", half[0], half[1])).collect()
        };
        let joins = self
            .joins
            .into_iter()
            .map(|join| Join { join_ms: join_ms.get(join.rank as usize).copied().unwrap_or(0.0), ..join });
        Ok(Report {
            accuracy: self.trainer.model.accuracy(&self.test),
            digests: of_present(&digests),
            max_abs_diff,
            bytes: bytes[0],
            transports: pairs(&transports, self.group.size()),
            steps,
            steps_lost: self.begun - steps,
            views: self.views,
            kills: self.kills.into_iter().map(|kill| Kill { fault_free_ms, ..kill }).collect(),
            joins: joins.collect(),
        })
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_from_the_names_of_the_lower_rank() {
        let mut names = vec![0u8; 4 * NAME];
        names[NAME..NAME + 3].copy_from_slice(b"tcp");
        let expected = [PairTransport { ranks: [0, 1], transport: "tcp".into() }];
        assert_eq!(pairs(&names, 2), expected);
    }
}
