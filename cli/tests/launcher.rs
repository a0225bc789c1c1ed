//! `ronde run` with shells as ranks: variables, output, exit codes, signals, and who dies with whom.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes longer, so that a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn ronde(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(options: &[&str], script: &str) -> Output {
    let arguments = [&["run"], options, &["--", "/bin/sh", "-c", script]].concat();
    ronde(&arguments).output().unwrap()
}

fn sorted_lines(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Waits for a process with a deadline.
fn wait(child: &mut Child) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < deadline, "the launcher does not end");
        std::thread::yield_now();
    }
}

/// Waits until the process with this number is gone or a zombie.
fn assert_ends(pid: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        if matches!(state, None | Some('Z' | 'X')) {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} is still there: {stat}");
        std::thread::yield_now();
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success());
}

#[test]
fn every_rank_gets_its_variables() {
    let script = "echo $RONDE_RANK/$RONDE_SIZE $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE \
                  ${RONDE_COORDINATOR%:*} ${#RONDE_TOKEN}";
    let output = run(&["-n", "3"], script);
    assert_eq!(output.status.code(), Some(0));
    let expected: Vec<String> =
        (0..3).map(|rank| format!("[{rank}] {rank}/3 {rank}/3 {rank}/3 127.0.0.1 32")).collect();
    assert_eq!(sorted_lines(&output.stdout), expected);
}

#[test]
fn all_ranks_share_coordinator_and_token() {
    let output = run(&["-n", "4", "--no-prefix"], "echo $RONDE_COORDINATOR $RONDE_TOKEN");
    let lines = sorted_lines(&output.stdout);
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
}

#[test]
fn output_and_errors_keep_apart() {
    let output = run(&["-n", "2"], "echo out; echo err >&2; printf unfinished");
    assert_eq!(sorted_lines(&output.stdout), ["[0] out", "[0] unfinished", "[1] out", "[1] unfinished"]);
    assert_eq!(sorted_lines(&output.stderr), ["[0] err", "[1] err"]);
}

#[test]
fn the_first_failure_gives_the_code_and_ends_the_others() {
    let started = Instant::now();
    let output = run(&["-n", "3"], "if [ $RANK = 1 ]; then exit 42; fi; exec sleep 600");
    assert_eq!(output.status.code(), Some(42));
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn who_ignores_the_request_to_end_is_killed() {
    let script = "trap '' TERM; if [ $RANK = 0 ]; then exit 3; fi; while :; do sleep 1; done";
    let output = run(&["-n", "2", "--grace", "0"], script);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    let output = run(&["-n", "2"], "if [ $RANK = 1 ]; then kill -9 $$; fi");
    assert_eq!(output.status.code(), Some(137));
    assert_eq!(sorted_lines(&output.stderr), ["ronde: rank 1 was ended by SIGKILL; ending the others"]);
}

#[test]
fn keep_going_lets_the_others_finish() {
    let output = run(&["-n", "2", "--keep-going"], "if [ $RANK = 0 ]; then exit 5; fi; echo done");
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(sorted_lines(&output.stdout), ["[1] done"]);
    assert_eq!(sorted_lines(&output.stderr), ["ronde: rank 0 exited with code 5"]);
}

#[test]
fn a_program_that_is_not_there() {
    let output = ronde(&["run", "-n", "1", "--", "/nonexistent/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/program"));
}

#[test]
fn signals_reach_every_rank() {
    for (name, code) in [("INT", 20), ("TERM", 21), ("HUP", 22)] {
        let script = format!("trap 'exit {code}' {name}; echo ready; while :; do sleep 1 & wait $!; done");
        let mut child = ronde(&["run", "-n", "2", "--", "/bin/sh", "-c", &script]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            assert!(lines.next().unwrap().unwrap().ends_with("ready"));
        }
        signal(child.id(), name);
        assert_eq!(wait(&mut child), code, "{name}");
    }
}

/// Who does not end when the launcher is told to is killed after the time that was given. A first Ctrl-C is the program's.
#[test]
fn an_order_to_end_is_followed_by_a_kill() {
    // Short commands: a signal that finds the shell between two of them is seen after the next.
    let script = "trap '' TERM HUP QUIT; trap 'echo got' INT; echo ready; while :; do sleep 1; done";
    for names in [&["TERM"][..], &["HUP"], &["QUIT"], &["INT", "INT"]] {
        let line = ["run", "-n", "2", "--grace", "0", "--", "/bin/sh", "-c", script];
        let mut child = ronde(&line).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut expect =
            |word: &str| (0..2).for_each(|_| assert!(lines.next().unwrap().unwrap().ends_with(word)));
        expect("ready");
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                expect("got");
            }
            signal(child.id(), name);
        }
        assert_eq!(wait(&mut child), 137, "{names:?}");
    }
}

/// They are the program's, and the job goes on.
#[test]
fn signals_of_users_reach_every_rank() {
    for name in ["USR1", "USR2"] {
        let script = format!("trap 'echo got' {name}; echo ready; while :; do sleep 1 & wait $!; done");
        let mut child = ronde(&["run", "-n", "2", "--", "/bin/sh", "-c", &script]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut expect =
            |word: &str| (0..2).for_each(|_| assert!(lines.next().unwrap().unwrap().ends_with(word)));
        expect("ready");
        signal(child.id(), name);
        expect("got");
        signal(child.id(), "TERM");
        assert_eq!(wait(&mut child), 143, "{name}");
    }
}

#[test]
fn ranks_and_what_they_started_die_with_the_launcher() {
    let script = "echo $$; exec sleep 600";
    let mut child = ronde(&["run", "-n", "2", "--no-prefix", "--", "/bin/sh", "-c", script]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pids: Vec<String> = (0..2).map(|_| lines.next().unwrap().unwrap()).collect();
    signal(child.id(), "KILL");
    child.wait().unwrap();
    pids.iter().for_each(|pid| assert_ends(pid));
}

#[test]
fn what_a_rank_leaves_running_ends_with_it() {
    let mut child = ronde(&["run", "-n", "1", "--", "/bin/sh", "-c", "sleep 600 & echo $!"]).spawn().unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(wait(&mut child), 0);
    assert_ends(output.trim().trim_start_matches("[0] "));
}
