//! Streams that are taken up again: a connection may be cut by what is in between, while both processes live.
//!
//! Each side counts the bytes that it has read of a stream, confirms them now and then, and keeps a copy of what the other has not
//! confirmed ([`Replay`](crate::replay::Replay)). A link that finds a connection dead reads what had come, forgets the socket and asks for
//! another ([`Resumption::redial`]). Both sides say how far they have read, write again what the other lacks, and go on in
//! the middle of the frame where they were. Who makes connections, and who accepts them, is no concern of the link: they leave them
//! in its [`Mailbox`].

use ronde_core::transport::LinkFailure;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Streams that a link may have, as many as there are bits.
pub const MAX_STREAMS: usize = 64;

/// A stream without a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Which of the link's.
    pub stream: u8,
    /// The connection that was cut: the stream's first has the number 0, each later one a higher number.
    pub connection: u32,
    /// Bytes of the stream that were read here in all.
    pub received: u64,
    /// What was seen of it.
    pub failure: LinkFailure,
}

/// Says to the other side of a new connection how many bytes of the stream were read here.
pub type Answer = Box<dyn FnOnce(&TcpStream, u64) -> io::Result<()> + Send>;

/// What a link finds in its [`Mailbox`].
pub enum Delivery {
    /// The other side has made a connection, has read so many bytes of this side's, and waits for the answer.
    Offered {
        /// Which stream goes on.
        stream: u8,
        /// The number of the new connection.
        connection: u32,
        /// Bytes of the stream that the other side has read.
        received: u64,
        /// Connected and authenticated.
        socket: TcpStream,
        /// What the other side waits for.
        answer: Answer,
    },
    /// This side has made a connection, and both have said how many bytes they have read.
    Connected {
        /// Which stream goes on.
        stream: u8,
        /// The number of the new connection.
        connection: u32,
        /// Bytes of the stream that the other side has read.
        received: u64,
        /// Connected and authenticated.
        socket: TcpStream,
    },
    /// The other side has found a connection dead.
    Nudged {
        /// Whose connection.
        stream: u8,
        /// Its number.
        connection: u32,
    },
    /// No other connection comes.
    GivenUp {
        /// For which stream.
        stream: u8,
        /// The connection that was cut.
        connection: u32,
        /// Why.
        failure: LinkFailure,
    },
}

/// How a link gets other connections.
pub struct Resumption {
    /// Called when a stream was cut, within [`Link::poll`](ronde_core::transport::Link::poll): must not block. What comes of it is
    /// delivered to the mailbox.
    pub redial: Box<dyn Fn(Cut) + Send>,
    /// Where the link looks for connections.
    pub mailbox: Mailbox,
}

impl Drop for Resumption {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

#[derive(Default)]
struct Shared {
    /// `None` once the link has ended.
    mail: Mutex<Option<Vec<Delivery>>>,
    has_mail: AtomicBool,
    /// A bit for each stream that has no connection.
    cut: AtomicU64,
}

/// Where connections for a link's streams are left; clones share it. Whoever delivers wakes the link's owner.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox(Arc::new(Shared { mail: Mutex::new(Some(Vec::new())), ..Shared::default() }))
    }
}

impl Mailbox {
    /// Leaves something for the link's next poll; gives it back if the link has ended.
    pub fn deliver(&self, delivery: Delivery) -> Result<(), Delivery> {
        match &mut *self.mail() {
            None => return Err(delivery),
            Some(mail) => mail.push(delivery),
        }
        self.0.has_mail.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether this stream waits for a connection.
    pub fn is_cut(&self, stream: u8) -> bool {
        self.0.cut.load(Ordering::Acquire) & bit(stream) != 0
    }

    /// Whether all streams have their connections, and the link has not ended.
    pub fn is_whole(&self) -> bool {
        self.0.cut.load(Ordering::Acquire) == 0 && !self.is_closed()
    }

    /// Whether the link has ended.
    pub fn is_closed(&self) -> bool {
        self.mail().is_none()
    }

    pub(crate) fn take(&self) -> Vec<Delivery> {
        if !self.0.has_mail.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut mail = self.mail();
        self.0.has_mail.store(false, Ordering::Release);
        mail.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn set_cut(&self, stream: usize, is_cut: bool) {
        let bit = bit(stream as u8);
        match is_cut {
            true => self.0.cut.fetch_or(bit, Ordering::AcqRel),
            false => self.0.cut.fetch_and(!bit, Ordering::AcqRel),
        };
    }

    pub(crate) fn close(&self) {
        *self.mail() = None;
    }

    fn mail(&self) -> MutexGuard<'_, Option<Vec<Delivery>>> {
        self.0.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bit(stream: u8) -> u64 {
    1 << (usize::from(stream) % MAX_STREAMS)
}
