//! Deterministic simulator: the production state machines of a whole job in one thread, over links that
//! delay, reorder, duplicate, and refuse frames as a seed decides. Results are compared in full.
//!
//! Memory is treated as badly as the link contract allows: the bytes of a pending send are read only
//! when they are delivered, views are overwritten when they are released, outputs start poisoned.
//!
//! Processes are numbered as they start. Those that a job starts with have that number also as their number
//! in the job and, until somebody is lost, as their rank.

mod control;
mod network;
pub mod partition;
mod peer;

pub use network::{Faults, InFlight, Network, Rates};
pub use peer::Peer;

use control::Control;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ronde_algorithms::Tuning;
use ronde_algorithms::kernels::CpuKernels;
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{
    CommitGroupId, Digests, Effect, GroupIndex, Limits, NewGroup, NewOp, OpHandle, Overdue,
};
use ronde_core::error::{Error, Outcome, Result};
use ronde_core::membership::FromMember;
use ronde_core::transport::LinkFailure;
use ronde_core::{Collective, Formation, GroupId, Instant, Rank, Tag};

/// A whole job.
pub struct Cluster {
    /// The processes.
    pub peers: Vec<Peer>,
    rng: SmallRng,
    tuning: Tuning,
    limits: Limits,
    dead: Vec<bool>,
    /// Processes in which the job has ended.
    ended: Vec<bool>,
    /// Processes that live, in order.
    living: Vec<usize>,
    control: Control,
    kernels: &'static CpuKernels,
    network: Network,
    now: u64,
    /// Processes whose links are polled.
    due: Vec<usize>,
    /// Some process may die of any event.
    has_doomed: bool,
}

/// So often a process looks whether one of its calls is older than so many steps: then it asks whom it waits for.
const ASK_EVERY: u64 = 64;
const ASK_AFTER: u64 = 300;

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
        Cluster::with_room(nodes, 0, seed, limits, tuning)
    }

    /// The same, with room for so many newcomers.
    pub fn with_room(nodes: &[u32], newcomers: usize, seed: u64, limits: &Limits, tuning: Tuning) -> Cluster {
        let mut rng = SmallRng::seed_from_u64(seed);
        let network = Network::new(nodes.len() + newcomers, Rates::draw(&mut rng), rng.random());
        let (control, view) = Control::of_an_active_job(nodes.len());
        let mut cluster = Cluster {
            peers: Vec::new(),
            rng,
            tuning,
            limits: Limits { digests: Digests::Always, ..limits.clone() },
            dead: Vec::new(),
            ended: Vec::new(),
            living: Vec::new(),
            control,
            kernels: CpuKernels::detect(),
            network,
            now: 0,
            due: Vec::new(),
            has_doomed: false,
        };
        for &node in nodes {
            let process = cluster.spawn(node);
            cluster.takes_part(process, view.clone());
        }
        cluster
    }

    fn spawn(&mut self, node: u32) -> usize {
        self.living.push(self.dead.len());
        self.dead.push(false);
        self.ended.push(false);
        self.peers.push(Peer::new(node, &self.limits));
        self.peers.len() - 1
    }

    /// Starts a call on one process.
    pub fn start(&mut self, process: usize, call: Call, in_place: bool) -> Result<OpHandle> {
        self.start_in(self.peers[process].group, process, call, in_place)
    }

    /// Opens a commit group on one process, for calls of one tag.
    pub fn open_commit_group(&mut self, process: usize, tag: Tag) -> Result<CommitGroupId> {
        let peer = &mut self.peers[process];
        peer.executor.open_commit_group(peer.group, tag, usize::MAX)
    }

    /// Starts a call of a commit group on one process.
    pub fn start_together(
        &mut self,
        process: usize,
        call: Call,
        in_place: bool,
        commit_group: CommitGroupId,
    ) -> Result<OpHandle> {
        self.start_call(self.peers[process].group, process, call, in_place, Some(commit_group))
    }

    /// Starts the seal of a commit group on one process.
    pub fn seal(&mut self, process: usize, tag: Tag, commit_group: CommitGroupId) -> Result<OpHandle> {
        let count = self.peers[process].executor.calls_in(commit_group);
        let options = CallOptions { tag, ..CallOptions::default() };
        let seal = Call { collective: Collective::Commit, count, options, ..Call::EMPTY };
        self.start_together(process, seal, false, commit_group)
    }

    /// Starts a call on one process, in a group of all.
    pub fn start_in(
        &mut self,
        group: GroupIndex,
        process: usize,
        call: Call,
        in_place: bool,
    ) -> Result<OpHandle> {
        self.start_call(group, process, call, in_place, None)
    }

    fn start_call(
        &mut self,
        group: GroupIndex,
        process: usize,
        mut call: Call,
        in_place: bool,
        commit_group: Option<CommitGroupId>,
    ) -> Result<OpHandle> {
        call.stand_ins = self.peers[process].executor.stand_ins(group, &call);
        let source = self.peers[process].executor.redirect(group, &call);
        let planned = Call { peer: source.unwrap_or(call.peer), ..call.clone() };
        let plan = self.planner(process, group).plan(&planned, in_place)?;
        let (now, deadline) = (Instant(self.now), Instant(u64::MAX));
        let new = NewOp { group, call, plan, source, now, deadline, commit_group };
        let peer = &mut self.peers[process];
        let handle = peer.executor.start(new, &mut peer.links, self.kernels);
        self.bury_the_struck();
        handle
    }

    /// A process makes another group of all members of the job, as by splitting.
    pub fn split(&mut self, process: usize) -> GroupIndex {
        let syscall_per_frame = self.network.syscall_per_frame();
        let view = self.peers[process].view();
        let formation = Formation { group: GroupId(77), generation: view.generation };
        let (epoch, me) = (view.epoch, Rank(self.rank(process) as u32));
        let members = view.members.iter().map(|m| m.id.index()).collect();
        let new = NewGroup { formation, epoch, members, me, syscall_per_frame };
        self.peers[process].executor.add_group(new)
    }

    /// A process makes a group of these processes, itself among them, as by splitting.
    pub fn split_off(&mut self, process: usize, members: &[usize]) -> GroupIndex {
        let syscall_per_frame = self.network.syscall_per_frame();
        let view = self.peers[process].view();
        let formation = Formation { group: GroupId(78), generation: view.generation };
        let (epoch, all) = (view.epoch, self.members(process));
        let ranks: Vec<u32> =
            (0..).zip(&all).filter(|(_, of)| members.contains(of)).map(|(at, _)| at).collect();
        let me = ranks.iter().position(|&rank| all[rank as usize] == process).expect("it is a member");
        let links = ranks.iter().map(|&rank| view.members[rank as usize].id.index()).collect();
        let new = NewGroup { formation, epoch, members: links, me: Rank(me as u32), syscall_per_frame };
        let peer = &mut self.peers[process];
        let group = peer.executor.add_group(new);
        peer.parts.push((group, ranks));
        group
    }

    /// Polls and advances one process.
    pub fn step(&mut self, process: usize) -> bool {
        if self.dead[process] || self.ended[process] {
            return false;
        }
        self.now += 1;
        // All others have nothing to say, and there may be hundreds of them.
        self.network.due(process, &mut self.due);
        let peer = &mut self.peers[process];
        let mut moved = false;
        for &other in &self.due {
            let Some(at) = peer.numbers.get(other).copied().flatten() else { continue };
            let Some(link) = peer.links[at].as_mut() else { continue };
            match link.poll(&mut peer.executor) {
                Ok(some) => moved |= some,
                Err(failure) => end_link(peer, at, failure),
            }
        }
        moved |= peer.executor.advance(&mut peer.links, self.kernels);
        if self.now.is_multiple_of(ASK_EVERY) {
            let before = Instant(self.now.saturating_sub(ASK_AFTER));
            peer.executor.ask_the_missing(before, &mut peer.links);
        }
        while let Some((at, failure)) = peer.executor.take_failure() {
            assert_eq!(failure, LinkFailure::Revoked, "a correct peer is accused");
            end_link(peer, at, failure);
        }
        self.bury_the_struck();
        if self.dead[process] {
            return moved;
        }
        self.miss_those_who_left(process);
        self.end_if_over(process);
        moved
    }

    /// As the engine does it, once the job has ended by agreement and nobody needs the process any more.
    fn end_if_over(&mut self, process: usize) {
        let peer = &mut self.peers[process];
        let Some(error) = peer.executor.ended_by() else { return };
        let is_settled = peer.links.iter().flatten().all(|link| link.is_settled());
        if is_settled && !peer.executor.is_needed(&mut peer.links) {
            self.network.kill(process, InFlight::Delivered);
            peer.executor.fail_all(&mut peer.links, &error);
            self.ended[process] = true;
        }
    }

    /// A process ends the job.
    pub fn abort(&mut self, process: usize) {
        self.control.send(process, FromMember::Abort { reason: format!("process {process} says so") });
    }

    /// Whether the job has ended for a process.
    pub fn has_ended(&self, process: usize) -> bool {
        self.ended[process]
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

    /// A process dies: it makes no further step.
    pub fn kill(&mut self, process: usize, in_flight: InFlight) {
        self.network.kill(process, in_flight);
        self.bury(process, in_flight);
    }

    /// A process will die right before the event with this number, even in the middle of a step.
    pub fn doom(&mut self, process: usize, event: u64, in_flight: InFlight) {
        self.has_doomed = true;
        self.network.doom(process, event, in_flight);
    }

    /// Events until now: frames that a link has accepted or delivered, control messages that were delivered.
    pub fn events(&self) -> u64 {
        self.network.events()
    }

    /// What they were, in one number.
    pub fn trace(&self) -> u64 {
        self.network.trace()
    }

    /// What links have done to the processes until now.
    pub fn faults(&self) -> Faults {
        self.network.faults()
    }

    fn bury_the_struck(&mut self) {
        while self.has_doomed
            && let Some((process, in_flight)) = self.network.take_struck()
        {
            self.bury(process, in_flight);
        }
    }

    fn bury(&mut self, process: usize, in_flight: InFlight) {
        self.dead[process] = true;
        self.living.retain(|&other| other != process);
        self.silence(process, in_flight);
    }

    /// Processes that live.
    pub fn alive(&self) -> Vec<usize> {
        self.living.clone()
    }

    /// The same, to look at.
    pub fn living(&self) -> &[usize] {
        &self.living
    }

    /// Asks for what keeps a process that wants to leave; true if nobody needs anything of it.
    pub fn is_drained(&mut self, process: usize) -> bool {
        let peer = &mut self.peers[process];
        peer.executor.ask_for_acknowledgement(&mut peer.links);
        let is_settled = peer.links.iter().flatten().all(|link| link.is_settled());
        is_settled && peer.executor.log_is_empty() && !peer.executor.has_unsent()
    }

    /// The coordinator's verdict reaches a process: everything ends with this error.
    pub fn fail(&mut self, process: usize, error: &Error) {
        let peer = &mut self.peers[process];
        peer.executor.fail_all(&mut peer.links, error);
    }

    /// A process says that the call that it has waited for longest is late, if there is one: it is to end for all.
    pub fn finds_late(&mut self, process: usize) -> bool {
        let late = self.peers[process].executor.overdue(Instant(u64::MAX));
        let Some(late) = late.filter(|late| !late.collective.is_point_to_point()) else { return false };
        let Overdue { op, collective, waited, strict, .. } = late;
        let culprits = format!("process {process} says so");
        let (missing, others) = (Vec::new(), Vec::new());
        let timeout = FromMember::Timeout { op, collective, waited, culprits, missing, others, strict };
        self.control.send(process, timeout);
        true
    }

    /// Tells a process that another has left in order.
    pub fn tell_left(&mut self, process: usize, who: usize) {
        self.peers[process].executor.peer_left(who);
    }

    /// What a process wants the coordinator to hear.
    pub fn effects(&mut self, process: usize) -> Vec<Effect> {
        self.peers[process].executor.take_effects()
    }

    /// As the engine does it: who has left is missed where an op still waits for it.
    fn miss_those_who_left(&mut self, process: usize) {
        let peer = &mut self.peers[process];
        for at in 0..peer.left.len() {
            let member = peer.left[at];
            if peer.links[member.index()].is_none() && peer.executor.waits_on(member.index()).is_some() {
                let reason = format!("process {process} misses it");
                self.control.send(process, FromMember::Missed { member, reason });
                peer.left.swap_remove(at);
                return;
            }
        }
    }
}
