//! From a configuration to a view and authenticated sockets to every peer.
//!
//! Each process has one listener for everything (and, on Linux, an abstract Unix socket for peers of its
//! machine). Whoever hosts the coordinator shares its listener with it.

mod handshake;
mod id;
mod interface;
mod linker;
mod listener;
mod reach;
mod reconnect;
mod relay;
mod request;
mod store;
mod succession;
mod waiting;

use crate::config::Config;
use crate::control::{Control, NoView, Rendezvous};
use crate::environment;
use crate::jobs::Coordinators;
use crate::session::Talk;
pub(crate) use handshake::{Errand, Identity, MAX_STREAMS, Purpose, SessionId, introduce, receive, try_each};
pub use id::RondeId;
pub(crate) use interface::{Family, InterfaceFilter};
pub(crate) use linker::{Linker, PeerSockets, Ready, share_memory};
pub(crate) use listener::Listener;
pub use reach::{AddressSource, Reach};
pub(crate) use reconnect::Reconnections;
use ronde_core::error::{Error, PeerLost, Result};
use ronde_core::membership::{CallProgress, Hello, MemberInfo, Rejoin, Verdict, View};
use ronde_core::recovery::RecoveryPlan;
use ronde_core::{Epoch, MemberId, OpId, PeerId};
use ronde_shm::{SharedBuffer, ShmOptions};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Instant;
pub use store::Store;
pub(crate) use succession::{Found, Succession};
use waiting::Inbox;

/// A process whose first view is in effect, or waits only for a safe point of the others.
pub(crate) struct Joined {
    pub(crate) view: View,
    pub(crate) peer: PeerId,
    pub(crate) linker: Linker,
    pub(crate) control: Arc<Control>,
    pub(crate) deadline: Instant,
}

/// What all members freeze for.
pub(crate) struct Round {
    /// The epoch that is to be.
    pub(crate) epoch: Epoch,
    /// Who was lost.
    pub(crate) lost: Vec<PeerLost>,
    /// Ops that are to end.
    pub(crate) held: Vec<OpId>,
    /// The job is.
    pub(crate) ending: Option<Box<Verdict>>,
}

/// What the coordinator says to the engine of a member.
pub(crate) enum News {
    /// A member left in order.
    Left(MemberId),
    /// Stop, and report.
    Prepare(Round),
    /// Go on by the plan; perhaps a view of those who are left is armed.
    Resume(RecoveryPlan, Option<Epoch>),
    /// This view is to come.
    View(View),
    /// All its links are up.
    Armed(Epoch),
    /// A view of those who are left is armed.
    Shrink(Epoch),
    /// This view is armed.
    Arm(View),
}

/// What the control thread tells the engine.
pub(crate) trait ControlEvents: Send + Sync {
    /// The job has failed; called once.
    fn failed(&self, error: Error);
    /// Whether it has, and nobody needs this member any more.
    fn is_over(&self) -> bool;
    /// All of this was of an attempt to join that came to nothing.
    fn forget(&self);
    /// What it has to know of the others, in order.
    fn tell(&self, news: News);
    /// Where this member stands, for another coordinator, and who may host that, in order; `None` while it is
    /// in no view.
    fn rejoin(&self) -> Option<(Rejoin, Vec<MemberInfo>)>;
    /// Nothing was heard of the coordinator for too long; it may live.
    fn hears_nothing(&self);
    /// Another coordinator listens from now on: what was said in between may be lost.
    fn say_again(&self);
    /// A link should be polled: there is another connection for it, or will be none.
    fn links_have_news(&self);
    /// How far this member is in its calls.
    fn progress(&self) -> CallProgress;
    /// The coordinator is hosted by this member from now on.
    fn hosted_by(&self, host: Option<MemberId>);
}

/// What a member has once there is a view.
struct Met {
    identity: Identity,
    listener: Listener,
    inbox: Inbox,
    view: View,
    talk: Talk,
    /// Where the coordinator was found.
    addresses: Vec<SocketAddr>,
}

/// A member's own port. It is bound first, so that one that is taken is named at once, and served once there
/// is a coordinator; a host serves its own from the start.
enum Port {
    Bound(TcpListener),
    Served(Listener, Inbox),
}

/// Finds the coordinator, or hosts it, and waits until everybody is here.
fn meet(config: &Config, deadline: Instant, was_pending: &std::cell::Cell<bool>) -> Result<Met, NoView> {
    let Meeting { identity, addresses, host } = Meeting::arrange(config, deadline)?;
    let hosts_coordinator = host.is_some();
    let failed = |e: &std::io::Error| {
        let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let at = tried.join(", ");
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => Error::join(format!("the coordinator at {at}: {e}")),
            // Which address it is of several, it says itself.
            _ if handshake::is_hopeless(e) => Error::join(format!("no coordinator to join at {e}")),
            _ => Error::join(format!("no coordinator at {at}: {e}")),
        }
    };
    let port = match host {
        Some((listener, inbox)) => Port::Served(listener, inbox),
        None => {
            let ip = addresses.first().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip);
            Port::Bound(listener::bind_free_port(config, ip)?)
        }
    };
    // One try: with the next, this rank may host the coordinator itself, or find another address in a store.
    let left = deadline.saturating_duration_since(Instant::now());
    let errand = Errand::stay(config.reconnect, &addresses)?;
    let stream = handshake::try_each(&addresses, &identity, errand, left).map_err(|e| {
        let error = failed(&e);
        if handshake::is_hopeless(&e) { NoView::Never(error) } else { NoView::Later(error) }
    })?;
    let (listener, inbox) = match port {
        Port::Served(listener, inbox) => (listener, inbox),
        Port::Bound(tcp) => Listener::new(config, &identity, tcp, None)?,
    };
    let info = describe(config, &identity, &listener, &stream)?;
    let hello = Hello {
        version: ronde_core::membership::VERSION,
        rank: config.rank,
        size: config.size,
        min_peers: config.min_peers,
        newcomer: config.newcomer,
        hosts_coordinator,
        info,
    };
    let talk = Talk::new(stream, errand.session());
    let (view, talk) = Rendezvous::new(talk, &config.job, hello, deadline)?.await_view(was_pending)?;
    Ok(Met { identity, listener, inbox, view, talk, addresses })
}

/// Joins the job.
pub(crate) fn join(config: &Config, events: Arc<dyn ControlEvents>) -> Result<Joined> {
    let deadline = Instant::now() + config.connect_timeout;
    config.refuse_size_0()?;
    // Without a place to meet, a size or a rank this process is a job of its own.
    let meets = config.coordinator.is_some() || config.id.is_some() || config.store.is_some();
    let alone = !meets && config.size.is_none() && config.rank.is_none() && config.min_peers.is_none();
    let mut own = Config { size: if alone { Some(1) } else { config.size }, ..config.clone() };
    if own.newcomer {
        (own.rank, own.size) = (None, None);
    }
    let was_pending = std::cell::Cell::new(false);
    loop {
        let attempt = |_| {
            // One that came to a job which ended, or lost its coordinator, must not start another in its place.
            let joins_late = was_pending.get() && own.size.is_none();
            let config = Config { newcomer: own.newcomer || joins_late, ..own.clone() };
            meet(&config, deadline, &was_pending)
        };
        let met = handshake::retry(deadline, attempt, |e| matches!(e, NoView::Never(_)));
        let config = &own;
        let Met { identity, listener, inbox, view, talk, addresses } = met.map_err(NoView::into_error)?;
        let (peer, joins_late) = (identity.peer, view.generation.0 > 0);
        let reconnections = listener.reconnections();
        reconnections.wakes(events.clone());
        let succession = Succession::new(config, &identity, addresses, reconnections.clone());
        let control = Control::start(talk, &view, succession, listener, config, events.clone())?;
        let control = Arc::new(control);
        let mut linker = Linker::new(config, identity, inbox, reconnections);
        match linker.first_view(view, &control, deadline) {
            Ok(view) => return Ok(Joined { view, peer, linker, control, deadline }),
            // The job has another coordinator soon, which knows nothing of this process.
            Err(_) if joins_late && control.has_lost_coordinator() && Instant::now() < deadline => {
                own.newcomer = true;
                events.forget();
            }
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn new_peer_id() -> Result<PeerId> {
    let mut id = [0u8; 16];
    handshake::fill_random(&mut id)?;
    Ok(PeerId(id))
}

/// Where this process meets the others.
struct Meeting {
    identity: Identity,
    /// Of the coordinator.
    addresses: Vec<SocketAddr>,
    /// This process's listener, if it hosts the coordinator.
    host: Option<(Listener, Inbox)>,
}

impl Meeting {
    fn arrange(config: &Config, deadline: Instant) -> Result<Meeting> {
        match (&config.id, &config.store) {
            (Some(id), _) => {
                let addresses = id.addresses(config)?;
                Meeting::by_id(id, addresses, id.take_host())
            }
            (None, Some(store)) => {
                let (id, host) = store::exchange(&**store, config, deadline)?;
                Meeting::by_id(&id, id.addresses(config)?, host)
            }
            (None, None) => Meeting::at_address(config),
        }
    }

    fn by_id(id: &RondeId, addresses: Vec<SocketAddr>, host: Option<id::Host>) -> Result<Meeting> {
        match host {
            Some(id::Host { identity, listener, inbox }) => {
                Ok(Meeting { identity, addresses, host: Some((listener, inbox)) })
            }
            None => {
                let identity = Identity::new(id.token(), new_peer_id()?);
                Ok(Meeting { identity, addresses, host: None })
            }
        }
    }

    fn at_address(config: &Config) -> Result<Meeting> {
        let mut addresses = coordinator_addresses(config)?;
        let identity = Identity::new(&config.token, new_peer_id()?);
        let host = host_coordinator(config, &addresses, &identity)?;
        if let Some((listener, _)) = &host {
            // Port 0 (a job of one) was chosen by the system when it was bound.
            addresses.retain(|a| a.ip() == listener.address().ip());
            addresses.iter_mut().for_each(|a| a.set_port(listener.port()));
        }
        Ok(Meeting { identity, addresses, host })
    }
}

/// The coordinator's addresses; a job of one needs none.
pub(crate) fn coordinator_addresses(config: &Config) -> Result<Vec<SocketAddr>> {
    let text = match &config.coordinator {
        Some(text) => text.as_str(),
        None if config.size.unwrap_or(1) == 1 => "127.0.0.1:0",
        None => {
            let text = format!("no coordinator: {}", environment::how_to_name_a_coordinator());
            return Err(Error::join(text));
        }
    };
    let found = text
        .to_socket_addrs()
        .map_err(|e| Error::join(format!("the coordinator's address \"{text}\" means nothing here: {e}")))?;
    let found: Vec<SocketAddr> = found.filter(|a| config.family.allows(a.ip())).collect();
    if found.is_empty() {
        return Err(Error::join(format!(
            "\"{text}\" has no address of a family that RONDE_SOCKET_FAMILY allows"
        )));
    }
    found.iter().try_for_each(|address| refuse_open_networks(config, *address))?;
    Ok(found)
}

/// Until connections are encrypted, leaving the machine takes an explicit word.
pub(crate) fn refuse_open_networks(config: &Config, address: SocketAddr) -> Result<()> {
    if address.ip().is_loopback() || config.insecure {
        return Ok(());
    }
    Err(Error::join(format!(
        "{address} is beyond loopback and encryption is not built yet: set RONDE_INSECURE=1 (and RONDE_TOKEN) on a \
         network that you trust"
    )))
}

/// Binds one of the coordinator's addresses if it is this process's to host.
fn host_coordinator(
    config: &Config,
    addresses: &[SocketAddr],
    identity: &Identity,
) -> Result<Option<(Listener, Inbox)>> {
    if config.newcomer || config.rank.is_some_and(|rank| rank != 0) {
        return Ok(None);
    }
    // In use: a coordinator of its own runs there, or another process was quicker. Not of this machine: it
    // runs elsewhere. If it is neither, connecting says so.
    match addresses.iter().find_map(|address| TcpListener::bind(address).ok()) {
        Some(tcp) => Listener::new(config, identity, tcp, Some(Coordinators::start(config)?)).map(Some),
        None => Ok(None),
    }
}

fn describe(
    config: &Config,
    identity: &Identity,
    listener: &Listener,
    control: &TcpStream,
) -> Result<MemberInfo> {
    let local = || {
        let local = control.local_addr();
        Ok(local.map_err(|e| Error::resource(format!("no local address: {e}")))?.ip())
    };
    let (addresses, _) = addresses_for_peers(config, listener.address(), local)?;
    listener.be_found_at(&addresses);
    Ok(MemberInfo {
        peer: identity.peer,
        id: MemberId(0),
        host: environment::host_name(),
        addresses,
        machine: environment::machine(),
        user: rustix::process::geteuid().as_raw(),
        pid: std::process::id(),
        transports: usable_transports(config)?,
        costs: config.costs_of_members(),
    })
}

/// Those of the configuration that work here. Where a link's memory cannot be shared (a sandbox, a limit) TCP can do all.
fn usable_transports(config: &Config) -> Result<Vec<String>> {
    let mut usable = config.transports.clone();
    if config.allows_transport("shm")
        && let Err(error) = SharedBuffer::new(ShmOptions::default().ring_bytes, &Arc::default())
    {
        let text = format!("this process cannot share memory: {error}");
        if !config.allows_transport("tcp") {
            return Err(Error::resource(format!("{text}, and RONDE_TRANSPORTS allows nothing else")));
        }
        tracing::warn!("{text}; it uses TCP. `ronde doctor` may know why");
        usable.retain(|name| name != "shm");
    }
    Ok(usable)
}

/// Where the others find a process that listens at `listener` and reaches the coordinator from `local`.
fn addresses_for_peers(
    config: &Config,
    listener: SocketAddr,
    local: impl FnOnce() -> Result<IpAddr>,
) -> Result<(Vec<SocketAddr>, AddressSource)> {
    let port = listener.port();
    Ok(match &config.advertise {
        Some(text) => {
            let named = advertised(text, port);
            let is_none = |e| Error::join(format!("RONDE_ADVERTISE \"{text}\" is no address: {e}"));
            (named.map_err(is_none)?, AddressSource::Advertised)
        }
        // On loopback the whole job is on this machine.
        None if !config.interfaces.is_empty() && !listener.ip().is_loopback() => {
            (config.interfaces.addresses(config.family, port)?, AddressSource::Interfaces)
        }
        // The way to the coordinator is a way to the others.
        None => (vec![SocketAddr::new(local()?, port)], AddressSource::Route),
    })
}

/// The addresses that a user gave: host, host:port, or an address of version 6 with or without brackets. `port` is
/// that of the listener.
pub(crate) fn advertised(text: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    Ok(match text.contains(':') {
        true => text.to_socket_addrs()?.collect(),
        false => (text, port).to_socket_addrs()?.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_addresses_in_every_spelling() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:7"),
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::1]:9", "[::1]:9"),
            ("fd00::2", "[fd00::2]:7"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(advertised(text, 7).unwrap(), [address], "{text}");
        }
        assert!(advertised("localhost", 7).unwrap().iter().all(|a| a.ip().is_loopback() && a.port() == 7));
        assert!(advertised("localhost:9", 7).unwrap().iter().all(|a| a.port() == 9));
        for bad in ["", "[::1", "::1]:9", "1.2.3.4:x", "[1.2.3.4]:70000", ":"] {
            assert!(advertised(bad, 7).is_err(), "{bad}");
        }
    }
}
