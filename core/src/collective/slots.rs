//! Pool of staging memory.

use crate::memory::Arena;

/// Smallest block handed out, in bytes: messages of a few bytes may wait here by the thousand.
const SMALLEST: usize = 64;
/// Sizes between two powers of two: a block is at most a sixteenth larger than what was asked for.
const STEPS: usize = 16;

/// Blocks of memory by size class, kept for reuse.
pub(crate) struct SlotPool {
    /// By class, as far as any came back.
    free: Vec<Vec<Arena>>,
    /// Bytes handed out and not given back.
    in_use: usize,
    /// Highest value of `in_use`.
    peak: usize,
}

/// The size of the block for so many bytes: a multiple of [`SMALLEST`] and of a sixteenth of the power of
/// two below.
fn block_size(bytes: usize) -> usize {
    let bytes = bytes.max(SMALLEST);
    bytes.next_multiple_of((bytes.next_power_of_two() / 2 / STEPS).max(SMALLEST))
}

/// The class of the blocks of one size.
fn class(size: usize) -> usize {
    let power = size.ilog2() as usize;
    power * STEPS + (((size - (1 << power)) * STEPS) >> power)
}

impl SlotPool {
    pub(crate) fn new() -> SlotPool {
        SlotPool { free: Vec::new(), in_use: 0, peak: 0 }
    }

    /// A block of at least `bytes`, with arbitrary content.
    pub(crate) fn take(&mut self, bytes: usize) -> Arena {
        let size = block_size(bytes);
        self.in_use += size;
        self.peak = self.peak.max(self.in_use);
        let kept = self.free.get_mut(class(size)).and_then(Vec::pop);
        kept.unwrap_or_else(|| Arena::new(size))
    }

    /// Takes a block back.
    pub(crate) fn give(&mut self, block: Arena) {
        self.in_use -= block.len();
        let class = class(block.len());
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(block);
    }

    /// Bytes that are handed out.
    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    /// Most bytes that were handed out at one time.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_little_larger_than_asked_for_and_each_class_has_one_size() {
        let mut sizes = std::collections::BTreeMap::new();
        for bytes in (0..70_000).chain((1 << 20) - 100..(1 << 20) + 100) {
            let size = block_size(bytes);
            assert!(size >= bytes && size <= bytes.max(SMALLEST) + (bytes / STEPS).max(SMALLEST), "{bytes}");
            assert_eq!(block_size(size), size);
            assert_eq!(*sizes.entry(class(size)).or_insert(size), size, "the class of {bytes} bytes");
        }
    }

    #[test]
    fn a_block_comes_back() {
        let mut pool = SlotPool::new();
        let block = pool.take(100_000);
        let address = block.segment(0, 1).as_ptr();
        pool.give(block);
        assert_eq!(pool.take(99_999).segment(0, 1).as_ptr(), address);
        assert_eq!(pool.peak(), block_size(100_000));
    }
}
