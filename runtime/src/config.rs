//! How a process joins a job.

use crate::bootstrap::{Family, InterfaceFilter, MAX_STREAMS, RondeId, Store};
use crate::environment;
use crate::jobs::{LONGEST_NAME, is_name};
use ronde_algorithms::CostTable;
use ronde_core::collective::Digests;
use ronde_core::error::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// How patient the failure detector is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preset {
    /// A member that is silent for 1 s is lost, and digests of results are sampled. The default.
    #[default]
    Lan,
    /// For long and jittery paths: 5 s, and all results are compared.
    Wan,
}

/// Which connections of a link are made again when they are cut while both processes live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reconnect {
    /// Those between machines. The default.
    #[default]
    Remote,
    /// All that use TCP.
    Always,
    /// None: a connection that is cut costs one of the two members.
    Never,
}

/// How a process joins a job. Arguments win over the environment.
///
/// ```no_run
/// let group = ronde::Config::new().coordinator("127.0.0.1:29600").rank(0).size(4).join()?;
/// # Ok::<(), ronde::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) coordinator: Option<String>,
    pub(crate) id: Option<RondeId>,
    pub(crate) store: Option<Arc<dyn Store>>,
    pub(crate) rank: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) min_peers: Option<u32>,
    pub(crate) max_peers: Option<u32>,
    pub(crate) shrink_only: bool,
    pub(crate) newcomer: bool,
    pub(crate) token: String,
    pub(crate) job: String,
    pub(crate) ports: (u16, u16),
    pub(crate) advertise: Option<String>,
    pub(crate) interfaces: InterfaceFilter,
    pub(crate) family: Family,
    pub(crate) streams: u8,
    pub(crate) transports: Vec<String>,
    pub(crate) costs: Option<CostTable>,
    pub(crate) preset: Preset,
    pub(crate) digests: Option<Digests>,
    pub(crate) reconnect: Reconnect,
    pub(crate) heartbeat: Duration,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) insecure: bool,
}

impl std::fmt::Debug for Config {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("coordinator", &self.coordinator)
            .field("id", &self.id)
            .field("store", &self.store.is_some())
            .field("rank", &self.rank)
            .field("size", &self.size)
            .field("min_peers", &self.min_peers)
            .field("max_peers", &self.max_peers)
            .field("shrink_only", &self.shrink_only)
            .field("newcomer", &self.newcomer)
            .field("job", &self.job)
            .field("ports", &self.ports)
            .field("advertise", &self.advertise)
            .field("interfaces", &self.interfaces)
            .field("family", &self.family)
            .field("streams", &self.streams)
            .field("transports", &self.transports)
            .field("costs", &self.costs)
            .field("preset", &self.preset)
            .field("digests", &self.digests)
            .field("reconnect", &self.reconnect)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::new()
    }
}

impl Config {
    /// Most TCP connections to one peer.
    pub const MAX_STREAMS: u8 = MAX_STREAMS;

    /// The defaults, without the environment.
    pub fn new() -> Config {
        Config {
            coordinator: None,
            id: None,
            store: None,
            rank: None,
            size: None,
            min_peers: None,
            max_peers: None,
            shrink_only: false,
            newcomer: false,
            token: String::new(),
            job: String::new(),
            ports: (0, 0),
            advertise: None,
            interfaces: InterfaceFilter::default(),
            family: Family::Any,
            streams: 1,
            transports: vec!["shm".into(), "tcp".into()],
            costs: None,
            preset: Preset::Lan,
            digests: None,
            reconnect: Reconnect::Remote,
            heartbeat: Duration::from_millis(200),
            timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(60),
            insecure: false,
        }
    }

    /// The defaults with what the environment says: `RONDE_*`, then the launcher's variables (torchrun,
    /// Open MPI, Slurm).
    pub fn from_env() -> Result<Config> {
        environment::warn_of_unknown_variables();
        let mut config = Config::new();
        let launcher = environment::launcher().map_err(Error::join)?;
        (config.rank, config.size) = (launcher.rank, launcher.size);
        config.coordinator = environment::variable("RONDE_COORDINATOR").or(launcher.coordinator);
        config.token = environment::variable("RONDE_TOKEN").unwrap_or_default();
        if let Some(name) = environment::variable("RONDE_JOB") {
            config = config.job(name)?;
        }
        config.advertise = environment::variable("RONDE_ADVERTISE");
        for (name, slot) in [
            ("RONDE_INSECURE", &mut config.insecure),
            ("RONDE_SHRINK_ONLY", &mut config.shrink_only),
            ("RONDE_NEWCOMER", &mut config.newcomer),
        ] {
            *slot = environment::flag(name).map_err(Error::join)?.unwrap_or(false);
        }
        if let Some(list) = environment::variable("RONDE_TRANSPORTS") {
            config = config.transports(list.split(',').map(str::trim))?;
        }
        if let Some(text) = environment::variable("RONDE_COSTS") {
            let costs = text.parse().map_err(|e| Error::join(format!("RONDE_COSTS: {e}")))?;
            config.costs = Some(costs);
        }
        if let Some(ports) = environment::variable("RONDE_PORT") {
            config.ports = Config::parse_ports(&ports)?;
        }
        let presets = [("lan", Preset::Lan), ("wan", Preset::Wan)];
        config.preset = one_of("RONDE_PRESET", &presets)?.unwrap_or_default();
        let amounts = [("never", Digests::Never), ("sampled", Digests::Sampled), ("always", Digests::Always)];
        config.digests = one_of("RONDE_DIGESTS", &amounts)?;
        let reconnects =
            [("remote", Reconnect::Remote), ("always", Reconnect::Always), ("never", Reconnect::Never)];
        config.reconnect = one_of("RONDE_RECONNECT", &reconnects)?.unwrap_or_default();
        if let Some(filter) = environment::variable("RONDE_SOCKET_IFNAME") {
            config.interfaces = InterfaceFilter::parse(&filter);
        }
        if let Some(family) = environment::variable("RONDE_SOCKET_FAMILY") {
            config.family = Family::parse(&family).ok_or_else(|| {
                Error::join(format!("RONDE_SOCKET_FAMILY={family} is neither AF_INET nor AF_INET6"))
            })?;
        }
        for (name, slot) in
            [("RONDE_MIN_PEERS", &mut config.min_peers), ("RONDE_MAX_PEERS", &mut config.max_peers)]
        {
            if let Some(text) = environment::variable(name) {
                let number = text.parse().ok().filter(|&n: &u32| n > 0);
                *slot = Some(
                    number.ok_or_else(|| Error::join(format!("{name}={text} is not a number of peers")))?,
                );
            }
        }
        if let Some(text) = environment::variable("RONDE_STREAMS") {
            let number = text.parse().ok().filter(|n| (1..=MAX_STREAMS).contains(n));
            config.streams = number.ok_or_else(|| {
                Error::join(format!("RONDE_STREAMS={text} is not a number from 1 to {MAX_STREAMS}"))
            })?;
        }
        for (name, slot) in [
            ("RONDE_TIMEOUT", &mut config.timeout),
            ("RONDE_CONNECT_TIMEOUT", &mut config.connect_timeout),
            ("RONDE_HEARTBEAT", &mut config.heartbeat),
        ] {
            if let Some(text) = environment::variable(name) {
                *slot = parse_duration(name, &text)?;
            }
        }
        Ok(config)
    }

    /// Where the coordinator is or shall be: `host:port`. Rank 0 hosts it there unless one runs already.
    pub fn coordinator(mut self, address: impl Into<String>) -> Config {
        self.coordinator = Some(address.into());
        self
    }

    /// Takes coordinator and token from an id that one process made.
    pub fn id(mut self, id: &RondeId) -> Config {
        self.id = Some(id.clone());
        self
    }

    /// Takes coordinator and token from a store that all processes reach: rank 0 puts them there. Every
    /// process needs a rank.
    pub fn store(mut self, store: Arc<dyn Store>) -> Config {
        self.store = Some(store);
        self
    }

    /// This process's rank; without one, ranks follow the order of arrival.
    pub fn rank(mut self, rank: u32) -> Config {
        self.rank = Some(rank);
        self
    }

    /// Number of ranks of the job.
    pub fn size(mut self, size: u32) -> Config {
        self.size = Some(size);
        self
    }

    /// Starts the job as soon as so many processes are there, instead of a fixed [`Config::size`]; those that
    /// come later join at a safe point ([`Group::update`](crate::Group::update)). A coordinator that runs alone and was
    /// just started waits ten heartbeats first: members of an earlier one may come back to it, and are the job then.
    pub fn min_peers(mut self, peers: u32) -> Config {
        self.min_peers = Some(peers.max(1));
        self
    }

    /// Nobody joins a job of so many processes. Said by the process that hosts the coordinator.
    pub fn max_peers(mut self, peers: u32) -> Config {
        self.max_peers = Some(peers);
        self
    }

    /// Nobody joins the job once it runs. Said by the process that hosts the coordinator.
    pub fn shrink_only(mut self, yes: bool) -> Config {
        self.shrink_only = yes;
        self
    }

    /// Joins a job that runs already: never hosts a coordinator, and has no rank or size to claim.
    pub fn newcomer(mut self, yes: bool) -> Config {
        self.newcomer = yes;
        self
    }

    /// Secret that all processes of the job share. Needed beyond loopback.
    pub fn token(mut self, token: impl Into<String>) -> Config {
        self.token = token.into();
        self
    }

    /// Name of the job, up to 128 bytes of printing characters. A coordinator that runs alone serves jobs of several names;
    /// any other refuses processes of another job by name. Default: none, which is a name too.
    pub fn job(mut self, name: impl Into<String>) -> Result<Config> {
        let name = name.into();
        if !is_name(&name) {
            let text = format!("a job's name has up to {LONGEST_NAME} printing bytes: {name:?} (RONDE_JOB)");
            return Err(Error::join(text));
        }
        self.job = name;
        Ok(self)
    }

    /// Ports to listen on, first that is free; 0 lets the system choose. Default 0.
    pub fn ports(mut self, first: u16, last: u16) -> Config {
        self.ports = (first, last);
        self
    }

    /// Reads ports as the variable `RONDE_PORT` has them: `4000` or `4000-4010`.
    pub fn parse_ports(text: &str) -> Result<(u16, u16)> {
        let bad =
            || Error::join(format!("RONDE_PORT={text} is neither a port nor a range such as 4000-4010"));
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| bad());
        match text.split_once('-') {
            None => number(text).map(|port| (port, port)),
            Some((first, last)) => {
                let range = (number(first)?, number(last)?);
                if range.0 <= range.1 { Ok(range) } else { Err(bad()) }
            }
        }
    }

    /// Address (host or host:port) that the others shall use for this process.
    pub fn advertise(mut self, address: impl Into<String>) -> Config {
        self.advertise = Some(address.into());
        self
    }

    /// Interfaces whose addresses the others may use, in NCCL's syntax: `eth,ib` (prefixes), `=eth0` (exact),
    /// `^docker` (all but). Default: the one that leads to the coordinator.
    pub fn interfaces(mut self, filter: &str) -> Config {
        self.interfaces = InterfaceFilter::parse(filter);
        self
    }

    /// Use IPv4 only, or (`false`) IPv6 only. Default both.
    pub fn ipv4(mut self, only_v4: bool) -> Config {
        self.family = if only_v4 { Family::V4 } else { Family::V6 };
        self
    }

    /// TCP connections to each peer, 1 to 64. Several fill a long path that one connection cannot. Default 1.
    pub fn streams(mut self, streams: u8) -> Config {
        self.streams = streams.clamp(1, MAX_STREAMS);
        self
    }

    /// Costs of messages and bytes, by which all ranks choose algorithms; those of rank 0 count. Default: as
    /// measured on the machine that Ronde was built on. [`Group::measure_costs`](crate::Group::measure_costs)
    /// measures yours.
    pub fn costs(mut self, costs: CostTable) -> Config {
        self.costs = Some(costs);
        self
    }

    /// Transports to use, of `shm` and `tcp`. Default both.
    pub fn transports<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Config> {
        self.transports = names.into_iter().filter(|n| !n.is_empty()).map(str::to_owned).collect();
        if self.transports.is_empty() {
            return Err(Error::join("no transport is named: there are shm and tcp".to_owned()));
        }
        for name in &self.transports {
            if !["shm", "tcp"].contains(&name.as_str()) {
                return Err(Error::join(format!("unknown transport \"{name}\": there are shm and tcp")));
            }
        }
        Ok(self)
    }

    /// How patient the failure detector is. Default LAN.
    pub fn preset(mut self, preset: Preset) -> Config {
        self.preset = preset;
        self
    }

    /// How much of the results is compared among members, by digest. A difference ends the job with an error that names who holds
    /// what. Default sampled with [`Preset::Lan`], everything with [`Preset::Wan`].
    pub fn digests(mut self, digests: Digests) -> Config {
        self.digests = Some(digests);
        self
    }

    /// Which connections are made again when something between the two machines cuts them: a firewall that forgets, a switch that
    /// restarts. Each side keeps a copy of the last bytes that the other may lack, so what is sent costs a pass over memory. Said by the
    /// higher rank of two. It is tried for twice as long as a member may be silent; then the coordinator decides who goes. Default those
    /// between machines.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Config {
        self.reconnect = reconnect;
        self
    }

    /// Default deadline of a call. Default 300 s.
    pub fn timeout(mut self, timeout: Duration) -> Config {
        self.timeout = timeout;
        self
    }

    /// Deadline of joining. Default 60 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Config {
        self.connect_timeout = timeout;
        self
    }

    /// Allow addresses beyond loopback without encryption. Default no.
    pub fn insecure(mut self, allow: bool) -> Config {
        self.insecure = allow;
        self
    }

    /// A job of nobody would be waited for in vain.
    pub(crate) fn refuse_size_0(&self) -> Result<()> {
        match self.size {
            Some(0) => Err(Error::join("a job has at least one rank: the size is 0 (RONDE_SIZE)")),
            _ => Ok(()),
        }
    }

    pub(crate) fn allows_transport(&self, name: &str) -> bool {
        self.transports.iter().any(|t| t == name)
    }

    /// What everybody is to reckon with, as text.
    pub(crate) fn costs_of_members(&self) -> String {
        let cores = environment::cores_of_machine() as u32;
        match self.costs {
            None => format!("cores={cores}"),
            Some(costs @ CostTable { cores: 0, .. }) => CostTable { cores, ..costs }.to_string(),
            Some(costs) => costs.to_string(),
        }
    }

    /// How much of the results is compared.
    pub(crate) fn digests_due(&self) -> Digests {
        self.digests.unwrap_or(match self.preset {
            Preset::Lan => Digests::Sampled,
            Preset::Wan => Digests::Always,
        })
    }

    /// Silence after which a member, or the coordinator, is lost; several heartbeats at least.
    pub(crate) fn suspect_after(&self) -> Duration {
        let preset = match self.preset {
            Preset::Lan => Duration::from_secs(1),
            Preset::Wan => Duration::from_secs(5),
        };
        preset.max(self.heartbeat * 5)
    }
}

/// The value of a variable that takes one of a few words.
fn one_of<T: Copy>(name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = environment::variable(name) else { return Ok(None) };
    let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    let known = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    chosen.map(Some).ok_or_else(|| Error::join(format!("{name}={text} is none of {}", known())))
}

/// `300`, `300s`, `250ms`, `5m`.
fn parse_duration(name: &str, text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        _ => f64::NAN,
    };
    let seconds = digits.parse::<f64>().unwrap_or(f64::NAN) * scale;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(Error::join(format!("{name}={text} is not a time such as 30s or 250ms"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_ports() {
        assert_eq!(parse_duration("X", "250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("X", "1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("X", "2m").unwrap(), Duration::from_secs(120));
        for bad in ["", "0", "-1", "5h", "abc", "1e400"] {
            assert!(parse_duration("X", bad).is_err(), "{bad}");
        }
        assert_eq!(Config::parse_ports("4000-4010").unwrap(), (4000, 4010));
        for bad in ["", "x", "5-4", "70000"] {
            assert!(Config::parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_transports_are_named() {
        let error = Config::new().transports(["shm", "pigeon"]).unwrap_err();
        assert!(error.to_string().contains("pigeon"));
    }
}
