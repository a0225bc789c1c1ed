//! Sealed memfds and their mappings. All `unsafe` around memory maps is here.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// A mapped range of memory.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory at a fixed address; what threads and processes do with it is governed by
// the ring's protocol and by the contract of segments.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a whole file.
    pub(crate) fn of(file: BorrowedFd<'_>, len: usize, writable: bool) -> Result<Mapping, Errno> {
        // SAFETY: the kernel chooses a fresh range; nothing else of this process lies there.
        let start = unsafe { mmap(std::ptr::null_mut(), len, access(writable), MapFlags::SHARED, file, 0)? };
        Ok(Mapping { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, len })
    }

    /// Maps `head` bytes and then the following `ring` bytes twice in a row, so that a record that wraps
    /// is contiguous.
    pub(crate) fn mirrored(
        file: BorrowedFd<'_>,
        head: usize,
        ring: usize,
        writable: bool,
    ) -> Result<Mapping, Errno> {
        let len = head + 2 * ring;
        // SAFETY: reserves a fresh range of its own.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let mapping = Mapping { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, len };
        for (at, bytes, offset) in [(0, head + ring, 0), (head + ring, ring, head as u64)] {
            // SAFETY: replaces part of the range reserved above, which nothing uses yet.
            unsafe {
                let to = mapping.at(at).cast();
                mmap(to, bytes, access(writable), MapFlags::SHARED | MapFlags::FIXED, file, offset)?;
            }
        }
        Ok(mapping)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address of a byte; inside the mapping.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "{offset} is outside a mapping of {} bytes", self.len);
        // SAFETY: in bounds.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Asks for huge pages; a hint only.
    pub(crate) fn advise_huge(&self) {
        // SAFETY: advice on one's own mapping changes no content.
        let _ = unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this object; segments over it are gone by the contract of
        // links and shared buffers.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn access(writable: bool) -> ProtFlags {
    if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ }
}

/// A new memfd of this size that nobody can shrink: a reader never faults on it.
pub(crate) fn create(name: &str, len: usize) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, len as u64)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Checks a descriptor that a peer sent: a memfd of at least `len` bytes that cannot shrink.
pub(crate) fn is_sound(file: &OwnedFd, len: usize) -> bool {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    sealed && fstat(file.as_fd()).is_ok_and(|stat| stat.st_size as u64 >= len as u64)
}
