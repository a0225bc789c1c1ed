//! Pairs of shared-memory links within one process.

use crate::Pair;
use crate::end::LINK;
use ronde_shm::{Registry, ShmLink, ShmOptions};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connects two links over shared memory.
pub fn shm_pair(options: &ShmOptions) -> Pair {
    let (near, far) = UnixStream::pair().expect("two sockets");
    let deadline = Instant::now() + Duration::from_secs(10);
    let connect = |socket: UnixStream| {
        let options = options.clone();
        move || ShmLink::connect(LINK, socket, &options, Arc::new(Registry::new()), deadline)
    };
    let other = std::thread::spawn(connect(far));
    let near = connect(near)().expect("a link");
    let far = other.join().expect("no panic").expect("a link");
    Pair { near: Box::new(near), far: Box::new(far) }
}
