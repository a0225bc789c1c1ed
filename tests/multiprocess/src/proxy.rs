//! What is between two machines, for tests: it passes on what it is given, and may cut connections or fall silent.

use rustix::net::sockopt;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that it holds of each direction at most, in the kernel: a router holds little, and what it has acknowledged is lost.
const BUFFER: usize = 32 << 10;

/// A way to one process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Both ends of each connection.
    open: Mutex<Vec<[TcpStream; 2]>>,
    silent: AtomicBool,
    stop: AtomicBool,
    cut: AtomicUsize,
}

impl Proxy {
    /// A way to a loopback port.
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        small_buffers(&listener);
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        std::thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if accepting.stop.load(Ordering::Acquire) {
                    return;
                }
                // Refused as by the process itself: closed at once is close enough.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                small_buffers(&near);
                small_buffers(&far);
                accepting.clone().pass_on(near, far);
            }
        });
        Proxy { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the connections of which `chooses` says so, with all that they hold.
    pub fn cut(&self, mut chooses: impl FnMut() -> bool) {
        let mut open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        for [near, far] in open.extract_if(.., |_| chooses()) {
            for end in [&near, &far] {
                // What is not sent yet is not sent any more.
                let _ = sockopt::set_socket_linger(end, Some(Duration::ZERO));
                let _ = end.shutdown(Shutdown::Both);
            }
            self.shared.cut.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        self.shared.cut.load(Ordering::Relaxed)
    }

    /// From now on nothing comes through, and nobody is told.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Release);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.cut(|| true);
        // Wakes the accept call.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn pass_on(self: Arc<Shared>, near: TcpStream, far: TcpStream) {
        let duplicate = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        let both = [duplicate(&near), duplicate(&far)];
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to, shared) = (duplicate(from), duplicate(to), self.clone());
            std::thread::spawn(move || shared.copy(from, to));
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(both);
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            while self.silent.load(Ordering::Acquire) {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}

fn small_buffers(socket: &impl std::os::fd::AsFd) {
    sockopt::set_socket_recv_buffer_size(socket, BUFFER).expect("a size");
    sockopt::set_socket_send_buffer_size(socket, BUFFER).expect("a size");
}
