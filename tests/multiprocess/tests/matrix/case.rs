//! One call of a collective, its vectors, and what it has to give.

use crate::memory::{Memory, POISON};
use crate::values::{self, PERIOD, Rounding, Wanted, mix};
use ronde::{Blocks, Call, CallOptions, Collective, DType, Outcome, ReduceOp, Reduction, Tolerance};
use ronde::{Group, Segment};
use ronde_core::memory::Access;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How input and output of a call lie to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Apart,
    /// The same memory where a rank has both.
    Shared,
    /// Every rank names the same memory as input and output, as programs do that make the same call everywhere,
    /// also where a rank sends or receives nothing. For rooted collectives.
    NamedByAll,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) collective: Collective,
    pub(crate) dtype: DType,
    pub(crate) op: Option<ReduceOp>,
    /// Elements of a vector or block; where blocks differ in length, of most of them.
    pub(crate) count: usize,
    pub(crate) root: u32,
    pub(crate) place: Place,
    pub(crate) tolerance: Tolerance,
    pub(crate) algorithm: Option<&'static str>,
    pub(crate) seed: u64,
}

/// A rank in its group, and whether some of its vectors lie in registered memory.
pub(crate) struct Here<'a> {
    pub(crate) group: &'a Group,
    pub(crate) memory: Memory<'a>,
    pub(crate) registered: bool,
}

/// Collectives whose blocks are of any lengths.
pub(crate) fn has_uneven_blocks(collective: Collective) -> bool {
    use Collective::*;
    matches!(collective, AllGatherV | ReduceScatterV | AllToAllV | GatherV | ScatterV)
}

impl Case {
    /// Elements of the block from one rank for another; only `to` matters unless all exchange with all, and the first is then
    /// the same.
    fn block(&self, from: usize, to: usize) -> usize {
        if !has_uneven_blocks(self.collective) {
            return self.count;
        }
        let pair = match (self.collective, self.place) {
            // In place, what comes back is as long as what was sent.
            (Collective::AllToAllV, Place::Shared) => (from.min(to) * 100 + from.max(to)) as u64,
            (Collective::AllToAllV, _) => (from * 100 + to) as u64,
            _ => to as u64,
        };
        match mix(self.seed, pair) % 6 {
            0 => 0,
            1 => self.count / 2,
            2 => 2 * self.count + 1,
            _ => self.count,
        }
    }

    /// The blocks of a rank by its peers: those it sends, or receives.
    fn blocks(&self, rank: usize, n: usize, sent: bool) -> Blocks {
        let block = |peer| if sent { self.block(rank, peer) } else { self.block(peer, rank) };
        Blocks::dense(&(0..n).map(block).collect::<Vec<usize>>())
    }

    /// The block of each rank, in collectives in which it has one.
    fn parts(&self, n: usize) -> Blocks {
        self.blocks(0, n, true)
    }

    fn total(blocks: &Blocks) -> usize {
        blocks.counts.iter().sum()
    }

    /// Elements of a rank's input.
    fn input_len(&self, rank: usize, n: usize) -> usize {
        use Collective::*;
        let at_root = rank == self.root as usize;
        match self.collective {
            ReduceScatter | ReduceScatterV => Self::total(&self.parts(n)),
            AllToAll | AllToAllV => Self::total(&self.blocks(rank, n, true)),
            Scatter | ScatterV if at_root => Self::total(&self.parts(n)),
            Broadcast if at_root => self.count,
            Scatter | ScatterV | Broadcast => 0,
            AllGatherV | GatherV => self.parts(n).counts[rank],
            _ => self.count,
        }
    }

    /// Elements of a rank's output.
    fn output_len(&self, rank: usize, n: usize) -> usize {
        use Collective::*;
        let at_root = rank == self.root as usize;
        match self.collective {
            AllGather | AllGatherV => Self::total(&self.parts(n)),
            Gather | GatherV if at_root => Self::total(&self.parts(n)),
            Gather | GatherV => 0,
            Reduce if !at_root => 0,
            AllToAll | AllToAllV => Self::total(&self.blocks(rank, n, false)),
            ReduceScatter | ReduceScatterV | Scatter | ScatterV => self.parts(n).counts[rank],
            _ => self.count,
        }
    }

    /// The first elements of a rank's input; all others repeat them.
    fn pattern(&self, rank: usize, most: usize) -> Vec<u8> {
        let seed = mix(self.seed, rank as u64);
        (0..most.min(PERIOD))
            .flat_map(|i| values::element(self.dtype, self.op, mix(seed, i as u64)))
            .collect()
    }

    /// Elements of a rank's input.
    fn elements(&self, rank: usize, first: usize, count: usize) -> Vec<u8> {
        let (pattern, size) = (self.pattern(rank, first + count), self.dtype.size());
        let mut bytes = pattern[first % PERIOD * size..].to_vec();
        while bytes.len() < count * size {
            bytes.extend_from_slice(&pattern);
        }
        bytes.truncate(count * size);
        bytes
    }

    fn input(&self, rank: usize, n: usize) -> Vec<u8> {
        self.elements(rank, 0, self.input_len(rank, n))
    }

    /// What a rank has to get where nothing is reduced.
    fn moved(&self, rank: usize, n: usize) -> Vec<u8> {
        use Collective::*;
        let root = self.root as usize;
        let parts = self.parts(n);
        match self.collective {
            Broadcast => self.elements(root, 0, self.count),
            Scatter | ScatterV => self.elements(root, parts.offsets[rank], parts.counts[rank]),
            Gather | GatherV if rank != root => Vec::new(),
            AllToAll | AllToAllV => (0..n)
                .flat_map(|from| {
                    let sent = self.blocks(from, n, true);
                    self.elements(from, sent.offsets[rank], sent.counts[rank])
                })
                .collect(),
            _ => (0..n).flat_map(|from| self.elements(from, 0, parts.counts[from])).collect(),
        }
    }

    /// Checks a reduced vector whose first element is `first` in that of all ranks.
    fn check_reduced(&self, n: usize, op: ReduceOp, first: usize, got: &[u8], outcome: &Outcome) {
        let size = self.dtype.size();
        let patterns: Vec<Vec<u8>> =
            (0..n).map(|rank| self.pattern(rank, first + got.len() / size)).collect();
        let is_narrow = size < 4 && !self.dtype.is_complex();
        let rounding = match outcome.algorithm {
            "one-shot" | "two-shot" | "direct" if is_narrow => Rounding::Once,
            _ => Rounding::Each,
        };
        let mut wanted: Vec<Option<Wanted>> = (0..PERIOD).map(|_| None).collect();
        for (i, bytes) in got.chunks(size).enumerate() {
            let at = (first + i) % PERIOD;
            let of = || -> Vec<&[u8]> { patterns.iter().map(|p| &p[at * size..][..size]).collect() };
            let wanted = wanted[at].get_or_insert_with(|| values::reduce(self.dtype, op, &of(), rounding));
            assert!(
                wanted.is_met(self.dtype, bytes),
                "{self:?} by {}, element {i} of {}: {bytes:x?} instead of {} of {:x?}",
                outcome.algorithm,
                got.len() / size,
                wanted.text(),
                of()
            );
        }
    }

    /// Runs the case on this rank and checks what it gives. Returns a hash of what all ranks have to have alike.
    pub(crate) fn check(&self, here: &Here) -> u64 {
        let (rank, n) = (here.group.rank() as usize, here.group.size() as usize);
        let input = self.input(rank, n);
        let output = self.output_len(rank, n) * self.dtype.size();
        let (got, outcome) = match self.place {
            Place::Apart => self.run_apart(here, &input, output),
            _ => self.run_in_place(here, &input, output),
        };
        match self.op {
            Some(op) => {
                let first = match self.collective {
                    Collective::ReduceScatter | Collective::ReduceScatterV => self.parts(n).offsets[rank],
                    _ => 0,
                };
                self.check_reduced(n, op, first, &got, &outcome);
            }
            None => assert!(got == self.moved(rank, n), "{self:?} rank {rank}: not what was sent"),
        }
        let mut hasher = DefaultHasher::new();
        if self.collective == Collective::AllReduce {
            got.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn call(&self, rank: usize, n: usize, input: Segment, output: Segment) -> Call {
        use Collective::*;
        let (mut send, mut recv) = (Blocks::default(), Blocks::default());
        match self.collective {
            AllToAllV => (send, recv) = (self.blocks(rank, n, true), self.blocks(rank, n, false)),
            AllGatherV | GatherV => recv = self.parts(n),
            ReduceScatterV | ScatterV => send = self.parts(n),
            _ => {}
        }
        let count = if has_uneven_blocks(self.collective) { self.parts(n).counts[rank] } else { self.count };
        Call {
            collective: self.collective,
            dtype: self.dtype,
            count,
            peer: self.root,
            reduction: self.op.map(Reduction::Builtin),
            send,
            recv,
            input,
            output,
            options: CallOptions {
                tolerance: self.tolerance,
                algorithm: self.algorithm,
                ..CallOptions::default()
            },
            ..Call::EMPTY
        }
    }

    fn run(&self, here: &Here, input: Segment, output: Segment) -> Outcome {
        let (rank, n) = (here.group.rank() as usize, here.group.size() as usize);
        here.group.run(self.call(rank, n, input, output)).unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }

    /// Of registered source and target at least one; which, differs from rank to rank.
    fn registered(&self, here: &Here) -> (bool, bool) {
        let kind = mix(self.seed, 0x100 + u64::from(here.group.rank())) % 3;
        (here.registered && kind != 0, here.registered && kind != 1)
    }

    fn run_apart(&self, here: &Here, input: &[u8], output: usize) -> (Vec<u8>, Outcome) {
        let registered = self.registered(here);
        let source = here.memory.odd(registered.0, input);
        let target = here.memory.odd(registered.1, &vec![POISON; output]);
        let outcome = self.run(here, source.all(), target.all());
        assert!(source.all().bytes() == input, "{self:?}: the input changed");
        assert!(source.is_guarded() && target.is_guarded(), "{self:?}: something was written outside");
        (target.all().bytes().to_vec(), outcome)
    }

    /// Lengths in bytes of the longest input and output of any rank, which the root has.
    fn lengths_at_root(&self, n: usize) -> (usize, usize) {
        let (block, all) = (self.count * self.dtype.size(), Self::total(&self.parts(n)) * self.dtype.size());
        match self.collective {
            Collective::Gather => (block, all),
            Collective::Scatter => (all, block),
            _ => (block, block),
        }
    }

    /// Returns the output. Nothing else in the memory may change.
    fn run_in_place(&self, here: &Here, input: &[u8], output: usize) -> (Vec<u8>, Outcome) {
        use Collective::*;
        let (rank, n) = (here.group.rank() as usize, here.group.size() as usize);
        let (named_input, named_output) = match self.place {
            Place::NamedByAll => self.lengths_at_root(n),
            _ => (input.len(), output),
        };
        let own = self.parts(n).offsets[rank] * self.dtype.size();
        // Where a rank has the whole vector, the other side is its own block of it.
        let (from, to) = match self.collective {
            AllGather | AllGatherV | Gather | GatherV if named_output > 0 => (own, 0),
            ReduceScatter | ReduceScatterV | Scatter | ScatterV if named_input > 0 => (0, own),
            _ => (0, 0),
        };
        let len = (from + named_input).max(to + named_output);
        let memory = here.memory.odd(self.registered(here).0, &vec![POISON; len]);
        memory.part(from, input.len()).fill_from(input);
        let mut wanted = memory.all().bytes().to_vec();
        let outcome = self.run(here, memory.part(from, named_input), memory.part(to, named_output));
        let got = memory.part(to, output).bytes().to_vec();
        wanted[to..to + output].copy_from_slice(&got);
        let same = memory.all().bytes() == wanted && memory.is_guarded();
        assert!(same, "{self:?} rank {rank}: more than the output changed");
        (got, outcome)
    }
}
