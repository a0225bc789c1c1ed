//! Processes come, leave and die while the others work and pass safe points.
//!
//! Every process runs the same program: a few random ops, then a safe point, over and over. Whoever passes a
//! safe point must come into the same view as the others; ops are checked against an oracle; in the end, when
//! nobody comes or goes any more, all that live must be in one view without holes and get on with their work.

use crate::case::{BUDGET, Memory, SMALL, narrow_limits};
use crate::random_op::{Op, Told};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::OpHandle;
use ronde_core::error::Outcome;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Result, Tag};
use ronde_sim::Cluster;
use std::collections::BTreeMap;

/// Tag of the safe point's op: not one of those that programs use.
const INTERNAL: Tag = Tag(u32::MAX);

/// An op by its generation and its number there.
type Key = (u32, usize);

/// Where a process is in its program.
#[derive(Default)]
struct Worker {
    generation: u32,
    /// The next op of this generation.
    next: usize,
    open: Vec<(Key, OpHandle)>,
    /// The safe point's op.
    safe_point: Option<(Memory, OpHandle)>,
    /// It has passed the safe point before the next op.
    passed: bool,
    leaving: bool,
    /// Ops that ended since nobody came or went any more.
    calm_ops: usize,
}

struct Churn {
    cluster: Cluster,
    rng: SmallRng,
    seed: u64,
    workers: Vec<Worker>,
    /// Ops between safe points.
    every: usize,
    ops: BTreeMap<Key, Op>,
    /// Processes of each generation, by rank.
    views: BTreeMap<u32, Vec<usize>>,
    results: BTreeMap<Key, BTreeMap<usize, Result<Outcome>>>,
    newcomers_left: usize,
}

/// Two numbers as the safe point's op takes them.
fn pack(flags: [u32; 2]) -> Memory {
    Memory::new(&[u64::from(flags[0]) | u64::from(flags[1]) << 32])
}

fn unpack(memory: &Memory) -> [u32; 2] {
    let both = memory.values()[0];
    [both as u32, (both >> 32) as u32]
}

impl Churn {
    fn new(seed: u64) -> Churn {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(1..5);
        let newcomers = rng.random_range(1..6);
        let nodes: Vec<u32> = (0..world).map(|_| rng.random_range(0..2)).collect();
        let limits = narrow_limits(&mut rng);
        let cluster = Cluster::with_room(&nodes, newcomers, seed, &limits, SMALL);
        Churn {
            cluster,
            workers: (0..world).map(|_| Worker::default()).collect(),
            every: rng.random_range(1..5),
            rng,
            seed,
            ops: BTreeMap::new(),
            views: BTreeMap::from([(0, (0..world).collect())]),
            results: BTreeMap::new(),
            newcomers_left: newcomers,
        }
    }

    /// Processes at work that will stay.
    fn staying(&self) -> Vec<usize> {
        let stays = |p: &usize| self.cluster.peers[*p].active && !self.workers[*p].leaving;
        self.cluster.alive().into_iter().filter(stays).collect()
    }

    fn turn(&mut self, calm: bool) {
        let alive = self.cluster.alive();
        let process = alive[self.rng.random_range(0..alive.len())];
        self.cluster.step(process);
        if self.cluster.peers[process].active {
            self.work(process, calm);
        }
        if self.rng.random() {
            self.cluster.step_control();
        }
    }

    fn work(&mut self, process: usize, calm: bool) {
        if self.workers[process].next == 0 && !self.workers[process].passed {
            self.starts_generation(process);
        }
        self.take(process, calm);
        if self.workers[process].leaving {
            if self.cluster.is_drained(process) {
                self.cluster.leave(process);
            }
        } else if self.workers[process].safe_point.is_some() {
            self.finish_safe_point(process, calm);
        } else if self.rng.random_ratio(1, 3) {
            let worker = &self.workers[process];
            match worker.next.is_multiple_of(self.every) && !worker.passed {
                true if worker.open.is_empty() => self.start_safe_point(process),
                true => {}
                false if worker.open.len() < 4 => self.start_op(process),
                false => {}
            }
        }
    }

    /// Everybody who comes into a generation finds the same members there.
    fn starts_generation(&mut self, process: usize) {
        let generation = self.cluster.peers[process].view().generation.0;
        self.workers[process].generation = generation;
        self.workers[process].passed = true;
        let members = self.cluster.members(process);
        let known = self.views.entry(generation).or_insert_with(|| members.clone());
        assert_eq!(*known, members, "seed {}: two views in generation {generation}", self.seed);
    }

    fn start_op(&mut self, process: usize) {
        let worker = &mut self.workers[process];
        let key = (worker.generation, worker.next);
        worker.next += 1;
        worker.passed = false;
        let world = self.views[&key.0].len();
        let seed = self.seed ^ u64::from(key.0) << 32 ^ (key.1 as u64) << 48;
        let op = self.ops.entry(key).or_insert_with(|| Op::draw(&mut SmallRng::seed_from_u64(seed), world));
        let rank = self.cluster.rank(process);
        let handle = self.cluster.start(process, op.call(rank), op.in_place).expect("a good call");
        self.workers[process].open.push((key, handle));
    }

    fn take(&mut self, process: usize, calm: bool) {
        let Churn { cluster, workers, ops, views, results, seed, .. } = self;
        let worker = &mut workers[process];
        worker.open.retain(|(key, handle)| {
            let Some(result) = cluster.peers[process].executor.take(*handle) else { return true };
            let op = &ops[key];
            let what = format!("seed {seed}: op {key:?} {} process {process}", op.collective);
            let rank = views[&key.0].iter().position(|&p| p == process).expect("a member");
            if let Ok(outcome) = &result {
                op.check(rank, outcome, &what);
            }
            results.entry(*key).or_default().insert(process, result);
            worker.calm_ops += usize::from(calm);
            false
        });
    }

    fn start_safe_point(&mut self, process: usize) {
        let flags = self.cluster.peers[process].follower.as_ref().expect("it takes part").flags();
        let memory = pack(flags);
        let call = Call {
            collective: Collective::AllReduce,
            dtype: DType::U32,
            count: 2,
            reduction: Some(Reduction::Builtin(ReduceOp::Min)),
            input: memory.segment(),
            output: memory.segment(),
            options: CallOptions { tag: INTERNAL, ..CallOptions::default() },
            ..Call::EMPTY
        };
        let handle = self.cluster.start(process, call, true).expect("a good call");
        self.workers[process].safe_point = Some((memory, handle));
    }

    fn finish_safe_point(&mut self, process: usize, calm: bool) {
        let worker = &mut self.workers[process];
        let Some((memory, handle)) = &worker.safe_point else { return };
        let Some(result) = self.cluster.peers[process].executor.take(*handle) else { return };
        let _ = result.expect("nothing ends the op of a safe point");
        let least = unpack(memory);
        worker.safe_point = None;
        worker.passed = true;
        if self.cluster.enter(process, least) {
            worker.next = 0;
            worker.passed = false;
            self.starts_generation(process);
        }
        // Who hosts the coordinator leaves last.
        let hosts = self.cluster.host() == Some(process);
        if !calm && !hosts && self.rng.random_ratio(1, 15) && self.staying().len() > 1 {
            self.workers[process].leaving = true;
        }
    }

    /// Somebody comes or dies.
    fn event(&mut self) {
        if self.newcomers_left > 0 && self.rng.random() {
            self.newcomers_left -= 1;
            let node = self.rng.random_range(0..2);
            let process = self.cluster.newcomer(node);
            self.workers.push(Worker::default());
            assert_eq!(self.workers.len(), process + 1);
            return;
        }
        let alive = self.cluster.alive();
        let victim = alive[self.rng.random_range(0..alive.len())];
        self.kill(victim, 100);
        // The coordinator may be gone too before the others have gone on.
        if self.rng.random_ratio(1, 3) {
            for _ in 0..self.rng.random_range(0..60) {
                self.turn(false);
            }
            self.cluster.host().into_iter().for_each(|host| self.kill(host, 10));
        }
    }

    /// A process dies, and that is noticed within so many turns; not the last one that works.
    fn kill(&mut self, victim: usize, within: usize) {
        if self.staying().iter().all(|&p| p == victim) {
            return;
        }
        self.cluster.kill(victim);
        for _ in 0..self.rng.random_range(0..within) {
            self.turn(false);
        }
        self.cluster.notice_death(victim);
    }

    /// All that live are at work, in one view, without those who are gone, and get on.
    fn is_well(&self) -> bool {
        let alive = self.cluster.alive();
        let leaves = |p: usize| self.workers[p].leaving;
        alive.iter().all(|&p| {
            let in_view = || self.cluster.members(p);
            !leaves(p)
                && self.cluster.peers[p].active
                && self.workers[p].calm_ops >= 10
                && same(&in_view(), &alive)
        })
    }

    fn check_agreement(&self, tally: &mut Tally) {
        let alive = self.cluster.alive();
        for (key, results) in &self.results {
            let op = &self.ops[key];
            let members = &self.views[&key.0];
            let what = format!("seed {} op {key:?} {}", self.seed, op.collective);
            let told: Vec<&Result<Outcome>> = results
                .iter()
                .filter(|(process, _)| alive.contains(process))
                .map(|(_, result)| result)
                .collect();
            match op.check_agreement(&told, &what) {
                Told::Done { absent, .. } => {
                    let lives = |rank: &u32| alive.contains(&members[*rank as usize]);
                    assert!(!absent.iter().any(lives), "{what}: {absent:?} are not all gone");
                    tally.reduced += usize::from(!absent.is_empty());
                    tally.whole += usize::from(absent.is_empty());
                }
                Told::Lost(error) => {
                    op.check_loss(&error, members, &|process| !alive.contains(&process), &what);
                    tally.failed += 1;
                }
                Told::Nothing => {}
            }
        }
        tally.generations += self.views.len() - 1;
        tally.largest = tally.largest.max(self.views.values().map(Vec::len).max().unwrap_or(0));
    }
}

fn same(a: &[usize], b: &[usize]) -> bool {
    let sorted = |list: &[usize]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    sorted(a) == sorted(b)
}

#[derive(Default, Debug)]
struct Tally {
    whole: usize,
    reduced: usize,
    failed: usize,
    generations: usize,
    largest: usize,
}

/// One schedule; panics where something is wrong, or never happens.
fn schedule(seed: u64, tally: &mut Tally) {
    let mut churn = Churn::new(seed);
    for _ in 0..churn.rng.random_range(2..10) {
        for _ in 0..churn.rng.random_range(0..600) {
            churn.turn(false);
        }
        churn.event();
    }
    let mut turns = 0;
    while !churn.is_well() {
        churn.turn(true);
        turns += 1;
        if turns > BUDGET {
            let describe = |p: usize| {
                let peer = &churn.cluster.peers[p];
                let worker = &churn.workers[p];
                format!(
                    "process {p}: active {}, generation {}, next op {}, at a safe point {}, leaving {}, frozen {}, \
                     members {:?}: {}",
                    peer.active,
                    worker.generation,
                    worker.next,
                    worker.safe_point.is_some(),
                    worker.leaving,
                    peer.executor.is_frozen(),
                    peer.follower.as_ref().map(|_| churn.cluster.members(p)),
                    peer.executor.describe()
                )
            };
            let all: Vec<String> = churn.cluster.alive().into_iter().map(describe).collect();
            panic!("seed {seed}: not well within {BUDGET} turns: {all:#?}");
        }
    }
    churn.check_agreement(tally);
}

/// One schedule, for those who look for mistakes.
#[cfg(feature = "planted-bugs")]
pub(crate) fn churn(seed: u64) {
    schedule(seed, &mut Tally::default());
}

/// `RONDE_SEED=N` replays one schedule, `RONDE_SEEDS=N` runs so many (from that one on).
#[cfg(not(feature = "planted-bugs"))]
#[test]
fn members_come_and_go() {
    let (first, count) = crate::case::seeds(2000);
    let mut tally = Tally::default();
    for seed in first..first + count {
        schedule(seed, &mut tally);
    }
    let Tally { whole, reduced, failed, generations, largest } = &tally;
    println!("{tally:?}");
    let enough = *whole > 1000 && *reduced > 500 && *failed > 50 && *generations > 1000 && *largest > 5;
    assert!(count < 1000 || enough, "{tally:?}");
}
