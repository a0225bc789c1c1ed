//! Starts this test binary once per rank and collects what the ranks say.
//!
//! A test named `x` calls [`launch`] in the parent; the children run the test function `x_rank`, which
//! returns at once unless [`is_child`] says that it is one.

mod proxy;
pub mod threads;

pub use proxy::Proxy;
use ronde::{Config, Group};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHILD: &str = "RONDE_TEST_CHILD";
const SIGKILL: i32 = 9;

/// True in a process that [`launch`] started.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// One rank's process.
pub struct RankProcess {
    /// Its rank.
    pub rank: usize,
    child: Child,
}

/// How a rank ended.
pub struct Ended {
    /// Its rank.
    pub rank: usize,
    /// It exited with status 0.
    pub ok: bool,
    /// SIGKILL ended it, and not for want of time.
    pub killed: bool,
    /// It was not done in time.
    pub late: bool,
    /// What it printed.
    pub output: String,
}

/// Says what a test leaves out for want of something that this machine lacks. `tests/run` shows it at its end: what a test
/// prints is not seen unless it fails.
pub fn not_checked(what: &str) {
    eprintln!("NOT CHECKED: {what}");
    if let Some(list) = std::env::var_os("RONDE_TEST_NOT_CHECKED") {
        let list = OpenOptions::new().append(true).create(true).open(list);
        writeln!(list.expect("the list of tests/run"), "{what}").expect("a line");
    }
}

/// For how many seconds to go on, and the seed, as `tests/soak` says.
pub fn soak() -> (f64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<f64>().ok());
    (number("RONDE_TEST_SECONDS").unwrap_or(60.0), number("RONDE_TEST_SEED").unwrap_or(0.0) as u64)
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Starts `ranks` processes that run the test function `function`.
pub fn launch(function: &str, ranks: usize, variables: &[(&str, &str)]) -> Vec<RankProcess> {
    let coordinator = format!("127.0.0.1:{}", free_port());
    let start = |rank: usize| {
        let mut child = command(function, &coordinator, variables);
        child.env("RONDE_RANK", rank.to_string()).env("RONDE_SIZE", ranks.to_string());
        RankProcess { rank, child: child.spawn().expect("a child process") }
    };
    (0..ranks).map(start).collect()
}

/// Starts a process that joins the job at an address, whenever that is, and runs the test function.
pub fn spawn(function: &str, number: usize, coordinator: &str, variables: &[(&str, &str)]) -> RankProcess {
    let child = command(function, coordinator, variables).spawn().expect("a child process");
    RankProcess { rank: number, child }
}

/// Starts a process that knows of its job only what these variables say, and runs the test function.
pub fn spawn_with(function: &str, rank: usize, variables: &[(&str, &str)]) -> RankProcess {
    start(command_of(function).envs(variables.iter().copied()), rank)
}

/// What runs a command through another program, such as a shell that sets limits first.
pub fn through(program: &str, arguments: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}

/// Starts what [`command_of`] gave, with whatever was added to it.
pub fn start(command: &mut Command, rank: usize) -> RankProcess {
    RankProcess { rank, child: command.spawn().expect("a child process") }
}

/// What runs the test function in a process that is told nothing of any job.
pub fn command_of(function: &str) -> Command {
    let mut command = command(function, "", &[]);
    let launchers = ["RONDE_RANK", "RONDE_SIZE", "RANK", "WORLD_SIZE", "MASTER_", "SLURM_", "OMPI_", "PMIX_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| launchers.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

fn command(function: &str, coordinator: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test binary"));
    command
        .args(["--exact", function, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RONDE_COORDINATOR", coordinator)
        .env("RONDE_DIGESTS", "always")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl RankProcess {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output; only once.
    pub fn take_stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("taken once")
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "the child was running");
    }

    /// kill -9, if it has not ended.
    pub fn end(&mut self) {
        // It may be ending at this moment.
        let _ = self.child.kill();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child was running");
    }
}

/// Waits for all; kills those that are not done in time.
pub fn wait_all(ranks: Vec<RankProcess>, patience: Duration) -> Vec<Ended> {
    let deadline = Instant::now() + patience;
    let wait = |mut process: RankProcess| {
        let mut pipes = (process.child.stdout.take(), process.child.stderr.take());
        let reader = std::thread::spawn(move || {
            let (mut out, mut err) = (String::new(), String::new());
            let error_reader = pipes.1.take().map(|mut pipe| {
                std::thread::spawn(move || {
                    let _ = pipe.read_to_string(&mut err);
                    err
                })
            });
            if let Some(mut pipe) = pipes.0.take() {
                let _ = pipe.read_to_string(&mut out);
            }
            out + &error_reader.and_then(|r| r.join().ok()).unwrap_or_default()
        });
        let rank = process.rank;
        (rank, process, reader)
    };
    let waiting: Vec<_> = ranks.into_iter().map(wait).collect();
    let mut ended = Vec::new();
    for (rank, mut process, reader) in waiting {
        let status = loop {
            match process.child.try_wait().expect("the child's status") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    let _ = process.child.kill();
                    let _ = process.child.wait();
                    break None;
                }
                None => std::thread::park_timeout(Duration::from_millis(2)),
            }
        };
        let output = reader.join().unwrap_or_default();
        let ok = status.is_some_and(|s| s.success());
        let killed = status.is_some_and(|s| s.signal() == Some(SIGKILL));
        ended.push(Ended { rank, ok, killed, output, late: status.is_none() });
    }
    ended
}

/// Runs `function` on `ranks` processes and fails with their output unless all succeed.
///
/// The limit is above the deadline that calls have by themselves (five minutes), which says what hangs. Some ranks have
/// much to do: where others want the processors too, the matrix over eight takes minutes.
pub fn run(function: &str, ranks: usize, variables: &[(&str, &str)]) {
    let ended = wait_all(launch(function, ranks, variables), Duration::from_secs(420));
    for rank in &ended {
        let how = if rank.late { "was not done in time" } else { "failed" };
        assert!(rank.ok, "rank {} of {ranks} {variables:?} {how}:\n{}", rank.rank, rank.output);
    }
}

/// Runs `each` as every rank of jobs of 1 to 5 ranks over each kind of link. Ranks are threads, since a process may hold
/// several.
pub fn everywhere(each: impl Fn(&Group) + Sync) {
    for (transports, size) in [("shm", 2), ("shm", 3), ("shm", 5), ("tcp", 1), ("tcp", 2), ("tcp", 4)] {
        let coordinator = format!("127.0.0.1:{}", free_port());
        std::thread::scope(|scope| {
            for rank in 0..size {
                let config = Config::new().coordinator(&coordinator).rank(rank).size(size);
                let config = config.transports(transports.split(',')).expect("their names");
                let each = &each;
                scope.spawn(move || {
                    let group = config.join().expect("join");
                    each(&group);
                    group.close().expect("close");
                });
            }
        });
    }
}
