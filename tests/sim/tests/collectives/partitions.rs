//! Machines are cut off from each other, processes stop and wake, connections fall silent, coordinators live on
//! although others have taken their place.
//!
//! Of the parts of a job one at most may go on, whatever happens ([`ronde_sim::partition`] keeps the truth); when
//! it is over everybody must be at work in one view or have been told why not; and a part that was a quorum all
//! the time and had nothing happen to it must be the one that went on, with all of its members.

use crate::scenario::{Scenario, counts, with_less};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_sim::partition::{MS, Tally, World};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// After the last fault everybody knows how it ends within so long.
const CALM: u64 = 150_000 * MS;

/// Whom something happens to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Victim {
    Process(usize),
    /// The one whose coordinator most follow.
    Host,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Act {
    /// These machines are cut off from the rest; both directions, or what they send, or what they are sent.
    Cut(u32, bool, bool),
    /// That cut is over.
    Mend(u32, bool, bool),
    Stop(Victim),
    WakeAll,
    Kill(Victim),
    PowerOff(Victim),
    LoseConnection(Victim),
    /// Something on the way ends the connection; seen by the process, or its coordinator.
    ForgeEnd(Victim, bool, bool),
    Newcomer(usize),
    /// Links between these machines and the rest carry nothing, as for a cut, and nothing else is touched.
    Mute(u32, bool, bool),
    /// That is over.
    Unmute(u32, bool, bool),
    /// A process is stopped, and its control connection is cut.
    Strand(Victim),
    /// A process gets to work only now and then.
    Starve(Victim),
    /// The link between two processes is cut for good.
    Tear(usize, usize),
    /// A process leaves in order.
    Leave(Victim),
    /// Everybody does, after the same call: so many more than have begun.
    Finish(usize),
}

/// Something that happens, in simulated time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Fault {
    at: u64,
    act: Act,
    /// How long, for what has an end.
    lasts: u64,
}

impl Fault {
    fn end(&self) -> Option<Act> {
        match self.act {
            Act::Cut(side, out, back) => Some(Act::Mend(side, out, back)),
            Act::Stop(_) | Act::Strand(_) | Act::Starve(_) => Some(Act::WakeAll),
            Act::Mute(side, out, back) => Some(Act::Unmute(side, out, back)),
            _ => None,
        }
    }

    fn concerns(&self, process: usize) -> bool {
        match self.act {
            Act::Stop(Victim::Process(p))
            | Act::Kill(Victim::Process(p))
            | Act::PowerOff(Victim::Process(p))
            | Act::LoseConnection(Victim::Process(p))
            | Act::Strand(Victim::Process(p))
            | Act::Starve(Victim::Process(p))
            | Act::Leave(Victim::Process(p))
            | Act::ForgeEnd(Victim::Process(p), ..) => p == process,
            Act::Tear(one, other) => one == process || other == process,
            _ => false,
        }
    }
}

/// A schedule of partitions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Partitions {
    /// Times and the order of events follow from it.
    seed: u64,
    /// The machine of each member.
    places: Vec<usize>,
    /// Machines that there are.
    machines: usize,
    /// The machine of a coordinator that runs alone.
    alone: Option<usize>,
    /// Faults last clearly shorter or longer than anybody is patient, and hit both directions of whole machines.
    is_clear: bool,
    /// Control connections that are cut are taken up again.
    resumes: bool,
    faults: Vec<Fault>,
}

impl Scenario for Partitions {
    fn simpler(&self) -> Vec<Partitions> {
        let fewer = with_less(&self.faults).into_iter();
        let mut all: Vec<Partitions> = fewer.map(|faults| Partitions { faults, ..self.clone() }).collect();
        let last = self.places.len() - 1;
        if last > 1 && !self.faults.iter().any(|fault| fault.concerns(last)) {
            all.push(Partitions { places: self.places[..last].to_vec(), ..self.clone() });
        }
        all
    }

    fn reseeded(&self, seed: u64) -> Partitions {
        Partitions { seed, ..self.clone() }
    }

    fn size(&self) -> String {
        format!("members: {}, faults: {}", self.places.len(), self.faults.len())
    }
}

/// How long a fault lasts.
fn draw_duration(rng: &mut SmallRng, is_clear: bool) -> u64 {
    let ms = match rng.random_range(0..3) {
        0 => rng.random_range(0..700),
        1 if !is_clear => rng.random_range(500..4000),
        _ => rng.random_range(5000..18_000),
    };
    ms * MS
}

fn draw_victim(rng: &mut SmallRng, members: usize) -> Victim {
    match rng.random_ratio(1, 3) {
        true => Victim::Host,
        false => Victim::Process(rng.random_range(0..members)),
    }
}

fn draw_act(rng: &mut SmallRng, members: usize, machines: usize, is_clear: bool) -> Act {
    let side = rng.random_range(1..1 << machines);
    match rng.random_range(0..if is_clear { 5 } else { 16 }) {
        0 | 1 => Act::Cut(side, true, true),
        2 => Act::Stop(draw_victim(rng, members)),
        3 => Act::Kill(draw_victim(rng, members)),
        4 => Act::Newcomer(rng.random_range(0..machines)),
        5 => Act::Cut(side, rng.random(), rng.random()),
        6 => Act::LoseConnection(draw_victim(rng, members)),
        7 => Act::ForgeEnd(draw_victim(rng, members), rng.random(), rng.random()),
        8 => Act::Mute(side, rng.random(), rng.random()),
        9 => Act::PowerOff(draw_victim(rng, members)),
        10 => Act::Strand(draw_victim(rng, members)),
        11 => Act::Starve(draw_victim(rng, members)),
        12 => Act::Tear(rng.random_range(0..members), rng.random_range(0..members)),
        13 | 14 => Act::Leave(draw_victim(rng, members)),
        _ => Act::Finish(rng.random_range(0..4)),
    }
}

/// One is left behind, and the others finish soon after.
fn draw_end(rng: &mut SmallRng, members: usize) -> Vec<Fault> {
    let at = rng.random_range(0..2000) * MS;
    let victim = draw_victim(rng, members);
    let act = match rng.random_range(0..4) {
        0 => Act::Starve(victim),
        1 => Act::ForgeEnd(victim, rng.random(), rng.random()),
        _ => Act::Strand(victim),
    };
    let later = match rng.random() {
        true => rng.random_range(0..50) * MS,
        false => rng.random_range(0..3000) * MS,
    };
    vec![
        Fault { at, act, lasts: draw_duration(rng, false) },
        Fault { at: at + later, act: Act::Finish(rng.random_range(0..3)), lasts: 0 },
    ]
}

fn draw_faults(rng: &mut SmallRng, members: usize, machines: usize, is_clear: bool) -> Vec<Fault> {
    let mut at = rng.random_range(0..2000) * MS;
    let mut faults = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let lasts = draw_duration(rng, is_clear);
        let fault = Fault { at, act: draw_act(rng, members, machines, is_clear), lasts };
        faults.push(fault);
        at += match is_clear {
            true => fault.end().map_or(0, |_| lasts) + rng.random_range(3000..5000) * MS,
            false => rng.random_range(0..4000) * MS,
        };
    }
    faults
}

/// What is drawn from a seed.
pub(crate) fn draw(seed: u64) -> Partitions {
    let mut rng = SmallRng::seed_from_u64(seed);
    let members = rng.random_range(2..8);
    let machines = if rng.random() { members } else { rng.random_range(1..=members) };
    let mut places: Vec<usize> =
        (0..members).map(|p| if machines == members { p } else { rng.random_range(0..machines) }).collect();
    places[0] = 0;
    let alone = rng.random_ratio(1, 4).then_some(machines);
    // One for the coordinator that runs alone, one for newcomers.
    let machines = machines + 2;
    let is_clear: bool = rng.random();
    let faults = match !is_clear && rng.random_ratio(1, 4) {
        true => draw_end(&mut rng, members),
        false => draw_faults(&mut rng, members, machines, is_clear),
    };
    let (seed, resumes) = (rng.random(), rng.random());
    Partitions { seed, places, machines, alone, is_clear, resumes, faults }
}

/// A schedule while it is played.
struct Schedule {
    world: World,
    machines: usize,
    members: usize,
    acts: Vec<(u64, Act)>,
    is_clear: bool,
    cuts: Vec<(u32, bool, bool)>,
    mute: Vec<(u32, bool, bool)>,
    all_cuts: BTreeSet<u32>,
    touched: BTreeSet<usize>,
    newcomers: usize,
    stopped: BTreeSet<usize>,
    starved: BTreeSet<usize>,
    stopped_hosts: BTreeSet<usize>,
    alone: Option<usize>,
}

counts! {
    /// What many schedules had.
    Sum {
        successions_beside_the_living,
        restarts,
        splits,
        no_quorum,
        deposed_hosts,
        admitted,
        quorums_that_went_on,
        ops,
        taken_up,
        left,
        lone_survivors,
        left_behind,
    }
}

fn is_in(side: u32, machine: usize) -> bool {
    side >> machine & 1 == 1
}

impl Schedule {
    fn new(partitions: &Partitions) -> Schedule {
        let Partitions { seed, places, machines, alone, is_clear, resumes, faults } = partitions;
        let begin = faults.iter().map(|fault| (fault.at, fault.act));
        let end = faults.iter().filter_map(|fault| Some((fault.at + fault.lasts, fault.end()?)));
        let mut acts: Vec<(u64, Act)> = begin.chain(end).collect();
        acts.sort_by_key(|(at, _)| *at);
        let mut world = World::new(places, *alone, *seed);
        if *resumes {
            world.take_connections_up_again();
        }
        Schedule {
            world,
            machines: *machines,
            members: places.len(),
            acts,
            is_clear: *is_clear,
            cuts: Vec::new(),
            mute: Vec::new(),
            all_cuts: BTreeSet::new(),
            touched: BTreeSet::new(),
            newcomers: 0,
            stopped: BTreeSet::new(),
            starved: BTreeSet::new(),
            stopped_hosts: BTreeSet::new(),
            alone: *alone,
        }
    }

    fn host(&self) -> Option<usize> {
        let mut followers: BTreeMap<usize, usize> = BTreeMap::new();
        for host in self.world.at_work().into_iter().filter_map(|p| self.world.host_of(p)) {
            *followers.entry(host).or_default() += 1;
        }
        followers.into_iter().max_by_key(|(_, count)| *count).map(|(host, _)| host)
    }

    fn resolve(&self, victim: Victim) -> Option<usize> {
        match victim {
            Victim::Process(process) => Some(process),
            Victim::Host => self.host(),
        }
    }

    /// The directions between machines that these cuts concern.
    fn directions(&self, cuts: &[(u32, bool, bool)]) -> BTreeSet<(usize, usize)> {
        let mut directions = BTreeSet::new();
        for &(side, out, back) in cuts {
            for one in 0..self.machines {
                for other in (0..self.machines).filter(|&other| is_in(side, one) && !is_in(side, other)) {
                    directions.extend(out.then_some((one, other)));
                    directions.extend(back.then_some((other, one)));
                }
            }
        }
        directions
    }

    fn block(&mut self) {
        self.world.block_only(self.directions(&self.cuts));
    }

    fn act(&mut self, act: Act) {
        let victim = match act {
            Act::Stop(victim)
            | Act::Kill(victim)
            | Act::PowerOff(victim)
            | Act::LoseConnection(victim)
            | Act::Strand(victim)
            | Act::Starve(victim)
            | Act::Leave(victim)
            | Act::ForgeEnd(victim, ..) => {
                let Some(process) = self.resolve(victim) else { return };
                self.touched.insert(process);
                process
            }
            _ => 0,
        };
        match act {
            Act::Cut(side, out, back) => {
                self.all_cuts.insert(side);
                self.cuts.push((side, out, back));
                self.block();
            }
            Act::Mend(side, out, back) => {
                self.cuts.retain(|cut| *cut != (side, out, back));
                self.block();
            }
            Act::Stop(_) => {
                if self.host() == Some(victim) {
                    self.stopped_hosts.insert(victim);
                }
                self.stopped.insert(victim);
                self.world.stop(victim);
            }
            Act::Strand(_) => {
                self.stopped.insert(victim);
                self.world.stop(victim);
                self.world.forge_end(victim, true, true);
            }
            Act::Starve(_) => {
                self.starved.insert(victim);
                self.world.starve(victim, true);
            }
            Act::Tear(one, other) => self.world.tear_link(one, other),
            Act::Leave(_) => self.world.leave(victim),
            Act::Finish(more) => self.world.finish(more),
            Act::WakeAll => {
                for process in std::mem::take(&mut self.starved) {
                    self.world.starve(process, false);
                    self.stopped.insert(process);
                }
                std::mem::take(&mut self.stopped).into_iter().for_each(|process| self.world.wake(process));
            }
            Act::Kill(_) => self.world.kill(victim),
            Act::PowerOff(_) => self.world.power_off(self.world.machine_of(victim)),
            Act::LoseConnection(_) => self.world.lose_connection(victim),
            Act::ForgeEnd(_, by_process, by_coordinator) => {
                self.world.forge_end(victim, by_process, by_coordinator);
            }
            Act::Newcomer(machine) => {
                self.newcomers += 1;
                self.world.newcomer(machine);
            }
            Act::Mute(side, out, back) => {
                self.mute.push((side, out, back));
                self.world.mute_only(&self.directions(&self.mute));
            }
            Act::Unmute(side, out, back) => {
                self.mute.retain(|mute| *mute != (side, out, back));
                self.world.mute_only(&self.directions(&self.mute));
            }
        }
    }

    /// The members that were a quorum all the time, connected to each other, and to whom nothing happened.
    fn quorum(&self) -> BTreeSet<usize> {
        let mut sides: BTreeMap<Vec<bool>, BTreeSet<usize>> = BTreeMap::new();
        let side_of =
            |machine: usize| self.all_cuts.iter().map(|&side| is_in(side, machine)).collect::<Vec<_>>();
        for process in (0..self.members).filter(|process| !self.touched.contains(process)) {
            sides.entry(side_of(self.world.machine_of(process))).or_default().insert(process);
        }
        let all = self.members + self.newcomers;
        let coordinator_side = self.alone.map(side_of);
        // Nothing happens to a coordinator that runs alone and is with them.
        let is_with = |side: &Vec<bool>| {
            let its_process_is_well = self.alone.is_none() || self.touched.iter().all(|&p| p < self.members);
            coordinator_side.as_ref().is_none_or(|its| its == side) && its_process_is_well
        };
        let found = sides.into_iter().find(|(side, who)| 2 * who.len() > all && is_with(side));
        found.map(|(_, who)| who).filter(|_| self.is_clear).unwrap_or_default()
    }

    fn run(&mut self) {
        for (at, act) in std::mem::take(&mut self.acts) {
            let span = at - self.world.now();
            self.world.run_for(span);
            self.act(act);
        }
        self.world.run_for(1000 * MS);
        self.cuts.clear();
        self.block();
        self.world.mute_only(&BTreeSet::new());
        self.act(Act::WakeAll);
        self.world.begin_calm();
        let until = self.world.now() + CALM;
        while !self.world.is_settled() {
            self.world.start_coordinator_again();
            self.world.run_for(500 * MS);
            assert!(self.world.now() < until, "no end: {:#?}", self.world.describe());
        }
    }
}

/// The same, for those who look for mistakes.
#[cfg(feature = "planted-bugs")]
pub(crate) fn play(partitions: &Partitions) {
    play_into(partitions, &mut Sum::default());
}

/// Plays a schedule; panics where a promise is broken. Gives what happened in one number.
fn play_into(partitions: &Partitions, sum: &mut Sum) -> u64 {
    let mut schedule = Schedule::new(partitions);
    schedule.run();
    let at_work = schedule.world.at_work();
    let quorum = schedule.quorum();
    assert!(
        quorum.is_subset(&at_work),
        "of the quorum {quorum:?} only {at_work:?} went on: {:#?}",
        schedule.world.describe()
    );
    let tally: Tally = schedule.world.check();
    let ended: Vec<usize> =
        schedule.world.alive().into_iter().filter(|&p| schedule.world.ending(p).is_some()).collect();
    sum.successions_beside_the_living += tally.successions_beside_the_living;
    sum.restarts += tally.restarts;
    sum.splits += usize::from(!at_work.is_empty() && !schedule.all_cuts.is_empty() && !ended.is_empty());
    sum.no_quorum += usize::from(tally.no_quorum > 0);
    sum.deposed_hosts +=
        schedule.stopped_hosts.iter().filter(|&&p| schedule.world.ending(p).is_some()).count();
    sum.admitted += tally.admitted;
    sum.quorums_that_went_on += usize::from(!quorum.is_empty());
    sum.ops += tally.ops;
    sum.taken_up += tally.taken_up;
    sum.left += tally.left;
    sum.lone_survivors += tally.lone_survivors;
    sum.left_behind += tally.left_behind;
    schedule.world.hash()
}

#[cfg(not(feature = "planted-bugs"))]
#[test]
fn one_part_goes_on() {
    let (count, sum) = crate::replay::play_seeds("one_part_goes_on", 2500, draw, play_into);
    println!("{sum:?}");
    let had = [
        sum.successions_beside_the_living,
        sum.restarts,
        sum.splits,
        sum.no_quorum,
        sum.deposed_hosts,
        sum.admitted,
        sum.quorums_that_went_on,
        sum.taken_up,
        sum.left,
        sum.lone_survivors,
        sum.left_behind,
    ];
    assert!(count < 1000 || had.iter().all(|&often| often > count as usize / 50), "{sum:?}");
}

/// Those whose links fall silent are lost, and nobody else, whoever finds that out first: here one member of at least three, also
/// the one that hosts the coordinator, or half of the members. Of fewer than half with the host among them, and the rest, one
/// side goes on: the others have lost some when the host finds that it is with too few.
#[cfg(not(feature = "planted-bugs"))]
#[test]
fn whose_links_fall_silent_goes_alone() {
    (0..SILENT_SEEDS).for_each(the_silent_go_alone);
}

/// So many of these schedules there are.
pub(crate) const SILENT_SEEDS: u64 = 600;

pub(crate) fn the_silent_go_alone(seed: u64) {
    let members = 3 + seed as usize % 5;
    let machines: Vec<usize> = (0..members).collect();
    let alone = seed.is_multiple_of(4).then_some(members);
    let mut world = World::new(&machines, alone, seed);
    world.run_for(2000 * MS);
    let silent = match seed % 4 {
        1 if alone.is_none() => BTreeSet::from_iter(members.div_ceil(2)..members),
        2 if alone.is_none() => BTreeSet::from_iter(0..members.div_ceil(2) - 1),
        _ => BTreeSet::from([seed as usize / 4 % members]),
    };
    let mut mute = BTreeSet::new();
    for &one in &silent {
        for other in (0..members).filter(|other| !silent.contains(other)) {
            mute.extend((seed % 5 != 1).then_some((one, other)));
            mute.extend((seed % 5 != 2).then_some((other, one)));
        }
    }
    world.mute_only(&mute);
    world.run_for(30_000 * MS);
    let others: BTreeSet<usize> = machines.iter().copied().filter(|p| !silent.contains(p)).collect();
    let at_work = world.at_work();
    let is_minority = silent.len() > 1 && silent.contains(&0);
    let is_right = match is_minority {
        true => !at_work.is_empty() && (at_work.is_subset(&others) || at_work.is_subset(&silent)),
        false => at_work == others,
    };
    assert!(is_right, "seed {seed}: {silent:?} silent, at work {at_work:?}: {:#?}", world.describe());
    world.check();
}
