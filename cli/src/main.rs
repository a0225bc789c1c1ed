//! The `ronde` program.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod clock;
mod exit;
mod launch;
mod output_file;
mod quantity;
mod session;

use args::{Cli, Command, RunArgs};
use clap::Parser;
use clap::error::ErrorKind;
use exit::{Code, code_of};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    start_log();
    let done = match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Run(args) => run(args),
        Command::Rank(args) => return launch::become_rank(args),
        _ => Ok(ExitCode::FAILURE),
    };
    done.unwrap_or_else(|error| {
        let rank = std::env::var("RONDE_RANK").map_or(String::new(), |rank| format!(" (rank {rank})"));
        eprintln!("ronde{rank}: {error:#}");
        code_of(&error).into()
    })
}

/// Prints help, version or what is wrong with the arguments.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let code = if asked_for { Code::Ok } else { Code::BadArguments };
    // A closed pipe behind us changes nothing about the code.
    let _ = error.print();
    code.into()
}

/// Log lines go to stderr, as `RONDE_LOG` says (a level or a filter).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
        .with_env_var("RONDE_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let job = launch::Job {
        command: args.command.clone(),
        ranks: args.ranks,
        prefix: !args.no_prefix,
        keep_going: args.keep_going,
        grace: Duration::from_secs(u64::from(args.grace)),
    };
    launch::run(&job).map(ExitCode::from)
}
