//! The link: streams, an outbox, and what ends it.

use crate::answers::{self, Inode};
use crate::incoming::{Incoming, Received};
use crate::outgoing::{Batch, Outbox, Outgoing};
use crate::outlet::Outlet;
use crate::resume::{Answer, Cut, Delivery, MAX_STREAMS, Resumption};
use crate::sleep::Watch;
use crate::word::Word;
use crate::{MAX_PAYLOAD, TcpOptions, options};
use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource,
};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Payloads from this size are spread over the streams; smaller frames take the first with room.
const SPREAD_BYTES: usize = 64 << 10;
/// Polls that a closing link spends on what the peer still sent: bytes left unread would turn the
/// orderly end into a reset, which can overtake this side's last frames.
const CLOSING_POLLS: usize = 8;
/// The same for a connection that is replaced by another: more than a receive buffer holds.
const MOST_LAST_POLLS: usize = 1 << 12;

/// So many bytes of a stream that can be taken up are confirmed at once.
const RECEIPT_BYTES: u64 = 256 << 10;

/// How a stream stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Connected,
    /// The peer has ended its direction.
    Ended,
    /// It waits for another connection.
    Cut,
}

/// One stream of a link: a connection, or several after each other.
struct Stream {
    outlet: Outlet,
    batch: Batch,
    incoming: Incoming,
    condition: Condition,
    /// Which of its connections this is.
    connection: u32,
    /// Bytes received that were confirmed; none are where that is of no use.
    confirmed: Option<u64>,
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
    options: TcpOptions,
    /// How often the kernel is to ask whether the peer's machine is there.
    probing: Option<Duration>,
    /// How streams that are cut get other connections, if they do.
    resumption: Option<Resumption>,
    reconnections: u32,
}

impl TcpLink {
    /// A link over sockets that are connected, authenticated and have no bytes under way. `link` is
    /// the number that the receiver is called with. With several sockets frames may overtake each
    /// other. Each socket may connect to any of the peer's.
    pub fn new(link: usize, streams: Vec<TcpStream>, options: &TcpOptions) -> io::Result<TcpLink> {
        TcpLink::of(link, streams, options, None)
    }

    /// A link whose streams go on with other connections if theirs are cut. Both sides make one so, with their sockets in the same
    /// order. What is written costs a copy.
    pub fn resumable(
        link: usize,
        streams: Vec<TcpStream>,
        options: &TcpOptions,
        resumption: Resumption,
    ) -> io::Result<TcpLink> {
        TcpLink::of(link, streams, options, Some(resumption))
    }

    fn of(
        link: usize,
        streams: Vec<TcpStream>,
        options: &TcpOptions,
        resumption: Option<Resumption>,
    ) -> io::Result<TcpLink> {
        if streams.is_empty() || streams.len() > MAX_STREAMS {
            let text = format!("a link has 1 to {MAX_STREAMS} sockets, not {}", streams.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        for socket in &streams {
            options.apply(socket)?;
        }
        let resumes = resumption.is_some();
        // A descriptor that stays the same whatever becomes of the connections.
        let watch = if resumes || streams.len() > 1 { Some(Watch::new(streams.iter())?) } else { None };
        let streams = streams.into_iter().map(|socket| Stream::new(socket, options, resumes)).collect();
        let (outbox, options) = (Outbox::new(), options.clone());
        Ok(TcpLink {
            link,
            streams,
            outbox,
            watch,
            turn: 0,
            send_failure: None,
            failure: None,
            options,
            probing: None,
            resumption,
            reconnections: 0,
        })
    }

    /// What to poll before a sleep, as [`Link::wake_source`] numbers it; `None` after the end.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.watch {
            Some(watch) => Some(watch.descriptor()),
            None => Some(self.streams.first()?.outlet.socket()?.as_fd()),
        }
    }

    /// The stream that can begin a frame at once, if any.
    fn idle_stream(&mut self, payload_len: usize) -> Option<usize> {
        if !self.outbox.is_drained() {
            return None;
        }
        let count = self.streams.len();
        let first = if payload_len >= SPREAD_BYTES { self.turn } else { 0 };
        let found = (0..count).map(|i| (first + i) % count).find(|&i| self.streams[i].can_begin());
        if payload_len >= SPREAD_BYTES {
            self.turn = found.map_or(self.turn, |i| (i + 1) % count);
        }
        found
    }

    fn advance(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let link = self.link;
        let mut moved = self.take_deliveries(receiver)?;
        moved |= self.flush(&mut |cookie| receiver.sent(link, cookie));
        for at in 0..self.streams.len() {
            moved |= self.receive(at, receiver)?;
        }
        if self.streams.iter().all(|stream| stream.condition == Condition::Ended) {
            return Err(self.end());
        }
        match self.send_failure {
            Some(failure) if !moved => Err(failure),
            _ => Ok(moved),
        }
    }

    /// Reads what has come on a stream. Returns whether anything moved.
    fn receive(&mut self, at: usize, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let (link, resumes) = (self.link, self.resumption.is_some());
        let stream = &mut self.streams[at];
        if stream.condition != Condition::Connected {
            return Ok(false);
        }
        match stream.poll(link, receiver) {
            Ok(Received::Some) => Ok(true),
            Ok(Received::Nothing) => match stream.outlet.failure() {
                None => Ok(false),
                Some(failure) => Ok(self.cut(at, failure)),
            },
            Ok(Received::End) if resumes && !stream.incoming.is_over() => {
                Ok(self.cut(at, LinkFailure::PeerDied))
            }
            Ok(Received::End) => {
                stream.condition = Condition::Ended;
                Ok(true)
            }
            // It had said all.
            Err(failure) if stream.incoming.is_over() && is_of_connection(failure) => {
                stream.condition = Condition::Ended;
                Ok(true)
            }
            Err(failure) if resumes && is_of_connection(failure) => Ok(self.cut(at, failure)),
            Err(failure) => Err(failure),
        }
    }

    /// The same until nothing more is there: what comes later on this connection is not read, and sent again on the next.
    fn receive_all(&mut self, at: usize, receiver: &mut dyn Receiver) -> Result<(), LinkFailure> {
        for _ in 0..MOST_LAST_POLLS {
            if !self.receive(at, receiver)? {
                break;
            }
        }
        Ok(())
    }

    /// Forgets the connection of a stream and asks for another.
    fn cut(&mut self, at: usize, failure: LinkFailure) -> bool {
        let Some(resumption) = &self.resumption else { return false };
        let stream = &mut self.streams[at];
        stream.disconnect(self.watch.as_mut());
        stream.condition = Condition::Cut;
        stream.inode = None;
        resumption.mailbox.set_cut(at, true);
        let (connection, received) = (stream.connection, stream.incoming.received());
        (resumption.redial)(Cut { stream: at as u8, connection, received, failure });
        true
    }

    fn take_deliveries(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let Some(resumption) = &self.resumption else { return Ok(false) };
        let mail = resumption.mailbox.take();
        let moved = !mail.is_empty();
        for delivery in mail {
            match delivery {
                Delivery::Offered { stream, connection, received, socket, answer } => {
                    let at = usize::from(stream);
                    if self.streams.get(at).is_some_and(|stream| connection > stream.connection) {
                        // The other side reads nothing more of the one before.
                        self.receive_all(at, receiver)?;
                        self.take_up(at, connection, received, socket, Some(answer))?;
                    }
                }
                Delivery::Connected { stream, connection, received, socket } => {
                    let at = usize::from(stream);
                    if self.streams.get(at).is_some_and(|stream| connection > stream.connection) {
                        self.take_up(at, connection, received, socket, None)?;
                    }
                }
                Delivery::Nudged { stream, connection } => {
                    let at = usize::from(stream);
                    if self.streams.get(at).is_some_and(|stream| stream.is_on(connection)) {
                        self.receive_all(at, receiver)?;
                        if self.streams[at].is_on(connection) {
                            self.cut(at, LinkFailure::Silent);
                        }
                    }
                }
                Delivery::GivenUp { stream, connection, failure } => {
                    let waits = |stream: &Stream| {
                        stream.condition == Condition::Cut && stream.connection == connection
                    };
                    if self.streams.get(usize::from(stream)).is_some_and(waits) {
                        return Err(failure);
                    }
                }
            }
        }
        Ok(moved)
    }

    /// Goes on with a stream over another connection.
    fn take_up(
        &mut self,
        at: usize,
        connection: u32,
        received: u64,
        socket: TcpStream,
        answer: Option<Answer>,
    ) -> Result<(), LinkFailure> {
        let (Some(resumption), Some(watch)) = (&self.resumption, &mut self.watch) else { return Ok(()) };
        let stream = &mut self.streams[at];
        if stream.condition == Condition::Ended {
            return Ok(());
        }
        let prepared = self.options.apply(&socket).and_then(|()| match self.probing {
            Some(period) => options::keep_alive(&socket, Some(period)),
            None => Ok(()),
        });
        let inode = Inode::of(&socket);
        stream.disconnect(Some(&mut *watch));
        if !stream.outlet.reconnect(socket, received) {
            return Err(LinkFailure::Torn);
        }
        (stream.condition, stream.connection, stream.inode) = (Condition::Connected, connection, inode);
        resumption.mailbox.set_cut(at, false);
        self.reconnections += 1;
        let Some(socket) = stream.outlet.socket() else { return Ok(()) };
        let watched = prepared.and_then(|()| Ok(watch.replace(at, socket)?));
        let answered = watched.and_then(|()| match answer {
            Some(answer) => answer(socket, stream.incoming.received()),
            None => Ok(()),
        });
        if let Err(error) = answered {
            self.cut(at, LinkFailure::Os(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())));
        }
        Ok(())
    }

    /// The peer has ended every stream. A write to it may have failed since (EPIPE), which is part
    /// of an orderly end; a reset is not, and the kernel tells of it only once.
    fn end(&self) -> LinkFailure {
        match self.send_failure {
            Some(failure) if failure != LinkFailure::Os(Errno::PIPE.raw_os_error()) => failure,
            _ if self.streams.iter().any(|stream| stream.incoming.is_over()) => LinkFailure::Closed,
            _ => LinkFailure::PeerDied,
        }
    }

    fn flush(&mut self, sent: &mut dyn FnMut(u64)) -> bool {
        let mut moved = false;
        let has_nothing = |stream: &Stream| !stream.outlet.catches_up() && !stream.batch.has_to_say();
        let is_idle = self.outbox.is_idle() && self.streams.iter().all(has_nothing);
        if is_idle || self.send_failure.is_some() {
            return moved;
        }
        for stream in &mut self.streams {
            match stream.batch.flush(&mut self.outbox, &mut stream.outlet, sent) {
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
        if let Some(resumption) = &self.resumption {
            resumption.mailbox.close();
        }
    }
}

/// What another connection may mend.
fn is_of_connection(failure: LinkFailure) -> bool {
    matches!(failure, LinkFailure::Os(_) | LinkFailure::PeerDied | LinkFailure::Closed)
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
        match stream.batch.begin(frame, &mut self.outbox, &mut stream.outlet) {
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
        self.probing = period;
        for socket in self.streams.iter().filter_map(|stream| stream.outlet.socket()) {
            // Fails for a socket that has ended, of which the next poll tells.
            let _ = options::keep_alive(socket, period.or(self.options.keepalive));
        }
    }

    fn unanswered(&self) -> Option<u32> {
        answers::unanswered(self.streams.iter().filter_map(|stream| stream.inode))
    }

    fn reconnect(&mut self) -> bool {
        let Some(Resumption { mailbox, .. }) = &self.resumption else { return false };
        let connected =
            self.streams.iter().enumerate().filter(|(_, stream)| stream.outlet.socket().is_some());
        for (at, stream) in connected {
            // Closed only if the link has ended.
            let _ = mailbox.deliver(Delivery::Nudged { stream: at as u8, connection: stream.connection });
        }
        true
    }

    fn reconnections(&self) -> u32 {
        self.reconnections
    }

    fn is_settled(&self) -> bool {
        let lacks = |stream: &Stream| stream.condition == Condition::Cut || stream.outlet.catches_up();
        self.failure.is_some() || self.outbox.is_idle() && !self.streams.iter().any(lacks)
    }

    fn prepare_sleep(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return true };
        let mut ready = true;
        for (at, stream) in self.streams.iter().enumerate() {
            if let Some(socket) = stream.outlet.socket() {
                let has_ended = stream.condition == Condition::Ended;
                ready &= watch.update(at, socket, has_ended, stream.has_to_write());
            }
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
                stream.say_farewell();
                // Fails if the peer has gone already, which ends the connection just as well.
                let _ = stream.outlet.socket().map(|socket| socket.shutdown(Shutdown::Write));
            }
        }
        self.finish(self.failure.unwrap_or(LinkFailure::Closed));
        self.watch = None;
        self.streams.clear();
    }
}

impl Stream {
    fn new(socket: TcpStream, options: &TcpOptions, resumes: bool) -> Stream {
        let incoming = Incoming::new(options.receive_block);
        let inode = Inode::of(&socket);
        let outlet = Outlet::new(socket, resumes);
        let (batch, condition) = (Batch::new(), Condition::Connected);
        Stream { outlet, batch, incoming, condition, connection: 0, confirmed: resumes.then_some(0), inode }
    }

    /// Gives its connection up.
    fn disconnect(&mut self, watch: Option<&mut Watch>) {
        if let (Some(socket), Some(watch)) = (self.outlet.socket(), watch) {
            watch.forget(socket);
        }
        self.outlet.disconnect();
    }

    /// True if it is not in the middle of anything.
    fn can_begin(&self) -> bool {
        self.batch.is_empty() && self.outlet.takes_more()
    }

    fn has_to_write(&self) -> bool {
        !self.batch.is_empty() || self.batch.has_to_say() || self.outlet.catches_up()
    }

    /// True if it goes by this connection.
    fn is_on(&self, connection: u32) -> bool {
        self.condition == Condition::Connected && self.connection == connection
    }

    fn poll(&mut self, link: usize, receiver: &mut dyn Receiver) -> Result<Received, LinkFailure> {
        let Some(socket) = self.outlet.socket() else { return Ok(Received::Nothing) };
        let received = self.incoming.poll(socket, link, receiver);
        if let Some(confirmed) = &mut self.confirmed {
            if let Some(received) = self.incoming.take_confirmed() {
                self.outlet.confirm(received);
            }
            if self.incoming.received() - *confirmed >= RECEIPT_BYTES {
                *confirmed = self.incoming.received();
                self.batch.say(Word::Receipt(*confirmed));
            }
        }
        received
    }

    /// Ends this side of the stream in order, if all of it was written.
    fn say_farewell(&mut self) {
        if self.can_begin() {
            // If there is no room for it, the peer does not know that this was no death.
            let _ = self.outlet.write(&[IoSlice::new(&Word::Farewell.encode())]);
        }
    }

    /// Reads and throws away what the peer has sent so far, within a bound.
    fn drain(&mut self, link: usize) {
        for _ in 0..CLOSING_POLLS {
            if !matches!(self.poll(link, &mut Discarding), Ok(Received::Some)) {
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
