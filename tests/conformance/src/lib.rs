//! What every transport must pass, and a link that injects faults.
//!
//! A transport brings an expression that makes a connected [`Pair`]; [`conformance!`] makes the
//! tests of it. The same tests run through [`FaultyLink`], which is a transport like any other.
//!
//! * [`suite`]: the tests.
//! * [`end`]: one end of a pair with frames to send, memory of its own and checks of what arrives.
//! * [`faulty`]: the wrapper.
//! * [`CutPair`]: TCP links whose connections are cut and replaced.
//! * [`Memory`]: of what kind the payloads of an end lie in.
//! * [`Counting`]: an allocator that counts, for tests that say what allocates nothing.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "an allocator is an unsafe trait")]
mod counting;
mod cut;
pub mod end;
pub mod faulty;
#[allow(unsafe_code, reason = "registered memory is lent as it is")]
mod memory;
mod shm;
pub mod suite;
mod tcp;

pub use counting::Counting;
pub use cut::CutPair;
pub use faulty::{Faults, FaultyLink};
pub use memory::{Memory, Piece};
pub use shm::{registered_pair, shm_pair};
pub use tcp::{TcpPair, tcp_sockets};

use ronde_core::transport::Link;

/// Two connected ends, both with link number [`end::LINK`].
pub struct Pair {
    /// One end.
    pub near: Box<dyn Link>,
    /// The other.
    pub far: Box<dyn Link>,
    /// What each sends from, the near one first.
    pub memory: [Memory; 2],
}

impl Pair {
    /// Two ends that send from memory of the usual kind.
    pub fn new(near: Box<dyn Link>, far: Box<dyn Link>) -> Pair {
        Pair { near, far, memory: [Memory::Plain, Memory::Plain] }
    }

    /// The same pair behind wrappers that inject faults; the ends get different seeds.
    pub fn faulty(self, faults: Faults) -> Pair {
        let other = Faults { seed: faults.seed.wrapping_add(1), ..faults.clone() };
        Pair {
            near: Box::new(FaultyLink::new(end::LINK, self.near, faults)),
            far: Box::new(FaultyLink::new(end::LINK, self.far, other)),
            memory: self.memory,
        }
    }
}

/// Makes a test of every function in [`suite`] for the pairs that an expression makes.
#[macro_export]
macro_rules! conformance {
    ($pair:expr) => {
        $crate::conformance! { $pair;
            delivers_each_frame_once
            delivers_many_small_frames
            saturates_both_directions_on_two_threads
            pushes_back_when_the_receiver_is_slow
            sleeps_and_wakes
            gives_views_back_in_any_order
            discards_what_is_not_wanted
            ends_when_a_frame_is_refused
            tells_of_an_orderly_end_after_the_frames
            tells_of_a_dropped_end
            keeps_no_memory_after_close
        }
    };
    ($pair:expr; $($test:ident)*) => { $(
        #[test]
        fn $test() {
            $crate::suite::$test(&|| $pair);
        }
    )* };
}
