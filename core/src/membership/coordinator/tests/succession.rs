//! Another coordinator takes over, and who may go on.

use super::*;
use crate::membership::Rejoin;

/// What a member of a job of `size` says to a new coordinator; the first one hosted the old.
fn rejoin(id: u32, size: u32, change: impl FnOnce(&mut Rejoin)) -> FromMember {
    let info = |id: u32| {
        let FromMember::Hello(hello) = hello(Some(id), size) else { unreachable!() };
        MemberInfo { id: MemberId(id), ..hello.info }
    };
    let members = (0..size).map(info).collect();
    let view = View { epoch: Epoch(1), members, host: Some(MemberId(0)), ..View::default() };
    let mut rejoin = Rejoin {
        version: VERSION,
        peer: PeerId([id as u8; 16]),
        view,
        armed: None,
        gone: Vec::new(),
        unsettled: Vec::new(),
        lost: Vec::new(),
        epoch: Epoch(1),
        dead: Vec::new(),
        cut_off: false,
        asked: 0,
    };
    change(&mut rejoin);
    FromMember::Rejoin(Box::new(rejoin))
}

/// Bytes from the network may be anything: a job that forms is not thrown away for them.
#[test]
fn who_comes_back_with_nonsense_does_not_stop_a_job_that_forms() {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    coordinator.handle_message(1, hello(Some(0), 2), Instant(0));
    let nonsense: [fn(&mut Rejoin); 3] =
        [|r| r.version += 1, |r| r.peer = PeerId([77; 16]), |r| r.view.epoch = Epoch(u64::MAX)];
    for (connection, change) in (5..).zip(nonsense) {
        coordinator.take_effects();
        coordinator.handle_message(connection, rejoin(1, 2, change), Instant(0));
        assert!(coordinator.take_effects().contains(&Effect::Close(connection)));
        assert!(!coordinator.is_succeeding());
    }
    coordinator.handle_message(2, hello(Some(1), 2), Instant(0));
    let effects = coordinator.take_effects();
    let views = effects.iter().filter(|e| matches!(e, Effect::Send(_, ToMember::View(_))));
    assert_eq!(views.count(), 2, "{effects:?}");
}

fn successor() -> Coordinator {
    let host = Some(PeerId([1; 16]));
    Coordinator::successor(CoordinatorOptions { host, ..CoordinatorOptions::default() })
}

/// What is to be done, once all who were asked for were found to have ended.
fn effects_when_the_dead_are_found(coordinator: &mut Coordinator) -> Vec<Effect> {
    let mut all = coordinator.take_effects();
    let peer = |effect: &Effect| if let Effect::Probe(info) = effect { Some(info.peer) } else { None };
    for peer in all.iter().filter_map(peer).collect::<Vec<PeerId>>() {
        coordinator.handle_ended(peer, Instant(MS));
    }
    all.extend(coordinator.take_effects());
    all
}

#[test]
fn members_go_on_with_another_coordinator() {
    let mut coordinator = successor();
    for id in [1, 2, 3] {
        assert!(prepared(&effects_when_the_dead_are_found(&mut coordinator)).is_empty());
        coordinator.handle_message(id, rejoin(id as u32, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    }
    // All are here that live: nobody waits for more.
    let effects = effects_when_the_dead_are_found(&mut coordinator);
    assert_eq!(prepared(&effects), [1, 2, 3].map(|to| (to, Epoch(2), vec![0])));
    say(&mut coordinator, &[1, 2, 3], &report(2), Instant(2 * MS));
    assert_eq!(resumed(&coordinator.take_effects()), [1, 2, 3]);
    assert_eq!(
        (coordinator.view().host, coordinator.view().incarnation),
        (Some(MemberId(1)), Incarnation(1))
    );
    assert!(!coordinator.is_finished());
}

/// Who aborts the job while its coordinator is being replaced is not forgotten, nor is a call on which two disagree: all agree on what is
/// final first.
#[test]
fn what_is_to_end_waits_for_those_who_have_not_come() {
    let (mut coordinator, op) = (successor(), call(4));
    for (id, says) in [
        (1, FromMember::Abort { reason: "enough".into() }),
        (2, FromMember::Diverged { op, holders: "peers 1 and 3".into() }),
    ] {
        coordinator.handle_message(id, rejoin(id as u32, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
        coordinator.take_effects();
        coordinator.handle_message(id, says, Instant(MS));
        assert_eq!((coordinator.take_effects(), coordinator.is_succeeding()), (Vec::new(), true));
    }
    coordinator.handle_message(3, rejoin(3, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    let effects = effects_when_the_dead_are_found(&mut coordinator);
    let ends = |to: u64| {
        effects.iter().any(|effect| match effect {
            Effect::Send(told, ToMember::Prepare { ending: Some(verdict), .. }) if *told == to => {
                matches!(&**verdict, Verdict::Requested { rank: Rank(1), reason } if reason == "enough")
            }
            _ => false,
        })
    };
    assert!([1, 2, 3].into_iter().all(ends), "{effects:?}");
    say(&mut coordinator, &[1, 2, 3], &report(2), Instant(2 * MS));
    let plans = plans(&coordinator.take_effects());
    assert!(plans.len() == 3 && plans.iter().all(|(_, plan)| plan.ending.is_some()), "{plans:?}");
}

/// A machine that is busy may answer too late: a member that has asked again is neither lost nor turned away.
#[test]
fn who_did_not_hear_that_it_was_taken_in_asks_again() {
    for closed in ["before", "after", "never"] {
        let (mut coordinator, host) = (successor(), Some(PeerId([1; 16])));
        for id in [1, 2] {
            coordinator.handle_message(id, rejoin(id as u32, 3, |r| r.dead.push(MemberId(0))), Instant(MS));
        }
        let effects = effects_when_the_dead_are_found(&mut coordinator);
        assert_eq!(prepared(&effects), [1, 2].map(|to| (to, Epoch(2), vec![0])));
        say(&mut coordinator, &[2], &report(2), Instant(2 * MS));
        if closed == "before" {
            coordinator.handle_closed(1, Instant(2 * MS));
        }
        assert_eq!(prepared(&coordinator.take_effects()), [], "closed {closed}: it is not lost yet");
        coordinator.handle_message(9, rejoin(1, 3, |_| ()), Instant(3 * MS));
        if closed == "after" {
            coordinator.handle_closed(1, Instant(4 * MS));
        }
        let effects = coordinator.take_effects();
        assert!(told(&effects, &ToMember::Welcome { host }).contains(&9), "closed {closed}");
        assert_eq!(prepared(&effects), [(9, Epoch(2), vec![0])], "closed {closed}");
        say(&mut coordinator, &[9], &report(2), Instant(4 * MS));
        assert_eq!(resumed(&coordinator.take_effects()), [2, 9], "closed {closed}");
        // From now on it knows, and is lost like any other.
        coordinator.handle_closed(9, Instant(5 * MS));
        let told = prepared(&coordinator.take_effects());
        assert_eq!(told.iter().map(|(to, _, lost)| (*to, &lost[..])).collect::<Vec<_>>(), [(2, &[1][..])]);
    }
}

/// Members that heard nothing of the host of five and have come to the next; these say for so long that they live.
fn cut_off_from_the_first(come: &[u32], alive: &[u64], ms: u64) -> Coordinator {
    let mut coordinator = successor();
    for &id in come {
        let host = if id == 1 { MemberId(1) } else { MemberId(0) };
        let member = rejoin(id, 5, |r| {
            (r.view.host, r.cut_off) = (Some(host), true);
            r.view.members.iter_mut().for_each(|m| m.machine = MachineId(format!("machine-{}", m.id)));
        });
        let connection = if id == 1 { 9 } else { u64::from(id) };
        coordinator.handle_message(connection, member, Instant(MS));
    }
    live_until(&mut coordinator, alive, (0, ms));
    coordinator
}

fn live_until(coordinator: &mut Coordinator, alive: &[u64], (from, until): (u64, u64)) {
    for time in (from..until).step_by(100).map(|ms| Instant((2 + ms) * MS)) {
        say(coordinator, alive, &FromMember::Heartbeat(CallProgress::default()), time);
        coordinator.handle_tick(time);
    }
}

/// It has left meanwhile, or goes another way: there are others that may take the coordinator's place all the same.
#[test]
fn a_successor_needs_a_quorum_also_without_its_own_process() {
    for leaves in [false, true] {
        let come: &[u32] = if leaves { &[1, 2, 3, 4] } else { &[2, 3, 4] };
        let mut coordinator = cut_off_from_the_first(come, &[2, 3, 4], 1000);
        if leaves {
            coordinator.handle_message(9, FromMember::Leave, Instant(1000 * MS));
        }
        live_until(&mut coordinator, &[2, 3, 4], (1000, 2100));
        assert_eq!(prepared(&coordinator.take_effects()), [2, 3, 4].map(|to| (to, Epoch(2), vec![0, 1])));
        assert_eq!(coordinator.view().host, Some(MemberId(1)), "leaves: {leaves}");
        say(&mut coordinator, &[2, 3, 4], &report(2), Instant(2103 * MS));
        live_until(&mut coordinator, &[4], (2200, 3400));
        let verdicts = verdicts(&coordinator.take_effects());
        assert!(
            matches!(verdicts[..], [.., (4, Verdict::NoQuorum { .. })]),
            "leaves: {leaves}, {verdicts:?}"
        );
    }
}

/// However its own process came there, a part without a quorum does not go on with it.
#[test]
fn a_successor_needs_a_quorum_when_members_fall_silent() {
    let mut coordinator = cut_off_from_the_first(&[2, 3, 4, 1], &[2, 3, 4, 9], 2100);
    assert_eq!(prepared(&coordinator.take_effects()), [2, 3, 4, 9].map(|to| (to, Epoch(2), vec![0])));
    assert_eq!(coordinator.view().host, Some(MemberId(1)));
    say(&mut coordinator, &[2, 3, 4, 9], &report(2), Instant(2103 * MS));
    live_until(&mut coordinator, &[4, 9], (2200, 3400));
    // Of the host before it is not known that it has ended.
    let verdicts = verdicts(&coordinator.take_effects());
    assert!(matches!(verdicts[..], [.., (9, Verdict::NoQuorum { here: 2, of: 5 })]), "{verdicts:?}");
}

/// It had given that connection up and asked again, on one that was quicker.
#[test]
fn what_a_member_said_earlier_and_comes_later_does_not_count() {
    let asks = |asked: u64| rejoin(2, 4, |r| (r.asked, r.dead) = (asked, vec![MemberId(0)]));
    for taken_over in [false, true] {
        let mut coordinator = successor();
        coordinator.handle_message(2, asks(8), Instant(MS));
        coordinator.handle_message(3, rejoin(3, 4, |_| ()), Instant(MS));
        if taken_over {
            coordinator.handle_message(1, rejoin(1, 4, |_| ()), Instant(MS));
            let effects = effects_when_the_dead_are_found(&mut coordinator);
            assert_eq!(prepared(&effects), [1, 2, 3].map(|to| (to, Epoch(2), vec![0])));
        }
        coordinator.take_effects();
        coordinator.handle_message(9, asks(7), Instant(2 * MS));
        assert_eq!(coordinator.take_effects(), [Effect::Close(9)], "taken over: {taken_over}");
        coordinator.handle_message(9, asks(9), Instant(2 * MS));
        let effects = coordinator.take_effects();
        assert!(effects.contains(&Effect::Close(2)), "taken over: {taken_over}, {effects:?}");
    }
}

/// It does not come again: it is lost once it has been silent for too long, or has ended.
#[test]
fn who_did_not_hear_that_it_was_taken_in_is_not_waited_for_longer_than_others() {
    for ends in [true, false] {
        let mut coordinator = successor();
        for id in [1, 2, 3] {
            coordinator.handle_message(id, rejoin(id as u32, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
        }
        drop(effects_when_the_dead_are_found(&mut coordinator));
        coordinator.handle_closed(1, Instant(MS));
        match ends {
            true => coordinator.handle_ended(PeerId([1; 16]), Instant(2 * MS)),
            false => {
                for time in (0..1500).step_by(100).map(|ms| Instant((2 + ms) * MS)) {
                    say(&mut coordinator, &[2, 3], &FromMember::Heartbeat(CallProgress::default()), time);
                    coordinator.handle_tick(time);
                }
            }
        }
        let told = prepared(&coordinator.take_effects());
        assert_eq!(told, [2, 3].map(|to| (to, Epoch(3), vec![0, 1])), "ends: {ends}");
    }
}

#[test]
fn a_successor_waits_for_the_rest_of_a_quorum_and_then_no_longer() {
    let mut coordinator = successor();
    // Nobody is known to be dead: 3 of 5 are a quorum, but 2 may yet come.
    for id in [1, 2, 3] {
        coordinator.handle_message(id, rejoin(id as u32, 5, |_| ()), Instant(MS));
    }
    assert!(prepared(&coordinator.take_effects()).is_empty());
    let due = coordinator.succession_deadline().unwrap();
    assert_eq!(due, Instant(MS).after(Duration::from_secs(2)));
    coordinator.handle_tick(due);
    assert_eq!(prepared(&coordinator.take_effects()), [1, 2, 3].map(|to| (to, Epoch(2), vec![0, 4])));
    // One that comes now is told that the others went on.
    coordinator.handle_message(4, rejoin(4, 5, |_| ()), due);
    assert_eq!(verdicts(&coordinator.take_effects()), [(4, Verdict::Deposed(Epoch(2)))]);
}

/// Those who have given it up have ended their links to it; they live.
#[test]
fn links_that_end_prove_no_death() {
    let mut coordinator = successor();
    coordinator.handle_message(1, rejoin(1, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    for id in [2, 3] {
        let ended =
            FromMember::LinkFailed { member: MemberId(id), reason: "closed".into(), end: LinkEnd::Cut };
        coordinator.handle_message(1, ended, Instant(MS));
    }
    let effects = coordinator.take_effects();
    let probed = effects.iter().filter(|e| matches!(e, Effect::Probe(_))).count();
    assert_eq!((probed, prepared(&effects)), (3, vec![]));
    // Of one that was ending when it was asked for it is not known at once.
    let heartbeat = Instant(MS).after(Duration::from_millis(200));
    coordinator.handle_tick(heartbeat);
    let effects = coordinator.take_effects();
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Probe(_))).count(), 3);
    for id in [0, 2, 3] {
        assert!(prepared(&coordinator.take_effects()).is_empty(), "the dead may have gone on with {id}");
        coordinator.handle_ended(PeerId([id; 16]), heartbeat);
    }
    assert_eq!(prepared(&coordinator.take_effects()), [(1, Epoch(2), vec![0, 2, 3])]);
}

/// Those who have died may have taken in others before, of whom one that was cut off knows nothing.
#[test]
fn who_was_cut_off_does_not_go_on_without_a_quorum_even_if_all_others_are_dead() {
    for cut_off in [false, true] {
        let mut coordinator = successor();
        let knows = |r: &mut Rejoin| {
            (r.cut_off, r.dead) = (cut_off, [0, 2, 3].map(MemberId).to_vec());
        };
        coordinator.handle_message(1, rejoin(1, 4, knows), Instant(MS));
        let effects = effects_when_the_dead_are_found(&mut coordinator);
        assert_eq!(prepared(&effects).is_empty(), cut_off, "{effects:?}");
    }
}

/// That the others have ended their links to a member tells that they may have gone on without it, also if it hears of it after it
/// has come to the next coordinator. Of one that has left it is no news.
#[test]
fn a_farewell_that_comes_late_counts() {
    for (end, has_left, goes_on) in [
        (LinkEnd::Cut, false, true),
        (LinkEnd::Farewell, false, false),
        (LinkEnd::Farewell, true, true),
        (LinkEnd::Silence, false, true),
    ] {
        let mut coordinator = successor();
        coordinator.handle_message(2, rejoin(1, 4, |r| r.dead = vec![MemberId(0)]), Instant(MS));
        coordinator.handle_message(3, rejoin(2, 4, |_| {}), Instant(MS));
        if has_left {
            coordinator.handle_message(3, FromMember::Leave, Instant(MS));
        } else {
            coordinator.handle_closed(3, Instant(MS));
        }
        for (member, end) in [(2, end), (3, LinkEnd::Cut)] {
            let ended = FromMember::LinkFailed { member: MemberId(member), reason: "ended".into(), end };
            coordinator.handle_message(2, ended, Instant(MS));
        }
        let effects = effects_when_the_dead_are_found(&mut coordinator);
        assert_eq!(!prepared(&effects).is_empty(), goes_on, "{end:?} {has_left}: {effects:?}");
    }
}

/// What became of a member that was given up and lives is for the host to say: who finds it gone takes it for dead.
#[test]
fn a_host_stays_for_those_whose_death_is_not_proven() {
    let ends = |told: &dyn Fn(&mut Coordinator)| {
        let mut coordinator = active(2);
        coordinator.handle_closed(11, Instant(MS));
        assert_eq!(prepared(&coordinator.take_effects()), [(10, Epoch(2), vec![1])]);
        coordinator.handle_message(10, report(2), Instant(2 * MS));
        coordinator.handle_message(10, FromMember::Leave, Instant(3 * MS));
        coordinator.handle_closed(10, Instant(4 * MS));
        coordinator.handle_tick(Instant(4 * MS));
        assert!(!coordinator.is_finished());
        told(&mut coordinator);
        coordinator
    };
    assert!(ends(&|coordinator| coordinator.handle_ended(PeerId([1; 16]), Instant(5 * MS))).is_finished());
    let asked = ends(&|coordinator| {
        coordinator.handle_message(12, rejoin(1, 2, |_| {}), Instant(5 * MS));
        let told = verdicts(&coordinator.take_effects());
        assert!(matches!(told[..], [(12, Verdict::Deposed(_))]), "{told:?}");
    });
    assert!(asked.is_finished());
    let mut nobody_asks = ends(&|_| {});
    let mut now = Instant(4 * MS);
    while !nobody_asks.is_finished() {
        now = nobody_asks.next_deadline().expect("it does not stay for ever");
        nobody_asks.handle_tick(now);
    }
    assert_eq!(now, Instant(MS).after(CoordinatorOptions::default().suspect_after));
}

/// Who has come and leaves before anybody goes on has told whom the others had given up, and in which view they were.
#[test]
fn what_those_knew_who_leave_meanwhile_counts() {
    for was_in_a_later_view in [false, true] {
        let mut coordinator = successor();
        let knows = |r: &mut Rejoin| {
            r.dead.push(MemberId(0));
            match was_in_a_later_view {
                true => r.view = r.view.next(Epoch(3), &[MemberId(2)], Vec::new()),
                false => r.gone.push(MemberId(2)),
            }
        };
        coordinator.handle_message(1, rejoin(1, 3, knows), Instant(MS));
        coordinator.handle_message(1, FromMember::Leave, Instant(MS));
        coordinator.handle_message(2, rejoin(2, 3, |r| r.dead.push(MemberId(0))), Instant(MS));
        let mut effects = effects_when_the_dead_are_found(&mut coordinator);
        while let Some(due) = coordinator.succession_deadline() {
            coordinator.handle_tick(due);
        }
        effects.extend(coordinator.take_effects());
        assert_eq!(prepared(&effects), [], "in a later view: {was_in_a_later_view}");
        assert_eq!(verdicts(&effects).len(), 1, "{effects:?}");
    }
}

/// Of two halves of a network the one with the lowest rank that did not host the coordinator goes on.
#[test]
fn without_a_quorum_nobody_goes_on() {
    let halves = |ids: [u32; 2]| {
        let mut coordinator = successor();
        for id in ids {
            coordinator.handle_message(u64::from(id), rejoin(id, 4, |_| ()), Instant(MS));
        }
        while let Some(due) = coordinator.succession_deadline() {
            coordinator.handle_tick(due);
        }
        coordinator.take_effects()
    };
    assert_eq!(prepared(&halves([1, 3])).len(), 2);
    let no_quorum = Verdict::NoQuorum { here: 2, of: 4 };
    assert_eq!(verdicts(&halves([2, 3])), [(2, no_quorum.clone()), (3, no_quorum)]);
}

/// The coordinator before had told one member, and only it, that a view is armed, or in effect.
#[test]
fn what_the_coordinator_before_told_some_is_told_all() {
    for entered in [false, true] {
        let FromMember::Rejoin(template) = rejoin(1, 3, |_| ()) else { unreachable!() };
        let newcomer =
            MemberInfo { peer: PeerId([7; 16]), id: MemberId(3), ..template.view.members[0].clone() };
        let next = template.view.next(Epoch(2), &[], vec![newcomer]);
        let dead = |r: &mut Rejoin| r.dead.push(MemberId(0));
        let knows = |r: &mut Rejoin| {
            dead(r);
            r.epoch = Epoch(2);
            match entered {
                true => r.view = next.clone(),
                false => r.armed = Some(next.clone()),
            }
        };
        let is_new = |r: &mut Rejoin| {
            knows(r);
            (r.peer, r.view, r.armed) = (PeerId([7; 16]), next.clone(), None);
        };
        let mut coordinator = successor();
        coordinator.handle_message(1, rejoin(1, 3, knows), Instant(MS));
        coordinator.handle_message(2, rejoin(2, 3, dead), Instant(MS));
        coordinator.handle_message(3, rejoin(3, 3, is_new), Instant(MS));
        let effects = effects_when_the_dead_are_found(&mut coordinator);
        let armed = |e: &Effect| match e {
            Effect::Send(to, ToMember::Arm(view)) => Some((*to, view.epoch)),
            _ => None,
        };
        assert_eq!(effects.iter().filter_map(armed).collect::<Vec<_>>(), [(2, Epoch(2))], "{entered}");
        assert_eq!(prepared(&effects), [1, 2, 3].map(|to| (to, Epoch(3), vec![0])));
        let active = told(&effects, &ToMember::Activate(Epoch(2)));
        assert_eq!(active.contains(&3), entered, "{effects:?}");
        say(&mut coordinator, &[1, 2, 3], &report(3), Instant(2 * MS));
        say(&mut coordinator, &[1, 2], &FromMember::Entered(Epoch(2)), Instant(3 * MS));
        assert_eq!(coordinator.view().epoch, Epoch(2));
    }
}

#[test]
fn one_that_was_given_up_before_is_not_taken_in() {
    let mut coordinator = successor();
    let knows = |r: &mut Rejoin| {
        (r.gone, r.epoch, r.dead) = (vec![MemberId(3)], Epoch(2), vec![MemberId(0)]);
    };
    coordinator.handle_message(3, rejoin(3, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    coordinator.handle_message(1, rejoin(1, 4, knows), Instant(MS));
    coordinator.handle_message(2, rejoin(2, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    let effects = effects_when_the_dead_are_found(&mut coordinator);
    assert_eq!(prepared(&effects), [1, 2].map(|to| (to, Epoch(3), vec![0, 3])));
    assert!(matches!(&verdicts(&effects)[..], [(3, Verdict::PeerLost(lost))] if lost.member == MemberId(3)));
}

/// One that ran alone is started again at its address, and nobody is lost.
#[test]
fn a_coordinator_that_was_started_again_takes_its_members_back() {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    let alone = |r: &mut Rejoin| r.view.host = None;
    // Some may ask to join before the first member has found it.
    coordinator.handle_message(7, newcomer(7), Instant(0));
    for id in [0, 1] {
        coordinator.handle_message(id, rejoin(id as u32, 2, alone), Instant(MS));
    }
    assert_eq!(prepared(&coordinator.take_effects()), [0, 1].map(|to| (to, Epoch(2), vec![])));
    say(&mut coordinator, &[0, 1], &report(2), Instant(MS));
    assert_eq!(resumed(&coordinator.take_effects()), [0, 1]);
    coordinator.handle_tick(coordinator.next_change_of_view().expect("one waits to join"));
    let (to, view) = proposed(&coordinator.take_effects()).expect("a view");
    assert_eq!((to, view.members.len()), (vec![0, 1, 7], 3));
}

/// One member that hears nothing is that member's loss; if those who look for another coordinator may have one,
/// this one ends.
#[test]
fn a_coordinator_that_was_succeeded_ends() {
    let mut coordinator = active(4);
    coordinator.handle_message(13, FromMember::Succeeded, Instant(MS));
    assert_eq!(prepared(&coordinator.take_effects()), [10, 11, 12].map(|to| (to, Epoch(2), vec![3])));
    say(&mut coordinator, &[10, 11, 12], &report(2), Instant(MS));
    drop(coordinator.take_effects());
    coordinator.handle_message(11, FromMember::Succeeded, Instant(MS));
    let told = verdicts(&coordinator.take_effects());
    assert_eq!(told.len(), 3, "all that are left: {told:?}");
    assert!(told.iter().all(|(_, verdict)| matches!(verdict, Verdict::Deposed(_))), "{told:?}");
}

/// Whoever is cut off with the host does not go on without those who may go on too.
#[test]
fn silent_members_are_counted_all_together() {
    let away = |id: u32| {
        let FromMember::Hello(mut hello) = hello(Some(id), 6) else { unreachable!() };
        hello.info.machine = MachineId(id.to_string());
        FromMember::Hello(hello)
    };
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    for id in 0..6 {
        coordinator.handle_message(10 + u64::from(id), away(id), Instant(0));
    }
    say(&mut coordinator, &[10, 11, 12, 13, 14, 15], &FromMember::Linked(Epoch(1)), Instant(0));
    drop(coordinator.take_effects());
    let mut fenced = 0;
    for ms in (0..6000).step_by(100) {
        let now = Instant(ms * MS);
        say(&mut coordinator, &[10, 11], &FromMember::Heartbeat(CallProgress::default()), now);
        coordinator.handle_tick(now);
        let effects = coordinator.take_effects();
        if verdicts(&effects)
            .iter()
            .any(|(_, verdict)| matches!(verdict, Verdict::NoQuorum { here: 2, of: 6 }))
        {
            return assert_eq!(fenced, 3, "of two halves this one has the lowest rank besides the host");
        }
        fenced += usize::from(!prepared(&effects).is_empty());
    }
    panic!("it went on with two of six");
}

/// Silence of a member on another machine may be that of the network: without a quorum its host stops.
#[test]
fn a_host_that_is_cut_off_stops() {
    let away = |id: u32| {
        let FromMember::Hello(mut hello) = hello(Some(id), 3) else { unreachable!() };
        hello.info.machine = MachineId(if id == 0 { "here" } else { "there" }.into());
        FromMember::Hello(hello)
    };
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    for id in 0..3 {
        coordinator.handle_message(10 + u64::from(id), away(id), Instant(0));
    }
    say(&mut coordinator, &[10, 11, 12], &FromMember::Linked(Epoch(1)), Instant(0));
    drop(coordinator.take_effects());
    for ms in (0..3000).step_by(100) {
        say(&mut coordinator, &[10], &FromMember::Heartbeat(CallProgress::default()), Instant(ms * MS));
        coordinator.handle_tick(Instant(ms * MS));
    }
    let told = verdicts(&coordinator.take_effects());
    let no_quorum = |(_, verdict): &(u64, Verdict)| matches!(verdict, Verdict::NoQuorum { .. });
    assert!(told.iter().any(|v| v.0 == 10 && no_quorum(v)), "{told:?}");
}

/// Newcomers alone are no job: where nobody else comes they wait.
#[test]
fn newcomers_do_not_start_a_job() {
    let mut coordinator = Coordinator::new(CoordinatorOptions { min_peers: Some(1), ..Default::default() });
    let FromMember::Hello(late) = newcomer(7) else { unreachable!() };
    coordinator.handle_message(7, FromMember::Hello(Hello { newcomer: true, ..late }), Instant(0));
    assert!(told(&coordinator.take_effects(), &ToMember::Pending { members: 0 }).contains(&7));
    coordinator.handle_message(8, newcomer(8), Instant(0));
    let (to, view) = proposed(&coordinator.take_effects()).expect("the first view");
    assert_eq!((to, view.members.len()), (vec![8], 1));
    coordinator.handle_message(8, FromMember::Linked(view.epoch), Instant(0));
    coordinator.handle_tick(coordinator.next_change_of_view().expect("one waits to join"));
    assert_eq!(proposed(&coordinator.take_effects()).expect("the second").0, [7, 8]);
}

/// A coordinator was started again, and somebody new is there before its members are: it must not become another job,
/// which would turn them away.
#[test]
fn a_job_that_may_have_members_does_not_start_without_them() {
    let patience = Duration::from_secs(2);
    let options = CoordinatorOptions {
        min_peers: Some(1),
        max_peers: Some(3),
        rejoin_patience: patience,
        ..CoordinatorOptions::default()
    };
    let with = |come: &[u8]| {
        let mut coordinator = Coordinator::new(options.clone());
        come.iter().for_each(|&id| {
            coordinator.handle_message(id.into(), newcomer(id), Instant(MS));
        });
        coordinator
    };
    let mut restarted = with(&[7]);
    let soon = Instant(0).after(patience / 2);
    restarted.handle_tick(soon);
    assert_eq!(proposed(&restarted.take_effects()), None);
    for id in 0..2 {
        let member = rejoin(id, 2, |r| r.view.host = None);
        restarted.handle_message(id.into(), member, soon);
    }
    assert_eq!(prepared(&restarted.take_effects()).iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1]);

    let mut new = with(&[7]);
    let until = new.next_deadline().expect("it starts");
    assert_eq!(until, Instant(0).after(patience));
    new.handle_tick(until);
    assert_eq!(proposed(&new.take_effects()).expect("nobody else came").0, [7]);

    // What comes besides harms nobody.
    let mut full = with(&[7, 8, 9, 10]);
    full.handle_message(11, hello(Some(0), 2), Instant(2 * MS));
    let effects = full.take_effects();
    assert_eq!((told(&effects, &ToMember::TryLater), proposed(&effects)), (vec![10], None));
    let is_refused =
        |e: &Effect| matches!(e, Effect::Send(11, ToMember::Refused(why)) if why.contains("3 others"));
    assert!(effects.iter().any(is_refused), "{effects:?}");
    full.handle_tick(until);
    assert_eq!(proposed(&full.take_effects()).expect("those who are there").0, [7, 8, 9]);
}

/// The number of one that is gone is given to another; then both come to a coordinator that was started again.
#[test]
fn of_two_with_one_number_the_one_of_the_later_view_is_a_member() {
    for stale_first in [true, false] {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        let alone = |r: &mut Rejoin| r.view.host = None;
        let FromMember::Rejoin(template) = rejoin(0, 2, alone) else { unreachable!() };
        let mut later = template.view.next(Epoch(5), &[MemberId(0)], vec![]);
        later.members.push(MemberInfo { peer: PeerId([7; 16]), ..template.view.members[0].clone() });
        let is_later = |r: &mut Rejoin, peer: u8| {
            alone(r);
            (r.view, r.peer, r.epoch) = (later.clone(), PeerId([peer; 16]), Epoch(5));
        };
        let stale = (0, rejoin(0, 2, |r| (alone(r), r.dead.push(MemberId(1))).0));
        let later = (7, rejoin(7, 2, |r| is_later(r, 7)));
        let both = if stale_first { [stale, later] } else { [later, stale] };
        for (connection, rejoin) in both {
            coordinator.handle_message(connection, rejoin, Instant(MS));
        }
        assert_eq!(verdicts(&coordinator.take_effects()), [(0, Verdict::Deposed(Epoch(5)))]);
        coordinator.handle_message(1, rejoin(1, 2, |r| is_later(r, 1)), Instant(MS));
        assert_eq!(prepared(&coordinator.take_effects()), [1, 7].map(|to| (to, Epoch(6), vec![])));
    }
}

/// The others have ended their links to one that they gave up long ago; it accuses them all of that, and ends its job.
#[test]
fn who_is_turned_away_accuses_nobody_and_ends_nothing() {
    let mut coordinator = successor();
    let FromMember::Rejoin(template) = rejoin(1, 4, |_| ()) else { unreachable!() };
    let later = template.view.next(Epoch(3), &[MemberId(3)], vec![]);
    coordinator.handle_message(3, rejoin(3, 4, |_| ()), Instant(MS));
    let accusation =
        |id: u32| FromMember::LinkFailed { member: MemberId(id), reason: "closed".into(), end: LinkEnd::Cut };
    say(&mut coordinator, &[3], &accusation(1), Instant(MS));
    say(&mut coordinator, &[3], &accusation(2), Instant(MS));
    say(&mut coordinator, &[3], &FromMember::Abort { reason: "the others are gone".into() }, Instant(MS));
    for id in [1, 2] {
        let knows = |r: &mut Rejoin| (r.view, r.epoch, r.dead) = (later.clone(), Epoch(3), vec![MemberId(0)]);
        coordinator.handle_message(id, rejoin(id as u32, 4, knows), Instant(MS));
        say(&mut coordinator, &[3], &accusation(id as u32), Instant(MS));
    }
    let effects = effects_when_the_dead_are_found(&mut coordinator);
    assert_eq!(verdicts(&effects), [(3, Verdict::Deposed(Epoch(3)))]);
    assert_eq!(prepared(&effects), [1, 2].map(|to| (to, Epoch(4), vec![0])));
    let ends = |effect: &Effect| matches!(effect, Effect::Send(_, ToMember::Prepare { ending: Some(_), .. }));
    assert!(!effects.iter().any(ends), "{effects:?}");
    coordinator.handle_tick(Instant(100 * MS));
    assert!(prepared(&coordinator.take_effects()).is_empty(), "both are innocent");
}

/// An active job whose members run on machines of their own.
fn spread(size: u32) -> Coordinator {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    for id in 0..size {
        let FromMember::Hello(mut hello) = hello(Some(id), size) else { unreachable!() };
        hello.info.machine = MachineId(id.to_string());
        coordinator.handle_message(10 + u64::from(id), FromMember::Hello(hello), Instant(0));
    }
    for id in 0..size {
        coordinator.handle_message(10 + u64::from(id), FromMember::Linked(Epoch(1)), Instant(0));
    }
    drop(coordinator.take_effects());
    coordinator
}

/// Whoever is paused for long finds the connections of all ended: they have gone on elsewhere.
#[test]
fn connections_that_end_prove_no_death() {
    let mut coordinator = spread(3);
    coordinator.handle_closed(11, Instant(MS));
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [10, 12].map(|to| (to, Epoch(2), vec![1])), "two of three may go on");
    coordinator.handle_closed(12, Instant(MS));
    assert!(prepared(&coordinator.take_effects()).is_empty(), "one of three may not");
    let accusation =
        FromMember::LinkFailed { member: MemberId(2), reason: "closed".into(), end: LinkEnd::Cut };
    say(&mut coordinator, &[10], &accusation, Instant(MS));
    for ms in (100..1000).step_by(100) {
        say(&mut coordinator, &[10], &FromMember::Heartbeat(CallProgress::default()), Instant(ms * MS));
        coordinator.handle_tick(Instant(ms * MS));
    }
    let effects = coordinator.take_effects();
    assert!(verdicts(&effects).is_empty(), "the proof may yet come: {effects:?}");
    coordinator.handle_tick(Instant(1001 * MS));
    let told = verdicts(&coordinator.take_effects());
    assert!(told.contains(&(10, Verdict::NoQuorum { here: 1, of: 3 })), "{told:?}");
}

#[test]
fn the_last_one_goes_on_where_the_others_have_died() {
    let mut coordinator = spread(3);
    coordinator.handle_closed(11, Instant(MS));
    coordinator.handle_closed(12, Instant(MS));
    let effects = effects_when_the_dead_are_found(&mut coordinator);
    assert_eq!(prepared(&effects).last(), Some(&(10, Epoch(3), vec![1, 2])));
    assert!(!coordinator.is_finished());
}

/// One that is given up after a view was armed is a hole in it, and may know it.
#[test]
fn who_is_missing_from_an_armed_view_still_counts_when_that_is_in_effect() {
    let mut coordinator = spread(3);
    let (_, view) = propose(&mut coordinator, &[20], Instant(MS));
    say(&mut coordinator, &[10, 11, 12, 20], &FromMember::Linked(view.epoch), Instant(MS));
    say(&mut coordinator, &[11], &FromMember::Succeeded, Instant(MS));
    say(&mut coordinator, &[10, 12, 20], &report(3), Instant(MS));
    say(&mut coordinator, &[10, 12], &FromMember::Entered(view.epoch), Instant(MS));
    assert_eq!(coordinator.view().epoch, view.epoch);
    drop(coordinator.take_effects());
    say(&mut coordinator, &[20], &FromMember::Succeeded, Instant(MS));
    let told = verdicts(&coordinator.take_effects());
    assert!(matches!(told[..], [(_, Verdict::Deposed(_)), ..]), "half, without the tie-break: {told:?}");
}

/// Of two the host of the coordinator is left, and the other process is found to have ended: while this one was stopped it may have
/// gone on alone, and finished.
#[test]
fn who_ended_while_the_coordinator_was_stopped_may_have_gone_on() {
    let beats = |coordinator: &mut Coordinator, ms: u64| {
        for connection in [10, 11] {
            coordinator.handle_message(
                connection,
                FromMember::Heartbeat(CallProgress::default()),
                Instant(ms * MS),
            );
        }
        coordinator.handle_tick(Instant(ms * MS));
    };
    // Milliseconds that it is stopped, and for which it hears the other after that.
    for (stopped, hears_on, goes_on) in
        [(0, 0, true), (300, 0, true), (5000, 0, false), (5000, 400, false), (5000, 1200, true)]
    {
        let mut coordinator = spread(2);
        (0..10).for_each(|turn| beats(&mut coordinator, 200 * turn));
        let woke = 1800 + stopped;
        (0..=hears_on / 200).for_each(|turn| beats(&mut coordinator, woke + 200 * turn));
        drop(coordinator.take_effects());
        let now = Instant((woke + hears_on + 100) * MS);
        coordinator.handle_closed(11, now);
        let effects = coordinator.take_effects();
        assert!(prepared(&effects).is_empty(), "its end is not proven yet");
        coordinator.handle_ended(PeerId([1; 16]), now);
        let effects = coordinator.take_effects();
        let what = format!("stopped for {stopped} ms, then heard for {hears_on} ms");
        assert_eq!(!prepared(&effects).is_empty(), goes_on, "{what}: {effects:?}");
        let no_quorum =
            |(_, verdict): &(u64, Verdict)| matches!(verdict, Verdict::NoQuorum { here: 1, of: 2 });
        assert_eq!(verdicts(&effects).iter().any(no_quorum), !goes_on, "{what}: {effects:?}");
    }
}
