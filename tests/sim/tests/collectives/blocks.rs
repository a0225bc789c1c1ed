//! Which blocks of its vectors each rank gives to each other and takes from it.

use rand::Rng;
use rand::rngs::SmallRng;
use ronde_core::Collective;
use ronde_core::call::Blocks;

/// The blocks of all ranks. Even calls have them too: all of one length, without gaps.
pub(crate) struct Layout {
    collective: Collective,
    /// By rank: its blocks for the others, in the vector that it sends from.
    pub(crate) send: Vec<Blocks>,
    /// By rank: where the blocks of the others go.
    pub(crate) recv: Vec<Blocks>,
}

impl Layout {
    /// Of blocks that have `count` elements or, in uneven calls, about so many.
    pub(crate) fn draw(
        collective: Collective,
        count: usize,
        world: usize,
        in_place: bool,
        rng: &mut SmallRng,
    ) -> Layout {
        use Collective::*;
        let uneven = collective.is_uneven();
        let mut list = |own: bool| -> Vec<usize> {
            (0..world).map(|_| if uneven && own { draw_block(rng, count, world) } else { count }).collect()
        };
        // By the rank that gives and the one that takes.
        let mut counts: Vec<Vec<usize>> = match collective {
            AllGatherV | GatherV => list(true).into_iter().map(|own| vec![own; world]).collect(),
            ReduceScatterV | ScatterV => vec![list(true); world],
            _ => (0..world).map(|_| list(collective == AllToAllV)).collect(),
        };
        // In place what leaves makes room for what comes.
        let swaps = collective == AllToAllV && in_place;
        if swaps {
            let above = counts.clone();
            let pairs = (0..world).flat_map(|from| (0..from).map(move |to| (from, to)));
            pairs.for_each(|(from, to)| counts[from][to] = above[to][from]);
        }
        let column = |rank: usize| counts.iter().map(|row| row[rank]).collect::<Vec<_>>();
        let mut spread =
            |counts: &[usize]| if uneven { with_gaps(counts, rng) } else { Blocks::dense(counts) };
        let send: Vec<Blocks> = counts.iter().map(|row| spread(row)).collect();
        let recv = match swaps {
            true => send.clone(),
            false => (0..world).map(|rank| spread(&column(rank))).collect(),
        };
        Layout { collective, send, recv }
    }

    /// Elements of a rank's block for itself: of its whole input where all take the same of it, of its whole output
    /// where it takes but one block.
    pub(crate) fn own(&self, rank: usize) -> usize {
        self.send[rank].counts[rank]
    }

    /// Elements of the vectors of a rank of a collective that has blocks, whether or not its call has both.
    pub(crate) fn sizes(&self, rank: usize) -> (usize, usize) {
        use Collective::*;
        let (send, recv) = (extent(&self.send[rank]), extent(&self.recv[rank]));
        match self.collective {
            AllGather | AllGatherV | Gather | GatherV => (self.own(rank), recv),
            ReduceScatter | ReduceScatterV | Scatter | ScatterV => (send, self.own(rank)),
            _ => (send, recv),
        }
    }

    /// What the call of a rank says of its blocks.
    pub(crate) fn said(&self, rank: usize, is_root: bool) -> (Blocks, Blocks) {
        use Collective::*;
        let (sends, receives) = match self.collective {
            AllToAllV => (true, true),
            AllGatherV => (false, true),
            ReduceScatterV => (true, false),
            GatherV => (false, is_root),
            ScatterV => (is_root, false),
            _ => (false, false),
        };
        let of = |said: bool, blocks: &Blocks| if said { blocks.clone() } else { Blocks::default() };
        (of(sends, &self.send[rank]), of(receives, &self.recv[rank]))
    }

    /// By element of a rank's output, whose block it is in, if it is in one.
    pub(crate) fn owners(&self, rank: usize) -> Vec<Option<usize>> {
        let Blocks { offsets, counts } = &self.recv[rank];
        let mut owners = vec![None; extent(&self.recv[rank])];
        for (owner, (&start, &count)) in offsets.iter().zip(counts).enumerate() {
            owners[start..start + count].fill(Some(owner));
        }
        owners
    }
}

/// None, few, as many as there should be, or, of about one rank, as many as all should have together.
fn draw_block(rng: &mut SmallRng, count: usize, world: usize) -> usize {
    if rng.random_ratio(1, world as u32 + 2) {
        return world * count;
    }
    match rng.random_range(0..4) {
        0 => 0,
        1 => count.min(1),
        2 => rng.random_range(0..=count),
        _ => count,
    }
}

/// Blocks with a few elements between some of them.
fn with_gaps(counts: &[usize], rng: &mut SmallRng) -> Blocks {
    let mut end = 0;
    let offsets = counts.iter().map(|count| {
        let start = end + if rng.random_ratio(1, 4) { rng.random_range(1..4) } else { 0 };
        end = start + count;
        start
    });
    Blocks { offsets: offsets.collect(), counts: counts.to_vec() }
}

fn extent(blocks: &Blocks) -> usize {
    blocks.offsets.iter().zip(&blocks.counts).map(|(start, count)| start + count).max().unwrap_or(0)
}
