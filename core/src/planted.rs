//! Bugs planted on purpose, to see that the simulator catches them. Compiled in by the feature `planted-bugs`
//! alone, which only the simulator's own test asks for; without it nothing of this is left.

macro_rules! bugs {
    ($($name:ident,)+) => {
        /// One mistake that an implementation of the protocol could make.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub enum Bug {
            $($name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)+];
        }
    };
}

bugs! {
    CommitBeforeAllAreDone,
    FramesOfOldAttemptsAreTaken,
    InputInPlaceIsNotRestored,
    CommitWhatOnlySomeHold,
    WhatSomebodyReturnedStartsAgain,
    FrozenOpsTakeFrames,
    TheLostStillCount,
    ReportsOfAnotherEpochCount,
    LateResultsAreNotForwarded,
    OpsReturnWhileFrozen,
    SafePointsPassUnlessAllHaveArmed,
    NewcomersDoNotReport,
    ViewsForgetNewcomers,
    LogsAskOnceForEachPlace,
    ResultsOfAllAttemptsAreAlike,
    FailuresCountAsReturns,
    WindowsThatOnlySomeHoldAreFinal,
    FinalWindowsAreRestored,
    WhoHoldsPartHoldsAll,
    SourcesAreForgotten,
    WhoMakesAGroupDoesNotCount,
    QuorumsAreNotNeeded,
    HalvesNeedNoTieBreak,
    LinksThatEndProveDeaths,
    TheDeadDoNotCount,
    SilenceProvesDeaths,
    TheTurnedAwayAccuse,
    SealsDoNotWait,
    CompleteCallsAreKept,
    ThreeCommitAsTwo,
    AbortsEndWhatIsFinal,
    AbortsAreForgotten,
    PairsDoNotWait,
    OnlyOneHoleIsSaid,
    HolesNameNoCall,
    NobodyIsCutOff,
    PartsOfBlocksAreWhole,
    StandInsAreForgotten,
    WhatEndedCountsAsReturned,
}

#[cfg(feature = "planted-bugs")]
mod chosen {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Makes the code on this thread have a bug, or none.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    pub(crate) fn has(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod chosen {
    #[inline(always)]
    pub(crate) const fn has(_: super::Bug) -> bool {
        false
    }
}

pub(crate) use chosen::has;
#[cfg(feature = "planted-bugs")]
pub use chosen::plant;
