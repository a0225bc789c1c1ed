//! Connections that are cut while all processes live: they are made again, and nobody notices.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde::{CallOptions, Config, Group, Reconnect, ReduceOp, Tolerance};
use ronde_multiprocess::{Proxy, RankProcess, command_of, free_port, is_child, start, wait_all};
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RANKS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// A job of which each rank is found through a proxy of its own.
struct Job {
    ports: Vec<u16>,
    proxies: Vec<Proxy>,
}

impl Job {
    fn new(ranks: u32) -> Job {
        let ports: Vec<u16> = (0..ranks).map(|_| free_port()).collect();
        let proxies = ports.iter().map(|&port| Proxy::to(port)).collect();
        Job { ports, proxies }
    }

    fn config(&self, rank: u32) -> Config {
        let port = self.ports[rank as usize];
        let coordinator = match rank {
            0 => format!("127.0.0.1:{port}"),
            _ => self.proxies[0].address().to_string(),
        };
        Config::new()
            .coordinator(coordinator)
            .rank(rank)
            .size(self.ports.len() as u32)
            .ports(port, port)
            .advertise(self.proxies[rank as usize].address().to_string())
            .transports(["tcp"])
            .expect("a transport")
            .reconnect(Reconnect::Always)
            .timeout(PATIENCE)
    }
}

fn value(rank: u32, round: u64, at: usize) -> u64 {
    (at as u64).wrapping_mul(0x9e37_79b9).wrapping_add(round * 31 + u64::from(rank) * 7)
}

fn vector(rank: u32, round: u64, len: usize) -> Vec<u64> {
    (0..len).map(|at| value(rank, round, at)).collect()
}

/// A round of all kinds of calls.
fn one_round(group: &Group, round: u64, len: usize) {
    let (me, size) = (group.rank(), group.size());
    for tolerance in [Tolerance::Recover, Tolerance::None] {
        let mut sum = vector(me, round, len);
        let options = CallOptions { tolerance, ..CallOptions::default() };
        let outcome = group.all_reduce_with(&mut sum, ReduceOp::Sum, &options).expect("all-reduce");
        assert_eq!((outcome.contributors, outcome.interruptions), (size, 0), "round {round}");
        let expected = |at| (0..size).map(|rank| value(rank, round, at)).fold(0, u64::wrapping_add);
        assert!((0..len).all(|at| sum[at] == expected(at)), "round {round}");
    }
    let blocks = vector(me, round, len * size as usize);
    let mut exchanged = vec![u64::MAX; blocks.len()];
    let outcome = group.all_to_all(&blocks, &mut exchanged).expect("all-to-all");
    assert_eq!((outcome.contributors, outcome.interruptions), (size, 0), "round {round}");
    let from = |rank: u32, at: usize| value(rank, round, me as usize * len + at);
    let right =
        (0..size).all(|rank| (0..len).all(|at| exchanged[rank as usize * len + at] == from(rank, at)));
    assert!(right, "round {round}");
    // Each to the next, even ranks first.
    let (next, before) = ((me + 1) % size, (me + size - 1) % size);
    let mut message = vec![u64::MAX; len];
    let send = || drop(group.send(&blocks[..len], next, &CallOptions::default()).expect("send"));
    if me.is_multiple_of(2) {
        send();
    }
    let _ = group.recv(&mut message, before, &CallOptions::default()).expect("receive");
    if !me.is_multiple_of(2) {
        send();
    }
    assert_eq!(message, vector(before, round, len), "round {round}");
}

/// Runs `rank` as every rank, and `meanwhile` until all are done.
fn run(job: &Job, streams: u8, rank: impl Fn(Group) + Sync, meanwhile: impl FnOnce(&dyn Fn() -> bool)) {
    let running = AtomicU64::new(u64::from(job.ports.len() as u32));
    std::thread::scope(|scope| {
        for number in 0..job.ports.len() as u32 {
            let config = job.config(number).streams(streams);
            let (rank, running) = (&rank, &running);
            scope.spawn(move || {
                struct Ends<'a>(&'a AtomicU64);
                impl Drop for Ends<'_> {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Ordering::Release);
                    }
                }
                let _ends = Ends(running);
                rank(config.join().expect("join"));
            });
        }
        meanwhile(&|| running.load(Ordering::Acquire) > 0);
    });
}

#[test]
fn connections_that_are_cut_cost_nobody() {
    for (seed, streams) in [(1, 1), (2, 3)] {
        let job = Job::new(RANKS);
        let (enough, begun) = (AtomicBool::new(false), AtomicU64::new(0));
        let rank = |group: Group| {
            let mut rounds = 0;
            loop {
                // All stop after the same round.
                let len = [1, 40, 5_000, 70_001, 300_007][rounds as usize % 5];
                one_round(&group, rounds, len);
                begun.fetch_max(rounds + 1, Ordering::Release);
                rounds += 1;
                let (stop, _) = group.agree(enough.load(Ordering::Acquire)).expect("agree");
                if stop {
                    break;
                }
            }
            group.close().expect("close");
        };
        let mut cuts = 0;
        run(&job, streams, rank, |runs| {
            let (mut rng, since) = (SmallRng::seed_from_u64(seed), Instant::now());
            while runs() {
                std::thread::park_timeout(Duration::from_millis(rng.random_range(1..40)));
                if begun.load(Ordering::Acquire) == 0 || enough.load(Ordering::Acquire) {
                    continue;
                }
                for proxy in &job.proxies {
                    proxy.cut(|| rng.random_range(0..4) == 0);
                }
                cuts = job.proxies.iter().map(Proxy::cuts).sum();
                let is_enough = cuts >= 150 && begun.load(Ordering::Acquire) >= 15;
                enough.store(is_enough || since.elapsed() > PATIENCE / 2, Ordering::Release);
            }
        });
        assert!(cuts >= 150, "{cuts} cuts in {begun:?} rounds");
    }
}

/// Nothing comes through between two of them any more, not even a word that nothing does.
#[test]
fn one_of_two_that_cannot_connect_again_is_lost_and_the_others_go_on() {
    let job = Job::new(3);
    let rounds = AtomicU64::new(0);
    let is_lost = AtomicU64::new(0);
    let rank = |group: Group| {
        let mut left_to_do = 5;
        for round in 0.. {
            let mut sum = vector(group.rank(), round, 1000);
            match group.all_reduce(&mut sum, ReduceOp::Sum) {
                Ok(outcome) => left_to_do -= u32::from(!outcome.absent.is_empty()),
                Err(error) => {
                    is_lost.fetch_add(1, Ordering::Release);
                    assert!(error.to_string().contains("expelled"), "{error}");
                    return;
                }
            }
            rounds.fetch_max(round, Ordering::Release);
            if left_to_do == 0 {
                return group.close().expect("close");
            }
        }
    };
    let mut since = None;
    run(&job, 1, rank, |runs| {
        while runs() {
            std::thread::park_timeout(Duration::from_millis(10));
            if rounds.load(Ordering::Acquire) > 10 && since.is_none() {
                // Rank 2 is connected to rank 1 by this, and nobody gets through again.
                job.proxies[1].fall_silent();
                job.proxies[1].cut(|| true);
                since = Some(Instant::now());
            }
        }
    });
    let took = since.expect("it began").elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(is_lost.load(Ordering::Acquire), 1);
}

/// Sums until nobody else is there or an error comes, and says what came of the first call with fewer.
#[test]
fn counting_rank() {
    if !is_child() {
        return;
    }
    let group = Config::from_env().and_then(|config| config.join()).expect("join");
    let mut left_to_do = 5;
    for round in 0.. {
        let mut sum = vector(group.rank(), round, 1000);
        match group.all_reduce(&mut sum, ReduceOp::Sum) {
            Ok(outcome) => {
                if round == 20 || !outcome.absent.is_empty() {
                    println!("\nround {round} without {:?}", outcome.absent);
                }
                left_to_do -= u32::from(!outcome.absent.is_empty());
            }
            Err(error) => return println!("\nerror: {error}"),
        }
        if left_to_do == 0 {
            return group.close().expect("close");
        }
    }
}

/// One is stopped and cut off from the coordinator, the others go on without it, end and are gone before it wakes: that all of
/// them have ended is no proof that they ended with it.
fn who_wakes_when_all_have_gone_does_not_go_on(reconnect: &str) {
    let host = free_port();
    let way = Proxy::to(host);
    let start_rank = |rank: usize| {
        let mut command = command_of("counting_rank");
        let coordinator = if rank == 2 { way.address().port() } else { host };
        command.env("RONDE_COORDINATOR", format!("127.0.0.1:{coordinator}"));
        command.env("RONDE_RANK", rank.to_string()).env("RONDE_SIZE", "3");
        command.env("RONDE_TRANSPORTS", "tcp").env("RONDE_RECONNECT", reconnect).env("RONDE_TIMEOUT", "30s");
        start(&mut command, rank)
    };
    let mut ranks: Vec<RankProcess> = (0..3).map(start_rank).collect();
    let last = ranks.pop().expect("three");
    let mut said = BufReader::new(ranks[1].take_stdout()).lines().map(Result::unwrap);
    assert!(said.by_ref().any(|line| line == "round 20 without []"), "they begin");
    last.stop();
    way.cut(|| true);
    let rest: Vec<String> = said.collect();
    let ended = wait_all(ranks, PATIENCE);
    assert!(ended.iter().all(|end| end.ok), "{rest:?} {}", ended[0].output);
    assert!(rest.iter().any(|line| line.ends_with("without [2]")), "{rest:?} {}", ended[0].output);
    last.resume();
    let last = wait_all(vec![last], PATIENCE).remove(0);
    assert!(
        last.ok && last.output.contains("\nerror: ") && !last.output.contains("without [0, 1]"),
        "{}",
        last.output
    );
}

#[test]
fn who_wakes_when_all_have_gone_does_not_go_on_alone() {
    who_wakes_when_all_have_gone_does_not_go_on("never");
}

#[test]
fn nor_does_it_where_connections_are_made_again() {
    who_wakes_when_all_have_gone_does_not_go_on("always");
}
