use super::*;
use crate::PeerId;
use crate::membership::MachineId;
use crate::membership::Rejoin;

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
        Effect::Send(to, ToMember::Prepare { epoch, lost }) => {
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
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "reset".into() };
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
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "reset".into() };
    coordinator.handle_message(10, accuse, Instant(0));
    coordinator.handle_tick(coordinator.next_deadline().unwrap());
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [10, 12].map(|to| (to, Epoch(2), vec![1])));
    // The accused lives, and hears that it is out.
    let told = verdicts(&effects);
    assert!(matches!(&told[..], [(11, Verdict::PeerLost(lost))] if lost.reason == "reset"), "{told:?}");
    assert!(effects.contains(&Effect::Close(11)));
}

#[test]
fn silence_is_loss() {
    let mut coordinator = active(3);
    for ms in (0..1000).step_by(100) {
        let now = Instant(ms * 1_000_000);
        for connection in [10, 12] {
            coordinator.handle_message(connection, FromMember::Heartbeat, now);
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
    let accuse = FromMember::LinkFailed { member: MemberId(1), reason: "closed".into() };
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
        say(&mut coordinator, &[10, 20], &FromMember::Heartbeat, Instant(ms * MS));
        coordinator.handle_tick(Instant(ms * MS));
    }
    say(&mut coordinator, &[10, 20], &FromMember::Heartbeat, due);
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
    let ended = FromMember::LinkFailed { member: MemberId(2), reason: "closed".into() };
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
        lost: Vec::new(),
        epoch: Epoch(1),
        dead: Vec::new(),
        hosts_coordinator: id == 1,
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
    Coordinator::successor(CoordinatorOptions::default())
}

#[test]
fn members_go_on_with_another_coordinator() {
    let mut coordinator = successor();
    for id in [1, 2, 3] {
        assert!(prepared(&coordinator.take_effects()).is_empty());
        coordinator.handle_message(id, rejoin(id as u32, 4, |r| r.dead.push(MemberId(0))), Instant(MS));
    }
    // All are here that live: nobody waits for more.
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [1, 2, 3].map(|to| (to, Epoch(2), vec![0])));
    say(&mut coordinator, &[1, 2, 3], &report(2), Instant(2 * MS));
    assert_eq!(resumed(&coordinator.take_effects()), [1, 2, 3]);
    assert_eq!(
        (coordinator.view().host, coordinator.view().incarnation),
        (Some(MemberId(1)), Incarnation(1))
    );
    assert!(!coordinator.is_finished());
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
        let effects = coordinator.take_effects();
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
    let effects = coordinator.take_effects();
    assert_eq!(prepared(&effects), [1, 2].map(|to| (to, Epoch(3), vec![0, 3])));
    assert!(matches!(&verdicts(&effects)[..], [(3, Verdict::PeerLost(lost))] if lost.member == MemberId(3)));
}

/// One that ran alone is started again at its address, and nobody is lost.
#[test]
fn a_coordinator_that_was_started_again_takes_its_members_back() {
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    let alone = |r: &mut Rejoin| {
        (r.view.host, r.hosts_coordinator) = (None, false);
    };
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
        say(&mut coordinator, &[10, 11], &FromMember::Heartbeat, now);
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
        say(&mut coordinator, &[10], &FromMember::Heartbeat, Instant(ms * MS));
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
