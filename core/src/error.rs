//! Errors, sorted by who must act.

use crate::{Collective, Epoch, Generation, MemberId, OpId, PeerId, Rank, Seq};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Result with Ronde's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Cheap to clone: every op that fails for one reason carries the same text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller must change the call.
    #[error("{}{}", if *.0 == Misuse::Closed { "" } else { "misuse: " }, .0)]
    Misuse(#[from] Misuse),
    /// A peer is gone; the survivors all see this same error.
    #[error("{0}")]
    PeerLost(Arc<PeerLost>),
    /// The op was ended by agreement: it missed its deadline; or the job was (`abort()`, mismatched calls).
    #[error("{0}")]
    Aborted(Arc<Aborted>),
    /// This handle is no longer a member: the others went on without it.
    #[error("this peer was expelled from the group in epoch {epoch}: {reason}; join again to go on")]
    Expelled {
        /// The first epoch without this peer.
        epoch: Epoch,
        /// What the coordinator saw.
        reason: Arc<str>,
    },
    /// Something on this machine: a port, a limit, a file, memory.
    #[error("local resource: {0}")]
    Resource(Arc<str>),
    /// Joining did not succeed: address, token, version, time.
    #[error("cannot join: {0}")]
    Join(Arc<str>),
    /// A bug in Ronde: a broken invariant was contained.
    #[error("internal error, please report it: {0}")]
    Internal(Arc<str>),
}

impl Error {
    /// A [`Error::Resource`] with this text.
    pub fn resource(text: impl Into<Arc<str>>) -> Error {
        Error::Resource(text.into())
    }

    /// A [`Error::Join`] with this text.
    pub fn join(text: impl Into<Arc<str>>) -> Error {
        Error::Join(text.into())
    }

    /// A [`Error::Internal`] with this text.
    pub fn internal(text: impl Into<Arc<str>>) -> Error {
        Error::Internal(text.into())
    }
}

/// A call that can never succeed as it was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Misuse {
    #[error("operator {op} has no meaning on {dtype}")]
    Unsupported { op: &'static str, dtype: &'static str },
    #[error("{what} has {got} bytes, the call needs {need}")]
    BufferSize { what: &'static str, got: usize, need: usize },
    #[error("{count} elements of {size} bytes overflow the address space")]
    CountOverflow { count: usize, size: usize },
    #[error("{what} is {got}, the group has {size} ranks")]
    RankOutOfRange { what: &'static str, got: u32, size: u32 },
    #[error("{what} is null but its length is not 0")]
    NullPointer { what: &'static str },
    #[error("unknown {what} {got}")]
    Unknown { what: &'static str, got: u64 },
    #[error("input and output overlap in part: they must be the same memory or disjoint")]
    Overlap,
    #[error("{what} was lent for reading only: lend it with `Lender::unique`")]
    ReadOnly { what: &'static str },
    #[error("the group was closed")]
    Closed,
    #[error("send and receive need another rank, not this one ({rank})")]
    SelfMessage { rank: Rank },
    #[error("{0}")]
    Other(Arc<str>),
}

/// The loss of a peer, as the coordinator announced it to all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerLost {
    /// Who.
    pub peer: PeerId,
    /// Its number in the job.
    pub member: MemberId,
    /// Its rank in the last view.
    pub rank: Rank,
    /// Its host name.
    pub host: String,
    /// Its address.
    pub address: String,
    /// What was seen, by whom.
    pub reason: String,
    /// How long it had been silent when it was given up.
    pub silent_for: Duration,
    /// The epoch that fences it.
    pub epoch: Epoch,
}

impl std::fmt::Display for PeerLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "peer {} ({}, host {}, {}) was lost: {}; silent for {:.1} s; epoch {}. \
             What does not need it goes on with the others, where losses are tolerated",
            self.rank,
            self.peer,
            self.host,
            self.address,
            self.reason,
            self.silent_for.as_secs_f64(),
            self.epoch
        )
    }
}

/// An op or group that was ended by agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aborted {
    /// Two ranks made different calls with the same sequence number.
    Mismatch {
        /// The op.
        op: OpId,
        /// One rank's call.
        rank: Rank,
        /// In words.
        call: String,
        /// The other's.
        other_rank: Rank,
        /// In words.
        other_call: String,
    },
    /// The op missed its deadline, on some rank. A collective has ended on all then, a receive here, and the group works on.
    Timeout {
        /// The op.
        op: OpId,
        /// What kind.
        collective: Collective,
        /// How long it was waited for.
        waited: Duration,
        /// Who did not arrive and what is known of them.
        culprits: String,
    },
    /// Members hold different results of one op: a machine, a user's operator or this library has made a mistake.
    Diverged {
        /// The op.
        op: OpId,
        /// Who holds what.
        holders: String,
    },
    /// A receive was taken back here before anything of it came.
    Cancelled,
    /// Somebody called `abort()`.
    Requested {
        /// Who.
        rank: Rank,
        /// Their words.
        reason: String,
    },
    /// So few of the last view are left, or can be heard, that another part of it may have gone on alone.
    NoQuorum {
        /// Members that are here.
        here: u32,
        /// Members that may live.
        of: u32,
    },
    /// A group-wide failure announced by the coordinator, as text.
    Announced(String),
}

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Aborted::Mismatch { op, rank, call, other_rank, other_call } => write!(
                f,
                "ranks disagree on op #{} (tag {}): rank {rank} called {call}, rank {other_rank} called \
                 {other_call}; every rank must make the same calls in the same order",
                op.seq, op.tag
            ),
            Aborted::Timeout { op, collective, waited, culprits } => write!(
                f,
                "{collective} #{} (tag {}) missed its deadline after {:.1} s: {culprits}",
                op.seq,
                op.tag,
                waited.as_secs_f64()
            ),
            Aborted::Diverged { op, holders } => write!(
                f,
                "the result of op #{} (tag {}) is not the same everywhere, by its digest: {holders}. Memory or processor of the \
                 one that stands alone may be faulty, or a user-defined operator gives different results for the same operands",
                op.seq, op.tag
            ),
            Aborted::Cancelled => f.write_str("the receive was cancelled on this rank"),
            Aborted::Requested { rank, reason } => write!(f, "rank {rank} aborted the group: {reason}"),
            Aborted::NoQuorum { here, of } => write!(
                f,
                "the coordinator was lost or cut off, and only {here} of {of} peers are here: another part of the \
                 job may go on without them. Look at the other machines and the network between"
            ),
            Aborted::Announced(text) => f.write_str(text),
        }
    }
}

/// A part of a vector with contributors of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which elements.
    pub elements: std::ops::Range<usize>,
    /// Number of peers whose input is in these.
    pub contributors: u32,
    /// Ranks whose input is not, ascending.
    pub absent: Vec<u32>,
}

/// Bytes of an output that hold anything, since whoever was to give them is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// In a commit group, the number of the call whose output it is, from 0 in the order in which they started; else 0.
    pub call: usize,
    /// Which bytes of the output.
    pub bytes: std::ops::Range<usize>,
}

/// What a call that succeeded says of itself.
#[derive(Clone, Debug, PartialEq, Default)]
#[must_use]
#[non_exhaustive]
pub struct Outcome {
    /// View in which it committed. Of a small reduce-scatter or all-to-all of two ranks, in which the later of them began it.
    pub epoch: Epoch,
    /// Safe points that had changed the members before it was made.
    pub generation: Generation,
    /// Number of peers whose input is in the result.
    pub contributors: u32,
    /// Ranks whose input is not in the result, ascending: they were lost before.
    pub absent: Vec<u32>,
    /// What the absent leave open in this rank's output: of an all_gather(-v), all_to_all(-v) and, at the root, gather(-v)
    /// their blocks, which hold anything. All other bytes are as they should be. In order, as few as there can be: blocks that
    /// touch are one hole, empty ones are none. Other calls have no holes: what is reduced lacks the absent in every element,
    /// what comes from a root is whole or an error.
    pub holes: Vec<Hole>,
    /// Of a call with `Tolerance::PerWindow` that a loss interrupted: who contributed to which part of the vector, in
    /// order. Empty where it is the same for all. `contributors` and `absent` are those of the last part, which has
    /// the fewest contributors.
    pub parts: Vec<Part>,
    /// Of a weighted average, the sum of the weights of those who contributed, where the result is; of several parts that of the
    /// last. `None` for an empty vector.
    pub weight: Option<f64>,
    /// How often losses interrupted it.
    pub interruptions: u32,
    /// Time from its start until this peer heard of the first of them; zero if there was none.
    pub interrupted_after: Duration,
    /// Time that it stood still for losses, from when this peer heard of one until it went on.
    pub interrupted_for: Duration,
    /// Its number within the tag.
    pub seq: Seq,
    /// All calls of the tag below this one have returned on every member: also if this peer should be given up, nobody
    /// replaces their results. If it is ([`Error::Expelled`]), those from here on are void: take the state of another.
    pub stable_through: Seq,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Name of the algorithm.
    pub algorithm: &'static str,
}
