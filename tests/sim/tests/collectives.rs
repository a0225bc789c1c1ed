//! Every collective on the production executor over links that misbehave, against an oracle.
//!
//! Elements are random 64-bit numbers added modulo 2^64, so a contribution that is lost, doubled or
//! put in the wrong place shows in the sum.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::{Algorithm, CostTable, Topology, Tuning, algorithms_for};
use ronde_core::call::{Blocks, Call, CallOptions};
use ronde_core::collective::Limits;
use ronde_core::error::Error;
use ronde_core::memory::Arena;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Segment, Tag, Tolerance};
use ronde_sim::Cluster;

const BUDGET: usize = 200_000;
const POISON: u64 = 0xdead_beef_dead_beef;

/// Memory of one rank for one call.
struct Memory {
    arena: Arena,
    elements: usize,
}

impl Memory {
    fn new(values: &[u64]) -> Memory {
        let arena = Arena::new(values.len().max(1) * 8);
        let memory = Memory { arena, elements: values.len() };
        let mut bytes = memory.segment();
        for (slot, value) in bytes.bytes_mut().chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        memory
    }

    fn segment(&self) -> Segment {
        self.arena.segment(0, self.elements * 8)
    }

    fn values(&self) -> Vec<u64> {
        let bytes = self.segment();
        bytes.bytes().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// One call on all ranks, its memory, and what must be in it afterwards.
struct Case {
    calls: Vec<Call>,
    inputs: Vec<Memory>,
    outputs: Vec<Option<Memory>>,
    expected: Vec<Vec<u64>>,
    in_place: bool,
}

struct Spec {
    collective: Collective,
    world: usize,
    count: usize,
    root: u32,
    in_place: bool,
    options: CallOptions,
}

fn sum(inputs: &[Vec<u64>]) -> Vec<u64> {
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

fn build(spec: &Spec, rng: &mut SmallRng) -> Case {
    let values: Vec<Vec<u64>> =
        (0..spec.world).map(|rank| (0..sizes(spec, rank).0).map(|_| rng.random()).collect()).collect();
    let mut case =
        Case { calls: vec![], inputs: vec![], outputs: vec![], expected: vec![], in_place: spec.in_place };
    for rank in 0..spec.world {
        let (_, out) = sizes(spec, rank);
        let input = Memory::new(&values[rank]);
        let reduces =
            matches!(spec.collective, Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter);
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
fn run(cluster: &mut Cluster, case: &Case, values: &[Vec<u64>], what: &str) {
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

fn topology(nodes: &[u32]) -> Topology {
    Topology::new(nodes, &CostTable::default())
}

/// One node, nodes of two, nodes of any sizes in any order, or a node for each rank.
fn nodes(world: usize, rng: &mut SmallRng) -> Vec<u32> {
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

fn check(spec: &Spec, seed: u64, what: &str) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let tuning = Tuning {
        window_bytes: 1 << rng.random_range(7..12),
        min_shard_bytes: 64,
        max_piece_bytes: 256,
        windows_in_flight: 3,
    };
    let nodes = nodes(spec.world, &mut rng);
    let limits = Limits {
        eager_bytes: 1 << rng.random_range(9..14),
        view_bytes: 4096,
        open_windows: rng.random_range(3..20),
        ..Limits::default()
    };
    let mut cluster = Cluster::new(spec.world, seed, &limits, topology(&nodes), tuning);
    let case = build(spec, &mut rng);
    let values: Vec<_> = case.inputs.iter().map(Memory::values).collect();
    run(&mut cluster, &case, &values, what);
}

fn sweep(collective: Collective, in_place: bool) {
    let mut seed = collective as u64 * 1_000_003 + in_place as u64;
    for &algorithm in algorithms_for(collective) {
        for world in 1usize..=33 {
            for count in [0, 1, world - 1, world, world + 1, 129, 1000] {
                for tolerance in [Tolerance::None, Tolerance::Recover] {
                    seed += 1;
                    let options =
                        CallOptions { tolerance, algorithm: Some(algorithm.name()), ..Default::default() };
                    let root = (seed % world as u64) as u32;
                    let spec = Spec { collective, world, count, root, in_place, options };
                    let what = format!(
                        "{collective} {} world {world} count {count} in place {in_place} {tolerance:?} seed {seed}",
                        algorithm.name()
                    );
                    check(&spec, seed, &what);
                }
            }
        }
    }
}

#[test]
fn all_reduce() {
    sweep(Collective::AllReduce, false);
    sweep(Collective::AllReduce, true);
}

#[test]
fn reduce_scatter_and_all_gather() {
    sweep(Collective::ReduceScatter, false);
    sweep(Collective::AllGather, false);
}

#[test]
fn all_to_all() {
    sweep(Collective::AllToAll, false);
    sweep(Collective::AllToAll, true);
}

#[test]
fn rooted() {
    for collective in [Collective::Broadcast, Collective::Reduce, Collective::Gather, Collective::Scatter] {
        sweep(collective, false);
    }
}

/// Many ops of several tags, started in different orders on different ranks (the same order within a
/// tag), all in flight together.
#[test]
fn many_ops_in_flight() {
    for seed in 0..40u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..6);
        let tuning =
            Tuning { window_bytes: 512, min_shard_bytes: 64, max_piece_bytes: 256, windows_in_flight: 2 };
        let nodes = vec![0; world];
        let limits = Limits { eager_bytes: 512, log_entries: 4, ..Limits::default() };
        let mut cluster = Cluster::new(world, seed, &limits, topology(&nodes), tuning);
        let cases: Vec<Case> = (0..24)
            .map(|i| {
                let kinds = [
                    Collective::AllReduce,
                    Collective::AllGather,
                    Collective::Broadcast,
                    Collective::Barrier,
                ];
                let options = CallOptions { tag: Tag(i % 3), ..Default::default() };
                let spec = Spec {
                    collective: kinds[rng.random_range(0..kinds.len())],
                    world,
                    count: rng.random_range(0..300),
                    root: 0,
                    in_place: false,
                    options,
                };
                build(&spec, &mut rng)
            })
            .collect();
        let mut handles = vec![vec![None; cases.len()]; world];
        for (rank, handles) in handles.iter_mut().enumerate() {
            // Interleave the tags differently on each rank.
            let mut queues: Vec<Vec<usize>> =
                (0..3).map(|t| (0..cases.len()).filter(|i| i % 3 == t).rev().collect()).collect();
            while queues.iter().any(|q| !q.is_empty()) {
                let tag = rng.random_range(0..3);
                if let Some(i) = queues[tag].pop() {
                    let handle = cluster.start(rank, cases[i].calls[rank].clone(), false).unwrap();
                    handles[i] = Some(handle);
                    cluster.step(rng.random_range(0..world));
                }
            }
        }
        for (i, case) in cases.iter().enumerate() {
            let mine: Vec<_> = (0..world).map(|rank| handles[rank][i].unwrap()).collect();
            for (rank, result) in cluster.finish(&mine, BUDGET).into_iter().enumerate() {
                let _ = result.unwrap();
                let got = case.outputs[rank].as_ref().unwrap().values();
                assert_eq!(got, case.expected[rank], "seed {seed} op {i} rank {rank}");
            }
        }
    }
}

/// Calls that disagree are reported with both calls named, on both sides.
#[test]
fn mismatched_calls_are_named() {
    for seed in 0..20 {
        let tuning = Tuning::default();
        let mut cluster = Cluster::new(2, seed, &Limits::default(), topology(&[0, 0]), tuning);
        let memory: Vec<Memory> = [7, 9].iter().map(|&n| Memory::new(&vec![1; n])).collect();
        for (rank, memory) in memory.iter().enumerate() {
            let call = Call {
                collective: Collective::AllReduce,
                dtype: DType::U64,
                count: memory.elements,
                reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                input: memory.segment(),
                output: memory.segment(),
                ..Call::EMPTY
            };
            let _ = cluster.start(rank, call, true).unwrap();
        }
        let mut told = vec![Vec::new(), Vec::new()];
        cluster.run_until(BUDGET, |cluster| {
            for (rank, told) in told.iter_mut().enumerate() {
                told.extend(cluster.effects(rank));
            }
            told.iter().all(|t| !t.is_empty())
        });
        for effects in told {
            let ronde_core::collective::Effect::Mismatch { call, other_call, .. } = &effects[0];
            let both = format!("{call} {other_call}");
            assert!(both.contains("count 7") && both.contains("count 9"), "{both}");
        }
    }
}

/// Sends and receives in both directions with tags, received in another order than sent.
#[test]
fn messages() {
    for seed in 0..60u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let limits = Limits { eager_bytes: 1024, ..Limits::default() };
        let tuning =
            Tuning { window_bytes: 512, min_shard_bytes: 64, max_piece_bytes: 256, windows_in_flight: 2 };
        let mut cluster = Cluster::new(3, seed, &limits, topology(&[0, 0, 0]), tuning);
        let message = |collective, peer: u32, tag, memory: &Memory| Call {
            collective,
            dtype: DType::U64,
            count: memory.elements,
            peer,
            input: if collective == Collective::Send { memory.segment() } else { Segment::EMPTY },
            output: if collective == Collective::Recv { memory.segment() } else { Segment::EMPTY },
            options: CallOptions { tag: Tag(tag), ..Default::default() },
            ..Call::EMPTY
        };
        let mut open = Vec::new();
        let mut results = Vec::new();
        for tag in 0..6u32 {
            for (from, to) in [(0u32, 1u32), (1, 0), (2, 0), (1, 2)] {
                let values: Vec<u64> = (0..rng.random_range(0..700)).map(|_| rng.random()).collect();
                let (sent, got) = (Memory::new(&values), Memory::new(&vec![POISON; values.len()]));
                open.push((from, message(Collective::Send, to, tag, &sent)));
                open.push((to, message(Collective::Recv, from, tag, &got)));
                results.push((values, sent, got));
            }
        }
        // Any order is legal here: every message has its own (pair, tag).
        let mut handles = Vec::new();
        while !open.is_empty() {
            let (rank, call) = open.swap_remove(rng.random_range(0..open.len()));
            handles.push((rank as usize, cluster.start(rank as usize, call, false).unwrap()));
            cluster.step(rng.random_range(0..3));
        }
        cluster.run_until(BUDGET, |cluster| {
            handles.retain(|(rank, handle)| match cluster.peers[*rank].executor.take(*handle) {
                None => true,
                Some(result) => result.is_err(),
            });
            handles.is_empty()
        });
        for (values, _, got) in &results {
            assert_eq!(&got.values(), values, "seed {seed}");
        }
    }
}

/// The blocks of an uneven all-to-all, with empty ones, arrive where they belong.
#[test]
fn uneven_all_to_all() {
    for seed in 0..60u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(1..7);
        let tuning =
            Tuning { window_bytes: 256, min_shard_bytes: 64, max_piece_bytes: 256, windows_in_flight: 2 };
        let mut cluster = Cluster::new(world, seed, &Limits::default(), topology(&vec![0; world]), tuning);
        let counts: Vec<Vec<usize>> = (0..world)
            .map(|_| (0..world).map(|_| if rng.random() { rng.random_range(0..200) } else { 0 }).collect())
            .collect();
        let inputs: Vec<Vec<u64>> =
            counts.iter().map(|row| (0..row.iter().sum::<usize>()).map(|_| rng.random()).collect()).collect();
        let memories: Vec<(Memory, Memory)> = (0..world)
            .map(|r| {
                let received: usize = counts.iter().map(|row| row[r]).sum();
                (Memory::new(&inputs[r]), Memory::new(&vec![POISON; received]))
            })
            .collect();
        let handles: Vec<_> = (0..world)
            .map(|r| {
                let column: Vec<usize> = counts.iter().map(|row| row[r]).collect();
                let call = Call {
                    collective: Collective::AllToAllV,
                    dtype: DType::U64,
                    send: Blocks::dense(&counts[r]),
                    recv: Blocks::dense(&column),
                    input: memories[r].0.segment(),
                    output: memories[r].1.segment(),
                    ..Call::EMPTY
                };
                cluster.start(r, call, false).unwrap()
            })
            .collect();
        for (rank, result) in cluster.finish(&handles, BUDGET).into_iter().enumerate() {
            let _ = result.unwrap();
            let want: Vec<u64> = (0..world)
                .flat_map(|from| {
                    let start: usize = counts[from][..rank].iter().sum();
                    inputs[from][start..start + counts[from][rank]].to_vec()
                })
                .collect();
            assert_eq!(memories[rank].1.values(), want, "seed {seed} rank {rank}");
        }
    }
}

/// A peer that left in order needs nothing more: what the log keeps for it goes, so that closing does not
/// wait for an acknowledgement that nobody is left to give.
#[test]
fn a_log_does_not_wait_for_those_who_left() {
    let mut waited = 0;
    for seed in 0..40u64 {
        let topology = self::topology(&[0; 3]);
        let mut cluster = Cluster::new(3, seed, &Limits::default(), topology, Tuning::default());
        let memories: Vec<Memory> = (0..3).map(|r| Memory::new(&[r as u64])).collect();
        let handles: Vec<_> = (0..3)
            .map(|r| {
                let call = Call {
                    collective: Collective::AllReduce,
                    dtype: DType::U64,
                    count: 1,
                    reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                    input: memories[r].segment(),
                    output: memories[r].segment(),
                    options: CallOptions { algorithm: Some("one-shot"), ..CallOptions::default() },
                    ..Call::EMPTY
                };
                cluster.start(r, call, true).unwrap()
            })
            .collect();
        cluster.finish(&handles, BUDGET).into_iter().for_each(|result| drop(result.unwrap()));
        if cluster.peers[0].executor.log_is_empty() {
            continue;
        }
        waited += 1;
        cluster.tell_left(0, 2);
        cluster.tell_left(0, 1);
        assert!(cluster.peers[0].executor.log_is_empty(), "seed {seed}");
    }
    assert!(waited > 5, "only {waited} seeds had something in the log");
}

/// Memory of a link stays until the last view of it is given back, whenever its peer dies and however
/// long the verdict takes. The links of the simulator check it.
#[test]
fn views_outlive_the_peer_that_lent_them() {
    let mut cut_short = 0;
    for seed in 0..400u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..5);
        let count = rng.random_range(1..20_000);
        let topology = self::topology(&vec![0; world]);
        let limits = Limits::default();
        let mut cluster = Cluster::new(world, seed, &limits, topology, Tuning::default());
        let inputs: Vec<Vec<u64>> = (0..world).map(|_| (0..count).map(|_| rng.random()).collect()).collect();
        let memories: Vec<Memory> = inputs.iter().map(|values| Memory::new(values)).collect();
        let outputs: Vec<Memory> = (0..world).map(|_| Memory::new(&vec![POISON; count])).collect();
        let algorithms = ["one-shot", "two-shot", "ring", "recursive-doubling"];
        let algorithm = algorithms[rng.random_range(0..algorithms.len())];
        let handles: Vec<_> = (0..world)
            .map(|r| {
                let call = Call {
                    collective: Collective::AllReduce,
                    dtype: DType::U64,
                    count,
                    reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                    input: memories[r].segment(),
                    output: outputs[r].segment(),
                    options: CallOptions { algorithm: Some(algorithm), ..CallOptions::default() },
                    ..Call::EMPTY
                };
                cluster.start(r, call, false).unwrap()
            })
            .collect();
        let victim = rng.random_range(0..world);
        let death = rng.random_range(0..12);
        let verdict = death + rng.random_range(0..30);
        for round in 0..verdict {
            if round == death {
                cluster.kill(victim);
            }
            for rank in (0..world).filter(|&rank| round < death || rank != victim) {
                cluster.step(rank);
            }
        }
        let lost = Error::resource("lost");
        for rank in (0..world).filter(|&rank| rank != victim) {
            cluster.fail(rank, &lost);
            match cluster.peers[rank].executor.take(handles[rank]).expect("everything has ended") {
                Ok(_) => assert_eq!(outputs[rank].values(), sum(&inputs), "seed {seed}"),
                Err(error) => {
                    assert_eq!(error.to_string(), lost.to_string());
                    cut_short += 1;
                }
            }
        }
        assert!(memories.iter().zip(&inputs).all(|(m, i)| m.values() == *i), "seed {seed}: an input changed");
    }
    assert!(cut_short > 100, "only {cut_short} ops were cut short");
}

/// A rank whose op ends early gets its memory back and writes it: nobody may take that for its input.
#[test]
fn memory_of_an_op_that_failed_is_never_taken_for_data() {
    let (mut ended_well, mut cut_short) = (0, 0);
    for seed in 0..600u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..5);
        let count = rng.random_range(1..8000);
        let limits = Limits::default();
        let mut cluster = Cluster::new(world, seed, &limits, topology(&vec![0; world]), Tuning::default());
        let inputs: Vec<Vec<u64>> = (0..world).map(|_| (0..count).map(|_| rng.random()).collect()).collect();
        let memories: Vec<Memory> = inputs.iter().map(|values| Memory::new(values)).collect();
        let outputs: Vec<Memory> = (0..world).map(|_| Memory::new(&vec![POISON; count])).collect();
        let algorithms = ["one-shot", "two-shot", "ring", "halving-doubling"];
        let algorithm = algorithms[rng.random_range(0..algorithms.len())];
        let handles: Vec<_> = (0..world)
            .map(|r| {
                let tolerance = Tolerance::None;
                let call = Call {
                    collective: Collective::AllReduce,
                    dtype: DType::U64,
                    count,
                    reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                    input: memories[r].segment(),
                    output: outputs[r].segment(),
                    options: CallOptions { algorithm: Some(algorithm), tolerance, ..CallOptions::default() },
                    ..Call::EMPTY
                };
                cluster.start(r, call, false).unwrap()
            })
            .collect();
        let victim = rng.random_range(0..world);
        for _ in 0..rng.random_range(0..15) {
            for rank in 0..world {
                cluster.step(rank);
            }
        }
        cluster.fail(victim, &Error::resource("its deadline passed"));
        memories[victim].segment().bytes_mut().fill(0xee);
        outputs[victim].segment().bytes_mut().fill(0xee);
        for _ in 0..100 {
            for rank in (0..world).filter(|&rank| rank != victim) {
                cluster.step(rank);
            }
        }
        for rank in (0..world).filter(|&rank| rank != victim) {
            match cluster.peers[rank].executor.take(handles[rank]) {
                Some(Ok(_)) => {
                    assert_eq!(outputs[rank].values(), sum(&inputs), "seed {seed} {algorithm} rank {rank}");
                    ended_well += 1;
                }
                Some(Err(error)) => panic!("{error}"),
                None => cut_short += 1,
            }
            cluster.fail(rank, &Error::resource("the verdict"));
        }
    }
    assert!(ended_well > 50 && cut_short > 50, "{ended_well} {cut_short}");
}

/// Ranks that start the ops of two tags in another order: a view of one op may hold up what another needs.
#[test]
fn tags_in_another_order_on_every_rank() {
    for seed in 0..150u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(3..6);
        let limits = Limits::default();
        let mut cluster = Cluster::new(world, seed, &limits, topology(&vec![0; world]), Tuning::default());
        let ops: usize = rng.random_range(8..40);
        let cases: Vec<Case> = (0..2 * ops)
            .map(|i| {
                let kinds = [Collective::AllReduce, Collective::ReduceScatter, Collective::AllToAll];
                let options = CallOptions { tag: Tag((i / ops) as u32), ..Default::default() };
                let spec = Spec {
                    collective: kinds[rng.random_range(0..kinds.len())],
                    world,
                    count: rng.random_range(0..400),
                    root: 0,
                    in_place: false,
                    options,
                };
                build(&spec, &mut rng)
            })
            .collect();
        let mut handles = vec![vec![None; cases.len()]; world];
        for (rank, handles) in handles.iter_mut().enumerate() {
            let first = (rank % 2) * ops;
            for i in (first..2 * ops).chain(0..first) {
                handles[i] = Some(cluster.start(rank, cases[i].calls[rank].clone(), false).unwrap());
            }
            cluster.step(rng.random_range(0..world));
        }
        for (i, case) in cases.iter().enumerate() {
            let mine: Vec<_> = (0..world).map(|rank| handles[rank][i].unwrap()).collect();
            for (rank, result) in cluster.finish(&mine, BUDGET).into_iter().enumerate() {
                let _ = result.unwrap();
                let got = case.outputs[rank].as_ref().unwrap().values();
                assert_eq!(got, case.expected[rank], "seed {seed} op {i} rank {rank}");
            }
        }
    }
}

#[test]
fn every_algorithm_has_a_name_that_finds_it() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
    }
}
