//! Shared memory passes the suite, with rings of the usual and of the smallest size, and with payloads in registered
//! memory at one end or at both.

mod usual_ring {
    use ronde_conformance::{conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions::default()));
}

mod small_ring {
    use ronde_conformance::{conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions { ring_bytes: 64 << 10, short_lap: 64 << 10 }));
}

mod small_ring_that_starts_over {
    use ronde_conformance::{conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions { ring_bytes: 64 << 10, short_lap: 4 << 10 }));
}

mod registered_memory {
    use ronde_conformance::{conformance, registered_pair};
    use ronde_shm::ShmOptions;

    conformance!(registered_pair(&ShmOptions::default(), true));
}

mod registered_memory_beside_a_small_ring {
    use ronde_conformance::{conformance, registered_pair};
    use ronde_shm::ShmOptions;

    conformance!(registered_pair(&ShmOptions { ring_bytes: 64 << 10, short_lap: 4 << 10 }, true));
}

mod registered_memory_at_one_end {
    use ronde_conformance::{conformance, registered_pair};
    use ronde_shm::ShmOptions;

    conformance!(registered_pair(&ShmOptions::default(), false));
}
