//! What the owner of a link with several streams waits for: one epoll descriptor over all.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An epoll descriptor over the streams of one link.
pub(crate) struct Watch {
    epoll: OwnedFd,
    /// What each stream is registered for.
    interests: Vec<EventFlags>,
}

impl Watch {
    pub(crate) fn new<'a>(sockets: impl Iterator<Item = &'a TcpStream>) -> Result<Watch, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut interests = Vec::new();
        for (at, socket) in sockets.enumerate() {
            epoll::add(&epoll, socket, EventData::new_u64(at as u64), EventFlags::IN)?;
            interests.push(EventFlags::IN);
        }
        Ok(Watch { epoll, interests })
    }

    /// The connection of a stream is given up. Closing it would do, unless a process that was forked holds it too.
    pub(crate) fn forget(&mut self, socket: &TcpStream) {
        // Fails if it was forgotten before.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Another connection of a stream, the one before is forgotten.
    pub(crate) fn replace(&mut self, at: usize, socket: &TcpStream) -> Result<(), Errno> {
        self.interests[at] = EventFlags::IN;
        epoll::add(&self.epoll, socket, EventData::new_u64(at as u64), EventFlags::IN)
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Before a sleep: a stream that the peer has ended is always readable and must not wake, one
    /// with bytes to write must wake when it has room. False if the kernel refused.
    pub(crate) fn update(&mut self, at: usize, socket: &TcpStream, ended: bool, writing: bool) -> bool {
        let mut wanted = if ended { EventFlags::empty() } else { EventFlags::IN };
        wanted.set(EventFlags::OUT, writing);
        if wanted == self.interests[at] {
            return true;
        }
        self.interests[at] = wanted;
        epoll::modify(&self.epoll, socket, EventData::new_u64(at as u64), wanted).is_ok()
    }
}
