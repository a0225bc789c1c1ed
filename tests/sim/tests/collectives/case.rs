//! Calls with their memory and what must be in it afterwards.

use rand::Rng;
use rand::rngs::SmallRng;
use ronde_algorithms::Tuning;
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{Limits, OpHandle};
use ronde_core::memory::{Access, Arena};
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Segment, Tolerance};
use ronde_sim::Cluster;
use serde::{Deserialize, Serialize};

pub(crate) const BUDGET: usize = 1_000_000;
pub(crate) const POISON: u64 = 0xdead_beef_dead_beef;

/// Memory of one rank for one call.
pub(crate) struct Memory {
    arena: Arena,
    elements: usize,
}

impl Memory {
    pub(crate) fn new(values: &[u64]) -> Memory {
        let arena = Arena::new(values.len().max(1) * 8);
        let memory = Memory { arena, elements: values.len() };
        let mut bytes = memory.segment();
        for (slot, value) in bytes.bytes_mut().chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        memory
    }

    pub(crate) fn segment(&self) -> Segment {
        self.arena.segment(0, self.elements * 8)
    }

    pub(crate) fn values(&self) -> Vec<u64> {
        values_of(&self.segment())
    }
}

pub(crate) fn values_of(memory: &Segment) -> Vec<u64> {
    memory.bytes().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// One call on all ranks, its memory, and what must be in it afterwards.
pub(crate) struct Case {
    pub(crate) calls: Vec<Call>,
    pub(crate) inputs: Vec<Memory>,
    pub(crate) outputs: Vec<Option<Memory>>,
    pub(crate) expected: Vec<Vec<u64>>,
    pub(crate) in_place: bool,
}

pub(crate) struct Spec {
    pub(crate) collective: Collective,
    pub(crate) world: usize,
    pub(crate) count: usize,
    pub(crate) root: u32,
    pub(crate) in_place: bool,
    pub(crate) options: CallOptions,
}

pub(crate) fn sum(inputs: &[Vec<u64>]) -> Vec<u64> {
    (0..inputs[0].len()).map(|i| inputs.iter().fold(0u64, |sum, v| sum.wrapping_add(v[i]))).collect()
}

/// Elements of input and output of one rank.
fn sizes(spec: &Spec, rank: usize) -> (usize, usize) {
    use Collective::*;
    let (n, c, at_root) = (spec.world, spec.count, rank as u32 == spec.root);
    match spec.collective {
        AllReduce => (c, c),
        Broadcast => (if at_root { c } else { 0 }, c),
        Reduce => (c, if at_root { c } else { 0 }),
        AllGather => (c, n * c),
        ReduceScatter => (n * c, c),
        AllToAll => (n * c, n * c),
        Gather => (c, if at_root { n * c } else { 0 }),
        Scatter => (if at_root { n * c } else { 0 }, c),
        _ => (0, 0),
    }
}

fn expected(spec: &Spec, inputs: &[Vec<u64>], rank: usize) -> Vec<u64> {
    use Collective::*;
    let (c, root) = (spec.count, spec.root as usize);
    let block = |v: &Vec<u64>, i: usize| v[i * c..(i + 1) * c].to_vec();
    match spec.collective {
        AllReduce => sum(inputs),
        Reduce if rank == root => sum(inputs),
        Broadcast => inputs[root].clone(),
        AllGather => inputs.concat(),
        Gather if rank == root => inputs.concat(),
        ReduceScatter => block(&sum(inputs), rank),
        Scatter => block(&inputs[root], rank),
        AllToAll => inputs.iter().flat_map(|v| block(v, rank)).collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn build(spec: &Spec, rng: &mut SmallRng) -> Case {
    let values: Vec<Vec<u64>> =
        (0..spec.world).map(|rank| (0..sizes(spec, rank).0).map(|_| rng.random()).collect()).collect();
    let mut case =
        Case { calls: vec![], inputs: vec![], outputs: vec![], expected: vec![], in_place: spec.in_place };
    for rank in 0..spec.world {
        let (_, out) = sizes(spec, rank);
        let input = Memory::new(&values[rank]);
        let reduces = spec.collective.reduces();
        let mut call = Call {
            collective: spec.collective,
            dtype: DType::U64,
            count: spec.count,
            peer: spec.root,
            reduction: reduces.then_some(Reduction::Builtin(ReduceOp::Sum)),
            input: input.segment(),
            options: spec.options.clone(),
            ..Call::EMPTY
        };
        let output = if spec.in_place {
            call.output = call.input.clone();
            None
        } else {
            let output = Memory::new(&vec![POISON; out]);
            call.output = output.segment();
            Some(output)
        };
        case.calls.push(call);
        case.inputs.push(input);
        case.outputs.push(output);
        case.expected.push(expected(spec, &values, rank));
    }
    case
}

/// Starts the case on all ranks (some after some rounds), runs it, and checks every element.
pub(crate) fn run(cluster: &mut Cluster, case: &Case, values: &[Vec<u64>], what: &str) {
    let handles: Vec<_> = (0..case.calls.len())
        .map(|rank| {
            for other in 0..rank {
                cluster.step(other);
            }
            cluster.start(rank, case.calls[rank].clone(), case.in_place).expect(what)
        })
        .collect();
    for (rank, result) in cluster.finish(&handles, BUDGET).into_iter().enumerate() {
        let outcome = result.expect(what);
        assert_eq!(outcome.contributors as usize, case.calls.len(), "{what}");
        let got = case.outputs[rank].as_ref().unwrap_or(&case.inputs[rank]).values();
        let want = &case.expected[rank];
        assert_eq!(&got[..want.len()], &want[..], "{what}: rank {rank}");
        if case.outputs[rank].is_some() {
            assert_eq!(case.inputs[rank].values(), values[rank], "{what}: input of rank {rank} changed");
        }
    }
}

/// One node, nodes of two, nodes of any sizes in any order, or a node for each rank.
pub(crate) fn nodes(world: usize, rng: &mut SmallRng) -> Vec<u32> {
    let kind = rng.random_range(0..4);
    let any = rng.random_range(1..5);
    let node = |rank| match kind {
        0 => 0,
        1 => rank as u32 / 2,
        2 => rng.random_range(0..any),
        _ => rank as u32,
    };
    (0..world).map(node).collect()
}

/// Short windows and pieces, so that a small vector has many.
pub(crate) const SMALL: Tuning =
    Tuning { window_bytes: 512, min_shard_bytes: 64, max_piece_bytes: 256, windows_in_flight: 2 };

/// An all-reduce (sum) from one memory into another, or into itself.
pub(crate) fn all_reduce(input: &Memory, output: &Memory, options: CallOptions) -> Call {
    Call {
        collective: Collective::AllReduce,
        dtype: DType::U64,
        count: input.elements,
        reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
        input: input.segment(),
        output: output.segment(),
        options,
        ..Call::EMPTY
    }
}

/// The same all-reduce on all ranks of a job, out of place.
pub(crate) struct Job {
    pub(crate) cluster: Cluster,
    pub(crate) inputs: Vec<Vec<u64>>,
    pub(crate) sources: Vec<Memory>,
    pub(crate) outputs: Vec<Memory>,
    pub(crate) handles: Vec<OpHandle>,
    pub(crate) algorithm: &'static str,
}

impl Job {
    /// Of 2 to 4 ranks on one node and up to `most` elements, with one of these algorithms.
    pub(crate) fn start(
        rng: &mut SmallRng,
        seed: u64,
        most: usize,
        algorithms: &[&'static str],
        tolerance: Tolerance,
    ) -> Job {
        let world = rng.random_range(2..5);
        let count = rng.random_range(1..most);
        let mut cluster = Cluster::new(&vec![0; world], seed, &Limits::default(), Tuning::default());
        let inputs: Vec<Vec<u64>> = (0..world).map(|_| (0..count).map(|_| rng.random()).collect()).collect();
        let sources: Vec<Memory> = inputs.iter().map(|values| Memory::new(values)).collect();
        let outputs: Vec<Memory> = (0..world).map(|_| Memory::new(&vec![POISON; count])).collect();
        let algorithm = algorithms[rng.random_range(0..algorithms.len())];
        let options = CallOptions { algorithm: Some(algorithm), tolerance, ..CallOptions::default() };
        let start = |r: usize| {
            cluster.start(r, all_reduce(&sources[r], &outputs[r], options.clone()), false).unwrap()
        };
        let handles = (0..world).map(start).collect();
        Job { cluster, inputs, sources, outputs, handles, algorithm }
    }
}

/// Waits for all of many cases in flight and checks every element; handles by rank and case.
pub(crate) fn finish_all(
    cluster: &mut Cluster,
    cases: &[Case],
    handles: &[Vec<Option<OpHandle>>],
    what: &str,
) {
    for (i, case) in cases.iter().enumerate() {
        let mine: Vec<_> = handles.iter().map(|of_rank| of_rank[i].unwrap()).collect();
        for (rank, result) in cluster.finish(&mine, BUDGET).into_iter().enumerate() {
            let _ = result.unwrap();
            let got = case.outputs[rank].as_ref().unwrap().values();
            assert_eq!(got, case.expected[rank], "{what} op {i} rank {rank}");
        }
    }
}

/// Out-of-place cases of random kinds and lengths; the options follow from the number of the case.
pub(crate) fn random_cases(
    rng: &mut SmallRng,
    world: usize,
    kinds: &[Collective],
    most: usize,
    options: impl ExactSizeIterator<Item = CallOptions>,
) -> Vec<Case> {
    options
        .map(|options| {
            let collective = kinds[rng.random_range(0..kinds.len())];
            let count = rng.random_range(0..most);
            build(&Spec { collective, world, count, root: 0, in_place: false, options }, rng)
        })
        .collect()
}

/// Limits that are soon reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NarrowLimits {
    pub(crate) eager_bytes: usize,
    pub(crate) log_entries: usize,
    pub(crate) log_op_bytes_memory: usize,
}

impl NarrowLimits {
    pub(crate) fn draw(rng: &mut SmallRng) -> NarrowLimits {
        NarrowLimits {
            eager_bytes: 1 << rng.random_range(9..14),
            log_entries: rng.random_range(1..8),
            log_op_bytes_memory: 1 << rng.random_range(3..12),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let NarrowLimits { eager_bytes, log_entries, log_op_bytes_memory } = *self;
        Limits { eager_bytes, log_entries, log_op_bytes_memory, ..Limits::default() }
    }
}
