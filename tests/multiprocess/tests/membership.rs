//! Processes join a job that runs, and leave it, at safe points. Ranks are threads here, but for the churn.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde::memory::lend;
use ronde::{Call, CallOptions, Collective, Config, DType, Error, Group, ReduceOp, Reduction, Tag, Update};
use ronde_multiprocess::{RankProcess, free_port, is_child, spawn, wait_all};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);

fn elastic(port: u16, transports: &str) -> Config {
    let config = Config::new().coordinator(format!("127.0.0.1:{port}")).min_peers(1).timeout(PATIENCE);
    config.connect_timeout(PATIENCE).transports(transports.split(',')).unwrap()
}

/// The sum of what every rank brings, checked.
fn work(group: &Group) {
    for count in [1usize, 1000, 300_000] {
        let mut data = vec![u64::from(group.rank()) + 1; count];
        let outcome = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        let here = (0..group.size()).filter(|rank| !outcome.absent.contains(rank));
        let expected: u64 = here.map(|rank| u64::from(rank) + 1).sum();
        assert!(data.iter().all(|&x| x == expected), "{count} by {} of {}", group.rank(), group.size());
    }
}

/// Calls `update` until it changes something, working meanwhile.
fn await_change(group: &Group) -> Update {
    let deadline = Instant::now() + PATIENCE;
    loop {
        work(group);
        let update = group.update().unwrap();
        if update.changed {
            return update;
        }
        assert!(Instant::now() < deadline, "nothing changed");
    }
}

#[test]
fn a_job_grows_from_one() {
    for transports in ["shm,tcp", "tcp"] {
        let port = free_port();
        let (started, next) = mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..4u32 {
                let started = started.clone();
                scope.spawn(move || {
                    let group = elastic(port, transports).join().unwrap();
                    assert_eq!((group.rank(), group.size()), (number, number + 1), "{transports}");
                    assert_eq!(group.generation(), number);
                    started.send(()).unwrap();
                    // A newcomer gets the state of the others, who expect it.
                    let mut state = [0u64; 3];
                    if number > 0 {
                        let _ = group.broadcast(&mut state, 0).unwrap();
                        assert_eq!(state, [7, 8, 9]);
                    }
                    state = [7, 8, 9];
                    work(&group);
                    for newcomer in number + 1..4 {
                        let update = await_change(&group);
                        assert_eq!(update, Update { changed: true, joined: vec![newcomer], gone: vec![] });
                        assert_eq!((group.rank(), group.size()), (number, newcomer + 1));
                        let _ = group.broadcast(&mut state, 0).unwrap();
                        work(&group);
                    }
                    assert_eq!(group.links().len(), 3);
                    group.close().unwrap();
                });
                next.recv_timeout(PATIENCE).expect("it joined");
            }
        });
    }
}

/// Ranks 0 and 2 go on without 1 who left: ranks are dense again, sub-groups follow, tags and messages start
/// anew.
#[test]
fn ranks_are_dense_again_after_a_leave() {
    let port = free_port();
    std::thread::scope(|scope| {
        for rank in 0..3u32 {
            scope.spawn(move || {
                let config = Config::new().coordinator(format!("127.0.0.1:{port}")).rank(rank).size(3);
                let group = config.timeout(PATIENCE).join().unwrap();
                let part = group.split(Some(0), -(rank as i32)).unwrap().unwrap();
                work(&group);
                work(&part);
                assert!(!group.update().unwrap().changed);
                let error = part.update().unwrap_err().to_string();
                assert!(error.contains("group of the whole job"), "{error}");
                if rank == 1 {
                    return group.close().unwrap();
                }
                let update = await_change(&group);
                assert_eq!(update, Update { changed: true, joined: vec![], gone: vec![1] });
                assert_eq!((group.rank(), group.size()), (rank / 2, 2));
                assert_eq!(
                    (part.rank(), part.size()),
                    (1 - rank / 2, 2),
                    "its order was the other way round"
                );
                work(&group);
                work(&part);
                let options = CallOptions { tag: Tag(3), ..CallOptions::default() };
                let mut got = [0u32; 5];
                match group.rank() {
                    0 => group.send(&[1u32, 2, 3, 4, 5], 1, &options).map(drop).unwrap(),
                    _ => {
                        let _ = group.recv(&mut got, 0, &options).unwrap();
                        assert_eq!(got, [1, 2, 3, 4, 5]);
                    }
                }
                group.close().unwrap();
            });
        }
    });
}

#[test]
fn who_is_not_taken_in_is_told_what_is_missing() {
    let port = free_port();
    let group = elastic(port, "shm,tcp").join().unwrap();
    let newcomer = std::thread::spawn(move || {
        elastic(port, "shm,tcp").connect_timeout(Duration::from_millis(300)).join().map(drop)
    });
    let error = newcomer.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("safe point (update)"), "{error}");
    // Its view was armed before it gave up; the job goes on all the same.
    let _ = await_change(&group);
    let _ = await_change(&group);
    assert_eq!(group.size(), 1);
    group.close().unwrap();
}

#[test]
fn a_job_that_only_shrinks_takes_nobody_in() {
    let port = free_port();
    let group = elastic(port, "shm,tcp").shrink_only(true).join().unwrap();
    let error = elastic(port, "shm,tcp").join().map(drop).unwrap_err().to_string();
    assert!(error.contains("only shrinks"), "{error}");
    group.close().unwrap();
}

fn calls<'a>(
    lender: &ronde::memory::Lender<'a>,
    inputs: &'a [Vec<u64>],
    outputs: &'a mut [Vec<u64>],
) -> Vec<Call> {
    let pairs = inputs.iter().zip(outputs);
    pairs
        .map(|(input, output)| Call {
            collective: Collective::AllReduce,
            dtype: DType::U64,
            count: input.len(),
            reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
            input: lender.shared(input),
            output: lender.unique(output),
            ..Call::EMPTY
        })
        .collect()
}

/// What a rank brings to a place of a vector in a step.
fn value(rank: u32, step: u64, vector: usize, i: usize) -> u64 {
    (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step << 24 ^ (vector as u64) << 56 ^ i as u64
}

const VECTORS: usize = 8;

/// A training loop: eight all-reduces in flight, a state that is a function of all their results, a safe point
/// after each step, newcomers get the state from rank 0. Rank 0 says when to stop.
#[test]
fn churn_rank() {
    if !is_child() {
        return;
    }
    let lifetime = std::env::var("RONDE_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    let until = lifetime.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    println!("\nJOINED");
    // Step, digest of all results so far.
    let mut state = [0u64; 2];
    let mut must_share = group.generation() > 0;
    loop {
        if std::mem::take(&mut must_share) {
            let _ = group.broadcast(&mut state, 0).expect("the state");
        }
        let step = state[0];
        let lengths: Vec<usize> =
            (0..VECTORS).map(|v| (step as usize * 7919 + v * 104_729) % 40_000).collect();
        let inputs: Vec<Vec<u64>> = lengths
            .iter()
            .enumerate()
            .map(|(v, &len)| (0..len).map(|i| value(group.rank(), step, v, i)).collect())
            .collect();
        let mut outputs: Vec<Vec<u64>> = lengths.iter().map(|&len| vec![0xaaaa; len]).collect();
        let outcomes = lend(|lender| {
            let calls = calls(lender, &inputs, &mut outputs);
            group.run_all(calls)
        });
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(Error::Expelled { .. }) => return println!("\nEXPELLED"),
            Err(error) => panic!("step {step}: {error}"),
        };
        for (v, (outcome, output)) in outcomes.iter().zip(&outputs).enumerate() {
            let here: Vec<u32> = (0..group.size()).filter(|rank| !outcome.absent.contains(rank)).collect();
            for (i, &got) in output.iter().enumerate() {
                let sum = here.iter().fold(0u64, |sum, &r| sum.wrapping_add(value(r, step, v, i)));
                assert_eq!(got, sum, "step {step} vector {v} element {i} of ranks {here:?}");
                state[1] = (state[1] ^ got).wrapping_mul(0x100_0000_01b3);
            }
        }
        state[0] += 1;
        let mut stop = [u32::from(until.is_some_and(|until| Instant::now() >= until))];
        let _ = group.all_reduce(&mut stop, ReduceOp::Max).expect("the stop flag");
        if stop == [1] {
            break;
        }
        let update = group.update().expect("a safe point");
        must_share = !update.joined.is_empty();
    }
    println!("\nSTATE {state:?} of {} in generation {}", group.size(), group.generation());
    group.close().expect("close");
}

/// Processes come and are killed at random while a job works; all that live in the end have the same state.
/// The one that hosts the coordinator stays.
fn churn(seconds: f64, seed: u64, transports: &str) {
    const MOST: usize = 7;
    let mut rng = SmallRng::seed_from_u64(seed);
    let coordinator = format!("127.0.0.1:{}", free_port());
    let text = seconds.to_string();
    let common = [("RONDE_TRANSPORTS", transports), ("RONDE_TIMEOUT", "30s"), ("RONDE_MIN_PEERS", "1")];
    let first = [&common[..], &[("RONDE_TEST_SECONDS", &text)]].concat();
    let mut living: Vec<RankProcess> = vec![spawn("churn_rank", 0, &coordinator, &first)];
    let until = Instant::now() + Duration::from_secs_f64(seconds - 0.5);
    let (mut spawned, mut killed) = (1, 0);
    while Instant::now() < until {
        let pause = Duration::from_millis(rng.random_range(20..250));
        std::thread::park_timeout(pause);
        if living.len() < 2 || living.len() < MOST && rng.random_ratio(6, 10) {
            living.push(spawn("churn_rank", spawned, &coordinator, &common));
            spawned += 1;
        } else {
            let victim = rng.random_range(1..living.len());
            living.swap_remove(victim).kill();
            killed += 1;
        }
    }
    let mut states = Vec::new();
    for ended in wait_all(living, Duration::from_secs(60)) {
        let state = ended.output.lines().find(|line| line.starts_with("STATE")).map(str::to_owned);
        // Who came too late to be taken in hears that the job has ended.
        match state {
            Some(state) if ended.ok => states.push(state),
            _ => assert!(
                ended.rank > 0 && !ended.output.contains("JOINED"),
                "process {} of seed {seed}: {}",
                ended.rank,
                ended.output
            ),
        }
    }
    println!("{spawned} came, {killed} were killed, {} stayed: {:?}", states.len(), states.first());
    assert!(states.iter().all(|state| *state == states[0]), "seed {seed}: {states:#?}");
    assert!(killed > 3 && spawned > 5, "{killed} of {spawned}");
}

/// Churn for as long as `tests/soak churn` says, over one transport after the other.
#[test]
#[ignore = "as long as one likes: tests/soak churn"]
fn churn_soak() {
    if is_child() {
        return;
    }
    let (seconds, seed) = ronde_multiprocess::soak();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    for (round, transports) in ["shm,tcp", "tcp", "shm"].into_iter().cycle().enumerate() {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        if left < 5.0 {
            return;
        }
        churn(left.min(60.0), seed + round as u64, transports);
    }
}

#[test]
fn churn_over_shared_memory() {
    if !is_child() {
        churn(6.0, 1, "shm,tcp");
    }
}

#[test]
fn churn_over_tcp() {
    if !is_child() {
        churn(6.0, 2, "tcp");
    }
}
