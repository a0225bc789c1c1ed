//! The last bytes of a stream, in case its connection is cut before the peer has them.

use std::io::IoSlice;

const FEWEST: usize = 16 << 10;
/// A ring that is four times as long as what it held in the course of so many confirmations gets shorter.
const SHRINK_AFTER: u32 = 64;

/// A ring over the last bytes that were written to a stream. It is no longer than what the peer has not confirmed takes: one
/// that wandered through more memory than the caches hold made large operations three times slower.
#[derive(Default)]
pub struct Replay {
    ring: Vec<u8>,
    /// Where in it the oldest byte is.
    start: usize,
    /// How many bytes it holds.
    held: usize,
    /// Bytes written to the stream in all.
    written: u64,
    /// The most that it held, over so many confirmations.
    most_held: (usize, u32),
}

impl Replay {
    /// Bytes written to the stream in all.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Of a stream of which so many bytes were written that are needed no more.
    pub fn starting_at(written: u64) -> Replay {
        Replay { written, ..Replay::default() }
    }

    /// Takes the first `count` bytes of `parts`. Beyond `most` bytes the oldest are forgotten.
    pub fn push(&mut self, parts: &[IoSlice<'_>], count: usize, most: usize) {
        self.make_room(count, most);
        let mut left = count;
        for part in parts {
            let taken = &part[..part.len().min(left)];
            left -= taken.len();
            self.add(taken);
        }
    }

    /// The peer has the first `received` bytes; no more than were written.
    pub fn confirm(&mut self, received: u64) {
        let Some(missing) = self.written.checked_sub(received) else { return };
        let (most_held, confirmations) = &mut self.most_held;
        *most_held = (*most_held).max(self.held);
        *confirmations += 1;
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        if missing == 0 {
            (self.start, self.held) = (0, 0);
        } else if missing < self.held {
            self.forget(self.held - missing);
        }
        if self.most_held.1 == SHRINK_AFTER {
            // Once much was under way, it would be long for ever.
            let wanted = (2 * std::mem::take(&mut self.most_held).0).max(FEWEST);
            if self.ring.len() > 2 * wanted {
                self.rebuild(wanted);
            }
        }
    }

    /// What was written after the first `received` bytes, in two parts; `None` if not all of it is here.
    pub fn since(&self, received: u64) -> Option<[&[u8]; 2]> {
        let missing = usize::try_from(self.written.checked_sub(received)?).ok()?;
        if missing > self.held {
            return None;
        }
        if missing == 0 {
            return Some([&[]; 2]);
        }
        let from = (self.start + self.held - missing) % self.ring.len();
        let first = missing.min(self.ring.len() - from);
        Some([&self.ring[from..from + first], &self.ring[..missing - first]])
    }

    /// Gives back memory that it does not need now.
    pub fn shrink(&mut self) {
        let wanted = (2 * self.held).max(FEWEST);
        if self.ring.len() > 2 * wanted {
            self.rebuild(wanted);
        }
    }

    fn forget(&mut self, count: usize) {
        self.start = (self.start + count) % self.ring.len();
        self.held -= count;
    }

    /// Grows the ring for so many bytes more, as far as it may.
    fn make_room(&mut self, more: usize, most: usize) {
        let (wanted, size) = (self.held + more, self.ring.len());
        if wanted <= size || size >= most {
            return;
        }
        self.rebuild(wanted.max(2 * size).clamp(FEWEST, most.max(FEWEST)));
    }

    /// Moves what it holds to a ring of another size.
    fn rebuild(&mut self, size: usize) {
        let mut ring = Vec::with_capacity(size);
        let oldest = self.written - self.held as u64;
        self.since(oldest).unwrap_or_default().iter().for_each(|part| ring.extend_from_slice(part));
        ring.resize(size, 0);
        (self.ring, self.start) = (ring, 0);
    }

    fn add(&mut self, bytes: &[u8]) {
        let size = self.ring.len();
        self.written += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(size)..];
        if kept.is_empty() {
            return;
        }
        if self.held + kept.len() > size {
            self.forget(self.held + kept.len() - size);
        }
        let end = (self.start + self.held) % size;
        let first = kept.len().min(size - end);
        self.ring[end..end + first].copy_from_slice(&kept[..first]);
        self.ring[..kept.len() - first].copy_from_slice(&kept[first..]);
        self.held += kept.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ by their place in the stream.
    fn stream(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// Writes so many bytes, cut in three, of which the socket takes all but the last few.
    fn push(replay: &mut Replay, count: usize, most: usize) {
        let bytes = stream(replay.written..replay.written + count as u64 + 7);
        let (one, rest) = bytes.split_at(count / 3);
        let (other, last) = rest.split_at(rest.len() / 2);
        replay.push(&[one, other, last].map(IoSlice::new), count, most);
    }

    fn oldest(replay: &Replay) -> u64 {
        replay.written - replay.held as u64
    }

    fn check(replay: &Replay) {
        for from in [oldest(replay), replay.written - replay.held as u64 / 2, replay.written] {
            let found = replay.since(from).expect("it is held").concat();
            assert_eq!(found, stream(from..replay.written), "from {from}");
        }
    }

    const COUNTS: [usize; 10] = [0, 1, 64, 70_000, 200_000, 3, 900_000, 1 << 20, 5, 3 << 20];

    #[test]
    fn the_last_bytes_are_there_however_they_were_written() {
        for most in [1 << 16, 300_000, 1 << 22] {
            let mut replay = Replay::default();
            for count in COUNTS.into_iter().cycle().take(30) {
                push(&mut replay, count, most);
                assert_eq!(replay.held, most.min(replay.written as usize));
                check(&replay);
            }
        }
    }

    #[test]
    fn what_is_confirmed_takes_no_room() {
        let mut replay = Replay::default();
        for (round, count) in COUNTS.into_iter().cycle().take(60).enumerate() {
            push(&mut replay, count % 300_000, usize::MAX);
            let missing = [0, 1, 5_000, 100_000][round % 4].min(replay.held as u64);
            replay.confirm(replay.written - missing);
            assert_eq!(replay.held as u64, missing);
            check(&replay);
            assert!(replay.since(oldest(&replay).wrapping_sub(1)).is_none());
        }
        assert!(replay.ring.len() <= 1 << 20, "{}", replay.ring.len());
        replay.confirm(replay.written - 3);
        replay.shrink();
        check(&replay);
        assert_eq!((replay.ring.len(), replay.held), (FEWEST, 3));
        // What was confirmed before, or never written, changes nothing.
        let held = replay.held;
        for received in [0, replay.written + 1, u64::MAX] {
            replay.confirm(received);
            assert_eq!(replay.held, held);
        }
    }

    #[test]
    fn what_is_gone_or_was_never_written_is_not_there() {
        let mut replay = Replay::starting_at(1000);
        assert!(replay.since(1000).is_some() && replay.since(999).is_none() && replay.since(1001).is_none());
        push(&mut replay, 5 << 20, 100_000);
        assert!(replay.since(oldest(&replay)).is_some());
        assert!(replay.since(oldest(&replay) - 1).is_none() && replay.since(1000).is_none());
        assert!(replay.since(replay.written + 1).is_none() && replay.since(u64::MAX).is_none());
    }

    #[test]
    fn once_it_was_long_it_gets_short_again() {
        let mut replay = Replay::default();
        push(&mut replay, 8 << 20, usize::MAX);
        for _ in 0..SHRINK_AFTER {
            assert!(replay.ring.len() >= 8 << 20);
            replay.confirm(replay.written - 10);
            push(&mut replay, 100_000, usize::MAX);
        }
        for _ in 0..SHRINK_AFTER {
            replay.confirm(replay.written - 10);
            push(&mut replay, 100_000, usize::MAX);
        }
        assert!(replay.ring.len() <= 220_000, "{}", replay.ring.len());
        check(&replay);
    }

    /// Thousands of streams that carry little must not take megabytes each.
    #[test]
    fn little_traffic_takes_little_memory() {
        let mut replay = Replay::default();
        assert_eq!(replay.ring.capacity(), 0);
        push(&mut replay, 320, usize::MAX);
        assert!(replay.ring.len() <= FEWEST);
    }
}
