//! Several jobs at one coordinator, each by its name.

use ronde::{Config, Error, Group, ReduceOp, Result};
use ronde_multiprocess::free_port;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn of_job(port: u16, job: &str) -> Config {
    let config = Config::new().coordinator(format!("127.0.0.1:{port}")).timeout(PATIENCE);
    config.connect_timeout(PATIENCE).job(job).unwrap()
}

/// A coordinator that runs alone, on a thread. It listens when this returns: else a rank 0 would host one.
fn serve(port: u16, keep: bool) -> JoinHandle<Result<()>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let coordinator = spawn(move || ronde::serve_coordinator(&Config::new(), address, keep));
    let until = Instant::now() + PATIENCE;
    while ronde::job_status(&of_job(port, "")).is_err() {
        assert!(Instant::now() < until, "no coordinator");
    }
    coordinator
}

/// Its jobs have ended: so does it.
fn ends(coordinator: JoinHandle<Result<()>>) {
    let until = Instant::now() + PATIENCE;
    while !coordinator.is_finished() {
        assert!(Instant::now() < until, "the coordinator goes on without jobs");
        std::thread::yield_now();
    }
    coordinator.join().unwrap().unwrap();
}

/// The ranks of a job, which all do the same.
fn ranks_of<T: Send + 'static>(
    port: u16,
    job: &'static str,
    size: u32,
    work: fn(Group) -> T,
) -> Vec<JoinHandle<T>> {
    let join = move |rank| work(of_job(port, job).rank(rank).size(size).join().unwrap());
    (0..size).map(|rank| spawn(move || join(rank))).collect()
}

fn sum_of_ones(group: &Group) -> u64 {
    let mut sum = [1u64];
    let _ = group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
    sum[0]
}

fn sums_then_leaves(group: Group) -> u64 {
    let sums = (0..50).map(|_| sum_of_ones(&group)).max().unwrap();
    group.close().unwrap();
    sums
}

#[test]
fn jobs_of_several_names_have_one_coordinator() {
    let port = free_port();
    let coordinator = serve(port, false);
    let jobs = [("", 2), ("blue", 3), ("green", 4)];
    // Else the coordinator could end between two of them.
    static ALL_ARE_THERE: Barrier = Barrier::new(2 + 3 + 4);
    let work = |group| {
        ALL_ARE_THERE.wait();
        sums_then_leaves(group)
    };
    let running: Vec<_> = jobs.iter().map(|&(job, size)| (size, ranks_of(port, job, size, work))).collect();
    for (size, ranks) in running {
        let sums: Vec<u64> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        assert_eq!(sums, vec![u64::from(size); size as usize]);
    }
    ends(coordinator);
}

#[test]
fn what_ends_one_job_is_no_matter_of_another() {
    let port = free_port();
    drop(serve(port, true));
    let aborts = |group: Group| {
        if group.rank() == 0 {
            group.abort("enough");
        }
        loop {
            if let Err(error) = group.barrier() {
                return error.to_string();
            }
        }
    };
    let blue = of_job(port, "blue").rank(0).size(1).join().unwrap();
    for rank in ranks_of(port, "red", 3, aborts) {
        let error = rank.join().unwrap();
        assert!(error.contains("enough"), "{error}");
    }
    assert_eq!(sum_of_ones(&blue), 1);
    // The next job of that name.
    for rank in ranks_of(port, "red", 2, sums_then_leaves) {
        assert_eq!(rank.join().unwrap(), 2);
    }
    let status = |job| ronde::job_status(&of_job(port, job)).unwrap();
    assert_eq!((status("blue").state.as_str(), status("blue").members.len()), ("active", 1));
    assert_eq!((status("grey").state.as_str(), status("grey").members.len()), ("gathering", 0));
    blue.close().unwrap();
}

/// It neither keeps the coordinator from ending nor spoils the next job of that name.
#[test]
fn a_job_that_nobody_waited_for_is_forgotten() {
    let port = free_port();
    let coordinator = serve(port, false);
    let lonely = of_job(port, "blue").rank(1).size(7).connect_timeout(Duration::from_millis(100)).join();
    let text = lonely.map(drop).unwrap_err().to_string();
    assert!(text.contains("1 of 7"), "{text}");
    for rank in ranks_of(port, "blue", 2, sums_then_leaves) {
        assert_eq!(rank.join().unwrap(), 2);
    }
    ends(coordinator);
}

#[test]
fn the_coordinator_of_one_job_names_it_to_those_of_another() {
    let port = free_port();
    let host = of_job(port, "blue").rank(0).size(1).join().unwrap();
    let stranger = of_job(port, "green").rank(1).size(2).connect_timeout(Duration::from_millis(300));
    let Err(Error::Join(text)) = stranger.join() else { panic!("it is another job") };
    let text = text.to_string();
    assert!(text.contains("job \"blue\"") && text.contains("job \"green\""), "{text}");
    assert!(text.contains("RONDE_JOB"), "{text}");
    let error = ronde::job_status(&of_job(port, "green")).unwrap_err().to_string();
    assert!(error.contains("job \"blue\""), "{error}");
    host.close().unwrap();
}

#[test]
fn names_have_bounds() {
    for bad in ["a\nb".to_owned(), "x".repeat(129)] {
        let error = Config::new().job(bad).unwrap_err().to_string();
        assert!(error.contains("RONDE_JOB"), "{error}");
    }
    assert!(Config::new().job("x".repeat(128)).is_ok());
}
