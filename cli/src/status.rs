//! `ronde status`: how a job is, as its coordinator sees it.

use crate::args::StatusArgs;
use crate::bench::to_json;
use crate::say::say;
use anyhow::{Context, Result};
use ronde::{Config, Status, Suspicion};
use std::process::ExitCode;
use std::time::Duration;

/// How long the coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &StatusArgs) -> Result<ExitCode> {
    let mut config = Config::from_env()?.connect_timeout(PATIENCE);
    if let Some(coordinator) = &args.coordinator {
        config = config.coordinator(coordinator.as_str());
    }
    if let Some(job) = &args.job {
        config = config.job(job.as_str())?;
    }
    let status = ronde::job_status(&config).context("cannot ask the coordinator")?;
    let text = if args.json { to_json(&status) } else { show(&status).into_bytes() };
    say!("{}", String::from_utf8_lossy(&text));
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status) -> String {
    let host = status.host.map_or_else(|| "a process of its own".into(), |rank| format!("rank {rank}"));
    let mut text = format!(
        "{}: {} ranks, generation {}, epoch {}, coordinator in {host} (life {})\n",
        status.state,
        status.members.len(),
        status.generation,
        status.epoch,
        status.incarnation
    );
    text += &status.failure.iter().map(|why| format!("failed: {why}\n")).collect::<String>();
    text += &format!(
        "{:>6}  {:<10}{:<20}{:>9}  {:<24}{:>10}{:>12}  {}\n",
        "rank", "state", "host", "pid", "address", "silent ms", "calls", "where it is"
    );
    for member in &status.members {
        let address = member.addresses.first().map_or("", String::as_str);
        let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
        let (silent, calls) = (number(member.silent_ms), number(member.calls_ended));
        let in_call = member.in_call.as_deref().unwrap_or("-");
        text += &format!(
            "{:>6}  {:<10}{:<20}{:>9}  {address:<24}{silent:>10}{calls:>12}  {in_call}\n",
            member.rank, member.state, member.host, member.pid
        );
    }
    for pending in &status.pending {
        text += &format!("{:>6}  {:<10}{:<20}{:>9}\n", "-", "waits", pending.host, pending.pid);
    }
    if let Some(next) = &status.next {
        let what = if next.armed { "a safe point" } else { "links" };
        let members: Vec<String> = next.waits_for.iter().map(ToString::to_string).collect();
        text += &format!("next: {} ranks; {what} of members {} missing\n", next.ranks, members.join(", "));
    }
    for Suspicion { member, by, reason, judged_in_ms } in &status.suspicions {
        let by = by.map_or_else(|| "the coordinator".into(), |by| format!("member {by}"));
        let until = judged_in_ms
            .map_or_else(|| "until it is known to have ended".into(), |ms| format!("for {ms} ms"));
        text += &format!("suspicion: member {member}, by {by}: {reason} (waits {until})\n");
    }
    text
}
