//! A job that makes calls and sends messages while some of its peers die, against an oracle that knows who
//! contributed.

use crate::case::{BUDGET, Memory, NarrowLimits, POISON, SMALL};
use crate::random_op::{Op, OpSpec, Told, with_one_simpler};
use crate::scenario::{Scenario, counts, with_less};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{CommitGroupId, OpHandle};
use ronde_core::error::Outcome;
use ronde_core::{Collective, DType, Epoch, Result, Segment, Tag};
use ronde_sim::{Cluster, Faults, InFlight};
use serde::{Deserialize, Serialize};

/// A message between two ranks, of which either may die.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct MessageSpec {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) tag: u32,
    pub(crate) count: usize,
}

/// When somebody dies.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Moment {
    /// So many turns after the death before was noticed, or after the start.
    Turns(usize),
    /// Right before the event with this number ([`Cluster::events`]).
    Event(u64),
}

/// The death of a rank.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Death {
    pub(crate) victim: usize,
    pub(crate) moment: Moment,
    pub(crate) in_flight: InFlight,
    /// The others notice only by what does not come, and go on for so many turns. The next may die before they have
    /// gone on without this one, at any point of it.
    pub(crate) unnoticed: usize,
    /// The others go on without it before anything else happens.
    pub(crate) settles: bool,
    /// The coordinator takes it for dead so many turns before: it goes on, and hears of nothing, as one that was stopped and
    /// wakes. Not of the one that hosts the coordinator.
    #[serde(default)]
    pub(crate) lingers: usize,
}

impl Death {
    /// In half of all schedules some linger. Everything else stays as it was drawn.
    pub(crate) fn draw_lingering(seed: u64, deaths: &mut [Death], within: usize) {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x1a57);
        if rng.random() {
            deaths.iter_mut().for_each(|death| {
                death.lingers = if rng.random() { rng.random_range(1..within) } else { 0 };
            });
        }
    }
}

/// After so many turns a rank finds that a call is late.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Late {
    pub(crate) rank: usize,
    pub(crate) turns: usize,
}

impl Late {
    /// Of half of all schedules some calls end so. Everything else stays as it was drawn.
    pub(crate) fn draw(seed: u64, world: usize, within: usize) -> Vec<Late> {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x1a7e);
        let count = if rng.random() { rng.random_range(1..5) } else { 0 };
        let mut late = || Late { rank: rng.random_range(0..world), turns: rng.random_range(0..within) };
        (0..count).map(|_| late()).collect()
    }
}

/// A schedule of deaths.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// Elements, what links do, and the order of events follow from it.
    pub(crate) seed: u64,
    /// The node of each rank.
    pub(crate) nodes: Vec<u32>,
    pub(crate) limits: NarrowLimits,
    pub(crate) ops: Vec<OpSpec>,
    pub(crate) messages: Vec<MessageSpec>,
    pub(crate) deaths: Vec<Death>,
    #[serde(default)]
    pub(crate) late: Vec<Late>,
    /// After so many turns a rank ends the job.
    #[serde(default)]
    pub(crate) abort: Option<Late>,
}

impl Losses {
    /// Without one of the ranks, and whatever names it.
    fn without(&self, rank: usize) -> Losses {
        let mut less = self.clone();
        less.nodes.remove(rank);
        let renumber = |other: &mut usize| *other -= usize::from(*other > rank);
        less.deaths.retain(|death| death.victim != rank);
        less.deaths.iter_mut().for_each(|death| renumber(&mut death.victim));
        less.abort = less.abort.filter(|abort| abort.rank != rank);
        less.abort.iter_mut().for_each(|abort| renumber(&mut abort.rank));
        less.late.retain(|late| late.rank != rank);
        less.late.iter_mut().for_each(|late| renumber(&mut late.rank));
        less.messages.retain(|message| message.from != rank && message.to != rank);
        less.messages.iter_mut().for_each(|message| {
            renumber(&mut message.from);
            renumber(&mut message.to);
        });
        less.ops.iter_mut().for_each(|op| renumber(&mut op.root));
        less
    }

    fn simpler_deaths(&self) -> Vec<Losses> {
        let mut all = Vec::new();
        for (at, death) in self.deaths.iter().enumerate() {
            let moments = match death.moment {
                Moment::Turns(turns) => [0, turns / 2].map(Moment::Turns),
                Moment::Event(event) => [0, event / 2].map(Moment::Event),
            };
            let earlier = moments.map(|moment| Death { moment, ..*death });
            let mut simpler = match death.moment {
                Moment::Turns(0) | Moment::Event(0) => Vec::new(),
                _ => earlier.to_vec(),
            };
            if death.unnoticed > 0 {
                simpler.push(Death { unnoticed: 0, ..*death });
                simpler.push(Death { unnoticed: death.unnoticed / 2, ..*death });
            }
            if death.in_flight != InFlight::Delivered {
                simpler.push(Death { in_flight: InFlight::Delivered, ..*death });
            }
            if death.lingers > 0 {
                simpler.push(Death { lingers: 0, ..*death });
                simpler.push(Death { lingers: death.lingers / 2, ..*death });
            }
            if death.settles {
                simpler.push(Death { settles: false, ..*death });
            }
            all.extend(simpler.into_iter().map(|death| {
                let mut less = self.clone();
                less.deaths[at] = death;
                less
            }));
        }
        all
    }
}

impl Scenario for Losses {
    fn simpler(&self) -> Vec<Losses> {
        let mut all: Vec<Losses> =
            with_less(&self.ops).into_iter().map(|ops| Losses { ops, ..self.clone() }).collect();
        all.extend(with_less(&self.messages).into_iter().map(|messages| Losses { messages, ..self.clone() }));
        all.extend(with_less(&self.deaths).into_iter().map(|deaths| Losses { deaths, ..self.clone() }));
        all.extend(with_less(&self.late).into_iter().map(|late| Losses { late, ..self.clone() }));
        if self.nodes.len() > 2 {
            let fewer = (0..self.nodes.len()).rev().map(|rank| self.without(rank));
            all.extend(fewer.filter(|less| less.deaths.len() < less.nodes.len()));
        }
        if self.nodes.iter().any(|&node| node > 0) {
            all.push(Losses { nodes: vec![0; self.nodes.len()], ..self.clone() });
        }
        all.extend(self.simpler_deaths());
        all.extend(with_one_simpler(&self.ops).into_iter().map(|ops| Losses { ops, ..self.clone() }));
        all
    }

    fn reseeded(&self, seed: u64) -> Losses {
        Losses { seed, ..self.clone() }
    }

    fn size(&self) -> String {
        let Losses { nodes, ops, messages, deaths, late, .. } = self;
        let [ops, messages, deaths, late] = [ops.len(), messages.len(), deaths.len(), late.len()];
        format!("peers: {}, ops: {ops}, messages: {messages}, deaths: {deaths}, late: {late}", nodes.len())
    }
}

struct Message {
    spec: MessageSpec,
    values: Vec<u64>,
    source: Memory,
    target: Memory,
}

impl Message {
    fn new(spec: &MessageSpec, rng: &mut SmallRng) -> Message {
        let values: Vec<u64> = (0..spec.count).map(|_| rng.random()).collect();
        let (source, target) = (Memory::new(&values), Memory::new(&vec![POISON; values.len()]));
        Message { spec: *spec, values, source, target }
    }

    fn call(&self, rank: usize) -> Call {
        let sends = rank == self.spec.from;
        Call {
            collective: if sends { Collective::Send } else { Collective::Recv },
            dtype: DType::U64,
            count: self.values.len(),
            peer: if sends { self.spec.to } else { self.spec.from } as u32,
            input: if sends { self.source.segment() } else { Segment::EMPTY },
            output: if sends { Segment::EMPTY } else { self.target.segment() },
            options: CallOptions { tag: Tag(self.spec.tag), ..CallOptions::default() },
            ..Call::EMPTY
        }
    }

    fn concerns(&self, rank: usize) -> bool {
        rank == self.spec.from || rank == self.spec.to
    }
}

counts! {
    /// What became of ops: done without somebody, some of them in parts, or by another than the root of a broadcast;
    /// failed; done with everybody.
    Tally {
        reduced,
        in_parts,
        handed_on,
        /// Gathers made again with blocks of the dead.
        stood_in,
        /// Of those that died, results that were stable.
        stable,
        /// The same, results that hold once somebody has returned them.
        certain,
        failed,
        /// Ended by agreement, since somebody found them late; and those of which some had returned, which bound nobody.
        late,
        late_for_some,
        /// Of jobs that were aborted, calls that ended so, those of them that returned on some ranks, and those that had returned
        /// by then.
        aborted,
        aborted_for_some,
        done,
        whole,
        /// Commit groups that were final without somebody.
        together,
        /// Outputs of calls outside of commit groups with holes, and with more than one.
        with_holes,
        with_several,
        /// Deaths that happened, and those before which the dead had been given up.
        deaths,
        lingered,
        /// Connections that were cut while both sides lived, and payloads that were still being written when nobody wanted them
        /// any more.
        cuts,
        late_writes,
    }
}

/// When all calls have ended memory comes back, and when the job has ended for some it has for all, within so many steps of each rank.
const ROUNDS_TO_GIVE_BACK: usize = 20000;

/// Calls that one rank has made together.
struct Together {
    number: u8,
    id: CommitGroupId,
    ops: Vec<usize>,
}

/// A schedule while it is played.
struct Job {
    cluster: Cluster,
    rng: SmallRng,
    ops: Vec<Op>,
    /// By rank: the next op to start.
    next: Vec<usize>,
    /// By rank: ops in flight.
    open: Vec<Vec<(usize, OpHandle)>>,
    /// By rank and tag: the commit group that waits for its seal.
    unsealed: Vec<[Option<Together>; 2]>,
    /// By rank: seals in flight, with the ops of their groups.
    seals: Vec<Vec<(OpHandle, Vec<usize>)>>,
    results: Vec<Vec<Option<Result<Outcome>>>>,
    messages: Vec<Message>,
    /// By rank: the next message to look at, and those in flight.
    next_message: Vec<usize>,
    in_flight: Vec<Vec<(usize, OpHandle)>>,
    late: Vec<Late>,
    abort: Option<Late>,
    turns: usize,
    /// Ranks that were given up before they died.
    given_up: Vec<usize>,
    /// Somebody died when others had heard that the job has ended: what it alone had is lost, and no plan follows.
    lost_in_the_end: bool,
    /// Before anybody died.
    first_epoch: Epoch,
    had_no_late: bool,
}

/// What happened: how often something did, and what, in one number.
pub(crate) struct Played {
    pub(crate) events: u64,
    #[cfg_attr(feature = "planted-bugs", expect(dead_code, reason = "nothing is played twice there"))]
    pub(crate) trace: u64,
}

/// Plays a schedule; panics where a survivor is told something wrong, or nothing.
pub(crate) fn play(losses: &Losses, tally: &mut Tally) -> Played {
    let mut job = Job::new(losses);
    job.play(losses, tally);
    let Faults { cuts, late_writes } = job.cluster.faults();
    tally.cuts += cuts;
    tally.late_writes += late_writes;
    Played { events: job.cluster.events(), trace: job.cluster.trace() }
}

impl Job {
    fn new(losses: &Losses) -> Job {
        let mut rng = SmallRng::seed_from_u64(losses.seed);
        let world = losses.nodes.len();
        let mut cluster = Cluster::new(&losses.nodes, losses.seed, &losses.limits.limits(), SMALL);
        let first_epoch = cluster.peers[0].view().epoch;
        for death in &losses.deaths {
            if let Moment::Event(event) = death.moment {
                cluster.doom(death.victim, event, death.in_flight);
            }
        }
        Job {
            cluster,
            ops: losses.ops.iter().map(|spec| Op::new(spec, world, &mut rng)).collect(),
            next: vec![0; world],
            open: vec![Vec::new(); world],
            unsealed: (0..world).map(|_| Default::default()).collect(),
            seals: vec![Vec::new(); world],
            results: (0..world).map(|_| (0..losses.ops.len()).map(|_| None).collect()).collect(),
            messages: losses.messages.iter().map(|spec| Message::new(spec, &mut rng)).collect(),
            next_message: vec![0; world],
            in_flight: vec![Vec::new(); world],
            rng,
            late: losses.late.clone(),
            abort: losses.abort,
            turns: 0,
            given_up: Vec::new(),
            lost_in_the_end: false,
            first_epoch,
            had_no_late: losses.late.is_empty(),
        }
    }

    fn play(&mut self, losses: &Losses, tally: &mut Tally) {
        for death in &losses.deaths {
            if !self.die(death, tally) {
                break;
            }
            tally.deaths += 1;
        }
        while !self.is_done() {
            self.round();
        }
        let mut living = self.cluster.living().iter();
        if living.any(|&rank| self.cluster.has_ended(rank)) {
            self.see_it_end_for_all();
            return self.check_end(tally);
        }
        self.check_agreement(tally);
        self.see_all_memory_back();
        for rank in (0..losses.nodes.len()).filter(|rank| !self.lives(*rank)) {
            self.check_stable(rank, tally);
            self.check_certain(rank, tally);
        }
    }

    /// Those who had nothing left to do may not have heard of it yet.
    fn see_it_end_for_all(&mut self) {
        for _ in 0..ROUNDS_TO_GIVE_BACK {
            let mut living = self.cluster.living().iter();
            if living.all(|&rank| self.cluster.has_ended(rank)) {
                return;
            }
            self.round();
        }
        let describe =
            |&rank: &usize| (self.cluster.has_ended(rank), self.cluster.peers[rank].executor.describe());
        let living: Vec<_> = self.cluster.living().iter().map(describe).collect();
        panic!("it has ended for some, not for all: {living:#?}");
    }

    /// Once everybody knows that all have returned from all calls, nobody holds memory of any kind.
    fn see_all_memory_back(&mut self) {
        let living = self.cluster.living().to_vec();
        for _ in 0..ROUNDS_TO_GIVE_BACK {
            let holds = |&rank: &usize| {
                !self.cluster.is_drained(rank) || self.cluster.peers[rank].executor.bytes_in_use() > 0
            };
            let holders: Vec<usize> = living.iter().copied().filter(holds).collect();
            // Who dies only now, of an event to come, is another matter.
            if holders.is_empty() || self.cluster.living() != living {
                return;
            }
            living.iter().for_each(|&rank| _ = self.cluster.step(rank));
            // The last death may not have been heard of.
            self.cluster.step_control();
        }
        let held = living.iter().map(|&rank| self.cluster.peers[rank].executor.bytes_in_use());
        panic!("not given back: {:?} bytes", held.collect::<Vec<usize>>());
    }

    fn lives(&self, rank: usize) -> bool {
        self.cluster.living().binary_search(&rank).is_ok()
    }

    /// False if everything is over before.
    fn die(&mut self, death: &Death, tally: &mut Tally) -> bool {
        let Death { victim, in_flight, .. } = *death;
        match death.moment {
            Moment::Turns(turns) => {
                self.turns(turns);
                if death.lingers > 0 && self.cluster.cut_off(victim, in_flight) {
                    tally.lingered += 1;
                    self.given_up.push(victim);
                    self.turns(death.lingers);
                    self.see_whether_it_is_the_end(victim);
                    self.cluster.end_cut_off(victim, in_flight);
                    return true;
                }
                self.see_whether_it_is_the_end(victim);
                self.cluster.kill(victim, in_flight);
            }
            Moment::Event(_) => {
                while self.lives(death.victim) {
                    if self.is_done() {
                        return false;
                    }
                    self.turn();
                }
            }
        }
        self.turns(death.unnoticed);
        self.cluster.notice_death(death.victim);
        while death.settles && !self.cluster.is_quiet() {
            self.turn();
        }
        true
    }

    /// Somebody is about to die. If it hosts the coordinator, another one makes another plan.
    fn see_whether_it_is_the_end(&mut self, victim: usize) {
        let has_ended = self.cluster.peers.iter().any(|peer| peer.executor.ended_by().is_some());
        self.lost_in_the_end |= has_ended && self.cluster.host() != Some(victim);
    }

    /// So many turns, or fewer if nothing happens any more.
    fn turns(&mut self, turns: usize) {
        for turn in 0..turns {
            if turn % 16 == 0 && self.is_done() && self.cluster.is_still() {
                break;
            }
            self.turn();
        }
    }

    /// As many turns as there are ranks.
    fn round(&mut self) {
        (0..self.next.len()).for_each(|_| self.turn());
    }

    /// A random rank that lives starts its next op, takes results, or makes a step.
    fn turn(&mut self) {
        self.see_that_it_ends();
        self.find_late();
        if let Some(abort) = self.abort.take_if(|abort| abort.turns <= self.turns)
            && self.lives(abort.rank)
        {
            self.cluster.abort(abort.rank);
        }
        let living = self.cluster.living();
        let rank = living[self.rng.random_range(0..living.len())];
        if self.rng.random_ratio(1, 4) {
            self.start_op(rank);
        }
        if self.rng.random_ratio(1, 4) && self.next_message[rank] < self.messages.len() {
            self.start_message(rank);
        }
        let moved = self.cluster.step(rank);
        if self.rng.random_ratio(1, 3) {
            self.cluster.step_control();
        }
        // What has ended otherwise it sees later. It may have died of any of these.
        if (moved || self.turns.is_multiple_of(4)) && self.lives(rank) {
            self.take(rank);
            self.take_messages(rank);
        }
    }

    fn see_that_it_ends(&mut self) {
        self.turns += 1;
        if self.turns > BUDGET * self.next.len().div_ceil(8) {
            let describe = |&rank: &usize| self.cluster.peers[rank].executor.describe();
            let open: Vec<String> = self.cluster.living().iter().map(describe).collect();
            panic!("no end within {} turns: {open:#?}", self.turns);
        }
    }

    fn find_late(&mut self) {
        let Job { late, cluster, turns, .. } = self;
        let lives = |cluster: &Cluster, rank: usize| cluster.living().binary_search(&rank).is_ok();
        // One that has no call open waits until it has.
        late.retain(|late| {
            late.turns > *turns || lives(cluster, late.rank) && !cluster.finds_late(late.rank)
        });
    }

    fn start_op(&mut self, rank: usize) {
        if self.cluster.has_ended(rank) {
            return;
        }
        let at = self.next[rank];
        let Some(op) = self.ops.get(at) else {
            (0..2).for_each(|tag| self.seal(rank, tag));
            return;
        };
        let tag = op.tag as usize;
        let is_other = |open: &Together| Some(open.number) != op.commit_group;
        if self.unsealed[rank][tag].as_ref().is_some_and(is_other) {
            return self.seal(rank, tag);
        }
        self.next[rank] += 1;
        let call = op.call(rank);
        let in_place = call.input.overlaps(&call.output);
        if let Some(number) = op.commit_group {
            let together = self.unsealed[rank][tag].get_or_insert_with(|| {
                let id = self.cluster.open_commit_group(rank, call.options.tag).expect("there is none");
                Together { number, id, ops: Vec::new() }
            });
            together.ops.push(at);
            let _ = self.cluster.start_together(rank, call, in_place, together.id).expect("it fits");
            return;
        }
        match self.cluster.start(rank, call, in_place) {
            Ok(handle) => self.open[rank].push((at, handle)),
            Err(error) => self.results[rank][at] = Some(Err(error)),
        }
    }

    fn seal(&mut self, rank: usize, tag: usize) {
        let Some(Together { id, ops, .. }) = self.unsealed[rank][tag].take() else { return };
        let handle = self.cluster.seal(rank, Tag(tag as u32), id).expect("it is open");
        self.seals[rank].push((handle, ops));
    }

    fn start_message(&mut self, rank: usize) {
        let at = self.next_message[rank];
        self.next_message[rank] += 1;
        let message = &self.messages[at];
        if message.concerns(rank) && self.lives(rank) && !self.cluster.has_ended(rank) {
            let handle = self.cluster.start(rank, message.call(rank), false).expect("it has its number");
            self.in_flight[rank].push((at, handle));
        }
    }

    fn take(&mut self, rank: usize) {
        let Job { open, cluster, ops, results, .. } = self;
        open[rank].retain(|&(at, handle)| {
            let Some(result) = cluster.peers[rank].executor.take(handle) else { return true };
            if let Ok(outcome) = &result {
                ops[at].check(rank, outcome, 0, &format!("op {at} {} rank {rank}", ops[at].collective));
            }
            results[rank][at] = Some(result);
            false
        });
        let Job { seals, cluster, ops, results, .. } = self;
        seals[rank].retain(|(handle, of_group)| {
            let Some(result) = cluster.peers[rank].executor.take(*handle) else { return true };
            for (number, &at) in of_group.iter().enumerate() {
                if let Ok(outcome) = &result {
                    let what = format!("op {at} {} of {of_group:?} rank {rank}", ops[at].collective);
                    ops[at].check(rank, outcome, number, &what);
                    assert!(
                        outcome.holes.iter().all(|hole| hole.call < of_group.len()),
                        "{what}: {outcome:?}"
                    );
                }
                results[rank][at] = Some(result.clone());
            }
            false
        });
    }

    /// A message arrives as it was sent, or ends with an error that names its other side, which is dead.
    fn take_messages(&mut self, rank: usize) {
        let Job { in_flight, messages, cluster, given_up, .. } = self;
        in_flight[rank].retain(|(at, handle)| {
            let Some(result) = cluster.peers[rank].executor.take(*handle) else { return true };
            let message = &messages[*at];
            let other = if rank == message.spec.from { message.spec.to } else { message.spec.from };
            match result {
                Ok(_) if rank == message.spec.to => {
                    assert_eq!(message.target.values(), message.values, "message {at}");
                }
                Ok(_) => {}
                Err(error) if cluster.has_ended(rank) && error.to_string().contains("aborted the group") => {}
                Err(error) => {
                    assert!(error.to_string().contains(&format!("peer {other} ")), "message {at}: {error}");
                    let is_given_up = [rank, other].iter().any(|rank| given_up.contains(rank));
                    assert!(is_given_up || !cluster.living().contains(&other), "message {at}: {error}");
                }
            }
            false
        });
    }

    fn is_done(&self) -> bool {
        let is_idle = |&rank: &usize| {
            let has_ended =
                self.cluster.has_ended(rank) && self.open[rank].is_empty() && self.in_flight[rank].is_empty();
            has_ended && self.seals[rank].is_empty()
                || self.next[rank] == self.ops.len()
                    && self.open[rank].is_empty()
                    && self.unsealed[rank].iter().all(Option::is_none)
                    && self.seals[rank].is_empty()
                    && self.next_message[rank] == self.messages.len()
                    && self.in_flight[rank].is_empty()
        };
        self.cluster.living().iter().all(is_idle)
    }

    /// Ops of a tag by their numbers in it, of which seals have one too.
    fn numbered(&self, tag: u32) -> Vec<Option<usize>> {
        let mut numbered = Vec::new();
        let mut open = None;
        for (at, op) in self.ops.iter().enumerate().filter(|(_, op)| op.tag == tag) {
            if open.is_some() && open != op.commit_group {
                numbered.push(None);
            }
            open = op.commit_group;
            numbered.push(Some(at));
        }
        numbered.push(None);
        numbered
    }

    /// What a rank heard to be stable before it died is what the survivors have.
    fn check_stable(&self, rank: usize, tally: &mut Tally) {
        for tag in 0..2 {
            let of_tag = self.numbered(tag);
            let heard =
                of_tag.iter().flatten().filter_map(|&at| self.results[rank][at].as_ref()?.as_ref().ok());
            let stable = heard.map(|outcome| outcome.stable_through.0).max().unwrap_or(0);
            for &at in of_tag[..stable as usize].iter().flatten() {
                let Some(Ok(mine)) = &self.results[rank][at] else { continue };
                let same = |&other: &usize| match &self.results[other][at] {
                    Some(Ok(theirs)) => (&mine.absent, &mine.parts) == (&theirs.absent, &theirs.parts),
                    _ => self.ops[at].is_strict(),
                };
                assert!(self.cluster.living().iter().all(same), "op {at} was stable for rank {rank}");
                tally.stable += 1;
            }
        }
    }

    /// What a rank had returned from before it died, where that is promised to hold for all, is what the survivors have.
    fn check_certain(&self, rank: usize, tally: &mut Tally) {
        let world = self.results.len();
        for (at, op) in self.ops.iter().enumerate().filter(|(_, op)| op.is_certain(world)) {
            let Some(Ok(mine)) = &self.results[rank][at] else { continue };
            let is_same = |&other: &usize| match &self.results[other][at] {
                Some(Ok(theirs)) => (&mine.absent, &mine.parts) == (&theirs.absent, &theirs.parts),
                _ => false,
            };
            let others = self.cluster.living();
            assert!(
                others.iter().all(is_same),
                "op {at} {} of rank {rank}, which died: {mine:?}",
                op.collective
            );
            tally.certain += 1;
        }
    }

    /// The job was aborted: what has returned anywhere has everywhere, and what was given for all else is as it was. The dead
    /// do not count.
    fn check_end(&self, tally: &mut Tally) {
        let living = self.cluster.living();
        let members: Vec<usize> = (0..self.next.len()).collect();
        for (at, op) in self.ops.iter().enumerate() {
            let what = format!("op {at} {} of an aborted job", op.collective);
            let told: Vec<&Result<Outcome>> =
                living.iter().filter_map(|&rank| self.results[rank][at].as_ref()).collect();
            let is_done = told.iter().any(|told| told.is_ok());
            assert!(op.is_strict() || !is_done || told.len() == living.len(), "{what}: {told:?}");
            // Some may have heard before that it cannot be carried out without somebody.
            let is_aborted = |told: &Result<Outcome>| {
                told.as_ref().is_err_and(|error| error.to_string().contains("aborted the group"))
            };
            let (ended, others): (Vec<_>, Vec<_>) = told.into_iter().partition(|told| is_aborted(told));
            let is_alike = !is_done || ended.is_empty();
            assert!(op.is_strict() || self.lost_in_the_end || is_alike, "{what}: {ended:?} {others:?}");
            tally.aborted_for_some += usize::from(!is_alike && !op.is_strict());
            op.check_agreement(&ended, &what);
            if let Told::Lost(error) = op.check_agreement(&others, &what) {
                op.check_loss(&error, &members, &|rank| !self.lives(rank), &what);
            }
            for &rank in living {
                if self.results[rank][at].as_ref().is_some_and(is_aborted) {
                    op.check_untouched(rank, &what);
                }
            }
            tally.aborted += usize::from(!ended.is_empty());
            tally.done += usize::from(is_done);
        }
    }

    /// Nobody is absent of an attempt that began when somebody was lost. Calls that are late begin epochs too.
    fn has_stand_ins(&self, at: usize, absent: &[u32]) -> bool {
        let living = self.cluster.living().iter();
        let mut outcomes = living.filter_map(|&rank| self.results[rank][at].as_ref()?.as_ref().ok());
        let began_later = outcomes.any(|outcome| outcome.epoch > self.first_epoch);
        self.had_no_late && absent.is_empty() && began_later
    }

    /// Survivors agree on every op: contributors, absent ranks, and whether it worked.
    fn check_agreement(&self, tally: &mut Tally) {
        let (mut reduced, mut failed, mut late) = (0, 0, 0);
        let living = self.cluster.living();
        for (at, op) in self.ops.iter().enumerate() {
            let told: Vec<&Result<Outcome>> =
                living.iter().map(|&rank| self.results[rank][at].as_ref().expect("done")).collect();
            let what = format!("op {at} {}", op.collective);
            match op.check_agreement(&told, &what) {
                Told::Lost(error) if error.contains("missed its deadline") => {
                    for &rank in living {
                        match &self.results[rank][at] {
                            Some(Err(_)) => op.check_untouched(rank, &what),
                            _ => assert!(op.is_strict(), "{what}"),
                        }
                    }
                    late += 1;
                    tally.late_for_some += usize::from(told.iter().any(|told| told.is_ok()));
                }
                Told::Lost(error) => {
                    let members: Vec<usize> = (0..self.next.len()).collect();
                    op.check_loss(&error, &members, &|rank| !self.lives(rank), &what);
                    failed += 1;
                }
                Told::Done { absent, in_parts } => {
                    let alone = told.iter().filter(|_| op.commit_group.is_none());
                    let outcomes = alone.filter_map(|told| told.as_ref().ok());
                    let holes: Vec<usize> = outcomes.map(|outcome| outcome.holes.len()).collect();
                    tally.with_holes += holes.iter().filter(|holes| **holes > 0).count();
                    tally.with_several += holes.iter().filter(|holes| **holes > 1).count();
                    reduced += usize::from(!absent.is_empty());
                    tally.stood_in += usize::from(self.has_stand_ins(at, &absent));
                    tally.together += usize::from(!absent.is_empty() && op.commit_group.is_some());
                    tally.in_parts += usize::from(in_parts);
                    let root_is_gone = op.collective.has_root() && absent.contains(&(op.root as u32));
                    tally.handed_on += usize::from(root_is_gone && op.collective == Collective::Broadcast);
                }
                Told::Nothing => {}
            }
        }
        tally.reduced += reduced;
        tally.failed += failed;
        tally.late += late;
        tally.whole += self.ops.len() - reduced - failed - late;
    }
}
