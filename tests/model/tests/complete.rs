//! Complete searches. Each says how many states there are, and which situations they have to contain.

#![cfg(not(feature = "planted-bugs"))]

use ronde_model::Call::{Done, Log, Rooted, Update};
use ronde_model::Scenario;
use ronde_model::situations::Situation::{self, *};

/// Nothing is wrong in any state, there are at least so many, and all these situations are among them.
fn holds(scenario: &Scenario, least: usize, situations: &[Situation]) {
    let found = scenario.search();
    println!("{} states, {} steps, depth {}: {:?}", found.states, found.steps, found.depth, found.seen);
    assert_eq!(found.broken, None);
    assert!(found.is_complete, "states were left out");
    assert!(found.states >= least, "{} states, fewer than {least}", found.states);
    let missing: Vec<_> = situations.iter().filter(|situation| !found.seen.contains(situation)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}

#[test]
fn two_losses_one_call_after_another() {
    let scenario = Scenario { first: vec![Log, Done], deaths: 2, ..Scenario::default() };
    let situations = [
        AllIsWell,
        OpStartsAgain,
        ResultIsProvided,
        DeadHadReturned,
        OneIsLeft,
        CoordinatorLostBeforePlan,
        Succession,
        SuccessorSucceeded,
    ];
    holds(&scenario, 150_000, &situations);
}

#[test]
fn two_losses_calls_at_one_time() {
    let first = vec![Log, Done];
    let scenario = Scenario { first, concurrent: true, deaths: 2, ..Scenario::default() };
    holds(&scenario, 500_000, &[AllIsWell, ResultIsProvided, DeadHadReturned, SuccessorSucceeded]);
}

#[test]
fn two_losses_with_a_root() {
    for root in 0..3 {
        let scenario = Scenario { first: vec![Rooted(root)], deaths: 2, ..Scenario::default() };
        holds(&scenario, 30_000, &[AllIsWell, OpStartsAgain, DeadHadReturned, OpEndsByLoss, Succession]);
    }
}

#[test]
fn two_losses_and_a_restart() {
    let first = vec![Log];
    let scenario = Scenario { first, stand_alone: true, deaths: 2, restarts: 1, ..Scenario::default() };
    let situations =
        [AllIsWell, ResultIsProvided, CoordinatorLostBeforePlan, CoordinatorLostInsidePlan, Succession];
    holds(&scenario, 2_000_000, &situations);
}

#[test]
fn a_restart_inside_a_plan() {
    let restart = Scenario { stand_alone: true, deaths: 1, restarts: 1, ..Scenario::default() };
    let situations = [AllIsWell, OpStartsAgain, DeadHadReturned, CoordinatorLostInsidePlan, Succession];
    holds(&Scenario { first: vec![Done], ..restart.clone() }, 250_000, &situations);
    let situations = [AllIsWell, ResultsOfTwoAttempts, OpEndsByLoss, CoordinatorLostInsidePlan];
    holds(&Scenario { first: vec![Rooted(1)], ..restart }, 250_000, &situations);
}

/// Calls that a member finds late end for all or for none, also if the coordinator is lost meanwhile.
#[test]
fn late_calls() {
    let late = Scenario { deaths: 1, late: 1, ..Scenario::default() };
    let situations =
        [AllIsWell, OpEndsLate, LateOpIsFinal, CoordinatorLostWhileOpEnds, DeadHadReturned, Succession];
    holds(&Scenario { first: vec![Log, Done], ..late.clone() }, 350_000, &situations);
    let situations = [AllIsWell, OpEndsLate, OpEndsByLoss, CoordinatorLostWhileOpEnds];
    holds(&Scenario { first: vec![Rooted(1)], ..late.clone() }, 90_000, &situations);
    let restart = Scenario { stand_alone: true, deaths: 0, restarts: 1, ..late.clone() };
    holds(
        &Scenario { first: vec![Done], ..restart },
        1,
        &[AllIsWell, OpEndsLate, CoordinatorLostWhileOpEnds],
    );
    let twice = Scenario { deaths: 0, late: 2, ..late.clone() };
    holds(
        &Scenario { first: vec![Log, Done], concurrent: true, ..twice },
        430_000,
        &[AllIsWell, OpEndsLate, LateOpIsFinal],
    );
    let (first, later) = (vec![Log, Update], vec![Log]);
    let join = Scenario { peers: 2, first, later, newcomers: 1, deaths: 0, ..late };
    holds(&join, 125_000, &[AllIsWell, OpEndsLate, NewcomerTakesPart]);
}

#[test]
fn a_join_and_two_losses() {
    let (first, later) = (vec![Log, Update], vec![Log]);
    let scenario = Scenario { peers: 2, first, later, newcomers: 1, deaths: 2, ..Scenario::default() };
    let situations = [
        AllIsWell,
        ResultIsProvided,
        OneIsLeft,
        CoordinatorLostBeforePlan,
        SuccessorSucceeded,
        CoordinatorLostWhileArming,
        CoordinatorLostWhileLinking,
        GenerationsApart,
        NewcomerTakesPart,
    ];
    holds(&scenario, 1_500_000, &situations);
}

#[test]
fn two_joins_and_a_loss() {
    let (first, later) = (vec![Update], vec![Log]);
    let scenario = Scenario { peers: 1, first, later, newcomers: 2, deaths: 1, ..Scenario::default() };
    holds(&scenario, 200_000, &[AllIsWell, Succession, GenerationsApart, NewcomerTakesPart]);
}

#[test]
fn a_join_and_a_restart() {
    let (first, later) = (vec![Update], vec![Log]);
    let job = Scenario { first, later, stand_alone: true, newcomers: 1, restarts: 1, ..Scenario::default() };
    let situations = [AllIsWell, CoordinatorLostWhileArming, CoordinatorLostWhileLinking, NewcomerTakesPart];
    holds(&Scenario { peers: 2, ..job.clone() }, 150_000, &situations);
    holds(&Scenario { peers: 1, deaths: 1, ..job }, 4_000, &situations);
}

#[test]
fn a_leave_and_a_loss() {
    let (first, later) = (vec![Rooted(0), Log, Update], vec![Log]);
    let leave = Scenario { first, later, deaths: 1, leaves: 1, ..Scenario::default() };
    holds(&leave, 150_000, &[AllIsWell, LeaverIsMissed, OpEndsByLoss, Succession]);
    let join = Scenario { peers: 2, first: vec![Update], newcomers: 1, ..leave };
    holds(&join, 300_000, &[AllIsWell, LeaverIsMissed, NewcomerTakesPart, Succession]);
}

/// Of a coordinator that lives but is not heard, and the one that a member finds instead, one goes on at most.
#[test]
fn a_silent_coordinator() {
    let silence = Scenario { silences: 1, ..Scenario::default() };
    let views = Scenario { first: vec![Update], later: vec![Log], ..silence.clone() };
    holds(&views, 100_000, &[AllIsWell, Succession, TwoCoordinators, MemberExpelled, GenerationsApart]);
    let calls = Scenario { first: vec![Done], deaths: 1, ..silence };
    holds(&calls, 1_000_000, &[Succession, TwoCoordinators, MemberExpelled, DeadHadReturned]);
}

/// The same twice: 4 million states, some minutes.
#[test]
#[ignore = "takes 5 GB of memory"]
fn a_coordinator_that_is_silent_twice() {
    let scenario = Scenario { first: vec![Done], silences: 2, ..Scenario::default() };
    holds(&scenario, 4_000_000, &[Succession, TwoCoordinators, MemberExpelled]);
}
