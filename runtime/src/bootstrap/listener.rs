//! The one listener of a process, for TCP and for its machine's Unix sockets.
//!
//! A connection that has not proved itself costs little: at most [`MAX_STRANGERS`] at a time, a thread and
//! [`super::handshake::PATIENCE`] each. One more cuts the oldest, so that connections which say nothing
//! cannot keep a member out.

use super::handshake::{self, Errand, Identity, Introduction, PATIENCE, Purpose};
use super::reconnect::Reconnections;
use super::waiting::{Arrival, Inbox, WaitingRoom};
use crate::config::Config;
use crate::control::write_message;
use crate::coordinator::Addresses;
use crate::engine::lock;
use crate::jobs::{Coordinators, Visitor, end_after_words};
use crate::until::Until;
use ronde_core::PeerId;
use ronde_core::error::{Error, Result};
use ronde_core::membership::ToMember;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::Shutdown;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Connections that may be proving themselves at one time.
const MAX_STRANGERS: usize = 256;

/// Addresses that are named in warnings at most.
const MAX_NAMED: usize = 64;

/// How long, and for how many bytes, one that is refused may go on.
const FAREWELL: Duration = Duration::from_millis(500);
const MAX_UNREAD: u64 = 4096;

/// How long to wait after an accept call that failed.
const PAUSE: Duration = Duration::from_millis(10);

/// Accepts connections until it is dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    unix_name: String,
    stop: Arc<AtomicBool>,
    /// Keeps the embedded coordinator alive.
    coordinator: Mutex<Option<Coordinators>>,
    router: Arc<Router>,
    /// Where it listens besides.
    also: Addresses,
}

/// Where connections go once they have proved themselves.
struct Router {
    address: SocketAddr,
    identity: Identity,
    arrivals: Arc<WaitingRoom>,
    control: Mutex<Option<mpsc::SyncSender<Visitor>>>,
    reconnections: Arc<Reconnections>,
    strangers: Mutex<Strangers>,
    /// From where what came that is not of this version.
    foreign: Mutex<BTreeSet<(IpAddr, io::ErrorKind)>>,
    stop: Arc<AtomicBool>,
    /// The job has, for this process.
    has_ended: AtomicBool,
}

/// Connections that are proving themselves, in the order of their arrival, each with what cuts it.
#[derive(Default)]
struct Strangers {
    next: u64,
    cut: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

impl Strangers {
    fn enter(&mut self, cut: Box<dyn FnOnce() + Send>) -> u64 {
        if self.cut.len() >= MAX_STRANGERS
            && let Some((_, oldest)) = self.cut.pop_first()
        {
            oldest();
        }
        self.next += 1;
        self.cut.insert(self.next, cut);
        self.next
    }
}

/// Name of a process's abstract Unix socket.
fn unix_name(peer: PeerId) -> String {
    let hex: String = peer.0.iter().map(|b| format!("{b:02x}")).collect();
    format!("ronde-{hex}")
}

impl Listener {
    /// Takes what connects to `tcp` and to this process's Unix socket, also for coordinators if there are some here.
    pub(crate) fn new(
        config: &Config,
        identity: &Identity,
        tcp: TcpListener,
        coordinators: Option<Coordinators>,
    ) -> Result<(Listener, Inbox)> {
        let failed = |e: io::Error| Error::resource(format!("cannot listen: {e}"));
        let address = tcp.local_addr().map_err(failed)?;
        let unix_name = unix_name(identity.peer);
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&unix_name).map_err(failed)?;
        let unix = UnixListener::bind_addr(&name).map_err(failed)?;
        let members = config.size.max(config.min_peers).unwrap_or(0) as usize;
        let expected = members.saturating_mul(usize::from(config.streams));
        let (arrivals, inbox) = WaitingRoom::new(expected, config.connect_timeout);
        let stop = Arc::new(AtomicBool::new(false));
        let router = Arc::new(Router {
            address,
            identity: identity.clone(),
            arrivals,
            control: Mutex::new(coordinators.as_ref().map(Coordinators::connections)),
            reconnections: Reconnections::new(identity, config),
            strangers: Mutex::default(),
            foreign: Mutex::default(),
            stop: stop.clone(),
            has_ended: AtomicBool::new(false),
        });
        router.clone().spawn("ronde-listen", move |router| router.accept_tcp(&tcp)).map_err(failed)?;
        router.clone().spawn("ronde-local", move |router| router.accept_unix(&unix)).map_err(failed)?;
        let coordinator = Mutex::new(coordinators);
        Ok((Listener { address, unix_name, stop, coordinator, router, also: Arc::default() }, inbox))
    }

    /// Hosts the coordinator that takes the place of another. Newcomers find it also where that one was, if the
    /// address is this machine's and free again.
    pub(crate) fn host_successor(&self, config: &Config, me: PeerId, addresses: &[SocketAddr]) -> Result<()> {
        let mut coordinator = lock(&self.coordinator);
        if coordinator.is_some() {
            return Ok(());
        }
        let started = Coordinators::succeed(config, me, self.also.clone())?;
        *lock(&self.router.control) = Some(started.connections());
        *coordinator = Some(started);
        for &address in addresses.iter().filter(|&&address| address != self.address) {
            self.listen_also(address);
        }
        Ok(())
    }

    /// Who hosts the coordinator listens at its address only. Others may be told another, on a network of its own for data.
    pub(crate) fn be_found_at(&self, addresses: &[SocketAddr]) {
        let own = self.address.ip();
        if own.is_unspecified() || own.is_loopback() {
            return;
        }
        addresses.iter().filter(|address| address.ip() != own).for_each(|&address| self.listen_also(address));
    }

    /// Takes connections at another address too, now or as soon as that is free: the process that had it may still be
    /// ending.
    fn listen_also(&self, address: SocketAddr) {
        let also = self.also.clone();
        let mut bound = TcpListener::bind(address);
        match &bound {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => tracing::info!("{address} is waited for: {e}"),
            // Not an address of this machine.
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => return,
            Err(e) => return tracing::warn!("others cannot find this process at {address}: {e}"),
            Ok(_) => {}
        }
        let listen = move |router: Arc<Router>| {
            while !router.stop.load(Ordering::Acquire) {
                if let Ok(tcp) = &bound {
                    lock(&also).push(address);
                    // Who ends this process's part has either seen the address or was seen here.
                    if !router.stop.load(Ordering::Acquire) {
                        router.accept_tcp(tcp);
                    }
                    return;
                }
                std::thread::park_timeout(PAUSE);
                bound = TcpListener::bind(address);
            }
        };
        if let Err(error) = self.router.clone().spawn("ronde-listen", listen) {
            tracing::warn!("others cannot find this process at {address}: {error}");
        }
    }

    /// Where this process itself reaches it.
    pub(crate) fn reachable_address(&self) -> SocketAddr {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST.octets()),
        };
        SocketAddr::new(ip, self.address.port())
    }

    /// Waits until the jobs of the coordinators here have ended.
    pub(crate) fn wait_for_the_jobs(&self) {
        if let Some(coordinator) = &*lock(&self.coordinator) {
            coordinator.wait();
        }
    }

    /// The same, for so long at most; false if it goes on. True where no coordinator is.
    pub(crate) fn wait_for_the_job_until(&self, patience: Duration) -> bool {
        lock(&self.coordinator).as_ref().is_none_or(|coordinator| coordinator.wait_for(patience))
    }

    /// The job has ended here: whoever looks for a coordinator is told, unless one is here.
    pub(crate) fn job_has_ended(&self) {
        self.router.has_ended.store(true, Ordering::Release);
    }

    /// What takes up streams that were cut.
    pub(super) fn reconnections(&self) -> Arc<Reconnections> {
        self.router.reconnections.clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.router.reconnections.end();
        // Wakes the accept calls, which then see `stop`.
        for address in lock(&self.also).iter().chain([&self.address]) {
            let _ = TcpStream::connect_timeout(address, PATIENCE);
        }
        if let Ok(name) = std::os::unix::net::SocketAddr::from_abstract_name(&self.unix_name) {
            let _ = UnixStream::connect_addr(&name);
        }
    }
}

/// Connects to a peer's Unix socket.
pub(crate) fn connect_unix(peer: PeerId, identity: &Identity, patience: Duration) -> io::Result<UnixStream> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(unix_name(peer))?;
    let stream = UnixStream::connect_addr(&name)?;
    let mut limited = Until(&stream, Instant::now() + patience);
    handshake::introduce(&mut limited, identity, Errand::DATA)?;
    limited.lift()?;
    Ok(stream)
}

/// Binds the first free port of those that the configuration allows: at a loopback address if the job stays
/// on this machine, else at all addresses.
pub(crate) fn bind_free_port(config: &Config, ip: IpAddr) -> Result<TcpListener> {
    let ip = listening_address(ip);
    let (first, last) = config.ports;
    let mut tried = (first..=last).map(|port| TcpListener::bind((ip, port)));
    tried
        .find_map(io::Result::ok)
        .ok_or_else(|| Error::resource(format!("no free port from {first} to {last} at {ip} (RONDE_PORT)")))
}

/// Where a process listens whose coordinator is at `ip`.
pub(super) fn listening_address(ip: IpAddr) -> IpAddr {
    match (ip.is_loopback(), ip) {
        (true, ip) => ip,
        (false, IpAddr::V4(_)) => IpAddr::from([0u8; 4]),
        (false, IpAddr::V6(_)) => IpAddr::from([0u16; 8]),
    }
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
        self.accept(|| listener.accept().map(|(stream, _)| stream), TcpStream::try_clone, Router::greet_tcp);
    }

    fn accept_unix(self: Arc<Router>, listener: &UnixListener) {
        self.accept(
            || listener.accept().map(|(stream, _)| stream),
            UnixStream::try_clone,
            Router::greet_unix,
        );
    }

    /// Takes connections until the listener stops; each proves itself on a thread of its own.
    fn accept<S: Cut + Send + 'static>(
        self: Arc<Router>,
        next: impl Fn() -> io::Result<S>,
        duplicate: impl Fn(&S) -> io::Result<S>,
        greet: fn(&Router, u64, S) -> io::Result<()>,
    ) {
        loop {
            let stream = next();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // Out of descriptors, or a connection that was reset before it was taken: others may do better.
            let Ok((stream, handle)) = stream.and_then(|s| duplicate(&s).map(|handle| (s, handle))) else {
                std::thread::park_timeout(PAUSE);
                continue;
            };
            let number = lock(&self.strangers).enter(Box::new(move || handle.cut()));
            let router = self.clone();
            let spawned = self.clone().spawn("ronde-greet", move |_| {
                if let Err(error) = greet(&router, number, stream) {
                    tracing::info!("a connection was refused: {error}");
                }
                lock(&router.strangers).cut.remove(&number);
            });
            if spawned.is_err() {
                lock(&self.strangers).cut.remove(&number);
            }
        }
    }

    fn greet_tcp(&self, number: u64, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut limited = Until(&stream, Instant::now() + PATIENCE);
        let received = handshake::receive(&mut limited, &self.identity);
        let Introduction { peer, errand } = received.inspect_err(|error| self.see_off(&stream, error))?;
        self.no_stranger(number)?;
        limited.lift()?;
        // Nothing is locked while this is served.
        let control = lock(&self.control).clone();
        match (errand.purpose, control) {
            (Purpose::Data, _) => self.arrivals.enter(Arrival::Tcp(peer, stream, errand)),
            (Purpose::Resume, _) => self.reconnections.receive(stream, peer),
            (Purpose::Relay, _) => self.reconnections.relay(stream),
            (Purpose::Control, Some(control)) => control
                .try_send(Visitor { stream, peer, errand, reconnections: self.reconnections.clone() })
                .map_err(|_| io::Error::other("the coordinator here takes nobody more")),
            (Purpose::Control, None) if self.has_ended.load(Ordering::Acquire) => {
                write_message(&stream, &ToMember::NotHere("the job has ended in this process".into()))?;
                end_after_words(&stream);
                Ok(())
            }
            (Purpose::Control, None) => Err(io::Error::other("no coordinator runs here")),
        }
    }

    /// Names what is not of this version, once for each address, and lets it hear the answer: a connection that is
    /// closed with bytes unread is reset, which can overtake that.
    fn see_off(&self, stream: &TcpStream, error: &io::Error) {
        if !handshake::is_hopeless(error) {
            return;
        }
        if let Ok(from) = stream.peer_addr() {
            let mut foreign = lock(&self.foreign);
            let is_new = foreign.len() < MAX_NAMED && foreign.insert((from.ip(), error.kind()));
            drop(foreign);
            if is_new {
                tracing::warn!("a connection from {from} to {}: {error}", self.address);
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(FAREWELL));
        let _ = io::copy(&mut stream.take(MAX_UNREAD), &mut io::sink());
    }

    fn greet_unix(&self, number: u64, stream: UnixStream) -> io::Result<()> {
        let other = rustix::net::sockopt::socket_peercred(&stream)?;
        if other.uid != rustix::process::geteuid() {
            return Err(io::Error::other("a process of another user"));
        }
        let mut limited = Until(&stream, Instant::now() + PATIENCE);
        let Introduction { peer, .. } = handshake::receive(&mut limited, &self.identity)?;
        self.no_stranger(number)?;
        limited.lift()?;
        self.arrivals.enter(Arrival::Unix(peer, stream))
    }

    /// From here on nobody cuts the connection, unless that has just happened.
    fn no_stranger(&self, number: u64) -> io::Result<()> {
        match lock(&self.strangers).cut.remove(&number) {
            Some(_) => Ok(()),
            None => Err(io::Error::other("too many connections at one time")),
        }
    }
}

/// Ends both directions of a connection.
trait Cut {
    fn cut(&self);
}

impl Cut for TcpStream {
    fn cut(&self) {
        // Fails if the other side was quicker, which is as good.
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Cut for UnixStream {
    fn cut(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::read_message;
    use std::io::Write;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn the_oldest_strangers_are_cut_first() {
        let cut = Arc::new(AtomicUsize::new(0));
        let mut strangers = Strangers::default();
        for arrived in 0..MAX_STRANGERS + 3 {
            let cut = cut.clone();
            strangers.enter(Box::new(move || {
                assert_eq!(cut.fetch_add(1, Ordering::Relaxed), arrived);
            }));
            assert!(strangers.cut.len() <= MAX_STRANGERS);
        }
        assert_eq!(cut.load(Ordering::Relaxed), 3);
    }

    /// Nobody takes data connections while a job runs, and without a token anybody may open them.
    #[test]
    fn connections_that_nobody_asks_for_do_not_use_up_the_descriptors() {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let join = |rank| {
            let config = Config::new().coordinator(free.to_string()).rank(rank).size(2);
            std::thread::spawn(move || config.join().unwrap())
        };
        let groups = [0, 1].map(join).map(|joining| joining.join().unwrap());
        let connect = |number: u128| {
            let stranger = Identity::new("", PeerId(number.to_le_bytes()));
            handshake::try_each(&[free], &stranger, Errand::DATA, PATIENCE).unwrap()
        };
        let strangers: Vec<TcpStream> = (0..500).map(connect).collect();
        // The last of these is taken in after its side knows that it is welcome.
        std::thread::park_timeout(Duration::from_millis(200));
        let is_closed = |mut stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            matches!(stream.read(&mut [0]), Ok(0))
        };
        let closed = strangers.iter().filter(|stream| is_closed(stream)).count();
        assert!(closed > 300, "{closed} of 500");
        let work = groups.map(|group| {
            std::thread::spawn(move || {
                let _ = group.barrier().unwrap();
                group.close().unwrap();
            })
        });
        work.into_iter().for_each(|rank| rank.join().unwrap());
    }

    /// It may live on, to save what it has: whoever looks for a coordinator learns at once that none will be here, and not that the
    /// process is dead.
    #[test]
    fn a_process_in_which_the_job_has_failed_says_so() {
        let (listener, _inbox) = listener_of(None, 9);
        let ask = || {
            let stranger = Identity::new("", PeerId([8; 16]));
            let stream = handshake::try_each(&[listener.address()], &stranger, Errand::CONTROL, PATIENCE);
            read_message(&stream.unwrap())
        };
        assert_eq!(ask().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        listener.job_has_ended();
        assert!(matches!(ask(), Ok(ToMember::NotHere(_))));
    }

    /// Tests run at the same time: each has a peer of its own.
    fn listener(config: &Config, peer: u8) -> (Listener, Inbox) {
        listener_of(Some(config), peer)
    }

    /// One that has a coordinator if there is a configuration for that.
    fn listener_of(config: Option<&Config>, peer: u8) -> (Listener, Inbox) {
        let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let id = Identity::new("", PeerId([peer; 16]));
        let coordinators = config.map(|config| Coordinators::start(config).unwrap());
        Listener::new(config.unwrap_or(&Config::new()), &id, tcp, coordinators).unwrap()
    }

    #[test]
    fn a_stranger_who_says_a_byte_now_and_then_is_cut() {
        let (listener, _inbox) = listener(&Config::new().size(2), 6);
        let mut stranger = TcpStream::connect(listener.address()).unwrap();
        stranger.set_read_timeout(Some(PATIENCE / 32)).unwrap();
        // A preamble that would be done after twice the patience.
        let preamble = handshake::preamble(&Identity::new("", PeerId([8; 16])), Errand::DATA).unwrap();
        let answered = preamble.iter().find_map(|byte| {
            let said = stranger.write_all(&[*byte]).and_then(|()| stranger.read(&mut [0]));
            match said {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    None
                }
                said => Some(said.unwrap_or(0)),
            }
        });
        assert_eq!(answered, Some(0), "bytes that were said to it before the end");
    }

    #[test]
    fn who_never_says_what_for_is_let_go() {
        let config = Config::new().size(2).connect_timeout(Duration::from_millis(300));
        let (listener, _inbox) = listener(&config, 7);
        let stranger = Identity::new("", PeerId([8; 16]));
        let to = [listener.address()];
        let mut mute = handshake::try_each(&to, &stranger, Errand::CONTROL, PATIENCE).unwrap();
        mute.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(mute.read(&mut [0]).unwrap(), 0);
    }
}
