//! Every plan over worlds of 1 to 33 ranks.

use crate::case::{BUDGET, Memory, Spec, build, nodes, run};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::{Tuning, algorithms_for};
use ronde_core::call::CallOptions;
use ronde_core::collective::Limits;
use ronde_core::{Collective, Tolerance};
use ronde_sim::Cluster;

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
    let mut cluster = Cluster::new(&nodes, seed, &limits, tuning);
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

/// An op needs at most one vector of staging from 4 MiB on, and below at most a vector for each rank,
/// however the frames come; a sixteenth on top for how memory is handed out.
#[test]
fn staging_is_at_most_one_vector() {
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
                for seed in 0..3 {
                    let nodes: Vec<u32> = (0..world).map(|rank| (rank / ranks_per_node) as u32).collect();
                    let (limits, tuning) = (Limits::default(), Tuning::default());
                    let mut cluster = Cluster::new(&nodes, seed, &limits, tuning);
                    let blocks = if collective == Collective::ReduceScatter { world } else { 1 };
                    let (count, options) = ((bytes / 8 / blocks).max(1), CallOptions::default());
                    let spec = Spec { collective, world, count, root: 0, in_place: false, options };
                    let case = build(&spec, &mut SmallRng::seed_from_u64(seed));
                    // All enter before a frame moves, so that nothing waits for its op.
                    let start = |rank: usize| cluster.start(rank, case.calls[rank].clone(), false).unwrap();
                    let handles: Vec<_> = (0..world).map(start).collect();
                    let outcomes = cluster.finish(&handles, BUDGET);
                    let algorithm = outcomes[0].as_ref().unwrap().algorithm;
                    let vectors = if bytes >= 4 << 20 { 1 } else { world };
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
