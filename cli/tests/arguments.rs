//! Exit codes and texts of command lines that ask for nothing to be run.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

fn ronde(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ronde")).args(line.split_whitespace()).output().unwrap()
}

fn code(line: &str) -> i32 {
    ronde(line).status.code().unwrap()
}

#[test]
fn help_and_version_are_no_failures() {
    for line in ["--help", "bench --help", "run -h", "--version", "demo --help", "doctor --help"] {
        assert_eq!(code(line), 0, "{line}");
    }
    assert!(String::from_utf8_lossy(&ronde("bench --help").stdout).contains("--stepfactor"));
}

#[test]
fn wrong_command_lines_end_with_255() {
    for line in [
        "",
        "dance",
        "bench",
        "bench all-reduce -b 1Q",
        "bench all-reduce -d f42",
        "bench all-reduce -n 0",
        "bench all-reduce -a 4",
        "bench all-reduce -z 9",
        "bench all-reduce --ranks 0",
        "bench all-reduce --tolerance maybe",
        "run -n 2",
        "run -n 0 -- true",
        "coordinator --size 0",
        "coordinator --min-peers 0",
        "coordinator --max-peers 0",
        "bench all-reduce --rank 0 --size 0",
        "bench all-reduce -b 1.5",
        "bench pairs --heatmap picture.png",
    ] {
        assert_eq!(code(line), 255, "ronde {line}");
    }
}

#[test]
fn flags_for_gpus_are_refused_with_what_to_use() {
    let help = String::from_utf8_lossy(&ronde("bench --help").stdout).into_owned();
    for (flags, instead) in [
        ("-t 4", "--ranks 4"),
        ("--ngpus 8", "--ranks 8"),
        ("-p 2", "0..=1"),
        ("-y 1", "leave it out"),
        ("--cudagraph 1", "-m"),
        ("-R 2", "-R 1"),
        ("-x 1", "--algorithm"),
        ("-D 1", "--algorithm"),
        ("-V 8", "leave it out"),
    ] {
        let output = ronde(&format!("bench all-reduce {flags}"));
        assert_eq!(output.status.code(), Some(255), "{flags}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(instead), "{flags}: {text}");
        let flag = flags.split(' ').next().unwrap();
        assert!(help.contains(flag), "the help is silent on {flag}");
    }
}

#[test]
fn a_picture_is_refused_by_what_its_name_says() {
    let output = ronde("bench pairs --heatmap picture.png");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("as SVG") && text.contains("picture.png"), "{text}");
}

/// The figures would be those of one group.
#[test]
fn several_groups_side_by_side_are_refused() {
    for (name, value) in [("NCCL_TESTS_SPLIT", "MOD 2"), ("NCCL_TESTS_SPLIT_MASK", "0x1")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
        command.args(["bench", "all-reduce", "-b", "8", "-e", "8"]);
        let output = command.env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{name}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(name) && text.contains(value), "{text}");
        assert_eq!(command.env(name, "").output().unwrap().status.code(), Some(0), "{name}");
    }
}

/// There is nothing of it, so scripts must not take it for success; a reader that has gone has what it wanted.
#[test]
fn output_that_is_lost_is_a_failure_and_said_once() {
    for line in [
        "--help",
        "doctor",
        "bench all-reduce -b 8 -e 8",
        "bench all-reduce -b 8 -e 8 --ranks 2",
        "demo --ranks 2 --epochs 1 --seconds 0 --undisturbed",
        "run -n 2 -- echo lost",
    ] {
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
        let output = command.args(line.split_whitespace()).stdout(full()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "ronde {line}: {text}");
        assert_eq!(text.matches("No space left").count(), 1, "ronde {line}: {text}");
        let status = command.stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "ronde {line}: errors cannot be written either");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let is_ended = line == "doctor" && output.status.signal() == Some(13);
        assert!(output.status.success() || is_ended, "ronde {line}: {output:?}");
    }
}

#[test]
fn requests_that_cannot_be_met_end_with_6() {
    for line in [
        "bench all-reduce -b 2 -e 1",
        "bench all-reduce -f 1",
        "bench all-reduce -b 8 -e 1G -i 8",
        "bench all-reduce --ranks 2 --coordinator 127.0.0.1:1",
    ] {
        let output = ronde(line);
        assert_eq!(output.status.code(), Some(6), "ronde {line}");
        assert!(!output.stderr.is_empty(), "ronde {line} says nothing");
    }
}

/// All ranks find it out for themselves, in any order: one says so, and is not ended before it has.
#[test]
fn what_is_wrong_on_all_ranks_is_said_once() {
    for (line, reason) in [
        ("bench all-reduce --ranks 4 -b 8 -e 8 --algorithm foo", "foo"),
        ("bench broadcast --ranks 4 -b 8 -e 8 -r 5", "root"),
        ("bench all-reduce --ranks 2 -b 8 -e 8 -o band", "operator"),
    ] {
        for _ in 0..6 {
            let output = ronde(line);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(6), "ronde {line}: {text}");
            assert_eq!(text.matches("ronde (rank 0): ").count(), 1, "ronde {line}: {text}");
            assert!(text.contains(reason), "ronde {line}: {text}");
        }
    }
}
