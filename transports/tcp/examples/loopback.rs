//! What a TCP link costs within one host: latency of an exchange, streaming, and whole operations.
//!
//! `cargo run --release -p ronde-tcp --example loopback [receive block in KiB] [streams]
//! [congestion control] [offset of the buffers from 64-byte alignment]`
//!
//! Two threads, each with one end. Figures are microseconds or GB/s in one direction; beside them a
//! loop over plain sockets with the same sizes.

use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::memory::Arena;
use ronde_core::transport::{Link, Payload, Placement, Receiver, Submit};
use ronde_tcp::{Congestion, TcpLink, TcpOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Where buffers begin behind an address that is a multiple of 64; set once.
static OFFSET: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|a| a.parse::<usize>().expect("a number"));
    let receive_block = number(0).unwrap_or(64) << 10;
    let streams = number(1).unwrap_or(1);
    let congestion = arguments.get(2).map_or(Congestion::Auto, |name| Congestion::Named(name.clone()));
    let options = TcpOptions { receive_block, congestion, ..TcpOptions::default() };
    OFFSET.store(number(3).unwrap_or(0), Relaxed);
    println!("receive block {} KiB, {streams} stream(s), {:?}", receive_block >> 10, options.congestion);
    for frame in [0, 8, 1 << 10, 32 << 10] {
        let times = exchange(&options, streams, frame, 1, 20_000);
        report(&format!("exchange {frame} B"), &times, 2000);
    }
    for (frame, frames) in [(256 << 10, 4), (512 << 10, 2), (512 << 10, 32)] {
        let times = exchange(&options, streams, frame, frames, 20_000 / frames / 8);
        report(&format!("exchange {frames} x {} KiB", frame >> 10), &times, 20);
    }
    for frame in [32 << 10, 256 << 10, 512 << 10, 1 << 20] {
        let link = streaming(&options, streams, frame, (2 << 30) / frame);
        let raw = raw_streaming(frame, (2 << 30) / frame);
        println!("streaming {:>4} KiB frames: link {link:.2} GB/s, plain socket {raw:.2} GB/s", frame >> 10);
    }
}

fn report(name: &str, times: &[f64], warm_up: usize) {
    let mut times = times[warm_up..].to_vec();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name:>24}: median {:.1} us, 10% {:.1}, 90% {:.1}, 99% {:.1}",
        at(0.5),
        at(0.1),
        at(0.9),
        at(0.99)
    );
}

fn sockets(count: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    (0..count)
        .map(|_| (TcpStream::connect(address).expect("connect"), listener.accept().expect("accept").0))
        .unzip()
}

/// One end: a link, memory to send from and to receive into.
struct End {
    link: TcpLink,
    sink: Sink,
    source: Arena,
}

struct Sink {
    target: Arena,
    arrived: usize,
    sent: usize,
}

/// The bytes of a window, wrapping around.
fn piece(arena: &Arena, window: usize, len: usize) -> Segment {
    let offset = OFFSET.load(Relaxed);
    let places = (arena.len() - offset).checked_div(len).unwrap_or(1).max(1);
    arena.segment(offset + window % places * len, len)
}

impl Receiver for Sink {
    fn place(&mut self, _: usize, header: &Header) -> Placement {
        Placement::Into(piece(&self.target, header.window as usize, header.payload_len as usize))
    }

    fn arrived(&mut self, _: usize, _: &Header, _: Payload) -> bool {
        self.arrived += 1;
        false
    }

    fn sent(&mut self, _: usize, _: u64) {
        self.sent += 1;
    }
}

impl End {
    fn new(sockets: Vec<TcpStream>, options: &TcpOptions, bytes: usize) -> End {
        let link = TcpLink::new(0, sockets, options).expect("link");
        let sink = Sink { target: Arena::new(bytes + 64), arrived: 0, sent: 0 };
        End { link, sink, source: Arena::new(bytes + 64) }
    }

    fn poll(&mut self) {
        if !self.link.poll(&mut self.sink).expect("the peer lives") {
            std::hint::spin_loop();
        }
    }

    /// Sends the source in frames; returns how many are pending.
    fn send(&mut self, frame: usize, frames: usize) -> usize {
        let mut pending = 0;
        for window in 0..frames {
            let header = Header { payload_len: frame as u32, window: window as u32, ..Header::EMPTY };
            let payload = piece(&self.source, window, frame);
            loop {
                match self.link.submit(&header, &payload, 0) {
                    Submit::Sent => break,
                    Submit::Pending => {
                        pending += 1;
                        break;
                    }
                    Submit::Full => self.poll(),
                }
            }
        }
        pending
    }

    fn exchange(&mut self, frame: usize, frames: usize, rounds: usize) -> Vec<f64> {
        let mut times = Vec::with_capacity(rounds);
        let mut pending = 0;
        for round in 1..=rounds {
            let start = Instant::now();
            pending += self.send(frame, frames);
            while self.sink.arrived < round * frames || self.sink.sent < pending {
                self.poll();
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times
    }
}

/// Both ends send `frames` frames and wait for as many: the traffic of a one-shot all-reduce.
fn exchange(options: &TcpOptions, streams: usize, frame: usize, frames: usize, rounds: usize) -> Vec<f64> {
    let (near, far) = sockets(streams);
    let bytes = (frame * frames).max(64);
    let mut near = End::new(near, options, bytes);
    let mut far = End::new(far, options, bytes);
    let other = std::thread::spawn(move || drop(far.exchange(frame, frames, rounds)));
    let times = near.exchange(frame, frames, rounds);
    other.join().expect("the other end");
    times
}

fn streaming(options: &TcpOptions, streams: usize, frame: usize, frames: usize) -> f64 {
    let (near, far) = sockets(streams);
    let mut near = End::new(near, options, 4 << 20);
    let mut far = End::new(far, options, 4 << 20);
    let start = Instant::now();
    let other = std::thread::spawn(move || {
        while far.sink.arrived < frames {
            far.poll();
        }
        far.link.close();
    });
    let pending = near.send(frame, frames);
    while near.sink.sent < pending {
        near.poll();
    }
    other.join().expect("the other end");
    (frame * frames) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn raw_streaming(frame: usize, frames: usize) -> f64 {
    let (near, far) = sockets(1);
    let (mut near, mut far) = (near.into_iter().next().expect("one"), far.into_iter().next().expect("one"));
    let options = TcpOptions::default();
    // Only to give the plain sockets the same options.
    let _ = (
        TcpLink::new(0, vec![near.try_clone().expect("clone")], &options),
        TcpLink::new(0, vec![far.try_clone().expect("clone")], &options),
    );
    near.set_nonblocking(false).expect("blocking");
    far.set_nonblocking(false).expect("blocking");
    let start = Instant::now();
    let other = std::thread::spawn(move || {
        let mut target = vec![0u8; frame];
        (0..frames).for_each(|_| far.read_exact(&mut target).expect("read"));
    });
    let source = vec![0u8; frame];
    (0..frames).for_each(|_| near.write_all(&source).expect("write"));
    other.join().expect("the other end");
    (frame * frames) as f64 / start.elapsed().as_secs_f64() / 1e9
}
