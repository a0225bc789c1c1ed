//! Positions of one ring, seen from either side, and the counters by which the sides tell each other theirs.
//!
//! The writer counts the bytes that it has published in `tail`, the reader those that it has given back
//! in `consumed`; both only grow, and each lives in memory that only its owner writes. A byte at position
//! p lies at p modulo the capacity. The writer may fill up to `consumed + capacity`.
//!
//! Memory that was used a moment ago is in the caches, so a writer does not go round all of a ring that is mostly empty:
//! once enough of a *lap* (one time round) was given back it starts over, with a record that stands for the rest of the lap.
//!
//! Publishing stores with release after the bytes are written; the reader loads with acquire before it
//! reads them; giving back likewise. Before it sleeps, a side raises its `sleeping` counter to an odd
//! value and looks once more; a side that published looks at the other's counter. Both put a sequentially
//! consistent fence between their store and their load, so at least one of them sees the other: no
//! wake-up is lost.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The counters that one side writes. On the wire of a region each lies in a pair of cache lines.
#[repr(C, align(128))]
struct Padded(AtomicU64);

/// Everything one side tells the other.
#[repr(C)]
pub(crate) struct Counters {
    /// Bytes published in one's own ring.
    tail: Padded,
    /// Bytes given back of the other's ring.
    consumed: Padded,
    /// Odd while this side sleeps.
    sleeping: Padded,
    /// Not 0 once this side has taken back registered memory that the other may still read.
    revoked: Padded,
}

impl Counters {
    #[cfg(test)]
    fn new() -> Counters {
        let zero = || Padded(AtomicU64::new(0));
        Counters { tail: zero(), consumed: zero(), sleeping: zero(), revoked: zero() }
    }

    /// Lets the other side see one's own ring up to a position; every byte before it is written.
    pub(crate) fn publish(&self, tail: u64) {
        self.tail.0.store(tail, Ordering::Release);
    }

    /// How far the owner has published its ring: every byte before that may be read.
    pub(crate) fn published(&self) -> u64 {
        self.tail.0.load(Ordering::Acquire)
    }

    /// Gives the other's ring back up to a position: no byte before it is read any more.
    pub(crate) fn give_back(&self, consumed: u64) {
        self.consumed.0.store(consumed, Ordering::Release);
    }

    /// How far the owner has given this side's ring back: every byte before that may be written again.
    pub(crate) fn given_back(&self) -> u64 {
        self.consumed.0.load(Ordering::Acquire)
    }

    /// Takes back all registered memory that was lent: from the return of this on, its owner may write it.
    pub(crate) fn revoke(&self) {
        self.revoked.0.store(1, Ordering::Release);
        // The owner's writes must not overtake the store.
        fence(Ordering::SeqCst);
    }

    /// Asked after reading lent memory: whether it was taken back before the end of that.
    pub(crate) fn has_revoked(&self) -> bool {
        // The reads must not be delayed past the load.
        fence(Ordering::Acquire);
        self.revoked.0.load(Ordering::Relaxed) != 0
    }

    /// Announces that this side will sleep. Afterwards the caller looks at the other's counters again.
    pub(crate) fn start_sleep(&self) {
        let count = self.sleeping.0.load(Ordering::Relaxed);
        self.sleeping.0.store(count | 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The end of a sleep, announced or not.
    pub(crate) fn end_sleep(&self) {
        let count = self.sleeping.0.load(Ordering::Relaxed);
        if count & 1 == 1 {
            self.sleeping.0.store(count + 1, Ordering::Release);
        }
    }

    /// After a store that this side (the sleeper) waits for: the number of its sleep if it must be woken
    /// and has not been, given the last number it was woken from.
    pub(crate) fn must_wake(&self, woken: u64) -> Option<u64> {
        fence(Ordering::SeqCst);
        let count = self.sleeping.0.load(Ordering::SeqCst);
        (count & 1 == 1 && count != woken).then_some(count)
    }
}

/// The side of a ring that fills it. Where the bytes lie is for its owner to know.
pub(crate) struct Writer {
    capacity: u64,
    /// Bytes published.
    tail: u64,
    /// Of those, what the reader was last seen to have given back.
    room_from: u64,
    /// So much of a lap has to be given back before the next may start early.
    short_lap: u64,
    /// The position from which it is worth looking whether it was.
    look_at: u64,
}

impl Writer {
    pub(crate) fn new(capacity: usize, short_lap: usize) -> Writer {
        let (capacity, short_lap) = (capacity as u64, short_lap as u64);
        Writer { capacity, tail: 0, room_from: 0, short_lap, look_at: short_lap }
    }

    /// Before a record of so many bytes is written: starts the next lap if that is worth it. A record that says so must then
    /// be written at the position returned. It is published with the next, which is to be the one that room was asked for: there
    /// may be none for a longer one before that is read.
    pub(crate) fn start_over(&mut self, bytes: usize, reader: &Counters) -> Option<u64> {
        if self.tail < self.look_at {
            return None;
        }
        self.look_at = self.tail + self.short_lap / 4;
        let (from, lap) = (self.tail, lap_of(self.tail, self.capacity));
        let begun = from > lap;
        let reusable = self.given_back(reader).saturating_sub(lap);
        // What is still read in this lap keeps the next one short.
        let is_read = from - self.room_from > self.short_lap / 2;
        if !begun || is_read || reusable < self.short_lap.max(bytes as u64) {
            return None;
        }
        self.tail = lap + self.capacity;
        self.look_at = self.tail + self.short_lap;
        Some(from)
    }

    /// Where a record of so many bytes may be written now; `None` while the reader has not given enough back.
    pub(crate) fn room(&mut self, bytes: usize, reader: &Counters) -> Option<u64> {
        let fits = |writer: &Writer| writer.tail + bytes as u64 - writer.room_from <= writer.capacity;
        if !fits(self) {
            self.given_back(reader);
        }
        fits(self).then_some(self.tail)
    }

    /// Lets the reader see the record that was written where [`Writer::room`] said; returns where it ends.
    pub(crate) fn publish(&mut self, bytes: usize, mine: &Counters) -> u64 {
        self.tail += bytes as u64;
        mine.publish(self.tail);
        self.tail
    }

    /// Up to where the reader has given the ring back, as of now. What a broken one claims beyond the end is ignored.
    pub(crate) fn given_back(&mut self, reader: &Counters) -> u64 {
        self.room_from = reader.given_back().min(self.tail);
        self.room_from
    }

    /// Whether the reader has given more back than was last seen.
    pub(crate) fn has_news(&self, reader: &Counters) -> bool {
        reader.given_back().min(self.tail) > self.room_from
    }
}

/// Where the lap of a position began.
fn lap_of(position: u64, capacity: u64) -> u64 {
    position - position % capacity
}

/// The side of a ring that empties it.
pub(crate) struct Reader {
    capacity: u64,
    /// Where the next record starts.
    head: u64,
    outstanding: Outstanding,
    /// Every byte before that is given back...
    consumed: u64,
    /// ...which the writer knows up to here.
    announced: u64,
}

impl Reader {
    pub(crate) fn new(capacity: usize) -> Reader {
        let outstanding = Outstanding::default();
        Reader { capacity: capacity as u64, head: 0, outstanding, consumed: 0, announced: 0 }
    }

    /// Where the next record starts.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Up to where there is something to read; `None` if the writer claims what cannot be.
    pub(crate) fn published(&self, writer: &Counters) -> Option<u64> {
        let tail = writer.published();
        let possible = tail >= self.head && tail - self.consumed <= self.capacity;
        possible.then_some(tail)
    }

    /// Whether there is nothing to read.
    pub(crate) fn has_read_all(&self, writer: &Counters) -> bool {
        writer.published() == self.head
    }

    /// The next record ends here; returns the number to give it back by.
    pub(crate) fn take(&mut self, end: u64) -> u64 {
        self.head = end;
        self.outstanding.add(end)
    }

    /// The record that starts here says that the writer started over; returns where that ends.
    pub(crate) fn start_over(&mut self) -> u64 {
        let end = lap_of(self.head, self.capacity) + self.capacity;
        let number = self.take(end);
        self.give_back(number);
        end
    }

    /// A record is not read any more. The writer hears of it with the next [`Reader::announce`].
    pub(crate) fn give_back(&mut self, number: u64) {
        if let Some(position) = self.outstanding.give_back(number) {
            self.consumed = position;
        }
    }

    /// Lets the writer see what was given back; returns whether it is more than it knew.
    pub(crate) fn announce(&mut self, mine: &Counters) -> bool {
        let news = self.consumed != self.announced;
        if news {
            self.announced = self.consumed;
            mine.give_back(self.consumed);
        }
        news
    }

    /// Whether no record is being read.
    pub(crate) fn holds_none(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Whether records that are being read keep the writer from going on, or soon will.
    pub(crate) fn holds_up_the_writer(&self) -> bool {
        self.outstanding.is_held_up() || self.head - self.consumed > self.capacity / 2
    }
}

/// The reader's records: which have been given back, in any order.
#[derive(Default)]
struct Outstanding {
    /// Ends of records in order, and whether each was given back.
    records: std::collections::VecDeque<(u64, bool)>,
    /// Number of the first of them.
    first: u64,
    /// How many of them were given back.
    behind: usize,
}

impl Outstanding {
    /// Adds the record that ends at `end`; returns its number.
    fn add(&mut self, end: u64) -> u64 {
        self.records.push_back((end, false));
        self.first + self.records.len() as u64 - 1
    }

    /// Gives a record back; returns the position up to which everything is given back, if it moved.
    fn give_back(&mut self, number: u64) -> Option<u64> {
        let at = number.checked_sub(self.first)?;
        let given_back = &mut self.records.get_mut(usize::try_from(at).ok()?)?.1;
        self.behind += usize::from(!std::mem::replace(given_back, true));
        let mut moved = None;
        while let Some((end, true)) = self.records.front().copied() {
            self.records.pop_front();
            self.first += 1;
            self.behind -= 1;
            moved = Some(end);
        }
        moved
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Records were given back that the writer does not hear of, because one before them was not.
    fn is_held_up(&self) -> bool {
        self.behind > 0
    }
}

#[cfg(test)]
mod tests;
