//! `ronde bench recover` from end to end: processes that are killed, and others in their places.

use serde_json::Value;
use std::process::{Command, Output};

fn ronde(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
    command.args(line.split_whitespace()).env("RONDE_TIMEOUT", "60s").env("RONDE_LOG", "error");
    command.output().unwrap()
}

/// Runs the bench and returns its table and its rows.
fn measure(options: &str) -> (String, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recover.json");
    let output = ronde(&format!("bench recover {options} -J {}", path.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{options}\n{text}\n{errors}");
    let rows: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    (text, rows.as_array().unwrap().clone())
}

fn assert_plausible(row: &Value, kills: u32) {
    assert_eq!((&row["collective"], &row["kills"]), (&"all_reduce".into(), &kills.into()), "{row}");
    let figure = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} of {row}"));
    assert!(figure("detect_ms") > 0.0 && figure("detect_max_ms") >= figure("detect_ms"), "{row}");
    assert!(figure("total_ms") > 0.0 && figure("fault_free_ms") > 0.0, "{row}");
    assert!(figure("recover_ms") >= 0.0 && figure("join_ms") > 0.0, "{row}");
    // All that was sent may be sent again, among one fewer. Blocks are not all of one length.
    let (ranks, all) = (figure("ranks"), figure("fault_free_bytes"));
    let again = all * ranks * (ranks - 2.0) / (ranks - 1.0).powi(2);
    assert!(figure("size") < 1e6 || figure("extra_bytes") <= 1.01 * again, "{row}");
    assert!((figure("formula_bytes") - (again - (1.0 - figure("moment")) * all)).abs() < 1.0, "{row}");
}

#[test]
fn deaths_at_all_moments_are_measured() {
    let (text, rows) = measure("--ranks 2,3 --sizes 8,1M --moments 0,0.5,1 --kills 2");
    assert!(text.contains("fault-free") && text.contains("of 24 kills"), "{text}");
    assert!(rows.iter().all(|row| text.contains(&format!("{:.3}", row["join_ms"].as_f64().unwrap()))));
    rows.iter().for_each(|row| assert_plausible(row, 2));
    let mut expected = Vec::new();
    for (ranks, size) in [(2, 8), (2, 1 << 20), (3, 8), (3, 1 << 20)] {
        expected.extend([0.0, 0.5, 1.0].map(|moment| serde_json::json!([ranks, size, moment])));
    }
    let cases = rows.iter().map(|row| serde_json::json!([row["ranks"], row["size"], row["moment"]]));
    assert_eq!(cases.collect::<Vec<_>>(), expected);
}

#[test]
fn the_host_of_the_coordinator_dies_too_and_over_tcp() {
    for transports in ["shm,tcp", "tcp"] {
        let options =
            format!("--ranks 2,3 --host --sizes 1M --moments 0.5 --kills 3 --transports {transports}");
        let (text, rows) = measure(&options);
        assert!(text.contains("the host of the coordinator"), "{text}");
        assert_eq!(rows.len(), 2, "{rows:?}");
        rows.iter().for_each(|row| assert_plausible(row, 3));
    }
}

#[test]
fn sizes_may_be_a_sweep() {
    let (_, rows) = measure("--ranks 2 -b 16 -e 1K -f 8 --moments 0 --kills 1");
    let sizes: Vec<u64> = rows.iter().map(|row| row["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [16, 128, 1024]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (line, code) in [
        ("bench recover --ranks 1,2", 6),
        ("bench recover --ranks 2 --rank 1", 6),
        ("bench recover --spawned", 6),
        ("bench recover --moments 1.5", 255),
        ("bench recover --kills 0", 255),
        ("bench recover --sizes 8 -b 8", 255),
        ("bench all-reduce --ranks 2,4", 255),
        ("bench recover -J /nonexistent/folder/out.json", 1),
    ] {
        let output = ronde(line);
        assert_eq!(output.status.code(), Some(code), "ronde {line}");
        assert!(!output.stderr.is_empty(), "ronde {line} says nothing");
    }
}

#[test]
fn memory_that_is_too_small_is_named() {
    let output = ronde("bench recover --ranks 2 --sizes 1000T --kills 1 --moments 0");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("no memory for"), "{text}");
}

/// A failure of the processes themselves ends their job with its code; nobody is started in their place.
#[test]
fn a_job_that_fails_ends_at_once() {
    let output = ronde("bench recover --ranks 3 --sizes 8 --algorithm none-of-these");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("none-of-these") && text.contains("with 3 ranks and 8 bytes"), "{text}");
}
