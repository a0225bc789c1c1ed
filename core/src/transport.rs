//! The transport trait: capabilities, region, link, completion.
//!
//! A [`Link`] is the path to one peer over one transport. It moves frames (see [`crate::frame`]):
//! a 64-byte header and a payload that lies in a [`Segment`]. Links never block, never call back
//! outside [`Link::poll`], and need not keep frames in order (several streams); each frame arrives
//! at most once, or the link fails. Failure belongs to a link and is final.

use crate::Segment;
use crate::frame::{FrameError, Header};
use std::time::Duration;

/// What a link can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Name of the transport: `"shm"`, `"tcp"`.
    pub name: &'static str,
    /// Payloads are handed over as [`Payload::View`]: memory of the transport or of the peer,
    /// readable until released. Otherwise they are written to the place that the receiver names.
    pub views: bool,
    /// Largest payload of one frame, in bytes.
    pub max_payload: usize,
    /// A frame costs a system call: prefer few large frames and let commits ride on later traffic.
    pub syscall_per_frame: bool,
    /// Memory from this transport's allocator is read by the peer without a copy.
    pub registered_memory: bool,
}

/// Answer to [`Link::submit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submit {
    /// Taken, and the payload's memory may be reused at once.
    Sent,
    /// Taken; the payload's memory may be reused after [`Receiver::sent`] with the same cookie.
    Pending,
    /// Not taken: poll, then try again.
    Full,
}

/// Where the payload of an incoming frame goes.
#[derive(Debug)]
pub enum Placement {
    /// Write it here (exactly `payload_len` bytes), then call [`Receiver::arrived`].
    Into(Segment),
    /// Read it and throw it away; [`Receiver::arrived`] is not called.
    Discard,
    /// The peer broke a rule: close the link with [`LinkFailure::Violation`].
    Refuse(&'static str),
}

/// A payload that has arrived.
#[derive(Debug)]
pub enum Payload {
    /// It is where [`Receiver::place`] said.
    Placed,
    /// It can be read in place until [`Link::release`] is called with this token.
    View(Segment, ViewToken),
}

/// Names a borrowed payload of one link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewToken(pub u64);

/// Who gets what a link brings; the executor, or a test.
///
/// `link` is the number that the owner gave the link when it was made.
pub trait Receiver {
    /// A header came (links without views only): where does the payload go? Called once per frame,
    /// also for a payload of 0 bytes. Until it has arrived, or the link is fenced or closed, any part of it may be written there, and
    /// nothing else: what an earlier attempt has put there and this one sends again stays what it is.
    fn place(&mut self, link: usize, header: &Header) -> Placement;

    /// The frame is complete. Returns true if a view is kept (the receiver will release it), false
    /// if the link may release it at once.
    fn arrived(&mut self, link: usize, header: &Header, payload: Payload) -> bool;

    /// Views of this link's memory hold up what came after them: the receiver copies those that it
    /// holds and gives them back, as soon as it can. Nothing to do for one that keeps no views.
    fn give_up_views(&mut self, _link: usize) {}

    /// The payload submitted with `cookie` has left its memory.
    fn sent(&mut self, link: usize, cookie: u64);
}

/// Why a link ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkFailure {
    /// The peer has ended the link, and so lived when it did.
    #[error("the peer ended the link")]
    Closed,
    /// The connection ended without a word: the peer's process died (its descriptor or socket says so), or something in between
    /// cut it.
    #[error("the connection ended: the peer's process has, or it was cut")]
    PeerDied,
    /// The connection was reset or another error of the operating system, by its number.
    #[error("operating system error {0}")]
    Os(i32),
    /// The connection was cut, and what the peer lacks is not there any more.
    #[error("the connection was cut, and the two sides cannot agree on how far they had come")]
    Torn,
    /// The path to the peer's machine ended without a word.
    #[error("nothing comes back from the peer's machine: not even the network there answers")]
    Silent,
    /// The peer sent bytes that no correct peer sends.
    #[error("the peer sent an invalid frame: {0}")]
    Frame(#[from] FrameError),
    /// The peer's op ended before its bytes were read from its memory: what was read may be anything.
    #[error("the peer took back memory that it had lent")]
    Revoked,
    /// The peer broke a rule of flow control or placement.
    #[error("the peer broke the protocol: {0}")]
    Violation(&'static str),
}

/// Something that the owner of a link can wait for; on Unix a file descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WakeSource {
    /// Descriptor number, valid while the link lives.
    pub descriptor: i32,
    /// Also wait until it can be written (frames are queued).
    pub write: bool,
}

/// Path to one peer.
pub trait Link: Send {
    /// What this link can do.
    fn capabilities(&self) -> Capabilities;

    /// Sends a frame. `header.payload_len` equals `payload.len()` and is at most `max_payload`.
    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit;

    /// Moves what can be moved without blocking and reports it to `receiver`. Returns whether
    /// anything moved. After an error it is only given its views back, then dropped.
    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure>;

    /// Gives a kept view back, in any order.
    fn release(&mut self, token: ViewToken);

    /// Asked after views of this link were read: whether their bytes were what the peer sent. False once
    /// the peer has taken memory back that it lends.
    fn is_sound(&self) -> bool {
        true
    }

    /// A peer was lost, and attempts of ops end: of the frames that are over, the memory of payloads that are
    /// queued is not read from now on, nor that of payloads which are on their way here written. What was queued may be
    /// dropped; if it arrives, then unchanged: the peer may not have heard of the loss yet, and return from the op.
    fn fence(&mut self, _is_over: &dyn Fn(&Header) -> bool) {}

    /// While there is a period, the peer's machine is asked that often whether it is there, also if there is nothing to send.
    fn probe(&mut self, _period: Option<Duration>) {}

    /// How often in a row something was sent again to the peer's machine, or asked there, without an answer. 0 while it answers,
    /// which it does for a process that is merely busy; `None` where it is not known.
    fn unanswered(&self) -> Option<u32> {
        None
    }

    /// Nothing comes back from the peer's machine: gives up the connections that there are, if others can take their places. False if
    /// they cannot; else the next polls make them, or end the link.
    fn reconnect(&mut self) -> bool {
        false
    }

    /// Whether all that was submitted has left this side, as far as it is known, and no connection is being made again.
    fn is_settled(&self) -> bool {
        self.wake_source().is_none_or(|source| !source.write)
    }

    /// How many connections have taken the place of others.
    fn reconnections(&self) -> u32 {
        0
    }

    /// Tells the peer that this side is about to block on [`Link::wake_source`] and wants to be
    /// woken. Returns false if something arrived meanwhile: poll instead of sleeping.
    fn prepare_sleep(&mut self) -> bool {
        true
    }

    /// Undoes [`Link::prepare_sleep`].
    fn cancel_sleep(&mut self) {}

    /// What to wait for, if anything.
    fn wake_source(&self) -> Option<WakeSource>;

    /// Flushes what is queued as far as possible without blocking and closes: no late write lands
    /// in this process's memory after it returns.
    fn close(&mut self);
}
