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
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The counters that one side writes. On the wire of a region each lies in a pair of cache lines.
#[repr(C, align(128))]
pub(crate) struct Padded(pub(crate) AtomicU64);

/// Everything one side tells the other.
#[repr(C)]
pub(crate) struct Counters {
    /// Bytes published in one's own ring.
    pub(crate) tail: Padded,
    /// Bytes given back of the other's ring.
    pub(crate) consumed: Padded,
    /// Odd while this side sleeps.
    pub(crate) sleeping: Padded,
    /// Not 0 once this side has taken back registered memory that the other may still read.
    pub(crate) revoked: Padded,
}

impl Counters {
    #[cfg(all(test, loom))]
    pub(crate) fn new() -> Counters {
        let zero = || Padded(AtomicU64::new(0));
        Counters { tail: zero(), consumed: zero(), sleeping: zero(), revoked: zero() }
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
                    writer.tail.0.store(64, Ordering::Release);
                    if sleeper.must_wake(0).is_some() {
                        woken.store(true, Ordering::SeqCst);
                    }
                })
            };
            sleeper.start_sleep();
            let saw = writer.tail.0.load(Ordering::Acquire) == 64;
            publish.join().unwrap();
            assert!(saw || woken.load(Ordering::SeqCst));
        });
    }

    /// Bytes written before a publication are there for who sees it.
    #[test]
    fn published_bytes_are_visible() {
        loom::model(|| {
            let counters = Arc::new(Counters::new());
            let byte = Arc::new(loom::cell::UnsafeCell::new(0u8));
            let publish = {
                let (counters, byte) = (counters.clone(), byte.clone());
                thread::spawn(move || {
                    // SAFETY: the reader reads only after it has seen the publication below.
                    byte.with_mut(|p| unsafe { *p = 7 });
                    counters.tail.0.store(1, Ordering::Release);
                })
            };
            if counters.tail.0.load(Ordering::Acquire) == 1 {
                // SAFETY: the writer is done with the byte.
                assert_eq!(byte.with(|p| unsafe { *p }), 7);
            }
            publish.join().unwrap();
        });
    }
}
