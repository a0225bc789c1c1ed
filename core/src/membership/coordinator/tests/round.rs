use super::*;
use crate::Collective;

fn late(seq: u64, strict: bool) -> FromMember {
    FromMember::Timeout {
        op: call(seq),
        collective: Collective::AllReduce,
        waited: WAITED,
        culprits: "nobody".into(),
        missing: vec![],
        others: vec![],
        strict,
    }
}

fn ending(effects: &[Effect]) -> Vec<u64> {
    let is_told = |effect: &Effect| match effect {
        Effect::Send(to, ToMember::Prepare { ending: Some(_), .. }) => Some(*to),
        _ => None,
    };
    effects.iter().filter_map(is_told).collect()
}

/// All report; what they are told then.
fn all_report(coordinator: &mut Coordinator, reports: &[FromMember], now: Instant) -> Vec<Effect> {
    drop(coordinator.take_effects());
    for (report, connection) in reports.iter().zip(10..) {
        coordinator.handle_message(connection, report.clone(), now);
    }
    coordinator.take_effects()
}

#[test]
fn a_call_that_is_late_ends_for_all_and_the_job_goes_on() {
    let mut coordinator = active(3);
    coordinator.handle_message(10, late(4, false), Instant(MS));
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [10, 11, 12].map(|to| (to, Epoch(2), vec![])), "nobody is lost");
    assert!(
        effects
            .iter()
            .all(|e| matches!(e, Effect::Send(_, ToMember::Prepare { held, .. }) if *held == [call(4)]))
    );
    // The others find the same a little later.
    coordinator.handle_message(11, late(4, false), Instant(MS));
    assert_eq!(coordinator.take_effects(), []);
    let reports = [report_of(2, 5, 4), report_of(2, 5, 4), report_of(2, 3, 3)];
    let told = plans(&all_report(&mut coordinator, &reports, Instant(2 * MS)));
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|(_, plan)| plan.abort(&call(4)).is_some() && plan.ending.is_none()));
    // What was on its way when they went on says nothing new; another call does.
    coordinator.handle_message(12, late(4, false), Instant(3 * MS));
    assert_eq!(coordinator.take_effects(), []);
    coordinator.handle_message(12, late(5, false), Instant(3 * MS));
    assert_eq!(prepared(&coordinator.take_effects()).len(), 3);
}

#[test]
fn what_one_has_returned_from_does_not_end_unless_it_binds_nobody() {
    for strict in [false, true] {
        let mut coordinator = active(2);
        coordinator.handle_message(10, late(4, strict), Instant(MS));
        let reports = [report_of(2, 5, 4), report_of(2, 5, 5)];
        for (_, plan) in plans(&all_report(&mut coordinator, &reports, Instant(MS))) {
            assert_eq!(plan.abort(&call(4)).is_some(), strict);
            assert_eq!(plan.commits.is_empty(), strict);
        }
    }
}

#[test]
fn a_loss_while_they_report_does_not_forget_what_is_to_end() {
    let mut coordinator = active(3);
    coordinator.handle_message(10, late(4, false), Instant(MS));
    coordinator.handle_message(11, report_of(2, 5, 4), Instant(MS));
    coordinator.handle_closed(12, Instant(MS));
    assert_eq!(prepared(&coordinator.take_effects())[3..], [10, 11].map(|to| (to, Epoch(3), vec![2])));
    let told = plans(&all_report(&mut coordinator, &[report_of(3, 5, 4), report_of(3, 5, 4)], Instant(MS)));
    assert!(told.len() == 2 && told.iter().all(|(_, plan)| plan.abort(&call(4)).is_some()));
}

/// One had returned from it, and is lost before the others have the result: they start again, and may be late again.
#[test]
fn what_was_final_may_be_late_after_a_loss() {
    let mut coordinator = active(3);
    coordinator.handle_message(10, late(4, false), Instant(MS));
    let reports = [report_of(2, 5, 4), report_of(2, 5, 4), report_of(2, 5, 5)];
    let told = plans(&all_report(&mut coordinator, &reports, Instant(MS)));
    assert!(told.len() == 3 && told.iter().all(|(_, plan)| plan.aborts.is_empty()), "it is final");
    coordinator.handle_message(10, late(4, false), Instant(MS));
    assert_eq!(coordinator.take_effects(), [], "that is known");
    coordinator.handle_closed(12, Instant(MS));
    let reports = [report_of(3, 5, 4), report_of(3, 5, 4)];
    assert_eq!(plans(&all_report(&mut coordinator, &reports, Instant(MS))).len(), 2);
    coordinator.handle_message(10, late(4, false), Instant(2 * MS));
    // A view of those who are left has a number too.
    let reports = [report_of(5, 5, 4), report_of(5, 5, 4)];
    let told = plans(&all_report(&mut coordinator, &reports, Instant(2 * MS)));
    assert!(told.len() == 2 && told.iter().all(|(_, plan)| plan.abort(&call(4)).is_some()));
}

#[test]
fn who_aborts_ends_the_job_for_all_once_they_have_said_how_far_they_are() {
    let mut coordinator = active(3);
    coordinator.handle_message(11, FromMember::Abort { reason: "enough".into() }, Instant(MS));
    assert_eq!(ending(&coordinator.take_effects()), [10, 11, 12]);
    coordinator.handle_message(12, FromMember::Abort { reason: "me too".into() }, Instant(MS));
    assert_eq!(coordinator.take_effects(), [], "the first says why");
    let effects = all_report(
        &mut coordinator,
        &[report_of(2, 5, 4), report_of(2, 5, 5), report_of(2, 4, 4)],
        Instant(MS),
    );
    let told = plans(&effects);
    let by_the_first = |verdict: &Verdict| matches!(verdict, Verdict::Requested { rank: Rank(1), reason } if reason == "enough");
    assert!(told.len() == 3 && told.iter().all(|(_, plan)| plan.ending.as_deref().is_some_and(by_the_first)));
    assert!(told.iter().all(|(_, plan)| plan.commits.len() == 1), "what one has returned from is final");
    assert_eq!(verdicts(&effects), []);
    // They close their connections; who comes now hears why.
    for connection in 10..13 {
        coordinator.handle_closed(connection, Instant(MS));
    }
    assert!(coordinator.is_finished());
    drop(coordinator.take_effects());
    coordinator.handle_message(20, hello(None, 3), Instant(MS));
    let told = coordinator.take_effects();
    assert!(
        told.iter()
            .any(|e| matches!(e, Effect::Send(20, ToMember::Refused(text)) if text.contains("enough")))
    );
}

#[test]
fn who_beats_and_does_not_report_is_not_waited_for() {
    let limit = CoordinatorOptions::default().suspect_after;
    let beats = |coordinator: &mut Coordinator, now: Instant| {
        for connection in 10..13 {
            coordinator.handle_message(connection, FromMember::Heartbeat(CallProgress::default()), now);
        }
        coordinator.handle_tick(now);
    };
    for ends in [false, true] {
        let mut coordinator = active(3);
        let reason = "enough".into();
        let message = if ends { FromMember::Abort { reason } } else { late(4, false) };
        coordinator.handle_message(10, message, Instant(0));
        for connection in [10, 11] {
            coordinator.handle_message(connection, report_of(2, 5, 4), Instant(0));
        }
        drop(coordinator.take_effects());
        let mut now = Instant(0);
        let silences = if ends { 1 } else { 5 };
        while now < Instant(0).after(limit * silences) {
            assert_eq!(plans(&coordinator.take_effects()), []);
            assert!(coordinator.next_deadline().is_some_and(|due| due <= now.after(limit)));
            now = now.after(limit / 4);
            beats(&mut coordinator, now);
        }
        let effects = coordinator.take_effects();
        if ends {
            let told = plans(&effects);
            assert_eq!(told.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [10, 11]);
            assert!(matches!(&verdicts(&effects)[..], [(12, Verdict::Requested { .. })]));
        } else {
            assert!(
                matches!(&verdicts(&effects)[..], [(12, Verdict::PeerLost(lost))] if lost.reason.contains("how far"))
            );
            assert_eq!(prepared(&effects), [10, 11].map(|to| (to, Epoch(3), vec![2])));
        }
    }
}

/// Results that differ are final for nobody, whoever has returned from them.
#[test]
fn what_members_disagree_on_ends_with_the_job() {
    let mut coordinator = active(2);
    coordinator.handle_message(10, FromMember::Diverged { op: call(4), holders: "both".into() }, Instant(MS));
    let told = plans(&all_report(&mut coordinator, &[report_of(2, 5, 4), report_of(2, 5, 5)], Instant(MS)));
    assert_eq!(told.len(), 2);
    for (_, plan) in told {
        assert!(matches!(plan.abort(&call(4)), Some(Verdict::Diverged { .. })) && plan.commits.is_empty());
        assert!(matches!(plan.ending.as_deref(), Some(Verdict::Diverged { .. })));
    }
}

/// A message between two is no affair of the others, who cannot say how far it is.
#[test]
fn a_message_that_is_late_ends_the_job() {
    let mut coordinator = active(2);
    let FromMember::Timeout { op, waited, culprits, missing, others, .. } = late(4, false) else {
        unreachable!()
    };
    let collective = Collective::Recv;
    let late = FromMember::Timeout { op, collective, waited, culprits, missing, others, strict: false };
    coordinator.handle_message(10, late, Instant(MS));
    let told = plans(&all_report(&mut coordinator, &[report_of(2, 5, 4), report_of(2, 5, 5)], Instant(MS)));
    assert!(
        told.iter().all(|(_, plan)| plan.aborts.is_empty()
            && matches!(plan.ending.as_deref(), Some(Verdict::Timeout { .. })))
    );
    assert_eq!(told.len(), 2);
}

/// Links of newcomers are made while all others stand still, of which a newcomer hears nothing.
#[test]
fn a_view_that_is_not_armed_waits_until_all_go_on() {
    let mut coordinator = active(2);
    let FromMember::Hello(mut newcomer) = hello(None, 3) else { unreachable!() };
    (newcomer.size, newcomer.newcomer) = (None, true);
    coordinator.handle_message(12, FromMember::Hello(newcomer), Instant(MS));
    let due = coordinator.next_deadline().expect("it is taken in");
    coordinator.handle_tick(due);
    let is_view = |e: &Effect| matches!(e, Effect::Send(12, ToMember::View(_)));
    assert!(coordinator.take_effects().iter().any(is_view));
    coordinator.handle_message(10, late(4, false), due);
    for connection in 10..13 {
        coordinator.handle_message(connection, FromMember::Linked(Epoch(2)), due);
    }
    let effects = all_report(&mut coordinator, &[report_of(3, 5, 4), report_of(3, 5, 4)], due);
    assert_eq!(resumed(&effects), [10, 11]);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Send(_, ToMember::Armed(_)))));
    coordinator.handle_tick(due.after(Duration::from_millis(50)));
    assert!(coordinator.take_effects().iter().any(is_view), "again");
}
