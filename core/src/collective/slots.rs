//! Pool of staging memory.

use crate::memory::Arena;

/// Smallest block handed out, in bytes: messages of a few bytes may wait here by the thousand.
const SMALLEST: usize = 64;

/// Blocks of memory by size class (powers of two), kept for reuse.
pub(crate) struct SlotPool {
    free: Vec<Vec<Arena>>,
    /// Bytes handed out and not given back.
    in_use: usize,
    /// Highest value of `in_use`.
    peak: usize,
}

impl SlotPool {
    pub(crate) fn new() -> SlotPool {
        SlotPool { free: (0..usize::BITS).map(|_| Vec::new()).collect(), in_use: 0, peak: 0 }
    }

    /// A block of at least `bytes`, with arbitrary content.
    pub(crate) fn take(&mut self, bytes: usize) -> Arena {
        let size = bytes.max(SMALLEST).next_power_of_two();
        self.in_use += size;
        self.peak = self.peak.max(self.in_use);
        self.free[size.trailing_zeros() as usize].pop().unwrap_or_else(|| Arena::new(size))
    }

    /// Takes a block back.
    pub(crate) fn give(&mut self, block: Arena) {
        self.in_use -= block.len();
        self.free[block.len().trailing_zeros() as usize].push(block);
    }

    /// Most bytes that were handed out at one time.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}
