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

/// What the library takes from the environment is what counts.
#[test]
fn settings_are_those_of_the_library() {
    let examine = |settings: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
        command.arg("doctor").env("RONDE_COORDINATOR", "192.0.2.1:29400");
        let output = command.envs(settings.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let advertise = ("RONDE_ADVERTISE", "192.0.2.7");
    let (code, text) = examine(&[("RONDE_INSECURE", "yes"), advertise]);
    assert!(code == 0 && text.contains("192.0.2.7: named by RONDE_ADVERTISE"), "{text}");
    for (settings, words) in [
        (&[advertise][..], "RONDE_INSECURE=1"),
        (&[("RONDE_INSECURE", "on"), advertise, ("RONDE_SOCKET_FAMILY", "AF_INET6")], "RONDE_SOCKET_FAMILY"),
        (&[("RONDE_INSECURE", "1"), ("RONDE_SOCKET_IFNAME", "none-of-these")], "RONDE_SOCKET_IFNAME"),
        (&[("RONDE_INSECURE", "perhaps")], "RONDE_INSECURE=perhaps"),
    ] {
        let (code, text) = examine(settings);
        assert!(code == 3 && text.contains(words), "{settings:?}\n{text}");
    }
}
