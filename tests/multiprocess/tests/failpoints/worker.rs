//! One rank of a job: it makes the calls of its cases, is lost in them where it is told to, and else sees that
//! everything is as it should be without the lost.

use crate::case::{Armed, Case, Fate, ROOT, Setup};
use crate::footprint::{Footprint, sockets_to};
use crate::oracle::{Buffers, Oracle};
use ronde::{
    Aborted, Call, CallOptions, Collective, CommitOptions, Config, Error, Group, Hole, Outcome, Reconnect,
    ReduceOp, Reduction, Tag, Tolerance,
};
use ronde_core::failpoint::{Point, Reached, set_hook};
use ronde_core::memory::Access;
use rustix::net::Shutdown;
use rustix::process::{Signal, getpid, kill_process};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The calls of cases have it, and no others.
const TAG: Tag = Tag(7);
/// For anything that the survivors do together.
const PATIENCE: Duration = Duration::from_secs(20);

/// What to do at the points of a call.
enum Watch {
    Nothing,
    Count(BTreeMap<(Point, u32), u32>),
    Trap(Trap),
}

/// Goes off when the call has been so often where it is armed.
struct Trap {
    armed: Armed,
    seen: u32,
    /// By rank.
    processes: Vec<u32>,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch::Nothing);

fn watch() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at_point(reached: &Reached) {
    if reached.op.tag != TAG {
        return;
    }
    let mut watch = watch();
    match &mut *watch {
        Watch::Nothing => {}
        Watch::Count(counts) => *counts.entry((reached.point, reached.window)).or_default() += 1,
        Watch::Trap(trap) => {
            if (trap.armed.point, trap.armed.window) != (reached.point, reached.window) {
                return;
            }
            trap.seen += 1;
            if trap.seen == trap.armed.nth
                && let Watch::Trap(trap) = std::mem::replace(&mut *watch, Watch::Nothing)
            {
                drop(watch);
                trap.go_off();
            }
        }
    }
}

impl Trap {
    fn go_off(self) {
        let signal = match self.armed.fate {
            Fate::Kill => Signal::KILL,
            Fate::Stop => {
                println!("\nSTOPS");
                Signal::STOP
            }
            Fate::Cut(peer) | Fate::Snip(peer) => {
                let peer = self.processes[peer as usize];
                for socket in sockets_to(peer) {
                    let _ = rustix::net::shutdown(socket, Shutdown::Both);
                }
                return;
            }
        };
        kill_process(getpid(), signal).expect("a signal to oneself");
    }
}

/// Does what the parent says in the environment.
pub(crate) fn work() {
    let variable = |name| std::env::var(name).expect("set by the parent");
    let group = join(&variable("RONDE_TEST_LINKS"));
    set_hook(at_point);
    let cases = variable("RONDE_TEST_CASES");
    if cases.is_empty() {
        Setup::all().for_each(|setup| count_points(&group, setup));
        return group.close().expect("close");
    }
    let mut used = Vec::new();
    for (number, text) in cases.split(';').enumerate() {
        let case = Case::parse(text).expect("a case");
        match lose_some(&group, number, &case, &mut used) {
            Ok(()) => {}
            Err(error) if says_fenced(&error) => return println!("\nFENCED {error}"),
            Err(error) => panic!("case {number}, {case}: {error}"),
        }
    }
    let untouched = used.iter().all(Buffers::are_untouched);
    assert!(untouched, "buffers were written after their call had returned");
    // Somebody may still be counting connections.
    let _ = group.barrier().expect("nobody is lost any more");
    group.close().expect("close");
    println!("\nDONE");
}

/// `mixed`: ranks 0 to 2 share memory, the others do not. `again`: by TCP, with connections that are made again.
fn join(links: &str) -> Group {
    let (transports, reconnect) = match links {
        "mixed" if first_rank() > 2 => ("tcp", Reconnect::Remote),
        "mixed" => ("shm,tcp", Reconnect::Remote),
        "again" => ("tcp", Reconnect::Always),
        one => (one, Reconnect::Remote),
    };
    let config = Config::from_env().map(|config| config.reconnect(reconnect));
    let config = config.and_then(|config| config.transports(transports.split(',')));
    config.and_then(|config| config.join()).expect("join")
}

/// Connections that are cut are made again.
fn reconnects() -> bool {
    std::env::var("RONDE_TEST_LINKS").is_ok_and(|links| links == "again")
}

/// At the start of the job.
fn first_rank() -> u32 {
    std::env::var("RONDE_RANK").expect("set by the parent").parse().expect("a rank")
}

/// The others have gone on without this process, or there are too few to say that.
fn says_fenced(error: &Error) -> bool {
    match error {
        Error::Expelled { .. } => true,
        Error::Aborted(why) => matches!(**why, Aborted::NoQuorum { .. }),
        _ => false,
    }
}

/// Makes a call and says how often it was at each point.
fn count_points(group: &Group, setup: &'static Setup) {
    let case = Case { setup, in_place: false, armed: Vec::new() };
    *watch() = Watch::Count(BTreeMap::new());
    let said = call(group, &case, &mut Vec::new()).and_then(|_| group.barrier());
    let _ = said.unwrap_or_else(|error| panic!("{}: {error}", setup.name));
    let Watch::Count(counts) = std::mem::replace(&mut *watch(), Watch::Nothing) else { return };
    for ((point, window), count) in counts {
        println!("\nPOINT {} {point:?} {window} {count}", setup.name);
    }
}

/// Makes the call of a case, waits until all agree who was lost in it, checks, and makes ranks dense again.
fn lose_some(group: &Group, number: usize, case: &Case, used: &mut Vec<Buffers>) -> Result<(), Error> {
    let processes = processes(group)?;
    let shares = group.links().into_iter().filter(|link| link.transport == "shm").map(|link| link.rank);
    let before = Footprint::now((first_rank(), group.rank()), group.size(), shares.collect(), reconnects());
    let _ = group.barrier()?;
    if let Some(&armed) = case.armed.iter().find(|armed| armed.rank == group.rank()) {
        *watch() = Watch::Trap(Trap { armed, seen: 0, processes });
    }
    let said = call(group, case, used)?;
    disarm(case);
    let lost = settle(group, case)?;
    let untouched = used.iter().all(Buffers::are_untouched);
    assert!(untouched, "case {number}, {case}: buffers were written after the call had returned");
    if let Err(what) = before.expect_without(&lost) {
        panic!("case {number}, {case}, rank {}: {what}", group.rank());
    }
    println!("\nCASE {number} {said}");
    let left = group.size() - lost.len() as u32;
    let until = Instant::now() + PATIENCE;
    while group.size() > left {
        let _ = group.update()?;
        assert!(Instant::now() < until, "case {number}, {case}: the lost stay holes");
    }
    Ok(())
}

/// The process of each rank.
fn processes(group: &Group) -> Result<Vec<u32>, Error> {
    let mut all = vec![0u32; group.size() as usize];
    let _ = group.all_gather(&[std::process::id()], &mut all)?;
    Ok(all)
}

/// With two that are armed, the loss of one may keep the other from ever getting to its point: it dies now.
fn disarm(case: &Case) {
    let Watch::Trap(trap) = std::mem::replace(&mut *watch(), Watch::Nothing) else { return };
    assert!(case.armed.len() > 1, "{case}: it never came there");
    trap.go_off();
}

/// Waits until all agree that those who are to be lost are.
fn settle(group: &Group, case: &Case) -> Result<Vec<u32>, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        let lost = group.barrier()?.absent;
        assert!(lost.iter().all(|rank| case.suspects().contains(rank)), "{case}: {lost:?} were lost");
        if lost.len() >= case.losses() {
            return Ok(lost);
        }
        assert!(Instant::now() < until, "{case}: only {lost:?} were lost");
    }
}

/// Makes the call of a case, overwrites its buffers, and checks what had come. What it gives is the same on all
/// survivors.
fn call(group: &Group, case: &Case, used: &mut Vec<Buffers>) -> Result<String, Error> {
    let setup = case.setup;
    let oracle = Oracle { setup, rank: group.rank(), ranks: group.size() };
    if setup.collective.is_point_to_point() && oracle.partner().is_none() {
        return Ok(String::new());
    }
    let calls = if setup.together { 2 } else { 1 };
    let buffers: Vec<Buffers> = (0..calls).map(|_| Buffers::of(&oracle, case.in_place)).collect();
    let result = match setup.together {
        true => call_together(group, buffers.iter().map(|buffers| describe(&oracle, buffers))),
        false => group.run(describe(&oracle, &buffers[0])),
    };
    let held = |buffers: &Buffers| (buffers.input.bytes().to_vec(), buffers.output.bytes().to_vec());
    let (inputs, outputs): (Vec<_>, Vec<_>) = buffers.iter().map(held).unzip();
    buffers.iter().for_each(Buffers::overwrite);
    used.extend(buffers);
    let said = match &result {
        Ok(outcome) => {
            outputs.iter().for_each(|output| check(case, &oracle, outcome, output));
            let of_one = |call| oracle.holes(outcome).into_iter().map(move |bytes| Hole { call, bytes });
            let holes: Vec<Hole> = (0..calls).flat_map(of_one).collect();
            assert_eq!(
                outcome.holes,
                holes,
                "{case}, rank {}: {absent:?}",
                oracle.rank,
                absent = outcome.absent
            );
            let Outcome { epoch, contributors, absent, parts, .. } = outcome;
            format!("epoch {epoch}, {contributors} contributors, absent {absent:?}, parts {parts:?}")
        }
        Err(Error::PeerLost(lost)) => {
            let lost = lost.rank.0;
            let names_whom_it_needs = match setup.collective {
                Collective::Send => oracle.partner() == Some(lost),
                collective => setup.ends_alone() || collective.has_root() && lost == ROOT,
            };
            assert!(names_whom_it_needs && case.suspects().contains(&lost), "{case}: it ended for {lost}");
            format!("ended for {lost}")
        }
        Err(error) => return Err(error.clone()),
    };
    let changed = inputs.iter().any(|input| *input != oracle.input());
    assert!(case.in_place || !changed, "{case}: the input has changed");
    Ok(if setup.ends_alone() { String::new() } else { said })
}

fn call_together(group: &Group, calls: impl Iterator<Item = Call>) -> Result<Outcome, Error> {
    let mut together = group.commit_group(CommitOptions { tag: TAG, ..CommitOptions::default() })?;
    for call in calls {
        together.start(call)?;
    }
    together.commit()
}

fn check(case: &Case, oracle: &Oracle<'_>, outcome: &Outcome, output: &[u8]) {
    let absent = outcome.absent.len() as u32;
    assert_eq!(outcome.contributors + absent, oracle.ranks, "{case}: {outcome:?}");
    let known = outcome.absent.iter().all(|rank| case.suspects().contains(rank));
    let needs_all = case.setup.tolerance == Tolerance::None;
    assert!(known && (absent == 0 || !needs_all), "{case}: {outcome:?}");
    for (offset, expected) in oracle.expected(outcome) {
        let wrong = output[offset..].iter().zip(&expected).position(|(got, expected)| got != expected);
        assert_eq!(wrong, None, "{case}, rank {}: wrong from byte {offset} on, {outcome:?}", oracle.rank);
    }
}

fn describe(oracle: &Oracle<'_>, buffers: &Buffers) -> Call {
    let Setup { collective, algorithm, dtype, count, tolerance, .. } = *oracle.setup;
    let is_message = collective.is_point_to_point();
    Call {
        collective: if is_message && oracle.rank % 2 == 1 { Collective::Recv } else { collective },
        dtype,
        count,
        peer: match collective {
            Collective::Send => oracle.partner().unwrap_or_default(),
            collective if collective.has_root() => ROOT,
            _ => 0,
        },
        reduction: collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
        input: buffers.input.clone(),
        output: buffers.output.clone(),
        options: CallOptions { tag: TAG, tolerance, algorithm, ..CallOptions::default() },
        ..Call::EMPTY
    }
}
