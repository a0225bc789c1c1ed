//! The words of the design as types, so that a rank is never taken for a sequence number.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(
    /// Place of a peer in a group, dense from 0 to size - 1 within a generation.
    Rank(u32)
);
newtype!(
    /// Number of a process within its job: its place in tables of links. Ranks change at safe points, this does
    /// not; that of a process which is gone is given away again once its generation is over.
    MemberId(u32)
);
newtype!(
    /// Number of a view; grows with each view and is never reused. It labels an *attempt* of an op.
    Epoch(u64)
);
newtype!(
    /// Stretch between safe points in which ranks, roots and sizes keep their meaning.
    Generation(u32)
);
newtype!(
    /// Names a group (what users call a communicator) within a job.
    GroupId(u64)
);
newtype!(
    /// Stream of calls issued in the same order on every rank; concurrent threads use different tags.
    Tag(u32)
);
newtype!(
    /// Number of an op within its (group, generation, tag), from 0.
    Seq(u64)
);
newtype!(
    /// Which life of the coordinator speaks; grows with each restart or succession.
    Incarnation(u64)
);

impl MemberId {
    /// The number as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Rank {
    /// The rank as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One process of a job: 128 random bits, new at each join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 16]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// A group as it stands in one generation: its ranks keep their meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Formation {
    /// The group.
    pub group: GroupId,
    /// Its generation.
    pub generation: Generation,
}

impl Formation {
    /// An op that runs here.
    #[inline]
    pub fn op(self, tag: Tag, seq: Seq) -> OpId {
        OpId { group: self.group, generation: self.generation, tag, seq }
    }
}

/// Identity of one call, the same on every member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct OpId {
    /// The group it runs on.
    pub group: GroupId,
    /// The generation of that group.
    pub generation: Generation,
    /// The caller's tag.
    pub tag: Tag,
    /// Its number within the tag.
    pub seq: Seq,
}

impl OpId {
    /// Where it runs.
    #[inline]
    pub fn formation(&self) -> Formation {
        Formation { group: self.group, generation: self.generation }
    }
}

/// What an op does. The numbers travel on the wire and in the C ABI and are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Collective {
    AllReduce = 0,
    ReduceScatter = 1,
    AllGather = 2,
    AllToAll = 3,
    Broadcast = 4,
    Reduce = 5,
    Gather = 6,
    Scatter = 7,
    Barrier = 8,
    Send = 9,
    Recv = 10,
    AllGatherV = 11,
    ReduceScatterV = 12,
    AllToAllV = 13,
    GatherV = 14,
    ScatterV = 15,
    /// The seal of a commit group: all its calls become final with it.
    Commit = 16,
}

impl Collective {
    /// Every kind that moves or awaits something by itself, in the order of their numbers.
    pub const ALL: [Collective; 16] = {
        use Collective::*;
        [
            AllReduce,
            ReduceScatter,
            AllGather,
            AllToAll,
            Broadcast,
            Reduce,
            Gather,
            Scatter,
            Barrier,
            Send,
            Recv,
            AllGatherV,
            ReduceScatterV,
            AllToAllV,
            GatherV,
            ScatterV,
        ]
    };

    /// The name used in messages and on the command line.
    pub fn name(self) -> &'static str {
        use Collective::*;
        match self {
            AllReduce => "all_reduce",
            ReduceScatter => "reduce_scatter",
            AllGather => "all_gather",
            AllToAll => "all_to_all",
            Broadcast => "broadcast",
            Reduce => "reduce",
            Gather => "gather",
            Scatter => "scatter",
            Barrier => "barrier",
            Send => "send",
            Recv => "recv",
            AllGatherV => "all_gather_v",
            ReduceScatterV => "reduce_scatter_v",
            AllToAllV => "all_to_all_v",
            GatherV => "gather_v",
            ScatterV => "scatter_v",
            Commit => "commit",
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Collective> {
        // Asked for frames: no search.
        match number {
            number if number == Collective::Commit as u8 => Some(Collective::Commit),
            _ => Self::ALL.get(number as usize).copied(),
        }
    }

    /// True if the blocks of the ranks may differ in size (`…_v`).
    pub fn is_uneven(self) -> bool {
        use Collective::*;
        matches!(self, AllGatherV | ReduceScatterV | AllToAllV | GatherV | ScatterV)
    }

    /// True if contributions are combined by an operator.
    pub fn reduces(self) -> bool {
        use Collective::*;
        matches!(self, AllReduce | ReduceScatter | ReduceScatterV | Reduce)
    }

    /// True if one rank has another part in it than the others.
    pub fn has_root(self) -> bool {
        use Collective::*;
        matches!(self, Broadcast | Reduce | Gather | GatherV | Scatter | ScatterV)
    }

    /// True for an op between two ranks only.
    pub fn is_point_to_point(self) -> bool {
        matches!(self, Collective::Send | Collective::Recv)
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an op survives the loss of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Tolerance {
    /// No backup, log or commit: the loss of a member of the group is an error on all of it, quickly.
    None = 0,
    /// The op commits, and its data is kept until then. The default.
    #[default]
    Recover = 1,
    /// As `Recover`, but an all-reduce of several windows commits window by window: a loss leaves what is final, and the
    /// rest is reduced among the survivors. So the contributors may differ along the vector
    /// ([`crate::error::Outcome::parts`]), a late loss costs little, and in place only the windows in flight are
    /// copied. For vectors of many gigabytes. After an error what was final stays reduced in place, up to where it
    /// is not said; the rest is as it was.
    PerWindow = 2,
}

impl Tolerance {
    /// The name used in messages and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tolerance::None => "none",
            Tolerance::Recover => "recover",
            Tolerance::PerWindow => "per-window",
        }
    }
}

/// Nanoseconds since a start that the caller chose; only differences mean anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `span` later, saturating.
    pub fn after(self, span: std::time::Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time passed since `earlier`, zero if that lies ahead.
    pub fn since(self, earlier: Instant) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
