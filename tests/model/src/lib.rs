//! A model of the commit and view protocol, searched completely.
//!
//! What decides is production code: [`Coordinator`], [`Follower`] and [`plan`], driven event by event. What the
//! model makes itself is around that: the ops of a process without their bytes ([`executor`]), the control
//! connections, and who looks for which coordinator ([`steps`]). A state of the model is a whole job
//! ([`World`]); the checker goes from each state to all that may follow, until there are no new ones.
//!
//! A [`Scenario`] bounds how much may befall a job: calls, deaths, newcomers, restarts. Within it everything
//! happens in every order: processes are as slow as can be, a death loses any suffix of what was on its way to or
//! from the process, a frame may be taken late or, if its sender has died, never.
//!
//! [`Coordinator`]: ronde_core::membership::Coordinator
//! [`Follower`]: ronde_core::membership::Follower
//! [`plan`]: ronde_core::recovery::plan

#![forbid(unsafe_code)]

pub mod executor;
mod properties;
mod shared;
pub mod situations;
pub mod steps;
pub mod world;

use ronde_core::planted::Bug;
pub use shared::Shared;
use situations::Situation;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
pub use steps::Step;
pub use world::World;

/// A call of every member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// A small all-reduce: it commits by log.
    Log,
    /// A large one: it commits by Done.
    Done,
    /// A broadcast from this process, which commits by Done; the loss of the root ends it.
    Rooted(usize),
    /// Passes a safe point.
    Update,
}

/// What may happen to a job.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Members at the start.
    pub peers: usize,
    /// The coordinator runs alone; else the first process hosts it.
    pub stand_alone: bool,
    /// Calls of everybody in the first generation.
    pub first: Vec<Call>,
    /// Calls in each later one.
    pub later: Vec<Call>,
    /// A call may be made while those before are open.
    pub concurrent: bool,
    /// Processes that die.
    pub deaths: u8,
    /// Ends of a coordinator that runs alone; another begins at its address.
    pub restarts: u8,
    /// Processes that join.
    pub newcomers: u8,
    /// Members that leave in order.
    pub leaves: u8,
    /// How often a member hears nothing of a coordinator that lives, and looks for another.
    pub silences: u8,
    /// Calls that a member finds late.
    pub late: u8,
    /// A mistake that the code is made to have, where `planted-bugs` is on.
    pub bug: Option<Bug>,
}

impl Default for Scenario {
    fn default() -> Scenario {
        Scenario {
            peers: 3,
            stand_alone: false,
            first: Vec::new(),
            later: Vec::new(),
            concurrent: false,
            deaths: 0,
            restarts: 0,
            newcomers: 0,
            leaves: 0,
            silences: 0,
            late: 0,
            bug: None,
        }
    }
}

/// One search.
#[derive(Clone)]
struct Search {
    scenario: Scenario,
    /// States whose steps were all taken.
    expanded: Arc<AtomicUsize>,
    /// A bit for each situation that has occurred.
    seen: Arc<AtomicU32>,
}

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    /// States that differ.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Steps to the state that is farthest away.
    pub depth: usize,
    /// Every state's steps were all taken.
    pub is_complete: bool,
    /// Situations that have occurred.
    pub seen: BTreeSet<Situation>,
    /// What does not hold, and the steps to where it does not.
    pub broken: Option<(String, Vec<Step>)>,
}

impl Model for Search {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.scenario)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.expanded.fetch_add(1, Ordering::Relaxed);
        self.seen.fetch_or(world.situations(&self.scenario), Ordering::Relaxed);
        world.steps(&self.scenario, steps);
        world.events(&self.scenario, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        // The checker has threads of its own.
        #[cfg(feature = "planted-bugs")]
        ronde_core::planted::plant(self.scenario.bug);
        let mut next = world.clone();
        next.take(&self.scenario, &step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Search>> {
        properties::all()
    }
}

impl Scenario {
    /// Searches all states, or until something does not hold.
    pub fn search(&self) -> Found {
        let (expanded, seen) = (Arc::default(), Arc::default());
        let search = Search { scenario: self.clone(), expanded, seen };
        let all = properties::all().iter().map(|property| property.name).collect();
        let checker = search.clone().checker();
        let checker = checker.finish_when(HasDiscoveries::AnyOf(all)).spawn_bfs().join();
        let broken = checker.discoveries().into_iter().next().map(|(name, path)| {
            let fault = path.last_state().fault.clone().unwrap_or_default();
            (format!("{name}: {fault}"), path.into_actions())
        });
        let states = checker.unique_state_count();
        let is_complete = broken.is_none() && search.expanded.load(Ordering::Relaxed) == states;
        let (steps, depth) = (checker.state_count(), checker.max_depth());
        let seen = Situation::of_bits(search.seen.load(Ordering::Relaxed));
        Found { states, steps, depth, is_complete, seen, broken }
    }
}
