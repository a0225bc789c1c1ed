//! Random schedules in which peers die in the middle of ops, and the others go on.

use crate::case::NarrowLimits;
use crate::job::{Death, Late, Losses, MessageSpec, Moment};
use crate::random_op::OpSpec;
use rand::rngs::SmallRng;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use ronde_sim::InFlight;

fn draw_message(rng: &mut SmallRng, world: usize) -> MessageSpec {
    let from = rng.random_range(0..world);
    let to = (from + rng.random_range(1..world)) % world;
    let most = if rng.random() { 20 } else { 2000 };
    MessageSpec { from, to, tag: rng.random_range(0..2), count: rng.random_range(0..most) }
}

/// So many different ranks die, one soon after the other, within about so many turns each.
fn draw_deaths(rng: &mut SmallRng, world: usize, deaths: usize, within: usize) -> Vec<Death> {
    let in_flight = [InFlight::Delivered, InFlight::Delivered, InFlight::Lost, InFlight::Cut];
    let victims = sample(rng, world, deaths).into_vec();
    let mut death = |victim| Death {
        victim,
        moment: Moment::Turns(rng.random_range(0..within)),
        in_flight: in_flight[rng.random_range(0..in_flight.len())],
        unnoticed: rng.random_range(0..within / 4),
        settles: rng.random(),
        lingers: 0,
    };
    victims.into_iter().map(&mut death).collect()
}

/// 2 to 6 peers, up to 20 ops, all but one may die.
pub(crate) fn draw(seed: u64) -> Losses {
    let mut rng = SmallRng::seed_from_u64(seed);
    let world = rng.random_range(2..7);
    let deaths = rng.random_range(1..world);
    let mut losses = Losses {
        seed,
        nodes: (0..world).map(|_| rng.random_range(0..2)).collect(),
        limits: NarrowLimits::draw(&mut rng),
        ops: (0..rng.random_range(4..20)).map(|_| OpSpec::draw(&mut rng, world, 2000)).collect(),
        messages: (0..rng.random_range(0..12)).map(|_| draw_message(&mut rng, world)).collect(),
        deaths: draw_deaths(&mut rng, world, deaths, 400),
        late: Late::draw(seed, world, 800),
        abort: None,
    };
    OpSpec::draw_commits(seed, &mut losses.ops);
    Death::draw_lingering(seed, &mut losses.deaths, 300);
    losses
}

/// Somebody aborts; in half of them nobody dies.
pub(crate) fn draw_aborted(seed: u64) -> Losses {
    let mut losses = draw(seed);
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xab0);
    let (rank, turns) = (rng.random_range(0..losses.nodes.len()), rng.random_range(0..1500));
    losses.abort = Some(Late { rank, turns });
    // Often the host of the coordinator dies while others hear of the end.
    if rng.random() {
        let (host, after) = (0, rng.random_range(0..100));
        losses.deaths.retain(|death| death.victim != host);
        losses.deaths.truncate(losses.nodes.len() - 2);
        let mut death = draw_deaths(&mut rng, 1, 1, 400).remove(0);
        death.moment = Moment::Turns(turns + after);
        losses.deaths.insert(0, death);
    }
    if rng.random() {
        losses.deaths.clear();
    }
    // Of a call that is late too, some may have been told that before.
    losses.late.clear();
    losses
}

#[cfg(not(feature = "planted-bugs"))]
mod tests {
    use super::*;
    use crate::job::{Tally, play};
    use crate::replay::play_seeds;
    use ronde_algorithms::algorithms_for;
    use ronde_core::Collective;

    /// Plays schedules and adds up what became of their ops.
    fn play_all(test: &str, usually: u64, draw: impl Fn(u64) -> Losses + Sync) -> (u64, Tally) {
        let (count, sum) = play_seeds(test, usually, draw, |losses, tally| play(losses, tally).trace);
        println!("{sum:?}");
        (count, sum)
    }

    #[test]
    fn survivors_go_on() {
        let (count, tally) = play_all("survivors_go_on", 5000, draw);
        let Tally { reduced, in_parts, handed_on, stable, failed, late, whole, together, .. } = tally;
        let Tally { with_holes, with_several, stood_in, lingered, .. } = tally;
        let enough = reduced > 1000
            && with_holes > 1000
            && with_several > 100
            && in_parts > 100
            && handed_on > 20
            && stood_in > 20
            && lingered > 500
            && stable > 1000
            && together > 200
            && failed > 100
            && late > 1000
            && whole > 1000;
        assert!(count < 5000 || enough, "{tally:?}");
    }

    #[test]
    fn aborted_jobs_end_alike() {
        let (count, tally) = play_all("aborted_jobs_end_alike", 2000, draw_aborted);
        let Tally { aborted, done, deaths, .. } = tally;
        assert!(count < 2000 || aborted > 1000 && done > 1000 && deaths > 1000, "{tally:?}");
    }

    /// 3 to 8 peers, 20 to 30 ops, 2 deaths or more.
    fn draw_long(seed: u64) -> Losses {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = rng.random_range(3..9);
        let deaths = rng.random_range(2..world);
        let mut losses = Losses {
            seed,
            nodes: (0..world).map(|_| rng.random_range(0..3)).collect(),
            limits: NarrowLimits::draw(&mut rng),
            ops: (0..rng.random_range(20..31)).map(|_| OpSpec::draw(&mut rng, world, 300)).collect(),
            messages: (0..rng.random_range(0..12)).map(|_| draw_message(&mut rng, world)).collect(),
            deaths: draw_deaths(&mut rng, world, deaths, 800),
            late: Late::draw(seed, world, 1600),
            abort: None,
        };
        OpSpec::draw_commits(seed, &mut losses.ops);
        Death::draw_lingering(seed, &mut losses.deaths, 600);
        losses
    }

    #[test]
    fn long_jobs_go_on() {
        let usually = if cfg!(debug_assertions) { 200 } else { 1000 };
        let (count, tally) = play_all("long_jobs_go_on", usually, draw_long);
        assert!(count < 1000 || tally.reduced > 5000 && tally.failed > 500, "{tally:?}");
    }

    /// 33 to 300 peers, small ones as often as large ones; 1 to 3 ops and deaths.
    fn draw_large(seed: u64) -> Losses {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = (33.0 * (300.0f64 / 33.0).powf(rng.random())).round() as usize;
        let per_node = [1, 8, world][rng.random_range(0..3)];
        let mut op = || {
            let mut spec = OpSpec::draw(&mut rng, world, 600);
            let has_blocks =
                algorithms_for(spec.collective).len() < 3 && spec.collective != Collective::Barrier;
            spec.count %= if has_blocks { 4 } else { 600 };
            spec
        };
        let ops: Vec<OpSpec> = (0..3).map(|_| op()).collect();
        let ops = ops[..rng.random_range(1..4)].to_vec();
        let deaths = rng.random_range(1..4);
        Losses {
            seed,
            nodes: (0..world).map(|rank| (rank / per_node) as u32).collect(),
            limits: NarrowLimits::draw(&mut rng),
            ops,
            messages: Vec::new(),
            deaths: draw_deaths(&mut rng, world, deaths, 30 * world),
            late: Late::draw(seed, world, 60 * world),
            abort: None,
        }
    }

    #[test]
    fn hundreds_go_on() {
        let usually = if cfg!(debug_assertions) { 10 } else { 1000 };
        let (count, tally) = play_all("hundreds_go_on", usually, draw_large);
        assert!(count < 1000 || tally.reduced > 300 && tally.failed > 50, "{tally:?}");
    }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::{draw, draw_aborted};
    use crate::crash_points::{first_deaths, jobs};
    use crate::job::{Losses, Tally, play};
    use crate::scenario::{Scenario, fails, line, parse, shrink};
    use crate::{churn, partitions, sub_groups};
    use ronde_core::planted::{Bug, plant};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn play_quietly(losses: &Losses) {
        play(losses, &mut Tally::default());
    }

    /// Every mistake is noticed within so many schedules.
    #[test]
    fn planted_bugs_are_caught() {
        const WITHIN: u64 = 40_000;
        /// Of schedules that are alike.
        const FEW: u64 = 20;
        const ABORTED: u64 = 2000;
        let caught = |bug: Bug| {
            plant(Some(bug));
            let is_noticed = |seed: &u64| {
                fails(|| play_quietly(&draw(*seed)))
                    || fails(|| churn::play(&churn::draw(*seed)))
                    || fails(|| partitions::play(&partitions::draw(*seed)))
                    || *seed < ABORTED && fails(|| play_quietly(&draw_aborted(*seed)))
                    || *seed < FEW && fails(|| sub_groups::late_members_agree(*seed))
                    || *seed < partitions::SILENT_SEEDS && fails(|| partitions::the_silent_go_alone(*seed))
            };
            let found = (0..WITHIN).find(is_noticed);
            plant(None);
            assert!(!found.is_some_and(|seed| is_noticed(&seed)), "{bug:?}: {found:?} fails without it too");
            (bug, found)
        };
        // A mistake is that of a thread.
        let next = AtomicUsize::new(0);
        let catch = || {
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            numbers.map_while(|at| Bug::ALL.get(at).copied()).map(caught).collect::<Vec<_>>()
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let all: Vec<(Bug, Option<u64>)> = std::thread::scope(|scope| {
            let hunters: Vec<_> = (0..threads).map(|_| scope.spawn(catch)).collect();
            hunters.into_iter().flat_map(|hunter| hunter.join().unwrap()).collect()
        });
        assert_eq!(all.len(), Bug::ALL.len());
        println!("{all:?}");
        assert!(
            all.iter().all(|(_, found)| found.is_some()),
            "not caught within {WITHIN} schedules: {all:?}"
        );
    }

    /// What is left of a schedule that fails still fails, also when it is read again.
    fn is_shrunk<S: Scenario>(bug: Bug, draw: impl Fn(u64) -> S, play: &dyn Fn(&S)) -> (S, S) {
        plant(Some(bug));
        let found = (0..10_000).map(draw).find(|scenario| fails(|| play(scenario))).expect("it is caught");
        let smallest: S = parse(&line(&shrink(&found, play)));
        assert!(fails(|| play(&smallest)), "{}", line(&smallest));
        plant(None);
        assert!(!fails(|| play(&smallest)), "it fails without the mistake: {}", line(&smallest));
        println!("{bug:?}: {}, shrunk to {}: {}", found.size(), smallest.size(), line(&smallest));
        (found, smallest)
    }

    #[test]
    fn planted_bugs_shrink() {
        for bug in
            [Bug::CommitWhatOnlySomeHold, Bug::FinalWindowsAreRestored, Bug::ReportsOfAnotherEpochCount]
        {
            let (found, smallest) = is_shrunk(bug, draw, &play_quietly);
            assert!(smallest.ops.len() < found.ops.len() && smallest.ops.len() <= 3);
            assert!(smallest.nodes.len() <= found.nodes.len() && smallest.deaths.len() <= found.deaths.len());
        }
        is_shrunk(Bug::SafePointsPassUnlessAllHaveArmed, churn::draw, &churn::play);
        is_shrunk(Bug::QuorumsAreNotNeeded, partitions::draw, &partitions::play);
    }

    /// Mistakes that one death can show are found by trying all.
    #[test]
    fn planted_bugs_show_at_crash_points() {
        use Bug::*;
        let shows = |bug: &Bug| {
            plant(Some(*bug));
            let mut all = jobs(2, 0).into_iter().chain(jobs(3, 0));
            let shows = all.any(|job| {
                let events = 0..play(&job, &mut Tally::default()).events;
                events
                    .into_iter()
                    .any(|event| first_deaths(&job, event).any(|job| fails(|| play_quietly(&job))))
            });
            plant(None);
            shows
        };
        let bugs = [
            CommitBeforeAllAreDone,
            FramesOfOldAttemptsAreTaken,
            InputInPlaceIsNotRestored,
            CommitWhatOnlySomeHold,
            WhatSomebodyReturnedStartsAgain,
            FrozenOpsTakeFrames,
            TheLostStillCount,
            LateResultsAreNotForwarded,
            OpsReturnWhileFrozen,
            WindowsThatOnlySomeHoldAreFinal,
            FinalWindowsAreRestored,
            WhoHoldsPartHoldsAll,
            CompleteCallsAreKept,
            ThreeCommitAsTwo,
        ];
        let hidden: Vec<Bug> = bugs.into_iter().filter(|bug| !shows(bug)).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}
