//! Processes join a job that runs, and leave it, at safe points. Ranks are threads here.

use ronde::{CallOptions, Config, Error, Group, ReduceOp, Tag, Update};
use ronde_multiprocess::{free_port, is_child, spawn, wait_all};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Long enough for anything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);

fn elastic(port: u16, transports: &str) -> Config {
    let config = Config::new().coordinator(format!("127.0.0.1:{port}")).min_peers(1).timeout(PATIENCE);
    config.connect_timeout(PATIENCE).transports(transports.split(',')).unwrap()
}

/// The sum of what every rank brings, checked.
fn work(group: &Group) {
    for count in [1usize, 1000, 300_000] {
        let mut data = vec![u64::from(group.rank()) + 1; count];
        let outcome = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        let here = (0..group.size()).filter(|rank| !outcome.absent.contains(rank));
        let expected: u64 = here.map(|rank| u64::from(rank) + 1).sum();
        assert!(data.iter().all(|&x| x == expected), "{count} by {} of {}", group.rank(), group.size());
    }
}

/// A part of all: newcomers count splits like those who made some before.
fn split(group: &Group) {
    let part = group.split(Some(0), -(group.rank() as i32)).unwrap().unwrap();
    assert_eq!(part.rank(), group.size() - 1 - group.rank());
    work(&part);
}

/// Calls `update` until it changes something, working meanwhile.
fn await_change(group: &Group) -> Update {
    let deadline = Instant::now() + PATIENCE;
    loop {
        work(group);
        let update = group.update().unwrap();
        if update.changed {
            return update;
        }
        assert!(Instant::now() < deadline, "nothing changed");
    }
}

#[test]
fn a_job_grows_from_one() {
    for transports in ["shm,tcp", "tcp"] {
        let port = free_port();
        let (started, next) = mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..4u32 {
                let started = started.clone();
                scope.spawn(move || {
                    let group = elastic(port, transports).join().unwrap();
                    assert_eq!((group.rank(), group.size()), (number, number + 1), "{transports}");
                    assert_eq!(group.generation(), number);
                    started.send(()).unwrap();
                    // A newcomer gets the state of the others, who expect it.
                    let mut state = if number > 0 { [0u64; 3] } else { [7, 8, 9] };
                    if number > 0 {
                        let _ = group.share(&mut state, false).unwrap();
                        assert_eq!(state, [7, 8, 9]);
                    }
                    work(&group);
                    split(&group);
                    for newcomer in number + 1..4 {
                        let update = await_change(&group);
                        assert_eq!(update, Update { changed: true, joined: vec![newcomer], gone: vec![] });
                        assert_eq!((group.rank(), group.size()), (number, newcomer + 1));
                        let _ = group.share(&mut state, true).unwrap();
                        assert_eq!(state, [7, 8, 9]);
                        work(&group);
                        split(&group);
                    }
                    assert_eq!(group.links().len(), 3);
                    group.close().unwrap();
                });
                next.recv_timeout(PATIENCE).expect("it joined");
            }
        });
    }
}

/// Ranks 0 and 2 go on without 1 who left: ranks are dense again, sub-groups follow, tags and messages start
/// anew.
#[test]
fn ranks_are_dense_again_after_a_leave() {
    let port = free_port();
    std::thread::scope(|scope| {
        for rank in 0..3u32 {
            scope.spawn(move || {
                let config = Config::new().coordinator(format!("127.0.0.1:{port}")).rank(rank).size(3);
                let group = config.timeout(PATIENCE).join().unwrap();
                let part = group.split(Some(0), -(rank as i32)).unwrap().unwrap();
                work(&group);
                work(&part);
                assert!(!group.update().unwrap().changed);
                let error = part.update().unwrap_err().to_string();
                assert!(error.contains("group of the whole job"), "{error}");
                if rank == 1 {
                    return group.close().unwrap();
                }
                let update = await_change(&group);
                assert_eq!(update, Update { changed: true, joined: vec![], gone: vec![1] });
                assert_eq!((group.rank(), group.size()), (rank / 2, 2));
                assert_eq!(
                    (part.rank(), part.size()),
                    (1 - rank / 2, 2),
                    "its order was the other way round"
                );
                work(&group);
                work(&part);
                let options = CallOptions { tag: Tag(3), ..CallOptions::default() };
                let mut got = [0u32; 5];
                match group.rank() {
                    0 => group.send(&[1u32, 2, 3, 4, 5], 1, &options).map(drop).unwrap(),
                    _ => {
                        let _ = group.recv(&mut got, 0, &options).unwrap();
                        assert_eq!(got, [1, 2, 3, 4, 5]);
                    }
                }
                group.close().unwrap();
            });
        }
    });
}

/// All get one answer: no if anybody says no, and who is not there.
#[test]
fn agreement() {
    let port = free_port();
    std::thread::scope(|scope| {
        for rank in 0..3u32 {
            scope.spawn(move || {
                let config = Config::new().coordinator(format!("127.0.0.1:{port}")).rank(rank).size(3);
                let group = config.timeout(PATIENCE).join().unwrap();
                let agree = |flag| group.agree(flag).map(|(all, outcome)| (all, outcome.absent)).unwrap();
                assert_eq!(agree(true), (true, vec![]));
                assert_eq!(agree(rank != 1), (false, vec![]));
                if rank == 2 {
                    return group.close().unwrap();
                }
                assert_eq!(agree(true), (true, vec![2]));
                group.close().unwrap();
            });
        }
    });
}

/// A newcomer gets the number of one that was lost while a large message to it was under way: nothing of that is
/// counted against the newcomer.
#[test]
fn the_number_of_one_that_was_lost_is_given_again() {
    let port = free_port();
    let config = move || {
        let config = Config::new().coordinator(format!("127.0.0.1:{port}")).timeout(PATIENCE);
        config.connect_timeout(PATIENCE).transports(["tcp"]).unwrap()
    };
    let (said, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let group = config().rank(1).size(2).join().unwrap();
            heard.recv_timeout(PATIENCE).unwrap();
            // Without a close: to the other one this is a death.
            drop(group);
        });
        scope.spawn(move || {
            let group = config().rank(0).size(2).join().unwrap();
            let message = vec![1u32; 1 << 20];
            let options = CallOptions { tag: Tag(3), ..CallOptions::default() };
            let error = std::thread::scope(|scope| {
                let sending = scope.spawn(|| group.send(&message, 1, &options).map(drop));
                said.send(()).unwrap();
                sending.join().unwrap().unwrap_err()
            });
            assert!(matches!(error, Error::PeerLost(_)), "{error}");
            assert_eq!(await_change(&group).gone, [1]);
            scope.spawn(move || {
                let group = config().newcomer(true).join().unwrap();
                let mut state = [0u64; 3];
                let _ = group.share(&mut state, false).unwrap();
                assert_eq!(state, [7; 3]);
                work(&group);
                group.close().unwrap();
            });
            assert_eq!(await_change(&group).joined, [1]);
            let _ = group.share(&mut [7u64; 3], true).unwrap();
            work(&group);
            group.close().unwrap();
        });
    });
}

/// The host of the coordinator leaves first: the others go on without it, and need it only as the host.
#[test]
fn the_host_may_leave_first() {
    for transports in ["shm,tcp", "tcp"] {
        let port = free_port();
        std::thread::scope(|scope| {
            for rank in 0..3u32 {
                scope.spawn(move || {
                    let config = Config::new().coordinator(format!("127.0.0.1:{port}")).rank(rank).size(3);
                    let config = config.timeout(PATIENCE).transports(transports.split(',')).unwrap();
                    let group = config.join().unwrap();
                    work(&group);
                    if rank > 0 {
                        assert_eq!(await_change(&group).gone, [0]);
                        work(&group);
                    }
                    group.close().unwrap();
                });
            }
        });
    }
}

#[test]
fn who_is_not_taken_in_is_told_what_is_missing() {
    let port = free_port();
    let group = elastic(port, "shm,tcp").join().unwrap();
    let newcomer = std::thread::spawn(move || {
        elastic(port, "shm,tcp").connect_timeout(Duration::from_millis(300)).join().map(drop)
    });
    let error = newcomer.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("safe point (update)"), "{error}");
    // Its view was armed before it gave up; the job goes on all the same.
    let _ = await_change(&group);
    let _ = await_change(&group);
    assert_eq!(group.size(), 1);
    group.close().unwrap();
}

/// Whoever knows the token may ask how the job is.
#[test]
fn the_coordinator_says_how_the_job_is() {
    let config = elastic(free_port(), "shm,tcp").token("secret");
    let group = config.join().unwrap();
    let status = ronde::job_status(&config).unwrap();
    assert_eq!((status.state.as_str(), status.host, status.members.len()), ("active", Some(0), 1));
    assert_eq!((status.members[0].state.as_str(), status.members[0].pid), ("here", std::process::id()));
    let newcomer = {
        let config = config.clone();
        std::thread::spawn(move || config.join().unwrap())
    };
    let deadline = Instant::now() + PATIENCE;
    let next = loop {
        let status = ronde::job_status(&config).unwrap();
        match status.next.filter(|next| next.armed) {
            Some(next) => break next,
            None => assert!(Instant::now() < deadline, "no view is armed"),
        }
    };
    assert_eq!((next.ranks, next.waits_for.len()), (2, 1), "the one that is there has to pass a safe point");
    let _ = await_change(&group);
    let newcomer = newcomer.join().unwrap();
    let closing = std::thread::spawn(move || newcomer.close().unwrap());
    closing.join().unwrap();
    assert_eq!(ronde::job_status(&config).unwrap().members[1].state, "left");
    let error = ronde::job_status(&config.clone().token("guess")).unwrap_err().to_string();
    assert!(error.contains("RONDE_TOKEN"), "{error}");
    group.close().unwrap();
}

#[test]
fn coordinator_rank() {
    if is_child() {
        let address = std::env::var("RONDE_COORDINATOR").expect("set by the parent");
        let config = ronde::Config::new().connect_timeout(PATIENCE);
        println!("\nSERVES");
        ronde::serve_coordinator(&config, address.parse().expect("an address"), false)
            .expect("a coordinator");
    }
}

/// A coordinator that runs alone is killed: operations go on, and once it runs again newcomers join.
#[test]
fn a_coordinator_that_runs_alone_may_be_started_again() {
    let port = free_port();
    let serve = || spawn("coordinator_rank", 0, &format!("127.0.0.1:{port}"), &[]);
    let mut coordinator = serve();
    let (joined, wait) = mpsc::channel();
    let coordinator = std::thread::scope(|scope| {
        for rank in 0..2 {
            let joined = joined.clone();
            scope.spawn(move || {
                let config =
                    Config::new().coordinator(format!("127.0.0.1:{port}")).rank(rank + 1).min_peers(2);
                let group = config.timeout(PATIENCE).connect_timeout(PATIENCE).join().unwrap();
                joined.send(()).unwrap();
                let update = await_change(&group);
                assert_eq!((update.joined, update.gone), (vec![2], vec![]));
                work(&group);
                group.close().unwrap();
            });
        }
        wait.recv_timeout(PATIENCE).unwrap();
        wait.recv_timeout(PATIENCE).unwrap();
        coordinator.kill();
        drop(wait_all(vec![coordinator], PATIENCE));
        let again = serve();
        scope.spawn(move || {
            // Asks while the coordinator that was started again may not know its members yet. It would do alone; with
            // a rank that is not 0 it does not host another coordinator.
            let config = Config::new().coordinator(format!("127.0.0.1:{port}")).rank(3).min_peers(1);
            let group = config.timeout(PATIENCE).connect_timeout(PATIENCE).join().unwrap();
            work(&group);
            group.close().unwrap();
        });
        again
    });
    assert!(wait_all(vec![coordinator], PATIENCE).iter().all(|ended| ended.ok));
}

#[test]
fn a_job_that_only_shrinks_takes_nobody_in() {
    let port = free_port();
    let group = elastic(port, "shm,tcp").shrink_only(true).join().unwrap();
    let error = elastic(port, "shm,tcp").join().map(drop).unwrap_err().to_string();
    assert!(error.contains("only shrinks"), "{error}");
    group.close().unwrap();
}
