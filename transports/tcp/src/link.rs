//! The link: streams, an outbox, and what ends it.

use crate::answers::{self, Inode};
use crate::incoming::{Incoming, Received};
use crate::outgoing::{Batch, Outbox, Outgoing};
use crate::sleep::Watch;
use crate::{MAX_PAYLOAD, TcpOptions, options};
use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource,
};
use rustix::io::Errno;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Payloads from this size are spread over the streams; smaller frames take the first with room.
const SPREAD_BYTES: usize = 64 << 10;
/// Polls that a closing link spends on what the peer still sent: bytes left unread would turn the
/// orderly end into a reset, which can overtake this side's last frames.
const CLOSING_POLLS: usize = 8;

/// One connection of a link.
struct Stream {
    socket: TcpStream,
    batch: Batch,
    incoming: Incoming,
    /// The peer has ended its direction.
    ended: bool,
    inode: Option<Inode>,
}

/// Path to one peer over TCP.
pub struct TcpLink {
    link: usize,
    streams: Vec<Stream>,
    outbox: Outbox,
    /// Several streams are watched through one descriptor.
    watch: Option<Watch>,
    /// Which stream a large payload tries first.
    turn: usize,
    /// A write failed. Frames that the peer sent before it went are delivered before this is told.
    send_failure: Option<LinkFailure>,
    failure: Option<LinkFailure>,
    keepalive: Option<Duration>,
}

impl TcpLink {
    /// A link over sockets that are connected, authenticated and have no bytes under way. `link` is
    /// the number that the receiver is called with. With several sockets frames may overtake each
    /// other. Each socket may connect to any of the peer's.
    pub fn new(link: usize, streams: Vec<TcpStream>, options: &TcpOptions) -> io::Result<TcpLink> {
        if streams.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a link needs at least one socket"));
        }
        for socket in &streams {
            options.apply(socket)?;
        }
        let watch = if streams.len() > 1 { Some(Watch::new(streams.iter())?) } else { None };
        let streams = streams.into_iter().map(|socket| Stream::new(socket, options)).collect();
        let outbox = Outbox::new();
        let keepalive = options.keepalive;
        Ok(TcpLink { link, streams, outbox, watch, turn: 0, send_failure: None, failure: None, keepalive })
    }

    /// What to poll before a sleep, as [`Link::wake_source`] numbers it; `None` after the end.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.watch {
            Some(watch) => Some(watch.descriptor()),
            None => Some(self.streams.first()?.socket.as_fd()),
        }
    }

    /// The stream that can begin a frame at once, if any.
    fn idle_stream(&mut self, payload_len: usize) -> Option<usize> {
        if !self.outbox.is_drained() {
            return None;
        }
        let count = self.streams.len();
        let first = if payload_len >= SPREAD_BYTES { self.turn } else { 0 };
        let found = (0..count).map(|i| (first + i) % count).find(|&i| self.streams[i].batch.is_empty());
        if payload_len >= SPREAD_BYTES {
            self.turn = found.map_or(self.turn, |i| (i + 1) % count);
        }
        found
    }

    fn advance(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let link = self.link;
        let mut moved = self.flush(&mut |cookie| receiver.sent(link, cookie));
        for stream in self.streams.iter_mut().filter(|stream| !stream.ended) {
            match stream.incoming.poll(&stream.socket, link, receiver)? {
                Received::Some => moved = true,
                Received::Nothing => {}
                Received::End => {
                    stream.ended = true;
                    moved = true;
                }
            }
        }
        if self.streams.iter().all(|stream| stream.ended) {
            return Err(self.end());
        }
        match self.send_failure {
            Some(failure) if !moved => Err(failure),
            _ => Ok(moved),
        }
    }

    /// The peer has ended every stream. A write to it may have failed since (EPIPE), which is part
    /// of an orderly end; a reset is not, and the kernel tells of it only once.
    fn end(&self) -> LinkFailure {
        match self.send_failure {
            Some(failure) if failure != LinkFailure::Os(Errno::PIPE.raw_os_error()) => failure,
            _ => LinkFailure::Closed,
        }
    }

    fn flush(&mut self, sent: &mut dyn FnMut(u64)) -> bool {
        let mut moved = false;
        if self.outbox.is_idle() || self.send_failure.is_some() {
            return moved;
        }
        for stream in &mut self.streams {
            match stream.batch.flush(&mut self.outbox, &stream.socket, sent) {
                Ok(some) => moved |= some,
                Err(errno) => self.send_failure = Some(LinkFailure::Os(errno.raw_os_error())),
            }
        }
        moved
    }

    /// Lets go of every segment: their owners may be waiting for the last clone.
    fn finish(&mut self, failure: LinkFailure) {
        self.failure = Some(failure);
        self.outbox.clear();
        for stream in &mut self.streams {
            stream.batch.clear();
            stream.incoming.clear();
        }
    }
}

impl Link for TcpLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "tcp",
            views: false,
            max_payload: MAX_PAYLOAD,
            syscall_per_frame: true,
            registered_memory: false,
        }
    }

    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit {
        debug_assert!(header.payload_len as usize == payload.len() && payload.len() <= MAX_PAYLOAD);
        if self.failure.is_some() || self.send_failure.is_some() || self.outbox.is_full() {
            return Submit::Full;
        }
        let frame = Outgoing::new(header, payload, cookie);
        let kept = if frame.is_copied() { Submit::Sent } else { Submit::Pending };
        let Some(at) = self.idle_stream(payload.len()) else {
            self.outbox.push(frame);
            return kept;
        };
        let stream = &mut self.streams[at];
        match stream.batch.begin(frame, &mut self.outbox, &stream.socket) {
            Ok(true) => Submit::Sent,
            Ok(false) => kept,
            Err(errno) => {
                self.send_failure = Some(LinkFailure::Os(errno.raw_os_error()));
                Submit::Full
            }
        }
    }

    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.advance(receiver).inspect_err(|&failure| self.finish(failure))
    }

    fn release(&mut self, _: ViewToken) {
        // No views are handed out.
    }

    fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        self.outbox.fence(is_over);
        self.streams.iter_mut().for_each(|stream| stream.incoming.fence(is_over));
    }

    fn probe(&mut self, period: Option<Duration>) {
        for stream in &self.streams {
            // Fails for a socket that has ended, of which the next poll tells.
            let _ = options::keep_alive(&stream.socket, period.or(self.keepalive));
        }
    }

    fn unanswered(&self) -> Option<u32> {
        answers::unanswered(self.streams.iter().filter_map(|stream| stream.inode))
    }

    fn prepare_sleep(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return true };
        let mut ready = true;
        for (at, stream) in self.streams.iter().enumerate() {
            ready &= watch.update(at, &stream.socket, stream.ended, !stream.batch.is_empty());
        }
        ready
    }

    fn wake_source(&self) -> Option<WakeSource> {
        if self.failure.is_some() {
            return None;
        }
        let descriptor = self.descriptor()?.as_raw_fd();
        Some(WakeSource { descriptor, write: !self.outbox.is_idle() })
    }

    fn close(&mut self) {
        if self.failure.is_none() {
            self.flush(&mut |_| {});
            for stream in &mut self.streams {
                stream.drain(self.link);
                // Fails if the peer has gone already, which ends the connection just as well.
                let _ = stream.socket.shutdown(Shutdown::Write);
            }
        }
        self.finish(self.failure.unwrap_or(LinkFailure::Closed));
        self.watch = None;
        self.streams.clear();
    }
}

impl Stream {
    fn new(socket: TcpStream, options: &TcpOptions) -> Stream {
        let incoming = Incoming::new(options.receive_block);
        let inode = Inode::of(&socket);
        Stream { socket, batch: Batch::new(), incoming, ended: false, inode }
    }

    /// Reads and throws away what the peer has sent so far, within a bound.
    fn drain(&mut self, link: usize) {
        for _ in 0..CLOSING_POLLS {
            if !matches!(self.incoming.poll(&self.socket, link, &mut Discarding), Ok(Received::Some)) {
                return;
            }
        }
    }
}

/// Takes nothing.
struct Discarding;

impl Receiver for Discarding {
    fn place(&mut self, _: usize, _: &Header) -> Placement {
        Placement::Discard
    }

    fn arrived(&mut self, _: usize, _: &Header, _: Payload) -> bool {
        false
    }

    fn sent(&mut self, _: usize, _: u64) {}
}
