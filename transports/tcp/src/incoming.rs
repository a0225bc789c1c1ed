//! The receiving half of a stream.
//!
//! Between frames it reads into a block, which may bring many small frames at once. Within a large
//! payload it reads straight into the placement, with just enough of the block behind it to bring
//! the padding and the next header along: more would be copied twice.

use crate::MAX_PAYLOAD;
use crate::word::Word;
use ronde_core::Segment;
use ronde_core::frame::{FrameError, HEADER_BYTES, Header};
use ronde_core::memory::{Access, Arena};
use ronde_core::transport::{LinkFailure, Payload, Placement, Receiver};
use rustix::io::{Errno, read, readv};
use std::io::IoSliceMut;
use std::net::TcpStream;

/// A poll of a stream ends after the read that reaches this many bytes, so that one busy peer does
/// not keep the others waiting.
const POLL_BYTES: usize = 1 << 20;
/// Nor does a poll make more reads than this.
const POLL_READS: usize = 8;

/// What a poll of a stream brought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes came, more may be there.
    Some,
    /// Nothing was there.
    Nothing,
    /// The peer ended the stream between two frames.
    End,
}

/// A frame whose payload is arriving.
struct Frame {
    header: Header,
    target: Segment,
    done: usize,
}

/// The receiving half of one stream.
pub(crate) struct Incoming {
    block: Segment,
    /// Owns the memory of `block`.
    _arena: Arena,
    /// Bytes `start..end` of the block have been read and not yet understood.
    start: usize,
    end: usize,
    /// Bytes of padding, or of a payload that nobody wants, before the next header.
    skip: usize,
    frame: Option<Frame>,
    /// Bytes of the stream that have been read.
    received: u64,
    /// The stream ends in order.
    is_over: bool,
    /// What the peer has confirmed since somebody asked.
    confirmed: Option<u64>,
}

impl Incoming {
    pub(crate) fn new(block_bytes: usize) -> Incoming {
        let arena = Arena::new(block_bytes.max(4096).next_multiple_of(HEADER_BYTES));
        let block = arena.segment(0, arena.len());
        Incoming {
            block,
            _arena: arena,
            start: 0,
            end: 0,
            skip: 0,
            frame: None,
            received: 0,
            is_over: false,
            confirmed: None,
        }
    }

    /// Reads what is there, up to a bound, and hands complete frames over. Whatever was read is
    /// understood as far as possible, so nothing but new bytes can make a further poll useful.
    pub(crate) fn poll(
        &mut self,
        socket: &TcpStream,
        link: usize,
        receiver: &mut dyn Receiver,
    ) -> Result<Received, LinkFailure> {
        let mut total = 0;
        for _ in 0..POLL_READS {
            let (asked, got) = match self.read(socket) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(LinkFailure::Os(errno.raw_os_error())),
                Ok((_, 0)) => return self.ended(),
                Ok(both) => both,
            };
            self.understand(link, receiver)?;
            total += got;
            // A short read has emptied the socket: asking again would cost a call for nothing.
            if got < asked || total >= POLL_BYTES {
                break;
            }
        }
        Ok(if total > 0 { Received::Some } else { Received::Nothing })
    }

    /// How many bytes of the stream were read, over all its connections.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes of the other direction the peer has read, if it has said so since the last call.
    pub(crate) fn take_confirmed(&mut self) -> Option<u64> {
        self.confirmed.take()
    }

    /// True once the peer has said that nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Lets go of the placement in use, so that nothing is written to the receiver's memory any more.
    pub(crate) fn clear(&mut self) {
        self.frame = None;
    }

    /// The rest of a payload is thrown away if its frame is over.
    pub(crate) fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        if let Some(frame) = self.frame.take_if(|frame| is_over(&frame.header)) {
            self.skip = frame.header.padded_payload() - frame.done;
        }
    }

    fn ended(&self) -> Result<Received, LinkFailure> {
        let between_frames = self.frame.is_none() && self.skip == 0 && self.start == self.end;
        if between_frames { Ok(Received::End) } else { Err(LinkFailure::PeerDied) }
    }

    /// One read: bytes asked for and got.
    fn read(&mut self, socket: &TcpStream) -> Result<(usize, usize), Errno> {
        self.compact();
        let Some(frame) = &mut self.frame else {
            let room = &mut self.block.bytes_mut()[self.end..];
            let asked = room.len();
            let got = read(socket, room)?;
            self.end += got;
            self.received += got as u64;
            return Ok((asked, got));
        };
        let len = frame.target.len();
        let tail = frame.header.padded_payload() - len + HEADER_BYTES;
        let mut rest = frame.target.slice(frame.done, len - frame.done);
        let asked = rest.len() + tail;
        let mut parts =
            [IoSliceMut::new(rest.bytes_mut()), IoSliceMut::new(&mut self.block.bytes_mut()[..tail])];
        let got = readv(socket, &mut parts)?;
        let placed = got.min(len - frame.done);
        frame.done += placed;
        self.end = got - placed;
        self.received += got as u64;
        Ok((asked, got))
    }

    /// Moves what is left in the block, at most a part of a header, to its front.
    fn compact(&mut self) {
        if self.start > 0 {
            self.block.bytes_mut().copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Goes through the block frame by frame.
    fn understand(&mut self, link: usize, receiver: &mut dyn Receiver) -> Result<(), LinkFailure> {
        loop {
            if !self.complete_frame(link, receiver) {
                return Ok(());
            }
            let skipped = self.skip.min(self.end - self.start);
            self.start += skipped;
            self.skip -= skipped;
            if self.skip > 0 || self.end - self.start < HEADER_BYTES {
                return Ok(());
            }
            self.begin_frame(link, receiver)?;
        }
    }

    /// Fills the frame from the block and hands it over. False if it still misses bytes.
    fn complete_frame(&mut self, link: usize, receiver: &mut dyn Receiver) -> bool {
        let Some(frame) = &mut self.frame else { return true };
        let missing = frame.target.len() - frame.done;
        let taken = missing.min(self.end - self.start);
        let from = &self.block.bytes()[self.start..self.start + taken];
        frame.target.slice(frame.done, taken).fill_from(from);
        frame.done += taken;
        self.start += taken;
        if taken < missing {
            return false;
        }
        let header = frame.header;
        self.skip = header.padded_payload() - frame.target.len();
        // Dropped before the receiver hears of it: it may wait for the last clone of its memory.
        self.frame = None;
        receiver.arrived(link, &header, Payload::Placed);
        true
    }

    fn begin_frame(&mut self, link: usize, receiver: &mut dyn Receiver) -> Result<(), LinkFailure> {
        let (bytes, _) = self.block.bytes()[self.start..self.end]
            .split_first_chunk::<HEADER_BYTES>()
            .expect("the caller saw a whole header");
        if self.is_over {
            return Err(LinkFailure::Violation("bytes after the end of the stream"));
        }
        let header = match Header::decode(bytes) {
            Err(error) => {
                match Word::decode(bytes).ok_or(error)? {
                    Word::Receipt(received) => self.confirmed = Some(received),
                    Word::Farewell => self.is_over = true,
                }
                self.start += HEADER_BYTES;
                return Ok(());
            }
            Ok(header) => header,
        };
        self.start += HEADER_BYTES;
        if header.payload_len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(header.payload_len).into());
        }
        match receiver.place(link, &header) {
            Placement::Into(target) if target.len() == header.payload_len as usize => {
                self.frame = Some(Frame { header, target, done: 0 });
            }
            Placement::Into(_) => return Err(LinkFailure::Violation("payload of an unexpected length")),
            Placement::Discard => self.skip = header.padded_payload(),
            Placement::Refuse(reason) => return Err(LinkFailure::Violation(reason)),
        }
        Ok(())
    }
}
