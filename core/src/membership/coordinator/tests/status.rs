//! What a coordinator says of its job.

use super::*;

/// How a member is in its calls: so many have ended, the last that it made, the first that is open.
fn progress(
    ended: u64,
    last: (u64, crate::Collective),
    open: Option<(u64, crate::Collective)>,
) -> CallProgress {
    let open = open.map(|(seq, kind)| (call(seq), kind, WAITED));
    CallProgress { ended, last: Some((call(last.0), last.1)), open }
}

/// Rank 0 has waited too long in all_reduce for these; what all others are told.
fn told_of_a_timeout(coordinator: &mut Coordinator, seq: u64, missing: u32, others: &[u32]) -> Vec<String> {
    let timeout = FromMember::Timeout {
        op: call(seq),
        collective: crate::Collective::AllReduce,
        waited: WAITED,
        culprits: format!("nothing has come from rank {missing}"),
        missing: vec![MemberId(missing)],
        others: others.iter().copied().map(MemberId).collect(),
        strict: false,
    };
    coordinator.handle_message(10, timeout, Instant(2 * MS));
    for (connection, epoch, _) in prepared(&coordinator.take_effects()) {
        coordinator.handle_message(connection, report_of(epoch.0, seq + 1, seq), Instant(2 * MS));
    }
    let told = plans(&coordinator.take_effects());
    let verdicts = told.iter().map(|(_, plan)| plan.abort(&call(seq)).expect("it ends").clone());
    verdicts.map(|verdict| crate::Error::from(verdict).to_string()).collect()
}

/// The error of a call that misses its deadline tells a process that never made it from one behind a silent link.
#[test]
fn heartbeats_tell_where_members_are() {
    use crate::Collective::{AllReduce, Barrier, Recv};
    for (progress, words) in [
        (
            progress(120, (120, AllReduce), Some((120, AllReduce))),
            "rank 2 waits in this call too, for 3.2 s: its arguments may differ (root, counts), or look at the network \
             between",
        ),
        (
            progress(120, (120, Barrier), Some((120, Barrier))),
            "rank 2 waits in barrier of the same number, for 3.2 s: the calls differ",
        ),
        (
            progress(121, (121, Barrier), Some((121, Barrier))),
            "rank 2 has returned from it and is in barrier #121 (tag 0) for 3.2 s: its arguments may differ (root, counts)",
        ),
        (
            progress(121, (120, AllReduce), None),
            "rank 2 has returned from it and is in no call after all_reduce #120 (tag 0): its arguments may differ \
             (root, counts)",
        ),
        // The number of a message says nothing.
        (progress(121, (120, Recv), None), "rank 2 lives and is in no call after recv #120 (tag 0)"),
        (
            progress(119, (120, AllReduce), Some((119, AllReduce))),
            "rank 2 has made this call and is in all_reduce #119 (tag 0) for 3.2 s",
        ),
        (
            progress(119, (119, AllReduce), Some((119, AllReduce))),
            "rank 2 lives and is in all_reduce #119 (tag 0) for 3.2 s",
        ),
        (
            progress(120, (119, AllReduce), None),
            "rank 2 lives and is in no call after all_reduce #119 (tag 0)",
        ),
        (CallProgress::default(), "rank 2 lives and is in no call, and has made none yet"),
    ] {
        let mut coordinator = active(3);
        coordinator.handle_message(12, FromMember::Heartbeat(progress), Instant(MS));
        let member = &coordinator.status(Instant(MS)).members[2];
        assert_eq!(member.calls_ended, Some(progress.ended));
        let told = told_of_a_timeout(&mut coordinator, 120, 2, &[1]);
        assert_eq!(told.len(), 3);
        for text in told {
            assert!(
                text.contains("nothing has come from rank 2. By their heartbeats, ") && text.ends_with(words),
                "{text}"
            );
        }
    }
}

/// Of a ring the neighbours wait too: named first is who never came, though nobody who reports waits for it.
#[test]
fn who_never_made_a_call_is_named_before_those_who_wait_in_it() {
    use crate::Collective::AllReduce;
    let mut coordinator = active(4);
    let waits = progress(7, (7, AllReduce), Some((7, AllReduce)));
    let away = progress(7, (6, AllReduce), None);
    for (connection, progress) in [(11, waits), (12, waits), (13, away)] {
        coordinator.handle_message(connection, FromMember::Heartbeat(progress), Instant(MS));
    }
    let told = told_of_a_timeout(&mut coordinator, 7, 1, &[2, 3]);
    assert_eq!(told.len(), 4);
    for text in told {
        let absent = text.find("rank 3 lives and is in no call");
        let neighbour = text.find("rank 1 waits in this call too");
        assert!(absent.is_some() && absent < neighbour, "{text}");
    }
}

#[test]
fn suspicions_links_and_last_calls_are_told() {
    use crate::Collective::AllReduce;
    let mut coordinator = active(3);
    let progress = progress(7, (7, AllReduce), None);
    coordinator.handle_message(11, FromMember::Heartbeat(progress), Instant(MS));
    let calm = coordinator.status(Instant(MS));
    assert!(calm.suspicions.is_empty() && calm.members.iter().all(|member| member.lacks_links_to.is_empty()));
    let last = calm.members[1].last_call.clone().expect("it has told");
    assert_eq!((last.collective.as_str(), last.group, last.tag, last.seq), ("all_reduce", 0, 0, 7));
    coordinator.handle_message(10, link_failed(2, true), Instant(2 * MS));
    let status = coordinator.status(Instant(3 * MS));
    let [Suspicion { member, by, reason, judged_in_ms }] = &status.suspicions[..] else {
        panic!("{:?}", status.suspicions)
    };
    assert_eq!((*member, *by, reason.as_str()), (MemberId(2), Some(MemberId(0)), "nothing comes"));
    assert!(judged_in_ms.is_some_and(|ms| ms > 0), "{judged_in_ms:?}");
    let lacks: Vec<&[u32]> = status.members.iter().map(|member| &member.lacks_links_to[..]).collect();
    assert_eq!(lacks, [&[2][..], &[], &[0]]);
}
