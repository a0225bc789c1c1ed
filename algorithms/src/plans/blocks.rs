//! One block per rank, of equal or different sizes.

use super::Pieces;
use super::geometry::Range;
use ronde_core::call::Blocks;

/// Where each rank's block lies in a vector, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum BlockList {
    /// All of one length, one after the other.
    Even(usize),
    /// As the caller says.
    Uneven(Vec<Range>),
}

impl BlockList {
    /// The caller's blocks in bytes.
    pub(super) fn uneven(blocks: &Blocks, element: usize) -> BlockList {
        let ranges = blocks.offsets.iter().zip(&blocks.counts);
        BlockList::Uneven(ranges.map(|(o, c)| Range { offset: o * element, len: c * element }).collect())
    }

    /// The block of a rank.
    pub(super) fn get(&self, rank: u32) -> Range {
        match self {
            BlockList::Even(len) => Range { offset: rank as usize * len, len: *len },
            BlockList::Uneven(ranges) => ranges[rank as usize],
        }
    }

    /// Length of the longest block.
    pub(super) fn longest(&self) -> usize {
        match self {
            BlockList::Even(len) => *len,
            BlockList::Uneven(ranges) => ranges.iter().map(|r| r.len).max().unwrap_or(0),
        }
    }

    /// Piece `index` of a rank's block.
    pub(super) fn piece(&self, rank: u32, piece_bytes: usize, index: u32) -> Range {
        let block = self.get(rank);
        let piece = Pieces::new(block.len, piece_bytes).get(index);
        Range { offset: block.offset + piece.offset, len: piece.len }
    }
}
