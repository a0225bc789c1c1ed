//! From a configuration to a view and authenticated sockets to every peer.
//!
//! Each process has one listener for everything (and, on Linux, an abstract Unix socket for peers of its
//! machine). Whoever hosts the coordinator shares its listener with it.

mod handshake;
mod listener;
mod mesh;

use crate::config::Config;
use crate::control::{Control, Rendezvous};
use crate::environment;
pub(crate) use handshake::{Identity, Purpose};
pub(crate) use listener::{Inbox, Listener};
use ronde_core::error::{Error, Result};
use ronde_core::membership::{Hello, MemberInfo, View};
use ronde_core::{PeerId, Rank};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Sockets to one peer, authenticated and connected.
#[derive(Default)]
pub(crate) struct PeerSockets {
    pub(crate) tcp: Vec<TcpStream>,
    pub(crate) unix: Option<UnixStream>,
}

/// A process that has joined.
pub(crate) struct Joined {
    pub(crate) view: View,
    pub(crate) rank: Rank,
    pub(crate) sockets: Vec<PeerSockets>,
    pub(crate) control: Control,
}

/// What the control thread tells the engine.
pub(crate) trait ControlEvents: Send + Sync {
    /// The job has failed; called once.
    fn failed(&self, error: Error);
    /// A member left in order.
    fn left(&self, rank: Rank);
}

/// Joins the job.
pub(crate) fn join(config: &Config, events: Arc<dyn ControlEvents>) -> Result<Joined> {
    let deadline = Instant::now() + config.connect_timeout;
    // Without a coordinator, a size or a rank this process is a job of its own.
    let alone = config.coordinator.is_none() && config.size.is_none() && config.rank.is_none();
    let own = Config { size: if alone { Some(1) } else { config.size }, ..config.clone() };
    let config = &own;
    let address = coordinator_address(config)?;
    let identity = Identity::new(&config.token, new_peer_id()?);
    let hosting = host_coordinator(config, address, &identity)?;
    let hosts_coordinator = hosting.is_some();
    let (listener, inbox) = match hosting {
        Some(both) => both,
        None => Listener::bind(config, address.ip(), &identity, None)?,
    };
    // Port 0 (a job of one) was chosen by the system when it was bound.
    let port = if hosts_coordinator { listener.port() } else { address.port() };
    let address = SocketAddr::new(address.ip(), port);
    let stream = handshake::connect(address, &identity, Purpose::Control, deadline)
        .map_err(|e| Error::join(format!("no coordinator at {address}: {e}")))?;
    let info = describe(config, &identity, &listener, &stream)?;
    let hello = Hello {
        version: ronde_core::membership::VERSION,
        rank: config.rank,
        size: config.size,
        hosts_coordinator,
        info,
    };
    let rendezvous = Rendezvous::new(stream, hello, deadline)?;
    let (view, rank, rendezvous) = rendezvous.await_view()?;
    let sockets = mesh::connect(config, &view, rank, &identity, &inbox, deadline)?;
    let control = rendezvous.activate(&view, rank, config, events, listener)?;
    Ok(Joined { view, rank, sockets, control })
}

fn new_peer_id() -> Result<PeerId> {
    let mut id = [0u8; 16];
    handshake::fill_random(&mut id)?;
    Ok(PeerId(id))
}

/// The coordinator's address; a job of one needs none.
fn coordinator_address(config: &Config) -> Result<SocketAddr> {
    let text = match &config.coordinator {
        Some(text) => text.as_str(),
        None if config.size.unwrap_or(1) == 1 => "127.0.0.1:0",
        None => {
            return Err(Error::join(
                "no coordinator: set RONDE_COORDINATOR=host:port, or start with `ronde run -n N` or torchrun",
            ));
        }
    };
    let mut found = text
        .to_socket_addrs()
        .map_err(|e| Error::join(format!("the coordinator's address \"{text}\" means nothing here: {e}")))?;
    let address = found.next().ok_or_else(|| Error::join(format!("\"{text}\" has no address")))?;
    if !address.ip().is_loopback() && !config.insecure {
        return Err(Error::join(format!(
            "{address} is beyond loopback and encryption is not built yet: set RONDE_INSECURE=1 (and \
             RONDE_TOKEN) on a network that you trust"
        )));
    }
    Ok(address)
}

/// Binds the coordinator's address if it is this process's to host.
fn host_coordinator(
    config: &Config,
    address: SocketAddr,
    identity: &Identity,
) -> Result<Option<(Listener, Inbox)>> {
    if config.rank.is_some_and(|rank| rank != 0) {
        return Ok(None);
    }
    match Listener::bind(config, address.ip(), identity, Some(address)) {
        Ok(both) => Ok(Some(both)),
        // In use: a coordinator of its own runs there, or another process was quicker. Not of this
        // machine: it runs elsewhere. If it is neither, connecting says so.
        Err(_) if address.port() != 0 => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(
    config: &Config,
    identity: &Identity,
    listener: &Listener,
    control: &TcpStream,
) -> Result<MemberInfo> {
    let local = control.local_addr().map_err(|e| Error::resource(format!("no local address: {e}")))?;
    let seen = SocketAddr::new(local.ip(), listener.port());
    let addresses = match &config.advertise {
        None => vec![seen],
        Some(text) => {
            let with_port =
                if text.contains(':') { text.clone() } else { format!("{text}:{}", listener.port()) };
            let found = with_port
                .to_socket_addrs()
                .map_err(|e| Error::join(format!("RONDE_ADVERTISE \"{text}\" is no address: {e}")))?;
            found.collect()
        }
    };
    Ok(MemberInfo {
        peer: identity.peer,
        rank: Rank(0),
        host: environment::host_name(),
        addresses,
        machine: environment::machine(),
        pid: std::process::id(),
        transports: config.transports.clone(),
    })
}
