//! One set of tests three times: under loom, which tries every order of two threads; as ordinary threads, for the thread
//! sanitizer and Miri, which find accesses that nothing orders; and as ordinary threads without either.
//!
//! The two sides share these counters and bytes as processes share a region, but by one address: a sanitizer cannot know
//! that two mappings are the same memory.
use super::*;
use world::{Arc, Cell, model, thread};

#[cfg(loom)]
mod world {
    pub(super) use loom::cell::UnsafeCell as Cell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::{model, thread};
    /// Every order is tried: the ring goes round once.
    pub(super) const RECORDS: u64 = 3;
}

#[cfg(not(loom))]
mod world {
    pub(super) use std::sync::Arc;
    pub(super) use std::thread;

    pub(super) const RECORDS: u64 = if cfg!(miri) { 20 } else { 2000 };

    /// The orders that come about.
    pub(super) fn model(test: impl Fn()) {
        (0..if cfg!(miri) { 5 } else { 50 }).for_each(|_| test());
    }

    pub(super) struct Cell<T>(std::cell::UnsafeCell<T>);

    // SAFETY: whether the accesses of two threads are ordered is what the tests find out.
    unsafe impl<T: Send> Sync for Cell<T> {}

    impl<T> Cell<T> {
        pub(super) fn new(value: T) -> Cell<T> {
            Cell(std::cell::UnsafeCell::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        pub(super) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

/// A ring of two words, each a record, between a writer and a reader. An access to a word that the other side's is not
/// ordered with fails the test.
struct Ring {
    words: [Cell<u64>; Ring::WORDS],
    written: Counters,
    read: Counters,
}

impl Ring {
    const WORDS: usize = 2;

    fn new() -> Arc<Ring> {
        let words = std::array::from_fn(|_| Cell::new(u64::MAX));
        Arc::new(Ring { words, written: Counters::new(), read: Counters::new() })
    }

    fn at(&self, position: u64) -> &Cell<u64> {
        &self.words[position as usize % Ring::WORDS]
    }

    /// Writes its position into each record, as soon as there is room.
    fn write_all(&self, mut writer: Writer) {
        for _ in 0..world::RECORDS {
            if let Some(position) = writer.start_over(1, &self.read) {
                // SAFETY: as below.
                self.at(position).with_mut(|word| unsafe { *word = STARTS_OVER });
            }
            let position = loop {
                match writer.room(1, &self.read) {
                    Some(position) => break position,
                    None => thread::yield_now(),
                }
            };
            // SAFETY: the reader has given back what was there.
            self.at(position).with_mut(|word| unsafe { *word = position });
            assert_eq!(writer.publish(1, &self.written), position + 1);
        }
    }

    /// What a record holds that was published and was not given back.
    fn holds(&self, position: u64) -> u64 {
        // SAFETY: as the caller says.
        self.at(position).with(|word| unsafe { *word })
    }

    fn await_published(&self, reader: &Reader, tail: u64) {
        while reader.published(&self.written).expect("positions that can be") < tail {
            thread::yield_now();
        }
    }

    fn assert_holds(&self, position: u64) {
        assert_eq!(self.holds(position), position);
    }
}

/// What a record holds with which the writer starts over.
const STARTS_OVER: u64 = u64::MAX - 1;

/// Runs a reader against the writer of a ring that goes round all of it, in every order.
fn against_the_writer(read_all: impl Fn(&Ring, Reader) + Sync + Send + 'static) {
    against(Ring::WORDS, read_all);
}

/// Runs a reader against the writer of a ring that may start over after so many words, in every order.
fn against(short_lap: usize, read_all: impl Fn(&Ring, Reader) + Sync + Send + 'static) {
    model(move || {
        let ring = Ring::new();
        let write = {
            let ring = ring.clone();
            thread::spawn(move || ring.write_all(Writer::new(Ring::WORDS, short_lap)))
        };
        read_all(&ring, Reader::new(Ring::WORDS));
        write.join().unwrap();
    });
}

/// Bytes that were written before a publication are there for who sees it, and none is overwritten before it was
/// given back.
#[test]
fn the_writer_goes_round_behind_the_reader() {
    against_the_writer(|ring, mut reader| {
        for position in 0..world::RECORDS {
            ring.await_published(&reader, position + 1);
            ring.assert_holds(position);
            let number = reader.take(position + 1);
            reader.give_back(number);
            assert!(reader.announce(&ring.read), "news for the writer");
        }
        assert!(reader.has_read_all(&ring.written) && reader.holds_none());
    });
}

/// The writer starts over as soon as there is something to write over, and then finds all of the ring free again.
#[test]
fn the_writer_starts_over() {
    let started_over = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = started_over.clone();
    against(1, move |ring, mut reader| {
        let mut records = 0;
        while records < world::RECORDS {
            let position = reader.head();
            ring.await_published(&reader, position + 1);
            if ring.holds(position) == STARTS_OVER {
                let end = reader.start_over();
                assert!(end > position && end.is_multiple_of(Ring::WORDS as u64), "{position} to {end}");
                seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                ring.await_published(&reader, end + 1);
            } else {
                ring.assert_holds(position);
                let number = reader.take(position + 1);
                reader.give_back(number);
                records += 1;
            }
            reader.announce(&ring.read);
        }
        assert!(reader.has_read_all(&ring.written) && reader.holds_none());
    });
    // Threads seldom come to it: the writer is ahead.
    assert!(!cfg!(loom) || started_over.load(std::sync::atomic::Ordering::Relaxed) > 0, "it never did");
}

/// What is still read is not written over, and keeps a lap from being left early.
#[cfg(not(loom))]
#[test]
fn a_lap_is_left_early_only_where_little_is_read() {
    let (written, read) = (Counters::new(), Counters::new());
    let (mut writer, mut reader) = (Writer::new(64, 16), Reader::new(64));
    let mut numbers = Vec::new();
    for end in (4..=32).step_by(4) {
        assert_eq!((writer.start_over(4, &read), writer.room(4, &read)), (None, Some(end - 4)));
        writer.publish(4, &written);
        numbers.push(reader.take(end));
    }
    let mut give_back = |numbers: &[u64]| {
        numbers.iter().for_each(|&number| reader.give_back(number));
        reader.announce(&read);
    };
    give_back(&numbers[..5]);
    assert_eq!(writer.start_over(4, &read), None, "12 of 64 are being read");
    writer.publish(4, &written);
    give_back(&numbers[5..7]);
    assert_eq!(writer.start_over(32, &read), None, "there is no room for more than 28 in the next");
    writer.publish(4, &written);
    assert_eq!(writer.start_over(28, &read), None, "12 again");
    give_back(&numbers[7..]);
    writer.publish(4, &written);
    read.give_back(u64::MAX);
    assert_eq!(writer.start_over(28, &read), Some(44), "as if all were given back");
    assert_eq!(writer.room(28, &read), Some(64));
    read.give_back(0);
    writer.publish(28, &written);
    assert_eq!(writer.start_over(4, &read), None, "back again");
}

/// A record that is read for longer than the one behind it keeps both from being overwritten; with its end both are
/// given back at once.
#[test]
fn records_that_are_given_back_out_of_order_are_announced_in_order() {
    against_the_writer(|ring, mut reader| {
        let mut position = 0;
        while position + 2 <= world::RECORDS {
            ring.await_published(&reader, position + 2);
            let [first, second] = [1, 2].map(|len| reader.take(position + len));
            ring.assert_holds(position + 1);
            reader.give_back(second);
            assert!(!reader.announce(&ring.read) && reader.holds_up_the_writer());
            assert_eq!(reader.published(&ring.written), Some(position + 2), "there is no room for a third");
            ring.assert_holds(position);
            reader.give_back(first);
            assert!(reader.announce(&ring.read) && !reader.holds_up_the_writer());
            position += 2;
        }
        for last in position..world::RECORDS {
            ring.await_published(&reader, last + 1);
            ring.assert_holds(last);
        }
    });
}

/// What a sanitizer that works has to report. `tests/sanitize` runs it to know that it would.
#[cfg(not(loom))]
#[test]
#[ignore = "reads what may be written at that moment"]
fn a_race_on_purpose() {
    against_the_writer(|ring, mut reader| {
        while !reader.has_read_all(&ring.written) || reader.head() < world::RECORDS {
            let position = reader.head();
            // SAFETY: none, on purpose; the value is not used.
            ring.at(position).with(|word| unsafe { std::hint::black_box(word.read_volatile()) });
            ring.await_published(&reader, position + 1);
            let number = reader.take(position + 1);
            reader.give_back(number);
            reader.announce(&ring.read);
        }
    });
}

/// Either the sleeper sees the byte, or the publisher sees the sleeper: never neither.
#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let (published, sleeping) = (Arc::new(Counters::new()), Arc::new(Counters::new()));
        let publish = {
            let (published, sleeping) = (published.clone(), sleeping.clone());
            thread::spawn(move || {
                Writer::new(Ring::WORDS, Ring::WORDS).publish(1, &published);
                sleeping.must_wake(0).is_some()
            })
        };
        sleeping.start_sleep();
        let saw = !Reader::new(Ring::WORDS).has_read_all(&published);
        let woken = publish.join().unwrap();
        assert!(saw || woken);
    });
}

/// Lent memory is written again as soon as it was taken back, also in the middle of a read: whoever has read such
/// bytes is told so afterwards.
#[test]
fn bytes_that_were_taken_back_are_not_taken_for_data() {
    model(|| {
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

/// What a broken or hostile process may write into its counters is refused or ignored, and nothing overflows.
#[cfg(not(loom))]
#[test]
fn positions_that_cannot_be() {
    let (theirs, mine) = (Counters::new(), Counters::new());
    let mut reader = Reader::new(64);
    for (tail, possible) in [(0, true), (64, true), (65, false), (u64::MAX, false)] {
        theirs.publish(tail);
        assert_eq!(reader.published(&theirs), possible.then_some(tail));
    }
    theirs.publish(40);
    let number = reader.take(40);
    theirs.publish(39);
    assert_eq!(reader.published(&theirs), None, "backwards");
    theirs.publish(65);
    assert_eq!(reader.published(&theirs), None, "over what is being read");
    reader.give_back(number);
    assert_eq!(reader.published(&theirs), Some(65));

    let mut writer = Writer::new(64, 64);
    assert_eq!(writer.publish(48, &mine), 48);
    assert_eq!(writer.room(17, &theirs), None);
    theirs.give_back(u64::MAX);
    assert_eq!(writer.room(64, &theirs), Some(48), "as if all were given back");
    assert!(!writer.has_news(&theirs), "this side could never sleep");
    theirs.give_back(0);
    assert_eq!(writer.given_back(&theirs), 0);
    assert_eq!(writer.room(17, &theirs), None, "back again");
    assert_eq!(writer.room(usize::MAX / 2, &theirs), None);
}

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
