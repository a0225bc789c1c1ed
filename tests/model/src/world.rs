//! A job: processes, coordinators, and what is on its way between them.

use crate::executor::{End, Executor, Member, Phase, Set};
use crate::shared::Shared;
use crate::{Call, Scenario};
use ronde_core::membership::{
    self, Coordinator, CoordinatorOptions, Effect, Follower, FromMember, Hello, MachineId, MemberInfo,
    ToMember, View,
};
use ronde_core::{Epoch, Generation, Instant, MemberId, PeerId};
use std::collections::VecDeque;
use std::time::Duration;

/// Nobody is given up for silence or slow links.
pub(crate) const NEVER: Duration = Duration::from_secs(1 << 20);

/// One life of a coordinator.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Life {
    /// Counts them.
    pub number: u8,
    /// The process that hosts it.
    pub host: Option<usize>,
    /// What decides.
    pub machine: Shared<Coordinator>,
    /// What it takes for the time, except where it waits for some to pass.
    pub now: Instant,
    /// Processes that it asks for, to see whether they have ended: it does so until they have.
    pub probed: Set,
}

/// What has become of a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// It runs.
    Alive,
    /// It ended without a word.
    Dead,
    /// In order.
    Left,
    /// Its coordinator has ended the job for it.
    Expelled,
}

/// The connection of a process with a coordinator.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// Which life of a coordinator.
    pub life: u8,
    /// That life is over.
    pub broken: bool,
    /// On the way to the coordinator.
    pub up: VecDeque<FromMember>,
    /// On the way to the process.
    pub down: VecDeque<ToMember>,
}

impl Link {
    pub(crate) fn new(life: u8) -> Link {
        Link { life, broken: false, up: VecDeque::new(), down: VecDeque::new() }
    }
}

/// A process.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    /// Whether it runs.
    pub status: Status,
    /// `None` while it looks for a coordinator.
    pub link: Option<Link>,
    /// Connections that it has given up, on which something is still on its way.
    pub former: Vec<Link>,
    /// `None` until it has its first view.
    pub follower: Option<Shared<Follower>>,
    /// A newcomer's, while it is linked.
    pub first_view: Option<View>,
    /// The view whose links it makes.
    pub linking: Option<Epoch>,
    /// It has heard that its first view is in effect.
    pub active: bool,
    /// Its ops, from its first view on.
    pub executor: Option<Executor>,
    /// Calls made in this generation.
    pub calls: usize,
    /// It is at a safe point.
    pub updating: bool,
    /// Members that have left in order and were not missed.
    pub left: Vec<MemberId>,
    /// Processes of whose end it has told a successor of the coordinator.
    pub told: Set,
}

impl Process {
    pub(crate) fn new(link: Option<Link>) -> Process {
        Process {
            status: Status::Alive,
            link,
            former: Vec::new(),
            follower: None,
            first_view: None,
            linking: None,
            active: false,
            executor: None,
            calls: 0,
            updating: false,
            left: Vec::new(),
            told: 0,
        }
    }

    /// Whether it runs.
    pub fn lives(&self) -> bool {
        self.status == Status::Alive
    }

    /// What the op of the safe point has given.
    pub(crate) fn least(&self) -> Option<[u32; 2]> {
        let executor = self.executor.as_ref().filter(|_| self.updating)?;
        match executor.group(executor.generation)?.ops[1].last()?.phase {
            Phase::Ended(End::Success(_, least), _) => Some(least),
            _ => None,
        }
    }

    pub(crate) fn change_follower(&mut self, change: impl FnOnce(&mut Follower)) {
        if let Some(follower) = &mut self.follower {
            follower.change(change);
        }
    }

    /// It runs no more: only what it has sent and what it was told still matters.
    pub(crate) fn bury(&mut self) {
        (self.first_view, self.linking, self.updating) = (None, None, false);
        (self.calls, self.told) = (0, 0);
        self.left.clear();
        self.follower = self.follower.take().map(|f| Shared::new(Follower::new(f.view().clone())));
        self.executor.iter_mut().for_each(Executor::bury);
    }

    /// The generation that it makes calls in.
    pub fn generation(&self) -> Option<Generation> {
        self.follower.as_ref().map(|follower| follower.view().generation)
    }

    /// Whether it reckons with a process as a member.
    pub(crate) fn knows(&self, other: usize) -> bool {
        let views = self.follower.iter().flat_map(|f| [Some(f.view()), f.armed()]);
        views.flatten().any(|view| view.rank_of(peer_id(other)).is_some())
    }

    pub(crate) fn say(&mut self, message: FromMember) {
        // What is said to a coordinator that is gone is lost.
        if let Some(link) = self.link.as_mut().filter(|link| !link.broken) {
            link.up.push_back(message);
        }
    }
}

/// A job at one moment.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct World {
    /// Coordinators that are there.
    pub lives: Vec<Life>,
    /// Lives of coordinators so far.
    pub lives_begun: u8,
    /// Those that are gone too.
    pub processes: Vec<Shared<Process>>,
    /// Deaths of processes that may come.
    pub deaths_left: u8,
    /// Ends of the coordinator that runs alone.
    pub restarts_left: u8,
    /// Processes that may join.
    pub newcomers_left: u8,
    /// Members that may leave.
    pub leaves_left: u8,
    /// How often a member may hear nothing of its coordinator any more.
    pub silences_left: u8,
    /// Calls that may be found late.
    pub late_left: u8,
    /// A generation in which everybody passes so many more safe points.
    pub rounds: (Generation, u8),
    /// One that had left was missed.
    pub has_missed: bool,
    /// What should not have been.
    pub fault: Option<String>,
}

/// The identity of a process.
pub(crate) fn peer_id(process: usize) -> PeerId {
    PeerId([process as u8 + 1; 16])
}

/// The process with this identity.
pub(crate) fn process_of(peer: PeerId) -> usize {
    usize::from(peer.0[0]) - 1
}

/// Members of a view in rank order.
pub(crate) fn members_of(view: &View) -> Vec<Member> {
    view.members.iter().map(|m| (m.id, process_of(m.peer))).collect()
}

pub(crate) fn hello(process: usize, size: Option<u32>, hosts_coordinator: bool) -> FromMember {
    let info = MemberInfo {
        peer: peer_id(process),
        id: MemberId(0),
        host: String::new(),
        addresses: Vec::new(),
        machine: MachineId(format!("{process}")),
        user: 0,
        pid: process as u32,
        transports: Vec::new(),
        costs: String::new(),
    };
    let rank = size.map(|_| process as u32);
    let newcomer = size.is_none();
    let version = membership::VERSION;
    FromMember::Hello(Hello { version, rank, size, min_peers: None, newcomer, hosts_coordinator, info })
}

pub(crate) fn options() -> CoordinatorOptions {
    CoordinatorOptions {
        suspect_after: NEVER,
        heartbeat: NEVER,
        link_patience: NEVER,
        ..CoordinatorOptions::default()
    }
}

impl World {
    /// A job that has just become active.
    pub fn new(scenario: &Scenario) -> World {
        let mut machine = Coordinator::new(options());
        for process in 0..scenario.peers {
            let hosts = process == 0 && !scenario.stand_alone;
            let hello = hello(process, Some(scenario.peers as u32), hosts);
            machine.handle_message(process as u64, hello, Instant(0));
        }
        for process in 0..scenario.peers {
            machine.handle_message(process as u64, FromMember::Linked(Epoch(1)), Instant(0));
        }
        drop(machine.take_effects());
        let view = machine.view().clone();
        let process = |me: usize| {
            let mut process = Process::new(Some(Link::new(0)));
            process.executor = Some(Executor::new(me, view.generation, view.epoch, members_of(&view)));
            process.follower = Some(Shared::new(Follower::new(view.clone())));
            process.active = true;
            Shared::new(process)
        };
        let processes = (0..scenario.peers).map(process).collect();
        let host = (!scenario.stand_alone).then_some(0);
        World {
            lives: vec![Life { number: 0, host, machine: Shared::new(machine), now: Instant(0), probed: 0 }],
            lives_begun: 1,
            processes,
            deaths_left: scenario.deaths,
            restarts_left: scenario.restarts,
            newcomers_left: scenario.newcomers,
            leaves_left: scenario.leaves,
            silences_left: scenario.silences,
            late_left: scenario.late,
            rounds: (Generation(0), 0),
            has_missed: false,
            fault: None,
        }
    }

    /// Processes that live.
    pub fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.processes.len()).filter(|&p| self.processes[p].lives())
    }

    /// The life of a coordinator that a process is connected with.
    pub(crate) fn life_of(&self, process: usize) -> Option<usize> {
        let link = self.processes[process].link.as_ref()?;
        self.lives.iter().position(|life| life.number == link.life)
    }

    pub(crate) fn has_fault(&mut self, fault: impl Into<String>) {
        self.fault.get_or_insert(fault.into());
    }

    /// Lets a coordinator do something, and puts what it sends on its way.
    pub(crate) fn coordinate(&mut self, at: usize, event: impl FnOnce(&mut Coordinator, Instant)) {
        let life = &mut self.lives[at];
        let (number, now) = (life.number, life.now);
        let effects = life.machine.change(|machine| {
            event(machine, now);
            machine.take_effects()
        });
        let ended = self.carry_out(at, number, effects);
        // The answer comes at once where there is one: that it may be late the simulator shows.
        for process in (0..self.processes.len()).filter(|process| ended >> process & 1 == 1) {
            let effects = self.lives[at].machine.change(|machine| {
                machine.handle_ended(peer_id(process), now);
                machine.take_effects()
            });
            self.carry_out(at, number, effects);
        }
    }

    /// Puts what a coordinator sends on its way. Returns the processes it asks for that have ended.
    fn carry_out(&mut self, at: usize, number: u8, effects: Vec<Effect>) -> Set {
        let mut ended = 0;
        for effect in effects {
            let (to, message) = match effect {
                Effect::Send(to, message) => (to, message),
                Effect::Probe(info) => {
                    let asked = process_of(info.peer);
                    match self.processes[asked].lives() {
                        true => self.lives[at].probed |= 1 << asked,
                        false => ended |= 1 << asked,
                    }
                    continue;
                }
                Effect::Close(_) => continue,
            };
            let process = &mut self.processes[to as usize];
            let is_there = process.lives() && process.link.as_ref().is_some_and(|l| l.life == number);
            let says_nothing = matches!(
                message,
                ToMember::Heartbeat
                    | ToMember::Welcome { .. }
                    | ToMember::Pending { .. }
                    | ToMember::Released
            );
            if is_there && !says_nothing {
                process.change(|p| p.link.iter_mut().for_each(|l| l.down.push_back(message.clone())));
            }
        }
        ended
    }

    /// The next call of a process, if it is to make one.
    pub fn next_call(&self, scenario: &Scenario, process: usize) -> Option<Call> {
        let worker = &self.processes[process];
        let executor = worker.executor.as_ref().filter(|_| worker.active && worker.lives())?;
        let generation = executor.generation;
        let program = if generation == Generation(0) { &scenario.first } else { &scenario.later };
        let rounds = if self.rounds.0 == generation { usize::from(self.rounds.1) } else { 0 };
        let call = match program.get(worker.calls) {
            Some(&call) => call,
            None if worker.calls < program.len() + rounds => Call::Update,
            None => return None,
        };
        let open = executor.ops().any(|(_, _, op)| !op.has_ended()) || worker.updating;
        (!open || scenario.concurrent && call != Call::Update && !worker.updating).then_some(call)
    }
}
