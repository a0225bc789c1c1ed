//! The one listener of a process, for TCP and for its machine's Unix sockets.
//!
//! A connection that has not proved itself costs little: at most [`MAX_STRANGERS`] at a time, a few
//! hundred bytes and [`super::handshake::PATIENCE`] each.

use super::handshake::{self, Identity, PATIENCE, Purpose};
use crate::config::Config;
use crate::coordinator::EmbeddedCoordinator;
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// Connections that may be proving themselves at one time.
const MAX_STRANGERS: usize = 64;

/// An authenticated data connection.
pub(crate) enum Arrival {
    Tcp(PeerId, TcpStream),
    Unix(PeerId, UnixStream),
}

/// Data connections as they come.
pub(crate) type Inbox = mpsc::Receiver<Arrival>;

/// Accepts connections until it is dropped.
pub(crate) struct Listener {
    port: u16,
    address: SocketAddr,
    unix_name: String,
    stop: Arc<AtomicBool>,
    /// Keeps the embedded coordinator alive.
    coordinator: Option<EmbeddedCoordinator>,
}

/// Where connections go once they have proved themselves.
struct Router {
    identity: Identity,
    arrivals: mpsc::SyncSender<Arrival>,
    control: Option<mpsc::SyncSender<TcpStream>>,
    strangers: AtomicUsize,
    stop: Arc<AtomicBool>,
}

/// Name of a process's abstract Unix socket.
fn unix_name(peer: PeerId) -> String {
    let hex: String = peer.0.iter().map(|b| format!("{b:02x}")).collect();
    format!("ronde-{hex}")
}

impl Listener {
    /// Listens; with `hosting`, at exactly that address and with a coordinator.
    pub(crate) fn bind(
        config: &Config,
        ip: IpAddr,
        identity: &Identity,
        hosting: Option<SocketAddr>,
    ) -> Result<(Listener, Inbox)> {
        let tcp = match hosting {
            Some(address) => TcpListener::bind(address)
                .map_err(|e| Error::resource(format!("cannot listen at {address}: {e}")))?,
            None => bind_data_port(config, ip)?,
        };
        let failed = |e: io::Error| Error::resource(format!("cannot listen: {e}"));
        let address = tcp.local_addr().map_err(failed)?;
        let unix_name = unix_name(identity.peer);
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&unix_name).map_err(failed)?;
        let unix = UnixListener::bind_addr(&name).map_err(failed)?;
        let coordinator = match hosting {
            Some(_) => Some(EmbeddedCoordinator::start(config)?),
            None => None,
        };
        let (arrivals, inbox) = mpsc::sync_channel(4096);
        let stop = Arc::new(AtomicBool::new(false));
        let router = Arc::new(Router {
            identity: identity.clone(),
            arrivals,
            control: coordinator.as_ref().map(EmbeddedCoordinator::connections),
            strangers: AtomicUsize::new(0),
            stop: stop.clone(),
        });
        router.clone().spawn("ronde-listen", move |router| router.accept_tcp(&tcp)).map_err(failed)?;
        router.spawn("ronde-local", move |router| router.accept_unix(&unix)).map_err(failed)?;
        Ok((Listener { port: address.port(), address, unix_name, stop, coordinator }, inbox))
    }

    /// Waits until the job of the coordinator here has ended.
    pub(crate) fn wait_for_the_job(&self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.wait();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the two accept calls, which then see `stop`.
        let _ = TcpStream::connect_timeout(&self.address, PATIENCE);
        if let Ok(name) = std::os::unix::net::SocketAddr::from_abstract_name(&self.unix_name) {
            let _ = UnixStream::connect_addr(&name);
        }
    }
}

/// Connects to a peer's Unix socket.
pub(crate) fn connect_unix(
    peer: PeerId,
    identity: &Identity,
    deadline: std::time::Instant,
) -> io::Result<UnixStream> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(unix_name(peer))?;
    handshake::retry(deadline, |left| {
        let mut stream = UnixStream::connect_addr(&name)?;
        stream.set_read_timeout(Some(left.min(PATIENCE)))?;
        handshake::introduce(&mut stream, identity, Purpose::Data)?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    })
}

fn bind_data_port(config: &Config, ip: IpAddr) -> Result<TcpListener> {
    let ip = match (ip.is_loopback(), ip) {
        (true, ip) => ip,
        (false, IpAddr::V4(_)) => IpAddr::from([0u8; 4]),
        (false, IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
    };
    let (first, last) = config.ports;
    let mut tried = (first..=last).map(|port| TcpListener::bind((ip, port)));
    tried
        .find_map(io::Result::ok)
        .ok_or_else(|| Error::resource(format!("no free port from {first} to {last} at {ip} (RONDE_PORT)")))
}

impl Router {
    fn spawn(
        self: Arc<Router>,
        name: &str,
        run: impl FnOnce(Arc<Router>) + Send + 'static,
    ) -> io::Result<()> {
        std::thread::Builder::new().name(name.into()).spawn(move || run(self)).map(drop)
    }

    fn accept_tcp(self: Arc<Router>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.clone().admit(move |router| router.greet_tcp(stream));
        }
    }

    fn accept_unix(self: Arc<Router>, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.clone().admit(move |router| router.greet_unix(stream));
        }
    }

    /// Greets a connection on a thread of its own, unless too many strangers are at the door.
    fn admit(self: Arc<Router>, greet: impl FnOnce(&Router) -> io::Result<()> + Send + 'static) {
        if self.strangers.fetch_add(1, Ordering::AcqRel) >= MAX_STRANGERS {
            self.strangers.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let router = self.clone();
        let spawned = self.clone().spawn("ronde-greet", move |_| {
            if let Err(error) = greet(&router) {
                tracing::info!("a connection was refused: {error}");
            }
            router.strangers.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            self.strangers.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn greet_tcp(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let (peer, purpose) = handshake::receive(&mut stream, &self.identity)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        let gone = |_| io::Error::other("nobody takes connections any more");
        match (purpose, &self.control) {
            (Purpose::Data, _) => self.arrivals.try_send(Arrival::Tcp(peer, stream)).map_err(|_| gone(())),
            (Purpose::Control, Some(control)) => control.try_send(stream).map_err(|_| gone(())),
            (Purpose::Control, None) => Err(io::Error::other("no coordinator runs here")),
        }
    }

    fn greet_unix(&self, mut stream: UnixStream) -> io::Result<()> {
        let other = rustix::net::sockopt::socket_peercred(&stream)?;
        if other.uid != rustix::process::geteuid() {
            return Err(io::Error::other("a process of another user"));
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        let (peer, _) = handshake::receive(&mut stream, &self.identity)?;
        stream.set_read_timeout(None)?;
        self.arrivals
            .try_send(Arrival::Unix(peer, stream))
            .map_err(|_| io::Error::other("nobody takes connections any more"))
    }
}
