//! Every point at which a peer may die in small jobs: each is run without a death, to count its events, and then
//! again with each victim dying right before each of these events. `RONDE_SEED=N` has other links and another order of
//! events.

use crate::case::NarrowLimits;
#[cfg(not(feature = "planted-bugs"))]
use crate::job::Late;
use crate::job::{Death, Losses, Moment};
use crate::random_op::{OpSpec, Reduces};
use ronde_core::{Collective, Tolerance};
use ronde_sim::InFlight;

/// A call of two windows or more where it has any, on so many ranks.
struct Kind {
    collective: Collective,
    algorithm: &'static str,
    tolerance: Tolerance,
    count: usize,
    /// The calls of a job are a commit group.
    together: bool,
    strict_commit: bool,
}

const KINDS: [Kind; 32] = {
    use Collective::*;
    use Tolerance::*;
    const fn kind(
        collective: Collective,
        algorithm: &'static str,
        tolerance: Tolerance,
        count: usize,
    ) -> Kind {
        Kind { collective, algorithm, tolerance, count, together: false, strict_commit: false }
    }
    const fn strict(collective: Collective, algorithm: &'static str, count: usize) -> Kind {
        Kind { strict_commit: true, ..kind(collective, algorithm, Recover, count) }
    }
    const fn together(collective: Collective, algorithm: &'static str, count: usize) -> Kind {
        Kind { together: true, ..kind(collective, algorithm, Recover, count) }
    }
    [
        kind(AllReduce, "one-shot", Recover, 5),
        kind(AllReduce, "two-shot", Recover, 100),
        kind(AllReduce, "ring", Recover, 100),
        kind(AllReduce, "two-shot", PerWindow, 200),
        kind(AllReduce, "recursive-doubling", Recover, 20),
        kind(AllReduce, "halving-doubling", Recover, 100),
        kind(AllReduce, "hierarchical", Recover, 100),
        strict(AllReduce, "one-shot", 1),
        strict(AllReduce, "two-shot", 1),
        together(AllReduce, "one-shot", 5),
        together(AllReduce, "ring", 100),
        together(AllGather, "direct", 40),
        together(ReduceScatter, "direct", 40),
        kind(AllGather, "direct", Recover, 40),
        kind(AllGather, "ring", Recover, 40),
        kind(ReduceScatter, "direct", Recover, 40),
        kind(ReduceScatter, "ring", Recover, 40),
        kind(AllToAll, "direct", Recover, 40),
        kind(Broadcast, "direct", Recover, 100),
        kind(Broadcast, "tree", Recover, 100),
        kind(Broadcast, "chain", Recover, 100),
        kind(Reduce, "tree", Recover, 100),
        kind(Gather, "direct", Recover, 40),
        kind(Scatter, "direct", Recover, 40),
        kind(Barrier, "dissemination", Recover, 0),
        kind(AllGatherV, "direct", Recover, 40),
        kind(AllGatherV, "ring", Recover, 40),
        kind(ReduceScatterV, "direct", Recover, 40),
        kind(ReduceScatterV, "ring", Recover, 40),
        kind(AllToAllV, "direct", Recover, 40),
        kind(GatherV, "direct", Recover, 40),
        kind(ScatterV, "direct", Recover, 40),
    ]
};

/// Two calls of each kind, in place and out of place. Links and the order of events follow from the seed.
pub(crate) fn jobs(world: usize, seed: u64) -> Vec<Losses> {
    let mut jobs = Vec::new();
    for (kind, in_place) in KINDS.iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let seed = seed * 1000 + (world * 100 + jobs.len()) as u64;
        let op = |root| OpSpec {
            collective: kind.collective,
            algorithm: Some(kind.algorithm.to_string()),
            tolerance: kind.tolerance,
            count: kind.count,
            root,
            in_place,
            tag: 0,
            commit_group: kind.together.then_some(0),
            strict_commit: kind.strict_commit,
            reduces: if root == 0 { Reduces::WeightedAvg } else { Reduces::Sum },
        };
        jobs.push(Losses {
            seed,
            nodes: (0..world).map(|rank| rank as u32 / 2).collect(),
            limits: NarrowLimits {
                eager_bytes: 1 << (9 + seed % 5),
                log_entries: 1 + seed as usize % 3,
                log_op_bytes_memory: if seed.is_multiple_of(2) { 8 } else { 2048 },
            },
            ops: vec![op(world - 1), op(0)],
            messages: Vec::new(),
            deaths: Vec::new(),
            late: Vec::new(),
            abort: None,
        });
    }
    jobs
}

/// The job in which a rank soon finds its first call late.
#[cfg(not(feature = "planted-bugs"))]
fn and_late(job: &Losses) -> Losses {
    let world = job.nodes.len();
    let (rank, turns) = (job.seed as usize % world, world + (7 * job.seed as usize) % (12 * world));
    Losses { late: vec![Late { rank, turns }], ..job.clone() }
}

/// The job with one more death. That is noticed at once or a while later, as the event says.
fn and_death(job: &Losses, victim: usize, event: u64, in_flight: InFlight) -> Losses {
    let unnoticed = if event.is_multiple_of(2) { 0 } else { 10 * job.nodes.len() };
    let death =
        Death { victim, moment: Moment::Event(event), in_flight, unnoticed, settles: false, lingers: 0 };
    let mut job = job.clone();
    job.deaths.push(death);
    job
}

const FATES: [InFlight; 2] = [InFlight::Delivered, InFlight::Lost];

/// The job with each victim dying at an event.
pub(crate) fn first_deaths(job: &Losses, event: u64) -> impl Iterator<Item = Losses> {
    let deaths = (0..job.nodes.len()).flat_map(|victim| FATES.map(|in_flight| (victim, in_flight)));
    deaths.map(move |(victim, in_flight)| and_death(job, victim, event, in_flight))
}

#[cfg(not(feature = "planted-bugs"))]
mod tests {
    use super::*;
    use crate::job::{Tally, play};
    use crate::replay::{check, named, number};
    use std::cell::Cell;

    /// Plays one job after the other.
    struct Runs {
        test: &'static str,
        runs: Cell<usize>,
        tally: Cell<Tally>,
    }

    impl Runs {
        fn new(test: &'static str) -> Runs {
            Runs { test, runs: Cell::default(), tally: Cell::default() }
        }

        /// The number of events.
        fn play(&self, job: &Losses) -> u64 {
            let events = Cell::new(0);
            check(self.test, None, job, &|job| {
                let mut tally = self.tally.get();
                events.set(play(job, &mut tally).events);
                self.tally.set(tally);
            });
            self.runs.set(self.runs.get() + 1);
            events.get()
        }

        fn finish(&self, start: std::time::Instant) {
            let seconds = start.elapsed().as_secs_f64();
            println!("{} runs in {seconds:.1} s: {:?}", self.runs.get(), self.tally.get());
        }
    }

    /// Each victim at each event, and what it had sent delivered or lost. Without optimisation a sample of the events.
    #[test]
    fn every_crash_point() {
        let runs = Runs::new("every_crash_point");
        if let Some(job) = named(runs.test) {
            runs.play(&job);
            return;
        }
        let start = std::time::Instant::now();
        let step = if cfg!(debug_assertions) { 17 } else { 1 };
        for world in 2..=4 {
            let jobs = jobs(world, number("RONDE_SEED").unwrap_or(0));
            // Four take four times as long as three.
            let late: Vec<Losses> = jobs.iter().filter(|_| world < 4).map(and_late).collect();
            for job in jobs.into_iter().chain(late) {
                let events = runs.play(&job);
                for event in (0..events).step_by(step) {
                    for job in first_deaths(&job, event) {
                        runs.play(&job);
                    }
                }
            }
        }
        runs.finish(start);
    }

    /// Of all pairs of victims, events and fates among three peers one in so many is run.
    const PAIR_STEP: usize = if cfg!(debug_assertions) { 4001 } else { 11 };

    #[test]
    fn pairs_of_crash_points() {
        let runs = Runs::new("pairs_of_crash_points");
        if let Some(job) = named(runs.test) {
            runs.play(&job);
            return;
        }
        let start = std::time::Instant::now();
        let step = if cfg!(debug_assertions) { 17 } else { 1 };
        let mut pairs = 0;
        for job in jobs(3, number("RONDE_SEED").unwrap_or(0)) {
            for first in (0..runs.play(&job)).step_by(step) {
                for one in first_deaths(&job, first) {
                    let victim = one.deaths[0].victim;
                    // Among the events are those of recovery; how many there are only a run can tell.
                    let seconds = (first + 1)..runs.play(&one);
                    for (second, other, in_flight) in seconds.flat_map(|second| second_deaths(second, victim))
                    {
                        pairs += 1;
                        if pairs % PAIR_STEP == 0 {
                            runs.play(&and_death(&one, other, second, in_flight));
                        }
                    }
                }
            }
        }
        println!("of {pairs} pairs one in {PAIR_STEP}");
        runs.finish(start);
    }

    /// Who else of three may die at an event, and how: also within a frame.
    fn second_deaths(event: u64, first: usize) -> [(u64, usize, InFlight); 4] {
        let others = [(first + 1) % 3, (first + 2) % 3];
        let fates = [InFlight::Delivered, InFlight::Cut];
        std::array::from_fn(|at| (event, others[at / 2], fates[at % 2]))
    }
}
