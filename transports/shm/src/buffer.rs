//! Registered memory: peers of the machine read it in place.

use crate::region::{self, Mapping};
use ronde_core::Segment;
use ronde_core::memory::Pod;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// One piece of registered memory.
pub(crate) struct Registered {
    pub(crate) id: u64,
    pub(crate) file: OwnedFd,
    mapping: Mapping,
}

impl Registered {
    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    fn start(&self) -> usize {
        self.mapping.at(0) as usize
    }
}

/// The registered memory of a process.
#[derive(Default)]
pub struct Registry {
    /// By start address.
    buffers: RwLock<Vec<Arc<Registered>>>,
    count: AtomicUsize,
    next: AtomicU64,
    /// Grows whenever a buffer is dropped.
    drops: AtomicU64,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// The buffer that a segment lies in, with the offset.
    pub(crate) fn find(&self, segment: &Segment) -> Option<(Arc<Registered>, usize)> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let start = segment.as_ptr() as usize;
        let buffers = self.buffers.read().unwrap_or_else(PoisonError::into_inner);
        let at = buffers.partition_point(|b| b.start() <= start).checked_sub(1)?;
        let buffer = &buffers[at];
        let offset = start - buffer.start();
        (offset + segment.len() <= buffer.len()).then(|| (buffer.clone(), offset))
    }

    /// Number of buffers dropped so far.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.load(Ordering::Relaxed)
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.buffers.read().unwrap_or_else(PoisonError::into_inner).iter().any(|b| b.id == id)
    }
}

/// Zeroed memory that peers of this machine read without a copy.
pub struct SharedBuffer {
    registered: Arc<Registered>,
    registry: Arc<Registry>,
    len: usize,
}

impl SharedBuffer {
    /// Allocates `bytes`, rounded up to whole pages.
    pub fn new(bytes: usize, registry: &Arc<Registry>) -> Result<SharedBuffer, std::io::Error> {
        let page = rustix::param::page_size();
        let len = bytes.max(1).checked_next_multiple_of(page).ok_or(Errno::NOMEM)?;
        let file = region::create("ronde-memory", len)?;
        let mapping = Mapping::of(file.as_fd(), len, true)?;
        mapping.advise_huge();
        let id = registry.next.fetch_add(1, Ordering::Relaxed);
        let registered = Arc::new(Registered { id, file, mapping });
        let mut buffers = registry.buffers.write().unwrap_or_else(PoisonError::into_inner);
        let at = buffers.partition_point(|b| b.start() < registered.start());
        buffers.insert(at, registered.clone());
        registry.count.store(buffers.len(), Ordering::Relaxed);
        drop(buffers);
        Ok(SharedBuffer { registered, registry: registry.clone(), len: bytes })
    }

    /// Bytes asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for 0 bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.registered.mapping.at(0)
    }

    /// The memory as a segment. Most callers lend [`SharedBuffer::as_mut_slice`] instead: it is found to
    /// be registered by its address.
    ///
    /// # Safety
    ///
    /// The buffer outlives every clone of the segment, and nobody touches it while an op uses it.
    pub unsafe fn segment(&self) -> Segment {
        // SAFETY: the mapping has at least `len` bytes and lives as long as this buffer; the rest is the
        // caller's promise.
        unsafe { Segment::from_raw(self.as_ptr(), self.len) }
    }

    /// The memory as whole elements.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        // SAFETY: page-aligned, initialised by the kernel, plain data; no op writes it while borrowed
        // (ops that write need the buffer mutably or through a segment whose maker keeps to that).
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len / size_of::<T>().max(1)) }
    }

    /// The memory as whole elements, for writing.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr().cast(), self.len / size_of::<T>().max(1)) }
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        let mut buffers = self.registry.buffers.write().unwrap_or_else(PoisonError::into_inner);
        buffers.retain(|b| b.id != self.registered.id);
        self.registry.count.store(buffers.len(), Ordering::Relaxed);
        self.registry.drops.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_buffer_of_a_segment() {
        let registry = Arc::new(Registry::new());
        let outside = [0u8; 16];
        ronde_core::memory::lend(|lender| assert!(registry.find(&lender.shared(&outside)).is_none()));
        let buffers: Vec<SharedBuffer> =
            [1, 5000, 70_000].iter().map(|&n| SharedBuffer::new(n, &registry).unwrap()).collect();
        for buffer in &buffers {
            // SAFETY: the buffer lives and nobody uses its bytes.
            let last = unsafe { buffer.segment() }.slice(buffer.len() - 1, 1);
            let (found, offset) = registry.find(&last).unwrap();
            assert_eq!((found.id, offset), (buffer.registered.id, buffer.len() - 1));
        }
        let id = buffers[1].registered.id;
        drop(buffers);
        assert!(!registry.contains(id));
        assert_eq!(registry.drops(), 3);
    }
}
