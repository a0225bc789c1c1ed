//! What crosses the Unix socket of a pair: wake-ups, descriptors of registered memory, and the end.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

const WAKE: u8 = b'W';
const BYE: u8 = b'B';
const REGION: u8 = b'R';
const FORGET: u8 = b'F';

/// Descriptors that may have come ahead of the messages that they belong to.
const MOST_DESCRIPTORS: usize = 16;

/// Reads of one look: more than there are messages in a socket, so that a peer which never stops talking holds nobody up.
const READS_PER_LOOK: usize = 512;

/// A message of the peer.
pub(crate) enum Message {
    /// It closes in order.
    Bye,
    /// A region: id, length, descriptor.
    Region(u64, u64, OwnedFd),
    /// A region that is gone.
    Forget(u64),
}

/// What reading found.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum End {
    Open,
    Ended,
    Broken,
}

/// The socket with what has come but is not whole yet.
pub(crate) struct Socket {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// Messages that the socket had no room for; none of them is a wake-up.
    unsent: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Socket {
    pub(crate) fn new(stream: UnixStream) -> Socket {
        Socket {
            stream,
            bytes: Vec::with_capacity(64),
            descriptors: VecDeque::new(),
            unsent: VecDeque::new(),
        }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Wakes the peer. A full socket has a wake-up in it already.
    pub(crate) fn wake(&self) {
        let _ = rustix::net::send(&self.stream, &[WAKE], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    pub(crate) fn bye(&mut self) {
        self.send(vec![BYE], None);
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.send([&[FORGET][..], &id.to_le_bytes()].concat(), None);
    }

    /// Announces a region; false if there is no descriptor left to do it with.
    pub(crate) fn region(&mut self, id: u64, len: u64, file: &OwnedFd) -> bool {
        let Ok(copy) = file.try_clone() else { return false };
        self.send([&[REGION][..], &id.to_le_bytes(), &len.to_le_bytes()].concat(), Some(copy));
        true
    }

    /// Whether everything that was announced is in the socket.
    pub(crate) fn is_flushed(&mut self) -> bool {
        if !self.unsent.is_empty() {
            self.flush();
        }
        self.unsent.is_empty()
    }

    fn send(&mut self, bytes: Vec<u8>, file: Option<OwnedFd>) {
        self.unsent.push_back((bytes, file));
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((bytes, file)) = self.unsent.front() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // Messages are tiny: a stream socket takes them whole or not at all.
            if sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags).is_err() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Reads what is there and hands each whole message to `take`.
    pub(crate) fn read(&mut self, mut take: impl FnMut(Message)) -> End {
        self.flush();
        for _ in 0..READS_PER_LOOK {
            let mut block = [0u8; 256];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = match recvmsg(&self.stream, &mut [IoSliceMut::new(&mut block)], &mut control, flags) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return End::Open,
                Err(_) => return End::Ended,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    self.descriptors.extend(files);
                }
            }
            if self.descriptors.len() > MOST_DESCRIPTORS {
                return End::Broken;
            }
            if got == 0 {
                return End::Ended;
            }
            self.bytes.extend_from_slice(&block[..got]);
            if !self.parse(&mut take) {
                return End::Broken;
            }
        }
        End::Open
    }

    /// Takes whole messages off the front; false for bytes that no peer sends.
    fn parse(&mut self, take: &mut impl FnMut(Message)) -> bool {
        let mut at = 0;
        let number = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
        };
        while let Some(&kind) = self.bytes.get(at) {
            let message = match kind {
                // It has done its work: this side is awake.
                WAKE => {
                    at += 1;
                    continue;
                }
                BYE => Some((Message::Bye, 1)),
                FORGET => number(&self.bytes, at + 1).map(|id| (Message::Forget(id), 9)),
                REGION => match (number(&self.bytes, at + 1), number(&self.bytes, at + 9)) {
                    (Some(id), Some(len)) => {
                        let Some(file) = self.descriptors.pop_front() else { return false };
                        Some((Message::Region(id, len, file), 17))
                    }
                    _ => None,
                },
                _ => return false,
            };
            let Some((message, used)) = message else { break };
            at += used;
            take(message);
        }
        self.bytes.drain(..at);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_peer_that_never_stops_talking_holds_nobody_up() {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut messages = 0;
        let mut talk = |_| {
            messages += 1;
            (&far).write_all(&[BYE]).unwrap();
        };
        talk(Message::Bye);
        assert_eq!(Socket::new(near).read(talk), End::Open);
        assert_eq!(messages, READS_PER_LOOK + 1);
    }
}
