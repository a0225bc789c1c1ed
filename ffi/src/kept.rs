//! What C gets pointers to: names, and lists of ranks and parts. Each is kept once, and as long as the handles that gave it,
//! so that no update and no other thread takes it away from who reads it. Lists of holes may be others in every call, so only
//! the last ones are kept.

use crate::collectives::{ronde_hole, ronde_part};
use runtime::{Hole, Part};
use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, CString, c_char};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Lists of holes that stay, as the header says.
const HOLES_KEPT: usize = 1024;

/// One of each. It grows with the hosts that ever took part, with the losses that ops lived through, and with the
/// per-window calls that these cut into parts.
#[derive(Default)]
pub(crate) struct Kept {
    names: Mutex<HashSet<Arc<CStr>>>,
    ranks: Mutex<HashSet<Arc<[i32]>>>,
    parts: Mutex<HashSet<Arc<[ronde_part]>>>,
    /// The last ones, the oldest first.
    holes: Mutex<VecDeque<Arc<[ronde_hole]>>>,
}

impl Kept {
    /// The name, as C wants it.
    pub(crate) fn name(&self, name: &str) -> *const c_char {
        // Names come from other processes: one with a zero byte inside is none.
        let name = CString::new(name).unwrap_or_default();
        keep(&self.names, name.as_c_str()).as_ptr()
    }

    /// The ranks, as C wants them; null for none of them.
    pub(crate) fn ranks(&self, ranks: &[u32]) -> *const i32 {
        if ranks.is_empty() {
            return std::ptr::null();
        }
        let ranks: Vec<i32> = ranks.iter().map(|&rank| rank as i32).collect();
        keep(&self.ranks, &ranks).as_ptr()
    }

    /// The parts of a vector, as C wants them; null for none of them.
    pub(crate) fn parts(&self, parts: &[Part]) -> *const ronde_part {
        if parts.is_empty() {
            return std::ptr::null();
        }
        let part = |part: &Part| ronde_part {
            first: part.elements.start,
            count: part.elements.len(),
            absent: self.ranks(&part.absent),
            absent_count: part.absent.len(),
            contributors: part.contributors,
            reserved: 0,
        };
        let parts: Vec<ronde_part> = parts.iter().map(part).collect();
        keep(&self.parts, &parts).as_ptr()
    }

    /// The holes in an output, as C wants them; null for none of them. The oldest list makes room for them.
    pub(crate) fn holes(&self, holes: &[Hole]) -> *const ronde_hole {
        if holes.is_empty() {
            return std::ptr::null();
        }
        let hole =
            |Hole { call, bytes }: &Hole| ronde_hole { first: bytes.start, bytes: bytes.len(), call: *call };
        let list: Arc<[ronde_hole]> = holes.iter().map(hole).collect();
        let place = list.as_ptr();
        let mut kept = self.holes.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == HOLES_KEPT {
            kept.pop_front();
        }
        kept.push_back(list);
        place
    }
}

/// The one of its kind that stays.
fn keep<T: ?Sized + Eq + Hash>(all: &Mutex<HashSet<Arc<T>>>, one: &T) -> Arc<T>
where
    Arc<T>: for<'a> From<&'a T>,
{
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(one) {
        return known.clone();
    }
    let new = Arc::<T>::from(one);
    all.insert(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_stays_where_it_is() {
        let kept = Kept::default();
        let (name, ranks) = (kept.name("node7"), kept.ranks(&[1, 4]));
        for number in 0..1000u32 {
            kept.name(&format!("node{number}"));
            kept.ranks(&[number, number + 3]);
        }
        assert_eq!((kept.name("node7"), kept.ranks(&[1, 4])), (name, ranks));
        assert_eq!((kept.names.lock().unwrap().len(), kept.ranks.lock().unwrap().len()), (1000, 1000));
        // SAFETY: kept until the end of this function, with two elements.
        let read = unsafe { (CStr::from_ptr(name), std::slice::from_raw_parts(ranks, 2)) };
        assert_eq!(read, (c"node7", &[1, 4][..]));
    }

    #[test]
    fn parts_point_to_their_lists() {
        let kept = Kept::default();
        let part = |elements, absent: &[u32]| Part {
            elements,
            contributors: 4 - absent.len() as u32,
            absent: absent.into(),
        };
        let parts = [part(0..640, &[]), part(640..1000, &[1, 3])];
        let first = kept.parts(&parts);
        assert_eq!(kept.parts(&parts), first);
        // SAFETY: kept until the end of this function, with two elements, of which the second has a list of two.
        let (read, absent) = unsafe {
            let read = std::slice::from_raw_parts(first, 2);
            (read, std::slice::from_raw_parts(read[1].absent, read[1].absent_count))
        };
        assert_eq!(
            (read[0].first, read[0].count, read[0].contributors, read[0].absent.is_null()),
            (0, 640, 4, true)
        );
        assert_eq!((read[1].first, read[1].count, read[1].contributors, absent), (640, 360, 2, &[1, 3][..]));
    }

    #[test]
    fn the_last_holes_stay_where_they_are() {
        let kept = Kept::default();
        let list =
            |number: usize| [Hole { call: 0, bytes: 0..4 }, Hole { call: 2, bytes: number..number + 7 }];
        let places: Vec<*const ronde_hole> =
            (0..3 * HOLES_KEPT).map(|number| kept.holes(&list(number))).collect();
        assert_eq!(kept.holes.lock().unwrap().len(), HOLES_KEPT);
        for (number, place) in places.into_iter().enumerate().skip(2 * HOLES_KEPT) {
            // SAFETY: of the last ones, so it is kept, with two elements.
            let read = unsafe { std::slice::from_raw_parts(place, 2) };
            assert_eq!((read[0].first, read[0].bytes, read[0].call), (0, 4, 0));
            assert_eq!((read[1].first, read[1].bytes, read[1].call), (number, 7, 2));
        }
    }

    #[test]
    fn nothing_is_null_or_empty() {
        let kept = Kept::default();
        assert!(kept.holes(&[]).is_null());
        assert!(kept.parts(&[]).is_null());
        assert!(kept.ranks(&[]).is_null());
        // SAFETY: kept until the end of this function.
        assert_eq!(unsafe { CStr::from_ptr(kept.name("a\0b")) }, c"");
    }
}
