//! One call of a collective, as every interface (Rust, C, command line) hands it to the engine.

use crate::reduce::Reduction;
use crate::{Collective, DType, Segment, Tag, Tolerance};
use std::time::Duration;

/// Blocks of a vector, one per rank, in elements (`…_v` calls).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Elements of each rank's block.
    pub counts: Vec<usize>,
    /// First element of each rank's block; same length as `counts`.
    pub offsets: Vec<usize>,
}

impl Blocks {
    /// Blocks that follow each other without gaps.
    pub fn dense(counts: &[usize]) -> Blocks {
        let mut end = 0usize;
        let offsets = counts
            .iter()
            .map(|&count| {
                let start = end;
                end = end.saturating_add(count);
                start
            })
            .collect();
        Blocks { counts: counts.to_vec(), offsets }
    }
}

/// A rank that was lost, and one that holds its block of a gather whole: the block counts as if the rank were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Whose block it is.
    pub lost: u32,
    /// Who has it.
    pub holder: u32,
}

/// Options of one call; the defaults suit almost everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Deadline of this call; `None` takes the group's (default 300 s, `RONDE_TIMEOUT`).
    pub timeout: Option<Duration>,
    /// Calls with the same tag are issued in the same order on every rank. Threads that call
    /// concurrently use different tags. The highest one, `u32::MAX`, is the library's own and
    /// refused. Default 0.
    pub tag: Tag,
    /// Whether the op survives a lost peer.
    pub tolerance: Tolerance,
    /// Force an algorithm by its name (`"ring"`, `"two-shot"`, …); `None` lets the cost model choose.
    pub algorithm: Option<&'static str>,
    /// A result that anybody returned holds for all, even if whoever returned it dies at once: also small calls commit by a
    /// round of messages (Done). Without it a small all-reduce, all-gather or barrier, of two ranks also a small reduce-scatter
    /// or all-to-all, of which only members heard that are lost may be made again, without these.
    pub strict_commit: bool,
}

/// One call.
///
/// `count` is in elements: of the whole vector for all_reduce, reduce and broadcast; of one rank's
/// block for all_gather (its input), reduce_scatter (its output), all_to_all (each pair), gather and
/// scatter; of the message for send and receive; 0 for a barrier. For `…_v` calls it is this rank's
/// own block (input of all_gather_v and gather_v, output of reduce_scatter_v and scatter_v) and
/// unused for all_to_all_v. Fields that a collective does not use are ignored, but for an operator
/// where nothing is reduced, which is an error.
///
/// In place: `input` and `output` are the same memory for all_reduce, reduce, broadcast and
/// all_to_all(-v); for all_gather(-v) and gather(-v) at the root the input is one's own block of the
/// output; for reduce_scatter(-v) and scatter(-v) at the root the output is one's own block of the input.
#[derive(Clone, Debug)]
pub struct Call {
    /// What to do.
    pub collective: Collective,
    /// Element type.
    pub dtype: DType,
    /// Elements, see above.
    pub count: usize,
    /// The operator of calls that reduce.
    pub reduction: Option<Reduction>,
    /// Root of a rooted call, the other rank of a send or receive; else unused.
    pub peer: u32,
    /// Blocks sent: all_to_all_v; scatter_v at the root; reduce_scatter_v (the same on all ranks).
    pub send: Blocks,
    /// Blocks received: all_to_all_v, all_gather_v (the same on all ranks), gather_v at the root.
    pub recv: Blocks,
    /// What is sent; empty where a rank sends nothing.
    pub input: Segment,
    /// Where the result goes; empty where a rank receives nothing.
    pub output: Segment,
    /// The output is the caller's input, of which a changed copy is sent: after an error it is as before.
    pub input_in_output: bool,
    /// Set by the executor where a call starts again after a loss: blocks of the lost that somebody holds.
    pub stand_ins: Vec<StandIn>,
    /// Options.
    pub options: CallOptions,
}

impl Call {
    /// A barrier without options; the base of others.
    pub const EMPTY: Call = Call {
        collective: Collective::Barrier,
        dtype: DType::U8,
        count: 0,
        reduction: None,
        peer: 0,
        send: Blocks { counts: Vec::new(), offsets: Vec::new() },
        recv: Blocks { counts: Vec::new(), offsets: Vec::new() },
        input: Segment::EMPTY,
        output: Segment::EMPTY,
        input_in_output: false,
        stand_ins: Vec::new(),
        options: CallOptions {
            timeout: None,
            tag: Tag(0),
            tolerance: Tolerance::Recover,
            algorithm: None,
            strict_commit: false,
        },
    };

    /// Whether what the caller gave is overwritten by what it gets.
    pub fn is_in_place(&self) -> bool {
        self.input_in_output || self.input.overlaps(&self.output)
    }

    /// A collective that tolerates no loss.
    pub fn is_strict(&self) -> bool {
        self.options.tolerance == Tolerance::None && !self.collective.is_point_to_point()
    }

    /// Blocks of all ranks come together, on one rank or on all, as each gave them to all others alike.
    pub fn gathers(&self) -> bool {
        use Collective::{AllGather, AllGatherV, Gather, GatherV};
        matches!(self.collective, AllGather | AllGatherV | Gather | GatherV)
    }
}

/// Sizes and roles of one rank's call: what a plan is a function of.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// What to do.
    pub collective: Collective,
    /// This rank.
    pub rank: u32,
    /// Ranks in the group.
    pub world: u32,
    /// As in [`Call`].
    pub count: usize,
    /// Bytes of one element.
    pub element: usize,
    /// As in [`Call`].
    pub peer: u32,
    /// As in [`Call`].
    pub send: &'a Blocks,
    /// As in [`Call`].
    pub recv: &'a Blocks,
    /// As in [`Call`].
    pub stand_ins: &'a [StandIn],
    /// Input and output share memory, in the way stated at [`Call`].
    pub in_place: bool,
    /// Operands must be combined in ascending rank order (user-defined operators), so only plans that
    /// reduce all contributions at once, in order, may be used.
    pub ordered: bool,
    /// 8- or 16-bit floats, of which each further rounding takes much: plans that round once are better.
    pub narrow: bool,
}
