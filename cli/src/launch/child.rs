//! One process of a job: its variables, how it starts, what its end means.

use super::{Job, own_path, reserve_loopback_port};
use crate::args::ChildArgs;
use crate::say::complain;
use anyhow::{Context, Result};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::io::{ErrorKind, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// As shells have it: found but not executable, and not found.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What the ranks of one job have in common.
pub(super) struct Environment {
    coordinator: String,
    token: String,
    ranks: u32,
}

impl Environment {
    pub(super) fn new(ranks: u32) -> Result<Environment> {
        let port = reserve_loopback_port().context("cannot reserve a port on loopback")?;
        Ok(Environment { coordinator: format!("127.0.0.1:{port}"), token: random_token()?, ranks })
    }

    /// The variables of one rank. All ranks share this host, so local numbers equal global ones.
    pub(super) fn of_rank(&self, rank: u32) -> Variables {
        let mut variables = self.of_place(rank);
        variables.extend([
            ("RONDE_RANK", rank.to_string()),
            ("RONDE_SIZE", self.ranks.to_string()),
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", self.ranks.to_string()),
        ]);
        variables
    }

    /// The variables of a process that takes the place of one that failed: it joins the job while it runs,
    /// which gives it a rank.
    pub(super) fn of_newcomer(&self, place: u32) -> Variables {
        let mut variables = self.of_place(place);
        variables.push(("RONDE_NEWCOMER", "1".into()));
        variables
    }

    fn of_place(&self, place: u32) -> Variables {
        vec![
            ("RONDE_COORDINATOR", self.coordinator.clone()),
            ("RONDE_TOKEN", self.token.clone()),
            ("LOCAL_RANK", place.to_string()),
            ("LOCAL_WORLD_SIZE", self.ranks.to_string()),
        ]
    }
}

/// Names and values.
pub(super) type Variables = Vec<(&'static str, String)>;

/// The command of one process, not started yet.
pub(super) fn command(job: &Job, variables: Variables) -> Result<Command> {
    let mut command = Command::new(own_path()?);
    command
        .args(["__rank", "--parent", &std::process::id().to_string(), "--"])
        .args(&job.command)
        .envs(variables)
        .stdin(Stdio::null())
        .process_group(0);
    Ok(command)
}

/// `ronde __rank`: ties this process to the launcher's life and becomes the program.
pub(crate) fn become_rank(args: &ChildArgs) -> ExitCode {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        complain!("ronde: cannot tie this process to its launcher: {error}\n");
    }
    // The launcher may have died before the line above took effect.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
        return ExitCode::FAILURE;
    }
    let [program, rest @ ..] = args.command.as_slice() else { return ExitCode::FAILURE };
    let error = Command::new(program).args(rest).exec();
    complain!("ronde: cannot execute {}: {error}\n", program.to_string_lossy());
    ExitCode::from(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// The code a shell would show.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// How a process ended, for people.
pub(super) fn describe(status: ExitStatus) -> String {
    let Some(number) = status.signal() else { return format!("exited with code {}", exit_code(status)) };
    match signal_hook::low_level::signal_name(number) {
        Some(name) => format!("was ended by {name}"),
        None => format!("was ended by signal {number}"),
    }
}

/// 128 random bits in hexadecimal.
fn random_token() -> Result<String> {
    let mut bytes = [0u8; 16];
    let source = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    source.context("cannot read random bytes for the job's token")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }

    #[test]
    fn tokens_differ() {
        let (a, b) = (random_token().unwrap(), random_token().unwrap());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
    }
}
