//! Every point of every collective with everything that may happen there.

use crate::case::{Armed, Case, Fate, ROOT, Setup};
use crate::job::{Job, start};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use ronde::Tolerance;
use ronde_core::failpoint::Point;
use ronde_multiprocess::wait_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Ranks of a job at its start, at most.
const RANKS: u32 = 5;
/// Cases of a job that loses nobody.
const MOST_CASES: usize = 8;
/// With fewer nobody can be lost without proof of its death.
const FEWEST_FOR_A_QUORUM: u32 = 3;

/// Where a call may be: point, window, and whether it is there for the last time instead of the first.
type Place = (Point, u32, bool);

/// How often each rank of a job of some size is where, in the call of a setup.
#[derive(Default)]
struct Points {
    /// By number of ranks, rank and place.
    counts: BTreeMap<(u32, u32, Place), u32>,
}

impl Points {
    /// A member may tell of several windows at once; of the last one it does always.
    fn forget_uncertain(&mut self) {
        let is_done = |point| matches!(point, Point::DoneSent | Point::DoneReceived);
        let mut last = BTreeMap::new();
        for &(ranks, rank, (_, window, _)) in self.counts.keys() {
            let of_rank: &mut u32 = last.entry((ranks, rank)).or_default();
            *of_rank = window.max(*of_rank);
        }
        let is_last = |ranks, rank, window| last.get(&(ranks, rank)) == Some(&window);
        self.counts
            .retain(|&(ranks, rank, (point, window, _)), _| !is_done(point) || is_last(ranks, rank, window));
    }

    /// All places, those of roots apart from those of others.
    fn places(&self, setup: &Setup) -> BTreeSet<(bool, Place)> {
        let has_root = setup.collective.has_root();
        self.counts.keys().map(|&(_, rank, place)| (has_root && rank == ROOT, place)).collect()
    }

    /// Ranks of jobs of some size that come to a place.
    fn choices(&self, setup: &Setup, (is_root, place): (bool, Place)) -> Vec<(u32, u32, u32)> {
        let has_root = setup.collective.has_root();
        let fits = |rank: u32, at: Place| at == place && (has_root && rank == ROOT) == is_root;
        let known = self.counts.iter().filter(|((_, rank, at), _)| fits(*rank, *at));
        known.map(|(&(ranks, rank, _), &count)| (ranks, rank, count)).collect()
    }
}

/// All jobs, always the same ones in the same order.
pub(crate) fn jobs() -> Vec<Job> {
    let mut rng = SmallRng::seed_from_u64(0);
    let mut jobs = Vec::new();
    for links in ["tcp", "shm", "mixed", "again"] {
        let mut cases = Vec::new();
        for (setup, points) in points_over(links) {
            if links != "mixed" || setup.name == "hierarchical" {
                add_cases(setup, links, &points, &mut cases, &mut rng);
            }
        }
        cases.shuffle(&mut rng);
        jobs.extend(pack(links, cases));
    }
    jobs.shuffle(&mut rng);
    jobs
}

/// Runs every setup on jobs of every size and takes down what its ranks say.
fn points_over(links: &str) -> Vec<(&'static Setup, Points)> {
    let mut all: Vec<_> = Setup::all().map(|setup| (setup, Points::default())).collect();
    for ranks in 2..=RANKS {
        for ended in wait_all(start(links, ranks, ""), Duration::from_secs(60)) {
            assert!(ended.ok, "rank {} of {ranks} over {links}: {}", ended.rank, ended.output);
            for line in ended.output.lines().filter_map(|line| line.strip_prefix("POINT ")) {
                let words: Vec<&str> = line.split(' ').collect();
                let [name, point, window, count] = words[..] else { panic!("{line}") };
                let point = *Point::ALL.iter().find(|p| format!("{p:?}") == point).expect("a point");
                let window = window.parse().expect("a window");
                let count: u32 = count.parse().expect("a count");
                let found = all.iter_mut().find(|(setup, _)| setup.name == name);
                let counts = &mut found.expect("a setup").1.counts;
                let rank = ended.rank as u32;
                counts.insert((ranks, rank, (point, window, false)), 1);
                if count > 1 {
                    counts.insert((ranks, rank, (point, window, true)), count);
                }
            }
        }
    }
    for (_, points) in all.iter_mut().filter(|(setup, _)| setup.tolerance == Tolerance::PerWindow) {
        points.forget_uncertain();
    }
    all
}

/// A case, and the number of ranks that it is for.
type Sized = (u32, Case);

fn add_cases(
    setup: &'static Setup,
    links: &str,
    points: &Points,
    cases: &mut Vec<Sized>,
    rng: &mut SmallRng,
) {
    // Who stops where connections are made again stops as elsewhere.
    let fates: &[Fate] = match links {
        "again" => &[Fate::Snip(0), Fate::Kill],
        _ => &[Fate::Kill, Fate::Stop, Fate::Cut(0)],
    };
    let in_place: &[bool] = if setup.has_places() { &[false, true] } else { &[false] };
    for place in points.places(setup) {
        let choices = points.choices(setup, place);
        for &in_place in in_place {
            for &fate in fates {
                if let Some((ranks, armed)) = arm(place.1, fate, &choices, rng) {
                    cases.push((ranks, Case { setup, in_place, armed: vec![armed] }));
                }
            }
            if links == "again" {
                continue;
            }
            if let Some((ranks, armed)) = arm_two(place.1, setup, points, &choices, rng) {
                cases.push((ranks, Case { setup, in_place, armed }));
            }
        }
    }
}

/// One rank, of those that come to a place, whom this may happen to; with the number of ranks.
fn arm(
    (point, window, _): Place,
    fate: Fate,
    choices: &[(u32, u32, u32)],
    rng: &mut SmallRng,
) -> Option<(u32, Armed)> {
    // Rank 0 hosts the coordinator: of two that are cut off from each other the one that does not is given up.
    let may = |(ranks, rank, _): &&(u32, u32, u32)| match fate {
        Fate::Kill | Fate::Snip(_) => true,
        Fate::Stop => *ranks >= FEWEST_FOR_A_QUORUM,
        Fate::Cut(_) => *ranks >= FEWEST_FOR_A_QUORUM && *rank > 0,
    };
    let choices: Vec<_> = choices.iter().filter(may).copied().collect();
    let &(ranks, rank, nth) = choices.choose(rng)?;
    let others: Vec<u32> = (0..ranks).filter(|&other| other != rank).collect();
    let fate = match fate {
        Fate::Cut(_) => Fate::Cut(*others.choose(rng)?),
        Fate::Snip(_) => Fate::Snip(*others.choose(rng)?),
        fate => fate,
    };
    Some((ranks, Armed { rank, point, window, nth, fate }))
}

/// Two ranks: the second dies at a place of its own, or in the recovery from the loss of the first.
fn arm_two(
    place: Place,
    setup: &'static Setup,
    points: &Points,
    choices: &[(u32, u32, u32)],
    rng: &mut SmallRng,
) -> Option<(u32, Vec<Armed>)> {
    let choices: Vec<_> = choices.iter().filter(|(ranks, ..)| *ranks >= 4).copied().collect();
    let (ranks, first) = arm(place, Fate::Kill, &choices, rng)?;
    let rank = *(0..ranks).filter(|&rank| rank != first.rank).collect::<Vec<_>>().choose(rng)?;
    let of_second = points.counts.iter().filter(|((of, r, _), _)| (*of, *r) == (ranks, rank));
    let mut places: Vec<_> =
        of_second.map(|(&(_, _, (point, window, _)), &nth)| (point, window, nth)).collect();
    if !setup.ends_alone() {
        let in_recovery = [(Point::Frozen, 0, 1), (Point::Started, 0, 2), (Point::Committed, 0, 1)];
        places.extend(in_recovery.iter().cycle().take(places.len().max(3)));
    }
    let &(point, window, nth) = places.choose(rng)?;
    Some((ranks, vec![first, Armed { rank, point, window, nth, fate: Fate::Kill }]))
}

/// Jobs that lose some ranks in each case, until there is no case for so few.
fn pack(links: &str, cases: Vec<Sized>) -> Vec<Job> {
    let mut by_size: BTreeMap<u32, Vec<Case>> = BTreeMap::new();
    cases.into_iter().for_each(|(ranks, case)| by_size.entry(ranks).or_default().push(case));
    let mut jobs = Vec::new();
    while let Some(ranks) = by_size.iter().rev().find(|(_, cases)| !cases.is_empty()).map(|(&ranks, _)| ranks)
    {
        let (mut left, mut cases) = (ranks, Vec::new());
        while let Some(case) = by_size.get_mut(&left).and_then(Vec::pop) {
            left -= case.losses() as u32;
            cases.push(case);
            // Which ranks share memory once some are lost depends on who they are.
            if links == "mixed" || cases.len() == MOST_CASES {
                break;
            }
        }
        jobs.push(Job { links: links.to_owned(), ranks, cases });
    }
    jobs
}
