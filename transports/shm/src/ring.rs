//! Positions of one ring, seen from either side.
//!
//! The writer counts the bytes that it has published in `tail`, the reader those that it has given back
//! in `consumed`; both only grow, and each lives in memory that only its owner writes. A byte at position
//! p lies at p modulo the capacity. The writer may fill up to `consumed + capacity`.
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
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Counters {
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

/// The reader's records: which have been given back, in any order.
#[derive(Default)]
pub(crate) struct Outstanding {
    /// Ends of records in order, and whether each was given back.
    records: std::collections::VecDeque<(u64, bool)>,
    /// Number of the first of them.
    first: u64,
    /// How many of them were given back.
    behind: usize,
}

impl Outstanding {
    /// Adds the record that ends at `end`; returns its number.
    pub(crate) fn add(&mut self, end: u64) -> u64 {
        self.records.push_back((end, false));
        self.first + self.records.len() as u64 - 1
    }

    /// Gives a record back; returns the position up to which everything is given back, if it moved.
    pub(crate) fn give_back(&mut self, number: u64) -> Option<u64> {
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

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Records were given back that the writer does not hear of, because one before them was not.
    pub(crate) fn is_held_up(&self) -> bool {
        self.behind > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn records_are_given_back_in_any_order() {
        let mut outstanding = Outstanding::default();
        let numbers: Vec<u64> = [64, 128, 256, 320].map(|end| outstanding.add(end)).to_vec();
        assert_eq!(outstanding.give_back(numbers[2]), None);
        assert_eq!(outstanding.give_back(numbers[1]), None);
        assert!(outstanding.is_held_up());
        assert_eq!(outstanding.give_back(numbers[0]), Some(256));
        assert!(!outstanding.is_held_up());
        assert_eq!(outstanding.give_back(numbers[0]), None, "twice is ignored");
        assert_eq!(outstanding.give_back(numbers[3]), Some(320));
        assert!(outstanding.is_empty());
        assert_eq!(outstanding.give_back(99), None);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    /// Either the sleeper sees the byte, or the publisher sees the sleeper: never neither.
    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let writer = Arc::new(Counters::new());
            let sleeper = Arc::new(Counters::new());
            let woken = Arc::new(AtomicBool::new(false));
            let publish = {
                let (writer, sleeper, woken) = (writer.clone(), sleeper.clone(), woken.clone());
                thread::spawn(move || {
                    writer.publish(64);
                    if sleeper.must_wake(0).is_some() {
                        woken.store(true, Ordering::SeqCst);
                    }
                })
            };
            sleeper.start_sleep();
            let saw = writer.published() == 64;
            publish.join().unwrap();
            assert!(saw || woken.load(Ordering::SeqCst));
        });
    }

    /// A ring of two bytes, each a record, between a writer and a reader. Loom sees every access to a byte: one that
    /// the other side's is not ordered with fails the test.
    struct Ring {
        bytes: [UnsafeCell<u64>; Ring::BYTES as usize],
        writer: Counters,
        reader: Counters,
    }

    impl Ring {
        const BYTES: u64 = 2;
        /// So many records: the last of them takes the place of the first.
        const RECORDS: u64 = 3;

        fn new() -> Arc<Ring> {
            let bytes = std::array::from_fn(|_| UnsafeCell::new(u64::MAX));
            Arc::new(Ring { bytes, writer: Counters::new(), reader: Counters::new() })
        }

        fn at(&self, position: u64) -> &UnsafeCell<u64> {
            &self.bytes[(position % Ring::BYTES) as usize]
        }

        /// Writes its position into each record, as soon as there is room.
        fn write_all(&self) {
            let mut room_from = 0;
            for position in 0..Ring::RECORDS {
                while position + 1 - room_from > Ring::BYTES {
                    room_from = self.reader.given_back();
                    thread::yield_now();
                }
                // SAFETY: the reader has given back what was there.
                self.at(position).with_mut(|byte| unsafe { *byte = position });
                self.writer.publish(position + 1);
            }
        }

        fn await_published(&self, tail: u64) {
            while self.writer.published() < tail {
                thread::yield_now();
            }
        }

        fn assert_holds(&self, position: u64) {
            // SAFETY: it was published and was not given back.
            assert_eq!(self.at(position).with(|byte| unsafe { *byte }), position);
        }
    }

    /// Runs a reader against the writer of a ring, in every order.
    fn against_the_writer(read_all: impl Fn(&Ring) + Sync + Send + 'static) {
        loom::model(move || {
            let ring = Ring::new();
            let write = {
                let ring = ring.clone();
                thread::spawn(move || ring.write_all())
            };
            read_all(&ring);
            write.join().unwrap();
        });
    }

    /// Bytes that were written before a publication are there for who sees it, and none is overwritten before it was
    /// given back.
    #[test]
    fn the_writer_goes_round_behind_the_reader() {
        against_the_writer(|ring| {
            let mut outstanding = Outstanding::default();
            for position in 0..Ring::RECORDS {
                ring.await_published(position + 1);
                ring.assert_holds(position);
                let number = outstanding.add(position + 1);
                ring.reader.give_back(outstanding.give_back(number).expect("the first of them"));
            }
        });
    }

    /// A record that is read for longer than the one behind it keeps both from being overwritten; with its end both are
    /// given back at once.
    #[test]
    fn records_that_are_given_back_out_of_order_are_announced_in_order() {
        against_the_writer(|ring| {
            let mut outstanding = Outstanding::default();
            ring.await_published(Ring::BYTES);
            let [first, second] = [1, 2].map(|end| outstanding.add(end));
            ring.assert_holds(1);
            assert_eq!(outstanding.give_back(second), None);
            assert!(outstanding.is_held_up());
            assert_eq!(ring.writer.published(), Ring::BYTES, "there is no room for a third");
            ring.assert_holds(0);
            let consumed = outstanding.give_back(first).expect("nothing is before it");
            assert_eq!(consumed, Ring::BYTES);
            ring.reader.give_back(consumed);
            ring.await_published(Ring::RECORDS);
            ring.assert_holds(2);
        });
    }

    /// Lent memory is written again as soon as it was taken back, also in the middle of a read: whoever has read such
    /// bytes is told so afterwards.
    #[test]
    fn bytes_that_were_taken_back_are_not_taken_for_data() {
        loom::model(|| {
            let owner = Arc::new(Counters::new());
            // Stands for plain memory, of which any byte may be seen old or new: both sides touch it at one time.
            let lent = Arc::new([AtomicU64::new(7), AtomicU64::new(7)]);
            let take_back = {
                let (owner, lent) = (owner.clone(), lent.clone());
                thread::spawn(move || {
                    owner.revoke();
                    lent.iter().for_each(|byte| byte.store(8, Ordering::Relaxed));
                })
            };
            let read = [&lent[0], &lent[1]].map(|byte| byte.load(Ordering::Relaxed));
            let is_data = !owner.has_revoked();
            assert!(!is_data || read == [7, 7], "{read:?} was taken for what was lent");
            take_back.join().unwrap();
            assert!(owner.has_revoked());
        });
    }
}
