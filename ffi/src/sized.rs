//! Structs that begin with their own size, so that old programs run with new libraries and the reverse.
//!
//! A caller built with an older header gives a smaller size: what it lacks counts as zero. One built with
//! a newer header gives a larger size: what this library does not know must be zero, else the caller asked
//! for something that would be ignored.

use crate::status::null;
use runtime::{Error, Misuse};

/// Larger than any such struct will ever be; a size beyond it is an uninitialised field.
const MOST: usize = 4096;

/// A struct of the header that begins with `size_t size`.
///
/// # Safety
///
/// The type is `repr(C)`, starts with a `usize`, has no padding, and any bytes are a valid value.
pub(crate) unsafe trait Sized: Copy {
    /// Its name in the header.
    const NAME: &'static str;
}

/// The size that the caller's struct claims.
///
/// # Safety
///
/// `place` points to at least a `size_t`.
unsafe fn size_of_callers<T: Sized>(place: *const T) -> Result<usize, Error> {
    // SAFETY: by the contract of this function.
    let size = unsafe { place.cast::<usize>().read_unaligned() };
    if (size_of::<usize>()..=MOST).contains(&size) {
        return Ok(size);
    }
    let text = format!("{0}.size is {size}: set it to sizeof({0}), for example by its _INIT macro", T::NAME);
    Err(Misuse::Other(text.into()).into())
}

/// Reads a struct of the caller.
///
/// # Safety
///
/// `place` points to a struct as long as its first field says, which does not change meanwhile.
pub(crate) unsafe fn read<T: Sized>(place: *const T) -> Result<T, Error> {
    if place.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: not null, and by the contract of this function.
    let size = unsafe { size_of_callers(place) }?;
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are inside both; the types have no invalid values.
    let value = unsafe {
        std::ptr::copy_nonoverlapping(place.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
        value.assume_init()
    };
    // SAFETY: the caller's struct goes on to `size`.
    let rest = unsafe { std::slice::from_raw_parts(place.cast::<u8>().add(known), size - known) };
    if rest.iter().any(|byte| *byte != 0) {
        let text = format!("{} has a field that this version of libronde does not know", T::NAME);
        return Err(Misuse::Other(text.into()).into());
    }
    Ok(value)
}

/// Reads a struct, or gives `None` for null.
///
/// # Safety
///
/// `place` is null or as [`read`] needs it.
pub(crate) unsafe fn read_optional<T: Sized>(place: *const T) -> Result<Option<T>, Error> {
    // SAFETY: by the contract of this function.
    if place.is_null() { Ok(None) } else { unsafe { read(place) }.map(Some) }
}

/// The entries of an array of such structs, all of the size that the first one states.
///
/// # Safety
///
/// `array` is null or points to `count` structs, at least one, as long as the first field of the first one says.
pub(crate) unsafe fn entries<T: Sized>(array: *const T, count: usize) -> Result<Vec<*const T>, Error> {
    if array.is_null() {
        return Err(null(T::NAME));
    }
    // SAFETY: not null, and by the contract of this function.
    let stride = unsafe { size_of_callers(array) }?;
    let entry = |at: usize| {
        let place = array.cast::<u8>().wrapping_add(at * stride).cast::<T>();
        // SAFETY: inside the array.
        match unsafe { size_of_callers(place) }? {
            size if size == stride => Ok(place),
            size => {
                let text = format!("entry {at} of an array of {} has size {size}, entry 0 {stride}", T::NAME);
                Err(Misuse::Other(text.into()).into())
            }
        }
    };
    (0..count).map(entry).collect()
}

/// Refuses a struct whose size is impossible before anything is done for it; null is allowed.
///
/// # Safety
///
/// `place` is null or points to at least a `size_t`.
pub(crate) unsafe fn check<T: Sized>(place: *const T) -> Result<(), Error> {
    if place.is_null() {
        return Ok(());
    }
    // SAFETY: not null, and by the contract of this function.
    unsafe { size_of_callers(place) }.map(drop)
}

/// Writes as much of `value` as the caller's struct has, past its size; nothing for null.
///
/// # Safety
///
/// `place` is null or points to a struct as long as its first field says, which nobody else uses.
pub(crate) unsafe fn write<T: Sized>(place: *mut T, value: T) -> Result<(), Error> {
    if place.is_null() {
        return Ok(());
    }
    // SAFETY: not null, and by the contract of this function.
    let size = unsafe { size_of_callers(place.cast_const()) }?;
    let known = size.min(size_of::<T>()) - size_of::<usize>();
    // SAFETY: inside both structs, as above.
    unsafe {
        let from = (&raw const value).cast::<u8>().add(size_of::<usize>());
        std::ptr::copy_nonoverlapping(from, place.cast::<u8>().add(size_of::<usize>()), known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    #[repr(C)]
    struct Now {
        size: usize,
        a: u64,
        b: u64,
    }
    // SAFETY: three words, any value.
    unsafe impl Sized for Now {
        const NAME: &'static str = "now";
    }

    fn read_words(words: &[u64]) -> Result<Now, String> {
        // SAFETY: the tests give as many words as the first one says, or an impossible size.
        unsafe { read(words.as_ptr().cast::<Now>()) }.map_err(|e| e.to_string())
    }

    #[test]
    fn older_and_newer_callers() {
        assert_eq!(read_words(&[16, 5]).unwrap(), Now { size: 16, a: 5, b: 0 });
        assert_eq!(read_words(&[24, 5, 6]).unwrap(), Now { size: 24, a: 5, b: 6 });
        assert_eq!(read_words(&[32, 5, 6, 0]).unwrap(), Now { size: 32, a: 5, b: 6 });
        assert!(read_words(&[32, 5, 6, 1]).unwrap_err().contains("does not know"));
        for bad in [0, 7, 4097, u64::MAX] {
            assert!(read_words(&[bad, 5, 6]).unwrap_err().contains("sizeof(now)"), "{bad}");
            // SAFETY: only the size is read.
            assert!(unsafe { check((&raw const bad).cast::<Now>()) }.is_err(), "{bad}");
        }
    }

    #[test]
    fn results_stop_at_the_callers_end() {
        let value = Now { size: 24, a: 7, b: 8 };
        let mut small = [16u64, 0, 99];
        // SAFETY: 16 bytes are there, as the first word says.
        unsafe { write(small.as_mut_ptr().cast::<Now>(), value) }.unwrap();
        assert_eq!(small, [16, 7, 99]);
        let mut large = [32u64, 0, 0, 99];
        // SAFETY: 32 bytes are there, as the first word says.
        unsafe { write(large.as_mut_ptr().cast::<Now>(), value) }.unwrap();
        assert_eq!(large, [32, 7, 8, 99]);
    }

    #[test]
    fn arrays_have_one_stride() {
        let words = [16u64, 1, 16, 2, 16, 3, 24];
        let first = words.as_ptr().cast::<Now>();
        // SAFETY: the array has three structs of 16 bytes, and a fourth that begins.
        let (three, four) = unsafe { (entries(first, 3), entries(first, 4)) };
        // SAFETY: as long as they say.
        let read_one = |place: *const Now| unsafe { read(place) }.unwrap().a;
        assert_eq!(three.unwrap().into_iter().map(read_one).collect::<Vec<u64>>(), [1, 2, 3]);
        assert!(four.unwrap_err().to_string().contains("entry 3 of an array of now has size 24, entry 0 16"));
        // SAFETY: null is allowed.
        assert!(unsafe { entries::<Now>(std::ptr::null(), 1) }.is_err());
    }

    #[test]
    fn nothing_at_all_is_named() {
        // SAFETY: null is allowed.
        assert!(unsafe { read::<Now>(std::ptr::null()) }.is_err());
        // SAFETY: null is allowed.
        assert!(unsafe { read_optional::<Now>(std::ptr::null()) }.unwrap().is_none());
        // SAFETY: null is allowed.
        assert!(unsafe { check::<Now>(std::ptr::null()) }.is_ok());
    }
}
