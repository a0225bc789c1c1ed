//! The last bytes of a stream, in case its connection is cut before the peer has them.
//!
//! What the peer's machine has acknowledged waits there for the peer, also after the connection was cut. The rest is still
//! in this side's send buffer, of which the kernel tells how large it may be. So a copy of that many bytes is enough, and the peer
//! need not say how far it is but when it takes the stream up again.

use std::io::IoSlice;

/// Bytes that a send buffer may hold beyond its limit, which the kernel compares before it adds a buffer, and those that may be written
/// before the limit is asked for again.
const SLACK: usize = 1 << 20;
/// After so many bytes the limit is asked for again: it grows with the congestion window.
const LOOK_AFTER: usize = 256 << 10;
const FEWEST: usize = 64 << 10;

/// A ring over the last bytes that were written to a stream.
#[derive(Default)]
pub struct Replay {
    /// Byte `n` of the stream is at `n % ring.len()`.
    ring: Vec<u8>,
    /// Bytes written to the stream in all.
    written: u64,
    /// How many of the last are in the ring.
    held: usize,
    /// How many have to be, at most.
    limit: usize,
    since_look: usize,
}

impl Replay {
    /// Of a stream of which nothing was written yet.
    pub fn new() -> Replay {
        Replay::starting_at(0)
    }

    /// Of one of which so many bytes were written that are needed no more.
    pub fn starting_at(written: u64) -> Replay {
        Replay { ring: Vec::new(), written, held: 0, limit: 0, since_look: 0 }
    }

    /// Takes the first `count` bytes of `parts`, which the socket has taken; `send_buffer` says how much the kernel may hold
    /// of what is written.
    pub fn push(&mut self, parts: &[IoSlice<'_>], count: usize, send_buffer: impl Fn() -> usize) {
        if count == 0 {
            return;
        }
        self.since_look += count;
        if self.since_look >= LOOK_AFTER || self.limit == 0 {
            self.since_look = 0;
            self.limit = self.limit.max(send_buffer() + SLACK);
        }
        self.make_room(count);
        let mut left = count;
        for part in parts {
            let taken = &part[..part.len().min(left)];
            left -= taken.len();
            self.add(taken);
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
        let start = (received % self.ring.len() as u64) as usize;
        let first = missing.min(self.ring.len() - start);
        Some([&self.ring[start..start + first], &self.ring[..missing - first]])
    }

    /// Grows the ring, as far as it may, for so many bytes more.
    fn make_room(&mut self, more: usize) {
        let wanted = self.held + more;
        if wanted <= self.ring.len() || self.ring.len() >= self.limit {
            return;
        }
        let size = wanted.max(2 * self.ring.len()).clamp(FEWEST, self.limit.max(FEWEST));
        let mut grown = Replay { ring: vec![0; size], limit: self.limit, ..Replay::new() };
        grown.written = self.written - self.held as u64;
        for part in self.since(grown.written).unwrap_or_default() {
            grown.add(part);
        }
        (self.ring, self.held) = (grown.ring, grown.held);
    }

    fn add(&mut self, bytes: &[u8]) {
        let size = self.ring.len();
        let skipped = bytes.len().saturating_sub(size);
        let kept = &bytes[skipped..];
        let start = ((self.written + skipped as u64) % size as u64) as usize;
        let first = kept.len().min(size - start);
        self.ring[start..start + first].copy_from_slice(&kept[..first]);
        self.ring[..kept.len() - first].copy_from_slice(&kept[first..]);
        self.written += bytes.len() as u64;
        self.held = (self.held + bytes.len()).min(size);
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
    fn push(replay: &mut Replay, count: usize, send_buffer: usize) {
        let bytes = stream(replay.written..replay.written + count as u64 + 7);
        let (one, rest) = bytes.split_at(count / 3);
        let (other, last) = rest.split_at(rest.len() / 2);
        replay.push(&[one, other, last].map(IoSlice::new), count, || send_buffer);
    }

    fn held(replay: &Replay) -> u64 {
        replay.written - replay.held as u64
    }

    #[test]
    fn the_last_bytes_are_there_however_they_were_written() {
        let mut replay = Replay::new();
        for (round, count) in [0, 1, 64, 70_000, 200_000, 3, 900_000, 1 << 20, 5, 3 << 20]
            .into_iter()
            .cycle()
            .take(40)
            .enumerate()
        {
            push(&mut replay, count, 300_000 + 10_000 * round);
            let least = (300_000 + 10_000 * round).min(replay.written as usize);
            assert!(replay.held >= least, "{} of {}", replay.held, replay.written);
            for from in [held(&replay), replay.written - replay.held as u64 / 2, replay.written] {
                let found = replay.since(from).expect("it is held").concat();
                assert_eq!(found, stream(from..replay.written), "round {round} from {from}");
            }
        }
        assert!(replay.ring.len() <= 700_000 + SLACK, "{}", replay.ring.len());
    }

    #[test]
    fn what_is_gone_or_was_never_written_is_not_there() {
        let mut replay = Replay::new();
        assert!(replay.since(0).is_some() && replay.since(1).is_none());
        push(&mut replay, 5 << 20, 1000);
        assert!(replay.since(held(&replay)).is_some());
        assert!(replay.since(held(&replay) - 1).is_none() && replay.since(0).is_none());
        assert!(replay.since(replay.written + 1).is_none() && replay.since(u64::MAX).is_none());
    }

    /// Thousands of streams that carry little must not take megabytes each.
    #[test]
    fn little_traffic_takes_little_memory() {
        let mut replay = Replay::new();
        push(&mut replay, 320, 4 << 20);
        assert_eq!(replay.ring.len(), FEWEST);
        let replay = Replay::new();
        assert_eq!(replay.ring.capacity(), 0);
    }
}
