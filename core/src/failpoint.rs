//! Points in the life of an op at which a test may do something to its process: kill it, stop it, cut it off from
//! a peer. Compiled in by the feature `failpoints` alone, which only the tests over real processes ask for; without
//! it nothing of this is left.

use crate::OpId;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What an op has just done, or what has just come for it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Point {
            $($(#[$doc])* $name,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$name,)+];
        }
    };
}

points! {
    /// An attempt begins: nothing has been sent or opened.
    Started,
    /// A window is open, and what it overwrites is saved.
    WindowOpened,
    /// A link has taken a frame of data.
    Sent,
    /// A frame of data is where it belongs.
    Received,
    /// Contributions were reduced.
    Reduced,
    /// All steps of a window are done.
    WindowFinished,
    /// One member was told that this one is done.
    DoneSent,
    /// One member said that it is done.
    DoneReceived,
    /// The result is in the log.
    Logged,
    /// The op is final here, and its caller has not heard of it.
    Committed,
    /// A loss has ended the attempt, and nobody was told yet how far it was.
    Frozen,
}

/// Where an op is.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// What was done.
    pub point: Point,
    /// By which op.
    pub op: OpId,
    /// In which window; 0 for what concerns the whole op.
    pub window: u32,
}

#[cfg(feature = "failpoints")]
mod hook {
    use super::{OpId, Point, Reached};
    use crate::membership::ToMember;
    use std::sync::OnceLock;

    type Hook = Box<dyn Fn(&Reached) + Send + Sync>;

    type TellingHook = Box<dyn Fn(&ToMember) + Send + Sync>;

    static HOOK: OnceLock<Hook> = OnceLock::new();
    static TELLING_HOOK: OnceLock<TellingHook> = OnceLock::new();

    /// Has every op of this process call `hook` at each of its points, on whatever thread drives it. Only the first
    /// hook counts.
    pub fn set_hook(hook: impl Fn(&Reached) + Send + Sync + 'static) {
        let _ = HOOK.set(Box::new(hook));
    }

    /// Has the coordinator of this process call `hook` whenever it has told one member something. Only the first hook
    /// counts.
    pub fn set_telling_hook(hook: impl Fn(&ToMember) + Send + Sync + 'static) {
        let _ = TELLING_HOOK.set(Box::new(hook));
    }

    /// The coordinator has told one member this.
    pub fn told(message: &ToMember) {
        if let Some(hook) = TELLING_HOOK.get() {
            hook(message);
        }
    }

    pub(crate) fn reach(point: Point, op: &OpId, window: u32) {
        if let Some(hook) = HOOK.get() {
            hook(&Reached { point, op: *op, window });
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod hook {
    #[inline(always)]
    pub(crate) const fn reach(_: super::Point, _: &super::OpId, _: u32) {}

    /// The coordinator has told one member this.
    #[inline(always)]
    pub const fn told(_: &crate::membership::ToMember) {}
}

pub(crate) use hook::reach;
pub use hook::told;
#[cfg(feature = "failpoints")]
pub use hook::{set_hook, set_telling_hook};
