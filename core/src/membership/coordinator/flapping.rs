//! Machines whose processes are given up and come back, over and over: each time costs the others a change of view, so they
//! wait, longer each time.

use super::Coordinator;
use crate::membership::{Hello, MachineId};
use crate::{Instant, MemberId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first time costs nothing, the second this, each further one twice as much as the one before, but at most…
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// …this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// After so long without another it is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// What the coordinator remembers of machines that flap, and who waits for it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Flapping {
    /// How often processes of a machine were given up that may live, and when last.
    machines: BTreeMap<MachineId, (u32, Instant)>,
    /// Connections of newcomers that have to wait, and until when.
    waiting: BTreeMap<u64, Instant>,
}

impl Flapping {
    /// When the first of those who wait may come in.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Whether a newcomer has to wait.
    pub(super) fn holds(&self, connection: u64) -> bool {
        self.waiting.contains_key(&connection)
    }

    /// Lets those in whose time has come; true if there are any.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|_, until| *until > now);
        self.waiting.len() < before
    }

    /// A process that was given up has ended after all: that is no flapping.
    fn forgive(&mut self, machine: &MachineId) {
        if let Some((times, _)) = self.machines.get_mut(machine) {
            *times = times.saturating_sub(1);
        }
    }

    /// How long a newcomer waits. Those of one machine differ by up to a quarter, so that they do not come all at once.
    fn wait(&mut self, hello: &Hello, now: Instant) -> Duration {
        self.machines.retain(|_, (_, last)| now.since(*last) < FORGOTTEN_AFTER);
        let Some((times, _)) = self.machines.get(&hello.info.machine) else { return Duration::ZERO };
        let Some(doublings) = times.checked_sub(2) else { return Duration::ZERO };
        let wait = FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT);
        wait - wait / 4 * u32::from(hello.info.peer.0[0]) / 255
    }
}

impl Coordinator {
    /// A member was given up that may live.
    pub(super) fn note_flapping(&mut self, id: MemberId, now: Instant) {
        let Some(info) = self.views().find_map(|view| view.member(id)) else { return };
        let machine = info.machine.clone();
        let (times, last) = self.flapping.machines.entry(machine).or_insert((0, now));
        (*times, *last) = (times.saturating_add(1), now);
    }

    /// It has ended.
    pub(super) fn forgive_flapping(&mut self, machine: &MachineId) {
        self.flapping.forgive(machine);
    }

    /// Has a newcomer wait if its machine flaps; false if it may come in at once.
    pub(super) fn holds_back(&mut self, connection: u64, hello: &Hello, now: Instant) -> bool {
        let wait = self.flapping.wait(hello, now);
        if wait > Duration::ZERO {
            self.flapping.waiting.insert(connection, now.after(wait));
        }
        wait > Duration::ZERO
    }

    pub(super) fn forget_waiting(&mut self, connection: u64) {
        self.flapping.waiting.remove(&connection);
    }
}
