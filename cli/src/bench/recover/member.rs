//! The part of one process: operations without a death, one with, and then work until another process has come.
//! Whoever came last goes on with the others, so that a job has as many deaths as are wanted.

use super::death::{Fuse, machine_clock};
use super::notes::Notes;
use super::vectors::Vectors;
use super::{Kill, SafePoint};
use crate::args::BenchArgs;
use crate::bench::options;
use crate::exit::{Code, Failure, code_of};
use crate::session;
use anyhow::{Result, ensure};
use ronde::{CallOptions, Group, Outcome, Part, ReduceOp, Tolerance};
use rustix::process::{Signal, getppid, kill_process};
use std::time::Instant;

/// Operations before each death, to compare with.
const CALM: usize = 5;
/// Safe points that are measured, and how many come before.
const SAFE_POINTS: usize = 500;
const SAFE_POINTS_BEFORE: usize = 200;

pub(super) fn run(args: &BenchArgs, notes: &Notes) -> Code {
    let Err(error) = take_part(args, notes) else { return Code::Ok };
    notes.fail(&error);
    // Whoever started this process would replace it by another one. It is asked to end all of them instead, and says
    // why.
    let _ = getppid().map(|launcher| kill_process(launcher, Signal::TERM));
    code_of(&error)
}

fn take_part(args: &BenchArgs, notes: &Notes) -> Result<()> {
    let mut options = options(args)?;
    if options.tolerance == Tolerance::None {
        options.tolerance = Tolerance::Recover;
    }
    let is_newcomer = std::env::var_os("RONDE_NEWCOMER").is_some();
    if is_newcomer {
        // Before it takes memory and time from those who recover.
        notes.await_vacancy()?;
    }
    let vectors = Vectors::new((args.recover.member_bytes / 4).max(1) as usize)?;
    let asked = Instant::now();
    let group = session::join(&args.join)?;
    let mut member = Member { args, notes, group: &group, options, vectors, weights: Vec::new(), kills: 0 };
    if is_newcomer {
        let first = member.operate()?;
        member.meet(ms_since(asked))?;
        member.check(&first.outcome)?;
    } else {
        member.meet(0.0)?;
        member.pass_safe_points()?;
    }
    member.play()?;
    Ok(group.close()?)
}

struct Member<'a> {
    args: &'a BenchArgs,
    notes: &'a Notes,
    group: &'a Group,
    options: CallOptions,
    vectors: Vectors,
    /// By rank.
    weights: Vec<u32>,
    /// How many have died so far.
    kills: usize,
}

/// One all-reduce.
struct Operation {
    /// By the clock of the machine.
    started: u64,
    took_ms: f64,
    outcome: Outcome,
}

/// What operations come to in which nobody dies.
struct Calm {
    took_ms: f64,
    /// From this rank.
    bytes_sent: u64,
}

/// When this process heard of a death, by the clock of the machine, and how long it stood still then.
struct Notice {
    at: u64,
    stood_still_ms: f64,
}

impl Member<'_> {
    fn play(&mut self) -> Result<()> {
        let moments = &self.args.recover.moments;
        while self.kills < moments.len() * self.args.recover.kills as usize {
            let victim = self.victim();
            let kill = self.kill(victim, moments[self.kills % moments.len()])?;
            self.kills += 1;
            if self.group.rank() == u32::from(victim == 0) {
                self.notes.open_vacancy()?;
            }
            let join_ms = self.await_newcomer()?;
            // It is not the one that has just come: newcomers have the highest ranks.
            if self.group.rank() == 0 {
                self.notes.add(&Kill { join_ms, ..kill })?;
            }
        }
        Ok(())
    }

    /// In turn with all-reduces, since the machine may be busy for a while.
    fn pass_safe_points(&self) -> Result<()> {
        let (mut safe_points, mut all_reduces) = (Vec::new(), Vec::new());
        for _ in 0..SAFE_POINTS_BEFORE + SAFE_POINTS {
            let start = Instant::now();
            let update = self.group.update()?;
            safe_points.push(ms_since(start) * 1e3);
            ensure!(!update.changed, "somebody came who was not asked");
            let start = Instant::now();
            let _ = self.group.all_reduce(&mut [1f64], ReduceOp::Sum)?;
            all_reduces.push(ms_since(start) * 1e3);
        }
        let median = |all: Vec<f64>| super::percentile(all.into_iter().skip(SAFE_POINTS_BEFORE), 50);
        let (safe_point_us, all_reduce_us) = (median(safe_points), median(all_reduces));
        if self.group.rank() == 0 {
            self.notes.tell_safe_point(&SafePoint { safe_point_us, all_reduce_us })?;
        }
        Ok(())
    }

    /// The coordinator is on the lowest rank; the next one has been there for longest of all others.
    fn victim(&self) -> u32 {
        u32::from(!self.args.recover.host)
    }

    /// Tells the others what they need to know of this process, and hears of them. Returns how long the one that
    /// has just come took to join.
    fn meet(&mut self, join_ms: f64) -> Result<f64> {
        let mine = [self.kills as f64, f64::from(self.vectors.weight), join_ms];
        let mut all = vec![0f64; mine.len() * self.group.size() as usize];
        let outcome = self.group.all_gather(&mine, &mut all)?;
        ensure!(outcome.absent.is_empty(), "ranks {:?} died that were not to", outcome.absent);
        let column = |at: usize| all.iter().skip(at).step_by(mine.len()).copied();
        self.kills = column(0).fold(0.0, f64::max) as usize;
        self.weights = column(1).map(|weight| weight as u32).collect();
        Ok(column(2).fold(0.0, f64::max))
    }

    fn operate(&mut self) -> Result<Operation> {
        let (group, Vectors { input, output, .. }) = (self.group, &mut self.vectors);
        timed(|| group.all_reduce_into_with(input, output, ReduceOp::Sum, &self.options))
    }

    /// The sum of the weights of all but these.
    fn weights_without(&self, absent: &[u32]) -> u32 {
        let contributed = self.weights.iter().zip(0..).filter(|(_, rank)| !absent.contains(rank));
        contributed.map(|(weight, _)| weight).sum()
    }

    fn check(&mut self, outcome: &Outcome) -> Result<()> {
        let whole = Part {
            elements: self.vectors.all(),
            contributors: outcome.contributors,
            absent: outcome.absent.clone(),
        };
        let parts = if outcome.parts.is_empty() { &[whole][..] } else { &outcome.parts };
        let mut wrong = 0;
        for Part { elements, absent, .. } in parts {
            wrong += self.vectors.count_wrong(elements.clone(), self.weights_without(absent));
        }
        are_right(wrong, outcome)
    }

    fn calm(&mut self) -> Result<Calm> {
        let mut times = Vec::with_capacity(CALM);
        let mut bytes_sent = 0;
        for _ in 0..CALM {
            let _ = self.group.barrier()?;
            let Operation { took_ms, outcome, .. } = self.operate()?;
            self.check(&outcome)?;
            times.push(took_ms);
            bytes_sent = outcome.bytes_sent;
        }
        let mut slowest = [super::percentile(times.into_iter(), 50)];
        let _ = self.group.all_reduce(&mut slowest, ReduceOp::Max)?;
        Ok(Calm { took_ms: slowest[0], bytes_sent })
    }

    /// An operation in which `victim` dies. Survivors return what it cost, but for the joining of another.
    fn kill(&mut self, victim: u32, moment: f64) -> Result<Kill> {
        let calm = self.calm()?;
        let fuse = (self.group.rank() == victim).then(|| Fuse::new(self.notes.next_death()?)).transpose()?;
        let _ = self.group.barrier()?;
        if let Some(fuse) = &fuse {
            fuse.light(machine_clock() + (calm.took_ms * moment * 1e6) as u64);
        }
        let operation = self.operate()?;
        while fuse.is_some() {
            std::thread::park();
        }
        let notice = self.await_notice(victim, &operation)?;
        self.check(&operation.outcome)?;
        let death = self.notes.moment_of_death()?;
        self.compare(
            &calm,
            [
                (notice.at as f64 - death as f64) / 1e6,
                notice.stood_still_ms,
                operation.took_ms,
                operation.outcome.bytes_sent as f64 - calm.bytes_sent as f64,
                calm.bytes_sent as f64,
            ],
        )
    }

    /// If the operation was over in time for the dead, it is the next one in which its death is noticed: small ones
    /// follow at once until there is one without it. That is the same one on all survivors.
    fn await_notice(&self, victim: u32, operation: &Operation) -> Result<Notice> {
        let mut notice = operation.notice(victim);
        let mut is_absent = operation.outcome.absent.contains(&victim);
        while !is_absent {
            let mut sum = [self.vectors.weight];
            let next = timed(|| self.group.all_reduce_with(&mut sum, ReduceOp::Sum, &self.options))?;
            are_right(usize::from(sum != [self.weights_without(&next.outcome.absent)]), &next.outcome)?;
            notice = notice.or(next.notice(victim));
            is_absent = next.outcome.absent.contains(&victim);
        }
        notice.ok_or_else(|| ronde::Error::internal("a loss without a notice").into())
    }

    /// The figures of the survivors, of which the largest count, and the sum of the bytes.
    fn compare(&self, calm: &Calm, mine: [f64; 5]) -> Result<Kill> {
        let mut all = vec![0f64; mine.len() * self.group.size() as usize];
        let outcome = self.group.all_gather(&mine, &mut all)?;
        let survivors = all.chunks(mine.len()).zip(0..).filter(|(_, rank)| !outcome.absent.contains(rank));
        let survivors: Vec<&[f64]> = survivors.map(|(figures, _)| figures).collect();
        let largest = |at: usize| survivors.iter().map(|figures| figures[at]).fold(f64::MIN, f64::max);
        let sum = |at: usize| survivors.iter().map(|figures| figures[at]).sum();
        Ok(Kill {
            detect_ms: largest(0),
            recover_ms: largest(1),
            total_ms: largest(2),
            fault_free_ms: calm.took_ms,
            extra_bytes: sum(3),
            fault_free_bytes: sum(4),
            join_ms: 0.0,
        })
    }

    /// Works, with a safe point after each operation, until another process has come. Returns how long its joining
    /// took. After a change the first operation is the one that the newcomer waits for; then all meet.
    fn await_newcomer(&mut self) -> Result<f64> {
        loop {
            let update = self.group.update()?;
            let operation = self.operate()?;
            let join_ms = if update.changed { self.meet(0.0)? } else { 0.0 };
            self.check(&operation.outcome)?;
            if !update.joined.is_empty() {
                return Ok(join_ms);
            }
        }
    }
}

impl Operation {
    /// If it was interrupted, or began when the loss was known already.
    fn notice(&self, victim: u32) -> Option<Notice> {
        let Outcome { interruptions, interrupted_after, interrupted_for, absent, .. } = &self.outcome;
        (*interruptions > 0 || absent.contains(&victim)).then(|| Notice {
            at: self.started + interrupted_after.as_nanos() as u64,
            stood_still_ms: interrupted_for.as_secs_f64() * 1e3,
        })
    }
}

fn timed(operate: impl FnOnce() -> ronde::Result<Outcome>) -> Result<Operation> {
    let (started, start) = (machine_clock(), Instant::now());
    let outcome = operate()?;
    Ok(Operation { started, took_ms: ms_since(start), outcome })
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn are_right(wrong: usize, outcome: &Outcome) -> Result<()> {
    let text = format!("{wrong} elements of operation {} are wrong", outcome.seq.0);
    if wrong == 0 { Ok(()) } else { Err(Failure::new(Code::Wrong, text).into()) }
}
