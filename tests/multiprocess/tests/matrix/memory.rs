//! Vectors at odd addresses with guard bytes around them, in memory of the process alone or in registered memory.

use ronde::{Group, Segment, SharedBuffer};
use ronde_core::memory::{Access, Arena};
use std::cell::RefCell;

pub(crate) const POISON: u8 = 0xa5;
const GUARD: usize = 64;
const START: usize = GUARD + 1;

/// Registered memory of a rank that is not in use.
pub(crate) struct Memory<'a> {
    group: &'a Group,
    free: RefCell<Vec<SharedBuffer>>,
}

/// A vector.
pub(crate) struct Odd<'a> {
    memory: &'a Memory<'a>,
    holder: Holder,
    len: usize,
}

enum Holder {
    Plain(Arena),
    /// None only while it is dropped.
    Registered(Option<SharedBuffer>),
}

impl<'a> Memory<'a> {
    pub(crate) fn new(group: &'a Group) -> Memory<'a> {
        Memory { group, free: RefCell::default() }
    }

    /// A vector with these bytes.
    pub(crate) fn odd(&'a self, registered: bool, bytes: &[u8]) -> Odd<'a> {
        let len = bytes.len();
        let room = START + len + GUARD;
        let holder = if registered {
            Holder::Registered(Some(self.buffer(room)))
        } else {
            Holder::Plain(Arena::new(room))
        };
        let odd = Odd { memory: self, holder, len };
        odd.around().bytes_mut().fill(POISON);
        odd.all().fill_from(bytes);
        odd
    }

    /// A free buffer of this length. One that is too short is freed: the ranks that know it have to hear of that.
    fn buffer(&self, bytes: usize) -> SharedBuffer {
        let free = self.free.borrow_mut().pop().filter(|buffer| buffer.len() >= bytes);
        free.unwrap_or_else(|| self.group.mem_alloc(bytes.next_power_of_two()).expect("shared memory"))
    }
}

impl Odd<'_> {
    fn around(&self) -> Segment {
        let all = match &self.holder {
            Holder::Plain(arena) => arena.segment(0, arena.len()),
            Holder::Registered(buffer) => {
                // SAFETY: the buffer lives as long as this vector, which outlives the calls that use it.
                unsafe { buffer.as_ref().expect("not dropped").segment() }
            }
        };
        all.slice(0, START + self.len + GUARD)
    }

    pub(crate) fn part(&self, offset: usize, len: usize) -> Segment {
        self.around().slice(START + offset, len)
    }

    pub(crate) fn all(&self) -> Segment {
        self.part(0, self.len)
    }

    /// Nothing was written around it.
    pub(crate) fn is_guarded(&self) -> bool {
        let around = self.around();
        let (before, rest) = around.bytes().split_at(START);
        before.iter().chain(&rest[self.len..]).all(|&byte| byte == POISON)
    }
}

impl Drop for Odd<'_> {
    fn drop(&mut self) {
        if let Holder::Registered(buffer) = &mut self.holder {
            self.memory.free.borrow_mut().extend(buffer.take());
        }
    }
}
