//! The `ronde` program.
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout)]

mod args;
mod bench;
mod clock;
mod coordinator;
mod demo;
mod doctor;
mod exit;
mod gpu_flags;
mod launch;
mod output_file;
mod quantity;
mod say;
mod session;
mod status;

use args::{Cli, Command, RunArgs, Target};
use clap::Parser;
use clap::error::ErrorKind;
use exit::{Code, code_of};
use say::complain;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    // Those that kill processes say so themselves.
    let quiet = match &cli.command {
        Command::Demo(_) => true,
        Command::Bench(args) => args.target == Target::Recover,
        _ => false,
    };
    start_log(if quiet { LevelFilter::ERROR } else { LevelFilter::WARN });
    let done = match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Run(args) => run(args),
        Command::Rank(args) => return launch::become_rank(args),
        Command::Demo(args) => demo::run(args),
        Command::Coordinator(args) => coordinator::run(args),
        Command::Status(args) => status::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    match done {
        // Whoever asked for a table must not take the lack of one for success.
        Ok(ExitCode::SUCCESS) if say::is_lost() => Code::Internal.into(),
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Says why the command failed.
fn fail(error: &anyhow::Error) -> ExitCode {
    let code = code_of(error);
    // What is wrong with the arguments is wrong on all ranks alike: one says so.
    let rank = std::env::var("RONDE_RANK").unwrap_or_default();
    if code == Code::InvalidUsage && !matches!(rank.as_str(), "" | "0") {
        return code.into();
    }
    let rank = if rank.is_empty() { rank } else { format!(" (rank {rank})") };
    complain!("ronde{rank}: {error:#}\n");
    code.into()
}

/// Prints help, version or what is wrong with the arguments.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if let Err(lost) = error.print() {
        say::note_lost(&lost);
    }
    match asked_for {
        true if say::is_lost() => Code::Internal,
        true => Code::Ok,
        false => Code::BadArguments,
    }
    .into()
}

/// Log lines go to stderr, as `RONDE_LOG` says (a level or a filter).
fn start_log(default: LevelFilter) {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(default.into())
        .with_env_var("RONDE_LOG")
        .from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let job = launch::Job {
        command: args.command.clone(),
        ranks: args.ranks,
        prefix: !args.no_prefix,
        keep_going: args.keep_going,
        restarts: args.restarts,
        quiet: false,
        alike: None,
        grace: Duration::from_secs(u64::from(args.grace)),
    };
    launch::run(&job).map(ExitCode::from)
}
