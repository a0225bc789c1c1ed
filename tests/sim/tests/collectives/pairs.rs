//! Small calls of two ranks of a larger job, while others of it die: each of the two commits for itself, and what befalls
//! others is no concern of theirs.

use crate::case::{BUDGET, Memory, POISON, SMALL};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ronde_core::call::Call;
use ronde_core::collective::{GroupIndex, Limits, OpHandle};
use ronde_core::error::Outcome;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp};
use ronde_sim::{Cluster, InFlight};

const WORLD: usize = 4;
const OPS: usize = 12;
/// Calls of one rank that are open at one time.
const AT_ONCE: usize = 3;

/// One call of both ranks.
struct Exchange {
    collective: Collective,
    count: usize,
    inputs: [Vec<u64>; 2],
    outputs: [Memory; 2],
    sources: [Memory; 2],
}

impl Exchange {
    fn draw(rng: &mut SmallRng) -> Exchange {
        let collective = if rng.random() { Collective::ReduceScatter } else { Collective::AllToAll };
        // Of several windows too, and none that needs Done.
        let count = [1, 2, 63, 64, 65, rng.random_range(1..1500)][rng.random_range(0..6)];
        let mut input = || (0..2 * count).map(|_| rng.random()).collect::<Vec<u64>>();
        let inputs = [input(), input()];
        let results = if collective == Collective::ReduceScatter { count } else { 2 * count };
        let outputs = [0, 1].map(|_| Memory::new(&vec![POISON; results]));
        let sources = [0, 1].map(|rank: usize| Memory::new(&inputs[rank]));
        Exchange { collective, count, inputs, outputs, sources }
    }

    fn call(&self, rank: usize) -> Call {
        Call {
            collective: self.collective,
            dtype: DType::U64,
            count: self.count,
            reduction: self.collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
            input: self.sources[rank].segment(),
            output: self.outputs[rank].segment(),
            ..Call::EMPTY
        }
    }

    fn expected(&self, rank: usize) -> Vec<u64> {
        let block = |of: usize| &self.inputs[of][rank * self.count..][..self.count];
        match self.collective {
            Collective::ReduceScatter => {
                block(0).iter().zip(block(1)).map(|(a, b)| a.wrapping_add(*b)).collect()
            }
            _ => [block(0), block(1)].concat(),
        }
    }
}

/// One of the two: its calls in order, and what it was told.
struct Side {
    process: usize,
    group: GroupIndex,
    open: Vec<(usize, OpHandle)>,
    started: usize,
    told: Vec<Option<Outcome>>,
    /// How many it knew to be lost when it began each.
    began_without: Vec<usize>,
}

impl Side {
    fn go_on(&mut self, rank: usize, ops: &[Exchange], cluster: &mut Cluster, rng: &mut SmallRng) {
        if self.started < OPS && self.open.len() < AT_ONCE && rng.random_ratio(1, 3) {
            let call = ops[self.started].call(rank);
            let handle = cluster.start_in(self.group, self.process, call, false).expect("a good call");
            self.open.push((self.started, handle));
            self.started += 1;
            let executor = &cluster.peers[self.process].executor;
            self.began_without.push((0..WORLD).filter(|&member| executor.is_lost(member)).count());
        }
        let executor = &mut cluster.peers[self.process].executor;
        self.open.retain(|&(op, handle)| match executor.take(handle) {
            Some(told) => {
                self.told[op] = Some(told.expect("nobody of the two is lost"));
                false
            }
            None => true,
        });
    }
}

/// Plays one schedule; returns how many calls began in another view on one side than on the other.
fn play(seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let nodes = if rng.random() { [0; WORLD] } else { [0, 1, 2, 3] };
    let mut cluster = Cluster::new(&nodes, seed, &Limits::default(), SMALL);
    let mut ranks: Vec<usize> = (0..WORLD).collect();
    ranks.shuffle(&mut rng);
    let pair = [ranks[0].min(ranks[1]), ranks[0].max(ranks[1])];
    // The host of the coordinator may be among them, and either of the two.
    let mut victims = ranks.split_off(2);
    let ops: Vec<Exchange> = (0..OPS).map(|_| Exchange::draw(&mut rng)).collect();
    let mut sides = pair.map(|process| {
        let group = cluster.split_off(process, &pair);
        let (open, began_without) = (Vec::new(), Vec::new());
        Side { process, group, open, started: 0, told: vec![None; OPS], began_without }
    });
    for round in 0.. {
        assert!(round < BUDGET, "no end, seed {seed}: {:?}", sides.each_ref().map(|side| &side.open));
        if sides.iter().all(|side| side.told.iter().all(Option::is_some)) {
            break;
        }
        if !victims.is_empty() && rng.random_ratio(1, 60) {
            let victim = victims.remove(0);
            let in_flight = if rng.random() { InFlight::Delivered } else { InFlight::Lost };
            cluster.kill(victim, in_flight);
            cluster.notice_death(victim);
        }
        for _ in 0..rng.random_range(0..4) {
            cluster.step_control();
        }
        for process in cluster.alive() {
            cluster.step(process);
        }
        for (rank, side) in sides.iter_mut().enumerate() {
            side.go_on(rank, &ops, &mut cluster, &mut rng);
        }
    }
    for (at, op) in ops.iter().enumerate() {
        let what = format!("{} #{at} of {}, seed {seed}", op.collective, op.count);
        let told = sides.each_ref().map(|side| side.told[at].as_ref().expect("all have ended"));
        for (rank, told) in told.iter().enumerate() {
            assert_eq!(op.outputs[rank].values(), op.expected(rank), "{what}: rank {rank}");
            assert_eq!((told.contributors, told.absent.len()), (2, 0), "{what}: rank {rank}");
        }
        assert_eq!(told[0].epoch, told[1].epoch, "{what}");
    }
    let [one, other] = sides.map(|side| side.began_without);
    one.iter().zip(&other).filter(|(one, other)| one != other).count()
}

/// Views change while the calls run, so that some begin in different ones; their outcomes name the same.
#[test]
fn two_of_a_larger_job_go_on_for_themselves() {
    let begun_apart: usize = (0..400).map(play).sum();
    assert!(begun_apart > 20, "only {begun_apart} calls began in different views");
}
