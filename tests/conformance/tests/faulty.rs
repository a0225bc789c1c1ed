//! Links that inject faults pass the suite too, and end as told.

mod tcp {
    use ronde_conformance::{Faults, TcpPair, conformance};
    use ronde_tcp::TcpOptions;

    conformance!(TcpPair { streams: 1, options: TcpOptions::default() }.connect().faulty(Faults {
        seed: 1,
        full: 60,
        hold: 100,
        reorder: 200,
        late: 100,
        kill_at: None,
    }));
}

mod tcp_of_two_streams {
    use ronde_conformance::{Faults, TcpPair, conformance};
    use ronde_tcp::TcpOptions;

    conformance!(TcpPair { streams: 2, options: TcpOptions::default() }.connect().faulty(Faults {
        seed: 2,
        full: 128,
        hold: 240,
        reorder: 255,
        late: 240,
        kill_at: None,
    }));
}

mod shared_memory {
    use ronde_conformance::{Faults, conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions { ring_bytes: 64 << 10, short_lap: 4 << 10 }).faulty(Faults {
        seed: 3,
        full: 60,
        hold: 100,
        reorder: 200,
        late: 100,
        kill_at: None,
    }));
}

mod registered_memory {
    use ronde_conformance::{Faults, conformance, registered_pair};
    use ronde_shm::ShmOptions;

    conformance!(registered_pair(&ShmOptions::default(), true).faulty(Faults {
        seed: 4,
        full: 60,
        hold: 100,
        reorder: 200,
        late: 100,
        kill_at: None,
    }));
}

mod resets {
    use ronde_conformance::end::{End, PATIENCE, Rule};
    use ronde_conformance::{Faults, Pair, TcpPair};
    use ronde_core::transport::LinkFailure;
    use ronde_tcp::TcpOptions;
    use std::time::Instant;

    /// Steps both ends until the near one has ended, then the far one.
    fn run_to_both_ends(pair: Pair) -> (LinkFailure, LinkFailure, usize) {
        let mut near = End::new(pair.near, 1, 2, Rule::default());
        let mut far = End::new(pair.far, 2, 1, Rule::default());
        near.queue(&[3000; 100]);
        far.queue(&[300; 100]);
        let start = Instant::now();
        let (mut near_end, mut far_end) = (None, None);
        while near_end.is_none() || far_end.is_none() {
            near_end = near_end.or_else(|| near.step().err());
            far_end = far_end.or_else(|| far.step().err());
            assert!(start.elapsed() < PATIENCE, "an end was not told");
        }
        (near_end.expect("set"), far_end.expect("set"), far.inbox.count())
    }

    #[test]
    fn the_link_ends_at_the_frame_that_was_asked_for() {
        for kill_at in [0, 1, 2, 17, 80] {
            let pair = TcpPair { streams: 1, options: TcpOptions::default() }.connect();
            let faults = Faults { seed: kill_at, hold: 50, late: 50, ..Faults::default() };
            let near = ronde_conformance::FaultyLink::new(
                ronde_conformance::end::LINK,
                pair.near,
                Faults { kill_at: Some(kill_at), ..faults.clone() },
            );
            let (near_end, _, received) = run_to_both_ends(Pair::new(Box::new(near), pair.far));
            assert_eq!(near_end, LinkFailure::Os(104));
            assert!(received as u64 <= kill_at, "{received} frames from a link that sent {kill_at}");
        }
    }
}
