//! The one loop over all sources, compiled once per level of vector instructions.

use super::lanes::{Combine, Lane};
use ronde_core::Segment;
use std::mem::MaybeUninit;

/// Elements that are held in the accumulator at a time: a few KiB, so that it stays in the first cache
/// while all sources stream through it.
const BLOCK: usize = 512;
/// Results below this do not bypass the cache.
const SMALLEST_STREAM: usize = 256 << 10;

/// Vector instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// What the compiler makes of the target's baseline (SSE2, NEON).
    Portable,
    /// x86-64 with 256-bit vectors.
    Avx2,
    /// x86-64 with 512-bit vectors.
    Avx512,
}

impl Level {
    /// Every level, best first.
    pub const ALL: [Level; 3] = [Level::Avx512, Level::Avx2, Level::Portable];

    /// The best level of this processor.
    pub fn best() -> Level {
        Level::ALL.into_iter().find(|level| level.is_available()).unwrap_or(Level::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// One reduction; lengths are checked.
pub(super) struct Pass<'a> {
    pub(super) level: Level,
    pub(super) srcs: &'a [Segment],
    pub(super) dst: &'a Segment,
    pub(super) divisor: Option<f64>,
    pub(super) streaming: bool,
}

impl Pass<'_> {
    pub(super) fn run<T: Lane, O: Combine<T::Acc>>(&self) {
        debug_assert!(self.level.is_available());
        match self.level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was found to be available when the kernels were made.
            Level::Avx512 => unsafe { run_avx512::<T, O>(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { run_avx2::<T, O>(self) },
            _ => run_anywhere::<T, O>(self),
        }
    }

    fn streams(&self) -> bool {
        self.streaming && self.dst.len() >= SMALLEST_STREAM && cfg!(target_arch = "x86_64")
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<T: Lane, O: Combine<T::Acc>>(pass: &Pass<'_>) {
    run_anywhere::<T, O>(pass);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<T: Lane, O: Combine<T::Acc>>(pass: &Pass<'_>) {
    run_anywhere::<T, O>(pass);
}

#[inline(always)]
fn run_anywhere<T: Lane, O: Combine<T::Acc>>(pass: &Pass<'_>) {
    let count = pass.dst.len() / size_of::<T>();
    let streams = pass.streams();
    let mut accumulator = [const { MaybeUninit::<T::Acc>::uninit() }; BLOCK];
    let mut start = 0;
    while start < count {
        let len = BLOCK.min(count - start);
        let block = &mut accumulator[..len];
        // SAFETY: `start + len <= count` elements of every source, whose lengths equal the
        // destination's. All sources are read before the block of the destination is written, so it may
        // be one of them.
        unsafe {
            combine_block::<T, O>(pass.srcs, start, block);
            if let Some(by) = pass.divisor {
                for acc in block.iter_mut() {
                    *acc = MaybeUninit::new(T::divide(acc.assume_init(), by));
                }
            }
            let to = pass.dst.as_ptr().cast::<T>().add(start);
            if streams { stream_block::<T>(block, to) } else { store_block::<T>(block, to) }
        }
        start += len;
    }
    if streams {
        fence_streams();
    }
}

/// Fills the block with the sources' elements from `start` on, combined in their order.
///
/// # Safety
///
/// Every source has `start + block.len()` elements.
#[inline(always)]
unsafe fn combine_block<T: Lane, O: Combine<T::Acc>>(
    srcs: &[Segment],
    start: usize,
    block: &mut [MaybeUninit<T::Acc>],
) {
    // SAFETY: in range, by the contract above.
    let at = |source: &Segment| unsafe { source.as_ptr().cast::<T>().add(start) };
    // Two sources at a time halve the traffic of the accumulator.
    let first = at(&srcs[0]);
    let mut rest = &srcs[1..];
    match rest.split_first() {
        None => {
            for (i, acc) in block.iter_mut().enumerate() {
                // SAFETY: i < block.len().
                *acc = MaybeUninit::new(unsafe { first.add(i).read_unaligned() }.widen());
            }
        }
        Some((second, others)) => {
            let second = at(second);
            rest = others;
            for (i, acc) in block.iter_mut().enumerate() {
                // SAFETY: i < block.len().
                let (a, b) = unsafe { (first.add(i).read_unaligned(), second.add(i).read_unaligned()) };
                *acc = MaybeUninit::new(O::combine(a.widen(), b.widen()));
            }
        }
    }
    for source in rest {
        let source = at(source);
        for (i, acc) in block.iter_mut().enumerate() {
            // SAFETY: i < block.len(), and the first loop initialised every accumulator.
            let (a, b) = unsafe { (acc.assume_init(), source.add(i).read_unaligned()) };
            *acc = MaybeUninit::new(O::combine(a, b.widen()));
        }
    }
}

/// Writes the block.
///
/// # Safety
///
/// The block is initialised and `to` has room for it.
#[inline(always)]
unsafe fn store_block<T: Lane>(block: &[MaybeUninit<T::Acc>], to: *mut T) {
    for (i, acc) in block.iter().enumerate() {
        // SAFETY: by the contract.
        unsafe { to.add(i).write_unaligned(T::narrow(acc.assume_init())) }
    }
}

/// Writes the block past the cache.
///
/// # Safety
///
/// As for [`store_block`].
#[inline(always)]
unsafe fn stream_block<T: Lane>(block: &[MaybeUninit<T::Acc>], to: *mut T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let mut narrow = [const { MaybeUninit::<T>::uninit() }; BLOCK];
        for (slot, acc) in narrow.iter_mut().zip(block) {
            // SAFETY: the block is initialised.
            *slot = MaybeUninit::new(T::narrow(unsafe { acc.assume_init() }));
        }
        let bytes = std::mem::size_of_val(block) / size_of::<T::Acc>() * size_of::<T>();
        if to.addr().is_multiple_of(16) && bytes.is_multiple_of(16) {
            let from = narrow.as_ptr().cast::<__m128i>();
            for i in 0..bytes / 16 {
                // SAFETY: both ranges have `bytes` bytes; the target is aligned; SSE2 is baseline.
                unsafe { _mm_stream_si128(to.cast::<__m128i>().add(i), _mm_loadu_si128(from.add(i))) }
            }
            return;
        }
    }
    // SAFETY: by the contract.
    unsafe { store_block::<T>(block, to) }
}

/// Orders streamed stores before whatever tells others that the bytes are there.
#[inline(always)]
fn fence_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    }
}
