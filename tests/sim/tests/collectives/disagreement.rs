//! Ranks whose blocks do not fit together: no data is dropped in silence, and nobody is accused of more than it did.

use crate::case::{BUDGET, Memory, POISON, SMALL};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use ronde_core::call::{Blocks, Call, CallOptions};
use ronde_core::collective::{Effect, Limits, OpHandle};
use ronde_core::error::Error;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Tolerance};
use ronde_sim::{Cluster, InFlight};

const UNEVEN: [Collective; 5] = [
    Collective::AllToAllV,
    Collective::GatherV,
    Collective::ScatterV,
    Collective::AllGatherV,
    Collective::ReduceScatterV,
];

/// An uneven call on all ranks: what each gives for what it sends and takes, by rank.
#[derive(Clone)]
struct Job {
    collective: Collective,
    root: usize,
    sent: Vec<Vec<usize>>,
    taken: Vec<Vec<usize>>,
    options: CallOptions,
}

impl Job {
    /// One on which all agree.
    fn draw(rng: &mut SmallRng, collective: Collective, world: usize) -> Job {
        let tolerance = if rng.random() { Tolerance::Recover } else { Tolerance::None };
        let mut block =
            || *[0, 1, 7, 64, rng.random_range(1..60), rng.random_range(60..600)].choose(rng).unwrap();
        let rows: Vec<Vec<usize>> = (0..world).map(|_| (0..world).map(|_| block()).collect()).collect();
        let column = |rank: usize| rows.iter().map(|row| row[rank]).collect::<Vec<_>>();
        // Where all give the same counts nobody's are empty, so that everybody meets everybody.
        let counts: Vec<usize> = rows[0].iter().map(|count| count + 1).collect();
        let same = vec![counts; world];
        let (sent, taken) = match collective {
            Collective::AllToAllV => (rows.clone(), (0..world).map(column).collect()),
            Collective::AllGatherV => (vec![Vec::new(); world], same),
            Collective::ReduceScatterV => (same, vec![Vec::new(); world]),
            Collective::GatherV => (vec![Vec::new(); world], vec![rows[0].clone(); world]),
            _ => (vec![rows[0].clone(); world], vec![Vec::new(); world]),
        };
        let options = CallOptions { tolerance, ..CallOptions::default() };
        Job { collective, root: rng.random_range(0..world), sent, taken, options }
    }

    fn is_strict(&self) -> bool {
        self.options.tolerance == Tolerance::None
    }

    /// A rank's block of a call that gives one list of counts.
    fn own(&self, rank: usize) -> usize {
        let counts = if self.sent[rank].is_empty() { &self.taken[rank] } else { &self.sent[rank] };
        counts[rank]
    }

    fn gives_counts_of_all(&self) -> bool {
        matches!(self.collective, Collective::AllGatherV | Collective::ReduceScatterV)
    }

    /// Of two ranks the first sends more than the second takes, or, where that is noticed, less.
    fn disagree(&mut self, rng: &mut SmallRng) -> (usize, usize) {
        let other = (self.root + rng.random_range(1..self.sent.len())) % self.sent.len();
        let is_gather = self.collective == Collective::GatherV;
        let (from, to) = if is_gather { (other, self.root) } else { (self.root, other) };
        let more = *[1, 5, 40, 64, 700].choose(rng).unwrap();
        let less = !self.is_strict() && rng.random();
        let counts_of_all = self.gives_counts_of_all();
        let changed = match self.collective {
            Collective::AllToAllV if less => &mut self.taken[to][from],
            Collective::AllToAllV => &mut self.sent[from][to],
            Collective::GatherV if less => &mut self.taken[to][from],
            Collective::GatherV => &mut self.taken[from][from],
            Collective::ScatterV if less => &mut self.sent[to][to],
            Collective::ScatterV => &mut self.sent[from][to],
            Collective::AllGatherV => &mut self.taken[from][to],
            _ => &mut self.sent[from][to],
        };
        // The call of one who gives one list of counts may also have an empty block.
        *changed = if counts_of_all && rng.random() { 0 } else { *changed + more };
        (from, to)
    }

    /// The call of a rank with its memory.
    fn call(&self, rank: usize, rng: &mut SmallRng) -> (Call, Memory, Memory) {
        use Collective::*;
        let total = |counts: &[usize]| counts.iter().sum::<usize>();
        let is_root = rank == self.root;
        let (send, recv, count) = match self.collective {
            AllToAllV => (&self.sent[rank][..], &self.taken[rank][..], 0),
            GatherV if !is_root => (&[][..], &[][..], self.own(rank)),
            ScatterV if !is_root => (&[][..], &[][..], self.own(rank)),
            _ => (&self.sent[rank][..], &self.taken[rank][..], self.own(rank)),
        };
        let (input, output) = match self.collective {
            AllToAllV => (total(send), total(recv)),
            GatherV | AllGatherV => (count, total(recv)),
            _ => (total(send), count),
        };
        let values: Vec<u64> = (0..input).map(|_| rng.random()).collect();
        let (input, output) = (Memory::new(&values), Memory::new(&vec![POISON; output]));
        let call = Call {
            collective: self.collective,
            dtype: DType::U64,
            count,
            reduction: self.collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
            peer: if self.collective.has_root() { self.root as u32 } else { 0 },
            send: Blocks::dense(send),
            recv: Blocks::dense(recv),
            input: input.segment(),
            output: output.segment(),
            options: self.options.clone(),
            ..Call::EMPTY
        };
        (call, input, output)
    }
}

/// All ranks make the calls of a job.
fn start(job: &Job, cluster: &mut Cluster, rng: &mut SmallRng) -> (Vec<OpHandle>, Vec<(Memory, Memory)>) {
    let mut memory = Vec::new();
    let world = job.sent.len();
    let handles = (0..world).map(|rank| {
        let (call, input, output) = job.call(rank, rng);
        memory.push((input, output));
        let handle = cluster.start(rank, call, false).unwrap();
        for _ in 0..rng.random_range(0..4) {
            cluster.step(rng.random_range(0..world));
        }
        handle
    });
    (handles.collect(), memory)
}

/// Blocks that agree are never taken for others, in whatever order and how often frames come, and if a member dies.
#[test]
fn blocks_that_agree() {
    for (seed, collective) in (0..80).flat_map(|seed| UNEVEN.map(|collective| (seed, collective))) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..6);
        let mut cluster = Cluster::new(&vec![0; world], seed, &Limits::default(), SMALL);
        let victim = rng.random_ratio(1, 3).then(|| rng.random_range(0..world));
        for _ in 0..3 {
            let job = Job::draw(&mut rng, collective, world);
            let (mut handles, _memory) = start(&job, &mut cluster, &mut rng);
            if let Some(victim) = victim {
                cluster.kill(victim, InFlight::Cut);
                cluster.notice_death(victim);
            }
            let may_fail = victim.is_some();
            let mut open: Vec<(usize, OpHandle)> = handles.drain(..).enumerate().collect();
            open.retain(|(rank, _)| Some(*rank) != victim);
            cluster.run_until(BUDGET, |cluster| {
                cluster.step_control();
                open.retain(|(rank, handle)| match cluster.peers[*rank].executor.take(*handle) {
                    None => true,
                    Some(result) => {
                        assert!(result.is_ok() || may_fail, "seed {seed} {collective}: {result:?}");
                        false
                    }
                });
                open.is_empty()
            });
            if victim.is_some() {
                break;
            }
        }
        for _ in 0..200 {
            for rank in 0..world {
                cluster.step(rank);
            }
        }
        for rank in 0..world {
            let told = cluster.effects(rank);
            assert!(told.is_empty(), "seed {seed} {collective}: rank {rank} says {told:?}");
        }
    }
}

/// Of two ranks one sends more than the other takes, or, where that is noticed, less.
#[test]
fn blocks_that_disagree() {
    for (seed, collective) in (0..400).flat_map(|seed| UNEVEN.map(|collective| (seed, collective))) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..6);
        let mut cluster = Cluster::new(&vec![0; world], seed, &Limits::default(), SMALL);
        let mut job = Job::draw(&mut rng, collective, world);
        let (from, to) = job.disagree(&mut rng);
        let counts_of_all = job.gives_counts_of_all();
        let what =
            format!("seed {seed} {collective} of {world}, {from} to {to}, {:?}", job.options.tolerance);
        let (handles, _memory) = start(&job, &mut cluster, &mut rng);
        let mut told: Vec<(usize, Effect)> = Vec::new();
        let mut rounds_after = 0;
        cluster.run_until(BUDGET, |cluster| {
            (0..world).for_each(|rank| {
                told.extend(cluster.effects(rank).into_iter().map(|effect| (rank, effect)));
            });
            rounds_after += usize::from(!told.is_empty());
            rounds_after > 200
        });
        for (_, effect) in &told {
            let Effect::Mismatch { member, other, call, other_call, .. } = effect else {
                panic!("{what}: {effect:?}")
            };
            assert_ne!(call, other_call, "{what}");
            let pair = [member.index(), other.index()];
            assert!(counts_of_all || pair == [from, to] || pair == [to, from], "{what}: {effect:?}");
        }
        for rank in [from, to] {
            let ended = cluster.peers[rank].executor.has_ended(handles[rank]);
            assert!(job.is_strict() || !ended, "{what}: rank {rank} has ended well; told: {told:?}");
        }
    }
}

/// A rank dies at some moment, which is noticed after a while.
fn lose(victim: usize, cluster: &mut Cluster, rng: &mut SmallRng) {
    let wait = |cluster: &mut Cluster, rng: &mut SmallRng| {
        for _ in 0..rng.random_range(0..60) {
            cluster.step(rng.random_range(0..cluster.peers.len()));
        }
    };
    wait(cluster, rng);
    let in_flight = [InFlight::Delivered, InFlight::Lost, InFlight::Cut];
    cluster.kill(victim, *in_flight.choose(rng).unwrap());
    wait(cluster, rng);
    cluster.notice_death(victim);
}

/// The coordinator's verdict.
fn end_all(cluster: &mut Cluster) {
    (0..cluster.peers.len()).for_each(|rank| cluster.fail(rank, &Error::resource("calls that disagree")));
}

/// The same in the moment in which somebody else is lost: what all who are left hold is committed after it was compared.
#[test]
fn blocks_that_disagree_while_somebody_is_lost() {
    for (seed, collective) in (0..2000).flat_map(|seed| UNEVEN.map(|collective| (seed, collective))) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(3..6);
        let mut cluster = Cluster::new(&vec![0; world], seed, &Limits::default(), SMALL);
        let mut job = Job::draw(&mut rng, collective, world);
        job.options.tolerance = Tolerance::Recover;
        let (from, to) = job.disagree(&mut rng);
        let others: Vec<usize> = (0..world).filter(|rank| ![from, to].contains(rank)).collect();
        let victim = *others.choose(&mut rng).unwrap();
        let what = format!("seed {seed} {collective} of {world}, {from} to {to}, without {victim}");
        let (handles, _memory) = start(&job, &mut cluster, &mut rng);
        lose(victim, &mut cluster, &mut rng);
        let mut told: Vec<Effect> = Vec::new();
        let mut rounds_after = 0;
        cluster.run_until(BUDGET, |cluster| {
            cluster.step_control();
            cluster.alive().into_iter().for_each(|rank| told.extend(cluster.effects(rank)));
            let ended = [from, to].iter().any(|&rank| cluster.peers[rank].executor.has_ended(handles[rank]));
            rounds_after += usize::from(!told.is_empty() || ended);
            rounds_after > 200
        });
        assert!(!told.is_empty(), "{what}");
        for rank in [from, to] {
            let ended = cluster.peers[rank].executor.has_ended(handles[rank]);
            assert!(!ended, "{what}: rank {rank} has ended; told: {told:?}");
        }
        end_all(&mut cluster);
    }
}

/// Ranks that take different ones for the root, also where each only waits for the other.
#[test]
fn roots_that_disagree() {
    use Collective::{Broadcast, Gather, Reduce, Scatter};
    let rooted = [Broadcast, Reduce, Gather, Scatter];
    for (seed, collective) in (0..200).flat_map(|seed| rooted.map(|collective| (seed, collective))) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..6);
        let mut cluster = Cluster::new(&vec![0; world], seed, &Limits::default(), SMALL);
        let odd = rng.random_range(0..world);
        let root = rng.random_range(0..world);
        let of_odd = (root + rng.random_range(1..world)) % world;
        let tolerance = if rng.random() { Tolerance::Recover } else { Tolerance::None };
        let count = rng.random_range(1..300);
        let what =
            format!("seed {seed} {collective} of {world} from {root}, of {odd} from {of_odd}, {tolerance:?}");
        let blocks = if matches!(collective, Gather | Scatter) { world } else { 1 };
        let memory: Vec<Memory> = (0..2 * world).map(|_| Memory::new(&vec![1; blocks * count])).collect();
        for (rank, memory) in memory.chunks(2).enumerate() {
            let call = Call {
                collective,
                dtype: DType::U64,
                count,
                reduction: collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
                peer: if rank == odd { of_odd } else { root } as u32,
                input: memory[0].segment(),
                output: memory[1].segment(),
                options: CallOptions { tolerance, ..CallOptions::default() },
                ..Call::EMPTY
            };
            let _ = cluster.start(rank, call, false).unwrap();
        }
        // In some jobs one is lost to whom neither root means anything.
        let bystander = (0..world).find(|rank| ![odd, root, of_odd].contains(rank));
        if let Some(victim) = bystander.filter(|_| tolerance == Tolerance::Recover && rng.random()) {
            lose(victim, &mut cluster, &mut rng);
        }
        let mut told = Vec::new();
        cluster.run_until(BUDGET, |cluster| {
            cluster.step_control();
            cluster.alive().into_iter().for_each(|rank| told.extend(cluster.effects(rank)));
            !told.is_empty()
        });
        for effect in told {
            let Effect::Mismatch { call, other_call, .. } = &effect else { panic!("{what}: {effect:?}") };
            let both = format!("{call} {other_call}");
            let named = |root: usize| both.contains(&format!("root {root}"));
            assert!(named(root) && named(of_odd), "{what}: {both}");
        }
        end_all(&mut cluster);
    }
}
