//! Many ops in flight from many threads, sub-groups, messages, callbacks, misuse and deadlines, on real
//! processes over each transport.

use ronde::{Call, CallOptions, Collective, DType, Error, Group, ReduceOp, Reduction, Tag};
use ronde_core::memory::{Access, Arena};
use ronde_multiprocess::{is_child, run};
use std::sync::mpsc;
use std::time::Duration;

fn join() -> Group {
    ronde::Config::from_env().and_then(|config| config.join()).expect("join")
}

fn on_each_transport(function: &str, ranks: &[usize]) {
    if is_child() {
        return;
    }
    for transport in ["tcp", "shm"] {
        for &n in ranks {
            run(function, n, &[("RONDE_TRANSPORTS", transport)]);
        }
    }
}

/// Memory of an asynchronous all-reduce of `count` u64, all equal to `value`.
fn all_reduce_of(value: u64, count: usize, tag: u32) -> (Arena, Call) {
    let arena = Arena::new(2 * count * 8);
    let (input, output) = (arena.segment(0, count * 8), arena.segment(count * 8, count * 8));
    for i in 0..count {
        input.slice(i * 8, 8).fill_from(&value.to_le_bytes());
    }
    let call = Call {
        collective: Collective::AllReduce,
        dtype: DType::U64,
        count,
        reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
        input,
        output,
        options: CallOptions { tag: Tag(tag), ..CallOptions::default() },
        ..Call::EMPTY
    };
    (arena, call)
}

fn expect_sum(arena: &Arena, count: usize, sum: u64) {
    let output = arena.segment(count * 8, count * 8);
    assert!(output.bytes().chunks_exact(8).all(|b| u64::from_le_bytes(b.try_into().unwrap()) == sum));
}

#[test]
fn threads_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let (rank, n) = (u64::from(group.rank()), u64::from(group.size()));
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let group = group.clone();
            scope.spawn(move || {
                for round in 0..30u64 {
                    let counts = [1usize, 700, 40_000];
                    let ops: Vec<_> = counts
                        .iter()
                        .map(|&count| {
                            let (arena, call) = all_reduce_of(rank + round, count, thread);
                            (arena, count, group.start(call).expect("start"))
                        })
                        .collect();
                    // Waited for in another order than they were started in.
                    for (arena, count, op) in ops.into_iter().rev() {
                        let _ = op.wait().expect("all-reduce");
                        expect_sum(&arena, count, n * round + n * (n - 1) / 2);
                    }
                }
            });
        }
    });
    group.close().expect("close");
}

#[test]
fn threads() {
    on_each_transport("threads_rank", &[2, 4]);
}

#[test]
fn callbacks_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let (rank, n) = (u64::from(group.rank()), u64::from(group.size()));
    let (sender, receiver) = mpsc::channel();
    let arenas: Vec<Arena> = (0..20u64)
        .map(|round| {
            let (arena, call) = all_reduce_of(rank * round, 5000, 0);
            let sender = sender.clone();
            let op = group.start(call).expect("start");
            op.on_complete(move |result| sender.send((round, result.is_ok())).expect("the test waits"));
            arena
        })
        .collect();
    // Nobody waits in the library: the background thread drives.
    for _ in 0..20 {
        let (round, ok) = receiver.recv_timeout(Duration::from_secs(20)).expect("a callback");
        assert!(ok);
        expect_sum(&arenas[round as usize], 5000, round * n * (n - 1) / 2);
    }
    group.close().expect("close");
}

#[test]
fn callbacks() {
    on_each_transport("callbacks_rank", &[3]);
}

#[test]
fn splits_and_messages_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let (rank, n) = (group.rank(), group.size());
    // Even and odd ranks, in reverse order.
    let half = group.split(Some(rank % 2), -(rank as i32)).expect("split").expect("a member");
    let members: Vec<u32> = (0..n).filter(|r| r % 2 == rank % 2).collect();
    assert_eq!(half.size() as usize, members.len());
    assert_eq!(members[members.len() - 1 - half.rank() as usize], rank);
    let mut value = [u64::from(rank) + 1, 1];
    let _ = half.all_reduce(&mut value, ReduceOp::Sum).expect("all-reduce of the half");
    assert_eq!(value[0], members.iter().map(|r| u64::from(*r) + 1).sum::<u64>());
    assert_eq!(value[1], members.len() as u64);
    assert!(group.split((rank == 0).then_some(7), 0).expect("split").is_none_or(|g| g.size() == 1));

    // Both directions at once, large messages, then tags received in the other order.
    let (next, prev) = ((rank + 1) % n, (rank + n - 1) % n);
    std::thread::scope(|scope| {
        for tag in [3u32, 2, 1] {
            let group = group.clone();
            let length = 90_000 * tag as usize + 1;
            let options = CallOptions { tag: Tag(tag), ..CallOptions::default() };
            let sender = (group.clone(), options.clone());
            scope.spawn(move || {
                let data: Vec<u32> = (0..length as u32).map(|i| i ^ rank << 24 ^ tag).collect();
                let _ = sender.0.send(&data, next, &sender.1).expect("send");
            });
            scope.spawn(move || {
                let mut data = vec![u32::MAX; length];
                let _ = group.recv(&mut data, prev, &options).expect("recv");
                assert!(data.iter().enumerate().all(|(i, x)| *x == i as u32 ^ prev << 24 ^ tag));
            });
        }
    });
    group.close().expect("close");
}

#[test]
fn splits_and_messages() {
    on_each_transport("splits_and_messages_rank", &[4, 5]);
}

#[test]
fn mismatch_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let mut data = vec![1f32; if group.rank() == 1 { 10 } else { 11 }];
    let error = group.all_reduce(&mut data, ReduceOp::Sum).expect_err("the counts differ");
    let text = error.to_string();
    assert!(text.contains("count 10") && text.contains("count 11"), "{text}");
    println!("VERDICT {text}");
    let after = group.barrier().expect_err("the group has failed");
    assert_eq!(after.to_string(), text, "every later call gives the same error");
}

#[test]
fn mismatch() {
    on_each_transport("mismatch_rank", &[2, 3]);
}

#[test]
fn deadline_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let mut data = [1u32; 4];
    let options = CallOptions { timeout: Some(Duration::from_millis(300)), ..CallOptions::default() };
    if group.rank() != 2 {
        let error = group.all_reduce_with(&mut data, ReduceOp::Sum, &options).expect_err("rank 2 is absent");
        assert!(matches!(error, Error::Aborted(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(": nothing has come from rank 2 (host "), "{text}");
        // The coordinator adds what it knows of rank 2, so that all get the same.
        assert!(text.contains("2 of 3 are known to be in it"), "{text}");
        assert!(text.contains("rank 2 lives and is in "), "{text}");
        let calls = group.recent_calls();
        let call = calls.last().expect("a call").to_string();
        assert!(
            call.starts_with("all_reduce(count 4, u32, sum) #0 (tag 0), ") && call.ends_with(": failed"),
            "{call}"
        );
        println!("VERDICT {text}");
        if group.rank() == 0 {
            let _ = group.send(&[1u8], 2, &CallOptions::default()).expect("send");
        }
    } else {
        let _ = group.recv(&mut [0u8], 0, &CallOptions::default()).expect("recv");
        // It has come too late: the call has ended for it too, with the same words.
        let error = group.all_reduce(&mut data, ReduceOp::Sum).expect_err("the others have given it up");
        println!("VERDICT {error}");
    }
    assert_eq!(data, [1; 4], "what was given is as before");
    // The job goes on.
    assert!(group.failure().is_none());
    let _ = group.all_reduce(&mut data, ReduceOp::Sum).expect("all are in it");
    assert_eq!(data, [3; 4]);
    group.close().expect("close");
}

#[test]
fn deadline() {
    on_each_transport("deadline_rank", &[3]);
}

#[test]
fn misuse_rank() {
    if !is_child() {
        return;
    }
    let group = join();
    let mut data = [1f32; 8];
    let misuse = |result: Result<ronde::Outcome, Error>, word: &str| match result {
        Err(Error::Misuse(misuse)) => assert!(misuse.to_string().contains(word), "{misuse}"),
        other => panic!("expected misuse about {word:?}, got {other:?}"),
    };
    misuse(group.all_reduce(&mut data, ReduceOp::Bxor), "bxor");
    misuse(group.broadcast(&mut data, 99), "root");
    misuse(group.all_gather(&[1f32; 8], &mut [0f32; 9]), "output");
    misuse(group.send(&data, group.rank(), &CallOptions::default()), "another rank");
    let unknown = CallOptions { algorithm: Some("telepathy"), ..CallOptions::default() };
    misuse(group.all_reduce_with(&mut data, ReduceOp::Sum, &unknown), "telepathy");
    // A misuse harms nobody: the group works on.
    let _ = group.all_reduce(&mut data, ReduceOp::Sum).expect("all-reduce");
    assert_eq!(data, [group.size() as f32; 8]);
    group.close().expect("close");
    misuse(group.all_reduce(&mut data, ReduceOp::Sum), "closed");
}

#[test]
fn misuse() {
    on_each_transport("misuse_rank", &[2]);
}
