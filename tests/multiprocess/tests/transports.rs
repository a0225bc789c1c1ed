//! Which transport a pair takes where not all processes can share memory.

use ronde::{Config, ReduceOp};
use ronde_multiprocess::{Ended, command_of, free_port, is_child, not_checked, start, through, wait_all};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A user who is nobody, on any system.
const NOBODY: u32 = 65534;

/// Joins, sums, and says by what it is linked to whom.
#[test]
fn link_rank() {
    if !is_child() {
        return;
    }
    let group = match Config::from_env().and_then(|config| config.join()) {
        Ok(group) => group,
        Err(error) => return println!("error: {error}"),
    };
    // A memory of its own is a matter of this process alone.
    let mut data: Vec<u64> = (0..70_001).map(|i| i ^ u64::from(group.rank())).collect();
    let _ = group.all_reduce(&mut data, ReduceOp::Sum).expect("all-reduce");
    let sum = |i: u64| (0..u64::from(group.size())).map(|rank| i ^ rank).sum::<u64>();
    assert!((0..70_001).all(|i| data[i as usize] == sum(i)));
    let mut links: Vec<_> = group.links().into_iter().map(|link| (link.rank, link.transport)).collect();
    links.sort_unstable();
    let links: Vec<String> = links.iter().map(|(rank, transport)| format!("{rank} {transport}")).collect();
    println!("links: {}.", links.join(", "));
    group.close().expect("close");
}

/// Three processes of which `other` makes one, the last, another than the rest.
fn run(variables: &[(&str, &str)], other: impl Fn(Command) -> Command) -> Vec<Ended> {
    let coordinator = format!("127.0.0.1:{}", free_port());
    let begin = |rank: usize| {
        let mut command = command_of("link_rank");
        command.envs([("RONDE_COORDINATOR", coordinator.as_str()), ("RONDE_SIZE", "3")]);
        command.env("RONDE_RANK", rank.to_string()).envs(variables.iter().copied());
        start(&mut if rank == 2 { other(command) } else { command }, rank)
    };
    wait_all((0..3).map(begin).collect(), PATIENCE)
}

fn expect_the_last_by_tcp(ended: &[Ended]) {
    for (end, links) in ended.iter().zip(["1 shm, 2 tcp", "0 shm, 2 tcp", "0 tcp, 1 tcp"]) {
        assert!(end.ok && end.output.contains(&format!("links: {links}.")), "{}", end.output);
    }
}

/// A process that may not make files longer than nothing: the system refuses it memory to share as it would refuse a file.
fn without_shared_memory(command: Command) -> Command {
    through("sh", &["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""], &command)
}

#[test]
fn who_cannot_share_memory_uses_tcp() {
    expect_the_last_by_tcp(&run(&[], without_shared_memory));
}

#[test]
fn who_may_use_nothing_but_shared_memory_says_that_there_is_none() {
    let ended = run(&[("RONDE_TRANSPORTS", "shm"), ("RONDE_CONNECT_TIMEOUT", "3s")], without_shared_memory);
    assert!(ended[2].output.contains("cannot share memory"), "{}", ended[2].output);
    assert!(ended[2].output.contains("RONDE_TRANSPORTS"), "{}", ended[2].output);
    for end in &ended[..2] {
        assert!(end.ok && end.output.contains("error: "), "{}", end.output);
    }
}

#[test]
fn memory_is_not_shared_with_another_user() {
    let may_become = Command::new(std::env::current_exe().unwrap()).arg("--list").uid(NOBODY).output();
    if !may_become.is_ok_and(|listed| listed.status.success()) {
        return not_checked("links to a process of another user: this one may not start any");
    }
    expect_the_last_by_tcp(&run(&[], |mut command| {
        command.uid(NOBODY);
        command
    }));
}
