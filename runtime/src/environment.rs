//! The one place that reads environment variables and facts of this machine.

use ronde_core::membership::MachineId;
use std::net::IpAddr;

/// Variables of Ronde's own.
const KNOWN: [&str; 26] = [
    "RONDE_COORDINATOR",
    "RONDE_TOKEN",
    "RONDE_PORT",
    "RONDE_ADVERTISE",
    "RONDE_JOB",
    "RONDE_SOCKET_IFNAME",
    "RONDE_SOCKET_FAMILY",
    "RONDE_TRANSPORTS",
    "RONDE_STREAMS",
    "RONDE_COSTS",
    "RONDE_PRESET",
    "RONDE_DIGESTS",
    "RONDE_RECONNECT",
    "RONDE_HEARTBEAT",
    "RONDE_LOG",
    // Where the Python package finds this library.
    "RONDE_LIBRARY",
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

/// Processors of this machine, as far as this process can know: 0 if it may use only some of them, since the others' ranks may
/// have those that are left.
pub(crate) fn cores_of_machine() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let allowed = read("/proc/self/status").and_then(|status| {
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.map(|list| list.trim().to_owned())
    });
    let online = read("/sys/devices/system/cpu/online").map(|list| list.trim().to_owned());
    if allowed.is_some() && allowed == online { cores() } else { 0 }
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What must be equal for two processes to share memory and abstract Unix sockets: the boot, and the
/// namespaces of users, processes and network (and the user, who is told apart from the machine).
pub(crate) fn machine() -> MachineId {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let link =
        |path: &str| std::fs::read_link(path).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = read("/proc/sys/kernel/random/boot_id");
    let spaces = ["user", "pid", "net"].map(|name| link(&format!("/proc/self/ns/{name}")));
    MachineId(format!("{boot} {}", spaces.join(" ")))
}

/// The value of a variable that says yes or no, if it is set and not empty.
pub(crate) fn flag(name: &str) -> Result<Option<bool>, String> {
    let Some(text) = variable(name) else { return Ok(None) };
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(Some(true)),
        "0" | "false" | "no" | "off" => Ok(Some(false)),
        _ => Err(format!("{name}={text} is neither yes (1, true, yes, on) nor no (0, false, no, off)")),
    }
}

/// What a launcher says of this process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Launcher {
    pub(crate) rank: Option<u32>,
    pub(crate) size: Option<u32>,
    /// host:port of the coordinator, derived from the launcher's own rendezvous.
    pub(crate) coordinator: Option<String>,
}

/// Variables that say rank and size: Ronde's own, then those of torchrun, Open MPI and Slurm.
const FAMILIES: [(&str, &str); 4] = [
    ("RONDE_RANK", "RONDE_SIZE"),
    ("RANK", "WORLD_SIZE"),
    (OMPI_RANK, OMPI_SIZE),
    ("SLURM_PROCID", "SLURM_NTASKS"),
];
const OMPI_RANK: &str = "OMPI_COMM_WORLD_RANK";
const OMPI_SIZE: &str = "OMPI_COMM_WORLD_SIZE";

/// Reads the launcher's variables. Rank and size come from the same launcher, but `RONDE_RANK` alone goes with the
/// size of torchrun or Open MPI. Not with Slurm's: a shell that Slurm started has that too, of itself.
pub(crate) fn launcher() -> Result<Launcher, String> {
    let number = |name: &str| match variable(name) {
        None => Ok(None),
        Some(text) => text.parse::<u32>().map(Some).map_err(|_| format!("{name}={text} is not a number")),
    };
    let mut found = Launcher::default();
    for (rank, size) in FAMILIES {
        let (rank, size) = (number(rank)?, number(size)?);
        if rank.is_some() || size.is_some() {
            (found.rank, found.size) = (rank, size);
            break;
        }
    }
    if variable("RONDE_RANK").is_some() {
        for size in ["WORLD_SIZE", OMPI_SIZE] {
            found.size = found.size.or(number(size)?);
        }
    }
    found.coordinator = derived_coordinator();
    Ok(found)
}

/// What to do in a process that was not told where the coordinator is.
pub(crate) fn how_to_name_a_coordinator() -> &'static str {
    match variable(OMPI_SIZE) {
        Some(_) => {
            "this version of Open MPI does not say on which machine rank 0 runs: set RONDE_COORDINATOR=host:port, \
             with a host of that machine (mpirun -x RONDE_COORDINATOR=…)"
        }
        None => "set RONDE_COORDINATOR=host:port, or start with `ronde run -n N`, torchrun, mpirun or srun",
    }
}

/// A coordinator address next to torchrun's (whose own port is never bound), where Open MPI was started, or on
/// Slurm's first node.
fn derived_coordinator() -> Option<String> {
    if let Some(host) = variable("MASTER_ADDR") {
        let port: u16 = variable("MASTER_PORT").and_then(|p| p.parse().ok()).unwrap_or(29500);
        return Some(format!("{}:{}", bracketed(&host), if port == u16::MAX { port - 1 } else { port + 1 }));
    }
    // Before Slurm: several mpirun may run in one of its jobs.
    match variable(OMPI_SIZE) {
        Some(size) => coordinator_of_open_mpi(&size),
        None => coordinator_of_slurm(),
    }
}

/// On this machine if all ranks are; else on that of mpirun, or the first of Slurm's job.
fn coordinator_of_open_mpi(size: &str) -> Option<String> {
    // Each of these names the job, in one version or another.
    let job = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"].into_iter().find_map(variable)?;
    let host = if variable("OMPI_COMM_WORLD_LOCAL_SIZE").as_deref() == Some(size) {
        "127.0.0.1".to_owned()
    } else {
        let uri = variable("OMPI_MCA_orte_hnp_uri").or_else(|| variable("PRTE_MCA_prte_hnp_uri"));
        let first_of_slurm = || variable("SLURM_JOB_NODELIST").map(|list| first_node(&list));
        uri.and_then(|uri| host_of_uri(&uri)).or_else(first_of_slurm)?
    };
    Some(format!("{}:{}", bracketed(&host), port_of_job(&job)))
}

/// On the first node of the step, at a port of the step's own.
fn coordinator_of_slurm() -> Option<String> {
    let host = variable("SLURM_STEP_NODELIST")
        .or_else(|| variable("SLURM_JOB_NODELIST"))
        .map(|list| first_node(&list))
        .or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR"))?;
    let [job, step] = ["SLURM_JOB_ID", "SLURM_STEP_ID"].map(|name| variable(name).unwrap_or_default());
    Some(format!("{}:{}", bracketed(&host), port_of_job(&format!("{job}.{step}"))))
}

/// A port that follows from the name of a job, below those that systems give to whoever asks for any.
fn port_of_job(job: &str) -> u64 {
    20_000 + xxhash_rust::xxh3::xxh3_64(job.as_bytes()) % 10_000
}

/// The first host of a URI of Open MPI, such as `5449.0;tcp://192.0.2.2,198.51.100.2:50551;tcp6://[fd00::2]:48059`.
fn host_of_uri(uri: &str) -> Option<String> {
    let hosts = |part: &str| {
        let (_, rest) = part.split_once("://")?;
        let (hosts, _port) = rest.rsplit_once(':')?;
        Some(hosts.split(',').map(|host| host.trim_matches(['[', ']']).to_owned()).collect::<Vec<_>>())
    };
    let hosts: Vec<String> =
        uri.split(';').filter_map(hosts).flatten().filter(|host| !host.is_empty()).collect();
    // The loopback address of another machine leads nowhere.
    hosts.into_iter().find(|host| host.parse::<IpAddr>().map_or(true, |ip| !ip.is_loopback()))
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
    fn hosts_of_uris_of_open_mpi() {
        for (uri, host) in [
            ("5449.0;tcp://192.0.2.2:50551;tcp6://[fd00::2]:48059", Some("192.0.2.2")),
            ("5449.0;tcp://127.0.0.1,192.0.2.2,198.51.100.2:50551", Some("192.0.2.2")),
            ("prterun-node7-1@0.0;tcp6://[fd00::2],[fd00::3]:48059", Some("fd00::2")),
            ("5449.0;tcp://node7:50551", Some("node7")),
            ("5449.0;tcp4://127.0.0.1:45927", None),
            ("5449.0", None),
            ("", None),
        ] {
            assert_eq!(host_of_uri(uri).as_deref(), host, "{uri}");
        }
    }

    #[test]
    fn jobs_and_steps_have_ports_of_their_own() {
        let ports = ["544997377", "544997378", "7.0", "7.1", "8.0"].map(port_of_job);
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)), "{ports:?}");
        assert_eq!(std::collections::BTreeSet::from(ports).len(), ports.len());
    }

    #[test]
    fn addresses_of_version_6_get_brackets() {
        assert_eq!(bracketed("::1"), "[::1]");
        assert_eq!(bracketed("node7"), "node7");
    }
}
