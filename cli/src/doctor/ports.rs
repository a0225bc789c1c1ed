//! Whether this process could listen where RONDE_PORT says.

use super::{Files, Finding, Verdict};
use ronde::Config;
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;

const NETWORK: &str = "Network";
const NAME: &str = "ports";

/// Stretches of ports that are listed before the rest is only counted.
const STRETCHES_SHOWN: usize = 6;

/// `setting` is the value of RONDE_PORT, `ip` where a process would listen.
pub(super) fn examine(files: &Files, setting: Option<&str>, ip: IpAddr) -> Finding {
    let Some(setting) = setting else { return any_port(files) };
    match Config::parse_ports(setting) {
        Err(error) => Finding::new(NETWORK, NAME, error.to_string()).with(
            Verdict::Problem,
            "set RONDE_PORT to a port (4000) or a range (4000-4010), or to nothing for any port",
        ),
        // The system gives out a free one for port 0.
        Ok((0, _)) => any_port(files),
        Ok((first, last)) => judge(first..=last, ip, |port| TcpListener::bind((ip, port)).map(drop)),
    }
}

fn any_port(files: &Files) -> Finding {
    let range = files.text("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or("unknown".into());
    let range = range.split_whitespace().collect::<Vec<_>>().join("-");
    Finding::new(NETWORK, NAME, format!("one per process, out of {range}"))
        .with(Verdict::Note, "behind a firewall, open a range and name it: RONDE_PORT=4000-4010")
}

/// Tries every port of a range and says what came of it.
fn judge(range: RangeInclusive<u16>, ip: IpAddr, listen: impl Fn(u16) -> Result<()>) -> Finding {
    let (mut free, mut in_use, mut forbidden, mut other) = (Vec::new(), Vec::new(), Vec::new(), None);
    for port in range.clone() {
        match listen(port) {
            Ok(()) => free.push(port),
            Err(error) if error.kind() == ErrorKind::AddrInUse => in_use.push(port),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => forbidden.push(port),
            Err(error) => other = other.or(Some((port, error))),
        }
    }
    let named = [("free", &free), ("in use", &in_use), ("not allowed", &forbidden)];
    let mut parts: Vec<String> = named
        .into_iter()
        .filter(|(_, ports)| !ports.is_empty())
        .map(|(what, ports)| format!("{what}: {}", stretches(ports)))
        .collect();
    parts.extend(other.as_ref().map(|(port, error)| format!("{port}: {error}")));
    let all = if range.start() == range.end() { "RONDE_PORT" } else { "RONDE_PORT, one per process" };
    let finding = Finding::new(NETWORK, NAME, format!("{} ({all}, at {ip})", parts.join("; ")));
    match free.len() {
        0 => finding.with(Verdict::Problem, how_to_get_one(range, !in_use.is_empty(), !forbidden.is_empty())),
        count if count < range.len() || count == 1 => finding.with(Verdict::Note, room_for(count)),
        _ => finding,
    }
}

/// Advice where no port is free.
fn how_to_get_one(range: RangeInclusive<u16>, in_use: bool, forbidden: bool) -> String {
    let (first, last) = (range.start(), range.end());
    let other = "name another port or range in RONDE_PORT, or none for any port";
    match (in_use, forbidden) {
        (true, _) => format!(
            "no process can join from here: end who listens (ss -ltnp 'sport >= :{first} and sport <= :{last}' names them), or {other}"
        ),
        (false, true) => {
            format!(
                "ports below net.ipv4.ip_unprivileged_port_start need a privilege (CAP_NET_BIND_SERVICE): {other}"
            )
        }
        (false, false) => format!("no process can join from here: {other}"),
    }
}

fn room_for(count: usize) -> String {
    let (processes, more) = if count == 1 { ("process", "a second one") } else { ("processes", "more") };
    format!(
        "{count} {processes} of this machine can join with these; {more} would need a wider range: RONDE_PORT=4000-4010"
    )
}

/// Ascending ports as `4000-4003, 4005`.
fn stretches(ports: &[u16]) -> String {
    let runs: Vec<&[u16]> = ports.chunk_by(|a, b| *a + 1 == *b).collect();
    let show = |run: &&[u16]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    let mut shown: Vec<String> = runs.iter().take(STRETCHES_SHOWN).map(show).collect();
    let rest: usize = runs.iter().skip(STRETCHES_SHOWN).map(|run| run.len()).sum();
    if rest > 0 {
        shown.push(format!("and {rest} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::root;
    use std::io::Error;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn judged(range: RangeInclusive<u16>, in_use: &[u16], forbidden: &[u16]) -> (Verdict, String, String) {
        let finding = judge(range, HERE, |port| match port {
            port if in_use.contains(&port) => Err(ErrorKind::AddrInUse.into()),
            port if forbidden.contains(&port) => Err(ErrorKind::PermissionDenied.into()),
            _ => Ok(()),
        });
        (finding.verdict, finding.value, finding.advice.unwrap_or_default())
    }

    #[test]
    fn ports_are_free_or_in_use() {
        let (verdict, value, advice) = judged(4000..=4010, &[], &[]);
        assert_eq!((verdict, advice.as_str()), (Verdict::Ok, ""));
        assert_eq!(value, "free: 4000-4010 (RONDE_PORT, one per process, at 127.0.0.1)");

        let (verdict, value, advice) = judged(4000..=4005, &[4001, 4002, 4004], &[]);
        assert_eq!(verdict, Verdict::Note);
        assert!(value.starts_with("free: 4000, 4003, 4005; in use: 4001-4002, 4004 ("), "{value}");
        assert!(advice.starts_with("3 processes of this machine can join"), "{advice}");

        let (verdict, value, advice) = judged(4000..=4000, &[], &[]);
        assert_eq!((verdict, value.as_str()), (Verdict::Note, "free: 4000 (RONDE_PORT, at 127.0.0.1)"));
        assert!(advice.starts_with("1 process of this machine can join"), "{advice}");
    }

    #[test]
    fn no_port_is_a_problem_with_a_way_out() {
        let (verdict, value, advice) = judged(4000..=4001, &[4000, 4001], &[]);
        assert_eq!(verdict, Verdict::Problem);
        assert!(value.starts_with("in use: 4000-4001 ("), "{value}");
        assert!(advice.contains("ss -ltnp 'sport >= :4000 and sport <= :4001'"), "{advice}");

        let (verdict, value, advice) = judged(80..=80, &[], &[80]);
        assert_eq!(verdict, Verdict::Problem);
        assert!(
            value.starts_with("not allowed: 80 (") && advice.contains("CAP_NET_BIND_SERVICE"),
            "{value}: {advice}"
        );

        let finding = judge(4000..=4000, HERE, |_| Err(Error::other("no sockets left")));
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.value.starts_with("4000: no sockets left ("), "{}", finding.value);
    }

    #[test]
    fn many_holes_are_counted() {
        let even: Vec<u16> = (4000..4100).filter(|port| port % 2 == 0).collect();
        assert_eq!(stretches(&even), "4000, 4002, 4004, 4006, 4008, 4010, and 44 more");
        assert_eq!(stretches(&[65534, 65535]), "65534-65535");
    }

    #[test]
    fn sockets_are_tried() {
        let (_folder, files) = root(&[]);
        let taken = TcpListener::bind((HERE, 0)).unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let finding = examine(&files, Some(&port), HERE);
        assert_eq!(finding.verdict, Verdict::Problem);
        assert_eq!(finding.value, format!("in use: {port} (RONDE_PORT, at 127.0.0.1)"));
        // Beyond this machine a process listens at all addresses, of which one is taken here.
        let finding = examine(&files, Some(&port), Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(finding.value, format!("in use: {port} (RONDE_PORT, at 0.0.0.0)"));
    }

    #[test]
    fn what_names_no_port_is_a_problem_and_nothing_is_any_port() {
        let (_folder, files) = root(&[("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")]);
        for bad in ["many", "4010-4000", "70000"] {
            let finding = examine(&files, Some(bad), HERE);
            assert_eq!(finding.verdict, Verdict::Problem);
            assert!(finding.value.contains(&format!("RONDE_PORT={bad}")), "{}", finding.value);
        }
        for setting in [None, Some("0")] {
            let finding = examine(&files, setting, HERE);
            assert_eq!(
                (finding.verdict, finding.value.as_str()),
                (Verdict::Note, "one per process, out of 32768-60999")
            );
        }
    }
}
