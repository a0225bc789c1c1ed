//! The host of the coordinator is lost when it has told some that the job has ended, and not the others.

use ronde::{CallOptions, Config, Group, Outcome, ReduceOp, Result, Tag};
use ronde_core::failpoint::{Point, set_hook, set_telling_hook};
use ronde_core::membership::ToMember;
use ronde_multiprocess::{is_child, launch, wait_all};
use rustix::process::{Signal, getpid, kill_process};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const RANKS: usize = 3;
/// Ends the job once it has returned from the last call.
const ENDS: u32 = 1;
/// Has given its part to that call by then, and taken nothing of others.
const LAST: u32 = RANKS as u32 - 1;
const LAST_CALL: Tag = Tag(7);
/// Members are told things in the order in which they came.
const COMES_LATER: Duration = Duration::from_millis(300);
/// Until the job ends, and the members are asked how far they are.
const TAKES_LATER: Duration = Duration::from_millis(500);

fn add_up(group: &Group, tag: Tag) -> Result<Outcome> {
    let mut data = [group.rank() + 1, 0, 1 << group.rank()];
    let options = CallOptions { tag, ..CallOptions::default() };
    let outcome = group.all_reduce_with(&mut data, ReduceOp::Sum, &options)?;
    assert_eq!(data, [6, 0, 7]);
    Ok(outcome)
}

#[test]
fn rank_of_a_job_that_ends() {
    if !is_child() {
        return;
    }
    let first_rank: u32 = std::env::var("RONDE_RANK").expect("set by the parent").parse().expect("a rank");
    if first_rank == LAST {
        std::thread::sleep(COMES_LATER);
        let sent = AtomicUsize::new(0);
        set_hook(move |reached| {
            let sends = reached.op.tag == LAST_CALL && reached.point == Point::Sent;
            if sends && sent.fetch_add(1, Ordering::Relaxed) + 2 == RANKS {
                std::thread::sleep(TAKES_LATER);
            }
        });
    }
    let loss = std::env::var("RONDE_TEST_LOSS").expect("set by the parent");
    let told = AtomicUsize::new(0);
    set_telling_hook(move |message| {
        let ends =
            first_rank == 0 && matches!(message, ToMember::Resume { plan, .. } if plan.ending.is_some());
        if ends && told.fetch_add(1, Ordering::Relaxed) + 2 == RANKS {
            let signal = if loss == "killed" { Signal::KILL } else { Signal::STOP };
            kill_process(getpid(), signal).expect("a signal to oneself");
            // This thread may be the last one that the signal reaches.
            loop {
                std::thread::park();
            }
        }
    });
    let group = Config::from_env().and_then(|config| config.join()).expect("join");
    let _ = add_up(&group, Tag::default()).expect("nothing is wrong");
    let last = add_up(&group, LAST_CALL).expect("one has returned from it");
    match group.rank() {
        ENDS => group.abort("enough"),
        LAST => assert!(last.interruptions > 0, "it was not interrupted"),
        _ => {}
    }
    let error = add_up(&group, Tag::default()).expect_err("the job has ended").to_string();
    assert!(error.contains("enough"), "{error}");
    println!("\nENDED");
}

/// What was returned on one is returned on all, however the last of them hears that the job is over.
#[test]
fn the_host_is_lost_while_it_tells_of_the_end() {
    if is_child() {
        return;
    }
    let cases = [("tcp", "killed"), ("shm", "killed"), ("tcp", "stopped"), ("shm", "stopped")];
    std::thread::scope(|scope| {
        for (transports, loss) in cases {
            scope.spawn(move || lose_the_host(transports, loss));
        }
    });
}

fn lose_the_host(transports: &str, loss: &str) {
    let variables = [("RONDE_TRANSPORTS", transports), ("RONDE_TEST_LOSS", loss)];
    let mut processes = launch("ending::rank_of_a_job_that_ends", RANKS, &variables);
    let host = processes.remove(0);
    let ended = wait_all(processes, Duration::from_secs(30));
    wait_all(vec![host], Duration::ZERO);
    for rank in &ended {
        let is_right = rank.ok && rank.output.contains("ENDED");
        assert!(is_right, "{transports}, {loss}, rank {}: {}", rank.rank, rank.output);
    }
}
