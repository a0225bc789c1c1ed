//! `ronde doctor` in a process of its own: its exit code says whether a group can be started here.

use std::net::TcpListener;
use std::process::{Command, Output};

fn doctor(ports: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
    command.arg("doctor").env("RONDE_PORT", ports).env_remove("RONDE_COORDINATOR").output().unwrap()
}

#[test]
fn a_port_in_use_is_a_problem_until_it_is_free() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (taken, text) =
        (doctor(&port), |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(taken.status.code(), Some(3));
    let line = format!("in use: {port} (RONDE_PORT, at 127.0.0.1)");
    assert!(text(&taken).contains(&line) && text(&taken).contains("PROBLEM"), "{}", text(&taken));
    drop(listener);
    let free = doctor(&port);
    assert_eq!(free.status.code(), Some(0), "{}", text(&free));
    assert!(text(&free).contains(&format!("free: {port} (")), "{}", text(&free));
}
