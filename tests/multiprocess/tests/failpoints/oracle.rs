//! What ranks bring to a call, and what has to come of it.

use crate::case::{ROOT, Setup};
use ronde::{Collective, DType, Outcome, Part, Segment};
use ronde_core::memory::{Access, Arena};
use std::ops::Range;

/// A number for a rank and a place (the mix of SplitMix64).
fn mix(rank: u32, i: usize) -> u64 {
    let mut z = (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i as u64) << 8;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Of both signs, and with so many digits that sums are rounded.
fn float(rank: u32, i: usize) -> f32 {
    (mix(rank, i) >> 40) as f32 / 4096.0 - 2048.0
}

fn encode(dtype: DType, rank: u32, elements: Range<usize>) -> Vec<u8> {
    match dtype {
        DType::F32 => elements.flat_map(|i| float(rank, i).to_le_bytes()).collect(),
        _ => elements.flat_map(|i| mix(rank, i).to_le_bytes()).collect(),
    }
}

/// The sum over these ranks, in their order.
fn sum(dtype: DType, ranks: &[u32], elements: Range<usize>) -> Vec<u8> {
    let Some((&first, rest)) = ranks.split_first() else { return Vec::new() };
    let floats = |i| rest.iter().fold(float(first, i), |sum, &rank| sum + float(rank, i)).to_le_bytes();
    let whole =
        |i| rest.iter().fold(mix(first, i), |sum, &rank| sum.wrapping_add(mix(rank, i))).to_le_bytes();
    match dtype {
        DType::F32 => elements.flat_map(floats).collect(),
        _ => elements.flat_map(whole).collect(),
    }
}

/// A call seen from one rank.
pub(crate) struct Oracle<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) rank: u32,
    pub(crate) ranks: u32,
}

impl Oracle<'_> {
    /// Elements of the input and of the output.
    fn lengths(&self) -> (usize, usize) {
        use Collective::*;
        let (one, all) = (self.setup.count, self.setup.count * self.ranks as usize);
        let at_root = |elements| if self.rank == ROOT { elements } else { 0 };
        match self.setup.collective {
            AllReduce => (one, one),
            Reduce => (one, at_root(one)),
            Broadcast => (at_root(one), one),
            AllGather => (one, all),
            ReduceScatter => (all, one),
            AllToAll => (all, all),
            Gather => (one, at_root(all)),
            Scatter => (at_root(all), one),
            Send if self.partner().is_none() => (0, 0),
            Send if self.rank.is_multiple_of(2) => (one, 0),
            Send => (0, one),
            _ => (0, 0),
        }
    }

    /// The other side of a message.
    pub(crate) fn partner(&self) -> Option<u32> {
        let partner = self.rank ^ 1;
        (partner < self.ranks).then_some(partner)
    }

    pub(crate) fn input(&self) -> Vec<u8> {
        encode(self.setup.dtype, self.rank, 0..self.lengths().0)
    }

    /// Which bytes of the output, in order, belong to whoever is absent; blocks that touch are one.
    pub(crate) fn holes(&self, outcome: &Outcome) -> Vec<Range<usize>> {
        use Collective::*;
        let bytes = self.setup.count * self.setup.dtype.size();
        let has_blocks = match self.setup.collective {
            AllGather | AllToAll => true,
            Gather => self.rank == ROOT,
            _ => false,
        };
        let all = if has_blocks { bytes * self.ranks as usize } else { 0 };
        let is_absent = |at: &usize| outcome.absent.contains(&((at / bytes) as u32));
        let mut holes: Vec<Range<usize>> = Vec::new();
        for at in (0..all).filter(is_absent) {
            match holes.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => holes.push(at..at + 1),
            }
        }
        holes
    }

    /// What has to be where in the output, in bytes; the blocks of the lost may hold anything.
    pub(crate) fn expected(&self, outcome: &Outcome) -> Vec<(usize, Vec<u8>)> {
        use Collective::*;
        let Setup { collective, dtype, count, .. } = *self.setup;
        let present =
            |absent: &[u32]| (0..self.ranks).filter(|rank| !absent.contains(rank)).collect::<Vec<_>>();
        let here = present(&outcome.absent);
        let own = self.rank as usize * count..(self.rank as usize + 1) * count;
        let blocks = |of: Range<usize>| {
            let block = |&rank: &u32| (rank as usize * count * dtype.size(), encode(dtype, rank, of.clone()));
            here.iter().map(block).collect()
        };
        match collective {
            AllReduce if !outcome.parts.is_empty() => {
                let part = |part: &Part| {
                    let bytes = sum(dtype, &present(&part.absent), part.elements.clone());
                    (part.elements.start * dtype.size(), bytes)
                };
                outcome.parts.iter().map(part).collect()
            }
            AllReduce => vec![(0, sum(dtype, &here, 0..count))],
            Reduce if self.rank == ROOT => vec![(0, sum(dtype, &here, 0..count))],
            ReduceScatter => vec![(0, sum(dtype, &here, own))],
            Broadcast => vec![(0, encode(dtype, ROOT, 0..count))],
            Scatter => vec![(0, encode(dtype, ROOT, own))],
            AllGather => blocks(0..count),
            Gather if self.rank == ROOT => blocks(0..count),
            AllToAll => blocks(own),
            Send if self.rank % 2 == 1 => vec![(0, encode(dtype, self.rank - 1, 0..count))],
            _ => Vec::new(),
        }
    }
}

/// What a caller writes over its buffers as soon as a call has returned.
const OVERWRITTEN: u8 = 0x5c;

/// The buffers of one call.
pub(crate) struct Buffers {
    pub(crate) input: Segment,
    pub(crate) output: Segment,
    arenas: Vec<Arena>,
}

impl Buffers {
    pub(crate) fn of(oracle: &Oracle<'_>, in_place: bool) -> Buffers {
        use Collective::*;
        let size = oracle.setup.dtype.size();
        let (input, output) = oracle.lengths();
        let (input, output) = (input * size, output * size);
        let own = oracle.rank as usize * oracle.setup.count * size;
        let buffers = if in_place {
            let arena = Arena::new(input.max(output));
            let (from, to) = match oracle.setup.collective {
                AllGather => (own, 0),
                Gather if output > 0 => (own, 0),
                ReduceScatter => (0, own),
                Scatter if input > 0 => (0, own),
                _ => (0, 0),
            };
            let (input, output) = (arena.segment(from, input), arena.segment(to, output));
            Buffers { input, output, arenas: vec![arena] }
        } else {
            let arenas = vec![Arena::new(input), Arena::new(output)];
            Buffers { input: arenas[0].segment(0, input), output: arenas[1].segment(0, output), arenas }
        };
        buffers.input.fill_from(&oracle.input());
        buffers
    }

    fn all(&self) -> impl Iterator<Item = Segment> {
        self.arenas.iter().map(|arena| arena.segment(0, arena.len()))
    }

    pub(crate) fn overwrite(&self) {
        self.all().for_each(|mut bytes| bytes.bytes_mut().fill(OVERWRITTEN));
    }

    /// Nothing was written since they were overwritten.
    pub(crate) fn are_untouched(&self) -> bool {
        self.all().all(|bytes| bytes.bytes().iter().all(|&byte| byte == OVERWRITTEN))
    }
}
