//! Random collectives with their memory and an oracle that knows who contributed.

use crate::blocks::Layout;
use crate::case::{Memory, POISON, values_of};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_algorithms::{Algorithm, algorithms_for};
use ronde_core::call::{Blocks, Call, CallOptions};
use ronde_core::error::{Error, Hole, Outcome};
use ronde_core::memory::Access;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Result, Segment, Tag, Tolerance};
use serde::{Deserialize, Serialize};

/// What a call that reduces makes of its inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Reduces {
    Sum,
    Avg,
    WeightedAvg,
}

/// What a call is, without its elements.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct OpSpec {
    pub(crate) collective: Collective,
    pub(crate) algorithm: Option<String>,
    pub(crate) tolerance: Tolerance,
    /// Of uneven calls, about the elements of a block.
    pub(crate) count: usize,
    /// Taken modulo the number of ranks.
    pub(crate) root: usize,
    pub(crate) in_place: bool,
    pub(crate) tag: u32,
    pub(crate) reduces: Reduces,
    /// Ops of one tag that follow each other with the same number here make a commit group.
    #[serde(default)]
    pub(crate) commit_group: Option<u8>,
    #[serde(default)]
    pub(crate) strict_commit: bool,
}

impl OpSpec {
    /// Of few elements, some more, or up to `most`.
    pub(crate) fn draw(rng: &mut SmallRng, world: usize, most: usize) -> OpSpec {
        let collective = match rng.random() {
            true => Collective::AllReduce,
            false => KINDS[rng.random_range(0..KINDS.len())],
        };
        let known = algorithms_for(collective);
        let named = rng.random_ratio(1, 4).then(|| known[rng.random_range(0..known.len())]);
        let count = match rng.random_range(0..3) {
            0 => rng.random_range(0..3),
            1 => rng.random_range(0..most.div_ceil(10)),
            _ => rng.random_range(0..most),
        };
        let tolerance = match rng.random_range(0..10) {
            0 => Tolerance::None,
            1..4 => Tolerance::PerWindow,
            _ => Tolerance::Recover,
        };
        OpSpec {
            collective,
            algorithm: named.map(|algorithm| algorithm.name().to_string()),
            tolerance,
            count,
            root: rng.random_range(0..world),
            in_place: rng.random(),
            tag: rng.random_range(0..2),
            reduces: match rng.random_range(0..5) {
                0 => Reduces::Avg,
                1 => Reduces::WeightedAvg,
                _ => Reduces::Sum,
            },
            commit_group: None,
            strict_commit: false,
        }
    }

    /// Makes commit groups of some ops, and lets some commit strictly. Everything else stays as it was drawn.
    pub(crate) fn draw_commits(seed: u64, ops: &mut [OpSpec]) {
        use Collective::{AllGather, AllGatherV, AllReduce, AllToAll, ReduceScatter, ReduceScatterV};
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xc0_3317);
        ops.iter_mut().for_each(|op| op.strict_commit = rng.random_ratio(1, 4));
        for number in 0..rng.random_range(0..3) {
            let tag = rng.random_range(0..2);
            let from = rng.random_range(0..ops.len());
            for op in ops.iter_mut().skip(from).take(rng.random_range(1..7)) {
                let known = matches!(
                    op.collective,
                    AllReduce | AllGather | AllGatherV | ReduceScatter | ReduceScatterV | AllToAll
                );
                if known {
                    (op.tag, op.tolerance, op.commit_group) = (tag, Tolerance::Recover, Some(number));
                }
            }
        }
    }

    /// Less of it, the simplest first.
    pub(crate) fn simpler(&self) -> Vec<OpSpec> {
        let mut all: Vec<OpSpec> =
            [0, 1, self.count / 2].map(|count| OpSpec { count, ..self.clone() }).to_vec();
        all.push(OpSpec { in_place: false, ..self.clone() });
        all.push(OpSpec { tag: 0, ..self.clone() });
        all.push(OpSpec { algorithm: None, ..self.clone() });
        all.push(OpSpec { tolerance: Tolerance::Recover, ..self.clone() });
        all.push(OpSpec { root: 0, ..self.clone() });
        all.push(OpSpec { reduces: Reduces::Sum, ..self.clone() });
        all.push(OpSpec { commit_group: None, ..self.clone() });
        all.push(OpSpec { strict_commit: false, ..self.clone() });
        all.retain(|spec| spec != self && spec.count <= self.count);
        all
    }
}

/// Lists of ops in which one is simpler.
pub(crate) fn with_one_simpler(ops: &[OpSpec]) -> Vec<Vec<OpSpec>> {
    let of = |at: usize, op: OpSpec| {
        let mut less = ops.to_vec();
        less[at] = op;
        less
    };
    ops.iter().enumerate().flat_map(|(at, op)| op.simpler().into_iter().map(move |op| of(at, op))).collect()
}

/// One call on all ranks.
pub(crate) struct Op {
    pub(crate) collective: Collective,
    algorithm: Option<&'static str>,
    count: usize,
    pub(crate) root: usize,
    in_place: bool,
    tolerance: Tolerance,
    pub(crate) tag: u32,
    pub(crate) commit_group: Option<u8>,
    strict_commit: bool,
    reduction: ReduceOp,
    /// By rank, of a weighted average, whose inputs are multiplied by them already.
    weights: Option<Vec<u32>>,
    blocks: Layout,
    inputs: Vec<Vec<u64>>,
    sources: Vec<Memory>,
    outputs: Vec<Memory>,
}

/// What became of an op.
pub(crate) enum Told {
    /// Nobody who lives has an answer.
    Nothing,
    /// It was done without these ranks; the contributors are the same for the whole vector or differ from part to
    /// part.
    Done { absent: Vec<u32>, in_parts: bool },
    /// A loss ended it, at least for some.
    Lost(String),
}

const KINDS: [Collective; 14] = [
    Collective::AllReduce,
    Collective::ReduceScatter,
    Collective::AllGather,
    Collective::AllToAll,
    Collective::Broadcast,
    Collective::Reduce,
    Collective::Gather,
    Collective::Scatter,
    Collective::Barrier,
    Collective::AllGatherV,
    Collective::ReduceScatterV,
    Collective::AllToAllV,
    Collective::GatherV,
    Collective::ScatterV,
];

impl Op {
    /// With random elements.
    pub(crate) fn new(spec: &OpSpec, world: usize, rng: &mut SmallRng) -> Op {
        use Collective::*;
        let OpSpec { collective, count, in_place, tolerance, tag, commit_group, strict_commit, .. } = *spec;
        let blocks = Layout::draw(collective, count, world, in_place, rng);
        let sizes = |rank: usize| match collective {
            AllReduce | Reduce | Broadcast => (count, count),
            Barrier => (0, 0),
            _ => blocks.sizes(rank),
        };
        let inputs: Vec<Vec<u64>> =
            (0..world).map(|rank| (0..sizes(rank).0).map(|_| rng.random()).collect()).collect();
        let sources: Vec<Memory> = inputs.iter().map(|values| Memory::new(values)).collect();
        let outputs: Vec<Memory> = (0..world).map(|rank| Memory::new(&vec![POISON; sizes(rank).1])).collect();
        let algorithm = spec.algorithm.as_deref().and_then(Algorithm::from_name).map(Algorithm::name);
        let root = spec.root % world;
        let reduction = if spec.reduces == Reduces::Sum { ReduceOp::Sum } else { ReduceOp::Avg };
        let weigh = || (0..world).map(|_| rng.random_range(1..1000)).collect();
        let weights = (spec.reduces == Reduces::WeightedAvg).then(weigh);
        let op = Op {
            collective,
            algorithm,
            count,
            root,
            in_place,
            tolerance,
            tag,
            commit_group,
            strict_commit,
            reduction,
            weights,
            blocks,
            inputs,
            sources,
            outputs,
        };
        if in_place && matches!(collective, AllGather | AllGatherV | Gather | GatherV) {
            for rank in 0..world {
                op.sources[rank].segment().copy_to(&op.own_block(&op.outputs[rank], &op.blocks.recv, rank));
            }
        }
        op
    }

    fn own_block(&self, memory: &Memory, blocks: &[Blocks], rank: usize) -> Segment {
        memory.segment().slice(blocks[rank].offsets[rank] * 8, self.blocks.own(rank) * 8)
    }

    fn is_root(&self, rank: usize) -> bool {
        self.collective.has_root() && rank == self.root
    }

    /// Input and output of a rank, whether or not its call has both.
    fn memory(&self, rank: usize) -> (Segment, Segment) {
        use Collective::*;
        let (source, output) = (&self.sources[rank], &self.outputs[rank]);
        let Layout { send, recv, .. } = &self.blocks;
        match self.collective {
            AllReduce | AllToAll | AllToAllV | Broadcast | Reduce if self.in_place => {
                (source.segment(), source.segment())
            }
            AllGather | AllGatherV if self.in_place => (self.own_block(output, recv, rank), output.segment()),
            Gather | GatherV if self.in_place && self.is_root(rank) => {
                (self.own_block(output, recv, rank), output.segment())
            }
            ReduceScatter | ReduceScatterV if self.in_place => {
                (source.segment(), self.own_block(source, send, rank))
            }
            Scatter | ScatterV if self.in_place && self.is_root(rank) => {
                (source.segment(), self.own_block(source, send, rank))
            }
            _ => (source.segment(), output.segment()),
        }
    }

    pub(crate) fn call(&self, rank: usize) -> Call {
        use Collective::*;
        let (input, output) = self.memory(rank);
        let at_root = rank == self.root;
        let rooted = self.collective.has_root();
        let sends = !rooted || at_root || matches!(self.collective, Reduce | Gather | GatherV);
        let receives = !rooted || at_root || matches!(self.collective, Broadcast | Scatter | ScatterV);
        let (send, recv) = self.blocks.said(rank, at_root);
        let count = match self.collective {
            AllToAllV => 0,
            collective if collective.is_uneven() => self.blocks.own(rank),
            _ => self.count,
        };
        let (tag, tolerance, algorithm) = (Tag(self.tag), self.tolerance, self.algorithm);
        let strict_commit = self.strict_commit;
        Call {
            collective: self.collective,
            dtype: DType::U64,
            count,
            peer: if rooted { self.root as u32 } else { 0 },
            reduction: self.collective.reduces().then(|| self.reduction(rank)),
            input: if sends { input } else { Segment::EMPTY },
            output: if receives { output } else { Segment::EMPTY },
            send,
            recv,
            options: CallOptions { tag, tolerance, algorithm, strict_commit, ..CallOptions::default() },
            ..Call::EMPTY
        }
    }

    fn reduction(&self, rank: usize) -> Reduction {
        match &self.weights {
            Some(weights) => Reduction::WeightedAvg(f64::from(weights[rank])),
            None => Reduction::Builtin(self.reduction),
        }
    }

    /// Element `i` of what these ranks make together.
    fn reduced(&self, here: &[usize], i: usize) -> u64 {
        self.reduced_at(here, |_| i)
    }

    /// The same of an element that each rank has somewhere else.
    fn reduced_at(&self, here: &[usize], at: impl Fn(usize) -> usize) -> u64 {
        let sum = here.iter().fold(0u64, |sum, &r| sum.wrapping_add(self.inputs[r][at(r)]));
        match (&self.weights, self.reduction) {
            (Some(weights), _) => sum / here.iter().map(|&r| u64::from(weights[r])).sum::<u64>(),
            (None, ReduceOp::Avg) => sum / here.len() as u64,
            _ => sum,
        }
    }

    /// No loss is tolerated.
    pub(crate) fn is_strict(&self) -> bool {
        self.tolerance == Tolerance::None
    }

    /// What one rank was told to be done is so for all, whatever becomes of that rank.
    pub(crate) fn is_certain(&self, world: usize) -> bool {
        use Collective::{AllGather, AllReduce, AllToAll, Barrier, ReduceScatter};
        let needs_no_done = match self.collective {
            AllReduce | AllGather | Barrier => true,
            ReduceScatter | AllToAll => world == 2,
            _ => false,
        };
        !self.is_strict() && (self.strict_commit || self.commit_group.is_some() || !needs_no_done)
    }

    /// Everybody was told the same: who contributed and who did not, or which loss ended it. Where no loss is
    /// tolerated some may be done before others hear of one, who all hear of the same.
    pub(crate) fn check_agreement(&self, told: &[&Result<Outcome>], what: &str) -> Told {
        let done = told.iter().filter_map(|told| told.as_ref().ok());
        // Those that tolerate no loss name the view in which each of them began.
        let epoch = |o: &Outcome| (!self.is_strict()).then_some(o.epoch);
        let mut done = done.map(|o| (epoch(o), o.contributors, &o.absent[..], &o.parts[..]));
        let mut failed = told.iter().filter_map(|told| told.as_ref().err()).map(Error::to_string);
        let (first_done, first_failed) = (done.next(), failed.next());
        assert!(done.all(|other| Some(other) == first_done), "{what}: {told:?}");
        assert!(failed.all(|other| Some(&other) == first_failed.as_ref()), "{what}: {told:?}");
        assert!(self.is_strict() || first_done.is_none() || first_failed.is_none(), "{what}: {told:?}");
        match (first_failed, first_done) {
            (Some(error), _) => Told::Lost(error),
            (None, Some((.., absent, parts))) => {
                assert!(!self.is_strict() || absent.is_empty(), "{what}: done without {absent:?}");
                Told::Done { absent: absent.to_vec(), in_parts: !parts.is_empty() }
            }
            (None, None) => Told::Nothing,
        }
    }

    /// An error names somebody who is gone and without whom the op cannot be carried out. `members` are processes by
    /// rank.
    pub(crate) fn check_loss(
        &self,
        error: &str,
        members: &[usize],
        is_gone: &dyn Fn(usize) -> bool,
        what: &str,
    ) {
        let root = self.collective.has_root().then_some(self.root);
        let is_named = |rank: usize, process: usize| {
            error.contains(&format!("peer {rank} ")) && error.contains(&format!("host host-{process},"))
        };
        let ends = |(rank, &process): (usize, &usize)| {
            (self.is_strict() || root == Some(rank)) && is_gone(process) && is_named(rank, process)
        };
        assert!(members.iter().enumerate().any(ends), "{what}: {error}");
    }

    /// It has ended by agreement: what a rank gave is as it was. Windows that were final by then stay what they are; a call that
    /// tolerates no loss keeps nothing of what it overwrites.
    pub(crate) fn check_untouched(&self, rank: usize, what: &str) {
        if self.is_strict() || self.tolerance == Tolerance::PerWindow {
            return;
        }
        let given = self.call(rank).input;
        let is_sub = given.len() < self.inputs[rank].len() * 8;
        assert!(is_sub || values_of(&given) == self.inputs[rank], "{what}: rank {rank} has another input");
    }

    /// Checks a vector whose parts have contributors of their own.
    fn check_parts(&self, rank: usize, outcome: &Outcome, what: &str) {
        assert_eq!(
            (self.collective, self.tolerance),
            (Collective::AllReduce, Tolerance::PerWindow),
            "{what}"
        );
        let got = values_of(&self.memory(rank).1);
        let mut end = 0;
        for part in &outcome.parts {
            assert_eq!(part.elements.start, end, "{what}: {:?}", outcome.parts);
            end = part.elements.end;
            let here: Vec<usize> =
                (0..self.inputs.len()).filter(|&r| !part.absent.contains(&(r as u32))).collect();
            assert_eq!(here.len(), part.contributors as usize, "{what}");
            for (i, &got) in got.iter().enumerate().take(end).skip(part.elements.start) {
                assert_eq!(got, self.reduced(&here, i), "{what}: element {i} of {part:?}");
            }
        }
        assert_eq!(end, self.count, "{what}: {:?}", outcome.parts);
        assert!(outcome.holes.is_empty(), "{what}: {:?}", outcome.holes);
        let last = outcome.parts.last().expect("parts");
        assert_eq!((last.contributors, &last.absent), (outcome.contributors, &outcome.absent), "{what}");
        if !self.in_place {
            assert!(self.sources[rank].values() == self.inputs[rank], "{what}: the input changed");
        }
    }

    /// By element of what a rank gets block by block, whose block it is in.
    fn owners(&self, rank: usize) -> Vec<Option<usize>> {
        use Collective::*;
        match self.collective {
            AllGather | AllGatherV | AllToAll | AllToAllV => self.blocks.owners(rank),
            Gather | GatherV if rank == self.root => self.blocks.owners(rank),
            _ => Vec::new(),
        }
    }

    /// The holes are what the absent did not give, element by element, and no two of them touch. `number` is that of the call
    /// in its commit group.
    fn check_holes(&self, rank: usize, outcome: &Outcome, number: usize, what: &str) {
        let (owners, holes) = (self.owners(rank), &outcome.holes);
        let mut is_hole = vec![false; owners.len()];
        let mut end = None;
        for Hole { bytes, .. } in holes.iter().filter(|hole| hole.call == number) {
            assert!(bytes.start % 8 == 0 && bytes.end % 8 == 0, "{what}: part of an element: {holes:?}");
            assert!(!bytes.is_empty() && end < Some(bytes.start), "{what}: not in order, or one: {holes:?}");
            assert!(bytes.end <= 8 * owners.len(), "{what}: past the end: {holes:?}");
            is_hole[bytes.start / 8..bytes.end / 8].fill(true);
            end = Some(bytes.end);
        }
        for (at, owner) in owners.into_iter().enumerate() {
            let is_absent = owner.is_some_and(|owner| outcome.absent.contains(&(owner as u32)));
            assert_eq!(is_hole[at], is_absent, "{what}: element {at} of {owner:?}, {holes:?}");
        }
    }

    /// Checks what a rank got against the inputs of those who are said to have contributed. `number` is that of the call in
    /// its commit group.
    pub(crate) fn check<'a>(&'a self, rank: usize, outcome: &Outcome, number: usize, what: &str) {
        use Collective::*;
        let world = self.inputs.len();
        let here: Vec<usize> = (0..world).filter(|&r| !outcome.absent.contains(&(r as u32))).collect();
        assert_eq!(here.len(), outcome.contributors as usize, "{what}");
        let c = self.count;
        let alone = self.commit_group.is_none();
        if let (Some(weights), AllReduce, 1.., true) = (&self.weights, self.collective, c, alone) {
            let sum: u32 = here.iter().map(|&r| weights[r]).sum();
            assert_eq!(outcome.weight, Some(f64::from(sum)), "{what}");
        }
        if !outcome.parts.is_empty() {
            return self.check_parts(rank, outcome, what);
        }
        self.check_holes(rank, outcome, number, what);
        let got = values_of(&self.memory(rank).1);
        let sum = |i: usize| self.reduced(&here, i);
        let at_root = rank == self.root;
        let same = |got: &[u64], expected: &[u64], which: &dyn std::fmt::Display| {
            let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
            assert!(
                got.len() == expected.len() && differs.is_none(),
                "{what}{which}: wrong from {differs:?} on"
            );
        };
        // What a rank gave to another.
        let given = |from: usize, to: usize| {
            let (start, count) = (self.blocks.send[from].offsets[to], self.blocks.send[from].counts[to]);
            &self.inputs[from][start..start + count]
        };
        let blocks = |expected: &dyn Fn(usize) -> &'a [u64]| {
            let recv = &self.blocks.recv[rank];
            for &r in &here {
                let (start, count) = (recv.offsets[r], recv.counts[r]);
                same(&got[start..start + count], expected(r), &format!(": block of {r}"));
            }
            let poisoned = self.memory(rank).1.as_ptr() == self.outputs[rank].segment().as_ptr();
            let is_gap = |(_, owner): &(usize, Option<usize>)| poisoned && owner.is_none();
            let mut gaps = self.blocks.owners(rank).into_iter().enumerate().filter(is_gap);
            assert!(gaps.all(|(at, _)| got[at] == POISON), "{what}: written between the blocks");
        };
        match self.collective {
            AllReduce => same(&got, &(0..c).map(sum).collect::<Vec<_>>(), &""),
            Reduce if at_root => same(&got, &(0..c).map(sum).collect::<Vec<_>>(), &""),
            ReduceScatter | ReduceScatterV => {
                let sum = |i| self.reduced_at(&here, |r| self.blocks.send[r].offsets[rank] + i);
                same(&got, &(0..self.blocks.own(rank)).map(sum).collect::<Vec<_>>(), &"");
            }
            Broadcast => same(&got, &self.inputs[self.root], &""),
            Scatter | ScatterV => same(&got, given(self.root, rank), &""),
            AllGather | AllGatherV => blocks(&|r| &self.inputs[r]),
            Gather | GatherV if at_root => blocks(&|r| &self.inputs[r]),
            AllToAll | AllToAllV => blocks(&|r| given(r, rank)),
            _ => {}
        }
        if !self.in_place {
            same(&self.sources[rank].values(), &self.inputs[rank], &": the input changed");
        }
    }
}
