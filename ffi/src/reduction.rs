//! Reductions as numbers: built-in ones as in the header, others from a table.

use crate::status::{Status, give, guard, null};
use runtime::{DType, Error, Misuse, ReduceOp, Reduction, Result, UserReduce};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// A reduction that was made, with the only dtype that it is for.
type Made = (Reduction, Option<DType>);

/// By number; numbers are not used again.
static MADE: LazyLock<RwLock<HashMap<u64, Made>>> = LazyLock::new(RwLock::default);
static NEXT: AtomicU64 = AtomicU64::new(FIRST);
/// Numbers below are built in.
const FIRST: u64 = 1 << 16;

type Combine = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, *mut c_void);

/// A function of the caller with its context.
struct User {
    combine: Combine,
    context: *mut c_void,
}

// SAFETY: the header asks for functions that may be called from any thread, also at once.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl UserReduce for User {
    fn combine(&self, src: &[u8], acc: &mut [u8], dtype: DType) {
        let count = acc.len() / dtype.size();
        // SAFETY: both slices hold `count` elements; the function keeps to the header's contract.
        unsafe {
            (self.combine)(src.as_ptr().cast(), acc.as_mut_ptr().cast(), count, dtype as c_int, self.context);
        }
    }
}

/// The reduction with this number, for a call of this dtype.
pub(crate) fn find(number: u64, dtype: DType) -> Result<Reduction> {
    let unknown = || Error::from(Misuse::Unknown { what: "reduction", got: number });
    if number < FIRST {
        let op = u8::try_from(number).ok().and_then(ReduceOp::from_number);
        return op.map(Reduction::Builtin).ok_or_else(unknown);
    }
    let made = MADE.read().unwrap_or_else(PoisonError::into_inner);
    match made.get(&number).ok_or_else(unknown)? {
        (_, Some(only)) if *only != dtype => {
            let text = format!("reduction {number} was made with a scalar of {only}, the call is of {dtype}");
            Err(Misuse::Other(text.into()).into())
        }
        (reduction, _) => Ok(reduction.clone()),
    }
}

/// Gives a reduction a number.
///
/// # Safety
///
/// `place` is null or a place for a number.
unsafe fn add(reduction: Reduction, only: Option<DType>, place: *mut u64) -> Result<Status> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: by the contract of this function.
    unsafe { give(place, number, "the place for the reduction") }?;
    MADE.write().unwrap_or_else(PoisonError::into_inner).insert(number, (reduction, only));
    Ok(Status::Ok)
}

/// The element type with this number.
pub(crate) fn dtype(number: c_int) -> Result<DType> {
    let found = u8::try_from(number).ok().and_then(DType::from_number);
    found.ok_or_else(|| crate::config::unknown("dtype", number.into()))
}

/// See the header.
///
/// # Safety
///
/// `combine` keeps to the header's contract; `reduction` is null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_reduction_create(
    combine: Option<Combine>,
    context: *mut c_void,
    reduction: *mut u64,
) -> i32 {
    guard(|| {
        let combine = combine.ok_or_else(|| null("combine"))?;
        // SAFETY: by the contract of this function.
        unsafe { add(Reduction::User(Arc::new(User { combine, context })), None, reduction) }
    })
}

/// See the header.
///
/// # Safety
///
/// `scalar` is null or points to one element of `dtype`; `reduction` is null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_reduction_premulsum(
    dtype_number: c_int,
    scalar: *const c_void,
    reduction: *mut u64,
) -> i32 {
    guard(|| {
        let dtype = dtype(dtype_number)?;
        if scalar.is_null() {
            return Err(null("scalar"));
        }
        let mut bytes = [0u8; 16];
        // SAFETY: one element of the type, by the contract of this function; no type has more bytes.
        unsafe { std::ptr::copy_nonoverlapping(scalar.cast::<u8>(), bytes.as_mut_ptr(), dtype.size()) };
        // SAFETY: by the contract of this function.
        unsafe { add(Reduction::PreMulSum(bytes), Some(dtype), reduction) }
    })
}

/// See the header.
///
/// # Safety
///
/// `reduction` is null or a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ronde_reduction_weighted_avg(weight: f64, reduction: *mut u64) -> i32 {
    guard(|| {
        if !(weight.is_finite() && weight >= 0.0) {
            let text = format!("a weight is {weight}: weights are finite and not negative");
            return Err(Misuse::Other(text.into()).into());
        }
        // SAFETY: by the contract of this function.
        unsafe { add(Reduction::WeightedAvg(weight), None, reduction) }
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ronde_reduction_free(reduction: u64) -> i32 {
    guard(|| {
        if reduction < FIRST {
            return Ok(Status::Ok);
        }
        let removed = MADE.write().unwrap_or_else(PoisonError::into_inner).remove(&reduction);
        removed
            .map(|_| Status::Ok)
            .ok_or_else(|| Misuse::Unknown { what: "reduction", got: reduction }.into())
    })
}
