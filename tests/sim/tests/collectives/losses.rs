//! Peers that leave or die, and memory that ends with them.

use crate::case::{BUDGET, Job, Memory, all_reduce, sum};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::Tuning;
use ronde_core::Tolerance;
use ronde_core::call::CallOptions;
use ronde_core::collective::Limits;
use ronde_core::error::Error;
use ronde_core::memory::Access;
use ronde_sim::{Cluster, InFlight};

/// A peer that left in order needs nothing more: what the log keeps for it goes, so that closing does not
/// wait for an acknowledgement that nobody is left to give.
#[test]
fn a_log_does_not_wait_for_those_who_left() {
    let mut waited = 0;
    for seed in 0..40u64 {
        let mut cluster = Cluster::new(&[0; 3], seed, &Limits::default(), Tuning::default());
        let memories: Vec<Memory> = (0..3).map(|r| Memory::new(&[r as u64])).collect();
        let handles: Vec<_> = (0..3)
            .map(|r| {
                let options = CallOptions { algorithm: Some("one-shot"), ..CallOptions::default() };
                let call = all_reduce(&memories[r], &memories[r], options);
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
        let algorithms = ["one-shot", "two-shot", "ring", "recursive-doubling"];
        let mut job = Job::start(&mut rng, seed, 20_000, &algorithms, Tolerance::Recover);
        let world = job.inputs.len();
        let victim = rng.random_range(0..world);
        let death = rng.random_range(0..12);
        let verdict = death + rng.random_range(0..30);
        for round in 0..verdict {
            if round == death {
                job.cluster.kill(victim, InFlight::Delivered);
            }
            for rank in (0..world).filter(|&rank| round < death || rank != victim) {
                job.cluster.step(rank);
            }
        }
        let lost = Error::resource("lost");
        for rank in (0..world).filter(|&rank| rank != victim) {
            job.cluster.fail(rank, &lost);
            match job.cluster.peers[rank].executor.take(job.handles[rank]).expect("everything has ended") {
                Ok(_) => assert_eq!(job.outputs[rank].values(), sum(&job.inputs), "seed {seed}"),
                Err(error) => {
                    assert_eq!(error.to_string(), lost.to_string());
                    cut_short += 1;
                }
            }
        }
        assert!(
            job.sources.iter().zip(&job.inputs).all(|(m, i)| m.values() == *i),
            "seed {seed}: an input changed"
        );
    }
    assert!(cut_short > 100, "only {cut_short} ops were cut short");
}

/// A rank whose op ends early gets its memory back and writes it: nobody may take that for its input.
#[test]
fn memory_of_an_op_that_failed_is_never_taken_for_data() {
    let (mut ended_well, mut cut_short) = (0, 0);
    for seed in 0..600u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let algorithms = ["one-shot", "two-shot", "ring", "halving-doubling"];
        let mut job = Job::start(&mut rng, seed, 8000, &algorithms, Tolerance::None);
        let world = job.inputs.len();
        let victim = rng.random_range(0..world);
        for _ in 0..rng.random_range(0..15) {
            for rank in 0..world {
                job.cluster.step(rank);
            }
        }
        job.cluster.fail(victim, &Error::resource("its deadline passed"));
        job.sources[victim].segment().bytes_mut().fill(0xee);
        job.outputs[victim].segment().bytes_mut().fill(0xee);
        for _ in 0..100 {
            for rank in (0..world).filter(|&rank| rank != victim) {
                job.cluster.step(rank);
            }
        }
        for rank in (0..world).filter(|&rank| rank != victim) {
            match job.cluster.peers[rank].executor.take(job.handles[rank]) {
                Some(Ok(_)) => {
                    assert_eq!(
                        job.outputs[rank].values(),
                        sum(&job.inputs),
                        "seed {seed} {} rank {rank}",
                        job.algorithm
                    );
                    ended_well += 1;
                }
                Some(Err(error)) => panic!("{error}"),
                None => cut_short += 1,
            }
            job.cluster.fail(rank, &Error::resource("the verdict"));
        }
    }
    assert!(ended_well > 50 && cut_short > 50, "{ended_well} {cut_short}");
}
