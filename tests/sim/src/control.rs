//! The production coordinator, and what goes between it and the members.

use crate::peer::{peer_id, process_of};
use crate::{Cluster, InFlight};
use rand::Rng;
use rand::rngs::SmallRng;
use ronde_core::call::Call;
use ronde_core::collective::GroupIndex;
use ronde_core::error::PeerLost;
use ronde_core::membership::{
    self, Coordinator, CoordinatorOptions, Effect, Follower, FromMember, Hello, LinkEnd, MachineId,
    MemberInfo, ToMember, Verdict, View,
};
use ronde_core::recovery::RecoveryPlan;
use ronde_core::{Epoch, Instant, MemberId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Silence and slow links are not what is simulated here: nobody is given up for them.
const NEVER: Duration = Duration::from_secs(1 << 20);

/// The coordinator, with a connection to each process that has its number.
pub(crate) struct Control {
    pub(crate) coordinator: Coordinator,
    /// The process that hosts it; `None` while there is no coordinator.
    host: Option<usize>,
    /// On the way to each process (`None`: the connection ends), and to the coordinator.
    to_members: BTreeMap<usize, VecDeque<Option<ToMember>>>,
    to_coordinator: VecDeque<(usize, FromMember)>,
    /// Processes of which the coordinator wants to know whether they have ended.
    probes: Vec<usize>,
    /// Processes that are making the links of a view.
    linking: Vec<(usize, Epoch)>,
    /// A process that lives and has no connection to the coordinator any more.
    cut_off: Option<usize>,
}

fn hello(process: usize, size: Option<u32>) -> FromMember {
    let info = MemberInfo {
        peer: peer_id(process),
        id: MemberId(0),
        host: format!("host-{process}"),
        addresses: Vec::new(),
        machine: MachineId::default(),
        user: 0,
        pid: process as u32,
        transports: Vec::new(),
        costs: String::new(),
    };
    let rank = size.map(|_| process as u32);
    FromMember::Hello(Hello {
        version: membership::VERSION,
        rank,
        size,
        min_peers: None,
        newcomer: false,
        hosts_coordinator: process == 0,
        info,
    })
}

impl Control {
    pub(crate) fn of_an_active_job(world: usize) -> (Control, View) {
        let mut coordinator = Coordinator::new(options());
        for process in 0..world {
            let hello = hello(process, Some(world as u32));
            coordinator.handle_message(process as u64, hello, Instant(0));
        }
        for process in 0..world {
            coordinator.handle_message(process as u64, FromMember::Linked(Epoch(1)), Instant(0));
        }
        drop(coordinator.take_effects());
        let view = coordinator.view().clone();
        let (to_members, to_coordinator) = (BTreeMap::new(), VecDeque::new());
        let (probes, linking) = (Vec::new(), Vec::new());
        let (host, cut_off) = (Some(0), None);
        (Control { coordinator, host, to_members, to_coordinator, probes, linking, cut_off }, view)
    }

    pub(crate) fn send(&mut self, from: usize, message: FromMember) {
        // What is said to a coordinator that is gone is lost.
        let connected = |queue: &VecDeque<Option<ToMember>>| !queue.iter().any(Option::is_none);
        let is_connected = self.to_members.get(&from).is_none_or(connected) && self.cut_off != Some(from);
        if self.host.is_none() || !is_connected {
            return;
        }
        self.to_coordinator.push_back((from, message));
    }

    /// Puts what the coordinator sends on its way.
    fn route(&mut self) {
        for effect in self.coordinator.take_effects() {
            match effect {
                Effect::Send(to, _) if self.cut_off == Some(to as usize) => {}
                Effect::Send(to, message) => {
                    self.to_members.entry(to as usize).or_default().push_back(Some(message));
                }
                Effect::Probe(member) => self.probes.push(process_of(member.peer)),
                Effect::Close(_) => {}
            }
        }
    }

    /// The coordinator goes with its process.
    fn crash(&mut self, processes: usize, in_flight: InFlight, rng: &mut SmallRng) {
        self.host = None;
        self.to_coordinator.clear();
        self.linking.clear();
        self.probes.clear();
        for process in 0..processes {
            let queue = self.to_members.entry(process).or_default();
            queue.truncate(in_flight.kept(queue.len(), rng));
            queue.retain(Option::is_some);
            queue.push_back(None);
        }
    }
}

fn options() -> CoordinatorOptions {
    CoordinatorOptions {
        suspect_after: NEVER,
        heartbeat: NEVER,
        link_patience: NEVER,
        ..CoordinatorOptions::default()
    }
}

impl Cluster {
    fn route_control(&mut self) {
        self.control.route();
        while let Some(process) = self.control.probes.pop() {
            if self.dead[process] {
                self.control.coordinator.handle_ended(peer_id(process), Instant(self.now));
                self.control.route();
            }
        }
    }

    /// A process starts on a node and asks to join.
    pub fn newcomer(&mut self, node: u32) -> usize {
        let process = self.spawn(node);
        match self.control.host {
            Some(_) => self.control.send(process, hello(process, None)),
            // It asks once there is a coordinator again.
            None => self.control.to_members.entry(process).or_default().push_back(None),
        }
        process
    }

    /// The process that hosts the coordinator, if there is one.
    pub fn host(&self) -> Option<usize> {
        self.control.host
    }

    /// A process has died; the coordinator, if it was the host, with it. Of what it had sent some may be lost.
    pub(crate) fn silence(&mut self, process: usize, in_flight: InFlight) {
        let said = self.control.to_coordinator.iter().filter(|(from, _)| *from == process).count();
        let mut left = in_flight.kept(said, &mut self.rng);
        self.control.to_coordinator.retain(|(from, _)| {
            let kept = *from != process || left > 0;
            left -= usize::from(*from == process && left > 0);
            kept
        });
        if self.control.host == Some(process) {
            self.control.crash(self.peers.len(), in_flight, &mut self.rng);
        }
    }

    /// Counts an event of the control plane; some may die of it.
    fn count_event(&mut self, what: &[u64]) {
        self.network.count_event(what);
        self.bury_the_struck();
    }

    /// The coordinator notices that a process has ended, or has left.
    pub fn notice_death(&mut self, process: usize) {
        if self.control.host.is_none() {
            return;
        }
        // Nothing that it said overtakes its end.
        let (said, other) = std::mem::take(&mut self.control.to_coordinator)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(from, _)| *from == process);
        self.control.to_coordinator = other;
        for (from, message) in said {
            self.control.coordinator.handle_message(from as u64, message, Instant(self.now));
        }
        self.control.coordinator.handle_closed(process as u64, Instant(self.now));
        self.route_control();
        if self.control.coordinator.is_succeeding() {
            self.tell_that_links_ended(process);
        }
    }

    /// The connection of a process to the coordinator is cut, while it lives: the others go on without it, unless they are too
    /// few for that before it is known to have ended. False while no coordinator is at work, and of the process that hosts it.
    pub fn cut_off(&mut self, process: usize, in_flight: InFlight) -> bool {
        if self.control.host.is_none_or(|host| host == process) || self.control.coordinator.is_succeeding() {
            return false;
        }
        self.silence(process, in_flight);
        self.control.to_members.remove(&process);
        self.control.cut_off = Some(process);
        self.notice_death(process);
        true
    }

    /// A process that was cut off ends, and the coordinator finds that out.
    pub fn end_cut_off(&mut self, process: usize, in_flight: InFlight) {
        self.kill(process, in_flight);
        self.control.cut_off = None;
        self.control.coordinator.handle_ended(peer_id(process), Instant(self.now));
        self.route_control();
    }

    /// A process that has no part in the job any more ends.
    fn end(&mut self, process: usize) {
        self.kill(process, InFlight::Delivered);
        self.tell_that_links_ended(process);
    }

    /// A new coordinator may wait for one that has died: the others say that their links to it have ended.
    fn tell_that_links_ended(&mut self, dead: usize) {
        for process in self.alive() {
            let Some(follower) = &self.peers[process].follower else { continue };
            let view = follower.armed().unwrap_or(follower.view());
            if let Some(info) = view.members.iter().find(|m| m.peer == peer_id(dead)) {
                let reason = format!("process {process} saw it end");
                let member = info.id;
                self.control.send(process, FromMember::LinkFailed { member, reason, end: LinkEnd::Cut });
            }
        }
    }

    /// A process leaves in order: nobody needs anything of it. It makes no further step.
    pub fn leave(&mut self, process: usize) {
        self.control.send(process, FromMember::Leave);
        self.kill(process, InFlight::Delivered);
        self.notice_death(process);
    }

    /// Delivers a control message, if there is one: to the coordinator or to any member that lives; or lets
    /// time pass for the coordinator. Messages of one connection stay in order.
    pub fn step_control(&mut self) {
        match self.rng.random_range(0..4) {
            0 => self.coordinator_hears(),
            1 => self.finish_linking(),
            2 if self.rng.random_ratio(1, 4) => self.wait_for_coordinator(),
            _ => {
                let process = self.rng.random_range(0..self.peers.len());
                if self.dead[process] || self.control.to_members.get(&process).is_none_or(VecDeque::is_empty)
                {
                    return;
                }
                self.count_event(&[1, process as u64]);
                let queue = self.control.to_members.get_mut(&process).filter(|_| !self.dead[process]);
                match queue.and_then(VecDeque::pop_front) {
                    Some(Some(message)) => self.member_hears(process, message),
                    Some(None) => self.is_orphaned(process),
                    None => {}
                }
                self.bury_the_struck();
            }
        }
    }

    fn coordinator_hears(&mut self) {
        if self.control.to_coordinator.is_empty() {
            return;
        }
        self.count_event(&[2, self.control.to_coordinator.len() as u64]);
        if let Some((from, message)) = self.control.to_coordinator.pop_front() {
            self.control.coordinator.handle_message(from as u64, message, Instant(self.now));
            self.route_control();
        }
    }

    fn finish_linking(&mut self) {
        if self.control.linking.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.control.linking.len());
        let (process, epoch) = self.control.linking.swap_remove(at);
        if !self.dead[process] {
            self.control.send(process, FromMember::Linked(epoch));
        }
    }

    /// A process has lost its coordinator: it goes to the first of the heirs that lives, once that has noticed
    /// too.
    fn is_orphaned(&mut self, process: usize) {
        let Some(follower) = &self.peers[process].follower else { return self.newcomer_is_orphaned(process) };
        let lives = |m: &&MemberInfo| !self.dead[process_of(m.peer)];
        let Some(heir) = follower.heirs().iter().find(lives).map(|m| (process_of(m.peer), m.id)) else {
            panic!("process {process} has nobody to go to");
        };
        let here = heir.0 == process;
        if here && self.control.host != Some(process) {
            assert!(self.control.host.is_none_or(|host| self.dead[host]), "two coordinators");
            let options = CoordinatorOptions { host: Some(peer_id(process)), ..options() };
            self.control.coordinator = Coordinator::successor(options);
            self.control.host = Some(process);
        }
        if self.control.host != Some(heir.0) {
            let queue = self.control.to_members.entry(process).or_default();
            return queue.push_front(None);
        }
        let dead = follower.members().filter(|m| self.dead[process_of(m.peer)]).map(|m| m.id);
        let rejoin = follower.rejoin(peer_id(process), dead.collect());
        self.control.send(process, FromMember::Rejoin(Box::new(rejoin)));
        if let Some(follower) = &mut self.peers[process].follower {
            follower.hosted_by(Some(heir.1));
        }
    }

    /// It asks the next coordinator, unless others may reckon with it already.
    fn newcomer_is_orphaned(&mut self, process: usize) {
        if self.peers[process].first_view.is_some() {
            return self.end(process);
        }
        match self.control.host {
            Some(_) => self.control.send(process, hello(process, None)),
            None => self.control.to_members.entry(process).or_default().push_front(None),
        }
    }

    fn wait_for_coordinator(&mut self) {
        let orphans = |(process, queue): (&usize, &VecDeque<Option<ToMember>>)| {
            !self.dead[*process] && queue.iter().any(Option::is_none)
        };
        let all_came = self.control.to_coordinator.is_empty() && !self.control.to_members.iter().any(orphans);
        if self.control.coordinator.is_succeeding() && self.control.host.is_some() && all_came {
            // Who has not come is dead, which those who have see from their links long before time is up.
            self.count_event(&[3]);
            if self.control.host.is_none() {
                return;
            }
            for process in (0..self.peers.len()).filter(|&process| self.dead[process]) {
                self.control.coordinator.handle_ended(peer_id(process), Instant(self.now));
            }
            self.route_control();
            if !self.control.coordinator.is_succeeding() {
                return;
            }
            let due = self.control.coordinator.next_deadline().unwrap_or_default();
            self.now = self.now.max(due.0);
            self.control.coordinator.handle_tick(Instant(self.now));
            return self.route_control();
        }
        if self.control.host.is_none() {
            return;
        }
        let Some(due) = self.control.coordinator.next_deadline() else { return };
        if due.since(Instant(self.now)) < Duration::from_secs(1) {
            self.now = self.now.max(due.0);
            self.control.coordinator.handle_tick(Instant(self.now));
            self.route_control();
        }
    }

    fn member_hears(&mut self, process: usize, message: ToMember) {
        match message {
            ToMember::Prepare { epoch, lost, held, ending } => {
                let host = self.peers[process].follower.as_ref().and_then(|follower| follower.view().host);
                self.peers[process].executor.is_to_end(&held, ending.as_deref(), host);
                self.freeze(process, epoch, lost);
            }
            ToMember::Resume { plan, shrink, .. } => {
                self.resume(process, &plan);
                shrink.into_iter().for_each(|epoch| self.shrink(process, epoch));
            }
            ToMember::View(view) => {
                let view = Arc::unwrap_or_clone(view);
                self.control.linking.push((process, view.epoch));
                match &mut self.peers[process].follower {
                    Some(follower) => follower.propose(view),
                    None => self.peers[process].first_view = Some(view),
                }
            }
            ToMember::Armed(epoch) => self.armed(process, epoch),
            ToMember::Arm(view) => {
                if let Some(follower) = &mut self.peers[process].follower {
                    follower.arm_view(Arc::unwrap_or_clone(view));
                }
                self.arm(process);
            }
            ToMember::Shrink(epoch) => self.shrink(process, epoch),
            ToMember::Activate(_) => self.peers[process].active = true,
            ToMember::Left(member) => {
                let peer = &mut self.peers[process];
                if let Some(follower) = &mut peer.follower {
                    follower.has_left(member);
                }
                peer.executor.peer_left(member.index());
                peer.left.push(member);
            }
            // Nobody that the new coordinator knows had heard of the view that this one waited for.
            ToMember::Verdict(Verdict::Deposed(_)) if !self.peers[process].active => self.end(process),
            ToMember::Verdict(verdict) => panic!("nothing ends this job: {verdict:?}"),
            ToMember::Refused(text) => panic!("nobody is refused: {text}"),
            _ => {}
        }
    }

    fn armed(&mut self, process: usize, epoch: Epoch) {
        match &mut self.peers[process].follower {
            Some(follower) => {
                follower.arm(epoch).expect("the view that was proposed last");
                self.arm(process);
            }
            None => {
                let view = self.peers[process].first_view.take().filter(|view| view.epoch == epoch);
                self.takes_part(process, view.expect("the view that was proposed last"));
            }
        }
    }

    fn shrink(&mut self, process: usize, epoch: Epoch) {
        if let Some(follower) = &mut self.peers[process].follower {
            follower.shrink(epoch);
        }
        self.arm(process);
    }

    /// A process passes a safe point whose op gave this. True if another view is in effect now.
    pub fn enter(&mut self, process: usize, least: [u32; 2]) -> bool {
        let slow = self.network.syscall_per_frame();
        let peer = &mut self.peers[process];
        let Some(view) = peer.follower.as_mut().and_then(|follower| follower.enter(least)) else {
            return false;
        };
        let epoch = view.epoch;
        peer.left.retain(|&left| view.member(left).is_some());
        let moved = peer.executor.enter(&mut |_| slow);
        let (_, next) =
            moved.into_iter().find(|(before, _)| *before == peer.group).expect("the job's own group");
        peer.group = next;
        self.control.send(process, FromMember::Entered(epoch));
        true
    }

    /// True if no message is on its way between the coordinator and those that live.
    pub fn is_quiet(&self) -> bool {
        let waits = |(process, queue): (&usize, &VecDeque<Option<ToMember>>)| {
            !self.dead[*process] && !queue.is_empty()
        };
        self.control.to_coordinator.is_empty() && !self.control.to_members.iter().any(waits)
    }

    /// Nothing is on its way, on the links either.
    pub fn is_still(&self) -> bool {
        self.is_quiet() && self.living.iter().all(|&process| self.network.is_still(process))
    }

    fn freeze(&mut self, process: usize, epoch: Epoch, lost: Vec<PeerLost>) {
        let peer = &mut self.peers[process];
        let follower = peer.follower.as_mut().expect("it takes part");
        follower.note(epoch);
        let lost: Vec<Arc<PeerLost>> = lost.into_iter().map(Arc::new).collect();
        for lost in &lost {
            follower.is_lost(lost);
            peer.left.retain(|&left| left != lost.member);
            if !peer.lost.contains(&lost.member) {
                peer.lost.push(lost.member);
                peer.planners.clear();
            }
        }
        let report = peer.executor.freeze(epoch, &lost, Instant(self.now), &mut peer.links);
        self.bury_the_struck();
        if self.dead[process] {
            return;
        }
        self.control.send(process, FromMember::Report(report));
    }

    fn resume(&mut self, process: usize, plan: &RecoveryPlan) {
        let whole = self.planner(process, self.peers[process].group);
        let parts: Vec<GroupIndex> = self.peers[process].parts.iter().map(|(group, _)| *group).collect();
        let parts: Vec<_> = parts.into_iter().map(|group| (group, self.planner(process, group))).collect();
        let mut replan = |group: GroupIndex, call: &Call| {
            let part = parts.iter().find(|(part, _)| *part == group);
            part.map_or(&whole, |(_, planner)| planner).plan(call, call.input.overlaps(&call.output))
        };
        let peer = &mut self.peers[process];
        peer.follower.iter_mut().for_each(Follower::goes_on);
        peer.executor.resume(plan, Instant(self.now), &mut replan, &mut peer.links, self.kernels);
    }
}
