//! Control connections that are cut between two that live, and taken up again; and processes that get no time.
//!
//! What was said meanwhile arrives late. What is not taken up in time has ended, for each side by itself, and what was on its
//! way then is lost.

use super::wires::{Connection, Line, Up, Wire};
use super::{Event, MS, Process, SUSPECT_AFTER, World};
use rand::Rng;

/// The beats of a process, as it saw them itself.
pub(super) struct Beats {
    last: u64,
    /// After the last pause.
    since: Option<u64>,
}

impl Beats {
    pub(super) fn new(now: u64) -> Beats {
        Beats { last: now, since: None }
    }

    pub(super) fn note(&mut self, now: u64) {
        if now - self.last >= SUSPECT_AFTER / 2 {
            self.since = Some(now);
        }
        self.last = now;
    }

    /// Whether it was stopped until now, or until not so long ago.
    pub(super) fn had_a_pause(&self, now: u64) -> bool {
        now - self.last >= SUSPECT_AFTER / 2 || self.since.is_some_and(|since| now - since < SUSPECT_AFTER)
    }
}

impl Connection {
    /// Of what is on its way nothing arrives.
    pub(super) fn lose_all(&mut self) {
        self.up.clear();
        self.down.clear();
    }
}

impl World {
    /// Control connections that are cut are taken up again from now on.
    pub fn take_connections_up_again(&mut self) {
        self.resumes = true;
    }

    /// How long a member hears nothing before it does something about it.
    pub(super) fn silence(&self) -> u64 {
        if self.resumes { SUSPECT_AFTER / 2 } else { SUSPECT_AFTER }
    }

    /// A connection ends, though nobody has ended it.
    pub(super) fn cut(&mut self, connection: usize, by_member: bool, by_host: bool) {
        let resumes = self.resumes;
        let of = &mut self.connections[connection];
        if of.line == Line::Cut {
            return;
        }
        of.line = Line::Cut;
        if !resumes {
            of.lose_all();
        }
        let (member, host) = (of.member, of.host);
        for (sees, event) in
            [(by_member, Event::Ended(member, connection)), (by_host, Event::Await(host, connection, None))]
        {
            // A busy process looks late, though not so late that it knows of a pause.
            let delay = match self.rng.random_ratio(1, 4) {
                true => self.some_ms(SUSPECT_AFTER / MS * 2 / 5),
                false => self.some_ms(3),
            };
            if sees {
                self.schedule(delay, event);
            }
        }
    }

    pub(super) fn sees_end(&mut self, process: usize, connection: usize) {
        let of = &self.connections[connection];
        let is_its = self.processes[process].control == Some(connection);
        if is_its && of.line == Line::Cut && of.taking_up.is_none() {
            self.begin_to_take_up(process, connection, false);
        }
    }

    /// Nothing came for long. What only says nothing may still hear something: that is found out once.
    pub(super) fn hears_nothing(&mut self, process: usize, connection: usize) {
        let was_silent = std::mem::replace(&mut self.connections[connection].was_silent, true);
        match self.resumes && !was_silent {
            true => self.begin_to_take_up(process, connection, true),
            false => self.lose_coordinator(process, true),
        }
    }

    fn begin_to_take_up(&mut self, process: usize, connection: usize, silent: bool) {
        let this = &self.processes[process];
        // Before there is a view a connection is not kept.
        if !self.resumes || this.follower.is_none() && this.first_view.is_none() {
            return self.give_up_connection(process, silent);
        }
        self.connections[connection].taking_up = Some((self.now + SUSPECT_AFTER / 2, silent));
        // Not all members of a coordinator that was slow at once.
        let delay = if silent { self.some_ms(SUSPECT_AFTER / MS / 8) } else { 0 };
        self.schedule(delay, Event::TakeUp(process, connection));
    }

    fn give_up_connection(&mut self, process: usize, silent: bool) {
        let this = &self.processes[process];
        match this.follower.is_none() && this.first_view.is_none() {
            true => self.fails(process, super::Ending::NotJoined),
            false => self.lose_coordinator(process, silent),
        }
    }

    pub(super) fn take_up(&mut self, process: usize, connection: usize) {
        let host = self.connections[connection].host;
        let Some((until, silent)) = self.connections[connection].taking_up else { return };
        if self.processes[process].control != Some(connection) {
            return;
        }
        let reaches = self.reaches(process, host) && self.reaches(host, process);
        let answers = reaches && !self.processes[host].stopped;
        let of = &mut self.connections[connection];
        let is_served = !of.host_ended && of.coordinator.is_some_and(|c| self.is_there(c));
        if reaches && !self.processes[host].alive || answers && !is_served {
            return self.give_up_connection(process, silent);
        }
        if !answers {
            let delay = 10 * MS + self.some_ms(30);
            return match self.now >= until {
                true => self.give_up_connection(process, silent),
                false => self.schedule(delay, Event::TakeUp(process, connection)),
            };
        }
        self.note(&[60, connection as u64]);
        self.truth.tally.taken_up += 1;
        let of = &mut self.connections[connection];
        (of.line, of.taking_up) = (Line::Whole, None);
        self.processes[process].heard = self.now;
        self.schedule(self.silence(), Event::Silence(process, connection));
        for wire in [Wire::Up(connection), Wire::Down(connection)] {
            let delay = self.some_ms(3);
            self.schedule(delay, Event::Arrive(wire));
        }
    }

    /// A coordinator's side of a connection that was cut.
    pub(super) fn await_member(&mut self, connection: usize, until: Option<u64>) {
        let of = &self.connections[connection];
        let (member, host) = (of.member, of.host);
        if of.line != Line::Cut || of.host_ended {
            return;
        }
        let until = until.unwrap_or(self.now + SUSPECT_AFTER);
        let reaches = self.reaches(member, host) && self.reaches(host, member);
        let is_refused = reaches && !self.processes[member].alive;
        if self.resumes && !is_refused && self.now < until {
            let delay = 5 * MS + self.some_ms(60);
            return self.schedule(delay, Event::Await(host, connection, Some(until)));
        }
        // Nobody can come back to it.
        self.connections[connection].host_ended = true;
        self.host_hears(connection, Up::End);
    }

    /// A process gets to work only now and then from now on, or as it should.
    pub fn starve(&mut self, process: usize, starves: bool) {
        self.note(&[61, process as u64]);
        if std::mem::replace(&mut self.processes[process].starved, starves) != starves && starves {
            self.falter(process);
        }
    }

    pub(super) fn falter(&mut self, process: usize) {
        let Process { starved, stopped, alive, .. } = self.processes[process];
        if !alive || !starved && !stopped {
            return;
        }
        let delay = match stopped || !starved {
            true => 10 * MS + self.some_ms(90),
            false => 100 * MS + self.some_ms(900),
        };
        if stopped {
            self.wake(process)
        } else {
            self.stop(process)
        }
        if starved {
            self.schedule(delay, Event::Falter(process));
        }
    }
}
