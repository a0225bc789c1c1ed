//! Where the bytes of a stream go: into its connection while there is one, and into the copy of the last of them.

use crate::replay::Replay;
use ronde_core::transport::LinkFailure;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use std::io::IoSlice;
use std::net::{Shutdown, TcpStream};

/// `NOSIGNAL`: a library must not let SIGPIPE end a process whose C main left it at its default;
/// `writev`, which the standard library would use, has no such flag.
const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// What a peer has not confirmed is what the network and two sockets hold, and a little more. Of one that confirms nothing a stream
/// cannot be taken up.
const MOST_UNCONFIRMED: usize = 256 << 20;

/// The writing side of one stream.
pub(crate) struct Outlet {
    socket: Option<TcpStream>,
    /// Of a stream that may be taken up again.
    copy: Option<Copy>,
}

/// What it takes to go on with another connection.
struct Copy {
    replay: Replay,
    /// What comes before it has been written; the rest of what the peer lacks is to be written before anything new.
    again: Option<u64>,
    /// What a write has met. What the peer sent before is read before anybody is told.
    failed: Option<Errno>,
}

impl Outlet {
    /// `resumes`: the stream can go on with another connection. Failures of the connection are kept then, see
    /// [`Outlet::failure`], and returned by what writes otherwise.
    pub(crate) fn new(socket: TcpStream, resumes: bool) -> Outlet {
        let copy = || Copy { replay: Replay::default(), again: None, failed: None };
        Outlet { socket: Some(socket), copy: resumes.then(copy) }
    }

    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    /// Why nothing can be written any more.
    pub(crate) fn failure(&self) -> Option<LinkFailure> {
        let errno = self.copy.as_ref()?.failed?;
        Some(LinkFailure::Os(errno.raw_os_error()))
    }

    /// Ends the connection, and forgets what a write has met.
    pub(crate) fn disconnect(&mut self) {
        // A process that was forked may hold it too: for the peer it ends now.
        let _ = self.socket.take().map(|socket| socket.shutdown(Shutdown::Both));
        if let Some(copy) = &mut self.copy {
            (copy.again, copy.failed) = (None, None);
        }
    }

    /// Goes on with another connection, whose other side has `received` so many bytes. False if what it lacks is not here
    /// any more, or was never written.
    pub(crate) fn reconnect(&mut self, socket: TcpStream, received: u64) -> bool {
        let Some(copy) = &mut self.copy else { return false };
        if copy.replay.since(received).is_none() {
            return false;
        }
        copy.replay.confirm(received);
        (copy.again, copy.failed) = (Some(received), None);
        self.socket = Some(socket);
        true
    }

    /// The peer has read so many bytes of the stream.
    pub(crate) fn confirm(&mut self, received: u64) {
        if let Some(copy) = self.copy.as_mut().filter(|copy| copy.again.is_none()) {
            copy.replay.confirm(received);
        }
    }

    /// True if there is a connection and the peer lacks nothing that was written to an earlier one.
    pub(crate) fn takes_more(&self) -> bool {
        let catches_up = |copy: &Copy| copy.again.is_some() || copy.failed.is_some();
        self.socket.is_some() && !self.copy.as_ref().is_some_and(catches_up)
    }

    /// True if the connection has to be writable before anything else can happen here.
    pub(crate) fn catches_up(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.again.is_some())
    }

    /// Writes again what the peer lacks, as far as the connection takes it. Returns whether a byte moved.
    pub(crate) fn catch_up(&mut self) -> Result<bool, Errno> {
        let (Some(socket), Some(copy)) = (&self.socket, &mut self.copy) else { return Ok(false) };
        let mut moved = false;
        while let Some(from) = copy.again
            && copy.failed.is_none()
        {
            let rest = copy.replay.since(from).unwrap_or_default().map(IoSlice::new);
            let left: usize = rest.iter().map(|part| part.len()).sum();
            if left == 0 {
                copy.again = None;
                break;
            }
            match write(socket, &rest) {
                Ok(0) => break,
                Ok(count) => {
                    moved = true;
                    copy.again = Some(from + count as u64);
                }
                Err(errno) => copy.failed = Some(errno),
            }
        }
        Ok(moved)
    }

    /// Writes what the connection takes of these parts; nothing while there is none or it is behind.
    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let Some(socket) = self.socket.as_ref().filter(|_| self.takes_more()) else { return Ok(0) };
        let written = write(socket, parts);
        let Some(copy) = &mut self.copy else { return written };
        match written {
            Ok(count) => {
                copy.replay.push(parts, count, MOST_UNCONFIRMED);
                Ok(count)
            }
            Err(errno) => {
                copy.failed = Some(errno);
                Ok(0)
            }
        }
    }
}

fn write(socket: &TcpStream, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
    match parts {
        [one] => retry(|| send(socket, one, FLAGS)),
        _ => retry(|| sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), FLAGS)),
    }
}

/// Repeats an interrupted call; a full socket takes 0 bytes.
fn retry(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(0),
            other => return other,
        }
    }
}
