//! Jobs that know of themselves only what a launcher put into the environment.

use ronde::{Config, ReduceOp};
use ronde_multiprocess::{Ended, command_of, is_child, not_checked, spawn_with, wait_all};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Joins, sums, and says what it saw.
#[test]
fn join_rank() {
    if !is_child() {
        return;
    }
    let group = match Config::from_env().and_then(|config| config.join()) {
        Ok(group) => group,
        Err(error) => return println!("error: {error}"),
    };
    // torchrun's own store listens there.
    if let (Some(port), 0) = (std::env::var_os("MASTER_PORT"), group.rank()) {
        let port: u16 = port.to_str().unwrap().parse().unwrap();
        TcpListener::bind(("127.0.0.1", port)).expect("MASTER_PORT is free");
    }
    let mut data = [u64::from(group.rank()) + 1];
    let _ = group.all_reduce(&mut data, ReduceOp::Sum).expect("all-reduce");
    println!("rank {} of {}: {}", group.rank(), group.size(), data[0]);
    group.close().expect("close");
}

/// Says what it reads in the environment.
#[test]
fn read_rank() {
    if is_child() {
        match Config::from_env() {
            Ok(config) => println!("{config:?}"),
            Err(error) => println!("error: {error}"),
        }
    }
}

/// Runs a process for each list of variables.
fn run(function: &str, ranks: &[Vec<(&str, String)>]) -> Vec<Ended> {
    let start = |(rank, variables): (usize, &Vec<(&str, String)>)| {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        spawn_with(function, rank, &variables)
    };
    wait_all(ranks.iter().enumerate().map(start).collect(), PATIENCE)
}

fn expect_a_job_of_two(ended: &[Ended]) {
    for (rank, end) in ended.iter().enumerate() {
        let said = format!("rank {rank} of 2: 3");
        assert!(end.ok && end.output.contains(&said), "{}", end.output);
    }
}

fn variables<'a>(fixed: &[(&'a str, &str)], rank: (&'a str, usize)) -> Vec<(&'a str, String)> {
    let rank = (rank.0, rank.1.to_string());
    fixed.iter().map(|(name, value)| (*name, (*value).to_owned())).chain([rank]).collect()
}

/// Two ports in a row that were free a moment ago, below those that the system gives to whoever asks for any.
/// `test`: 0 or 1, since tests may run at the same time.
fn two_free_ports(test: u16) -> u16 {
    let first = 12_000 + (std::process::id() % 1900) as u16 * 4 + 2 * test;
    let is_free = |port: &u16| (*port..=*port + 1).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    (first..19_998).step_by(4).find(is_free).expect("two free ports")
}

#[test]
fn torchrun_and_its_port_is_left_alone() {
    let port = two_free_ports(0).to_string();
    let fixed = [("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())];
    expect_a_job_of_two(&run("join_rank", &[0, 1].map(|rank| variables(&fixed, ("RANK", rank)))));
}

#[test]
fn a_rank_of_ones_own_with_the_size_of_torchrun() {
    let port = two_free_ports(1).to_string();
    let fixed =
        [("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str()), ("RANK", "0")];
    expect_a_job_of_two(&run("join_rank", &[0, 1].map(|rank| variables(&fixed, ("RONDE_RANK", rank)))));
}

/// Two steps of one job at once.
#[test]
fn slurm() {
    let job = std::process::id().to_string();
    let step = |step: &str| {
        let fixed = [
            ("SLURM_NTASKS", "2"),
            ("SLURM_JOB_ID", job.as_str()),
            ("SLURM_STEP_ID", step),
            ("SLURM_STEP_NODELIST", "localhost"),
        ];
        [0, 1].map(|rank| variables(&fixed, ("SLURM_PROCID", rank)))
    };
    let ended = run("join_rank", &[step("0"), step("1")].concat());
    expect_a_job_of_two(&ended[..2]);
    expect_a_job_of_two(&ended[2..]);
}

#[test]
fn open_mpi_on_one_machine() {
    let pid = std::process::id();
    // Of version 4 and of version 5.
    for (name, job) in
        [("OMPI_MCA_ess_base_jobid", format!("{pid}1")), ("PMIX_NAMESPACE", format!("prterun-host-{pid}@1"))]
    {
        let fixed =
            [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"), (name, job.as_str())];
        let rank = |rank| variables(&fixed, ("OMPI_COMM_WORLD_RANK", rank));
        expect_a_job_of_two(&run("join_rank", &[0, 1].map(rank)));
    }
}

#[test]
fn open_mpi_on_several_machines() {
    let several =
        [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"), ("PMIX_NAMESPACE", "5449")];
    let error = |more: &[(&'static str, &str)]| {
        let all = [&several[..], more].concat();
        let ended = run("join_rank", &[variables(&all, ("OMPI_COMM_WORLD_RANK", 1))]);
        assert!(ended[0].output.contains("error: "), "{}", ended[0].output);
        ended[0].output.clone()
    };
    let text = error(&[]);
    assert!(text.contains("Open MPI") && text.contains("RONDE_COORDINATOR"), "{text}");
    // Where mpirun runs: known, and beyond loopback.
    let uri = "5448.0;tcp://192.0.2.1:50551;tcp6://[fd00::2]:48059";
    let text = error(&[("OMPI_MCA_orte_hnp_uri", uri)]);
    assert!(text.contains("192.0.2.1:2") && text.contains("RONDE_INSECURE"), "{text}");
}

/// The real one, where it is installed.
#[test]
fn mpirun() {
    let test = command_of("join_rank");
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", "2"]).arg(test.get_program());
    mpirun.args(test.get_args());
    for (name, value) in test.get_envs() {
        match value {
            Some(value) => mpirun.env(name, value),
            None => mpirun.env_remove(name),
        };
    }
    let Ok(output) = mpirun.output() else { return not_checked("jobs of mpirun: it is not installed") };
    let said = String::from_utf8_lossy(&output.stdout);
    let both = said.contains("rank 0 of 2: 3") && said.contains("rank 1 of 2: 3");
    assert!(output.status.success() && both, "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_says_where_to_meet() {
    let ended = run("join_rank", &[vec![("RONDE_RANK", "1".into()), ("RONDE_SIZE", "2".into())]]);
    assert!(ended[0].output.contains("no coordinator: set RONDE_COORDINATOR"), "{}", ended[0].output);
}

#[test]
fn a_job_of_nobody_is_an_error_at_once() {
    for rank in [None, Some("0")] {
        let started = Instant::now();
        let mut given = vec![("RONDE_SIZE", "0".to_owned()), ("RONDE_COORDINATOR", "127.0.0.1:9".into())];
        given.extend(rank.map(|rank| ("RONDE_RANK", rank.to_owned())));
        let ended = run("join_rank", &[given]);
        assert!(ended[0].output.contains("error: ") && ended[0].output.contains("at least one rank"));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

#[test]
fn yes_and_no_in_every_spelling() {
    let names = ["RONDE_INSECURE", "RONDE_NEWCOMER", "RONDE_SHRINK_ONLY"];
    let read = |value: &str| {
        let given = names.map(|name| (name, value.to_owned())).to_vec();
        run("read_rank", &[given]).remove(0).output
    };
    for (word, value) in [("true", ["1", "Yes", "on", "TRUE"]), ("false", ["0", "no", "Off", "false"])] {
        for value in value {
            let said = read(value);
            for field in ["insecure", "newcomer", "shrink_only"] {
                assert!(said.contains(&format!("{field}: {word}")), "{value}: {said}");
            }
        }
    }
    for name in names {
        let said = run("read_rank", &[vec![(name, "maybe".into())]]).remove(0).output;
        assert!(said.contains(&format!("{name}=maybe")), "{said}");
    }
}
