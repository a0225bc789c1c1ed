//! How a vector is cut: into windows, windows into shards, all at multiples of 64 bytes but the tail.

use crate::Tuning;
use ronde_core::frame::pad;
use ronde_core::plan::MAX_STEP_BYTES;

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// First byte.
    pub(super) offset: usize,
    /// Bytes.
    pub(super) len: usize,
}

/// Equal pieces of a vector; the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pieces {
    total: usize,
    piece: usize,
}

impl Pieces {
    /// Pieces of at most `piece` bytes, rounded up to 64.
    pub(super) fn new(total: usize, piece: usize) -> Pieces {
        Pieces { total, piece: pad(piece.max(1)) }
    }

    /// Pieces that travel whole: windows of plans that do not share them out.
    pub(super) fn whole(total: usize, tuning: &Tuning) -> Pieces {
        Pieces::new(total, tuning.window_bytes.min(piece_limit(tuning)))
    }

    /// Pieces whose `ranks` shards each fit a step: the window of a plan that shares it out.
    pub(super) fn shared_by(total: usize, ranks: u32, tuning: &Tuning) -> Pieces {
        let ranks = ranks as usize;
        let piece = tuning.window_bytes.max(tuning.min_shard_bytes.saturating_mul(ranks));
        Pieces { total, piece: pad(piece.max(1)).min(piece_limit(tuning) * ranks) }
    }

    /// Number of pieces.
    pub(super) fn count(&self) -> u32 {
        self.total.div_ceil(self.piece) as u32
    }

    /// Piece `index`; empty past the end.
    pub(super) fn get(&self, index: u32) -> Range {
        let offset = (index as usize).saturating_mul(self.piece).min(self.total);
        Range { offset, len: self.piece.min(self.total - offset) }
    }
}

/// Most bytes of one message: a multiple of 64 that links and steps allow.
pub(super) fn piece_limit(tuning: &Tuning) -> usize {
    (tuning.max_piece_bytes.clamp(64, MAX_STEP_BYTES)) & !63
}

/// Bytes of one block that move per window in plans that exchange a block with every rank.
pub(super) fn block_piece(ranks: u32, tuning: &Tuning) -> usize {
    tuning.min_shard_bytes.max(tuning.window_bytes / ranks as usize).min(piece_limit(tuning))
}

/// Shard `index` of a window that `ranks` share; late shards of a small window are empty.
pub(super) fn shard(window: Range, index: u32, ranks: u32) -> Range {
    let each = pad(window.len.div_ceil(ranks as usize));
    let start = (each * index as usize).min(window.len);
    Range { offset: window.offset + start, len: each.min(window.len - start) }
}
