//! User memory as regions that may be handed to transports and kernels.
//!
//! The only `unsafe` of this crate. A [`Segment`] is a range of bytes whose maker vouches that the
//! memory stays valid while any clone of the segment exists. Two makers exist:
//!
//! * [`Segment::from_raw`] (unsafe): the C ABI, transports with memory of their own.
//! * [`lend`]: borrows slices for the length of a closure and does not return before every clone
//!   of the segments made from them has been dropped, so that a Rust caller can never free or
//!   reuse a buffer while an op runs. It costs one counter on the stack and no allocation.
//!
//! Bytes are reached, by [`Access`], through copies of raw memory or through short-lived slices. Ranges that other
//! processes or the kernel may write concurrently are only ever copied, never borrowed as `&[u8]`
//! across a call that could change them; disjointness of the ranges that one op writes is checked
//! by the plan validator (see [`crate::plan`]).
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A range of bytes in this process that an operation may read and, where its plan says so, write.
pub struct Segment {
    ptr: *mut u8,
    len: usize,
    /// What a lent segment counts as; lives in the frame of [`lend`].
    loan: Option<NonNull<Loan>>,
}

/// The segments that a [`Lender`] has made of one kind.
struct Loan {
    /// How many there are, clones among them.
    count: AtomicUsize,
    writable: bool,
}

// SAFETY: a segment is a pointer and a length; validity on any thread for as long as it lives is
// the contract of its makers; of a loan only the counter changes, which is atomic, and the loan outlives every clone.
unsafe impl Send for Segment {}
// SAFETY: as above; shared references only copy the pointer or read through it.
unsafe impl Sync for Segment {}

impl Segment {
    /// A segment of 0 bytes.
    pub const EMPTY: Segment = Segment { ptr: NonNull::<u8>::dangling().as_ptr(), len: 0, loan: None };

    /// A segment of 0 bytes.
    pub const fn empty() -> Segment {
        Segment::EMPTY
    }

    /// A segment over raw memory.
    ///
    /// # Safety
    ///
    /// `ptr` is valid for reads of `len` bytes (and for writes, if an op uses the segment as
    /// output) until the last clone is dropped, nobody but the ops given this segment writes the
    /// bytes in that time, and nobody reads those that an op writes. `ptr` may be null or dangling
    /// if `len` is 0.
    pub const unsafe fn from_raw(ptr: *mut u8, len: usize) -> Segment {
        if len == 0 { Segment::empty() } else { Segment { ptr, len, loan: None } }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a length of 0.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte, for alignment checks and memory registration.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// False for memory that was lent for reading only.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.loan().is_none_or(|loan| loan.writable)
    }

    #[inline]
    fn loan(&self) -> Option<&Loan> {
        // SAFETY: the loan outlives every clone: `lend` waits for the counter to reach zero.
        self.loan.map(|loan| unsafe { loan.as_ref() })
    }

    /// For those who write through [`Segment::as_ptr`].
    ///
    /// # Panics
    ///
    /// If the memory was lent for reading only.
    #[inline]
    pub fn assert_writable(&self) {
        assert!(self.is_writable(), "memory that was lent for reading only cannot be written");
    }

    /// True if both start at the same address and have the same length.
    pub fn same_as(&self, other: &Segment) -> bool {
        self.len == other.len && (self.len == 0 || self.ptr == other.ptr)
    }

    /// True if the two share a byte.
    pub fn overlaps(&self, other: &Segment) -> bool {
        let (a, b) = (self.ptr as usize, other.ptr as usize);
        self.len > 0 && other.len > 0 && a < b + other.len && b < a + self.len
    }

    /// The bytes `offset .. offset + len` of this segment.
    ///
    /// # Panics
    ///
    /// If the range is not inside the segment: plans are validated, so this is a broken invariant.
    #[inline]
    pub fn slice(&self, offset: usize, len: usize) -> Segment {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "range {offset}+{len} is outside a segment of {} bytes",
            self.len
        );
        let mut part = self.clone();
        // SAFETY: offset is within the allocation, checked above.
        part.ptr = unsafe { self.ptr.add(offset) };
        part.len = len;
        part
    }

    fn lent(ptr: *mut u8, len: usize, loan: &Loan) -> Segment {
        loan.count.fetch_add(1, Ordering::Relaxed);
        Segment { ptr, len, loan: Some(NonNull::from(loan)) }
    }
}

/// What the engine, transports and kernels do with the bytes of a segment.
///
/// Not for programs: `ronde` gives them segments and keeps this trait for itself. Clones of one segment may be in use by several ops, so
/// whoever calls these owes what its maker promised: nobody touches bytes that an op writes.
pub trait Access {
    /// The bytes, for reading (system calls that send, hashing, tests).
    fn bytes(&self) -> &[u8];

    /// The bytes, for writing (system calls that receive, kernels).
    ///
    /// Takes `&mut self` so that one clone cannot give two writable borrows; other clones of the
    /// range exist, and the plan validator keeps steps that write a range apart from all others.
    ///
    /// # Panics
    ///
    /// As all that writes here: if the memory was lent for reading only. Calls are checked before they start, so this
    /// is a broken invariant.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Copies all bytes of `self` to the start of `dst`; the ranges may overlap.
    fn copy_to(&self, dst: &Segment);

    /// Copies all bytes of `self` to the start of `dst`, past the cache: for what is not read again soon. The ranges
    /// must not overlap.
    fn stream_to(&self, dst: &Segment);

    /// Copies `src` to the start of this segment.
    fn fill_from(&self, src: &[u8]);
}

impl Access for Segment {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the maker vouches for `len` readable bytes; the executor never writes a range
        // while another step reads it (plan validator).
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.assert_writable();
        // SAFETY: as for `bytes`, with writes vouched for by the maker.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    #[inline]
    fn copy_to(&self, dst: &Segment) {
        assert!(self.len <= dst.len, "copy of {} bytes into {}", self.len, dst.len);
        dst.assert_writable();
        // SAFETY: both ranges are valid for their lengths; `copy` allows overlap.
        unsafe { std::ptr::copy(self.ptr, dst.ptr, self.len) }
    }

    fn stream_to(&self, dst: &Segment) {
        assert!(self.len <= dst.len && !self.overlaps(dst), "copy of {} bytes into {}", self.len, dst.len);
        dst.assert_writable();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
            const STEP: usize = 64;
            let head = dst.ptr.align_offset(16).min(self.len);
            let body = (self.len - head) / STEP * STEP;
            self.slice(0, head).copy_to(dst);
            let from = self.slice(head, body).ptr;
            let to = dst.slice(head, body).ptr;
            for at in (0..body).step_by(STEP) {
                for part in (at..at + STEP).step_by(16) {
                    // SAFETY: `part + 16 <= body`, in range of both; the target is aligned; SSE2 is baseline.
                    unsafe {
                        let bytes = _mm_loadu_si128(from.add(part).cast::<__m128i>());
                        _mm_stream_si128(to.add(part).cast::<__m128i>(), bytes);
                    }
                }
            }
            // SAFETY: SSE is baseline. Orders the stores before whatever follows, also on another core.
            unsafe { _mm_sfence() }
            let rest = self.len - head - body;
            self.slice(head + body, rest).copy_to(&dst.slice(head + body, rest));
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.copy_to(dst);
    }

    #[inline]
    fn fill_from(&self, src: &[u8]) {
        assert!(src.len() <= self.len, "copy of {} bytes into {}", src.len(), self.len);
        self.assert_writable();
        // SAFETY: the maker vouches for the destination; `src` is a live borrow.
        unsafe { std::ptr::copy(src.as_ptr(), self.ptr, src.len()) }
    }
}

impl Clone for Segment {
    #[inline]
    fn clone(&self) -> Segment {
        if let Some(loan) = self.loan() {
            loan.count.fetch_add(1, Ordering::Relaxed);
        }
        Segment { ptr: self.ptr, len: self.len, loan: self.loan }
    }
}

impl Drop for Segment {
    #[inline]
    fn drop(&mut self) {
        if let Some(loan) = self.loan() {
            // Release pairs with the acquire in `Lender::drop`: whatever was done through this clone
            // happens before the borrow ends.
            loan.count.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Default for Segment {
    fn default() -> Segment {
        Segment::empty()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:p}+{})", self.ptr, self.len)
    }
}

/// Plain data: any bit pattern of the right size may be read and written as bytes.
///
/// # Safety
///
/// The type has no padding, no pointers, and every bit pattern that an op can write is valid.
pub unsafe trait Pod: Copy + Send + Sync + 'static {}

macro_rules! pod {
    ($($t:ty),*) => { $(
        // SAFETY: primitive numbers have no padding and no invalid patterns.
        unsafe impl Pod for $t {}
    )* };
}
pod!(i8, u8, i16, u16, i32, u32, i64, u64, f32, f64);
// SAFETY: a transparent wrapper of a `u16`, every value of which is a float.
unsafe impl Pod for half::f16 {}
// SAFETY: as above.
unsafe impl Pod for half::bf16 {}
// SAFETY: two fields of one type, `repr(C)`: no padding, and no invalid patterns if the type has none.
#[cfg(feature = "num-complex")]
unsafe impl<T: Pod> Pod for num_complex::Complex<T> {}
// SAFETY: an array of plain data without padding has none either.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Hands out segments over slices borrowed for `'a`; see [`lend`].
pub struct Lender<'a> {
    /// What is read only, and what may be written.
    loans: [Loan; 2],
    /// Invariant: with a shorter `'a` one could lend what lives in the closure only.
    borrowed: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl<'a> Lender<'a> {
    /// A segment that ops only read: a call that would write it is refused.
    pub fn shared<T: Pod>(&self, data: &'a [T]) -> Segment {
        Segment::lent(data.as_ptr() as *mut u8, size_of_val(data), &self.loans[0])
    }

    /// A segment that ops may write. As in C, no two ops that are in flight at a time may use a byte of it, unless both
    /// read it: lend parts, or slices of the segment that do not overlap.
    pub fn unique<T: Pod>(&self, data: &'a mut [T]) -> Segment {
        Segment::lent(data.as_mut_ptr().cast(), size_of_val(data), &self.loans[1])
    }
}

impl Drop for Lender<'_> {
    #[expect(clippy::disallowed_methods, reason = "memory must not be given back while an op may write it")]
    fn drop(&mut self) {
        // Ops drop their segments when they end, before the caller is told; every op has a
        // deadline. So this loop is normally not entered, and bounded by that deadline if a panic
        // unwinds through the closure.
        while self.loans.iter().any(|loan| loan.count.load(Ordering::Acquire) != 0) {
            std::thread::yield_now();
        }
    }
}

/// Lends slices to operations for the length of `run`.
///
/// Returns when `run` has returned *and* no segment made by the lender is left anywhere. So what is lent must
/// be older than the call:
///
/// ```compile_fail
/// ronde_core::memory::lend(|lender| {
///     let mut local = vec![0u64; 8];
///     let _ = lender.unique(&mut local[..]);
/// });
/// ```
pub fn lend<'a, R>(run: impl FnOnce(&Lender<'a>) -> R) -> R {
    let loans = [false, true].map(|writable| Loan { count: AtomicUsize::new(0), writable });
    let lender = Lender { loans, borrowed: PhantomData };
    run(&lender)
}

/// Owned, 64-byte-aligned, zeroed memory for slots, logs and staging.
pub struct Arena {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the arena owns its memory; access goes through segments, whose contract covers threads.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Alignment of every arena.
    pub const ALIGN: usize = 64;

    /// Allocates `len` zeroed bytes. The pages are touched on first use only.
    pub fn new(len: usize) -> Arena {
        if len == 0 {
            return Arena { ptr: NonNull::dangling(), len: 0 };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        // Not an abort: whoever called may live on, and is told.
        let Some(ptr) = NonNull::new(ptr) else { panic!("there is no memory for {len} bytes") };
        Arena { ptr, len }
    }

    fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, Self::ALIGN).expect("arena size fits isize")
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a length of 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes `offset .. offset + len`. The caller keeps the arena alive while the segment is used:
    /// the executor owns both, and links give segments back before they are dropped.
    pub fn segment(&self, offset: usize, len: usize) -> Segment {
        assert!(offset <= self.len && len <= self.len - offset, "range outside the arena");
        // SAFETY: in bounds; the memory lives as long as the arena.
        unsafe { Segment::from_raw(self.ptr.as_ptr().add(offset), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { std::alloc::dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_copies() {
        let mut data = [1u8, 2, 3, 4, 5];
        let mut out = [0u8; 3];
        lend(|lender| {
            let all = lender.unique(&mut data);
            let to = lender.unique(&mut out);
            all.slice(1, 3).copy_to(&to);
            assert!(all.overlaps(&all.slice(4, 1)));
            assert!(!all.slice(0, 2).overlaps(&all.slice(2, 3)));
        });
        assert_eq!(out, [2, 3, 4]);
    }

    #[test]
    fn copies_past_the_cache_are_copies() {
        let source = Arena::new(700);
        (0..700).for_each(|i| source.segment(i, 1).fill_from(&[(i as u8).wrapping_add(1)]));
        for (from, to, len) in
            [(0, 0, 0), (0, 0, 1), (3, 0, 64), (0, 5, 300), (1, 16, 640), (7, 15, 131), (60, 1, 79)]
        {
            let target = Arena::new(700);
            source.segment(from, len).stream_to(&target.segment(to, len));
            for i in 0..700 {
                let expected =
                    if i >= to && i < to + len { ((from + i - to) as u8).wrapping_add(1) } else { 0 };
                assert_eq!(
                    target.segment(i, 1).bytes(),
                    [expected],
                    "{len} bytes from {from} to {to}: byte {i}"
                );
            }
        }
    }

    #[test]
    fn what_was_lent_for_reading_is_not_written() {
        let data = [1u8; 128];
        let mut other = [2u8; 128];
        lend(|lender| {
            let (read, write) = (lender.shared(&data), lender.unique(&mut other));
            assert!(write.is_writable() && write.slice(3, 4).is_writable() && Segment::EMPTY.is_writable());
            let part = read.slice(1, 100).clone();
            assert!(!part.is_writable());
            let attempts: [&dyn Fn(); 4] = [
                &|| part.clone().bytes_mut().fill(0),
                &|| part.fill_from(&[0]),
                &|| write.slice(0, 100).copy_to(&part),
                &|| write.slice(0, 100).stream_to(&part),
            ];
            for attempt in attempts {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).unwrap_err();
            }
            assert_eq!(part.bytes(), [1; 100]);
            part.copy_to(&write);
            assert_eq!(write.bytes()[..100], [1; 100]);
        });
    }

    #[test]
    #[should_panic(expected = "outside a segment")]
    fn slice_out_of_range_panics() {
        let data = [0u8; 4];
        lend(|lender| drop(lender.shared(&data).slice(2, usize::MAX)));
    }

    #[test]
    fn lend_waits_for_the_last_clone() {
        let mut data = vec![0u64; 16];
        let worker = lend(|lender| {
            let segment = lender.unique(&mut data);
            std::thread::spawn(move || {
                let mut segment = segment;
                segment.bytes_mut().fill(0xff);
            })
        });
        assert!(data.iter().all(|&x| x == u64::MAX), "lend returned while a clone was alive");
        worker.join().unwrap();
    }
}
