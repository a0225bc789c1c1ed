//! An allocator that counts, for tests that say what allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Of each thread by itself: test harness and library have threads of their own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting. Make it the `#[global_allocator]` of a test program.
pub struct Counting;

impl Counting {
    /// Allocations of the calling thread so far.
    pub fn allocations() -> u64 {
        ALLOCATIONS.get()
    }
}

// SAFETY: everything is passed on to the system's allocator; counting touches only a thread-local
// cell without destructor, so it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}
