//! Processes come, leave and die while the others work and pass safe points.
//!
//! Every process runs the same program: a few random ops, then a safe point, over and over. Whoever passes a
//! safe point must come into the same view as the others; ops are checked against an oracle; in the end, when
//! nobody comes or goes any more, all that live must be in one view without holes and get on with their work.

use crate::case::{BUDGET, Memory, NarrowLimits, SMALL};
use crate::random_op::{Op, OpSpec, Told, with_one_simpler};
use crate::scenario::{Scenario, counts, with_less};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::OpHandle;
use ronde_core::error::Outcome;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Result, Tag};
use ronde_sim::{Cluster, InFlight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tag of the safe point's op: not one of those that programs use.
const INTERNAL: Tag = Tag(u32::MAX);

/// What happens to a job.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Event {
    /// A process starts on a node and asks to join.
    Newcomer { node: u32 },
    /// One of those that live dies, which is noticed within so many turns. In some cases the coordinator goes too so many
    /// turns later, before the others have gone on.
    Death { victim: usize, noticed: usize, then_host: Option<usize> },
}

/// A schedule of comings and goings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comings {
    /// Elements, what links do, and the order of events follow from it.
    seed: u64,
    /// The node of each process that is there from the start.
    nodes: Vec<u32>,
    limits: NarrowLimits,
    /// Ops between safe points.
    every: usize,
    /// Processes leave in order now and then.
    leaves: bool,
    /// The ops of each generation, over and over.
    ops: Vec<OpSpec>,
    /// Each so many turns after the one before.
    events: Vec<(usize, Event)>,
}

impl Scenario for Comings {
    fn simpler(&self) -> Vec<Comings> {
        let with_events = |events| Comings { events, ..self.clone() };
        let mut all: Vec<Comings> = with_less(&self.events).into_iter().map(with_events).collect();
        let fewer_ops = with_less(&self.ops).into_iter().filter(|ops| !ops.is_empty());
        all.extend(fewer_ops.map(|ops| Comings { ops, ..self.clone() }));
        if self.nodes.len() > 1 {
            all.push(Comings { nodes: self.nodes[1..].to_vec(), ..self.clone() });
        }
        if self.leaves {
            all.push(Comings { leaves: false, ..self.clone() });
        }
        for (at, &(turns, event)) in self.events.iter().enumerate().filter(|(_, (turns, _))| *turns > 0) {
            all.extend([0, turns / 2].map(|turns| {
                let mut events = self.events.clone();
                events[at] = (turns, event);
                with_events(events)
            }));
        }
        all.extend(with_one_simpler(&self.ops).into_iter().map(|ops| Comings { ops, ..self.clone() }));
        all
    }

    fn reseeded(&self, seed: u64) -> Comings {
        Comings { seed, ..self.clone() }
    }

    fn size(&self) -> String {
        let [peers, ops, events] = [self.nodes.len(), self.ops.len(), self.events.len()];
        format!("peers: {peers}, kinds of ops: {ops}, comings and deaths: {events}")
    }
}

/// What is drawn from a seed.
pub(crate) fn draw(seed: u64) -> Comings {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut newcomers = rng.random_range(1..6);
    let mut event = |rng: &mut SmallRng| {
        if newcomers > 0 && rng.random() {
            newcomers -= 1;
            return Event::Newcomer { node: rng.random_range(0..2) };
        }
        let victim = rng.random_range(0..720_720);
        let then_host = rng.random_ratio(1, 3).then(|| rng.random_range(0..60));
        Event::Death { victim, noticed: rng.random_range(0..100), then_host }
    };
    Comings {
        seed,
        nodes: (0..rng.random_range(1..5)).map(|_| rng.random_range(0..2)).collect(),
        limits: NarrowLimits::draw(&mut rng),
        every: rng.random_range(1..5),
        leaves: true,
        // Roots are taken modulo the number of ranks.
        ops: (0..rng.random_range(4..20)).map(|_| OpSpec::draw(&mut rng, 60, 2000)).collect(),
        events: (0..rng.random_range(2..10)).map(|_| (rng.random_range(0..600), event(&mut rng))).collect(),
    }
}

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
    comings: Comings,
    workers: Vec<Worker>,
    ops: BTreeMap<Key, Op>,
    /// Processes of each generation, by rank.
    views: BTreeMap<u32, Vec<usize>>,
    results: BTreeMap<Key, BTreeMap<usize, Result<Outcome>>>,
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
    fn new(comings: &Comings) -> Churn {
        let world = comings.nodes.len();
        let newcomers = comings.events.iter().filter(|(_, event)| matches!(event, Event::Newcomer { .. }));
        let (room, limits) = (newcomers.count(), comings.limits.limits());
        Churn {
            cluster: Cluster::with_room(&comings.nodes, room, comings.seed, &limits, SMALL),
            rng: SmallRng::seed_from_u64(comings.seed),
            comings: comings.clone(),
            workers: (0..world).map(|_| Worker::default()).collect(),
            ops: BTreeMap::new(),
            views: BTreeMap::from([(0, (0..world).collect())]),
            results: BTreeMap::new(),
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
            match worker.next.is_multiple_of(self.comings.every) && !worker.passed {
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
        assert_eq!(*known, members, "two views in generation {generation}");
    }

    fn start_op(&mut self, process: usize) {
        let worker = &mut self.workers[process];
        let key = (worker.generation, worker.next);
        worker.next += 1;
        worker.passed = false;
        let world = self.views[&key.0].len();
        let seed = self.comings.seed ^ u64::from(key.0) << 32 ^ (key.1 as u64) << 48;
        let specs = &self.comings.ops;
        let spec = &specs[(key.0 as usize + key.1) % specs.len()];
        let new = || Op::new(spec, world, &mut SmallRng::seed_from_u64(seed));
        let call = self.ops.entry(key).or_insert_with(new).call(self.cluster.rank(process));
        let in_place = call.input.overlaps(&call.output);
        let handle = self.cluster.start(process, call, in_place).expect("a good call");
        self.workers[process].open.push((key, handle));
    }

    fn take(&mut self, process: usize, calm: bool) {
        let Churn { cluster, workers, ops, views, results, .. } = self;
        let worker = &mut workers[process];
        worker.open.retain(|(key, handle)| {
            let Some(result) = cluster.peers[process].executor.take(*handle) else { return true };
            let op = &ops[key];
            let what = format!("op {key:?} {} process {process}", op.collective);
            let rank = views[&key.0].iter().position(|&p| p == process).expect("a member");
            if let Ok(outcome) = &result {
                op.check(rank, outcome, 0, &what);
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
        let leaves = self.comings.leaves && !calm && !hosts;
        if leaves && self.rng.random_ratio(1, 15) && self.staying().len() > 1 {
            self.workers[process].leaving = true;
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Newcomer { node } => {
                let process = self.cluster.newcomer(node);
                self.workers.push(Worker::default());
                assert_eq!(self.workers.len(), process + 1);
            }
            Event::Death { victim, noticed, then_host } => {
                let alive = self.cluster.living();
                let victim = alive[victim % alive.len()];
                self.kill(victim, noticed);
                if let Some(turns) = then_host {
                    (0..turns).for_each(|_| self.turn(false));
                    self.cluster.host().into_iter().for_each(|host| self.kill(host, turns / 6));
                }
            }
        }
    }

    /// A process dies, and that is noticed after so many turns; not the last one that works.
    fn kill(&mut self, victim: usize, noticed: usize) {
        if self.staying().iter().all(|&p| p == victim) {
            return;
        }
        self.cluster.kill(victim, InFlight::Cut);
        (0..noticed).for_each(|_| self.turn(false));
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

    /// Where everybody is, in words.
    fn describe(&self) -> Vec<String> {
        let word = |&process: &usize| {
            let (peer, worker) = (&self.cluster.peers[process], &self.workers[process]);
            format!(
                "process {process}: active {}, generation {}, next op {}, at a safe point {}, leaving {}, frozen {}, \
                 members {:?}: {}",
                peer.active,
                worker.generation,
                worker.next,
                worker.safe_point.is_some(),
                worker.leaving,
                peer.executor.is_frozen(),
                peer.follower.as_ref().map(|_| self.cluster.members(process)),
                peer.executor.describe()
            )
        };
        self.cluster.living().iter().map(word).collect()
    }

    fn check_agreement(&self, tally: &mut Tally) {
        let alive = self.cluster.alive();
        for (key, results) in &self.results {
            let op = &self.ops[key];
            let members = &self.views[&key.0];
            let what = format!("op {key:?} {}", op.collective);
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
        tally.large += usize::from(self.views.values().any(|members| members.len() > 5));
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

counts! {
    Tally {
        whole,
        reduced,
        failed,
        generations,
        /// Jobs that had more than five members at some time.
        large,
    }
}

/// Plays a schedule; panics where something is wrong, or never happens. Gives what happened in one number.
fn play_into(comings: &Comings, tally: &mut Tally) -> u64 {
    let mut churn = Churn::new(comings);
    for &(turns, event) in &comings.events {
        (0..turns).for_each(|_| churn.turn(false));
        churn.event(event);
    }
    let mut turns = 0;
    while !churn.is_well() {
        churn.turn(true);
        turns += 1;
        assert!(turns <= BUDGET, "not well within {BUDGET} turns: {:#?}", churn.describe());
    }
    churn.check_agreement(tally);
    churn.cluster.trace()
}

/// The same, for those who look for mistakes.
#[cfg(feature = "planted-bugs")]
pub(crate) fn play(comings: &Comings) {
    play_into(comings, &mut Tally::default());
}

#[cfg(not(feature = "planted-bugs"))]
#[test]
fn members_come_and_go() {
    let (count, tally) = crate::replay::play_seeds("members_come_and_go", 2000, draw, play_into);
    let Tally { whole, reduced, failed, generations, large } = tally;
    println!("{tally:?}");
    let enough = whole > 1000 && reduced > 500 && failed > 50 && generations > 1000 && large > 50;
    assert!(count < 1000 || enough, "{tally:?}");
}

/// A coordinator told one member that calls commit by Done which only a dead one had started, and died before it told the other.
#[test]
fn what_one_plan_said_holds_for_the_next() {
    let schedule = r#"{"seed":63272,"nodes":[0],"limits":{"eager_bytes":512,"log_entries":3,"log_op_bytes_memory":512},"every":4,"leaves":true,"ops":[{"collective":"AllReduce","algorithm":null,"tolerance":"Recover","count":0,"root":0,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"Barrier","algorithm":null,"tolerance":"Recover","count":0,"root":0,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"AllToAll","algorithm":null,"tolerance":"Recover","count":0,"root":0,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"Gather","algorithm":null,"tolerance":"Recover","count":0,"root":0,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"AllReduce","algorithm":null,"tolerance":"None","count":1230,"root":10,"in_place":false,"tag":0,"reduces":"WeightedAvg"},{"collective":"AllReduce","algorithm":null,"tolerance":"Recover","count":270,"root":59,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"AllReduce","algorithm":null,"tolerance":"Recover","count":2,"root":3,"in_place":true,"tag":1,"reduces":"Sum"},{"collective":"AllToAll","algorithm":null,"tolerance":"Recover","count":2,"root":12,"in_place":false,"tag":0,"reduces":"Sum"},{"collective":"AllReduce","algorithm":null,"tolerance":"Recover","count":88,"root":34,"in_place":false,"tag":1,"reduces":"WeightedAvg"},{"collective":"Barrier","algorithm":null,"tolerance":"PerWindow","count":0,"root":54,"in_place":false,"tag":1,"reduces":"Sum"},{"collective":"Gather","algorithm":null,"tolerance":"PerWindow","count":15,"root":15,"in_place":true,"tag":1,"reduces":"Sum"},{"collective":"AllReduce","algorithm":null,"tolerance":"Recover","count":1931,"root":10,"in_place":false,"tag":0,"reduces":"Sum"}],"events":[[18,{"Newcomer":{"node":1}}],[292,{"Newcomer":{"node":1}}],[261,{"Newcomer":{"node":1}}],[462,{"Death":{"victim":319409,"noticed":65,"then_host":38}}]]}"#;
    play_into(&crate::scenario::parse(schedule), &mut Tally::default());
}
