//! TCP links go on with other connections when theirs are cut, and nothing is lost or comes twice.

use ronde_conformance::CutPair;
use ronde_conformance::end::{End, PATIENCE, Rule};
use ronde_core::transport::LinkFailure;
use std::time::Instant;

mod uncut {
    use ronde_conformance::{CutPair, conformance};

    conformance!(CutPair { streams: 1, one_poll_in: None, seed: 0 }.connect());
}

mod cut_now_and_then {
    use ronde_conformance::{CutPair, conformance};

    // What is closed or goes to sleep while its connection is cut would have to be woken by who makes another.
    conformance! { CutPair { streams: 1, one_poll_in: Some(50), seed: 1 }.connect();
        delivers_each_frame_once
        delivers_many_small_frames
        saturates_both_directions_on_two_threads
        pushes_back_when_the_receiver_is_slow
        discards_what_is_not_wanted
        ends_when_a_frame_is_refused
        tells_of_a_dropped_end
        keeps_no_memory_after_close
    }
}

mod three_streams_cut_often {
    use ronde_conformance::{CutPair, conformance};

    conformance! { CutPair { streams: 3, one_poll_in: Some(5), seed: 2 }.connect();
        delivers_each_frame_once
        delivers_many_small_frames
        saturates_both_directions_on_two_threads
        pushes_back_when_the_receiver_is_slow
        discards_what_is_not_wanted
        ends_when_a_frame_is_refused
        tells_of_a_dropped_end
        keeps_no_memory_after_close
    }
}

fn ends(pair: CutPair) -> ([End; 2], impl Fn() -> u32) {
    let (pair, count) = pair.connect_counted();
    let near = End::new(pair.near, 11, 22, Rule::default());
    ([near, End::new(pair.far, 22, 11, Rule::default())], count)
}

/// Steps both until each has `sizes` of the other.
fn exchange([near, far]: &mut [End; 2], sizes: &[usize]) {
    near.queue(sizes);
    far.queue(sizes);
    let start = Instant::now();
    while [&*near, &*far].iter().any(|end| !end.has_sent_all() || end.inbox.count() < sizes.len()) {
        near.step().expect("the far end lives");
        far.step().expect("the near end lives");
        assert!(start.elapsed() < PATIENCE, "the ends got stuck");
    }
    near.inbox.assert_complete(sizes);
    far.inbox.assert_complete(sizes);
}

/// Frames of all sizes, many of them in the middle when the connection goes.
#[test]
fn hundreds_of_cuts_lose_nothing() {
    let mut made = 0;
    for seed in 0..30 {
        let streams = 1 + seed as usize % 3;
        let (mut both, count) = ends(CutPair { streams, one_poll_in: Some(3), seed });
        let sizes: Vec<usize> =
            (0..120).map(|i| ((i * 7919 + seed as usize * 31) % 300_001) >> (i % 13)).collect();
        exchange(&mut both, &sizes);
        made += count();
    }
    assert!(made > 150, "{made} connections took the place of others");
}

/// A path that has fallen silent: nobody has seen an end of the connection.
#[test]
fn a_silent_connection_is_replaced_by_either_end() {
    for side in 0..2 {
        let (mut both, count) = ends(CutPair { streams: 2, one_poll_in: None, seed: 0 });
        exchange(&mut both, &[1, 70_000, 5]);
        assert!(both[side].link.reconnect());
        // Its numbers go on where they were.
        for seq in 3..40 {
            both[0].queue_one(seq, 50_000);
        }
        let start = Instant::now();
        while both[1].inbox.count() < 40 || count() < 2 {
            for end in &mut both {
                end.step().expect("the other end lives");
            }
            assert!(start.elapsed() < PATIENCE, "the ends got stuck");
        }
        assert_eq!(count(), 2, "one connection for each stream");
        both[0].link.close();
        let failure = loop {
            match both[1].step() {
                Ok(_) => assert!(start.elapsed() < PATIENCE, "the end was not told"),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure, LinkFailure::Closed);
    }
}
