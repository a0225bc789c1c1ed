//! The control plane of a job on machines that are cut off from each other for a while.
//!
//! Coordinators, followers and the search for another coordinator are those of production; any process may host
//! a coordinator, so there may be several at once. Connections deliver in order. What goes from one machine to
//! another waits while that direction is blocked, and whatever a process should notice waits while it is stopped.
//! A cut between two processes that live shows as silence, never as the end of a connection, unless
//! [`World::forge_end`] is called. Links between members may fall silent alone ([`World::mute_only`]): who waits for an
//! op then finds that out in the end, and gives them up.
//!
//! The data plane is reduced to what membership needs of it: links between members that end, and one op after
//! another, each of which is that of a safe point.

mod check;
mod control;
mod leaving;
mod ops;
mod sessions;
mod wires;

pub use check::{Ending, Tally};

use check::Truth;
use control::Seat;
use leaving::Closing;
use ops::{Op, Ops};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::membership::{Follower, MachineId, MemberInfo, Search, View};
use ronde_core::{Epoch, Instant, MemberId, PeerId};
use sessions::Beats;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wires::{Connection, Data, Line, Wire};

/// A millisecond of simulated time.
pub const MS: u64 = 1_000_000;
/// Silence after which somebody is lost, in simulated time.
pub const SUSPECT_AFTER: u64 = 1000 * MS;
const HEARTBEAT: u64 = 200 * MS;
/// How long a process tries to join.
const JOIN_PATIENCE: u64 = 30_000 * MS;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Something may have come to the end of a wire.
    Arrive(Wire),
    /// A coordinator wants to know the time.
    Tick(usize, u64),
    /// A coordinator learns whether a process has ended.
    Probed(usize, usize),
    /// A process says that it lives.
    Beat(usize),
    /// A process may have heard nothing on a connection for too long.
    Silence(usize, usize),
    /// A process goes on with its search for a coordinator.
    Search(usize),
    /// Whoever was asked on a connection has had time enough.
    Unanswered(usize, usize),
    /// A process makes the links of a view.
    Link(usize, Epoch),
    /// A process may have waited long enough to find out that nothing comes back from another.
    Deaf(usize, usize),
    /// A process makes its next call.
    Call(usize),
    /// A process passes the safe point whose op has returned.
    Enter(usize),
    /// A process has waited long enough to be taken in.
    Impatient(usize),
    /// A process in which the job has failed ends.
    Exit(usize),
    /// A process sees that its control connection has ended.
    Ended(usize, usize),
    /// A process tries to take its control connection up again.
    TakeUp(usize, usize),
    /// A process that hosts a coordinator waits, until then, for a control connection that was cut.
    Await(usize, usize, Option<u64>),
    /// A process goes on with leaving.
    Close(usize),
    /// One that gets to work only now and then does, or does not any more.
    Falter(usize),
}

/// One process.
struct Process {
    machine: usize,
    alive: bool,
    stopped: bool,
    /// What should have happened while it was stopped.
    missed: Vec<Event>,
    /// Which view it is in; `None` while it waits for its first.
    follower: Option<Follower>,
    first_view: Option<View>,
    /// The view whose links it makes.
    proposed: Option<View>,
    /// It has heard that its first view is in effect.
    active: bool,
    /// The connection to its coordinator, and when that was heard last.
    control: Option<usize>,
    heard: u64,
    search: Option<Search>,
    /// How often it has asked for a coordinator.
    asked: u64,
    asking: Option<control::Asking>,
    /// The coordinator that it hosts or has hosted.
    hosts: Option<usize>,
    /// Coordinators that it has followed, and those of them whose plan it has carried out.
    followed: Vec<usize>,
    obeyed: Vec<usize>,
    /// Processes to which its link has ended, and those of them that have said farewell.
    ends: BTreeSet<usize>,
    ended_by: BTreeSet<usize>,
    /// Processes that have left in order, as it was told.
    left: BTreeSet<usize>,
    beats: Beats,
    /// It gets to work only now and then.
    starved: bool,
    /// It leaves before its next call; it is leaving.
    leaves: bool,
    closing: Option<Closing>,
    ops: Ops,
    ended: Option<Ending>,
}

/// Everything there is.
pub struct World {
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    rng: SmallRng,
    processes: Vec<Process>,
    coordinators: Vec<Seat>,
    connections: Vec<Connection>,
    data: BTreeMap<(usize, usize), wires::Queue<Data>>,
    /// Directions between machines in which nothing gets through.
    blocked: BTreeSet<(usize, usize)>,
    /// Directions between machines in which links carry nothing, though all else gets through, and since when.
    mute: BTreeMap<(usize, usize), u64>,
    /// Machines without power.
    off: BTreeSet<usize>,
    /// The process that runs a coordinator alone, if one does.
    alone: Option<usize>,
    /// Control connections that are cut are taken up again.
    resumes: bool,
    /// Nobody makes a call after this one.
    last_op: Option<Op>,
    truth: Truth,
    hash: u64,
}

fn peer_id(process: usize) -> PeerId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(process as u64).to_le_bytes());
    PeerId(bytes)
}

fn process_of(peer: PeerId) -> usize {
    u64::from_le_bytes(peer.0[..8].try_into().expect("eight bytes")) as usize
}

impl World {
    /// An active job with a member on each of these machines; the first hosts the coordinator, unless that runs
    /// alone on a machine of its own.
    pub fn new(machines: &[usize], alone: Option<usize>, seed: u64) -> World {
        let mut world = World {
            now: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            rng: SmallRng::seed_from_u64(seed),
            processes: Vec::new(),
            coordinators: Vec::new(),
            connections: Vec::new(),
            data: BTreeMap::new(),
            blocked: BTreeSet::new(),
            mute: BTreeMap::new(),
            off: BTreeSet::new(),
            alone: None,
            resumes: false,
            last_op: None,
            truth: Truth::default(),
            hash: 0,
        };
        for &machine in machines {
            world.spawn(machine);
        }
        world.alone = alone.map(|machine| world.spawn(machine));
        world.truth.starts_with(machines.len());
        world.found(machines.len());
        world
    }

    fn spawn(&mut self, machine: usize) -> usize {
        let process = self.processes.len();
        self.processes.push(Process {
            machine,
            alive: true,
            stopped: false,
            missed: Vec::new(),
            follower: None,
            first_view: None,
            proposed: None,
            active: false,
            control: None,
            heard: 0,
            search: None,
            asked: 0,
            asking: None,
            hosts: None,
            followed: Vec::new(),
            obeyed: Vec::new(),
            ends: BTreeSet::new(),
            ended_by: BTreeSet::new(),
            left: BTreeSet::new(),
            beats: Beats::new(self.now),
            starved: false,
            leaves: false,
            closing: None,
            ops: Ops::default(),
            ended: None,
        });
        process
    }

    fn info(&self, process: usize) -> MemberInfo {
        MemberInfo {
            peer: peer_id(process),
            id: MemberId(0),
            host: format!("host-{process}"),
            addresses: Vec::new(),
            machine: MachineId(format!("machine-{}", self.processes[process].machine)),
            user: 0,
            pid: process as u32,
            transports: Vec::new(),
            costs: String::new(),
        }
    }

    fn instant(&self) -> Instant {
        Instant(self.now)
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + delay, self.scheduled), event);
    }

    /// Some time up to so many milliseconds.
    fn some_ms(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..=most * MS)
    }

    fn note(&mut self, what: &[u64]) {
        for word in [self.now].iter().chain(what) {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// What happened, in one number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Now.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, span: u64) {
        let until = self.now + span;
        while let Some(((at, number), event)) = self.events.pop_first() {
            if at > until {
                self.events.insert((at, number), event);
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        let process = match event {
            Event::Arrive(wire) => return self.arrive(wire),
            Event::Tick(coordinator, _) | Event::Probed(coordinator, _) => {
                self.coordinators[coordinator].home
            }
            Event::Beat(process)
            | Event::Silence(process, _)
            | Event::Search(process)
            | Event::Unanswered(process, _)
            | Event::Link(process, _)
            | Event::Deaf(process, _)
            | Event::Call(process)
            | Event::Enter(process)
            | Event::Impatient(process)
            | Event::Exit(process)
            | Event::Ended(process, _)
            | Event::TakeUp(process, _)
            | Event::Await(process, ..)
            | Event::Close(process) => process,
            Event::Falter(process) => return self.falter(process),
        };
        if !self.processes[process].alive {
            return;
        }
        if self.processes[process].stopped {
            return self.processes[process].missed.push(event);
        }
        match event {
            Event::Arrive(_) | Event::Falter(_) => {}
            Event::Tick(coordinator, due) => self.tick_if_due(coordinator, due),
            Event::Probed(coordinator, whom) => self.is_probed(coordinator, whom),
            Event::Beat(_) => self.beat(process),
            Event::Silence(_, connection) => self.lose_silent_coordinator(process, connection),
            Event::Search(_) => self.search(process),
            Event::Unanswered(_, connection) => self.is_unanswered(process, connection),
            Event::Link(_, epoch) => self.make_links(process, epoch),
            Event::Deaf(_, other) => self.finds_silence(process, other),
            Event::Call(_) => self.call(process),
            Event::Enter(_) => self.enter(process),
            Event::Impatient(_) => self.give_joining_up(process),
            Event::Exit(_) => self.end(process, false),
            Event::Ended(_, connection) => self.sees_end(process, connection),
            Event::TakeUp(_, connection) => self.take_up(process, connection),
            Event::Await(_, connection, until) => self.await_member(connection, until),
            Event::Close(_) => self.go_on_closing(process),
        }
    }

    /// Nothing gets through in these directions between machines from now on, in all others everything does.
    pub fn block_only(&mut self, directions: BTreeSet<(usize, usize)>) {
        self.note(&[1]);
        self.blocked = directions;
        self.look_at_all_wires();
    }

    /// Links carry nothing in these directions between machines from now on; in all others they do. Nothing comes back then from
    /// the other side either, since what does not arrive is not acknowledged and what is not acknowledged is not followed by more.
    pub fn mute_only(&mut self, directions: &BTreeSet<(usize, usize)>) {
        self.note(&[2]);
        let before = std::mem::take(&mut self.mute);
        let since = |machines: &(usize, usize)| before.get(machines).copied().unwrap_or(self.now);
        self.mute = directions.iter().map(|machines| (*machines, since(machines))).collect();
        for one in 0..self.processes.len() {
            for other in 0..self.processes.len() {
                if self.mute_since(one, other) == Some(self.now) {
                    self.listen(one, other);
                }
            }
        }
        self.look_at_all_wires();
    }

    /// SIGSTOP.
    pub fn stop(&mut self, process: usize) {
        self.note(&[3, process as u64]);
        self.processes[process].stopped = true;
    }

    /// SIGCONT. What should have happened meanwhile happens in any order.
    pub fn wake(&mut self, process: usize) {
        self.note(&[4, process as u64]);
        let this = &mut self.processes[process];
        if !std::mem::take(&mut this.stopped) {
            return;
        }
        // A read that is interrupted waits again as long as before.
        this.heard = self.now;
        for event in std::mem::take(&mut this.missed) {
            let delay = self.some_ms(20);
            self.schedule(delay, event);
        }
        self.look_at_all_wires();
    }

    /// A process dies; what it had written last may be lost.
    pub fn kill(&mut self, process: usize) {
        self.note(&[5, process as u64]);
        if self.processes[process].alive {
            self.end(process, true);
        }
    }

    /// A machine loses its power: of its processes nothing more is heard, not even that they have ended.
    pub fn power_off(&mut self, machine: usize) {
        self.note(&[6, machine as u64]);
        self.off.insert(machine);
        self.processes.iter_mut().filter(|p| p.machine == machine).for_each(|p| p.alive = false);
    }

    /// A process asks to join at the coordinator that was made last, or at any that there is.
    pub fn newcomer(&mut self, machine: usize) -> usize {
        let process = self.spawn(machine);
        self.note(&[7, process as u64]);
        self.truth.newcomers += 1;
        let there: Vec<usize> = (0..self.coordinators.len()).filter(|&c| self.is_there(c)).collect();
        let last = there.last().copied();
        let chosen = match there.is_empty() || self.rng.random() {
            true => last,
            false => Some(there[self.rng.random_range(0..there.len())]),
        };
        match chosen {
            Some(coordinator) => self.say_hello(process, self.coordinators[coordinator].home),
            None => self.fails(process, Ending::NotJoined),
        }
        process
    }

    /// The connection of a process to its coordinator loses everything from now on, and neither side sees it.
    pub fn lose_connection(&mut self, process: usize) {
        self.note(&[8, process as u64]);
        let Some(connection) = self.processes[process].control else { return };
        let of = &mut self.connections[connection];
        if of.line == Line::Whole && self.processes[of.host].machine != self.processes[process].machine {
            of.line = Line::Mute;
            if !self.resumes {
                of.lose_all();
            }
        }
    }

    /// Something on the way cuts the connection of a process that lives to its coordinator, which lives too; seen
    /// by the process, by the coordinator, or both.
    pub fn forge_end(&mut self, process: usize, by_process: bool, by_coordinator: bool) {
        self.note(&[9, process as u64]);
        let Some(connection) = self.processes[process].control else { return };
        let host = self.connections[connection].host;
        // Within a machine no end is lost, and what a process that is stopped does not read stays what it is.
        let is_seen = by_process && by_coordinator && !self.processes[process].stopped;
        if self.processes[host].machine != self.processes[process].machine || is_seen {
            self.cut(connection, by_process, by_coordinator);
        }
    }

    /// The link between two processes that live is cut, and no other connection can be made for it.
    pub fn tear_link(&mut self, one: usize, other: usize) {
        self.note(&[11, one as u64, other as u64]);
        self.tear(one, other);
    }

    /// A coordinator that ran alone is started again, if its process has ended. Else it knows which jobs there were.
    pub fn start_coordinator_again(&mut self) {
        let Some(before) = self.alone else { return };
        if !self.processes[before].alive {
            let machine = self.processes[before].machine;
            self.note(&[10, machine as u64]);
            self.off.remove(&machine);
            self.processes[before].alive = false;
            let process = self.spawn(machine);
            self.alone = Some(process);
            self.run_alone(process);
        }
    }

    /// Processes that live, but for one that runs a coordinator alone.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|&p| self.processes[p].alive && Some(p) != self.alone).collect()
    }

    /// How the job ended for a process, if it did.
    pub fn ending(&self, process: usize) -> Option<&Ending> {
        self.processes[process].ended.as_ref()
    }

    /// The process whose coordinator a process follows.
    pub fn host_of(&self, process: usize) -> Option<usize> {
        self.processes[process].control.map(|connection| self.connections[connection].host)
    }

    /// Machine of a process.
    pub fn machine_of(&self, process: usize) -> usize {
        self.processes[process].machine
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (self.processes[from].machine, self.processes[to].machine);
        !self.blocked.contains(&(from, to)) && !self.off.contains(&to)
    }

    /// A process ends; what is connected with it sees that.
    fn end(&mut self, process: usize, suddenly: bool) {
        self.processes[process].alive = false;
        self.end_connections_of(process, suddenly);
        self.break_all_links(process);
    }
}

impl Process {
    /// What it has returned stands: it is at work, or has left in order.
    fn goes_on(&self) -> bool {
        match &self.closing {
            Some(closing) if !self.alive => closing.is_done(),
            _ => self.alive && self.ended.is_none(),
        }
    }

    /// It has left in order.
    fn released(&self) -> bool {
        self.closing.as_ref().is_some_and(Closing::is_released)
    }
}

fn span(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}
