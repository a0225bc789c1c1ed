//! Without tolerance a peer that dies or stops is the same prompt, named error on every survivor, whoever it
//! is: also the host of the coordinator.

use ronde::{CallOptions, Error, ReduceOp, Tolerance};
use ronde_multiprocess::{RankProcess, is_child, launch, wait_all};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// All-reduces until something breaks, then prints the error.
#[test]
fn survivor_rank() {
    if !is_child() {
        return;
    }
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    let length: usize =
        std::env::var("RONDE_TEST_LENGTH").expect("set by the parent").parse().expect("a number");
    let mut round = 0u64;
    let error = loop {
        let mut data = vec![1f32; length];
        let options = CallOptions { tolerance: Tolerance::None, ..CallOptions::default() };
        match group.all_reduce_with(&mut data, ReduceOp::Sum, &options) {
            Ok(_) => assert!(data.iter().all(|x| *x == group.size() as f32), "round {round}"),
            Err(error) => break error,
        }
        round += 1;
        if round == 20 {
            println!("\nREADY");
        }
    };
    assert!(matches!(error, Error::PeerLost(_)), "{error}");
    println!("\nVERDICT {error}");
}

fn lines_until_ready(process: &mut RankProcess) -> BufReader<std::process::ChildStdout> {
    let mut lines = BufReader::new(process.take_stdout());
    let mut line = String::new();
    while line.trim() != "READY" {
        line.clear();
        assert!(lines.read_line(&mut line).expect("its output") > 0, "rank {} ended early", process.rank);
    }
    lines
}

fn lose(victim: usize, ranks: usize, transport: &str, length: &str, stop: bool) {
    let variables = [("RONDE_TRANSPORTS", transport), ("RONDE_TEST_LENGTH", length)];
    let mut processes = launch("survivor_rank", ranks, &variables);
    let mut outputs: Vec<_> = processes.iter_mut().map(lines_until_ready).collect();
    let from = Instant::now();
    if stop {
        processes[victim].stop();
    } else {
        processes[victim].kill();
    }
    let mut verdicts = Vec::new();
    for (rank, output) in outputs.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
        let mut line = String::new();
        while !line.starts_with("VERDICT") {
            line.clear();
            let read = output.read_line(&mut line).expect("its output");
            assert!(read > 0, "rank {rank} ended without a verdict ({victim} of {ranks}, {transport})");
        }
        verdicts.push(line);
    }
    let took = from.elapsed();
    let limit = if stop { Duration::from_secs(4) } else { Duration::from_secs(2) };
    assert!(took < limit, "{took:?} until the last verdict");
    assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{verdicts:#?}");
    assert!(verdicts[0].contains(&format!("peer {victim} ")), "{}", verdicts[0]);
    if stop {
        processes[victim].kill();
    }
    for mut output in outputs {
        std::io::copy(&mut output, &mut std::io::sink()).expect("the rest of its output");
    }
    for ended in wait_all(processes, Duration::from_secs(10)) {
        assert!(ended.ok || ended.rank == victim, "rank {}: {}", ended.rank, ended.output);
    }
}

#[test]
fn killed() {
    if is_child() {
        return;
    }
    for transport in ["tcp", "shm"] {
        for length in ["3", "20000", "3000000"] {
            lose(2, 4, transport, length, false);
            lose(0, 3, transport, length, false);
            lose(1, 2, transport, length, false);
        }
    }
}

#[test]
fn stopped() {
    if !is_child() {
        for transport in ["tcp", "shm"] {
            lose(1, 3, transport, "20000", true);
            lose(0, 3, transport, "20000", true);
        }
    }
}
