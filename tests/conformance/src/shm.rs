//! Pairs of shared-memory links within one process.

use crate::end::LINK;
use crate::{Memory, Pair};
use ronde_shm::{Registry, ShmLink, ShmOptions};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connects two links over shared memory.
pub fn shm_pair(options: &ShmOptions) -> Pair {
    connect(options, [Arc::default(), Arc::default()])
}

/// The same, with payloads in registered memory at the near end, and at the far one if asked.
pub fn registered_pair(options: &ShmOptions, both: bool) -> Pair {
    let registries: [Arc<Registry>; 2] = [Arc::default(), Arc::default()];
    let [near, far] = registries.clone().map(|registry| Memory::registered(registry, options.max_payload()));
    Pair { memory: [near, if both { far } else { Memory::Plain }], ..connect(options, registries) }
}

fn connect(options: &ShmOptions, registries: [Arc<Registry>; 2]) -> Pair {
    let (near, far) = UnixStream::pair().expect("two sockets");
    let deadline = Instant::now() + Duration::from_secs(10);
    let connect = |socket: UnixStream, registry| {
        let options = options.clone();
        move || ShmLink::connect(LINK, socket, &options, registry, deadline)
    };
    let [registry, others] = registries;
    let other = std::thread::spawn(connect(far, others));
    let near = connect(near, registry)().expect("a link");
    let far = other.join().expect("no panic").expect("a link");
    Pair::new(Box::new(near), Box::new(far))
}
