//! The tests that every transport passes, each over pairs that a factory makes.
//!
//! None of them relies on the order of frames. Loops end at a deadline, and nothing sleeps but in
//! the test of sleeping.

use crate::Pair;
use crate::end::{End, PATIENCE, Rule};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ronde_core::frame::Header;
use ronde_core::memory::{Access, lend};
use ronde_core::transport::{Link, LinkFailure, Submit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// Makes connected pairs.
pub type Factory<'a> = &'a dyn Fn() -> Pair;

/// Polls without progress, each with a refused submit, after which a link counts as full.
const IDLE_POLLS: usize = 64;

fn ends(factory: Factory<'_>, rule: Rule) -> (End, End) {
    let pair = factory();
    let [memory, others] = pair.memory;
    let near = End::new(pair.near, 11, 22, rule).sending_from(memory);
    (near, End::new(pair.far, 22, 11, rule).sending_from(others))
}

/// Odd sizes, those around the padding and the limits, and random ones.
fn mixed_sizes(most: usize, seed: u64) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut sizes = vec![0, 1, 2, 3, 63, 64, 65, 127, 128, 191, 192, 193, 255, 256, 257, 319, 320, 321];
    sizes.extend([4095, 4096, 4097, 65_535, 65_536, 65_537, most - 1, most, most - 63, most - 64, most - 65]);
    sizes.extend((0..40).map(|_| rng.random_range(0..2000)));
    sizes.extend((0..12).map(|_| rng.random_range(0..=most)));
    sizes.retain(|&len| len <= most);
    sizes.shuffle(&mut rng);
    sizes
}

/// Steps two ends by turns until `done`.
fn run(near: &mut End, far: &mut End, done: impl Fn(&End, &End) -> bool) {
    let start = Instant::now();
    while !done(near, far) {
        near.step().expect("the far end lives");
        far.step().expect("the near end lives");
        assert!(start.elapsed() < PATIENCE, "the ends got stuck");
    }
}

/// Steps until the link ends; returns how it did.
fn run_to_end(end: &mut End) -> LinkFailure {
    let start = Instant::now();
    loop {
        if let Err(failure) = end.step() {
            return failure;
        }
        assert!(start.elapsed() < PATIENCE, "the end of the link was not told");
    }
}

/// Each frame arrives once, whole and at its place, in both directions.
pub fn delivers_each_frame_once(factory: Factory<'_>) {
    for seed in 0..4 {
        let (mut near, mut far) = ends(factory, Rule::default());
        let most = near.link.capabilities().max_payload;
        exchange(&mut near, &mut far, &mixed_sizes(most, seed), &mixed_sizes(most, seed + 100));
    }
}

/// Many frames that are copied, batched and share reads.
pub fn delivers_many_small_frames(factory: Factory<'_>) {
    let mut rng = SmallRng::seed_from_u64(5);
    let sizes: Vec<usize> = (0..4000).map(|_| rng.random_range(0..600)).collect();
    let (mut near, mut far) = ends(factory, Rule::default());
    exchange(&mut near, &mut far, &sizes, &sizes[..100]);
}

fn exchange(near: &mut End, far: &mut End, there: &[usize], back: &[usize]) {
    near.queue(there);
    far.queue(back);
    run(near, far, |near, far| {
        let sent = near.has_sent_all() && far.has_sent_all();
        sent && near.inbox.count() == back.len() && far.inbox.count() == there.len()
    });
    near.inbox.assert_complete(back);
    far.inbox.assert_complete(there);
}

/// Both ends send all they can from their own threads: neither may wait for the other to read.
pub fn saturates_both_directions_on_two_threads(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule::default());
    let most = near.link.capabilities().max_payload;
    let sizes: Vec<usize> = (0..60).map(|i| most - i * (most / 64) - i % 7).collect();
    near.queue(&sizes);
    far.queue(&sizes);
    let done = AtomicUsize::new(0);
    let work = |mut end: End| {
        let (start, mut is_done) = (Instant::now(), false);
        // What has left one end may still need it: a connection may be cut with all that was on its way.
        while done.load(Ordering::Acquire) < 2 {
            if !is_done && end.has_sent_all() && end.inbox.count() == sizes.len() {
                is_done = true;
                done.fetch_add(1, Ordering::AcqRel);
            }
            if !end.step().expect("the other end lives") {
                std::thread::yield_now();
            }
            assert!(start.elapsed() < PATIENCE, "the ends got stuck");
        }
        end
    };
    let (near, far) = std::thread::scope(|scope| {
        let other = scope.spawn(|| work(far));
        (work(near), other.join().expect("the far end passed"))
    });
    near.inbox.assert_complete(&sizes);
    far.inbox.assert_complete(&sizes);
}

/// A link takes a bounded number of bytes for a peer that does not read, then answers `Full`.
pub fn pushes_back_when_the_receiver_is_slow(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule::default());
    let most = near.link.capabilities().max_payload.min(256 << 10);
    let sizes: Vec<usize> = (0..2000).map(|i| most - i % 130).collect();
    near.queue(&sizes);
    let mut idle = 0;
    while idle < IDLE_POLLS {
        let moved = near.step().expect("the far end lives");
        idle = if moved { 0 } else { idle + 1 };
    }
    assert!(near.unsubmitted() > 0, "the link took 2000 large frames for a peer that did not read");
    let taken = sizes.len() - near.unsubmitted();
    near.truncate(4);
    let sizes = &sizes[..taken + near.unsubmitted()];
    run(&mut near, &mut far, |near, far| near.has_sent_all() && far.inbox.count() == sizes.len());
    far.inbox.assert_complete(sizes);
}

/// Two threads that block between frames wake each other; a lost wake-up fails in `End::sleep`.
pub fn sleeps_and_wakes(factory: Factory<'_>) {
    let (near, far) = ends(factory, Rule::default());
    let most = near.link.capabilities().max_payload;
    let sizes: Vec<usize> = (0..400).map(|i| if i % 16 == 7 { most - i } else { i * 3 }).collect();
    let ping_pong = |mut end: End, first: bool| {
        for (seq, &len) in sizes.iter().enumerate() {
            // The second end answers what has arrived.
            let expected = if first { seq } else { seq + 1 };
            step_or_sleep(&mut end, |end| end.inbox.count() >= expected);
            end.queue_one(seq as u64, len);
            step_or_sleep(&mut end, End::has_sent_all);
        }
        step_or_sleep(&mut end, |end| end.inbox.count() == sizes.len());
        end
    };
    let (near, far) = std::thread::scope(|scope| {
        let other = scope.spawn(|| ping_pong(far, false));
        (ping_pong(near, true), other.join().expect("the far end passed"))
    });
    near.inbox.assert_complete(&sizes);
    far.inbox.assert_complete(&sizes);
}

fn step_or_sleep(end: &mut End, done: impl Fn(&End) -> bool) {
    let start = Instant::now();
    while !done(end) {
        if !end.step().expect("the other end lives") {
            end.sleep();
        }
        assert!(start.elapsed() < PATIENCE, "the ends got stuck");
    }
}

/// Views may be kept while others come and go, and are given back in any order.
pub fn gives_views_back_in_any_order(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule { keep_views: 3, ..Rule::default() });
    if near.link.capabilities().views {
        let sizes = mixed_sizes(near.link.capabilities().max_payload, 9);
        exchange(&mut near, &mut far, &sizes, &sizes);
    }
}

/// Discarded frames vanish, and those around them do not.
pub fn discards_what_is_not_wanted(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule { discard_every: Some(3), ..Rule::default() });
    if !near.link.capabilities().views {
        let sizes = mixed_sizes(near.link.capabilities().max_payload, 13);
        exchange(&mut near, &mut far, &sizes, &sizes);
    }
}

/// A refused frame ends the link with the reason, and its end is told to the peer.
pub fn ends_when_a_frame_is_refused(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule { refuse: Some(2), ..Rule::default() });
    if near.link.capabilities().views {
        return;
    }
    near.queue(&[10, 2000, 70_000, 5]);
    let start = Instant::now();
    let failure = loop {
        near.step().expect("the far end is only slow");
        if let Err(failure) = far.step() {
            break failure;
        }
        assert!(start.elapsed() < PATIENCE, "nothing was refused");
    };
    assert_eq!(failure, LinkFailure::Violation("refused by the test"));
    assert_eq!(far.step(), Err(failure), "a failed link stays failed");
    drop(far);
    run_to_end(&mut near);
}

/// What was sent before an orderly end arrives before its news, and the news repeats.
pub fn tells_of_an_orderly_end_after_the_frames(factory: Factory<'_>) {
    let (mut near, mut far) = ends(factory, Rule::default());
    // Memory that is still lent is taken back at the end, and with it what the peer was to read.
    let sizes = [0, 1, 100, if near.lends_memory() { 4000 } else { 5000 }, 300];
    near.queue(&sizes);
    let start = Instant::now();
    while near.unsubmitted() > 0 {
        near.submit_next();
        assert!(start.elapsed() < PATIENCE, "a few frames find room");
    }
    near.link.close();
    assert_eq!(run_to_end(&mut far), LinkFailure::Closed);
    far.inbox.assert_complete(&sizes);
    assert_eq!(far.step(), Err(LinkFailure::Closed), "a failed link stays failed");
}

/// An end that vanishes without a word is noticed, by a peer that only reads and by one that sends.
pub fn tells_of_a_dropped_end(factory: Factory<'_>) {
    for busy in [false, true] {
        let (mut near, far) = ends(factory, Rule::default());
        if busy {
            let len = near.link.capabilities().max_payload.min(64 << 10);
            near.queue(&[len; 400]);
            near.submit_next();
        }
        drop(far);
        run_to_end(&mut near);
    }
}

/// After `close` the link refers to no memory of its owner. A lender only returns when that is so.
pub fn keeps_no_memory_after_close(factory: Factory<'_>) {
    let Pair { mut near, far, memory: [mut memory, _] } = factory();
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let most = near.capabilities().max_payload.min(1 << 18);
        let piece = memory.piece(most);
        let mut bytes = piece.segment().slice(0, most);
        let data = bytes.bytes_mut();
        data.fill(7);
        lend(|lender| {
            let payload = lender.shared(data);
            submit_until_full(near.as_mut(), &payload);
            near.close();
        });
        // Fails only if the test has given up.
        let _ = done.send(());
    });
    assert!(waiting.recv_timeout(PATIENCE).is_ok(), "the closed link kept the payload");
    drop(far);
}

fn submit_until_full(link: &mut dyn Link, payload: &ronde_core::Segment) {
    let header = Header { payload_len: payload.len() as u32, ..Header::EMPTY };
    let (mut refused, mut cookie) = (0, 0);
    while refused < IDLE_POLLS {
        refused = if link.submit(&header, payload, cookie) == Submit::Full { refused + 1 } else { 0 };
        cookie += 1;
    }
}
