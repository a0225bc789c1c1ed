//! Messages that are taken back, found, late, or of other lengths. Ranks are threads, since a process may hold several.

use ronde::{Aborted, CallOptions, Tag};
use ronde_multiprocess::threads::{error, ranks, receive_forever, start_forever};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deadline of a call that nobody will complete.
const SOON: Option<Duration> = Some(Duration::from_millis(300));

/// Whoever sends more than goes unasked is not left waiting by a receive that was taken back.
#[test]
fn a_large_message_for_a_cancelled_receive_is_sent_all_the_same() {
    for transports in [["shm"; 2], ["tcp"; 2]] {
        ranks(&transports, PATIENCE, |group| {
            let options = CallOptions::default();
            if group.rank() == 0 {
                assert!(receive_forever(&group, 1).cancel());
                let _ = group.barrier().unwrap();
                let mut second = [0u64];
                let _ = group.recv(&mut second, 1, &options).unwrap();
                assert_eq!(second, [22]);
            } else {
                let _ = group.barrier().unwrap();
                let _ = group.send(&vec![11u64; 1 << 20], 0, &options).unwrap();
                let _ = group.send(&[22u64], 0, &options).unwrap();
            }
            group.close().unwrap();
        });
    }
}

/// A receive that was taken back has its number all the same: the message for it is dropped, the next one arrives.
#[test]
fn a_receive_is_cancelled_until_something_of_it_has_come() {
    for transports in [["shm"; 2], ["tcp"; 2]] {
        ranks(&transports, PATIENCE, |group| {
            let options = CallOptions::default();
            if group.rank() == 0 {
                let receive = Arc::new(receive_forever(&group, 1));
                assert!(receive.test().is_none());
                let waiting = receive.clone();
                let waiter = std::thread::spawn(move || error(waiting.wait()));
                let collective = start_forever(&group, Tag(7), None);
                assert!(!collective.cancel(), "others take part in it");
                assert!(receive.cancel() && !receive.cancel());
                assert_eq!(waiter.join().unwrap(), "the receive was cancelled on this rank");
                assert_eq!(error(receive.wait()), "the receive was cancelled on this rank");
                let _ = group.barrier().unwrap();
                let mut second = [0u64];
                let _ = group.recv(&mut second, 1, &options).unwrap();
                assert_eq!(second, [22]);
                let third = receive_forever(&group, 1);
                let _ = group.barrier().unwrap();
                while third.test().is_none() {
                    std::thread::yield_now();
                }
                assert!(!third.cancel(), "it has come");
                let _ = collective.wait().unwrap();
            } else {
                let _ = group.barrier().unwrap();
                let _ = group.send(&[11u64], 0, &options).unwrap();
                let _ = group.send(&[22u64], 0, &options).unwrap();
                let _ = group.send(&[33u64], 0, &options).unwrap();
                let _ = group.barrier().unwrap();
                let _ = start_forever(&group, Tag(7), None).wait().unwrap();
            }
            group.close().unwrap();
        });
    }
}

/// Small ones and such of which most waits until somebody receives, of all lengths, in the order in which they came.
#[test]
fn messages_from_anybody_are_found_before_they_are_received() {
    for transports in [["shm"; 3], ["tcp"; 3], ["shm,tcp"; 3]] {
        ranks(&transports, PATIENCE, |group| {
            let tagged = |tag| CallOptions { tag: Tag(tag), ..CallOptions::default() };
            if group.rank() == 0 {
                assert_eq!(group.probe(Tag(5), Duration::from_millis(30)).unwrap(), None);
                let _ = group.barrier().unwrap();
                for length in [0usize, 1, 1000, 3_000_000] {
                    let mut seen = Vec::new();
                    for _ in 0..2 {
                        let from = group.probe(Tag(5), PATIENCE).unwrap().expect("two have sent");
                        assert_eq!(group.probe(Tag(5), Duration::ZERO).unwrap(), Some(from), "it stays");
                        let mut data = vec![u64::MAX; length];
                        let _ = group.recv(&mut data, from, &tagged(5)).unwrap();
                        assert!(data.iter().enumerate().all(|(i, &x)| x == u64::from(from) << 32 | i as u64));
                        seen.push(from);
                    }
                    for &from in &seen {
                        let _ = group.send(&[1u8], from, &tagged(6)).unwrap();
                    }
                    seen.sort();
                    assert_eq!(seen, [1, 2], "length {length}");
                }
                assert_eq!(group.probe(Tag(5), Duration::ZERO).unwrap(), None);
            } else {
                assert_eq!(group.probe(Tag(5), Duration::ZERO).unwrap(), None);
                let _ = group.barrier().unwrap();
                for length in [0usize, 1, 1000, 3_000_000] {
                    let data: Vec<u64> =
                        (0..length as u64).map(|i| u64::from(group.rank()) << 32 | i).collect();
                    let _ = group.send(&data, 0, &tagged(5)).unwrap();
                    let _ = group.recv(&mut [0u8], 0, &tagged(6)).unwrap();
                }
            }
            group.close().unwrap();
        });
    }
}

/// Also while another thread waits for it, and once it has a descriptor.
#[test]
fn a_wait_that_is_bounded_comes_back() {
    ranks(&["shm,tcp"; 2], PATIENCE, |group| {
        if group.rank() == 0 {
            let receives =
                [receive_forever(&group, 1), receive_forever(&group, 1), receive_forever(&group, 1)];
            let [alone, waited_for, polled] = receives.map(Arc::new);
            let waiting = waited_for.clone();
            let waiter = std::thread::spawn(move || waiting.wait());
            let _ = polled.descriptor().unwrap();
            for op in [&alone, &waited_for, &polled] {
                let (start, patience) = (Instant::now(), Duration::from_millis(60));
                assert!(op.wait_for(patience).is_none() && start.elapsed() >= patience);
                assert!(op.wait_for(Duration::ZERO).is_none());
            }
            let _ = group.barrier().unwrap();
            for op in [&alone, &waited_for, &polled] {
                assert_eq!(op.wait_for(Duration::MAX).unwrap().unwrap().bytes_received, 8);
                assert!(op.wait_for(Duration::ZERO).unwrap().is_ok(), "it has ended");
            }
            let _ = waiter.join().unwrap().unwrap();
        } else {
            let _ = group.barrier().unwrap();
            for value in [11u64, 22, 33] {
                let _ = group.send(&[value], 0, &CallOptions::default()).unwrap();
            }
        }
        group.close().unwrap();
    });
}

/// What is sent for it later is dropped, and the next message is the next receive's.
#[test]
fn a_receive_to_which_nothing_comes_in_time_ends_alone() {
    for transports in [["shm"; 2], ["tcp"; 2]] {
        ranks(&transports, PATIENCE, |group| {
            let (mut data, soon) = ([7u64], CallOptions { timeout: SOON, ..CallOptions::default() });
            if group.rank() == 0 {
                let late = group.recv(&mut data, 1, &soon).map(drop);
                assert!(
                    matches!(&late, Err(ronde::Error::Aborted(why)) if matches!(**why, Aborted::Timeout { .. }))
                );
                assert!(error(late).contains("nothing has come from rank 1"));
                let _ = group.barrier().unwrap();
                let _ = group.recv(&mut data, 1, &CallOptions::default()).unwrap();
                assert_eq!(data, [22]);
            } else {
                let _ = group.barrier().unwrap();
                let _ = group.send(&vec![11u64; 1 << 16], 0, &soon).unwrap();
                let _ = group.send(&[22u64], 0, &soon).unwrap();
            }
            group.close().unwrap();
        });
    }
}

/// Whoever sends more than goes unasked waits for the receiver.
#[test]
fn a_message_that_nobody_takes_in_time_ends_the_job() {
    for transports in [["shm"; 2], ["tcp"; 2]] {
        let texts = ranks(&transports, PATIENCE, |group| {
            if group.rank() == 0 {
                let soon = CallOptions { timeout: SOON, ..CallOptions::default() };
                let _ = error(group.send(&vec![1u64; 1 << 20], 1, &soon));
            }
            error(group.barrier())
        });
        assert!(texts.iter().all(|text| text.contains("send #0") && text.contains("rank 1")), "{texts:?}");
    }
}

#[test]
fn messages_of_other_lengths_are_named_on_both_sides() {
    for transport in ["tcp", "shm,tcp"] {
        let sent = Barrier::new(2);
        let texts = ranks(&[transport; 2], PATIENCE, |group| {
            let options = CallOptions::default();
            if group.rank() == 0 {
                // Small, so it has ended before the other side makes its call.
                let ended = group.send(&[1u64, 2], 1, &options);
                sent.wait();
                error(ended.and_then(|_| group.barrier()))
            } else {
                sent.wait();
                error(group.recv(&mut [0u64; 3], 0, &options))
            }
        });
        assert!(texts[0].contains("count 2") && texts[0].contains("count 3"), "{texts:?}");
        assert_eq!(texts[0], texts[1]);
    }
}
