mod round;
mod status;
mod succession;

use super::*;
use crate::PeerId;
use crate::membership::MachineId;
use crate::recovery::{RecoveryPlan, Report, TagReport};

fn hello(rank: Option<u32>, size: u32) -> FromMember {
    FromMember::Hello(Hello {
        version: VERSION,
        rank,
        size: Some(size),
        min_peers: None,
        newcomer: false,
        hosts_coordinator: rank == Some(0),
        info: MemberInfo {
            peer: PeerId([rank.unwrap_or(9) as u8; 16]),
            id: MemberId(0),
            host: format!("host-{rank:?}"),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
            machine: MachineId::default(),
            user: 0,
            pid: 1,
            transports: vec![],
            costs: String::new(),
        },
    })
}

/// A job of `size` members on connections 10, 11, … that is active at time 0.
fn active(size: u32) -> Coordinator {
    active_with(CoordinatorOptions::default(), size)
}

fn active_with(options: CoordinatorOptions, size: u32) -> Coordinator {
    let mut coordinator = Coordinator::new(options);
    for rank in 0..size {
        coordinator.handle_message(10 + u64::from(rank), hello(Some(rank), size), Instant(0));
    }
    for rank in 0..size {
        coordinator.handle_message(10 + u64::from(rank), FromMember::Linked(Epoch(1)), Instant(0));
    }
    let effects = coordinator.take_effects();
    let activated = effects.iter().filter(|e| matches!(e, Effect::Send(_, ToMember::Activate(_))));
    assert_eq!(activated.count(), size as usize);
    coordinator
}

fn verdicts(effects: &[Effect]) -> Vec<(u64, Verdict)> {
    let verdict = |e: &Effect| match e {
        Effect::Send(to, ToMember::Verdict(v)) => Some((*to, v.clone())),
        _ => None,
    };
    effects.iter().filter_map(verdict).collect()
}

/// An impossible rank that comes first must not end the coordinator before the others ask.
#[test]
fn a_job_that_cannot_form_tells_latecomers_why() {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    coordinator.handle_message(1, hello(Some(5), 2), Instant(0));
    coordinator.handle_tick(Instant(0));
    assert!(!coordinator.is_finished());
    drop(coordinator.take_effects());
    coordinator.handle_message(2, hello(Some(0), 2), Instant(1));
    let told = coordinator.take_effects();
    assert!(told.iter().any(|e| matches!(e, Effect::Send(2, ToMember::Refused(t)) if t.contains("rank 5"))));
    let until = coordinator.next_deadline().expect("it lingers");
    coordinator.handle_tick(until);
    assert!(coordinator.is_finished());
}

#[test]
fn ranks_are_given_in_order_of_arrival() {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    for (connection, rank) in [(1, None), (2, Some(0)), (3, None)] {
        let FromMember::Hello(mut hello) = hello(rank, 3) else { unreachable!() };
        hello.info.peer.0[1] = connection as u8;
        coordinator.handle_message(connection, FromMember::Hello(hello), Instant(0));
    }
    let ranks: Vec<(u64, Vec<u8>)> = coordinator
        .take_effects()
        .into_iter()
        .filter_map(|e| match e {
            Effect::Send(to, ToMember::View(view)) => {
                Some((to, view.members.iter().map(|m| m.peer.0[1]).collect::<Vec<_>>()))
            }
            _ => None,
        })
        .collect();
    assert!(ranks.iter().all(|(_, order)| order == &[2, 1, 3]), "{ranks:?}");
}

/// Who was told to go on without whom, and in which epoch.
fn prepared(effects: &[Effect]) -> Vec<(u64, Epoch, Vec<u32>)> {
    let prepare = |effect: &Effect| match effect {
        Effect::Send(to, ToMember::Prepare { epoch, lost, .. }) => {
            Some((*to, *epoch, lost.iter().map(|peer| peer.rank.0).collect()))
        }
        _ => None,
    };
    effects.iter().filter_map(prepare).collect()
}

fn resumed(effects: &[Effect]) -> Vec<u64> {
    let resume = |effect: &Effect| match effect {
        Effect::Send(to, ToMember::Resume { .. }) => Some(*to),
        _ => None,
    };
    effects.iter().filter_map(resume).collect()
}

/// The plans of those who go on.
fn plans(effects: &[Effect]) -> Vec<(u64, RecoveryPlan)> {
    let plan = |effect: &Effect| match effect {
        Effect::Send(to, ToMember::Resume { plan, .. }) => Some((*to, plan.clone())),
        _ => None,
    };
    effects.iter().filter_map(plan).collect()
}

fn report(epoch: u64) -> FromMember {
    FromMember::Report(Report { epoch: Epoch(epoch), ..Report::default() })
}

#[test]
fn the_others_go_on_when_all_have_reported() {
    let mut coordinator = active(4);
    coordinator.handle_closed(12, Instant(5_000_000));
    let effects = coordinator.take_effects();
    let all = [10, 11, 13].map(|to| (to, Epoch(2), vec![2]));
    assert_eq!(prepared(&effects), all);
    for connection in [13, 10] {
        coordinator.handle_message(connection, report(2), Instant(6_000_000));
    }
    assert!(resumed(&coordinator.take_effects()).is_empty(), "one has not reported");
    coordinator.handle_message(11, report(2), Instant(6_000_000));
    assert_eq!(resumed(&coordinator.take_effects()), [10, 11, 13]);
}

#[test]
fn a_loss_on_the_way_starts_over() {
    let mut coordinator = active(4);
    coordinator.handle_closed(12, Instant(5_000_000));
    coordinator.handle_message(10, report(2), Instant(6_000_000));
    coordinator.handle_message(11, report(2), Instant(6_000_000));
    drop(coordinator.take_effects());
    coordinator.handle_closed(13, Instant(7_000_000));
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [10, 11].map(|to| (to, Epoch(3), vec![2, 3])));
    assert!(resumed(&effects).is_empty(), "reports count for their epoch only");
    coordinator.handle_message(10, report(2), Instant(8_000_000));
    coordinator.handle_message(10, report(3), Instant(8_000_000));
    assert!(resumed(&coordinator.take_effects()).is_empty());
    coordinator.handle_message(11, report(3), Instant(8_000_000));
    assert_eq!(resumed(&coordinator.take_effects()), [10, 11]);
}

#[test]
fn who_leaves_instead_of_reporting_is_not_waited_for() {
    let mut coordinator = active(3);
    coordinator.handle_closed(12, Instant(5_000_000));
    coordinator.handle_message(10, report(2), Instant(6_000_000));
    drop(coordinator.take_effects());
    coordinator.handle_message(11, FromMember::Leave, Instant(7_000_000));
    assert_eq!(resumed(&coordinator.take_effects()), [10]);
}

#[test]
fn the_dead_ones_connection_beats_an_accusation() {
    let mut coordinator = active(3);
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "reset".into(), end: LinkEnd::Cut };
    coordinator.handle_message(10, accuse, Instant(0));
    coordinator.handle_tick(Instant(10_000_000));
    assert!(verdicts(&coordinator.take_effects()).is_empty(), "the grace has not passed");
    // Rank 2 died and took its link to rank 1 with it; rank 1 is innocent.
    coordinator.handle_closed(12, Instant(20_000_000));
    assert_eq!(prepared(&coordinator.take_effects())[0].2, [2]);
}

#[test]
fn an_accusation_stands_after_the_grace() {
    let mut coordinator = active(3);
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "reset".into(), end: LinkEnd::Cut };
    coordinator.handle_message(10, accuse, Instant(0));
    coordinator.handle_tick(coordinator.next_deadline().unwrap());
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [10, 12].map(|to| (to, Epoch(2), vec![1])));
    // The accused lives, and hears that it is out.
    let told = verdicts(&effects);
    assert!(matches!(&told[..], [(11, Verdict::PeerLost(lost))] if lost.reason == "reset"), "{told:?}");
    assert!(effects.contains(&Effect::Close(11)));
}

fn link_failed(id: u32, silent: bool) -> FromMember {
    let end = if silent { LinkEnd::Silence } else { LinkEnd::Cut };
    FromMember::LinkFailed { member: MemberId(id), reason: "nothing comes".into(), end }
}

/// Lets time pass while all live; who was lost, and when.
fn losses_until(coordinator: &mut Coordinator, members: u64, end: u64) -> Vec<(u64, u32)> {
    let mut lost = Vec::new();
    for at in (0..=end).step_by(100) {
        for connection in 10..10 + members {
            let beat = FromMember::Heartbeat(CallProgress::default());
            coordinator.handle_message(connection, beat, Instant(at * 1_000_000));
        }
        coordinator.handle_tick(Instant(at * 1_000_000));
        for (connection, verdict) in verdicts(&coordinator.take_effects()) {
            assert!(matches!(verdict, Verdict::PeerLost(_)), "{verdict:?}");
            lost.push((at, connection as u32 - 10));
        }
    }
    lost
}

#[test]
fn who_lacks_most_links_goes_and_takes_nobody_along() {
    let mut coordinator = active(4);
    // What the one that is cut off finds arrives first, and one of the others finds it too, of three.
    for id in [3, 2, 0] {
        coordinator.handle_message(11, link_failed(id, true), Instant(0));
    }
    coordinator.handle_message(12, link_failed(1, true), Instant(0));
    assert_eq!(coordinator.next_deadline().map(|at| at.0 <= 2_000_000_000), Some(true));
    assert_eq!(losses_until(&mut coordinator, 4, 5000), [(2000, 1)]);
}

/// It works one way still: the end of the link arrives where it was not given up.
#[test]
fn the_end_of_a_link_that_was_given_up_is_no_news() {
    let mut coordinator = active(4);
    coordinator.handle_message(12, link_failed(1, true), Instant(0));
    coordinator.handle_message(11, link_failed(2, false), Instant(0));
    // Or what it says of that arrives first.
    coordinator.handle_message(11, link_failed(3, false), Instant(0));
    coordinator.handle_message(13, link_failed(1, true), Instant(0));
    assert_eq!(losses_until(&mut coordinator, 4, 5000), [(2000, 1)]);
}

/// Two machines with two members each that do not reach each other, whoever says so first.
#[test]
fn of_two_halves_that_of_the_coordinator_goes_on() {
    let pairs = [(0, 2), (0, 3), (1, 2), (1, 3)];
    for order in 0..24 {
        for backwards in 0..16 {
            let mut coordinator = active(4);
            coordinator.view.host = Some(MemberId(0));
            let mut left: Vec<usize> = (0..4).collect();
            for divisor in [6, 2, 1, 1] {
                let at = left.remove(order / divisor % left.len());
                let (one, other) = pairs[at];
                let (one, other) = if backwards >> at & 1 == 1 { (other, one) } else { (one, other) };
                coordinator.handle_message(10 + u64::from(one), link_failed(other, true), Instant(0));
            }
            let lost: BTreeSet<u32> =
                losses_until(&mut coordinator, 4, 3000).into_iter().map(|(_, id)| id).collect();
            assert_eq!(lost, BTreeSet::from([2, 3]), "order {order}, directions {backwards:04b}");
        }
    }
}

/// All are heard, but the host's links carry nothing: the others look for another coordinator, as if this one had ended.
#[test]
fn a_coordinator_whose_host_lacks_too_many_links_steps_down() {
    let mut coordinator = active(3);
    coordinator.handle_message(11, link_failed(0, true), Instant(0));
    coordinator.handle_message(12, link_failed(0, true), Instant(0));
    assert_eq!(losses_until(&mut coordinator, 3, 1900), []);
    coordinator.handle_tick(Instant(2_000_000_000));
    let effects = coordinator.take_effects();
    assert!(matches!(&verdicts(&effects)[..], [(10, Verdict::PeerLost(lost))] if lost.member == MemberId(0)));
    assert!([10, 11, 12].iter().all(|&all| effects.contains(&Effect::Close(all))), "{effects:?}");
    assert_eq!(coordinator.status(Instant(2_000_000_000)).state, "stepped_down");
    coordinator.handle_message(13, hello(Some(3), 4), Instant(2_000_000_000));
    assert_eq!(coordinator.take_effects(), [Effect::Send(13, ToMember::TryLater), Effect::Close(13)]);
    coordinator.handle_tick(coordinator.next_deadline().expect("others may ask for it"));
    assert!(coordinator.is_finished());
}

#[test]
fn silence_is_loss() {
    let mut coordinator = active(3);
    for ms in (0..1000).step_by(100) {
        let now = Instant(ms * 1_000_000);
        for connection in [10, 12] {
            coordinator.handle_message(connection, FromMember::Heartbeat(CallProgress::default()), now);
        }
        coordinator.handle_tick(now);
        assert!(verdicts(&coordinator.take_effects()).is_empty());
    }
    coordinator.handle_tick(Instant(1_000_000_000));
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects)[0].2, [1]);
    assert!(matches!(&verdicts(&effects)[..], [(11, Verdict::PeerLost(_))]));
}

#[test]
fn a_pause_of_the_coordinator_is_nobodys_fault() {
    let mut coordinator = active(3);
    coordinator.handle_tick(Instant(100_000_000));
    coordinator.handle_tick(Instant(5_000_000_000));
    let effects = coordinator.take_effects();
    assert!(verdicts(&effects).is_empty(), "{effects:?}");
    let beats = effects.iter().filter(|e| matches!(e, Effect::Send(_, ToMember::Heartbeat)));
    assert_eq!(beats.count(), 3);
}

#[test]
fn who_leaves_in_order_is_not_lost() {
    let mut coordinator = active(2);
    coordinator.handle_message(11, FromMember::Leave, Instant(0));
    coordinator.handle_closed(11, Instant(1));
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "closed".into(), end: LinkEnd::Cut };
    coordinator.handle_message(10, accuse, Instant(2));
    coordinator.handle_tick(Instant(900_000_000));
    assert!(verdicts(&coordinator.take_effects()).is_empty());
    assert!(!coordinator.is_finished());
    coordinator.handle_message(10, FromMember::Leave, Instant(3));
    assert!(coordinator.is_finished());
}

#[test]
fn impossible_hellos_fail_everybody_at_once() {
    for (second, word) in [
        (hello(Some(0), 3), "two processes"),
        (hello(Some(1), 4), "expects 4"),
        (hello(Some(3), 3), "0 to 2"),
        (hello(Some(1), 0), "at least one"),
    ] {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        coordinator.handle_message(1, hello(Some(0), 3), Instant(0));
        coordinator.handle_message(2, second, Instant(0));
        let effects = coordinator.take_effects();
        let refused = effects
            .iter()
            .any(|e| matches!(e, Effect::Send(2, ToMember::Refused(text)) if text.contains(word)));
        assert!(refused, "{effects:?}");
        assert!(matches!(&verdicts(&effects)[..], [(1, Verdict::Join(text))] if text.contains(word)));
    }
}

/// Also the number that a job of unknown size waits for comes from a member.
#[test]
fn a_job_of_nobody_is_refused() {
    let FromMember::Hello(asks) = hello(None, 0) else { unreachable!() };
    for hello in [asks.clone(), Hello { size: None, min_peers: Some(0), ..asks }] {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        coordinator.handle_message(1, FromMember::Hello(hello), Instant(0));
        let effects = coordinator.take_effects();
        let told =
            |e: &Effect| matches!(e, Effect::Send(1, ToMember::Refused(text)) if text.contains("0 ranks"));
        assert!(effects.iter().any(told), "{effects:?}");
    }
    // A coordinator that was told so itself refuses ranks in words too.
    let options = CoordinatorOptions { size: Some(0), ..CoordinatorOptions::default() };
    let mut coordinator = Coordinator::new(options);
    let FromMember::Hello(asks) = hello(Some(0), 2) else { unreachable!() };
    coordinator.handle_message(1, FromMember::Hello(Hello { size: None, ..asks }), Instant(0));
    let refused = |e: &Effect| matches!(e, Effect::Send(1, ToMember::Refused(_)));
    assert!(coordinator.take_effects().iter().any(refused));
}

const MS: u64 = 1_000_000;

/// A process that asks to join a job that runs.
fn newcomer(name: u8) -> FromMember {
    let FromMember::Hello(hello) = hello(None, 0) else { unreachable!() };
    let info = MemberInfo { peer: PeerId([name; 16]), ..hello.info };
    FromMember::Hello(Hello { size: None, info, ..hello })
}

/// The view that was proposed last, and to whom.
fn proposed(effects: &[Effect]) -> Option<(Vec<u64>, View)> {
    let view = |e: &Effect| match e {
        Effect::Send(to, ToMember::View(view)) => Some((*to, View::clone(view))),
        _ => None,
    };
    let all: Vec<(u64, View)> = effects.iter().filter_map(view).collect();
    let view = all.last()?.1.clone();
    Some((all.into_iter().filter(|(_, v)| *v == view).map(|(to, _)| to).collect(), view))
}

fn told(effects: &[Effect], wanted: &ToMember) -> Vec<u64> {
    let is_wanted = |e: &Effect| matches!(e, Effect::Send(_, message) if message == wanted);
    let to = |e: &Effect| if let Effect::Send(to, _) = e { *to } else { 0 };
    effects.iter().filter(|e| is_wanted(e)).map(to).collect()
}

fn say(coordinator: &mut Coordinator, connections: &[u64], message: &FromMember, now: Instant) {
    connections.iter().for_each(|&c| coordinator.handle_message(c, message.clone(), now));
}

/// Proposes a view to members 10, 11, … and the newcomers.
fn propose(coordinator: &mut Coordinator, newcomers: &[u64], now: Instant) -> (Vec<u64>, View) {
    drop(coordinator.take_effects());
    for &connection in newcomers {
        coordinator.handle_message(connection, newcomer(connection as u8), now);
    }
    let due = coordinator.next_deadline().expect("newcomers wait");
    coordinator.handle_tick(due);
    proposed(&coordinator.take_effects()).expect("a view")
}

#[test]
fn newcomers_join_at_a_safe_point() {
    let mut coordinator = active(2);
    let (to, view) = propose(&mut coordinator, &[20, 21], Instant(MS));
    assert_eq!(to, [10, 11, 20, 21], "those who come together get one view");
    assert_eq!(view.members.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let linked = FromMember::Linked(view.epoch);
    say(&mut coordinator, &[20, 10, 21], &linked, Instant(2 * MS));
    assert!(told(&coordinator.take_effects(), &ToMember::Armed(view.epoch)).is_empty());
    say(&mut coordinator, &[11], &linked, Instant(2 * MS));
    assert_eq!(told(&coordinator.take_effects(), &ToMember::Armed(view.epoch)), [10, 11, 20, 21]);
    let entered = FromMember::Entered(view.epoch);
    say(&mut coordinator, &[11], &entered, Instant(3 * MS));
    assert_eq!(told(&coordinator.take_effects(), &ToMember::Activate(view.epoch)), [20, 21]);
    assert_eq!(coordinator.view().members.len(), 2, "one has not passed it");
    say(&mut coordinator, &[10], &entered, Instant(3 * MS));
    assert!(told(&coordinator.take_effects(), &ToMember::Activate(view.epoch)).is_empty());
    assert_eq!(*coordinator.view(), view);
}

#[test]
fn a_newcomer_that_dies_while_it_is_linked_disturbs_nobody() {
    let mut coordinator = active(2);
    let (_, view) = propose(&mut coordinator, &[20, 21], Instant(MS));
    coordinator.handle_closed(20, Instant(2 * MS));
    let due = coordinator.next_deadline().unwrap();
    coordinator.handle_tick(due);
    let effects = coordinator.take_effects();
    assert!(prepared(&effects).is_empty());
    let (to, again) = proposed(&effects).expect("the other one still wants to join");
    assert_eq!((to, again.members.len()), (vec![10, 11, 21], 3));
    let numbers = |view: &View| view.members.iter().map(|m| (m.peer.0[0], m.id.0)).collect::<Vec<_>>();
    assert_eq!(numbers(&view), [(0, 0), (1, 1), (20, 2), (21, 3)]);
    assert_eq!(numbers(&again), [(0, 0), (1, 1), (21, 3)], "links to it may have been made with this number");
    assert!(again.epoch > view.epoch);
    say(&mut coordinator, &[10, 11, 21], &FromMember::Linked(view.epoch), Instant(3 * MS));
    assert!(coordinator.take_effects().is_empty(), "that view is void");
}

#[test]
fn of_two_that_cannot_be_linked_the_newcomer_goes() {
    for (reporter, other) in [(11, MemberId(2)), (20, MemberId(1))] {
        let mut coordinator = active(2);
        let (_, view) = propose(&mut coordinator, &[20], Instant(MS));
        let unlinked = FromMember::Unlinked { epoch: view.epoch, member: other, reason: "a firewall".into() };
        say(&mut coordinator, &[reporter], &unlinked, Instant(2 * MS));
        let effects = coordinator.take_effects();
        let refused =
            |e: &Effect| matches!(e, Effect::Send(20, ToMember::Refused(t)) if t.contains("firewall"));
        assert!(effects.iter().any(refused), "{effects:?}");
        assert!(coordinator.next_change_of_view().is_none_or(|due| {
            coordinator.handle_tick(due);
            proposed(&coordinator.take_effects()).is_none()
        }));
    }
}

#[test]
fn a_newcomer_without_links_is_given_up() {
    let mut coordinator = active(1);
    let (_, view) = propose(&mut coordinator, &[20], Instant(MS));
    say(&mut coordinator, &[10], &FromMember::Linked(view.epoch), Instant(2 * MS));
    let due = coordinator.next_change_of_view().unwrap();
    for ms in (0..due.0 / MS).step_by(100) {
        say(&mut coordinator, &[10, 20], &FromMember::Heartbeat(CallProgress::default()), Instant(ms * MS));
        coordinator.handle_tick(Instant(ms * MS));
    }
    say(&mut coordinator, &[10, 20], &FromMember::Heartbeat(CallProgress::default()), due);
    drop(coordinator.take_effects());
    coordinator.handle_tick(due);
    let effects = coordinator.take_effects();
    assert!(effects.iter().any(|e| matches!(e, Effect::Send(20, ToMember::Refused(_)))), "{effects:?}");
}

#[test]
fn an_armed_view_outlives_a_loss() {
    let mut coordinator = active(3);
    let (_, view) = propose(&mut coordinator, &[20], Instant(MS));
    say(&mut coordinator, &[10, 11, 12, 20], &FromMember::Linked(view.epoch), Instant(2 * MS));
    drop(coordinator.take_effects());
    coordinator.handle_closed(12, Instant(3 * MS));
    let effects = coordinator.take_effects();
    let epoch = Epoch(view.epoch.0 + 1);
    assert_eq!(prepared(&effects), [10, 11, 20].map(|to| (to, epoch, vec![2])), "the newcomer reports too");
    say(&mut coordinator, &[10, 11, 20], &report(epoch.0), Instant(4 * MS));
    assert_eq!(resumed(&coordinator.take_effects()), [10, 11, 20]);
    say(&mut coordinator, &[10, 11], &FromMember::Entered(view.epoch), Instant(5 * MS));
    let effects = coordinator.take_effects();
    assert_eq!(told(&effects, &ToMember::Activate(view.epoch)), [20]);
    // With it in effect, one without the hole follows at once.
    let shrink = ToMember::Shrink(Epoch(epoch.0 + 1));
    assert_eq!(told(&effects, &shrink), [10, 11, 20]);
    say(&mut coordinator, &[10, 11, 20], &FromMember::Entered(Epoch(epoch.0 + 1)), Instant(6 * MS));
    assert_eq!(coordinator.view().members.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn a_loss_makes_a_view_without_the_lost_unless_newcomers_bring_one() {
    let mut coordinator = active(3);
    coordinator.handle_closed(11, Instant(MS));
    drop(coordinator.take_effects());
    say(&mut coordinator, &[10, 12], &report(2), Instant(MS));
    let shrinks = |effects: &[Effect]| {
        let shrink = |e: &Effect| match e {
            Effect::Send(_, ToMember::Resume { shrink, .. }) => Some(*shrink),
            _ => None,
        };
        effects.iter().filter_map(shrink).collect::<Vec<_>>()
    };
    assert_eq!(shrinks(&coordinator.take_effects()), [Some(Epoch(3)); 2]);

    let mut coordinator = active(3);
    let (_, view) = propose(&mut coordinator, &[20], Instant(MS));
    coordinator.handle_closed(11, Instant(2 * MS));
    assert_eq!(prepared(&coordinator.take_effects()).len(), 2, "the newcomer has nothing to report");
    say(&mut coordinator, &[10, 12], &report(view.epoch.0 + 1), Instant(3 * MS));
    assert_eq!(shrinks(&coordinator.take_effects()), [None; 2]);
    coordinator.handle_tick(coordinator.next_change_of_view().unwrap());
    let (to, view) = proposed(&coordinator.take_effects()).expect("with the newcomer, without the lost");
    assert_eq!(to, [10, 12, 20]);
    assert_eq!(view.members.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 2, 3], "1 may still be in use");
}

#[test]
fn the_number_of_one_who_is_gone_is_given_again_a_generation_later() {
    let mut coordinator = active(2);
    coordinator.handle_closed(11, Instant(MS));
    say(&mut coordinator, &[10], &report(2), Instant(MS));
    say(&mut coordinator, &[10], &FromMember::Entered(Epoch(3)), Instant(MS));
    let (_, view) = propose(&mut coordinator, &[20], Instant(2 * MS));
    assert_eq!(view.members.iter().map(|m| m.id.0).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn who_has_left_is_lost_only_where_an_op_misses_it() {
    let mut coordinator = active(3);
    coordinator.handle_message(12, FromMember::Leave, Instant(0));
    coordinator.handle_closed(12, Instant(1));
    drop(coordinator.take_effects());
    let reason = "rank 2 left the group before all_reduce #5".to_owned();
    let ended = FromMember::LinkFailed { member: MemberId(2), reason: "closed".into(), end: LinkEnd::Cut };
    say(&mut coordinator, &[10, 11], &ended, Instant(2));
    coordinator.handle_tick(Instant(900 * MS));
    assert!(prepared(&coordinator.take_effects()).is_empty(), "that its links end is no news");
    let missed = FromMember::Missed { member: MemberId(2), reason };
    say(&mut coordinator, &[10, 11], &missed, Instant(2));
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects).len(), 2, "once: {effects:?}");
    assert_eq!(prepared(&effects)[0].2, [2]);
}

#[test]
fn who_may_not_come() {
    let refused = |options: CoordinatorOptions, hello: FromMember, word: &str| {
        let mut coordinator = active_with(options, 2);
        coordinator.handle_message(30, hello, Instant(MS));
        let effects = coordinator.take_effects();
        let fits = |e: &Effect| matches!(e, Effect::Send(30, ToMember::Refused(t)) if t.contains(word));
        assert!(effects.iter().any(fits), "{word}: {effects:?}");
    };
    let options = CoordinatorOptions::default;
    refused(CoordinatorOptions { shrink_only: true, ..options() }, newcomer(1), "only shrinks");
    refused(CoordinatorOptions { max_peers: Some(2), ..options() }, newcomer(1), "no more than 2");
    refused(options(), hello(None, 2), "one process too many");
    let FromMember::Hello(twin) = newcomer(1) else { unreachable!() };
    refused(options(), FromMember::Hello(Hello { rank: Some(1), ..twin }), "claim rank 1");
}

/// Hellos at once are taken into one view; what that costs grows with their number.
#[test]
fn many_newcomers_come_in_one_view() {
    let mut coordinator = active(2);
    let newcomers: Vec<u64> = (100..1100).collect();
    let (to, view) = propose(&mut coordinator, &newcomers, Instant(MS));
    assert_eq!((to.len(), view.members.len()), (1002, 1002));
}

/// Says that member `id` cannot be reached, and lets the others go on without it.
fn give_up(coordinator: &mut Coordinator, others: &[u64], id: MemberId, now: Instant) -> Instant {
    let failed = FromMember::LinkFailed { member: id, reason: "nothing came".into(), end: LinkEnd::Cut };
    coordinator.handle_message(others[0], failed, now);
    let judged = now.after(CoordinatorOptions::default().grace);
    say(coordinator, others, &FromMember::Heartbeat(CallProgress::default()), judged);
    coordinator.handle_tick(judged);
    let epoch = prepared(&coordinator.take_effects())[0].1.0;
    go_on_without(coordinator, others, epoch, judged);
    judged
}

/// All report, and pass the safe point behind which only they are left.
fn go_on_without(coordinator: &mut Coordinator, others: &[u64], epoch: u64, now: Instant) {
    say(coordinator, others, &report(epoch), now);
    let shrunk = coordinator.take_effects().iter().find_map(|effect| match effect {
        Effect::Send(_, ToMember::Resume { shrink, .. }) => *shrink,
        _ => None,
    });
    say(coordinator, others, &FromMember::Entered(shrunk.expect("a view without it")), now);
    drop(coordinator.take_effects());
}

/// Time passes until a view is proposed.
fn await_view(coordinator: &mut Coordinator, members: &[u64], now: &mut Instant) -> View {
    let began = *now;
    loop {
        assert!(now.since(began) < Duration::from_secs(60), "no view comes");
        *now = coordinator.next_deadline().expect("something is to come");
        say(coordinator, members, &FromMember::Heartbeat(CallProgress::default()), *now);
        coordinator.handle_tick(*now);
        if let Some((_, view)) = proposed(&coordinator.take_effects()) {
            return view;
        }
    }
}

/// A process that lives, is given up, and comes back again and again waits longer each time; what it waits for does not keep
/// others from coming.
#[test]
fn who_flaps_waits() {
    let mut coordinator = active(3);
    let mut now = Instant(0);
    let mut id = MemberId(2);
    let mut waits = Vec::new();
    for round in 0..5u8 {
        now = give_up(&mut coordinator, &[10, 11], id, now);
        let connection = 20 + u64::from(round);
        coordinator.handle_message(connection, newcomer(connection as u8), now);
        let came = now;
        let view = await_view(&mut coordinator, &[10, 11], &mut now);
        waits.push(now.since(came).as_secs_f64());
        id = view.members.last().expect("the newcomer").id;
        say(&mut coordinator, &[10, 11, connection], &FromMember::Linked(view.epoch), now);
        say(&mut coordinator, &[10, 11, connection], &FromMember::Entered(view.epoch), now);
        assert_eq!(coordinator.view().members.len(), 3);
        drop(coordinator.take_effects());
    }
    assert!(waits[0] < 0.1, "{waits:?}");
    for (at, longest) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)] {
        assert!(waits[at] > 0.7 * longest && waits[at] < longest + 0.1, "{waits:?}");
    }
}

/// One of another machine whose process had ended does not flap, however often that happens.
#[test]
fn who_crashes_does_not_flap() {
    let mut coordinator = active(2);
    for round in 0..5u8 {
        let mut now = Instant(u64::from(round) * 1000 * MS);
        let connection = 20 + u64::from(round);
        let FromMember::Hello(mut hello) = newcomer(connection as u8) else { unreachable!() };
        hello.info.machine = MachineId("another".into());
        let peer = hello.info.peer;
        coordinator.handle_message(connection, FromMember::Hello(hello), now);
        let came = now;
        let view = await_view(&mut coordinator, &[10, 11], &mut now);
        assert!(now.since(came) < Duration::from_millis(100), "it waits for nothing");
        let all = [10, 11, connection];
        say(&mut coordinator, &all, &FromMember::Linked(view.epoch), now);
        say(&mut coordinator, &all, &FromMember::Entered(view.epoch), now);
        drop(coordinator.take_effects());
        coordinator.handle_closed(connection, now);
        let effects = coordinator.take_effects();
        assert!(effects.iter().any(|e| matches!(e, Effect::Probe(info) if info.peer == peer)), "{effects:?}");
        coordinator.handle_ended(peer, now);
        let epoch = coordinator.epoch.0;
        go_on_without(&mut coordinator, &[10, 11], epoch, now);
    }
}

/// A call of the job that begins.
fn call(seq: u64) -> crate::OpId {
    crate::Formation { group: crate::GroupId(0), generation: crate::Generation(0) }
        .op(crate::Tag(0), crate::Seq(seq))
}

/// A member that has started so many calls, and has returned from so many.
fn report_of(epoch: u64, started: u64, returned: u64) -> FromMember {
    let (formation, tag) = (call(0).formation(), call(0).tag);
    let (started, returned) = (crate::Seq(started), crate::Seq(returned));
    let tag = TagReport { formation, tag, started, returned, ..TagReport::default() };
    let (epoch, groups) = (Epoch(epoch), vec![formation]);
    FromMember::Report(Report { epoch, groups, tags: vec![tag], ..Report::default() })
}

const WAITED: Duration = Duration::from_millis(3200);
