//! What a coordinator says of those who are not of its version.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn connect(address: &str) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Once for each address and kind, however often they come.
#[test]
fn other_versions_and_other_programs_are_named_once() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronde"));
    command.args(["coordinator", "--size", "2", "--listen", &free]).env("RONDE_LOG", "warn");
    let mut coordinator = command.stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..3 {
        for start in [&b"RONDE\0\x09\x01\0\0\x01"[..], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = connect(&free);
            stream.write_all(start).unwrap();
            // Until it has been seen off.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    let lines = BufReader::new(coordinator.stderr.take().unwrap()).lines().map(Result::unwrap);
    let warnings: Vec<String> = lines.filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() == 2, "{warnings:#?}");
    assert!(warnings[0].contains("127.0.0.1") && warnings[0].contains("version 9"), "{warnings:#?}");
    assert!(warnings[1].contains("not Ronde") && warnings[1].contains("GET /"), "{warnings:#?}");
}
