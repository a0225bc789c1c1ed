//! One simulated process, and how it plans its calls.

use crate::Cluster;
use ronde_algorithms::{Algorithm, AnyPlan, CostTable, Survivors, Topology, Tuning};
use ronde_core::call::{Call, Shape};
use ronde_core::collective::{Executor, GroupIndex, Limits, Links, NewGroup};
use ronde_core::error::Result;
use ronde_core::membership::{Follower, View};
use ronde_core::plan;
use ronde_core::reduce::Reduction;
use ronde_core::{Epoch, Formation, GroupId, MemberId, PeerId};
use std::sync::Arc;

/// One simulated process.
pub struct Peer {
    /// Its state machine.
    pub executor: Executor<AnyPlan>,
    /// Which view it is in; `None` while it waits for its first.
    pub follower: Option<Follower>,
    /// It has heard that its first view is in effect.
    pub active: bool,
    pub(crate) links: Links,
    /// By process: the number by which its link is known.
    pub(crate) numbers: Vec<Option<usize>>,
    pub(crate) group: GroupIndex,
    /// Groups of some members: these by their ranks in the view.
    pub(crate) parts: Vec<(GroupIndex, Vec<u32>)>,
    pub(crate) node: u32,
    /// A newcomer's first view, while it is linked.
    pub(crate) first_view: Option<View>,
    /// Members that it knows to be lost.
    pub(crate) lost: Vec<MemberId>,
    /// What it plans its calls with, while its view and those who are lost stay the same.
    pub(crate) planners: Vec<((GroupIndex, Epoch), Arc<Planner>)>,
    /// Members that have left in order and were not missed.
    pub(crate) left: Vec<MemberId>,
}

/// Plans the calls of one process.
pub(crate) struct Planner {
    rank: u32,
    world: u32,
    topology: Topology,
    tuning: Tuning,
    survivors: Option<Survivors>,
}

impl Planner {
    /// The plan of a call. Without optimisation it is seen to keep to the rules for plans.
    pub(crate) fn plan(&self, call: &Call, in_place: bool) -> Result<AnyPlan> {
        let plan = self.make(call, in_place)?;
        let (input, output) = (call.input.len(), call.output.len());
        if cfg!(debug_assertions)
            && let Err(why) = plan::validate(&plan, self.rank, self.world, input, output)
        {
            panic!("{call:?}: {why}");
        }
        Ok(plan)
    }

    fn make(&self, call: &Call, in_place: bool) -> Result<AnyPlan> {
        let shape = Shape {
            collective: call.collective,
            rank: self.rank,
            world: self.world,
            count: call.count,
            element: call.dtype.size(),
            peer: call.peer,
            send: &call.send,
            recv: &call.recv,
            stand_ins: &call.stand_ins,
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

/// The identity of a process.
pub(crate) fn peer_id(process: usize) -> PeerId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(process as u16).to_be_bytes());
    PeerId(bytes)
}

/// The process with this identity.
pub(crate) fn process_of(peer: PeerId) -> usize {
    usize::from(u16::from_be_bytes([peer.0[0], peer.0[1]]))
}

impl Peer {
    pub(crate) fn new(node: u32, limits: &Limits) -> Peer {
        Peer {
            executor: Executor::new(0, limits.clone()),
            follower: None,
            active: false,
            links: Vec::new(),
            numbers: Vec::new(),
            group: GroupIndex::default(),
            parts: Vec::new(),
            node,
            first_view: None,
            lost: Vec::new(),
            planners: Vec::new(),
            left: Vec::new(),
        }
    }

    /// The view that it is in.
    pub fn view(&self) -> &View {
        self.follower.as_ref().expect("it takes part").view()
    }
}

impl Cluster {
    /// Rank of a process in its view.
    pub fn rank(&self, process: usize) -> usize {
        self.peers[process].view().rank_of(peer_id(process)).expect("it is in its own view").index()
    }

    /// Processes of the view that a process is in, by rank.
    pub fn members(&self, process: usize) -> Vec<usize> {
        self.peers[process].view().members.iter().map(|m| process_of(m.peer)).collect()
    }

    /// What a process plans calls of a group with, among those that it knows to be there.
    pub(crate) fn planner(&mut self, process: usize, group: GroupIndex) -> Arc<Planner> {
        let key = (group, self.peers[process].view().epoch);
        let known = &self.peers[process].planners;
        if let Some((_, planner)) = known.iter().find(|(known, _)| *known == key) {
            return planner.clone();
        }
        let planner = Arc::new(self.make_planner(process, group));
        self.peers[process].planners.push((key, planner.clone()));
        planner
    }

    fn make_planner(&self, process: usize, group: GroupIndex) -> Planner {
        let peer = &self.peers[process];
        let members = &peer.view().members;
        let node = |at: usize| self.peers[process_of(members[at].peer)].node;
        let topology = |ranks: &[u32]| {
            let nodes: Vec<u32> = ranks.iter().map(|&rank| node(rank as usize)).collect();
            Topology::new(&nodes, &vec![0; nodes.len()], &CostTable::default())
        };
        let part = peer.parts.iter().find(|(part, _)| *part == group);
        let all: Vec<u32> =
            part.map_or_else(|| (0..members.len() as u32).collect(), |(_, ranks)| ranks.clone());
        let is_there = |rank: u32| !peer.lost.contains(&members[rank as usize].id);
        let left: Vec<u32> = (0..).zip(&all).filter(|(_, rank)| is_there(**rank)).map(|(at, _)| at).collect();
        let nodes_of = |left: &[u32]| left.iter().map(|&at| all[at as usize]).collect::<Vec<_>>();
        let survivors = (left.len() < all.len())
            .then(|| Survivors::new(&left, topology(&nodes_of(&left)), self.tuning.clone()));
        let me = self.rank(process) as u32;
        Planner {
            rank: all.iter().position(|&rank| rank == me).expect("it is a member") as u32,
            world: all.len() as u32,
            topology: topology(&all),
            tuning: self.tuning.clone(),
            survivors,
        }
    }

    /// A process gets its first view: links, and a group.
    pub(crate) fn takes_part(&mut self, process: usize, view: View) {
        self.open_links(process, &view);
        let formation = Formation { group: GroupId(0), generation: view.generation };
        let me = view.rank_of(peer_id(process)).expect("it is in its first view");
        let members = view.members.iter().map(|m| m.id.index()).collect();
        let syscall_per_frame = self.network.syscall_per_frame();
        let epoch = view.epoch;
        let peer = &mut self.peers[process];
        peer.group = peer.executor.add_group(NewGroup { formation, epoch, members, me, syscall_per_frame });
        peer.active = view.generation.0 == 0;
        peer.follower = Some(Follower::new(view));
    }

    /// Opens the links of a view that a process does not have.
    pub(crate) fn open_links(&mut self, process: usize, view: &View) {
        let Cluster { peers, network, .. } = self;
        let peer = &mut peers[process];
        for member in &view.members {
            let (other, at) = (process_of(member.peer), member.id.index());
            let known = peer.follower.as_ref().is_some_and(|f| f.view().rank_of(member.peer).is_some());
            if known {
                continue;
            }
            peer.executor.admit(at);
            if peer.links.len() <= at {
                peer.links.resize_with(at + 1, || None);
            }
            assert!(peer.links[at].is_none(), "a number is in use");
            peer.lost.retain(|&lost| lost != member.id);
            peer.planners.clear();
            if other != process {
                peer.links[at] = Some(network.link(process, other, at));
                if peer.numbers.len() <= other {
                    peer.numbers.resize(other + 1, None);
                }
                peer.numbers[other] = Some(at);
            }
        }
    }

    /// A view waits for the next safe point of a process.
    pub(crate) fn arm(&mut self, process: usize) {
        let Some(view) = self.peers[process].follower.as_ref().and_then(Follower::armed).cloned() else {
            return;
        };
        self.open_links(process, &view);
        let members = view.members.iter().map(|m| m.id.index()).collect();
        self.peers[process].executor.arm(view.epoch, members);
    }
}
