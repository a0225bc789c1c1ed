//! Interfaces, addresses, ports, and what the kernel allows sockets.

use super::{Files, Finding, Verdict, ports};
use crate::quantity::show_bytes;
use if_addrs::Interface;
use ronde::{AddressSource, Config, Reach};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const NETWORK: &str = "Network";
const SOCKETS: &str = "Sockets";

/// A long path of 1 GB/s and 100 ms holds this much on its way.
const BUFFER_WANTED: u64 = 64 << 20;

pub(super) fn examine(files: &Files) -> Vec<Finding> {
    let mut findings = interfaces(if_addrs::get_if_addrs().unwrap_or_default());
    let reach = Config::from_env().and_then(|config| config.reach());
    findings.push(address_for_peers(&reach));
    findings.push(loopback_port());
    let port = std::env::var("RONDE_PORT").ok().filter(|value| !value.is_empty());
    let listens_at = reach.map_or(Ipv4Addr::LOCALHOST.into(), |reach| reach.listens_at);
    findings.push(ports::examine(files, port.as_deref(), listens_at));
    findings.extend([buffers(files, "rmem", "received"), buffers(files, "wmem", "sent")]);
    findings.extend(congestion_control(files));
    findings
}

fn interfaces(found: Vec<Interface>) -> Vec<Finding> {
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for interface in found {
        by_name.entry(interface.name.clone()).or_default().push(interface.ip().to_string());
    }
    if by_name.is_empty() {
        let advice = "bring the loopback interface up: ip link set lo up";
        return vec![
            Finding::new(NETWORK, "interfaces", "none has an address").with(Verdict::Problem, advice),
        ];
    }
    let show = |(name, addresses): (String, Vec<String>)| {
        Finding::new(NETWORK, format!("interface {name}"), addresses.join(", "))
    };
    by_name.into_iter().map(show).collect()
}

/// Where the others find a process of this host, by the library's own rules.
fn address_for_peers(reach: &ronde::Result<Reach>) -> Finding {
    let name = "address for peers";
    let reach = match reach {
        Ok(reach) => reach,
        Err(error) => {
            return Finding::new(NETWORK, name, format!("none: {error}")).with(
                Verdict::Problem,
                "no process can join from here: check RONDE_COORDINATOR (host:port), name resolution, routes, and the \
                 other settings that are named",
            );
        }
    };
    let peers = show(&reach.peers);
    // A job without a coordinator has one at a port that is free.
    if reach.coordinator.iter().all(|address| address.port() == 0) {
        return Finding::new(NETWORK, name, format!("{peers}: RONDE_COORDINATOR is not set, so jobs are local"))
            .with(
                Verdict::Note,
                "for several hosts set RONDE_COORDINATOR=host:port; the address with which a process reaches it is \
                 the one its peers use, unless RONDE_ADVERTISE names another",
            );
    }
    let why = match reach.source {
        AddressSource::Advertised => "named by RONDE_ADVERTISE".into(),
        AddressSource::Interfaces => "selected by RONDE_SOCKET_IFNAME".into(),
        _ => format!("it is used to reach {}", show(&reach.coordinator)),
    };
    Finding::new(NETWORK, name, format!("{peers}: {why}"))
}

/// Addresses without the ports that are not known yet.
fn show(addresses: &[SocketAddr]) -> String {
    let show = |address: &SocketAddr| match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    };
    addresses.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn loopback_port() -> Finding {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
        Ok(_) => Finding::new(NETWORK, "listening on loopback", "works"),
        Err(error) => Finding::new(NETWORK, "listening on loopback", error.to_string()).with(
            Verdict::Problem,
            "every process listens on one port: allow it (sandbox, limits, free ports)",
        ),
    }
}

fn buffers(files: &Files, kind: &str, direction: &str) -> Finding {
    let largest = |text: String| text.split_whitespace().last().and_then(|number| number.parse::<u64>().ok());
    let automatic = files.text(&format!("/proc/sys/net/ipv4/tcp_{kind}")).and_then(largest);
    let explicit = files.text(&format!("/proc/sys/net/core/{kind}_max")).and_then(largest);
    let show = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), show_bytes);
    let value = format!("up to {} by itself, {} on request", show(automatic), show(explicit));
    Finding::new(SOCKETS, format!("buffers of bytes {direction}"), value).when(
        automatic.is_some_and(|bytes| bytes < BUFFER_WANTED),
        Verdict::Note,
        format!("enough inside a site; for long fast paths: sysctl -w net.ipv4.tcp_{kind}='4096 131072 {BUFFER_WANTED}'"),
    )
}

fn congestion_control(files: &Files) -> Vec<Finding> {
    let read = |name: &str| files.text(&format!("/proc/sys/net/ipv4/tcp_{name}")).unwrap_or("unknown".into());
    let (allowed, available) = (read("allowed_congestion_control"), read("available_congestion_control"));
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    vec![
        Finding::new(SOCKETS, "congestion control", format!("{} by default", read("congestion_control"))),
        Finding::new(SOCKETS, "allowed without privilege", allowed.clone()).when(
            !has(&allowed, "bbr"),
            Verdict::Note,
            match has(&available, "bbr") {
                true => {
                    "bbr is far better on long paths with loss; allow it: \
                         sysctl -w net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'"
                }
                false => "bbr is far better on long paths with loss; load it (modprobe tcp_bbr) and allow it",
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::root;

    #[test]
    fn the_address_is_the_one_that_the_library_gives_away() {
        let found = |config: Config| {
            let finding = address_for_peers(&config.reach());
            (finding.verdict, finding.value)
        };
        let (local, beyond) = ("127.0.0.1:29400", "192.0.2.1:29400");
        let route = (Verdict::Ok, format!("127.0.0.1: it is used to reach {local}"));
        assert_eq!(found(Config::new().coordinator(local)), route);
        let named = Config::new().coordinator(beyond).advertise("192.0.2.7");
        let advertised = (Verdict::Ok, "192.0.2.7: named by RONDE_ADVERTISE".to_owned());
        assert_eq!(found(named.clone().insecure(true)), advertised);
        assert_eq!(found(named.clone()).0, Verdict::Problem);
        let (verdict, value) = found(named.insecure(true).ipv4(false));
        assert!(verdict == Verdict::Problem && value.contains("RONDE_SOCKET_FAMILY"), "{value}");
        assert_eq!(found(Config::new().coordinator("no port")).0, Verdict::Problem);
        assert_eq!(found(Config::new()).0, Verdict::Note);
    }

    #[test]
    fn small_buffers_get_advice() {
        let (_folder, files) = root(&[
            ("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
            ("/proc/sys/net/core/rmem_max", "212992\n"),
        ]);
        let finding = buffers(&files, "rmem", "received");
        assert_eq!(finding.value, "up to 6.0 MiB by itself, 208.0 KiB on request");
        assert!(finding.advice.unwrap().contains("net.ipv4.tcp_rmem"));
    }

    #[test]
    fn bbr_is_recommended_where_it_is_missing() {
        let advice = |allowed: &str, available: &str| {
            let (_folder, files) = root(&[
                ("/proc/sys/net/ipv4/tcp_allowed_congestion_control", allowed),
                ("/proc/sys/net/ipv4/tcp_available_congestion_control", available),
            ]);
            congestion_control(&files)[1].advice.clone()
        };
        assert_eq!(advice("reno bbr", "reno bbr"), None);
        assert!(advice("reno", "reno cubic bbr").unwrap().contains("sysctl"));
        assert!(advice("reno", "reno cubic").unwrap().contains("modprobe"));
    }

    #[test]
    fn a_machine_without_addresses_is_a_problem() {
        assert_eq!(interfaces(Vec::new())[0].verdict, Verdict::Problem);
    }
}
