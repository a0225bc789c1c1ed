//! Paths between machines that end without a word, while all processes live and the coordinator hears them.
//!
//! Machines are network namespaces with two cables between them: one for the coordinator, one for data.

use ronde::{Config, ReduceOp};
use ronde_multiprocess::{RankProcess, command_of, is_child, not_checked, start, through, wait_all};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
/// Who is behind silent links is given up after some seven seconds; calls would end the job after this.
const TIMEOUT: &str = "60s";
/// Longer than it takes until a path counts as silent, shorter than connections are tried again.
const OUTAGE: Duration = Duration::from_millis(3200);
const COORDINATOR: &str = "10.77.1.1:29400";

/// Sums until somebody is lost, and a little longer; says who is absent.
#[test]
fn sum_rank() {
    if !is_child() {
        return;
    }
    let group = Config::from_env().and_then(|config| config.join()).expect("join");
    let (begun, mut left_to_do) = (Instant::now(), 5);
    for round in 0.. {
        let mut data: Vec<u64> = (0..5_000).map(|i| i * (u64::from(group.rank()) + 1) + round).collect();
        assert!(begun.elapsed() < PATIENCE / 2, "nobody is lost in {round} rounds");
        let outcome = match group.all_reduce(&mut data, ReduceOp::Sum) {
            Ok(outcome) => outcome,
            Err(error) => return println!("error: {error}"),
        };
        let here: Vec<u64> =
            (0..group.size()).filter(|rank| !outcome.absent.contains(rank)).map(u64::from).collect();
        let sum = |i: u64| here.iter().map(|rank| i * (rank + 1) + round).sum::<u64>();
        assert!((0..5_000).all(|i| data[i as usize] == sum(i)), "round {round} of {here:?}");
        if round == 50 || !outcome.absent.is_empty() {
            println!("round {round}, absent: {:?}", outcome.absent);
        }
        left_to_do -= i32::from(!outcome.absent.is_empty());
        if left_to_do == 0 {
            return group.close().expect("close");
        }
    }
}

/// Sums for so many rounds, of which a few take long; nobody is lost.
#[test]
fn patient_rank() {
    if !is_child() {
        return;
    }
    let group = Config::from_env().and_then(|config| config.join()).expect("join");
    let (begun, mut longest, mut after) = (Instant::now(), Duration::ZERO, 0);
    for round in 0.. {
        let mut data: Vec<u64> = (0..5_000).map(|i| i * (u64::from(group.rank()) + 1) + round).collect();
        let since = Instant::now();
        let outcome = group.all_reduce(&mut data, ReduceOp::Sum).expect("all-reduce");
        assert!(outcome.absent.is_empty() && outcome.interruptions == 0, "round {round}: {outcome:?}");
        assert!((0..5_000).all(|i| data[i as usize] == i * 6 + 3 * round), "round {round}");
        if round == 50 {
            println!("round {round}");
        }
        // A little longer than until it goes on.
        let enough = after == 200 || begun.elapsed() > PATIENCE / 2;
        let (stop, _) = group.agree(enough).expect("agree");
        longest = longest.max(since.elapsed());
        after += u64::from(longest > OUTAGE / 2 && after < 200);
        if stop {
            let made: u32 = group.links().iter().map(|link| link.reconnections).sum();
            println!("the longest round took {longest:?}, reconnections: {made}.");
            assert!(longest > OUTAGE / 2, "nothing was cut");
            return group.close().expect("close");
        }
    }
}

/// Runs the coordinator of one job.
#[test]
fn coordinate_rank() {
    if is_child() {
        let config = Config::from_env().expect("a configuration");
        ronde::serve_coordinator(&config, COORDINATOR.parse().expect("an address"), false).expect("a job");
    }
}

/// Three namespaces with a cable between any two, each found at `10.78.0.N` whatever the cable.
struct Mesh([String; 3]);

impl Mesh {
    fn new(test: &str) -> Option<Mesh> {
        let mesh = Mesh([1, 2, 3].map(|number| format!("ronde-{}-{test}-{number}", std::process::id())));
        let mut works = mesh.0.iter().all(|name| ip(&format!("netns add {name}")));
        for (name, own) in mesh.0.iter().zip(1..) {
            works = works && ip(&format!("-n {name} link set lo up"));
            works = works && ip(&format!("-n {name} address add 10.78.0.{own}/32 dev lo"));
        }
        for (one, other) in [(1, 2), (1, 3), (2, 3)] {
            let cable = format!("cable{one}{other}");
            let [near, far] = [&mesh.0[one - 1], &mesh.0[other - 1]];
            works =
                works && ip(&format!("-n {near} link add {cable} type veth peer name {cable} netns {far}"));
            for (name, own, peer) in [(near, one, other), (far, other, one)] {
                let net = format!("10.78.{one}{other}");
                works = works && ip(&format!("-n {name} address add {net}.{own}/24 dev {cable}"));
                works = works && ip(&format!("-n {name} link set {cable} up"));
                let route = format!("10.78.0.{peer} via {net}.{peer} src 10.78.0.{own}");
                works = works && ip(&format!("-n {name} route add {route}"));
            }
        }
        works.then_some(mesh)
    }

    fn run(&self, function: &str, rank: usize) -> RankProcess {
        let mut command = command_of(function);
        command.env("RONDE_COORDINATOR", "10.78.0.1:29400").env("RONDE_INSECURE", "1");
        command.env("RONDE_RANK", rank.to_string()).env("RONDE_SIZE", "3").env("RONDE_TIMEOUT", TIMEOUT);
        start(&mut through("ip", &["netns", "exec", &self.0[rank]], &command), rank)
    }

    /// The cable between the second and the third machine carries nothing any more, and nobody is told.
    fn cut_off(&self) {
        for (name, other) in self.0[1..].iter().zip(["10.78.23.3", "10.78.23.2"]) {
            let nobody = "lladdr 02:00:00:00:00:99 dev cable23 nud permanent";
            assert!(ip(&format!("-n {name} neighbour replace {other} {nobody}")));
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        delete(&self.0);
    }
}

fn delete(machines: &[String]) {
    for name in machines {
        ip(&format!("netns delete {name}"));
    }
}

/// Two namespaces, `10.77.C.1` and `10.77.C.2` on cable C.
struct Machines([String; 2]);

fn ip(arguments: &str) -> bool {
    let quiet =
        Command::new("ip").args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

impl Machines {
    /// `test`: its own, since several may run in one process.
    fn new(test: &str) -> Option<Machines> {
        let machines = Machines([1, 2].map(|number| format!("ronde-{}-{test}-{number}", std::process::id())));
        let [one, other] = &machines.0;
        let mut works = machines.0.iter().all(|name| ip(&format!("netns add {name}")));
        works = works && machines.0.iter().all(|name| ip(&format!("-n {name} link set lo up")));
        for cable in ["cable1", "cable2"] {
            works =
                works && ip(&format!("-n {one} link add {cable} type veth peer name {cable} netns {other}"));
            for (name, end) in machines.0.iter().zip(1..) {
                let net = &cable[5..];
                works = works && ip(&format!("-n {name} address add 10.77.{net}.{end}/24 dev {cable}"));
                works = works && ip(&format!("-n {name} link set {cable} up"));
            }
        }
        works.then_some(machines)
    }

    /// A rank on one of them.
    fn start(&self, rank: usize, on: usize) -> RankProcess {
        self.run("sum_rank", rank, on)
    }

    /// Others reach it by the second cable.
    fn run(&self, function: &str, rank: usize, on: usize) -> RankProcess {
        let mut command = command_of(function);
        command.env("RONDE_COORDINATOR", COORDINATOR).env("RONDE_ADVERTISE", format!("10.77.2.{}", on + 1));
        command.env("RONDE_RANK", rank.to_string()).env("RONDE_SIZE", "3");
        command.env("RONDE_INSECURE", "1").env("RONDE_TIMEOUT", TIMEOUT);
        start(&mut through("ip", &["netns", "exec", &self.0[on]], &command), rank)
    }

    /// From now on what one sends to the other by the second cable is for nobody there: no word comes back, no cable is
    /// seen to be pulled.
    fn cut_off(&self) {
        for (name, other) in self.0.iter().zip(["10.77.2.2", "10.77.2.1"]) {
            let nobody = "lladdr 02:00:00:00:00:99 dev cable2 nud permanent";
            assert!(ip(&format!("-n {name} neighbour replace {other} {nobody}")));
        }
    }
}

impl Machines {
    /// The cable carries everything again.
    fn heal(&self) {
        for (name, other) in self.0.iter().zip(["10.77.2.2", "10.77.2.1"]) {
            assert!(ip(&format!("-n {name} neighbour del {other} dev cable2")));
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        delete(&self.0);
    }
}

/// Ranks on these machines lose one when the second cable carries nothing any more.
fn lose_who_is_cut_off_from_data(test: &str, coordinator_is_alone: bool, places: [usize; 3], loser: usize) {
    let Some(machines) = Machines::new(test) else {
        return not_checked("links that fall silent: this process may not make network namespaces");
    };
    let mut coordinator = coordinator_is_alone.then(|| machines.run("coordinate_rank", 0, 0));
    let mut ranks: Vec<RankProcess> = (0..3).map(|rank| machines.start(rank, places[rank])).collect();
    let survivors: Vec<usize> = (0..3).filter(|&rank| rank != loser).collect();
    let teller = survivors[0];
    let mut said = BufReader::new(ranks[teller].take_stdout()).lines().map(Result::unwrap);
    if !said.by_ref().any(|line| line.ends_with("round 50, absent: []")) {
        let ended = wait_all(ranks, PATIENCE);
        panic!("rank {teller} ends early: {:?}", ended.iter().map(|end| &end.output).collect::<Vec<_>>());
    }
    machines.cut_off();
    let since = Instant::now();
    let lost = said.by_ref().find(|line| !line.ends_with("absent: []"));
    let took = since.elapsed();
    let rest: Vec<String> = said.collect();
    let ended = wait_all(ranks, PATIENCE);
    coordinator.iter_mut().for_each(RankProcess::end);
    let outputs: Vec<&str> = ended.iter().map(|end| end.output.as_str()).collect();
    let absent = format!("absent: [{loser}]");
    assert!(lost.is_some_and(|line| line.ends_with(&absent)), "{rest:?} {outputs:?}");
    assert!(ended.iter().all(|end| end.ok), "{outputs:?}");
    assert!(outputs[survivors[1]].contains(&absent), "{}", outputs[survivors[1]]);
    let expelled = ["error: this peer was expelled", "nothing comes back from the peer's machine"];
    assert!(expelled.iter().all(|text| outputs[loser].contains(text)), "{}", outputs[loser]);
    assert!(took < Duration::from_secs(20), "the others waited for {took:?}");
}

#[test]
fn who_is_cut_off_from_data_alone_is_lost_and_the_others_go_on() {
    lose_who_is_cut_off_from_data("hosted", false, [0, 1, 0], 1);
}

#[test]
fn the_same_with_a_coordinator_of_its_own() {
    lose_who_is_cut_off_from_data("alone", true, [0, 1, 0], 1);
}

/// Its coordinator hears everybody, and is succeeded.
#[test]
fn a_host_that_is_cut_off_from_data_steps_down() {
    lose_who_is_cut_off_from_data("host", false, [0, 1, 1], 0);
}

/// How many connections of a rank took the place of others: the first that works, and those whose answer came too late.
fn reconnections(output: &str) -> usize {
    let number = output.split("reconnections: ").nth(1).and_then(|rest| rest.split('.').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Something in between forgets the connections for some seconds: they are made again.
#[test]
fn a_path_that_comes_back_costs_nobody() {
    let Some(machines) = Machines::new("heals") else {
        return not_checked("links that fall silent: this process may not make network namespaces");
    };
    let mut ranks: Vec<RankProcess> =
        (0..3).map(|rank| machines.run("patient_rank", rank, [0, 1, 0][rank])).collect();
    let mut said = BufReader::new(ranks[0].take_stdout()).lines().map(Result::unwrap);
    let runs = said.by_ref().any(|line| line.ends_with("round 50"));
    if runs {
        machines.cut_off();
        std::thread::park_timeout(OUTAGE);
        machines.heal();
    }
    let rest: Vec<String> = said.collect();
    let ended = wait_all(ranks, PATIENCE);
    let outputs: Vec<&str> = ended.iter().map(|end| end.output.as_str()).collect();
    assert!(runs && ended.iter().all(|end| end.ok), "{rest:?} {outputs:?}");
    // Ranks 0 and 2 are on one machine.
    assert!(reconnections(outputs[1]) >= 2, "{}", outputs[1]);
}

/// Two that cannot reach each other any more talk through the third.
#[test]
fn a_path_that_does_not_come_back_is_gone_around() {
    let Some(mesh) = Mesh::new("around") else {
        return not_checked("a way through a third machine: this process may not make network namespaces");
    };
    let mut ranks: Vec<RankProcess> = (0..3).map(|rank| mesh.run("patient_rank", rank)).collect();
    let mut said = BufReader::new(ranks[0].take_stdout()).lines().map(Result::unwrap);
    let runs = said.by_ref().any(|line| line.ends_with("round 50"));
    if runs {
        mesh.cut_off();
    }
    let rest: Vec<String> = said.collect();
    let ended = wait_all(ranks, PATIENCE);
    let outputs: Vec<&str> = ended.iter().map(|end| end.output.as_str()).collect();
    assert!(runs && ended.iter().all(|end| end.ok), "{rest:?} {outputs:?}");
    assert!(outputs[1..].iter().all(|output| reconnections(output) >= 1), "{outputs:?}");
}
