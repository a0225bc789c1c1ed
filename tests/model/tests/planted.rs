//! The search notices mistakes that are made on purpose.

#![cfg(feature = "planted-bugs")]

use ronde_core::planted::Bug;
use ronde_model::Call::{Done, Log, Rooted, Update};
use ronde_model::Scenario;

#[test]
fn planted_bugs_are_caught() {
    let job = Scenario::default();
    let join = Scenario { peers: 2, newcomers: 1, first: vec![Update], later: vec![Log], ..job.clone() };
    let restart = Scenario { stand_alone: true, deaths: 1, restarts: 1, ..job.clone() };
    let bugs = [
        (Bug::WhatSomebodyReturnedStartsAgain, Scenario { first: vec![Done], deaths: 1, ..job.clone() }),
        (Bug::CommitWhatOnlySomeHold, Scenario { first: vec![Done], deaths: 1, ..job.clone() }),
        (Bug::SafePointsPassUnlessAllHaveArmed, join.clone()),
        (Bug::NewcomersDoNotReport, Scenario { deaths: 1, ..join.clone() }),
        (Bug::ViewsForgetNewcomers, Scenario { deaths: 1, peers: 3, first: vec![], later: vec![], ..join }),
        (Bug::ResultsOfAllAttemptsAreAlike, Scenario { first: vec![Rooted(1)], ..restart.clone() }),
        (Bug::FailuresCountAsReturns, Scenario { first: vec![Rooted(0)], ..restart }),
        (Bug::AbortsEndWhatIsFinal, Scenario { first: vec![Done], late: 1, ..job.clone() }),
    ];
    let mut unnoticed = Vec::new();
    for (bug, scenario) in bugs {
        assert_eq!(scenario.search().broken, None, "{bug:?}: not without it either");
        let found = Scenario { bug: Some(bug), ..scenario }.search();
        match found.broken {
            Some((what, steps)) => {
                println!("{bug:?}: {what} after {} steps, {} states", steps.len(), found.states);
            }
            None => unnoticed.push(bug),
        }
    }
    assert_eq!(unnoticed, []);
}
