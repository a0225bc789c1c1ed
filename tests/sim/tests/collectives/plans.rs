//! Every plan over worlds of 1 to 33 ranks.

use crate::case::{BUDGET, Memory, Spec, build, nodes, run};
use crate::random_op::{Op, OpSpec, Reduces};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::{Tuning, algorithms_for};
use ronde_core::call::CallOptions;
use ronde_core::collective::{Limits, OpHandle};
use ronde_core::{Collective, Tolerance};
use ronde_sim::Cluster;

/// A job of so many ranks with short windows, narrow limits and any nodes.
fn cluster(world: usize, seed: u64, rng: &mut SmallRng) -> Cluster {
    let tuning = Tuning {
        window_bytes: 1 << rng.random_range(7..12),
        min_shard_bytes: 64,
        max_piece_bytes: 256,
        windows_in_flight: 3,
    };
    let nodes = nodes(world, rng);
    let limits = Limits {
        eager_bytes: 1 << rng.random_range(9..14),
        view_bytes: 4096,
        open_windows: rng.random_range(3..20),
        ..Limits::default()
    };
    Cluster::new(&nodes, seed, &limits, tuning)
}

fn check(spec: &Spec, seed: u64, what: &str) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cluster = cluster(spec.world, seed, &mut rng);
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

/// Starts an op on all ranks, some after some rounds, and checks what each gets.
fn check_op(spec: &OpSpec, world: usize, seed: u64, what: &str) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut cluster = cluster(world, seed, &mut rng);
    let op = Op::new(spec, world, &mut rng);
    let handles: Vec<_> = (0..world)
        .map(|rank| {
            for other in 0..rank {
                cluster.step(other);
            }
            cluster.start(rank, op.call(rank), spec.in_place).expect(what)
        })
        .collect();
    for (rank, result) in cluster.finish(&handles, BUDGET).into_iter().enumerate() {
        let outcome = result.expect(what);
        assert_eq!(outcome.contributors as usize, world, "{what}");
        op.check(rank, &outcome, 0, &format!("{what}: rank {rank}"));
    }
}

/// As `sweep`, in place also where a rank has its own block of a longer vector, or one side only.
fn sweep_in_place(collective: Collective) {
    let mut seed = collective as u64 * 1_000_003;
    for &algorithm in algorithms_for(collective) {
        for world in 1usize..=33 {
            for count in [1, world + 1, 129] {
                seed += 1;
                let spec = OpSpec { in_place: true, ..spec_of(collective, algorithm.name(), count, seed) };
                check_op(&spec, world, seed, &format!("world {world} seed {seed} {spec:?}"));
            }
        }
    }
}

fn spec_of(collective: Collective, algorithm: &str, count: usize, seed: u64) -> OpSpec {
    OpSpec {
        collective,
        algorithm: Some(algorithm.to_string()),
        tolerance: if seed.is_multiple_of(3) { Tolerance::None } else { Tolerance::Recover },
        count,
        root: seed as usize,
        in_place: false,
        tag: 0,
        reduces: Reduces::Sum,
        commit_group: None,
        strict_commit: false,
    }
}

#[test]
fn in_place() {
    use Collective::*;
    for collective in [ReduceScatter, AllGather, Broadcast, Reduce, Gather, Scatter] {
        sweep_in_place(collective);
    }
}

/// Nobody leaves a barrier before the last has come.
#[test]
fn barriers() {
    for world in 2usize..=33 {
        for late in [0, world / 2, world - 1] {
            let seed = (world * 100 + late) as u64;
            let spec = spec_of(Collective::Barrier, "dissemination", 0, seed);
            let what = format!("world {world} late {late} {spec:?}");
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut cluster = cluster(world, seed, &mut rng);
            let op = Op::new(&spec, world, &mut rng);
            let mut handles = vec![None; world];
            for rank in (0..world).filter(|&rank| rank != late) {
                handles[rank] = Some(cluster.start(rank, op.call(rank), false).expect(&what));
            }
            let ended = |cluster: &Cluster, rank: usize, handles: &[Option<OpHandle>]| {
                handles[rank].is_some_and(|handle| cluster.peers[rank].executor.has_ended(handle))
            };
            // As many turns as the barrier takes when all are there, as is seen below, also if connections are cut.
            let turns = |cluster: &mut Cluster| {
                for rank in (0..20 * world + 1000).flat_map(|_| 0..world) {
                    cluster.step(rank);
                }
            };
            turns(&mut cluster);
            assert!((0..world).all(|rank| !ended(&cluster, rank, &handles)), "{what}: somebody did not wait");
            handles[late] = Some(cluster.start(late, op.call(late), false).expect(&what));
            turns(&mut cluster);
            assert!((0..world).all(|rank| ended(&cluster, rank, &handles)), "{what}: more turns");
            let handles: Vec<_> = handles.into_iter().flatten().collect();
            for result in cluster.finish(&handles, BUDGET) {
                assert_eq!(result.expect(&what).contributors as usize, world, "{what}");
            }
        }
    }
}

/// Blocks of any lengths, of which many are empty, some far longer than the others, and some have gaps between them.
fn sweep_uneven(collective: Collective) {
    let mut seed = collective as u64 * 1_000_003;
    for &algorithm in algorithms_for(collective) {
        for world in 1usize..=33 {
            for (count, in_place) in
                [0, 1, 7, 129].into_iter().flat_map(|count| [(count, false), (count, true)])
            {
                seed += 1;
                let spec = OpSpec { in_place, ..spec_of(collective, algorithm.name(), count, seed) };
                let what = format!("world {world} seed {seed} {spec:?}");
                check_op(&spec, world, seed, &what);
            }
        }
    }
}

#[test]
fn uneven_all_gather_and_reduce_scatter() {
    sweep_uneven(Collective::AllGatherV);
    sweep_uneven(Collective::ReduceScatterV);
}

#[test]
fn uneven_all_to_all() {
    sweep_uneven(Collective::AllToAllV);
}

#[test]
fn uneven_gather_and_scatter() {
    sweep_uneven(Collective::GatherV);
    sweep_uneven(Collective::ScatterV);
}

/// An op needs at most one vector of staging from 4 MiB on, and below at most a vector for each rank, however the frames
/// come; in place one more for what it overwrites; a sixteenth on top for how memory is handed out.
#[test]
fn staging_is_at_most_one_vector_of_large_ops() {
    for (bytes, world) in [
        (8, 5),
        (5000, 3),
        (100_000, 4),
        (600_000, 6),
        (4 << 20, 2),
        (1 << 20, 16),
        (4 << 20, 16),
        (5 << 20, 3),
    ] {
        for collective in [Collective::AllReduce, Collective::ReduceScatter, Collective::Reduce] {
            for ranks_per_node in [1, 2, world] {
                for (seed, in_place) in [(0, false), (1, false), (2, false), (3, true)] {
                    let nodes: Vec<u32> = (0..world).map(|rank| (rank / ranks_per_node) as u32).collect();
                    let (limits, tuning) = (Limits::default(), Tuning::default());
                    let mut cluster = Cluster::new(&nodes, seed, &limits, tuning);
                    let blocks = if collective == Collective::ReduceScatter { world } else { 1 };
                    let (count, options) = ((bytes / 8 / blocks).max(1), CallOptions::default());
                    let spec = Spec { collective, world, count, root: 0, in_place, options };
                    let case = build(&spec, &mut SmallRng::seed_from_u64(seed));
                    // All enter before a frame moves, so that nothing waits for its op.
                    let start =
                        |rank: usize| cluster.start(rank, case.calls[rank].clone(), in_place).unwrap();
                    let handles: Vec<_> = (0..world).map(start).collect();
                    let outcomes = cluster.finish(&handles, BUDGET);
                    let algorithm = outcomes[0].as_ref().unwrap().algorithm;
                    let vectors = if bytes >= 4 << 20 { 1 } else { world } + usize::from(in_place);
                    for (rank, peer) in cluster.peers.iter().enumerate() {
                        let (peak, vector) = (peer.executor.staging_peak(), case.calls[rank].input.len());
                        let most = vectors * vector.next_multiple_of(64);
                        assert!(
                            peak <= most + most / 16,
                            "{collective} {algorithm} of {world}: rank {rank} staged {peak} bytes of {vector}"
                        );
                    }
                }
            }
        }
    }
}
