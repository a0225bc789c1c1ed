//! Who holds what: lengths of the vectors, where a result comes from, and how bytes become bandwidth.
//!
//! All numbers are in elements unless their name says bytes.

use crate::args::Target;
use ronde::{Blocks, Collective};
use std::ops::Range;

/// Where a stretch of an expected result comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The reduction over all ranks of their inputs from this element on.
    Reduced { start: usize },
    /// The input of one rank from this element on.
    Copied { rank: u32, start: usize },
}

/// A stretch of an expected result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) output: Range<usize>,
    pub(crate) source: Source,
}

impl Piece {
    /// A stretch of it.
    pub(crate) fn cut(&self, output: Range<usize>) -> Piece {
        let skipped = output.start - self.output.start;
        let source = match self.source {
            Source::Reduced { start } => Source::Reduced { start: start + skipped },
            Source::Copied { rank, start } => Source::Copied { rank, start: start + skipped },
        };
        Piece { output, source }
    }
}

/// One rank's part in one operation.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// As in `ronde::Call`.
    pub(crate) count: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Elements of the one vector that holds input and output in place.
    pub(crate) in_place: usize,
    /// First element of input and of output within it.
    pub(crate) in_place_input: usize,
    pub(crate) in_place_output: usize,
    pub(crate) send: Blocks,
    pub(crate) recv: Blocks,
    pub(crate) expected: Vec<Piece>,
}

/// A group as seen by one rank, and the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) rank: u32,
    pub(crate) ranks: u32,
    pub(crate) root: u32,
}

impl Place {
    fn is_root(self) -> bool {
        self.rank == self.root
    }
}

impl Target {
    /// The name in head lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Target::AllReduce => "all_reduce",
            Target::AllGather => "all_gather",
            Target::ReduceScatter => "reduce_scatter",
            Target::AllToAll => "all_to_all",
            Target::AllToAllV => "all_to_all_v",
            Target::Broadcast => "broadcast",
            Target::Reduce => "reduce",
            Target::Gather => "gather",
            Target::Scatter => "scatter",
            Target::SendRecv => "send_recv",
            Target::Barrier => "barrier",
            Target::Pairs => "pairs",
            Target::Costs => "costs",
            Target::Recover => "recover",
        }
    }

    /// The collective it calls; a send for [`Target::SendRecv`] and [`Target::Pairs`], which also receive.
    pub(crate) fn collective(self) -> Collective {
        match self {
            Target::AllReduce => Collective::AllReduce,
            Target::AllGather => Collective::AllGather,
            Target::ReduceScatter => Collective::ReduceScatter,
            Target::AllToAll => Collective::AllToAll,
            Target::AllToAllV => Collective::AllToAllV,
            Target::Broadcast => Collective::Broadcast,
            Target::Reduce => Collective::Reduce,
            Target::Gather => Collective::Gather,
            Target::Scatter => Collective::Scatter,
            Target::SendRecv | Target::Pairs | Target::Costs => Collective::Send,
            Target::Recover => Collective::AllReduce,
            Target::Barrier => Collective::Barrier,
        }
    }

    pub(crate) fn reduces(self) -> bool {
        matches!(self, Target::AllReduce | Target::ReduceScatter | Target::Reduce)
    }

    pub(crate) fn has_root(self) -> bool {
        matches!(self, Target::Broadcast | Target::Reduce | Target::Gather | Target::Scatter)
    }

    pub(crate) fn has_data(self) -> bool {
        self != Target::Barrier
    }

    /// Whether input and output may be one vector. A rank that sends and receives at once needs two.
    pub(crate) fn has_in_place(self) -> bool {
        !matches!(self, Target::SendRecv | Target::Barrier | Target::Pairs | Target::Costs | Target::Recover)
    }

    /// Whether the size of a row is what all ranks hold together, so that each has an n-th of it.
    fn size_is_total(self) -> bool {
        use Target::*;
        matches!(self, AllGather | ReduceScatter | AllToAll | AllToAllV | Gather | Scatter)
    }

    /// The count (as in `ronde::Call`) of a row of `bytes`.
    pub(crate) fn count(self, bytes: u64, element: usize, ranks: u32) -> usize {
        let elements = bytes as usize / element;
        match self {
            Target::Barrier => 0,
            _ if self.size_is_total() => elements / ranks as usize,
            _ => elements,
        }
    }

    /// The size of a row as it is printed: what was rounded down to a whole count.
    pub(crate) fn row_bytes(self, count: usize, element: usize, ranks: u32) -> u64 {
        let n = ranks as usize;
        let elements = match self {
            Target::AllToAllV => (0..n).map(|rank| uneven_total(count, rank, n)).max().unwrap_or(0),
            _ if self.size_is_total() => count * n,
            _ => count,
        };
        (elements * element) as u64
    }

    /// What the bus carries for each byte of the algorithm's size, as nccl-tests has it.
    pub(crate) fn bus_factor(self, ranks: u32) -> f64 {
        let n = f64::from(ranks);
        match self {
            Target::AllReduce => 2.0 * (n - 1.0) / n,
            _ if self.size_is_total() => (n - 1.0) / n,
            _ => 1.0,
        }
    }

    /// The vectors of one rank.
    pub(crate) fn layout(self, count: usize, place: Place) -> Layout {
        let all = count * place.ranks as usize;
        let mine = count * place.rank as usize;
        match self {
            Target::AllReduce => Layout {
                output: count,
                expected: vec![reduced(count, 0)],
                ..Layout::same_vector(count, count)
            },
            Target::Reduce => Layout {
                output: if place.is_root() { count } else { 0 },
                expected: place.is_root().then(|| reduced(count, 0)).into_iter().collect(),
                ..Layout::same_vector(count, count)
            },
            Target::ReduceScatter => Layout {
                output: count,
                in_place_output: mine,
                expected: vec![reduced(count, mine)],
                ..Layout::same_vector(count, all)
            },
            Target::Broadcast => Layout {
                input: if place.is_root() { count } else { 0 },
                output: count,
                expected: vec![copied(0, count, place.root, 0)],
                ..Layout::same_vector(count, count)
            },
            Target::AllGather => Layout { output: all, ..Layout::gathering(count, place, true) },
            Target::Gather => Layout::gathering(count, place, place.is_root()),
            Target::Scatter => Layout::scattering(count, place),
            Target::AllToAll => {
                let from = |rank| copied(rank as usize * count, count, rank, mine);
                Layout {
                    count,
                    output: all,
                    expected: (0..place.ranks).map(from).collect(),
                    ..Layout::same_vector(count, all)
                }
            }
            Target::AllToAllV => Layout::uneven(count, place),
            Target::SendRecv => {
                let before = (place.rank + place.ranks - 1) % place.ranks;
                Layout {
                    output: count,
                    expected: vec![copied(0, count, before, 0)],
                    ..Layout::same_vector(count, count)
                }
            }
            Target::Barrier | Target::Pairs | Target::Costs | Target::Recover => Layout::default(),
        }
    }
}

impl Layout {
    /// Input of `len` elements and output in the same vector, from its start.
    fn same_vector(count: usize, len: usize) -> Layout {
        Layout { count, input: len, in_place: len, ..Layout::default() }
    }

    fn gathering(count: usize, place: Place, receives: bool) -> Layout {
        let all = count * place.ranks as usize;
        let block = |rank| copied(rank as usize * count, count, rank, 0);
        Layout {
            count,
            input: count,
            output: if receives { all } else { 0 },
            in_place: if receives { all } else { count },
            in_place_input: if receives { count * place.rank as usize } else { 0 },
            expected: if receives { (0..place.ranks).map(block).collect() } else { Vec::new() },
            ..Layout::default()
        }
    }

    fn scattering(count: usize, place: Place) -> Layout {
        let all = count * place.ranks as usize;
        let mine = count * place.rank as usize;
        Layout {
            count,
            input: if place.is_root() { all } else { 0 },
            output: count,
            in_place: if place.is_root() { all } else { count },
            in_place_output: if place.is_root() { mine } else { 0 },
            expected: vec![copied(0, count, place.root, mine)],
            ..Layout::default()
        }
    }

    /// Blocks of different lengths, the same in both directions between two ranks, so that they can also
    /// be exchanged in place.
    fn uneven(count: usize, place: Place) -> Layout {
        let n = place.ranks as usize;
        let blocks = |from: usize| -> Blocks {
            Blocks::dense(&(0..n).map(|to| uneven_count(count, from, to)).collect::<Vec<_>>())
        };
        let own = blocks(place.rank as usize);
        let total = uneven_total(count, place.rank as usize, n);
        let expected = (0..n)
            .map(|from| {
                let theirs = blocks(from);
                let me = place.rank as usize;
                copied(own.offsets[from], own.counts[from], from as u32, theirs.offsets[me])
            })
            .collect();
        Layout {
            count: 0,
            input: total,
            output: total,
            in_place: total,
            send: own.clone(),
            recv: own,
            expected,
            ..Layout::default()
        }
    }

    /// Elements of output when in place or out of place.
    pub(crate) fn input_range(&self, in_place: bool) -> Range<usize> {
        let start = if in_place { self.in_place_input } else { 0 };
        start..start + self.input
    }

    /// As [`Layout::input_range`], for the output.
    pub(crate) fn output_range(&self, in_place: bool) -> Range<usize> {
        let start = if in_place { self.in_place_output } else { 0 };
        start..start + self.output
    }
}

/// Half, all, or one and a half of `count`.
fn uneven_count(count: usize, from: usize, to: usize) -> usize {
    count * (1 + (from + to) % 3) / 2
}

fn uneven_total(count: usize, from: usize, ranks: usize) -> usize {
    (0..ranks).map(|to| uneven_count(count, from, to)).sum()
}

fn reduced(count: usize, start: usize) -> Piece {
    Piece { output: 0..count, source: Source::Reduced { start } }
}

fn copied(to: usize, count: usize, rank: u32, start: usize) -> Piece {
    Piece { output: to..to + count, source: Source::Copied { rank, start } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Target; 11] = [
        Target::AllReduce,
        Target::AllGather,
        Target::ReduceScatter,
        Target::AllToAll,
        Target::AllToAllV,
        Target::Broadcast,
        Target::Reduce,
        Target::Gather,
        Target::Scatter,
        Target::SendRecv,
        Target::Barrier,
    ];

    #[test]
    fn factors_are_those_of_nccl_tests() {
        let expected = [1.5, 0.75, 0.75, 0.75, 0.75, 1.0, 1.0, 0.75, 0.75, 1.0, 1.0];
        for (target, factor) in ALL.into_iter().zip(expected) {
            assert_eq!(target.bus_factor(4), factor, "{}", target.name());
        }
        assert_eq!(Target::AllReduce.bus_factor(1), 0.0);
    }

    #[test]
    fn sizes_are_rounded_down_to_whole_counts() {
        assert_eq!(Target::AllReduce.count(10, 4, 3), 2);
        assert_eq!(Target::AllReduce.row_bytes(2, 4, 3), 8);
        assert_eq!(Target::AllGather.count(1 << 20, 4, 4), 65536);
        assert_eq!(Target::AllGather.row_bytes(65536, 4, 4), 1 << 20);
        assert_eq!(Target::Scatter.count(8, 4, 4), 0);
        assert_eq!(Target::Barrier.row_bytes(0, 4, 4), 0);
    }

    #[test]
    fn expected_pieces_tile_the_output() {
        for target in ALL {
            for ranks in [1u32, 2, 3, 5] {
                for rank in 0..ranks {
                    let layout = target.layout(7, Place { rank, ranks, root: ranks - 1 });
                    let mut end = 0;
                    for piece in &layout.expected {
                        assert_eq!(piece.output.start, end, "{} rank {rank}/{ranks}", target.name());
                        end = piece.output.end;
                    }
                    assert_eq!(end, layout.output, "{} rank {rank}/{ranks}", target.name());
                    for in_place in [true, false].into_iter().filter(|_| target.has_in_place()) {
                        let (input, output) = (layout.input_range(in_place), layout.output_range(in_place));
                        assert!(!in_place || input.end.max(output.end) <= layout.in_place);
                    }
                }
            }
        }
    }

    #[test]
    fn uneven_blocks_agree_between_sender_and_receiver() {
        for rank in 0..4 {
            let mine = Target::AllToAllV.layout(5, Place { rank, ranks: 4, root: 0 });
            for other in 0..4 {
                let theirs = Target::AllToAllV.layout(5, Place { rank: other, ranks: 4, root: 0 });
                assert_eq!(mine.send.counts[other as usize], theirs.recv.counts[rank as usize]);
            }
        }
    }
}
