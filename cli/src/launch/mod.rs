//! The local launcher: N processes of one program, with the variables that make them a job.
//!
//! One thread decides (this one, over a channel of [`Event`]s); the others only wait for something:
//! one per process for its end, one per pipe for its output, one for signals.
//!
//! A child is first this same program (`ronde __rank`), which ties its life to the launcher's with a
//! parent-death signal and then executes the real one. Each child leads a process group of its own, so
//! that what it started ends with it and so that a Ctrl-C on the terminal reaches it once, through us.

mod child;
mod output;
mod port;

pub(crate) use child::become_rank;
pub(crate) use port::reserve_loopback_port;

use crate::exit::{Code, Failure};
use crate::say::{self, complain};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long output that is still in the pipes is waited for once every process has ended.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(2);

/// What to launch.
pub(crate) struct Job {
    pub(crate) command: Vec<OsString>,
    pub(crate) ranks: u32,
    pub(crate) prefix: bool,
    pub(crate) keep_going: bool,
    /// So many processes that fail are replaced by new ones, which join the job while it runs.
    pub(crate) restarts: u32,
    pub(crate) grace: Duration,
    /// Says nothing of how processes end.
    pub(crate) quiet: bool,
    /// With this code all processes end for the same reason, and one of them says it: none is ended before it has.
    pub(crate) alike: Option<u8>,
}

impl Default for Job {
    fn default() -> Job {
        Job {
            command: Vec::new(),
            ranks: 1,
            prefix: false,
            keep_going: false,
            restarts: 0,
            grace: Duration::from_secs(5),
            quiet: false,
            alike: None,
        }
    }
}

enum Event {
    Signal(i32),
    /// The process of this rank has ended and waits to be reaped.
    Ended(usize),
    /// One output pipe has been read to its end.
    Drained,
}

struct Process {
    child: Child,
    /// `None` until it was reaped.
    status: Option<ExitStatus>,
}

struct Launcher<'a> {
    job: &'a Job,
    environment: child::Environment,
    processes: Vec<Process>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    open_pipes: usize,
    restarts_left: u32,
    /// The launcher was asked to end.
    interrupted: bool,
    /// Code of the first process that failed.
    first_failure: Option<u8>,
    /// When the rest is killed.
    kill_at: Option<Instant>,
}

/// Signals that mean the end of the job; others are passed on and mean what the program makes of them.
const ENDING: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// Runs the job to its end and returns the code to exit with: 0, or that of the first process that
/// failed (128 + signal for one that was killed).
pub(crate) fn run(job: &Job) -> Result<u8> {
    let (sender, events) = channel();
    // Before the first child: a signal from now on ends the job in order.
    let passed_on = ENDING.into_iter().chain([SIGUSR1, SIGUSR2]);
    let signals = Signals::new(passed_on).context("cannot take over signals")?;
    let signals_handle = signals.handle();
    watch_signals(signals, sender.clone());
    let mut launcher = Launcher {
        job,
        environment: child::Environment::new(job.ranks)?,
        processes: Vec::with_capacity(job.ranks as usize),
        events,
        sender,
        open_pipes: 0,
        restarts_left: job.restarts,
        interrupted: false,
        first_failure: None,
        kill_at: None,
    };
    let started = launcher.start_all();
    if started.is_err() {
        launcher.signal_all(Signal::KILL);
    }
    let code = launcher.wait_for_all();
    signals_handle.close();
    started?;
    Ok(code)
}

fn watch_signals(mut signals: Signals, sender: Sender<Event>) {
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
}

impl Launcher<'_> {
    fn start_all(&mut self) -> Result<()> {
        for rank in 0..self.job.ranks {
            let process = self.start(rank, self.environment.of_rank(rank))?;
            self.processes.push(process);
        }
        Ok(())
    }

    fn start(&mut self, place: u32, variables: child::Variables) -> Result<Process> {
        let mut command = child::command(self.job, variables)?;
        if self.job.prefix {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| format!("cannot start rank {place}"))?;
        if let Some(pipe) = child.stdout.take() {
            self.open_pipes += 1;
            forward(pipe, std::io::stdout(), place, self.sender.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            self.open_pipes += 1;
            forward(pipe, std::io::stderr(), place, self.sender.clone());
        }
        watch_end(&child, place as usize, self.sender.clone());
        Ok(Process { child, status: None })
    }

    fn wait_for_all(&mut self) -> u8 {
        while self.processes.iter().any(|process| process.status.is_none()) {
            match self.next_event(self.kill_at) {
                Some(event) => self.handle(event),
                None => {
                    self.kill_at = None;
                    self.signal_all(Signal::KILL);
                }
            }
        }
        let until = Some(Instant::now() + OUTPUT_PATIENCE);
        while self.open_pipes > 0 {
            match self.next_event(until) {
                Some(event) => self.handle(event),
                None => break,
            }
        }
        self.first_failure.unwrap_or(0)
    }

    /// The next event, or `None` at the deadline.
    fn next_event(&self, deadline: Option<Instant>) -> Option<Event> {
        let Some(deadline) = deadline else { return self.events.recv().ok() };
        self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(number) => {
                self.pass_on(number);
            }
            Event::Drained => self.open_pipes -= 1,
            Event::Ended(rank) => self.handle_end(rank),
        }
    }

    /// Who is asked to end has the time of `--grace` to do so. A first Ctrl-C is no such order: programs that take it for one have
    /// all the time they need, and others go on.
    fn pass_on(&mut self, number: i32) {
        if ENDING.contains(&number) {
            if number != SIGINT || self.interrupted {
                self.set_deadline();
            }
            self.interrupted = true;
        }
        if let Some(signal) = Signal::from_named_raw(number) {
            self.signal_all(signal);
        }
    }

    /// The rest is killed after the time of `--grace`, or sooner if that was settled before.
    fn set_deadline(&mut self) {
        self.kill_at.get_or_insert(Instant::now() + self.job.grace);
    }

    fn handle_end(&mut self, rank: usize) {
        let process = &mut self.processes[rank];
        // The process is a zombie still, so its group's number cannot name another one: what it left
        // running ends here.
        signal_group(&process.child, Signal::KILL);
        let Ok(status) = process.child.wait() else { return };
        process.status = Some(status);
        let code = child::exit_code(status);
        // Once the others are being ended, how they end says nothing.
        if code == 0 || self.first_failure.is_some() && !self.job.keep_going {
            return;
        }
        if self.replace(rank, status) {
            return;
        }
        if self.job.alike == Some(code) {
            self.first_failure = Some(code);
            return self.set_deadline();
        }
        // After a signal to the launcher their end is no news.
        if !self.interrupted && !self.job.quiet {
            let others = if self.job.keep_going { "" } else { "; ending the others" };
            complain!("ronde: rank {rank} {}{others}\n", child::describe(status));
        }
        self.first_failure.get_or_insert(code);
        if !self.job.keep_going {
            self.signal_all(Signal::TERM);
            self.set_deadline();
        }
    }

    /// Starts a process in place of one that failed, if that is wanted.
    fn replace(&mut self, place: usize, status: ExitStatus) -> bool {
        let others_run = self.processes.iter().enumerate().any(|(at, p)| at != place && p.status.is_none());
        if self.restarts_left == 0 || self.interrupted || !others_run {
            return false;
        }
        self.restarts_left -= 1;
        let started = self.start(place as u32, self.environment.of_newcomer(place as u32));
        if !self.job.quiet {
            let what = if started.is_ok() { "another takes its place" } else { "no other can be started" };
            complain!("ronde: the process in place {place} {}; {what}\n", child::describe(status));
        }
        match started {
            Ok(process) => {
                self.processes[place] = process;
                true
            }
            Err(_) => false,
        }
    }

    fn signal_all(&self, signal: Signal) {
        for process in self.processes.iter().filter(|process| process.status.is_none()) {
            signal_group(&process.child, signal);
        }
    }
}

/// Signals the group of a child that was not reaped yet. A group that is empty needs no signal.
fn signal_group(child: &Child, signal: Signal) {
    if let Some(pid) = pid_of(child) {
        let _ = kill_process_group(pid, signal);
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Reports the end of a child without reaping it: until the deciding thread does, its number stays
/// taken, and no signal can hit a stranger.
fn watch_end(child: &Child, rank: usize, sender: Sender<Event>) {
    let pid = pid_of(child);
    std::thread::spawn(move || {
        if let Some(pid) = pid {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
        }
        let _ = sender.send(Event::Ended(rank));
    });
}

fn forward(
    pipe: impl std::io::Read + Send + 'static,
    to: impl std::io::Write + Send + 'static,
    rank: u32,
    sender: Sender<Event>,
) {
    std::thread::spawn(move || {
        if let Err(error) = output::copy_lines(pipe, to, &format!("[{rank}] ")) {
            say::note_lost(&error);
        }
        let _ = sender.send(Event::Drained);
    });
}

/// Starts this program again as `ranks` processes with the same arguments, and returns their code.
pub(crate) fn spawn_self(ranks: u32) -> Result<u8> {
    let alike = Some(Code::InvalidUsage as u8);
    let job = Job { command: own_command()?, ranks, alike, ..Job::default() };
    run(&job)
}

/// This program as it was started, as one process of a job.
pub(crate) fn own_command() -> Result<Vec<OsString>> {
    let mut command = vec![own_path()?];
    command.extend(std::env::args_os().skip(1));
    command.push("--spawned".into());
    Ok(command)
}

/// The running executable.
fn own_path() -> Result<OsString> {
    let path = std::env::current_exe();
    let path =
        path.map_err(|e| Failure::new(Code::Library, format!("cannot find this program's own file: {e}")))?;
    Ok(path.into_os_string())
}
