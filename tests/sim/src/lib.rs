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
use ronde_algorithms::{AnyPlan, Topology, Tuning};
use ronde_core::call::{Call, Shape};
use ronde_core::collective::{Effect, Executor, GroupIndex, Limits, Links, NewGroup, NewOp, OpHandle};
use ronde_core::error::{Error, Outcome, Result};
use ronde_core::reduce::Reduction;
use ronde_core::transport::LinkFailure;
use ronde_core::{Epoch, GroupId, Instant, Rank};
use std::sync::Arc;

/// One simulated process.
pub struct Peer {
    /// Its state machine.
    pub executor: Executor<AnyPlan>,
    links: Links,
    group: GroupIndex,
}

/// A whole job.
pub struct Cluster {
    /// The processes by rank.
    pub peers: Vec<Peer>,
    rng: SmallRng,
    topology: Arc<Topology>,
    tuning: Tuning,
    kernels: &'static CpuKernels,
    network: Network,
    now: u64,
}

/// As the engine does it.
fn end_link(peer: &mut Peer, at: usize, failure: LinkFailure) {
    peer.executor.close_link(&mut peer.links, at);
    if failure == LinkFailure::Revoked {
        peer.executor.stall_ops_with(at);
    }
}

impl Cluster {
    /// A job of `world` ranks; everything that happens follows from the seed.
    pub fn new(world: usize, seed: u64, limits: &Limits, topology: Topology, tuning: Tuning) -> Cluster {
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
                Peer { executor, links: network.links(rank), group }
            })
            .collect();
        let kernels = CpuKernels::detect();
        Cluster { peers, rng, topology: Arc::new(topology), tuning, kernels, network, now: 0 }
    }

    /// Starts a call on one rank.
    pub fn start(&mut self, rank: usize, call: Call, in_place: bool) -> Result<OpHandle> {
        let world = self.peers.len() as u32;
        let plan = {
            let shape = Shape {
                collective: call.collective,
                rank: rank as u32,
                world,
                count: call.count,
                element: call.dtype.size(),
                peer: call.peer,
                send: &call.send,
                recv: &call.recv,
                in_place,
                ordered: matches!(call.reduction, Some(Reduction::User(_))),
                narrow: call.dtype.is_narrow_float(),
            };
            let algorithm = call
                .options
                .algorithm
                .and_then(ronde_algorithms::Algorithm::from_name)
                .unwrap_or_else(|| ronde_algorithms::choose(&shape, &self.topology));
            ronde_algorithms::build(&shape, algorithm, &self.topology, &self.tuning)?
        };
        let peer = &mut self.peers[rank];
        let new =
            NewOp { group: peer.group, call, plan, now: Instant(self.now), deadline: Instant(u64::MAX) };
        peer.executor.start(new, &mut peer.links, self.kernels)
    }

    /// Polls and advances one rank.
    pub fn step(&mut self, rank: usize) -> bool {
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

    /// The process of a rank dies. Do not step it again.
    pub fn kill(&mut self, rank: usize) {
        self.network.kill(rank);
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
