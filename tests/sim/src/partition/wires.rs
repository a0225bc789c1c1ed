//! What carries messages: control connections, and links between members.

use super::{Event, World};
use rand::Rng;
use ronde_core::membership::{FromMember, ToMember};
use std::collections::VecDeque;

/// Messages on their way, each with the time at which it is there.
pub(super) type Queue<T> = VecDeque<(u64, T)>;

/// One direction between two processes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire {
    /// Of a control connection, to the coordinator.
    Up(usize),
    /// And back.
    Down(usize),
    /// Of a link, from and to a process.
    Data(usize, usize),
}

/// From a member.
pub(super) enum Up {
    Connect,
    Say(FromMember),
    End,
}

/// To a member.
pub(super) enum Down {
    /// Nobody listens there.
    Refused,
    /// The job has failed there.
    Failed,
    /// A coordinator is there: say why you come.
    Accepted,
    Say(ToMember),
    End,
}

/// A control connection.
pub(super) struct Connection {
    pub(super) member: usize,
    pub(super) host: usize,
    /// Who took it.
    pub(super) coordinator: Option<usize>,
    pub(super) up: Queue<Up>,
    pub(super) down: Queue<Down>,
    /// This side has ended it.
    pub(super) member_ended: bool,
    pub(super) host_ended: bool,
    pub(super) line: Line,
    /// The member makes another connection: until then at most, and whether it does because nothing came.
    pub(super) taking_up: Option<(u64, bool)>,
    /// It has done so since it heard something.
    pub(super) was_silent: bool,
}

/// What a control connection carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Whole,
    /// Nothing, and neither side sees that.
    Mute,
    /// Nothing: it has ended.
    Cut,
}

/// Between members.
pub(super) enum Data {
    /// To an op of a generation, in an attempt.
    Contribution { op: (u32, usize), attempt: u64, flags: [u32; 2] },
    /// Of an op that has returned to the sender.
    Result { op: (u32, usize), attempt: u64, outcome: super::ops::Outcome },
    /// Has this op returned there?
    Ask(super::ops::Op),
    /// It has.
    Returned(super::ops::Op),
    /// The other side has ended the link. Without a word of farewell it may have died instead, or something in between has cut
    /// the connection.
    End { farewell: bool },
}

fn pop_due<T>(queue: &mut Queue<T>, now: u64) -> Option<T> {
    let is_due = queue.front().is_some_and(|(due, _)| *due <= now);
    if is_due { queue.pop_front().map(|(_, message)| message) } else { None }
}

impl World {
    pub(super) fn connect(&mut self, member: usize, host: usize) -> usize {
        self.connections.push(Connection {
            member,
            host,
            coordinator: None,
            up: Queue::new(),
            down: Queue::new(),
            member_ended: false,
            host_ended: false,
            line: Line::Whole,
            taking_up: None,
            was_silent: false,
        });
        let connection = self.connections.len() - 1;
        self.send_up(connection, Up::Connect);
        connection
    }

    /// Up to 3 ms, or less within a machine; sometimes it takes long.
    fn latency(&mut self, one: usize, other: usize) -> u64 {
        let near = self.processes[one].machine == self.processes[other].machine;
        let most = if near { 1 } else { 3 };
        let slow = self.rng.random_ratio(1, 200);
        self.some_ms(if slow { 100 } else { most })
    }

    pub(super) fn send_up(&mut self, connection: usize, message: Up) {
        let (member, host) = (self.connections[connection].member, self.connections[connection].host);
        let due = self.now + self.latency(member, host);
        let of = &mut self.connections[connection];
        if of.member_ended {
            return;
        }
        of.member_ended = matches!(message, Up::End);
        if of.line == Line::Whole || self.resumes {
            self.put(Wire::Up(connection), due, |world| &mut world.connections[connection].up, message);
        }
    }

    pub(super) fn send_down(&mut self, connection: usize, message: Down) {
        let (member, host) = (self.connections[connection].member, self.connections[connection].host);
        let due = self.now + self.latency(host, member);
        let of = &mut self.connections[connection];
        if of.host_ended {
            return;
        }
        of.host_ended = matches!(message, Down::End | Down::Refused | Down::Failed);
        if of.line == Line::Whole || self.resumes {
            self.put(Wire::Down(connection), due, |world| &mut world.connections[connection].down, message);
        }
    }

    pub(super) fn send_data(&mut self, from: usize, to: usize, message: Data) {
        let due = self.now + self.latency(from, to);
        self.put(Wire::Data(from, to), due, |world| world.data.entry((from, to)).or_default(), message);
    }

    fn put<T>(&mut self, wire: Wire, due: u64, queue: impl Fn(&mut World) -> &mut Queue<T>, message: T) {
        let queue = queue(self);
        // Nothing overtakes.
        let due = queue.back().map_or(due, |(last, _)| due.max(*last));
        queue.push_back((due, message));
        let delay = due - self.now;
        self.schedule(delay, Event::Arrive(wire));
    }

    /// Delivers what is there, if it gets through and is wanted.
    pub(super) fn arrive(&mut self, wire: Wire) {
        let now = self.now;
        match wire {
            Wire::Up(connection) => {
                let (from, to) = (self.connections[connection].member, self.connections[connection].host);
                while self.gets_through(from, to)
                    && self.connections[connection].line == Line::Whole
                    && let Some(message) = pop_due(&mut self.connections[connection].up, now)
                {
                    self.note(&[20, connection as u64]);
                    self.host_hears(connection, message);
                }
            }
            Wire::Down(connection) => {
                let (from, to) = (self.connections[connection].host, self.connections[connection].member);
                while self.gets_through(from, to)
                    && self.connections[connection].line == Line::Whole
                    && let Some(message) = pop_due(&mut self.connections[connection].down, now)
                {
                    self.note(&[21, connection as u64]);
                    self.member_hears(connection, message);
                }
            }
            Wire::Data(from, to) => {
                while self.gets_through(from, to)
                    && !self.is_mute(from, to)
                    && let Some(message) =
                        self.data.get_mut(&(from, to)).and_then(|queue| pop_due(queue, now))
                {
                    self.note(&[22, from as u64, to as u64]);
                    self.data_comes(from, to, message);
                }
            }
        }
    }

    fn gets_through(&self, from: usize, to: usize) -> bool {
        self.reaches(from, to) && !self.processes[to].stopped
    }

    fn is_mute(&self, from: usize, to: usize) -> bool {
        self.mute.contains_key(&(self.processes[from].machine, self.processes[to].machine))
    }

    /// Since when nothing comes back on a link, because it carries nothing one way or the other.
    pub(super) fn mute_since(&self, one: usize, other: usize) -> Option<u64> {
        let (one, other) = (self.processes[one].machine, self.processes[other].machine);
        [(one, other), (other, one)].iter().filter_map(|way| self.mute.get(way)).min().copied()
    }

    pub(super) fn look_at_all_wires(&mut self) {
        let mut wires = Vec::new();
        let carries = |(_, connection): &(usize, &Connection)| connection.line == Line::Whole;
        for (at, connection) in self.connections.iter().enumerate().filter(carries) {
            let [up, down] = [connection.up.is_empty(), connection.down.is_empty()];
            wires.extend((!up).then_some(Wire::Up(at)));
            wires.extend((!down).then_some(Wire::Down(at)));
        }
        let data = self.data.iter().filter(|(_, queue)| !queue.is_empty());
        wires.extend(data.map(|(&(from, to), _)| Wire::Data(from, to)));
        for wire in wires {
            let delay = self.some_ms(20);
            self.schedule(delay, Event::Arrive(wire));
        }
    }

    /// The kernel ends the connections of a process that has ended. Of what was written last some may be lost, but
    /// for what is there already and only waits for a process that is stopped.
    pub(super) fn end_connections_of(&mut self, process: usize, suddenly: bool) {
        for at in 0..self.connections.len() {
            let of = &self.connections[at];
            let (member, host) = (of.member, of.host);
            let (up, down) = (self.arrived(&of.up, member, host), self.arrived(&of.down, host, member));
            if member == process && !self.connections[at].member_ended {
                // Whether it was accepted is the other side's affair.
                let kept = self.kept(up.0.max(1), up.1, suddenly);
                self.connections[at].up.truncate(kept);
                self.send_up(at, Up::End);
            }
            if host == process && self.connections[at].coordinator.is_some() {
                let kept = self.kept(down.0, down.1, suddenly);
                self.connections[at].down.truncate(kept);
                self.send_down(at, Down::End);
            }
        }
    }

    /// How much of what is on its way has come, and how much that is in all.
    fn arrived<T>(&self, queue: &Queue<T>, from: usize, to: usize) -> (usize, usize) {
        let here = queue.iter().filter(|(due, _)| self.reaches(from, to) && *due <= self.now).count();
        (here, queue.len())
    }

    fn kept(&mut self, arrived: usize, all: usize, suddenly: bool) -> usize {
        if suddenly && arrived < all { self.rng.random_range(arrived..=all) } else { all }
    }

    /// Ends a process's link to another, which sees that.
    fn end_link(&mut self, process: usize, other: usize, farewell: bool) {
        if self.processes[process].ends.insert(other) {
            self.send_data(process, other, Data::End { farewell });
        }
    }

    /// A process that lives ends its link to another.
    pub(super) fn close_link(&mut self, process: usize, other: usize) {
        self.end_link(process, other, true);
    }

    fn others(&self, process: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.processes.len()).filter(move |&other| other != process)
    }

    pub(super) fn close_all_links(&mut self, process: usize) {
        self.others(process).for_each(|other| self.close_link(process, other));
    }

    /// The kernel ends the links of a process that has ended.
    pub(super) fn break_all_links(&mut self, process: usize) {
        self.others(process).for_each(|other| self.end_link(process, other, false));
    }

    /// The link between two that live is cut, and no other connection can be made for it.
    pub(super) fn tear(&mut self, one: usize, other: usize) {
        if self.processes[one].machine != self.processes[other].machine {
            self.send_data(one, other, Data::End { farewell: false });
            self.send_data(other, one, Data::End { farewell: false });
        }
    }

    /// Whoever is at work reads what its links have brought. Some of it may come later all the same: the network may have lost it
    /// once, also if who sent it has ended since.
    pub(super) fn read_links(&mut self, process: usize) {
        for other in self.others(process) {
            if !self.rng.random_ratio(1, 8) {
                self.arrive(Wire::Data(other, process));
            }
        }
    }
}
