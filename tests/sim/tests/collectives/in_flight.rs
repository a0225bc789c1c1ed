//! Many ops at once, in orders that differ from rank to rank.

use crate::case::{BUDGET, Memory, POISON, SMALL, all_reduce, finish_all, random_cases};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::Tuning;
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{Effect, Limits};
use ronde_core::reduce::{Reduction, UserReduce};
use ronde_core::{Collective, DType, MemberId, Segment, Tag};
use ronde_sim::Cluster;
use std::sync::Arc;

/// Many ops of several tags, started in different orders on different ranks (the same order within a
/// tag), all in flight together.
#[test]
fn many_ops_in_flight() {
    for seed in 0..40u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(2..6);
        let limits = Limits { eager_bytes: 512, log_entries: 4, ..Limits::default() };
        let mut cluster = Cluster::new(&vec![0; world], seed, &limits, SMALL);
        let kinds =
            [Collective::AllReduce, Collective::AllGather, Collective::Broadcast, Collective::Barrier];
        let options = (0..24).map(|i| CallOptions { tag: Tag(i % 3), ..Default::default() });
        let cases = random_cases(&mut rng, world, &kinds, 300, options);
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
        finish_all(&mut cluster, &cases, &handles, &format!("seed {seed}"));
    }
}

/// Ranks that start the ops of two tags in another order: a view of one op may hold up what another needs.
#[test]
fn tags_in_another_order_on_every_rank() {
    for seed in 0..150u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(3..6);
        let limits = Limits::default();
        let mut cluster = Cluster::new(&vec![0; world], seed, &limits, Tuning::default());
        let ops: usize = rng.random_range(8..40);
        let kinds = [Collective::AllReduce, Collective::ReduceScatter, Collective::AllToAll];
        let options = (0..2 * ops).map(|i| CallOptions { tag: Tag((i / ops) as u32), ..Default::default() });
        let cases = random_cases(&mut rng, world, &kinds, 400, options);
        let mut handles = vec![vec![None; cases.len()]; world];
        for (rank, handles) in handles.iter_mut().enumerate() {
            let first = (rank % 2) * ops;
            for i in (first..2 * ops).chain(0..first) {
                handles[i] = Some(cluster.start(rank, cases[i].calls[rank].clone(), false).unwrap());
            }
            cluster.step(rng.random_range(0..world));
        }
        finish_all(&mut cluster, &cases, &handles, &format!("seed {seed}"));
    }
}

/// Calls that disagree are reported with both calls named, on both sides.
#[test]
fn mismatched_calls_are_named() {
    for seed in 0..20 {
        let tuning = Tuning::default();
        let mut cluster = Cluster::new(&[0, 0], seed, &Limits::default(), tuning);
        let memory: Vec<Memory> = [7, 9].iter().map(|&n| Memory::new(&vec![1; n])).collect();
        for (rank, memory) in memory.iter().enumerate() {
            let call = all_reduce(memory, memory, CallOptions::default());
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
            let Effect::Mismatch { call, other_call, .. } = &effects[0] else { panic!("{effects:?}") };
            let both = format!("{call} {other_call}");
            assert!(both.contains("count 7") && both.contains("count 9"), "{both}");
        }
    }
}

/// An operator that is one off on one rank.
struct Faulty(bool);

impl UserReduce for Faulty {
    fn combine(&self, src: &[u8], acc: &mut [u8], _: DType) {
        for (src, acc) in src.chunks_exact(8).zip(acc.chunks_exact_mut(8)) {
            let sum =
                u64::from_le_bytes(src.try_into().unwrap()) + u64::from_le_bytes((&*acc).try_into().unwrap());
            acc.copy_from_slice(&(sum + u64::from(self.0)).to_le_bytes());
        }
    }
}

/// Where one of three members computes something else, no call that commits by Done ends, and all are told who holds what;
/// of calls that need no Done the next one tells.
#[test]
fn results_that_differ_are_noticed() {
    for (seed, count) in (0..40).flat_map(|seed| [(seed, 100), (seed, 1000)]) {
        let limits = Limits { log_op_bytes_syscall: 1 << 10, ..Limits::default() };
        let mut cluster = Cluster::new(&[0, 0, 0], seed, &limits, Tuning::default());
        let mut told: Vec<Vec<Effect>> = vec![Vec::new(); 3];
        let mut ended = 0;
        for _ in 0..3 {
            let memory: Vec<Memory> = (0..6).map(|_| Memory::new(&vec![1; count])).collect();
            let handles: Vec<_> = (0..3)
                .map(|rank| {
                    let options = CallOptions { algorithm: Some("one-shot"), ..CallOptions::default() };
                    let call = all_reduce(&memory[2 * rank], &memory[2 * rank + 1], options);
                    let reduction = Some(Reduction::User(Arc::new(Faulty(rank == 1))));
                    cluster.start(rank, Call { reduction, ..call }, false).unwrap()
                })
                .collect();
            cluster.run_until(BUDGET, |cluster| {
                told.iter_mut().enumerate().for_each(|(rank, told)| told.extend(cluster.effects(rank)));
                let all_told = told.iter().filter(|told| !told.is_empty()).count() > 1;
                all_told
                    || handles
                        .iter()
                        .enumerate()
                        .all(|(rank, &handle)| cluster.peers[rank].executor.has_ended(handle))
            });
            ended += handles
                .iter()
                .enumerate()
                .filter(|&(rank, &handle)| cluster.peers[rank].executor.has_ended(handle))
                .count();
        }
        assert!(count == 100 || ended == 0, "seed {seed}: {ended} calls ended");
        let told: Vec<Effect> = told.into_iter().flatten().collect();
        assert!(!told.is_empty(), "seed {seed}: nobody noticed");
        for effect in told {
            let Effect::Diverged(divergence) = &effect else { panic!("{effect:?}") };
            let of =
                |member| divergence.held.iter().find(|held| held.0 == MemberId(member)).map(|held| held.1);
            assert!(of(1).is_some(), "seed {seed}: {divergence:?}");
            assert!(
                of(1) != of(0) && of(1) != of(2) && (of(0) == of(2) || divergence.held.len() == 2),
                "{divergence:?}"
            );
        }
    }
}

/// Sends and receives in both directions with tags, received in another order than sent.
#[test]
fn messages() {
    for seed in 0..60u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let limits = Limits { eager_bytes: 1024, ..Limits::default() };
        let mut cluster = Cluster::new(&[0, 0, 0], seed, &limits, SMALL);
        let message = |collective, peer: u32, tag, memory: &Memory| Call {
            collective,
            dtype: DType::U64,
            count: memory.values().len(),
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
