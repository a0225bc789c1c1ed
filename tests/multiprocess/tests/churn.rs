//! Processes come to a job that works and are killed, one after the other.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde::memory::lend;
use ronde::{Call, Collective, DType, Error, ReduceOp, Reduction};
use ronde_multiprocess::{RankProcess, free_port, is_child, spawn, wait_all};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// In flight at one time.
const VECTORS: usize = 8;
/// Processes that live at one time, at most.
const MOST: usize = 10;
/// Milliseconds between one that comes or is killed and the next.
const FAST: Range<u64> = 20..250;
const SLOW: Range<u64> = 500..2000;

/// Vectors take turns.
fn dtype(vector: usize) -> DType {
    if vector.is_multiple_of(2) { DType::U8 } else { DType::F32 }
}

/// What a rank brings to a place of a vector in a step: sums of floats are exact in any order.
fn value(rank: u32, step: u64, vector: usize, i: usize) -> i64 {
    let seed = (u64::from(rank) + 1) << 56 ^ step << 24 ^ (vector as u64) << 52 ^ i as u64;
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as i64 - (1 << 19)
}

fn encode(vector: usize, value: i64, bytes: &mut Vec<u8>) {
    match dtype(vector) {
        DType::F32 => bytes.extend((value as f32).to_le_bytes()),
        _ => bytes.push(value as u8),
    }
}

/// A vector with what these ranks bring, summed.
fn sum(ranks: &[u32], step: u64, vector: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length * 4);
    for i in 0..length {
        encode(vector, ranks.iter().map(|&rank| value(rank, step, vector, i)).sum(), &mut bytes);
    }
    bytes
}

fn calls<'a>(
    lender: &ronde::memory::Lender<'a>,
    inputs: &'a [Vec<u8>],
    outputs: &'a mut [Vec<u8>],
) -> Vec<Call> {
    let pairs = inputs.iter().zip(outputs).enumerate();
    pairs
        .map(|(vector, (input, output))| Call {
            collective: Collective::AllReduce,
            dtype: dtype(vector),
            count: input.len() / dtype(vector).size(),
            reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
            input: lender.shared(input),
            output: lender.unique(output),
            ..Call::EMPTY
        })
        .collect()
}

/// A training loop: eight all-reduces in flight, a state that is a function of all their results, a safe point
/// after each step, newcomers get the state from rank 0. Rank 0, whoever that is, says when to stop.
#[test]
fn churn_rank() {
    if !is_child() {
        return;
    }
    let until =
        std::env::var("RONDE_TEST_UNTIL").expect("set by the parent").parse::<f64>().expect("a number");
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    println!("\nJOINED");
    // Step, digest of all results so far.
    let mut state = [0u64; 2];
    let mut is_new = group.generation() > 0;
    let mut must_share = is_new;
    loop {
        if std::mem::take(&mut must_share) {
            let _ = group.share(&mut state, !std::mem::take(&mut is_new)).expect("the state");
        }
        let step = state[0];
        let lengths: Vec<usize> =
            (0..VECTORS).map(|v| (step as usize * 7919 + v * 104_729) % 40_000).collect();
        let vector = |(v, &length)| sum(&[group.rank()], step, v, length);
        let inputs: Vec<Vec<u8>> = lengths.iter().enumerate().map(vector).collect();
        let mut outputs: Vec<Vec<u8>> = inputs.iter().map(|input| vec![0xaa; input.len()]).collect();
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
            let wrong = output.iter().zip(sum(&here, step, v, lengths[v])).position(|(got, sum)| *got != sum);
            assert_eq!(wrong, None, "step {step} vector {v} of ranks {here:?}: wrong from that byte on");
            let digest = |state: u64, &byte: &u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            state[1] = output.iter().fold(state[1], digest);
        }
        state[0] += 1;
        let mut stop = [u32::from(group.rank() == 0 && unix_time() >= until)];
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

/// Seconds since 1970.
fn unix_time() -> f64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()
}

/// Processes come and are killed at random while a job works, also those that host the coordinator, with pauses of
/// so many milliseconds; all that live in the end have the same state.
fn churn(seconds: f64, pauses: Range<u64>, seed: u64, transports: &str) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let coordinator = format!("127.0.0.1:{}", free_port());
    let text = (unix_time() + seconds).to_string();
    let common = [("RONDE_TRANSPORTS", transports), ("RONDE_TIMEOUT", "30s"), ("RONDE_TEST_UNTIL", &text)];
    let first = [&common[..], &[("RONDE_MIN_PEERS", "1")]].concat();
    let later = [&common[..], &[("RONDE_NEWCOMER", "1"), ("RONDE_CONNECT_TIMEOUT", "10s")]].concat();
    // In the order in which they came, which is that of their ranks: the first hosts the coordinator.
    let mut living = vec![Worker::start(0, &coordinator, &first)];
    let until = Instant::now() + Duration::from_secs_f64(seconds - 1.0);
    let (mut spawned, mut killed, mut hosts, mut joined, mut peak) = (1, 0, 0, 0, 1);
    loop {
        let pause = Duration::from_millis(rng.random_range(pauses.clone()));
        std::thread::park_timeout(pause);
        if Instant::now() > until {
            break;
        }
        if living.len() < 2 || living.len() < MOST && rng.random_ratio(7, 10) {
            living.push(Worker::start(spawned, &coordinator, &later));
            spawned += 1;
            peak = peak.max(living.len());
            continue;
        }
        let oldest = rng.random_ratio(1, 4);
        let victim = if oldest { 0 } else { rng.random_range(0..living.len()) };
        // With the last one that works the job would end.
        if living.iter().enumerate().any(|(at, worker)| at != victim && worker.has_joined()) {
            joined += usize::from(living[victim].has_joined());
            living.remove(victim).process.kill();
            killed += 1;
            hosts += usize::from(victim == 0);
        }
    }
    let (mut processes, mut outputs) = (Vec::new(), Vec::new());
    for worker in living {
        processes.push(worker.process);
        outputs.push(worker.output);
    }
    let ended = wait_all(processes, Duration::from_secs(60));
    let mut states = Vec::new();
    for (ended, output) in ended.into_iter().zip(outputs) {
        let text = output.join().expect("its output");
        // Who came too late to be taken in hears that the job has ended.
        match text.lines().find(|line| line.starts_with("STATE")) {
            Some(state) if ended.ok => states.push(state.to_owned()),
            _ => assert!(
                !text.contains("JOINED"),
                "process {} of seed {seed}: {text} {}",
                ended.rank,
                ended.output
            ),
        }
    }
    println!(
        "{spawned} came, at most {peak} lived, {killed} were killed, {hosts} of them hosts of the coordinator, \
         {} stayed: {:?}",
        states.len(),
        states.first()
    );
    assert!(!states.is_empty(), "seed {seed}: nobody stayed");
    assert!(states.iter().all(|state| *state == states[0]), "seed {seed}: {states:#?}");
    joined += states.len();
    let few = seconds * 1000.0 / pauses.end as f64 / 8.0;
    let enough = f64::from(killed) > few && joined > spawned / 2;
    assert!(enough, "{joined} of {spawned} joined, {killed} were killed");
}

/// A process of the churn, and what it says.
struct Worker {
    process: RankProcess,
    joined: Arc<AtomicBool>,
    output: std::thread::JoinHandle<String>,
}

impl Worker {
    fn start(number: usize, coordinator: &str, variables: &[(&str, &str)]) -> Worker {
        let mut process = spawn("churn_rank", number, coordinator, variables);
        let joined = Arc::new(AtomicBool::new(false));
        let (says_so, lines) = (joined.clone(), BufReader::new(process.take_stdout()).lines());
        let output = std::thread::spawn(move || {
            let mut text = String::new();
            for line in lines.map_while(Result::ok) {
                says_so.fetch_or(line == "JOINED", Ordering::Relaxed);
                text += &line;
                text.push('\n');
            }
            text
        });
        Worker { process, joined, output }
    }

    fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }
}

/// Churn for as long as `tests/soak churn` says, over one transport after the other.
#[test]
#[ignore = "as long as one likes: tests/soak churn"]
fn soak() {
    if is_child() {
        return;
    }
    let (seconds, seed) = ronde_multiprocess::soak();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    for (round, transports) in ["shm,tcp", "tcp", "shm"].into_iter().cycle().enumerate() {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        if left < 20.0 {
            return;
        }
        churn(left.min(60.0), SLOW, seed + round as u64, transports);
    }
}

#[test]
fn over_shared_memory() {
    if !is_child() {
        churn(6.0, FAST, 1, "shm,tcp");
    }
}

#[test]
fn over_tcp() {
    if !is_child() {
        churn(6.0, FAST, 2, "tcp");
    }
}
