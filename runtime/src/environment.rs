//! The one place that reads environment variables and facts of this machine.

use ronde_core::membership::MachineId;
use std::net::IpAddr;

/// Variables of Ronde's own.
const KNOWN: [&str; 23] = [
    "RONDE_COORDINATOR",
    "RONDE_TOKEN",
    "RONDE_PORT",
    "RONDE_ADVERTISE",
    "RONDE_SOCKET_IFNAME",
    "RONDE_SOCKET_FAMILY",
    "RONDE_TRANSPORTS",
    "RONDE_STREAMS",
    "RONDE_COSTS",
    "RONDE_PRESET",
    "RONDE_DIGESTS",
    "RONDE_HEARTBEAT",
    "RONDE_LOG",
    "RONDE_TIMEOUT",
    "RONDE_CONNECT_TIMEOUT",
    "RONDE_RANK",
    "RONDE_SIZE",
    "RONDE_LOCAL_RANK",
    "RONDE_INSECURE",
    "RONDE_MIN_PEERS",
    "RONDE_MAX_PEERS",
    "RONDE_SHRINK_ONLY",
    "RONDE_NEWCOMER",
];

/// The value of a variable, if it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Warns of `RONDE_*` variables that nothing reads, with the nearest name that something does.
pub(crate) fn warn_of_unknown_variables() {
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("RONDE_") || name.starts_with("RONDE_TEST_") || KNOWN.contains(&name) {
            continue;
        }
        let nearest = KNOWN.iter().min_by_key(|known| distance(known, name)).unwrap_or(&"RONDE_LOG");
        tracing::warn!("unknown variable {name} is ignored; did you mean {nearest}?");
    }
}

/// Edit distance (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What must be equal for two processes to share memory and abstract Unix sockets: the boot, and the
/// namespaces of processes and network.
pub(crate) fn machine() -> MachineId {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let link =
        |path: &str| std::fs::read_link(path).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = read("/proc/sys/kernel/random/boot_id");
    MachineId(format!("{boot} {} {}", link("/proc/self/ns/pid"), link("/proc/self/ns/net")))
}

/// What a launcher says of this process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Launcher {
    pub(crate) rank: Option<u32>,
    pub(crate) size: Option<u32>,
    /// host:port of the coordinator, derived from the launcher's own rendezvous.
    pub(crate) coordinator: Option<String>,
}

/// Reads the launcher's variables: Ronde's own, then torchrun, Open MPI, Slurm. Rank and size always come
/// from the same launcher.
pub(crate) fn launcher() -> Result<Launcher, String> {
    let families: [(&str, &str); 4] = [
        ("RONDE_RANK", "RONDE_SIZE"),
        ("RANK", "WORLD_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
    ];
    let number = |name: &str| match variable(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| format!("{name}={text} is not a number")),
    };
    let mut found = Launcher::default();
    for (rank, size) in families {
        let (rank, size) = (number(rank)?, number(size)?);
        if rank.is_some() || size.is_some() {
            (found.rank, found.size) = (rank, size);
            break;
        }
    }
    found.coordinator = derived_coordinator();
    Ok(found)
}

/// A coordinator address next to torchrun's (whose own port is never bound), or on Slurm's first node.
fn derived_coordinator() -> Option<String> {
    if let Some(host) = variable("MASTER_ADDR") {
        let port: u16 = variable("MASTER_PORT").and_then(|p| p.parse().ok()).unwrap_or(29500);
        return Some(format!("{}:{}", bracketed(&host), if port == u16::MAX { port - 1 } else { port + 1 }));
    }
    let host = variable("SLURM_STEP_NODELIST")
        .or_else(|| variable("SLURM_JOB_NODELIST"))
        .map(|list| first_node(&list))
        .or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR"))?;
    let job: u32 = variable("SLURM_JOB_ID").and_then(|id| id.parse().ok()).unwrap_or(0);
    Some(format!("{}:{}", bracketed(&host), 20_000 + job % 10_000))
}

/// The first host of a Slurm node list such as `gpu[007-012,020],login`: the one that runs rank 0.
fn first_node(list: &str) -> String {
    let mut name = String::new();
    let mut rest = list.trim();
    while let Some(stop) = rest.find(['[', ',']) {
        name += &rest[..stop];
        if rest[stop..].starts_with(',') {
            return name;
        }
        let Some(end) = rest[stop..].find(']') else { return name };
        let range = &rest[stop + 1..stop + end];
        name += range.split(['-', ',']).next().unwrap_or_default();
        rest = &rest[stop + end + 1..];
    }
    name + rest
}

/// An IPv6 address in brackets, anything else as it is.
fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("RONDE_RANK", "RONDE_RANK"), 0);
        assert_eq!(distance("RONDE_RANK", "RONDE_RNAK"), 2);
        assert_eq!(distance("", "abc"), 3);
        let nearest = KNOWN.iter().min_by_key(|k| distance(k, "RONDE_COORDINATR")).unwrap();
        assert_eq!(*nearest, "RONDE_COORDINATOR");
    }

    #[test]
    fn first_nodes_of_slurm_lists() {
        for (list, first) in [
            ("gpu7", "gpu7"),
            ("gpu[007-012,020],login", "gpu007"),
            ("a,b", "a"),
            ("rack[2-3]node[10,11]", "rack2node10"),
            ("n[1-2]-ib,m", "n1-ib"),
            ("broken[", "broken"),
            ("", ""),
        ] {
            assert_eq!(first_node(list), first, "{list}");
        }
    }

    #[test]
    fn addresses_of_version_6_get_brackets() {
        assert_eq!(bracketed("::1"), "[::1]");
        assert_eq!(bracketed("node7"), "node7");
    }
}
