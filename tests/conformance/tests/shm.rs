//! Shared memory passes the suite, with rings of the usual and of the smallest size.

mod usual_ring {
    use ronde_conformance::{conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions::default()));
}

mod small_ring {
    use ronde_conformance::{conformance, shm_pair};
    use ronde_shm::ShmOptions;

    conformance!(shm_pair(&ShmOptions { ring_bytes: 64 << 10 }));
}
