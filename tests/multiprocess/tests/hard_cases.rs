//! Cases in which ranks differ in what they have, call at odd times, or go wrong in the middle. Ranks are
//! threads, since a process may hold several.

use ronde::memory::lend;
use ronde::{
    Call, CallOptions, CallState, Collective, CommitOptions, DType, ReduceOp, Reduction, Result, Tag,
    Tolerance, UserReduce,
};
use ronde_multiprocess::threads::{error, memory_for_ever, ranks, start_forever};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deadline of a call that nobody will complete.
const SOON: Option<Duration> = Some(Duration::from_millis(300));

/// A rank whose links are of another kind than the others' cuts and commits like them all the same.
#[test]
fn ranks_with_other_kinds_of_links_choose_alike() {
    for transports in [["shm,tcp", "shm,tcp", "tcp"], ["tcp", "shm,tcp", "shm,tcp"]] {
        ranks(&transports, PATIENCE, |group| {
            for count in [1usize, 100, 256, 4096, 16384, 65536, 1 << 18] {
                let mut data = vec![1u32; count];
                let outcome = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                assert!(data.iter().all(|&x| x == 3), "{count} by {}", outcome.algorithm);
                for algorithm in ["direct", "tree", "chain"] {
                    let mut data = vec![group.rank() + 1; count];
                    let _ = lend(|lender| {
                        let data = lender.unique(&mut data);
                        let options = CallOptions { algorithm: Some(algorithm), ..CallOptions::default() };
                        let (input, output) = (data.clone(), data);
                        let call = Call {
                            collective: Collective::Broadcast,
                            dtype: DType::U32,
                            count,
                            ..Call::EMPTY
                        };
                        group.run(Call { input, output, options, ..call })
                    })
                    .unwrap();
                    assert!(data.iter().all(|&x| x == 1), "{count} {algorithm}");
                }
            }
            group.close().unwrap();
        });
    }
}

/// Calls that differ only in how they are carried out are an error too, not a hang.
#[test]
fn another_algorithm_or_tolerance_on_one_rank_is_named() {
    let by = |algorithm, tolerance| CallOptions { algorithm, tolerance, ..CallOptions::default() };
    let cases = [
        (by(Some("ring"), Tolerance::Recover), by(Some("two-shot"), Tolerance::Recover), "another algorithm"),
        (by(None, Tolerance::None), by(None, Tolerance::Recover), "tolerance none"),
    ];
    for (first, other, words) in cases {
        let texts = ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
            let options = if group.rank() == 0 { &first } else { &other };
            error(group.all_reduce_with(&mut vec![1f32; 5000], ReduceOp::Sum, options))
        });
        assert!(texts[0].contains(words) && texts[0] == texts[1], "{texts:?}");
    }
}

/// Output slices that are longer than the call needs change nothing.
#[test]
fn a_longer_output_is_no_other_call() {
    ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
        let mut output = vec![9f32; if group.rank() == 0 { 300 } else { 200 }];
        let _ = group.all_reduce_into(&[1f32; 200], &mut output, ReduceOp::Sum).unwrap();
        assert!(output[..200].iter().all(|&x| x == 2.0) && output[200..].iter().all(|&x| x == 9.0));
        group.close().unwrap();
    });
}

/// Somebody aborts while calls follow each other: what has returned on one rank has on all.
#[test]
fn an_abort_leaves_no_call_done_for_some_only() {
    for (round, count) in (0..12).zip([1usize, 300, 40_000].into_iter().cycle()) {
        for transports in [["shm,tcp"; 3], ["tcp"; 3]] {
            let done = ranks(&transports, PATIENCE, |group| {
                let mut data = vec![1u64; count];
                std::thread::scope(|scope| {
                    let (now, hear) = channel::<()>();
                    let group = &group;
                    let abort_when_told = move || {
                        if hear.recv().is_ok() {
                            group.abort("enough");
                        }
                    };
                    scope.spawn(abort_when_told);
                    let mut now = Some(now).filter(|_| group.rank() == round % 3);
                    for calls in 0.. {
                        data.fill(1);
                        match group.all_reduce(&mut data, ReduceOp::Sum) {
                            Ok(_) => assert!(data.iter().all(|&sum| sum == 3)),
                            Err(error) => {
                                assert!(error.to_string().contains("enough"), "{error}");
                                assert!(data.iter().all(|&given| given == 1), "what was given has changed");
                                return calls;
                            }
                        }
                        if calls == 5 + round {
                            now.take().into_iter().for_each(|now| now.send(()).unwrap());
                        }
                    }
                    0
                })
            });
            assert!(done[0] > 5 && done.iter().all(|calls| *calls == done[0]), "round {round}: {done:?}");
        }
    }
}

#[test]
fn an_op_that_nobody_waits_for_has_a_deadline_too() {
    let done = Barrier::new(2);
    ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
        if group.rank() == 0 {
            let (sender, receiver) = channel();
            start_forever(&group, Tag(1), SOON).on_complete(move |result| drop(sender.send(result.clone())));
            let text = error(receiver.recv_timeout(PATIENCE).expect("the callback"));
            assert!(text.contains("rank 1"), "{text}");
        }
        done.wait();
    });
}

/// Others keep the links busy, with pauses only where the system makes them: those would hide it if time were looked at in
/// pauses alone.
#[test]
fn a_deadline_holds_while_other_calls_go_on() {
    let (start, ended) = (Instant::now(), AtomicU64::new(0));
    ranks(&["shm", "shm"], PATIENCE, |group| {
        let (sender, receiver) = channel();
        if group.rank() == 0 {
            start_forever(&group, Tag(2), SOON)
                .on_complete(move |result| drop(sender.send(error(result.clone()))));
        }
        let options = CallOptions { tag: Tag(1), ..CallOptions::default() };
        let mut data = [0u32; 64];
        let mut interruptions = 0;
        while data != [1; 64] {
            if let Ok(text) = receiver.try_recv() {
                assert!(text.contains("nothing has come from rank 1"), "{text}");
                ended.store(1, Ordering::Relaxed);
            }
            data.fill(ended.load(Ordering::Relaxed) as u32);
            let outcome = group.all_reduce_with(&mut data, ReduceOp::Max, &options);
            interruptions += outcome.expect("it is not late").interruptions;
            assert!(start.elapsed() < PATIENCE / 4, "the deadline is not looked at");
        }
        assert!(interruptions <= 1, "all stood still {interruptions} times for one call");
        // The other rank makes that call now.
        if group.rank() == 1 {
            let text = error(start_forever(&group, Tag(2), None).wait());
            assert!(text.contains("nothing has come from rank 1"), "{text}");
        }
        let mut next = [1u32];
        let next_options = CallOptions { tag: Tag(2), ..CallOptions::default() };
        let _ = group.all_reduce_with(&mut next, ReduceOp::Sum, &next_options).unwrap();
        assert_eq!(next, [2]);
        group.close().unwrap();
    });
}

/// Nobody else can know that a commit group is not sealed, or for how long it will not be.
#[test]
fn a_commit_group_that_is_not_sealed_is_named() {
    let done = Barrier::new(2);
    ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
        let memory = memory_for_ever(&group);
        let mut together = group.commit_group(CommitOptions::default()).unwrap();
        let options = CallOptions { timeout: SOON, ..CallOptions::default() };
        let call = Call {
            collective: Collective::AllReduce,
            dtype: DType::U8,
            count: memory.len(),
            reduction: Some(Reduction::Builtin(ReduceOp::Max)),
            input: memory.clone(),
            output: memory,
            options,
            ..Call::EMPTY
        };
        together.start(call).unwrap();
        let start = Instant::now();
        while group.recent_calls().last().is_none_or(|call| call.state != CallState::Failed) {
            assert!(start.elapsed() < PATIENCE, "it waits for ever");
            std::thread::yield_now();
        }
        let text = error(together.commit());
        assert!(text.contains("neither seals its commit group nor makes another call in it"), "{text}");
        // All others go on, also with another group of calls.
        done.wait();
        let mut next = [1u32];
        let _ = group.all_reduce(&mut next, ReduceOp::Sum).unwrap();
        assert_eq!(next, [2]);
        let _ = group.commit_group(CommitOptions::default()).unwrap().commit().unwrap();
        group.close().unwrap();
    });
}

/// Calls without elements send nothing that could tell.
#[test]
fn seals_of_other_calls_are_named() {
    let done = Barrier::new(2);
    ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
        let mut together = group.commit_group(CommitOptions::default()).unwrap();
        let (collective, reduction) = match group.rank() {
            0 => (Collective::AllGather, None),
            _ => (Collective::AllReduce, Some(Reduction::Builtin(ReduceOp::Max))),
        };
        together.start(Call { collective, reduction, ..Call::EMPTY }).unwrap();
        let text = error(together.commit());
        assert!(text.contains("commit of 1 calls") && text.contains("a call in it differs"), "{text}");
        done.wait();
    });
}

/// Ranks 0 and 1 have overwritten what they gave by the time that the others do not come.
#[test]
fn after_an_error_inputs_in_place_are_as_before() {
    let mut half = [0; 16];
    half[..4].copy_from_slice(&0.5f32.to_le_bytes());
    let scalar = Reduction::PreMulSum(half);
    for reduction in [Reduction::Builtin(ReduceOp::Sum), Reduction::WeightedAvg(0.25), scalar] {
        let (done, late) = (Barrier::new(4), Barrier::new(4));
        ranks(&["tcp"; 4], PATIENCE, |group| {
            let before: Vec<f32> = (0..50_000).map(|i| (i * 37 % 101) as f32 + group.rank() as f32).collect();
            let mut data = before.clone();
            if group.rank() < 2 {
                let options = CallOptions {
                    algorithm: Some("recursive-doubling"),
                    timeout: SOON,
                    ..CallOptions::default()
                };
                let text = error(lend(|lender| {
                    let data = lender.unique(&mut data);
                    group.run(Call {
                        collective: Collective::AllReduce,
                        dtype: DType::F32,
                        count: 50_000,
                        reduction: Some(reduction.clone()),
                        input: data.clone(),
                        output: data,
                        options,
                        ..Call::EMPTY
                    })
                }));
                assert!(text.contains("nothing has come from rank"), "{text}");
            }
            done.wait();
            drop(group);
            late.wait();
            assert!(data == before, "the input of {reduction:?} has changed");
        });
    }
}

#[test]
fn closing_ends_what_is_open_for_callbacks_and_descriptors() {
    let done = Barrier::new(2);
    ranks(&["shm,tcp", "shm,tcp"], PATIENCE, |group| {
        if group.rank() == 1 {
            let (sender, receiver) = channel();
            start_forever(&group, Tag(1), None).on_complete(move |result| drop(sender.send(result.clone())));
            let op = start_forever(&group, Tag(2), None);
            let descriptor = op.descriptor().unwrap().try_clone_to_owned().unwrap();
            group.close().unwrap();
            let text = error(receiver.recv_timeout(PATIENCE).expect("the callback"));
            assert!(text.contains("closed"), "{text}");
            let mut wait = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut wait, Some(&now)), Ok(1));
            assert!(error(op.wait()).contains("closed"));
        }
        done.wait();
    });
}

#[test]
fn a_call_that_has_ended_here_is_named_when_another_rank_disagrees_later() {
    let sent = Barrier::new(2);
    let texts = ranks(&["shm,tcp"; 2], PATIENCE, |group| {
        let options = CallOptions { tolerance: Tolerance::None, ..CallOptions::default() };
        let broadcast = |count: usize| {
            let mut data = vec![1u64; count];
            lend(|lender| {
                let data = lender.unique(&mut data);
                let (input, output) = (data.clone(), data);
                let call =
                    Call { collective: Collective::Broadcast, dtype: DType::U64, count, ..Call::EMPTY };
                group.run(Call { input, output, options: options.clone(), ..call })
            })
        };
        if group.rank() == 0 {
            let ended = broadcast(2);
            sent.wait();
            error(ended.and_then(|_| group.barrier()))
        } else {
            sent.wait();
            error(broadcast(3))
        }
    });
    assert!(texts[0].contains("count 2") && texts[0].contains("count 3"), "{texts:?}");
    assert_eq!(texts[0], texts[1]);
}

/// Who has left in order is like one that was lost, once an op needs it.
#[test]
fn ops_after_a_peer_has_left_go_on_without_it_or_fail_at_once() {
    for transport in ["tcp", "shm,tcp"] {
        let left = Barrier::new(3);
        ranks(&[transport; 3], Duration::from_secs(120), |group| {
            let _ = group.barrier().unwrap();
            if group.rank() == 1 {
                group.close().unwrap();
                left.wait();
                return;
            }
            left.wait();
            let started = Instant::now();
            let mut data = [u64::from(group.rank()) + 1; 4];
            let outcome = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            assert_eq!((outcome.absent, data), (vec![1], [4; 4]));
            let strict = CallOptions { tolerance: Tolerance::None, ..CallOptions::default() };
            let text = error(group.all_reduce_with(&mut data, ReduceOp::Sum, &strict));
            assert!(text.contains("rank 1 left the group before all_reduce"), "{text}");
            assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
            group.close().unwrap();
        });
    }
}

/// Finds another maximum on one rank.
struct Faulty(bool);

impl UserReduce for Faulty {
    fn combine(&self, src: &[u8], acc: &mut [u8], _: DType) {
        acc.iter_mut().zip(src).for_each(|(acc, src)| *acc = (*acc).max(*src) + u8::from(self.0));
    }
}

/// All get the same error, which names who holds what: large calls, which exchange Done, get no result; of small ones the
/// next tells, and the error comes when the coordinator has heard of it.
#[test]
fn results_that_differ_are_an_error_on_every_rank() {
    for (transports, count) in [("shm", 64), ("shm", 1 << 16), ("tcp", 64), ("tcp", 1 << 20)] {
        let texts = ranks(&[transports; 3], PATIENCE, |group| {
            let mut results = Vec::new();
            while results.last().is_none_or(Result::is_ok) {
                assert!(results.len() < if count == 64 { 100_000 } else { 1 }, "nobody noticed");
                let (input, mut output) = (vec![group.rank() as u8; count], vec![0u8; count]);
                let reduction = Some(Reduction::User(Arc::new(Faulty(group.rank() == 2))));
                results.push(lend(|lender| {
                    let options = CallOptions { algorithm: Some("one-shot"), ..CallOptions::default() };
                    let (input, output) = (lender.shared(&input), lender.unique(&mut output));
                    group.run(Call {
                        collective: Collective::AllReduce,
                        count,
                        reduction,
                        input,
                        output,
                        options,
                        ..Call::EMPTY
                    })
                }));
            }
            error(results.pop().expect("the last"))
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        assert!(
            texts[0].contains("is not the same everywhere") && texts[0].contains("on rank 2 (host"),
            "{}",
            texts[0]
        );
    }
}

struct Panics;

impl UserReduce for Panics {
    fn combine(&self, _: &[u8], _: &mut [u8], _: DType) {
        panic!("on purpose");
    }
}

#[test]
fn a_panicking_operator_is_an_error_on_every_rank() {
    let texts = ranks(&["shm,tcp"; 3], PATIENCE, |group| {
        let mut data = [1u64; 8];
        error(lend(|lender| {
            let data = lender.unique(&mut data);
            group.run(Call {
                collective: Collective::AllReduce,
                dtype: DType::U64,
                count: 8,
                reduction: Some(Reduction::User(Arc::new(Panics))),
                input: data.clone(),
                output: data,
                ..Call::EMPTY
            })
        }))
    });
    assert!(texts.iter().all(|text| text.contains("on purpose")), "{texts:?}");
}

#[test]
fn a_panicking_callback_does_not_stop_progress() {
    ranks(&["shm,tcp"; 2], PATIENCE, |group| {
        start_forever(&group, Tag(1), None).on_complete(|_| panic!("on purpose"));
        let (sender, receiver) = channel();
        start_forever(&group, Tag(2), None).on_complete(move |result| sender.send(result.is_ok()).unwrap());
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(true));
        group.close().unwrap();
    });
}

/// More ops at once than rings and early frames hold, with the tags in another order on every rank.
#[test]
fn a_thousand_ops_in_flight() {
    const OPS: usize = 1000;
    const COUNT: usize = 500;
    for transport in ["shm,tcp", "tcp"] {
        ranks(&[transport; 3], PATIENCE, |group| {
            let input: Vec<u64> = (0..OPS * COUNT).map(|i| i as u64 + u64::from(group.rank())).collect();
            let mut output = vec![0u64; OPS * COUNT];
            let _ = lend(|lender| {
                let (input, output) = (lender.shared(&input), lender.unique(&mut output));
                let call = |at: usize| Call {
                    collective: Collective::AllReduce,
                    dtype: DType::U64,
                    count: COUNT,
                    reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                    input: input.slice(at * COUNT * 8, COUNT * 8),
                    output: output.slice(at * COUNT * 8, COUNT * 8),
                    options: CallOptions { tag: Tag(at as u32 * 2 / OPS as u32), ..CallOptions::default() },
                    ..Call::EMPTY
                };
                let first = group.rank() as usize % 2 * OPS / 2;
                group.run_all((first..OPS).chain(0..first).map(call))
            })
            .unwrap();
            assert!(output.iter().zip(0..).all(|(&sum, i)| sum == 3 * i + 3));
            group.close().unwrap();
        });
    }
}

/// A sender that is far ahead is slowed down; nothing is lost and memory stays bounded.
#[test]
fn a_flood_of_small_messages() {
    const MESSAGES: u64 = 70_000;
    for transport in ["tcp", "shm,tcp"] {
        let sent = AtomicU64::new(0);
        ranks(&[transport; 2], PATIENCE, |group| {
            let options = CallOptions::default();
            if group.rank() == 0 {
                for i in 0..MESSAGES {
                    let _ = group.send(&[i], 1, &options).unwrap();
                    sent.store(i + 1, Ordering::Release);
                }
            } else {
                // Takes nothing until the sender has to wait for it.
                while sent.load(Ordering::Acquire) < 10_000 {
                    std::thread::yield_now();
                }
                for i in 0..MESSAGES {
                    let mut got = [u64::MAX];
                    let _ = group.recv(&mut got, 0, &options).unwrap();
                    assert_eq!(got, [i]);
                }
            }
            group.close().unwrap();
        });
    }
}

/// The coordinator is in rank 0: it stays until the others need it no more.
#[test]
fn the_host_of_the_coordinator_may_close_first() {
    let (closing, others) = (AtomicU64::new(0), Barrier::new(2));
    ranks(&["shm,tcp"; 3], PATIENCE, |group| {
        let part = group.split((group.rank() > 0).then_some(1), 0).unwrap();
        let Some(part) = part else {
            closing.store(1, Ordering::Release);
            return group.close().unwrap();
        };
        while closing.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        // Longer than a leave takes: the coordinator must hear of it and stay. Both stop in the same round.
        let started = Instant::now();
        let mut done = [0u32];
        while done == [0] {
            done = [u32::from(started.elapsed() > Duration::from_millis(700))];
            let _ = part.all_reduce(&mut done, ReduceOp::Min).unwrap();
        }
        others.wait();
        group.close().unwrap();
    });
}

/// Who is to blame is said in ranks of the job, also for a part of it.
#[test]
fn errors_in_a_part_name_ranks_of_the_job() {
    let too_late = Barrier::new(2);
    let texts = ranks(&["shm,tcp"; 4], PATIENCE, |group| {
        let part = group.split(Some(group.rank() % 2), 0).unwrap().unwrap();
        let options = CallOptions { timeout: SOON, ..CallOptions::default() };
        let barrier = || error(part.run(Call { options: options.clone(), ..Call::EMPTY }));
        let text = match group.rank() {
            // Rank 3 does not come.
            1 => {
                let text = barrier();
                too_late.wait();
                Some(text)
            }
            3 => {
                too_late.wait();
                Some(barrier())
            }
            _ => None,
        };
        let _ = part.barrier().unwrap();
        group.close().unwrap();
        text
    });
    assert_eq!(texts[1], texts[3]);
    let told = texts.iter().flatten();
    assert!(
        told.clone().all(|text| text.contains("rank 3 (host") && text.contains("seen by rank 1")),
        "{texts:?}"
    );
    assert_eq!(told.count(), 2, "the other part knows nothing of it");
    let texts = ranks(&["shm,tcp"; 4], PATIENCE, |group| {
        // The others may be wrong before this rank has its part.
        let part = match group.split(Some(group.rank() % 2), 0) {
            Ok(part) => part.unwrap(),
            Err(error) => return error.to_string(),
        };
        let mut data = vec![1u32; if group.rank() == 3 { 5 } else { 4 }];
        let first = part.all_reduce(&mut data, ReduceOp::Sum);
        error(first.and_then(|_| group.barrier()))
    });
    let named = |text: &String| text.contains("rank 1 called") && text.contains("rank 3 called");
    assert!(texts.iter().all(named), "{texts:?}");
}
