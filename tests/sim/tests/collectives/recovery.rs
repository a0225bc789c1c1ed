//! Peers die in the middle of ops, and the others go on: every outcome against an oracle that knows who
//! contributed.

use crate::case::{BUDGET, Memory, POISON, SMALL, narrow_limits};
use crate::random_op::{Op, Told};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::OpHandle;
use ronde_core::error::Outcome;
use ronde_core::{Collective, DType, Result, Segment, Tag};
use ronde_sim::Cluster;

/// A message between two ranks, of which either may die.
struct Message {
    from: usize,
    to: usize,
    tag: u32,
    values: Vec<u64>,
    source: Memory,
    target: Memory,
}

impl Message {
    fn draw(rng: &mut SmallRng, world: usize) -> Message {
        let from = rng.random_range(0..world);
        let to = (from + rng.random_range(1..world)) % world;
        let most = if rng.random() { 20 } else { 2000 };
        let values: Vec<u64> = (0..rng.random_range(0..most)).map(|_| rng.random()).collect();
        let (source, target) = (Memory::new(&values), Memory::new(&vec![POISON; values.len()]));
        Message { from, to, tag: rng.random_range(0..2), values, source, target }
    }

    fn call(&self, rank: usize) -> Call {
        let sends = rank == self.from;
        Call {
            collective: if sends { Collective::Send } else { Collective::Recv },
            dtype: DType::U64,
            count: self.values.len(),
            peer: if sends { self.to } else { self.from } as u32,
            input: if sends { self.source.segment() } else { Segment::EMPTY },
            output: if sends { Segment::EMPTY } else { self.target.segment() },
            options: CallOptions { tag: Tag(self.tag), ..CallOptions::default() },
            ..Call::EMPTY
        }
    }

    fn concerns(&self, rank: usize) -> bool {
        rank == self.from || rank == self.to
    }
}

/// A job that makes random ops, and sends messages, while some of its peers die.
struct Job {
    cluster: Cluster,
    rng: SmallRng,
    ops: Vec<Op>,
    /// By rank: the next op to start.
    next: Vec<usize>,
    handles: Vec<Vec<Option<OpHandle>>>,
    results: Vec<Vec<Option<Result<Outcome>>>>,
    messages: Vec<Message>,
    /// By rank: the next message to look at, and those in flight.
    next_message: Vec<usize>,
    in_flight: Vec<Vec<(usize, OpHandle)>>,
    what: String,
}

impl Job {
    fn new(seed: u64) -> Job {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..7);
        let nodes: Vec<u32> = (0..world).map(|_| rng.random_range(0..2)).collect();
        let limits = narrow_limits(&mut rng);
        let cluster = Cluster::new(&nodes, seed, &limits, SMALL);
        let ops: Vec<Op> = (0..rng.random_range(4..20)).map(|_| Op::draw(&mut rng, world)).collect();
        let messages = (0..rng.random_range(0..12)).map(|_| Message::draw(&mut rng, world)).collect();
        Job {
            messages,
            next_message: vec![0; world],
            in_flight: vec![Vec::new(); world],
            next: vec![0; world],
            handles: vec![vec![None; ops.len()]; world],
            results: (0..world).map(|_| (0..ops.len()).map(|_| None).collect()).collect(),
            cluster,
            rng,
            ops,
            what: format!("seed {seed}"),
        }
    }

    /// A random rank that lives starts its next op, takes results, or makes a step.
    fn turn(&mut self) {
        let alive = self.cluster.alive();
        let rank = alive[self.rng.random_range(0..alive.len())];
        if self.rng.random_ratio(1, 4) && self.next[rank] < self.ops.len() {
            let at = self.next[rank];
            self.next[rank] += 1;
            let op = &self.ops[at];
            match self.cluster.start(rank, op.call(rank), op.in_place) {
                Ok(handle) => self.handles[rank][at] = Some(handle),
                Err(error) => self.results[rank][at] = Some(Err(error)),
            }
        }
        if self.rng.random_ratio(1, 4) && self.next_message[rank] < self.messages.len() {
            let at = self.next_message[rank];
            self.next_message[rank] += 1;
            let message = &self.messages[at];
            if message.concerns(rank) {
                let handle = self.cluster.start(rank, message.call(rank), false).expect("it has its number");
                self.in_flight[rank].push((at, handle));
            }
        }
        self.cluster.step(rank);
        if self.rng.random_ratio(1, 3) {
            self.cluster.step_control();
        }
        self.take(rank);
    }

    fn take(&mut self, rank: usize) {
        self.take_messages(rank);
        for at in 0..self.next[rank] {
            if let Some(handle) = self.handles[rank][at]
                && let Some(result) = self.cluster.peers[rank].executor.take(handle)
            {
                self.handles[rank][at] = None;
                let what = format!("{}: op {at} {} rank {rank}", self.what, self.ops[at].collective);
                if let Ok(outcome) = &result {
                    self.ops[at].check(rank, outcome, &what);
                }
                self.results[rank][at] = Some(result);
            }
        }
    }

    /// What a rank heard to be stable before it died is what the survivors have.
    fn check_stable(&self, rank: usize, tally: &mut Tally) {
        for tag in 0..2 {
            let of_tag: Vec<usize> = (0..self.ops.len()).filter(|&at| self.ops[at].tag == tag).collect();
            let heard = of_tag.iter().filter_map(|&at| self.results[rank][at].as_ref()?.as_ref().ok());
            let stable = heard.map(|outcome| outcome.stable_through.0).max().unwrap_or(0);
            for &at in &of_tag[..stable as usize] {
                let Some(Ok(mine)) = &self.results[rank][at] else { continue };
                let same = |other: usize| match &self.results[other][at] {
                    Some(Ok(theirs)) => (&mine.absent, &mine.parts) == (&theirs.absent, &theirs.parts),
                    _ => self.ops[at].is_strict(),
                };
                let what = format!("{}: op {at} was stable for rank {rank}", self.what);
                assert!(self.cluster.alive().into_iter().all(same), "{what}");
                tally.stable += 1;
            }
        }
    }

    /// A message arrives as it was sent, or ends with an error that names its other side, which is dead.
    fn take_messages(&mut self, rank: usize) {
        let Job { in_flight, messages, cluster, what, .. } = self;
        in_flight[rank].retain(|(at, handle)| {
            let Some(result) = cluster.peers[rank].executor.take(*handle) else { return true };
            let message = &messages[*at];
            let other = if rank == message.from { message.to } else { message.from };
            match result {
                Ok(_) if rank == message.to => {
                    assert_eq!(message.target.values(), message.values, "{what}: message {at}");
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(error.to_string().contains(&format!("peer {other} ")), "{what}: {error}");
                    assert!(!cluster.alive().contains(&other), "{what}: message {at}: {error}");
                }
            }
            false
        });
    }

    fn has_messages(&self, rank: usize) -> bool {
        !self.in_flight[rank].is_empty() || self.next_message[rank] < self.messages.len()
    }

    fn is_done(&self) -> bool {
        let busy = |rank: usize| self.has_messages(rank);
        if self.cluster.alive().into_iter().any(busy) {
            return false;
        }
        self.cluster.alive().into_iter().all(|rank| self.results[rank].iter().all(Option::is_some))
    }

    /// Survivors agree on every op: contributors, absent ranks, and whether it worked.
    fn check_agreement(&self, tally: &mut Tally) {
        let (mut reduced, mut failed, mut in_parts, mut handed_on) = (0, 0, 0, 0);
        for (at, op) in self.ops.iter().enumerate() {
            let alive = self.cluster.alive();
            let told: Vec<&Result<Outcome>> =
                alive.iter().map(|&rank| self.results[rank][at].as_ref().expect("done")).collect();
            let what = format!("{} op {at} {} in place {}", self.what, op.collective, op.in_place);
            match op.check_agreement(&told, &what) {
                Told::Lost(error) => {
                    let members: Vec<usize> = (0..self.next.len()).collect();
                    op.check_loss(&error, &members, &|rank| !alive.contains(&rank), &what);
                    failed += 1;
                }
                Told::Done { absent, in_parts: parts } => {
                    reduced += usize::from(!absent.is_empty());
                    in_parts += usize::from(parts);
                    let root_is_gone = op.collective.has_root() && absent.contains(&(op.root as u32));
                    handed_on += usize::from(root_is_gone && op.collective == Collective::Broadcast);
                }
                Told::Nothing => {}
            }
        }
        tally.reduced += reduced;
        tally.failed += failed;
        tally.in_parts += in_parts;
        tally.handed_on += handed_on;
        tally.whole += self.ops.len() - reduced - failed;
    }
}

/// What became of ops: done without somebody, some of them in parts, or by another than the root of a broadcast;
/// failed; done with everybody.
#[derive(Default, Debug)]
struct Tally {
    reduced: usize,
    in_parts: usize,
    handed_on: usize,
    /// Of those that died, results that were stable.
    stable: usize,
    failed: usize,
    whole: usize,
}

/// One schedule; panics where a survivor is told something wrong, or nothing.
fn schedule(seed: u64, tally: &mut Tally) {
    let mut job = Job::new(seed);
    let world = job.next.len();
    let deaths = job.rng.random_range(1..world);
    let mut victims: Vec<usize> = (0..world).collect();
    for _ in 0..world - deaths {
        let spared = job.rng.random_range(0..victims.len());
        victims.swap_remove(spared);
    }
    while let Some(victim) = victims.pop() {
        for _ in 0..job.rng.random_range(0..400) {
            job.turn();
        }
        job.cluster.kill(victim);
        // The others may notice only by what does not come, and go on for a while. The next may die before
        // they have gone on without this one, at any point of it.
        for _ in 0..job.rng.random_range(0..100) {
            job.turn();
        }
        job.cluster.notice_death(victim);
        if job.rng.random() {
            let mut turns = 0;
            while !job.cluster.is_quiet() {
                job.turn();
                turns += 1;
                assert!(turns < BUDGET, "seed {seed}: the coordinator is not done");
            }
        }
    }
    let mut turns = 0;
    while !job.is_done() {
        job.turn();
        turns += 1;
        if turns > BUDGET {
            let open: Vec<String> =
                job.cluster.alive().iter().map(|&r| job.cluster.peers[r].executor.describe()).collect();
            panic!("seed {seed}: no end within {BUDGET} turns: {open:#?}");
        }
    }
    job.check_agreement(tally);
    let dead = (0..world).filter(|rank| !job.cluster.alive().contains(rank));
    dead.for_each(|rank| job.check_stable(rank, tally));
}

/// `RONDE_SEED=N` replays one schedule, `RONDE_SEEDS=N` runs so many (from that one on).
#[cfg(not(feature = "planted-bugs"))]
#[test]
fn survivors_go_on() {
    let (first, count) = crate::case::seeds(5000);
    let mut tally = Tally::default();
    for seed in first..first + count {
        schedule(seed, &mut tally);
    }
    println!("{tally:?}");
    let Tally { reduced, in_parts, handed_on, stable, failed, whole } = tally;
    let enough =
        reduced > 1000 && in_parts > 100 && handed_on > 20 && stable > 1000 && failed > 100 && whole > 1000;
    assert!(count < 1000 || enough, "{tally:?}");
}

/// Every mistake is noticed within so many schedules.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_caught() {
    use crate::churn::churn;
    use crate::partitions::partition;
    use crate::sub_groups::late_members_agree;
    use ronde_core::planted::{Bug, plant};
    const WITHIN: u64 = 40_000;
    /// Of schedules that are alike.
    const FEW: u64 = 20;
    // Panics are what is looked for here.
    std::panic::set_hook(Box::new(|_| ()));
    let caught = |bug: Bug| {
        plant(Some(bug));
        let fails = |seed| {
            let losses = || schedule(seed, &mut Tally::default());
            std::panic::catch_unwind(losses).is_err()
                || std::panic::catch_unwind(|| churn(seed)).is_err()
                || std::panic::catch_unwind(|| partition(seed)).is_err()
                || seed < FEW && std::panic::catch_unwind(|| late_members_agree(seed)).is_err()
        };
        let found = (0..WITHIN).find(|&seed| fails(seed));
        plant(None);
        (bug, found)
    };
    let all: Vec<(Bug, Option<u64>)> = Bug::ALL.iter().copied().map(caught).collect();
    let _ = std::panic::take_hook();
    println!("{all:?}");
    assert!(all.iter().all(|(_, found)| found.is_some()), "not caught within {WITHIN} schedules: {all:?}");
}
