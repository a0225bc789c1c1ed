//! The program from end to end, over the library: processes on loopback.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn ronde(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // No process is stopped here: one that is silent is only short of processor time. Losses end connections.
    command.env("RONDE_TIMEOUT", "60s").env("RONDE_HEARTBEAT", "2s");
    command
}

fn run(line: &str) -> Output {
    ronde(line).output().unwrap()
}

fn assert_ok(line: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "ronde {line}\n{text}\n{errors}");
    text
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every row and side of a bench was checked and found right.
fn assert_nothing_wrong(report: &Value, rows: usize) {
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), rows, "{report}");
    for row in results {
        for side in ["out_of_place", "in_place"].map(|side| &row[side]).iter().filter(|side| !side.is_null())
        {
            assert_eq!(side["nwrong"], 0, "{row}");
            assert!(side["time"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
}

fn assert_demonstration_is_right(report: &Value, ranks: usize) {
    assert!(report["accuracy"].as_f64().unwrap() > 0.93, "{report}");
    let digests = report["digests"].as_array().unwrap();
    assert_eq!(digests.len(), ranks);
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{report}");
    assert!(report["max_abs_diff"].as_f64().unwrap() < 1e-4, "{report}");
    assert!(report["bytes"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["steps_lost"], 0, "{report}");
    let transports = report["transports"].as_array().unwrap();
    assert_eq!(transports.len(), ranks * (ranks - 1) / 2);
    assert!(transports.iter().all(|pair| ["shm", "tcp"].contains(&pair["transport"].as_str().unwrap())));
}

#[test]
fn the_demonstration_goes_on_after_a_death_and_takes_a_new_process_in() {
    let folder = tempfile::tempdir().unwrap();
    for (ranks, seconds) in [(4, "1"), (2, "0")] {
        let path = folder.path().join(format!("demo-{ranks}.json"));
        let line = format!("demo --ranks {ranks} --seconds {seconds} -J {}", path.display());
        let text = assert_ok(&line, &run(&line));
        assert!(text.contains("identical"), "{text}");
        assert!(text.contains("was killed in the middle of the all-reduce"), "{text}");
        let report = json(&path);
        assert_demonstration_is_right(&report, ranks);
        let kills = report["kills"].as_array().unwrap();
        assert_eq!(kills.len(), 1, "{report}");
        assert_eq!(kills[0]["rank"], ranks / 2, "{report}");
        assert!(kills[0]["total_ms"].as_f64().unwrap() > 0.0, "{report}");
        let joins = report["joins"].as_array().unwrap();
        assert_eq!(joins.len(), 1, "{report}");
        assert_eq!(joins[0]["rank"], ranks - 1, "{report}");
        assert!(joins[0]["join_ms"].as_f64().unwrap() > 0.0, "{report}");
        let views: Vec<u64> =
            report["views"].as_array().unwrap().iter().map(|view| view["ranks"].as_u64().unwrap()).collect();
        assert_eq!((views[0], *views.last().unwrap()), (ranks as u64, ranks as u64), "{report}");
    }
}

#[test]
fn an_undisturbed_demonstration_learns_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.json");
    let line = format!("demo --undisturbed --seconds 0 -J {}", path.display());
    assert_ok(&line, &run(&line));
    let report = json(&path);
    assert_demonstration_is_right(&report, 4);
    assert_eq!((report["steps"].as_u64(), report["kills"].as_array().map(Vec::len)), (Some(450), Some(0)));
}

#[test]
fn every_collective_is_right_over_both_transports() {
    let folder = tempfile::tempdir().unwrap();
    let collectives = [
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "all-to-all",
        "all-to-all-v",
        "broadcast",
        "reduce",
        "gather",
        "scatter",
        "send-recv",
    ];
    for collective in collectives {
        for transport in ["shm", "tcp"] {
            let path = folder.path().join(format!("{collective}-{transport}.json"));
            let line = format!(
                "bench {collective} --ranks 3 -b 1 -e 200K -f 13 -n 2 -u 1 --transports {transport} -J {}",
                path.display()
            );
            assert_ok(&line, &run(&line));
            assert_nothing_wrong(&json(&path), 5);
        }
    }
    assert_ok("barrier", &run("bench barrier --ranks 3"));
}

#[test]
fn operations_in_flight_together_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let line = format!(
        "bench all-reduce --ranks 2 -b 4K -e 64K -f 4 -m 4 -n 3 -I -z --registered -J {}",
        path.display()
    );
    assert_ok(&line, &run(&line));
    let report = json(&path);
    assert_nothing_wrong(&report, 3);
    assert_eq!(report["results"][0]["in_place_per_iter"]["times_us"].as_array().unwrap().len(), 3);
    assert_eq!(report["env"]["RONDE_TOKEN"], "(hidden)");
}

/// A line as scripts of nccl-tests have it.
#[test]
fn flags_for_gpus_that_ask_for_nothing_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let line = format!(
        "bench all-reduce --ranks 2 -b 8 -e 8K -f 32 -n 2 -t 1 -g 1 -p 1 -T 0 -y 0 -G 0 -x 0 -D 0 -V 16 -R 1 -J {}",
        path.display()
    );
    let text = assert_ok(&line, &run(&line));
    assert!(text.contains("memory: registered"), "{text}");
    let report = json(&path);
    assert_nothing_wrong(&report, 3);
    assert_eq!(report["config"]["registered"], true);
    assert_eq!(report["config"]["parallel_init"], true);
}

#[test]
fn pairs_give_a_table_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, report) = (folder.path().join("pairs.svg"), folder.path().join("pairs.json"));
    let line = format!("bench pairs --ranks 3 -n 2 --heatmap {} -J {}", picture.display(), report.display());
    let text = assert_ok(&line, &run(&line));
    assert!(text.contains("# Out of bounds values : 0 OK"), "{text}");
    assert!(std::fs::read_to_string(picture).unwrap().starts_with("<svg"));
    let report = json(&report);
    assert_eq!(report["results"].as_array().unwrap().len(), 6);
    assert!(
        report["results"].as_array().unwrap().iter().all(|pair| pair["bandwidth"].as_f64().unwrap() > 0.0)
    );
}

#[test]
fn costs_end_in_a_line_for_the_environment() {
    for transport in ["shm", "tcp"] {
        let line = format!("bench costs --ranks 2 --transports {transport}");
        let text = assert_ok(&line, &run(&line));
        let setting = text.lines().last().and_then(|line| line.strip_prefix("RONDE_COSTS=")).expect(&text);
        let table: ronde::CostTable = setting.trim_matches('"').parse().unwrap();
        let default = ronde::CostTable::default();
        assert_ne!(
            if transport == "shm" { table.shm } else { table.tcp },
            if transport == "shm" { default.shm } else { default.tcp }
        );
    }
}

#[test]
fn too_slow_is_a_failure_of_its_own() {
    let output = run("bench all-reduce --ranks 2 -b 8 -e 8 --min-bw 100000");
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED"));
}

#[test]
fn one_process_is_a_group_too() {
    let text = assert_ok("bench", &run("bench all-reduce -b 8 -e 8K -f 32"));
    assert!(text.contains("nRanks 1"), "{text}");
}

#[test]
fn processes_started_by_hand_meet_at_a_coordinator() {
    // Free a moment ago; the coordinator binds it at once.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let coordinator = format!("coordinator --listen 127.0.0.1:{port} --size 2");
    let member = |rank: u32| {
        format!("bench all-reduce -b 8 -e 8 --coordinator 127.0.0.1:{port} --size 2 --rank {rank}")
    };
    let start = |line: String| -> (String, Child) {
        let child = ronde(&line).spawn().unwrap();
        (line, child)
    };
    let mut started = vec![start(coordinator)];
    // Rank 0 would host the coordinator itself if none listened yet.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(std::time::Instant::now() < deadline, "the coordinator never listened");
        std::thread::yield_now();
    }
    started.extend([member(1), member(0)].map(start));
    for (line, child) in started {
        assert_ok(&line, &child.wait_with_output().unwrap());
    }
}

#[test]
fn a_result_file_that_cannot_be_made_is_named() {
    let output = run("bench all-reduce --ranks 2 -b 8 -e 8 -J /nonexistent/folder/out.json");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/folder/out.json"));
}

#[test]
fn a_demonstration_whose_file_cannot_be_made_starts_nothing() {
    let output = run("demo --seconds 0 -J /nonexistent/x.json");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("/nonexistent/x.json") && output.stdout.is_empty(), "{output:?}");
}

/// Pipes and devices are written to as they are, after the table.
#[test]
fn results_may_go_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let lines =
        ["bench all-reduce --ranks 2 -b 8 -e 8 -n 1", "demo --undisturbed --ranks 2 --epochs 1 --seconds 0"];
    for line in lines.map(|line| format!("{line} -J /dev/stdout")) {
        let to_pipe = assert_ok(&line, &run(&line));
        let file = std::fs::File::create(&path).unwrap();
        let output = ronde(&line).stdout(file).output().unwrap();
        assert_ok(&line, &output);
        for text in [to_pipe, std::fs::read_to_string(&path).unwrap()] {
            let (table, rest) = text.split_at(text.find("\n{\n").expect(&text) + 1);
            assert!(table.lines().count() > 3, "{text}");
            let first = serde_json::Deserializer::from_str(rest).into_iter::<Value>().next();
            assert!(first.unwrap().unwrap().is_object(), "{text}");
        }
    }
    assert_ok("/dev/null", &run("bench all-reduce -b 8 -e 8 -J /dev/null"));
}

#[test]
fn vectors_that_memory_is_too_small_for_are_named() {
    for line in [
        "bench all-reduce -b 1000T -e 1000T",
        "bench pairs --ranks 2 -b 1000T -e 1000T",
        "bench all-gather -m 1024 -b 8000000T",
    ] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(3), "ronde {line}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("no memory for"), "ronde {line}: {text}");
    }
}

/// A file on the disk that is full when the results are there.
#[test]
fn a_result_that_cannot_be_written_is_a_failure_of_all_ranks() {
    let (_, outputs) = run_as_members("bench all-reduce -b 8 -e 8 -J /dev/full", 2, |_| {});
    for (rank, output) in outputs.iter().enumerate() {
        assert_eq!(output.status.code(), Some(1), "rank {rank}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/full"), "rank {rank}: {output:?}");
    }
}

#[test]
fn a_lost_rank_has_an_exit_code_of_its_own_and_makes_nothing_wrong() {
    for bench in
        ["all-reduce", "all-reduce -o avg -d i32 --tolerance per-window", "all-gather -c 0", "barrier"]
    {
        // More rows than a pipe holds, so that the others cannot be through before the last rank is killed.
        let line = format!("bench {bench} -b 8 -e 8 -n 1 -w 0 -N 1000");
        let (table, outputs) = run_as_members(&line, 3, |last| last.kill().unwrap());
        for (rank, output) in outputs.iter().take(2).enumerate() {
            assert_eq!(output.status.code(), Some(8), "ronde {line}: rank {rank}\n{table}\n{output:?}");
        }
        assert!(table.contains("# Out of bounds values : 0 OK"), "{table}");
    }
}

/// Runs a bench as processes that meet at the first one's port. `disturb` gets the last one after the first row; returns what
/// rank 0 printed, and of all what else they did.
fn run_as_members(line: &str, size: usize, disturb: impl FnOnce(&mut Child)) -> (String, Vec<Output>) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank| {
        let member = format!("{line} --coordinator 127.0.0.1:{port} --size {size} --rank {rank}");
        ronde(&member).spawn().unwrap()
    };
    let mut members: Vec<Child> = (0..size).map(start).collect();
    let mut printed = BufReader::new(members[0].stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_row = |text: &String| !text.starts_with('#');
    let mut table: Vec<String> = Vec::new();
    while !table.last().is_some_and(is_row) {
        table.push(printed.next().unwrap_or_else(|| panic!("no row: {table:?}")));
    }
    disturb(members.last_mut().unwrap());
    table.extend(printed);
    let outputs = members.into_iter().map(|member| member.wait_with_output().unwrap()).collect();
    (table.join("\n"), outputs)
}

/// A terminal and what was written to it.
fn with_terminal(command: &mut Command) -> (Output, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read;
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut ours = std::fs::File::from(ours);
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // A terminal whose other side was closed gives an error at its end.
        let _ = ours.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let output = command.env("TERM", "xterm").stderr(Stdio::from(theirs)).output().unwrap();
    // The command keeps this side of the terminal open.
    command.stderr(Stdio::null());
    (output, reader.join().unwrap())
}

#[test]
fn progress_is_shown_on_a_terminal_and_only_there() {
    let line = "bench all-reduce --ranks 2 -b 8 -e 4M -f 4 -n 20";
    let (output, shown) = with_terminal(&mut ronde(line));
    let table = assert_ok(line, &output);
    assert!(shown.contains("rows") && shown.contains('\r'), "no bar: {shown:?}");
    assert!(!table.contains('\r') && !table.contains("rows "), "{table}");
    let plain = run(line);
    assert!(!String::from_utf8_lossy(&plain.stderr).contains('\r'));
}

#[test]
fn the_status_of_a_job_that_runs() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let group = ronde::Config::new().coordinator(&address).min_peers(1).join().unwrap();
    let line = format!("status --coordinator {address}");
    let text = assert_ok(&line, &run(&line));
    assert!(text.contains("active: 1 ranks") && text.contains("here"), "{text}");
    let text = assert_ok(&line, &run(&format!("{line} --json")));
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["members"][0]["pid"], std::process::id(), "{status}");
    group.close().unwrap();
    let gone = run(&line);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}
