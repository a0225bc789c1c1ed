//! What an op in place has overwritten of its input, kept until that is final.

use crate::call::Call;
use crate::collective::slots::SlotPool;
use crate::collective::window::Running;
use crate::frame::pad;
use crate::memory::{Access, Arena};
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
        let targets = window.plan.steps.iter().filter_map(|step| step.action.target());
        let written = targets.filter(|span| span.place == Place::Output && span.len > 0);
        let range = |Span { offset, len, .. }| Saved { window: window.index, offset, len, at: 0 };
        self.ranges.extend(written.map(range));
        let bytes = self.join_ranges(first);
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

    /// Copies all of the output, unless windows were saved: they have overwritten it.
    pub(super) fn save_all(&mut self, call: &Call, pool: &mut SlotPool) {
        let len = call.output.len();
        if self.wanted || len == 0 {
            return;
        }
        self.wanted = true;
        let block = pool.take(len);
        call.output.copy_to(&block.segment(0, len));
        self.ranges.push(Saved { window: 0, offset: 0, len, at: 0 });
        self.blocks.push((0, block));
    }

    /// Makes one of ranges that touch, from the given one on, since most windows write a stretch in many steps, and
    /// some of it twice. Gives each its place in the block; returns the size of that.
    fn join_ranges(&mut self, first: usize) -> usize {
        self.ranges[first..].sort_unstable_by_key(|saved| saved.offset);
        let mut kept = first;
        for next in first + 1..self.ranges.len() {
            let (offset, end) = (self.ranges[next].offset, self.ranges[next].offset + self.ranges[next].len);
            let last = &mut self.ranges[kept];
            if offset <= last.offset + last.len {
                last.len = last.len.max(end - last.offset);
            } else {
                kept += 1;
                self.ranges.swap(kept, next);
            }
        }
        self.ranges.truncate(self.ranges.len().min(kept + 1));
        let mut bytes = 0;
        for saved in &mut self.ranges[first..] {
            saved.at = bytes;
            bytes += pad(saved.len);
        }
        bytes
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
    #[inline]
    pub(super) fn clear(&mut self, pool: &mut SlotPool) {
        if self.wanted {
            self.give_back(pool);
        }
    }

    fn give_back(&mut self, pool: &mut SlotPool) {
        self.wanted = false;
        self.ranges.clear();
        self.blocks.drain(..).for_each(|(_, block)| pool.give(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(written: &[(usize, usize)]) -> (Vec<(usize, usize, usize)>, usize) {
        let earlier = Saved { window: 0, offset: 500, len: 7, at: 0 };
        let mut backup = Backup { ranges: vec![earlier], ..Backup::default() };
        backup.ranges.extend(written.iter().map(|&(offset, len)| Saved { window: 1, offset, len, at: 0 }));
        let bytes = backup.join_ranges(1);
        assert_eq!((backup.ranges[0].offset, backup.ranges[0].len), (500, 7), "of another window");
        (backup.ranges[1..].iter().map(|saved| (saved.offset, saved.len, saved.at)).collect(), bytes)
    }

    #[test]
    fn all_of_the_output_comes_back() {
        let (arena, mut pool) = (Arena::new(64), SlotPool::new());
        let output = arena.segment(3, 41);
        let call = Call { input: output.clone(), output: output.clone(), ..Call::EMPTY };
        let before: Vec<u8> = (0..41).map(|i| i * 5).collect();
        output.fill_from(&before);
        let mut backup = Backup::default();
        backup.save_all(&call, &mut pool);
        output.fill_from(&[0xa5; 41]);
        // What is saved is what there was first.
        backup.save_all(&call, &mut pool);
        backup.restore(&call);
        assert_eq!(output.bytes(), before);
        backup.clear(&mut pool);
        output.fill_from(&[1; 41]);
        backup.restore(&call);
        assert_eq!(output.bytes(), [1; 41], "nothing is kept");
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(joined(&[]), (vec![], 0));
        assert_eq!(
            joined(&[(64, 64), (0, 64), (64, 64), (200, 10)]),
            (vec![(0, 128, 0), (200, 10, 128)], 192)
        );
        assert_eq!(
            joined(&[(300, 5), (10, 100), (20, 10), (0, 4)]),
            (vec![(0, 4, 0), (10, 100, 64), (300, 5, 192)], 256)
        );
        assert_eq!(joined(&[(0, 10), (5, 10), (15, 1), (17, 3)]), (vec![(0, 16, 0), (17, 3, 64)], 128));
    }
}
