//! Which bytes of an output hold anything, since whoever was to give them is lost.

use crate::Collective;
use crate::call::{Blocks, Call};
use crate::error::Hole;
use crate::planted::{self, Bug};
use std::ops::Range;

/// The holes in the output of the rank `me`, in order, if these ranks are absent. They follow from call and contributors alone,
/// however the result came about: nothing is sent for them.
pub(super) fn holes(call: &Call, me: usize, absent: &[u32]) -> Vec<Hole> {
    use Collective::*;
    let at_root = call.peer as usize == me;
    match call.collective {
        AllGather | AllToAll => joined(call, absent, |rank| Some((rank * call.count, call.count))),
        Gather if at_root => joined(call, absent, |rank| Some((rank * call.count, call.count))),
        AllGatherV | AllToAllV => joined(call, absent, |rank| block(&call.recv, rank)),
        GatherV if at_root => joined(call, absent, |rank| block(&call.recv, rank)),
        Gather | GatherV => Vec::new(),
        // What is reduced lacks the lost in every element alike, the rest comes from one rank and is whole.
        AllReduce | Reduce | ReduceScatter | ReduceScatterV | Broadcast | Scatter | ScatterV => Vec::new(),
        Barrier | Send | Recv | Commit => Vec::new(),
    }
}

/// First element and number of elements of a rank's block.
fn block(blocks: &Blocks, rank: usize) -> Option<(usize, usize)> {
    Some((*blocks.offsets.get(rank)?, *blocks.counts.get(rank)?))
}

/// Puts ranges in order, those that touch as one.
pub(super) fn merge(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

/// Blocks of the absent in bytes, without empty ones, those that touch as one.
fn joined(call: &Call, absent: &[u32], block: impl Fn(usize) -> Option<(usize, usize)>) -> Vec<Hole> {
    let size = call.dtype.size();
    let blocks = absent.iter().filter_map(|&rank| block(rank as usize)).filter(|(_, count)| *count > 0);
    let mut holes: Vec<Range<usize>> =
        blocks.map(|(first, count)| first * size..(first + count) * size).collect();
    // Blocks lie where the caller put them.
    merge(&mut holes);
    let most = if planted::has(Bug::OnlyOneHoleIsSaid) { 1 } else { usize::MAX };
    holes.into_iter().take(most).map(|bytes| Hole { call: 0, bytes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    /// Numbers that look random.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end
        }
    }

    /// Blocks in any order, some empty, some with gaps between them.
    fn draw_blocks(draw: &mut Draw, world: usize) -> Blocks {
        let mut blocks = Blocks { counts: vec![0; world], offsets: vec![0; world] };
        let mut ranks: Vec<usize> = (0..world).collect();
        let mut end = 0;
        while !ranks.is_empty() {
            let rank = ranks.swap_remove(draw.below(ranks.len()));
            end += draw.below(3) / 2;
            (blocks.offsets[rank], blocks.counts[rank]) = (end, draw.below(4));
            end += blocks.counts[rank];
        }
        blocks
    }

    /// Of each byte of the output, whose it is; nobody's where nobody writes, or where what several gave is combined.
    fn owners(call: &Call, me: usize, world: usize) -> Vec<Option<u32>> {
        use Collective::*;
        let (even, size) = (Blocks::dense(&vec![call.count; world]), call.dtype.size());
        let has_blocks = match call.collective {
            AllGather | AllGatherV | AllToAll | AllToAllV => true,
            Gather | GatherV => me == call.peer as usize,
            _ => false,
        };
        let blocks = if call.collective.is_uneven() { &call.recv } else { &even };
        let mut owners = vec![None; 100 * size];
        for rank in (0..world).filter(|_| has_blocks) {
            let first = blocks.offsets[rank] * size;
            owners[first..first + blocks.counts[rank] * size].fill(Some(rank as u32));
        }
        owners
    }

    /// Byte by byte: it is in a hole exactly if it is of somebody who is absent, and holes do not touch.
    #[test]
    fn each_byte_is_in_a_hole_or_somebodys() {
        let mut draw = Draw(1);
        let (mut with, mut apart) = (0, 0);
        for round in 0..20_000 {
            let collective = Collective::ALL[draw.below(Collective::ALL.len())];
            let (world, me) = (1 + draw.below(7), draw.below(7));
            let me = me % world;
            let dtype = [DType::U8, DType::F32, DType::C128][draw.below(3)];
            let count = draw.below(4);
            let recv = draw_blocks(&mut draw, world);
            let peer = draw.below(world) as u32;
            let call = Call { collective, dtype, count, peer, recv, ..Call::EMPTY };
            let mut absent: Vec<u32> = (0..world as u32).filter(|&rank| rank as usize != me).collect();
            absent.retain(|_| draw.below(2) == 0);
            let holes = holes(&call, me, &absent);
            let what = format!("round {round}, rank {me} without {absent:?}: {call:?} {holes:?}");
            for (at, owner) in owners(&call, me, world).into_iter().enumerate() {
                let is_hole = holes.iter().any(|hole| hole.bytes.contains(&at));
                assert_eq!(is_hole, owner.is_some_and(|owner| absent.contains(&owner)), "byte {at}, {what}");
            }
            assert!(holes.iter().all(|hole| hole.call == 0 && !hole.bytes.is_empty()), "{what}");
            assert!(holes.windows(2).all(|two| two[0].bytes.end < two[1].bytes.start), "{what}");
            with += usize::from(!holes.is_empty());
            apart += usize::from(holes.len() > 1);
        }
        assert!(with > 2000 && apart > 500, "{with} with holes, {apart} with several");
    }

    #[test]
    fn without_losses_nothing_is_allocated() {
        let call = Call { collective: Collective::AllGather, count: 10, ..Call::EMPTY };
        assert_eq!(holes(&call, 0, &[]).capacity(), 0);
    }
}
