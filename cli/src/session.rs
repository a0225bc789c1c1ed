//! Joining a job from the command line.

use crate::args::JoinArgs;
use crate::exit::Failure;
use crate::launch;
use anyhow::{Context, Result};
use ronde::{Config, Group};

/// Joins the job that the arguments and the environment describe; arguments win.
pub(crate) fn join(args: &JoinArgs) -> Result<Group> {
    let mut config = Config::from_env()?;
    if !args.spawned {
        if let Some(coordinator) = &args.coordinator {
            config = config.coordinator(coordinator.as_str());
        }
        if let Some(rank) = args.rank {
            config = config.rank(rank);
        }
        if let Some(size) = args.size {
            config = config.size(size);
        }
    }
    if let Some(transports) = &args.transports {
        config = config.transports(transports.split(',').map(str::trim))?;
    }
    config.join().context("cannot start the group")
}

/// Whether this process is to start others of itself instead of taking part: returns their exit code.
pub(crate) fn spawn_if_asked(args: &JoinArgs) -> Result<Option<u8>> {
    let Some(ranks) = args.ranks.filter(|_| !args.spawned) else { return Ok(None) };
    if args.coordinator.is_some() || args.rank.is_some() || args.size.is_some() {
        let text = "--ranks starts a job of its own: it does not go with --coordinator, --rank or --size";
        return Err(Failure::usage(text).into());
    }
    launch::spawn_self(ranks).map(Some)
}
