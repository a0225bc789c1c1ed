//! What an op in place has overwritten of its input, kept until that is final.

use crate::call::Call;
use crate::collective::slots::SlotPool;
use crate::collective::window::Running;
use crate::frame::pad;
use crate::memory::Arena;
use crate::plan::{Place, Span};

/// Copies of what windows overwrite: a block for each, and which ranges of the output it holds.
#[derive(Default)]
pub(super) struct Backup {
    /// Windows are to be saved as they open.
    wanted: bool,
    /// They are written past the cache.
    streams: bool,
    blocks: Vec<(u32, Arena)>,
    ranges: Vec<Saved>,
}

/// A range of the output, and where in its window's block it is kept.
struct Saved {
    window: u32,
    offset: usize,
    len: usize,
    at: usize,
}

impl Backup {
    /// From now on windows are saved.
    pub(super) fn start(&mut self, streams: bool) {
        (self.wanted, self.streams) = (true, streams);
    }

    /// Copies what a window is about to overwrite. No two windows write the same bytes.
    pub(super) fn save(&mut self, window: &Running, call: &Call, pool: &mut SlotPool) {
        if !self.wanted {
            return;
        }
        let first = self.ranges.len();
        let mut bytes = 0;
        let targets = window.plan.steps.iter().filter_map(|step| step.action.target());
        for Span { offset, len, .. } in targets.filter(|span| span.place == Place::Output && span.len > 0) {
            // Some write the same bytes twice.
            if !self.ranges[first..].iter().any(|saved| (saved.offset, saved.len) == (offset, len)) {
                self.ranges.push(Saved { window: window.index, offset, len, at: bytes });
                bytes += pad(len);
            }
        }
        if bytes == 0 {
            return;
        }
        let block = pool.take(bytes);
        for &Saved { offset, len, at, .. } in &self.ranges[first..] {
            let (from, to) = (call.output.slice(offset, len), block.segment(at, len));
            match self.streams {
                true => from.stream_to(&to),
                false => from.copy_to(&to),
            }
        }
        self.blocks.push((window.index, block));
    }

    /// The windows before this one are final.
    pub(super) fn forget_before(&mut self, window: u32, pool: &mut SlotPool) {
        if self.blocks.is_empty() {
            return;
        }
        self.ranges.retain(|saved| saved.window >= window);
        let final_now = self.blocks.extract_if(.., |(of, _)| *of < window);
        final_now.for_each(|(_, block)| pool.give(block));
    }

    /// What had been overwritten is as before.
    pub(super) fn restore(&self, call: &Call) {
        for &Saved { window, offset, len, at } in &self.ranges {
            // They open in order.
            if let Ok(block) = self.blocks.binary_search_by_key(&window, |(of, _)| *of) {
                let (_, block) = &self.blocks[block];
                block.segment(at, len).copy_to(&call.output.slice(offset, len));
            }
        }
    }

    /// Gives everything back.
    pub(super) fn clear(&mut self, pool: &mut SlotPool) {
        self.wanted = false;
        self.ranges.clear();
        self.blocks.drain(..).for_each(|(_, block)| pool.give(block));
    }
}
