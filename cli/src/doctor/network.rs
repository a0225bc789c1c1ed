//! Interfaces, addresses, ports, and what the kernel allows sockets.

use super::{Files, Finding, Verdict, ports};
use crate::quantity::show_bytes;
use if_addrs::Interface;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

const NETWORK: &str = "Network";
const SOCKETS: &str = "Sockets";

/// A long path of 1 GB/s and 100 ms holds this much on its way.
const BUFFER_WANTED: u64 = 64 << 20;

pub(super) fn examine(files: &Files) -> Vec<Finding> {
    let mut findings = interfaces(if_addrs::get_if_addrs().unwrap_or_default());
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (coordinator, port) = (setting("RONDE_COORDINATOR"), setting("RONDE_PORT"));
    findings.push(chosen_address(coordinator.as_deref()));
    findings.push(loopback_port());
    findings.push(ports::examine(files, port.as_deref(), coordinator.as_deref()));
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

/// Which of this host's addresses the others will be given: the one with which the coordinator is
/// reached. Connecting a UDP socket asks the routing table and sends nothing.
fn chosen_address(coordinator: Option<&str>) -> Finding {
    let name = "address for peers";
    let Some(coordinator) = coordinator else {
        return Finding::new(NETWORK, name, "127.0.0.1: RONDE_COORDINATOR is not set, so jobs are local").with(
            Verdict::Note,
            "for several hosts set RONDE_COORDINATOR=host:port; the address with which a process reaches it is \
             the one its peers use, unless RONDE_ADVERTISE names another",
        );
    };
    match route_to(coordinator) {
        Ok(local) => Finding::new(NETWORK, name, format!("{local}: it is used to reach {coordinator}")).when(
            !local.is_loopback() && std::env::var("RONDE_INSECURE").as_deref() != Ok("1"),
            Verdict::Warning,
            "connections beyond loopback are not encrypted yet: on a network that you trust, set \
             RONDE_INSECURE=1 and RONDE_TOKEN",
        ),
        Err(error) => Finding::new(NETWORK, name, format!("none: {coordinator} is out of reach: {error}"))
            .with(Verdict::Problem, "check RONDE_COORDINATOR (host:port), name resolution and routes"),
    }
}

fn route_to(coordinator: &str) -> std::io::Result<IpAddr> {
    let mut found = coordinator.to_socket_addrs()?;
    let to = found.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
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
    fn the_route_decides_the_address() {
        let local = chosen_address(Some("127.0.0.1:29400"));
        assert_eq!((local.verdict, local.value.starts_with("127.0.0.1")), (Verdict::Ok, true), "{local:?}");
        assert_eq!(chosen_address(Some("no port")).verdict, Verdict::Problem);
        assert_eq!(chosen_address(None).verdict, Verdict::Note);
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
