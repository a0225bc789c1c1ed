//! Deterministic simulator: the production executors of a whole job in one thread, over links that
//! delay, reorder, duplicate, and refuse frames as a seed decides.
//!
//! Memory is treated as badly as the link contract allows: the bytes of a pending send are read only
//! when they are delivered, views are overwritten when they are released, outputs start poisoned.

mod network;

pub use network::{Network, Rates};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ronde_algorithms::kernels::CpuKernels;
use ronde_algorithms::{Algorithm, AnyPlan, CostTable, Survivors, Topology, Tuning};
use ronde_core::call::{Call, Shape};
use ronde_core::collective::{Effect, Executor, GroupIndex, Limits, Links, NewGroup, NewOp, OpHandle};
use ronde_core::error::{Error, Outcome, PeerLost, Result};
use ronde_core::membership::{
    self, Coordinator, CoordinatorOptions, Effect as CoordinatorEffect, FromMember, Hello, MachineId,
    MemberInfo, ToMember,
};
use ronde_core::recovery::RecoveryPlan;
use ronde_core::reduce::Reduction;
use ronde_core::transport::LinkFailure;
use ronde_core::{Epoch, GroupId, Instant, PeerId, Rank};
use std::collections::VecDeque;
use std::sync::Arc;

/// One simulated process.
pub struct Peer {
    /// Its state machine.
    pub executor: Executor<AnyPlan>,
    links: Links,
    group: GroupIndex,
    /// Ranks that it knows to be lost.
    lost: Vec<usize>,
}

/// Plans the calls of one rank.
struct Planner {
    rank: u32,
    world: u32,
    topology: Arc<Topology>,
    tuning: Tuning,
    survivors: Option<Survivors>,
}

impl Planner {
    fn plan(&self, call: &Call, in_place: bool) -> Result<AnyPlan> {
        let shape = Shape {
            collective: call.collective,
            rank: self.rank,
            world: self.world,
            count: call.count,
            element: call.dtype.size(),
            peer: call.peer,
            send: &call.send,
            recv: &call.recv,
            in_place,
            ordered: matches!(call.reduction, Some(Reduction::User(_))),
            narrow: call.dtype.is_narrow_float(),
        };
        let named = call.options.algorithm.and_then(Algorithm::from_name);
        if let Some(survivors) = &self.survivors {
            return Ok(survivors.plan(&shape, named)?);
        }
        let algorithm = named.unwrap_or_else(|| ronde_algorithms::choose(&shape, &self.topology));
        Ok(ronde_algorithms::build(&shape, algorithm, &self.topology, &self.tuning)?)
    }
}

/// A whole job.
pub struct Cluster {
    /// The processes by rank.
    pub peers: Vec<Peer>,
    rng: SmallRng,
    nodes: Vec<u32>,
    topology: Arc<Topology>,
    tuning: Tuning,
    dead: Vec<bool>,
    coordinator: Coordinator,
    /// On the way to each rank, and to the coordinator.
    to_members: Vec<VecDeque<ToMember>>,
    to_coordinator: VecDeque<(usize, FromMember)>,
    kernels: &'static CpuKernels,
    network: Network,
    now: u64,
}

/// The production coordinator with a member behind each connection, which has the number of its rank.
fn active_coordinator(world: usize) -> Coordinator {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    for rank in 0..world {
        let info = MemberInfo {
            peer: PeerId([rank as u8; 16]),
            rank: Rank(rank as u32),
            host: format!("host-{rank}"),
            addresses: Vec::new(),
            machine: MachineId::default(),
            pid: rank as u32,
            transports: Vec::new(),
            costs: String::new(),
        };
        let hello = Hello {
            version: membership::VERSION,
            rank: Some(rank as u32),
            size: Some(world as u32),
            hosts_coordinator: false,
            info,
        };
        coordinator.handle_message(rank as u64, FromMember::Hello(hello), Instant(0));
    }
    for rank in 0..world {
        coordinator.handle_message(rank as u64, FromMember::Linked(Epoch(1)), Instant(0));
    }
    drop(coordinator.take_effects());
    coordinator
}

/// As the engine does it.
fn end_link(peer: &mut Peer, at: usize, failure: LinkFailure) {
    peer.executor.close_link(&mut peer.links, at);
    if failure == LinkFailure::Revoked {
        peer.executor.stall_ops_with(at);
    }
}

impl Cluster {
    /// A job with a rank for each entry, which names its node; everything that happens follows from the seed.
    pub fn new(nodes: &[u32], seed: u64, limits: &Limits, tuning: Tuning) -> Cluster {
        let world = nodes.len();
        let mut rng = SmallRng::seed_from_u64(seed);
        let network = Network::new(world, Rates::draw(&mut rng), rng.random());
        let peers = (0..world)
            .map(|rank| {
                let mut executor = Executor::new(world, limits.clone());
                let members = (0..world).collect();
                let syscall_per_frame = network.syscall_per_frame();
                let me = Rank(rank as u32);
                let new = NewGroup { id: GroupId(0), epoch: Epoch(1), members, me, syscall_per_frame };
                let group = executor.add_group(new);
                Peer { executor, links: network.links(rank), group, lost: Vec::new() }
            })
            .collect();
        let kernels = CpuKernels::detect();
        let topology = Arc::new(Topology::new(nodes, &CostTable::default()));
        Cluster {
            peers,
            rng,
            nodes: nodes.to_vec(),
            topology,
            tuning,
            dead: vec![false; world],
            coordinator: active_coordinator(world),
            to_members: vec![VecDeque::new(); world],
            to_coordinator: VecDeque::new(),
            kernels,
            network,
            now: 0,
        }
    }

    /// Starts a call on one rank.
    pub fn start(&mut self, rank: usize, call: Call, in_place: bool) -> Result<OpHandle> {
        let plan = self.planner(rank).plan(&call, in_place)?;
        let peer = &mut self.peers[rank];
        let new =
            NewOp { group: peer.group, call, plan, now: Instant(self.now), deadline: Instant(u64::MAX) };
        peer.executor.start(new, &mut peer.links, self.kernels)
    }

    /// What a rank plans calls with, among those that it knows to be there.
    fn planner(&self, rank: usize) -> Planner {
        let lost = &self.peers[rank].lost;
        let left: Vec<u32> = (0..self.peers.len()).filter(|r| !lost.contains(r)).map(|r| r as u32).collect();
        let nodes: Vec<u32> = left.iter().map(|&rank| self.nodes[rank as usize]).collect();
        let survivors = (!lost.is_empty()).then(|| {
            Survivors::new(&left, Topology::new(&nodes, &CostTable::default()), self.tuning.clone())
        });
        Planner {
            rank: rank as u32,
            world: self.peers.len() as u32,
            topology: self.topology.clone(),
            tuning: self.tuning.clone(),
            survivors,
        }
    }

    /// Polls and advances one rank.
    pub fn step(&mut self, rank: usize) -> bool {
        if self.dead[rank] {
            return false;
        }
        self.now += 1;
        let peer = &mut self.peers[rank];
        let mut moved = false;
        for at in 0..peer.links.len() {
            let Some(link) = peer.links[at].as_mut() else { continue };
            match link.poll(&mut peer.executor) {
                Ok(some) => moved |= some,
                Err(failure) => end_link(peer, at, failure),
            }
        }
        moved |= peer.executor.advance(&mut peer.links, self.kernels);
        while let Some((at, failure)) = peer.executor.take_failure() {
            assert_eq!(failure, LinkFailure::Revoked, "a correct peer is accused");
            end_link(peer, at, failure);
        }
        moved
    }

    /// Runs all ranks in random order until `done`, or panics after `budget` rounds without an end.
    pub fn run_until(&mut self, budget: usize, mut done: impl FnMut(&mut Cluster) -> bool) {
        let mut order: Vec<usize> = (0..self.peers.len()).collect();
        for _ in 0..budget {
            if done(self) {
                return;
            }
            order.shuffle(&mut self.rng);
            for &rank in &order {
                if self.rng.random_ratio(7, 8) {
                    self.step(rank);
                }
            }
        }
        let open: Vec<String> = self.peers.iter().map(|p| p.executor.describe()).collect();
        panic!("no end within {budget} rounds; open ops by rank: {open:#?}");
    }

    /// The results of one op per rank, once all have ended.
    pub fn finish(&mut self, handles: &[OpHandle], budget: usize) -> Vec<Result<Outcome>> {
        let mut results: Vec<Option<Result<Outcome>>> = handles.iter().map(|_| None).collect();
        self.run_until(budget, |cluster| {
            for (rank, result) in results.iter_mut().enumerate() {
                if result.is_none() {
                    *result = cluster.peers[rank].executor.take(handles[rank]);
                }
            }
            results.iter().all(Option::is_some)
        });
        results.into_iter().flatten().collect()
    }

    /// The process of a rank dies: it makes no further step.
    pub fn kill(&mut self, rank: usize) {
        self.dead[rank] = true;
        self.network.kill(rank);
    }

    /// Ranks that live.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.peers.len()).filter(|&rank| !self.dead[rank]).collect()
    }

    /// The coordinator notices that the process of a rank has ended.
    pub fn notice_death(&mut self, rank: usize) {
        self.coordinator.handle_closed(rank as u64, Instant(self.now));
        self.route();
    }

    /// Puts what the coordinator sends on its way.
    fn route(&mut self) {
        for effect in self.coordinator.take_effects() {
            if let CoordinatorEffect::Send(to, message) = effect {
                self.to_members[to as usize].push_back(message);
            }
        }
    }

    /// Delivers a control message, if there is one: to the coordinator or to any member that lives. Messages of
    /// one connection stay in order.
    pub fn step_control(&mut self) {
        if self.rng.random()
            && let Some((from, message)) = self.to_coordinator.pop_front()
        {
            self.coordinator.handle_message(from as u64, message, Instant(self.now));
            return self.route();
        }
        let rank = self.rng.random_range(0..self.peers.len());
        if self.dead[rank] {
            return;
        }
        match self.to_members[rank].pop_front() {
            Some(ToMember::Prepare { epoch, lost }) => self.freeze(rank, epoch, lost),
            Some(ToMember::Resume { plan, .. }) => self.resume(rank, &plan),
            Some(ToMember::Verdict(verdict)) => panic!("nothing ends this job: {verdict:?}"),
            _ => {}
        }
    }

    /// True if no message is on its way between the coordinator and those that live.
    pub fn is_quiet(&self) -> bool {
        let waits = self.to_members.iter().zip(&self.dead).any(|(queue, dead)| !dead && !queue.is_empty());
        self.to_coordinator.is_empty() && !waits
    }

    fn freeze(&mut self, rank: usize, epoch: Epoch, lost: Vec<PeerLost>) {
        let peer = &mut self.peers[rank];
        let lost: Vec<(usize, Error)> =
            lost.into_iter().map(|lost| (lost.rank.index(), Error::PeerLost(Arc::new(lost)))).collect();
        for (dead, _) in &lost {
            if !peer.lost.contains(dead) {
                peer.lost.push(*dead);
            }
        }
        let report = peer.executor.freeze(epoch, &lost, Instant(self.now), &mut peer.links);
        self.to_coordinator.push_back((rank, FromMember::Report(report)));
    }

    fn resume(&mut self, rank: usize, plan: &RecoveryPlan) {
        let planner = self.planner(rank);
        let mut replan = |_: GroupIndex, call: &Call| planner.plan(call, call.input.overlaps(&call.output));
        let peer = &mut self.peers[rank];
        peer.executor.resume(plan, Instant(self.now), &mut replan, &mut peer.links, self.kernels);
    }

    /// The coordinator's verdict reaches a rank: everything ends with this error.
    pub fn fail(&mut self, rank: usize, error: &Error) {
        let peer = &mut self.peers[rank];
        peer.executor.fail_all(&mut peer.links, error);
    }

    /// Tells a rank that another has left in order.
    pub fn tell_left(&mut self, rank: usize, who: usize) {
        self.peers[rank].executor.peer_left(who);
    }

    /// What a rank wants the coordinator to hear.
    pub fn effects(&mut self, rank: usize) -> Vec<Effect> {
        self.peers[rank].executor.take_effects()
    }
}
