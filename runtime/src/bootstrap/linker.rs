//! Links to the members of a view: of each pair the higher rank connects, the lower accepts.
//!
//! Pairs on one machine that both allow shared memory use a Unix socket, all others TCP. A view may be replaced
//! by another while its links are being made (a newcomer died); what was made of links that the other one has
//! too is kept.

use super::handshake::{self, Errand, Identity};
use super::listener;
use super::reconnect::Reconnections;
use super::waiting::{Arrival, Inbox};
use crate::config::{Config, Reconnect};
use crate::control::Control;
use crate::engine::links::{self, LinkState, Local};
use crate::engine::lock;
use ronde_core::error::{Error, Result};
use ronde_core::membership::{FromMember, MemberInfo, View};
use ronde_core::transport::Link;
use ronde_core::{MemberId, PeerId};
use ronde_shm::Registry;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long one attempt to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often whoever waits for connections looks whether the job still lives.
const LOOK: Duration = Duration::from_millis(20);
/// How long the other side of a connection may take to set the link up.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);
/// Connections of processes that the view does not name any more are kept for so long: the next may name them again.
const KEEP: Duration = Duration::from_secs(60);

/// Sockets to one peer, authenticated and connected.
#[derive(Default)]
pub(crate) struct PeerSockets {
    tcp: BTreeMap<u8, TcpStream>,
    /// How many TCP connections there will be, and whether others take their places when they are cut.
    expected: usize,
    resumes: bool,
    pub(crate) unix: Option<UnixStream>,
    came: Option<Instant>,
}

impl PeerSockets {
    fn are_complete(&self) -> bool {
        self.unix.is_some() || self.expected > 0 && self.tcp.len() >= self.expected
    }

    /// Takes one of the TCP connections; of two with one number, the first was given up by the other side.
    fn take(&mut self, stream: TcpStream, errand: Errand) {
        (self.expected, self.resumes) = (usize::from(errand.streams), errand.resumes);
        self.tcp.insert(errand.stream, stream);
    }

    /// The TCP connections, in the order that both sides know.
    pub(crate) fn streams(self) -> Vec<TcpStream> {
        self.tcp.into_values().collect()
    }
}

/// A link and what the engine keeps of it besides.
pub(crate) type NewLink = (Box<dyn Link>, LinkState);

/// Links that were made and that the engine has not taken yet, by the other side.
#[derive(Clone, Default)]
pub(crate) struct Ready(Arc<Mutex<BTreeMap<PeerId, NewLink>>>);

impl Ready {
    pub(crate) fn take(&self, peer: PeerId) -> Option<NewLink> {
        lock(&self.0).remove(&peer)
    }
}

/// Why the links of a view are not there.
pub(crate) enum Unlinked {
    /// Another view is wanted meanwhile, or the job has failed.
    Superseded,
    /// There is no way to this member.
    To(MemberId, Error),
}

/// Makes the links of one process.
pub(crate) struct Linker {
    config: Config,
    identity: Identity,
    inbox: Inbox,
    reconnections: Arc<Reconnections>,
    pub(crate) registry: Arc<Registry>,
    /// Connections that have come, or were made, and are not links yet.
    sockets: BTreeMap<PeerId, PeerSockets>,
    /// To whom there is a link, taken by the engine or not.
    linked: BTreeMap<PeerId, MemberId>,
    ready: Ready,
}

impl Linker {
    pub(crate) fn new(
        config: &Config,
        identity: Identity,
        inbox: Inbox,
        reconnections: Arc<Reconnections>,
    ) -> Linker {
        Linker {
            config: config.clone(),
            identity,
            inbox,
            reconnections,
            registry: Arc::new(Registry::new()),
            sockets: BTreeMap::new(),
            linked: BTreeMap::new(),
            ready: Ready::default(),
        }
    }

    /// Where the links are once they are made.
    pub(crate) fn ready(&self) -> Ready {
        self.ready.clone()
    }

    /// Makes the links of a process's first view, or of the one that takes its place, until one is armed.
    pub(crate) fn first_view(
        &mut self,
        mut view: View,
        control: &Control,
        deadline: Instant,
    ) -> Result<View> {
        loop {
            let linked = self.link(&view, control, deadline);
            if let (0, Err(Unlinked::To(_, error))) = (view.generation.0, &linked) {
                return Err(error.clone());
            }
            say_what_came_of(&view, linked, control);
            match control.await_armed(view.epoch, deadline)? {
                None => return Ok(view),
                Some(other) => view = other,
            }
        }
    }

    /// Makes the links of every view that is proposed, until the job ends.
    pub(crate) fn follow(mut self, control: &Control, mut last: View) {
        while let Some(view) = control.await_proposal(last.epoch) {
            let deadline = Instant::now() + self.config.connect_timeout;
            let linked = self.link(&view, control, deadline);
            say_what_came_of(&view, linked, control);
            last = view;
        }
    }

    /// Makes the links of a view that are missing.
    fn link(&mut self, view: &View, control: &Control, deadline: Instant) -> Result<(), Unlinked> {
        self.forget_those_outside(view);
        self.inbox.expect(view.members.iter().map(|member| member.peer));
        let me = view.rank_of(self.identity.peer).ok_or(Unlinked::Superseded)?.index();
        let renumbered = |m: &&MemberInfo| self.linked.get(&m.peer).is_some_and(|&id| id != m.id);
        if let Some(member) = view.members.iter().find(renumbered) {
            // What comes on a link is reported under the number that it was made with.
            return Err(Unlinked::To(member.id, Error::internal("a member has got another number")));
        }
        for (rank, member) in view.members.iter().enumerate() {
            if rank != me && !self.linked.contains_key(&member.peer) {
                match rank < me {
                    true => self.connect(&view.members[me], member, view, control, deadline)?,
                    false => self.accept(member, view, control, deadline)?,
                }
            }
        }
        let local_peers = links::local_peers(view, self.identity.peer);
        // In the order of ranks on every side, so that nobody waits for one who waits for another.
        for member in &view.members {
            if member.peer != self.identity.peer && !self.linked.contains_key(&member.peer) {
                let connects = view.rank_of(member.peer).is_some_and(|rank| rank.index() < me);
                self.open(member, connects, local_peers, deadline)
                    .map_err(|error| Unlinked::To(member.id, error))?;
            }
        }
        Ok(())
    }

    fn forget_those_outside(&mut self, view: &View) {
        let is_in = |peer: PeerId| view.rank_of(peer).is_some();
        self.linked.retain(|&peer, _| is_in(peer));
        self.reconnections.retain(is_in);
        lock(&self.ready.0).retain(|&peer, _| is_in(peer));
        self.sockets
            .retain(|&peer, sockets| is_in(peer) || sockets.came.is_some_and(|at| at.elapsed() < KEEP));
    }

    fn is_superseded(view: &View, control: &Control) -> bool {
        control.failure().is_some() || control.proposed() > view.epoch
    }

    fn connect(
        &mut self,
        me: &MemberInfo,
        member: &MemberInfo,
        view: &View,
        control: &Control,
        deadline: Instant,
    ) -> Result<(), Unlinked> {
        if self.sockets.get(&member.peer).is_some_and(PeerSockets::are_complete) {
            return Ok(());
        }
        let way = Way { config: &self.config, identity: &self.identity, view, control, deadline };
        let mut sockets = PeerSockets { came: Some(Instant::now()), ..PeerSockets::default() };
        if share_memory(me, member) {
            sockets.unix = Some(way.connect_unix(member)?);
        } else if self.config.allows_transport("tcp") {
            let resumes = match self.config.reconnect {
                Reconnect::Always => true,
                Reconnect::Remote => me.machine != member.machine,
                Reconnect::Never => false,
            };
            for (stream, errand) in way.connect_tcp(member, resumes)? {
                sockets.take(stream, errand);
            }
        } else {
            let error = Error::join(format!(
                "{} on {} cannot be reached by {} alone (RONDE_TRANSPORTS)",
                named(view, member),
                member.host,
                self.config.transports.join(",")
            ));
            return Err(Unlinked::To(member.id, error));
        }
        self.sockets.insert(member.peer, sockets);
        Ok(())
    }

    /// Takes the connections of a member as they come, until all are there.
    fn accept(
        &mut self,
        member: &MemberInfo,
        view: &View,
        control: &Control,
        deadline: Instant,
    ) -> Result<(), Unlinked> {
        while !self.sockets.get(&member.peer).is_some_and(PeerSockets::are_complete) {
            if Linker::is_superseded(view, control) {
                return Err(Unlinked::Superseded);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inbox.take(member.peer, left.min(LOOK)) {
                Some(arrival) => self.arrived(member.peer, arrival),
                None if left.is_zero() => {
                    let error = unreachable_peer(view, member, &"it did not connect in time");
                    return Err(Unlinked::To(member.id, error));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn arrived(&mut self, peer: PeerId, arrival: Arrival) {
        let sockets = self.sockets.entry(peer).or_default();
        sockets.came = Some(Instant::now());
        match arrival {
            Arrival::Tcp(_, stream, errand) => sockets.take(stream, errand),
            Arrival::Unix(_, stream) => sockets.unix = Some(stream),
        }
    }

    fn open(
        &mut self,
        member: &MemberInfo,
        connects: bool,
        local_peers: usize,
        deadline: Instant,
    ) -> Result<()> {
        let sockets = self.sockets.remove(&member.peer).unwrap_or_default();
        let deadline = deadline.min(Instant::now() + SETUP_PATIENCE);
        let number = member.id.index();
        let resumption = sockets.resumes.then(|| self.reconnections.link(member, connects));
        let local = Local { registry: &self.registry, peers: local_peers, deadline };
        let link = links::open(&self.config, number, sockets, resumption, &local);
        let link =
            link.map_err(|e| Error::join(format!("no link to the peer on host {}: {e}", member.host)))?;
        self.linked.insert(member.peer, member.id);
        lock(&self.ready.0).insert(member.peer, link);
        Ok(())
    }
}

fn say_what_came_of(view: &View, linked: Result<(), Unlinked>, control: &Control) {
    let epoch = view.epoch;
    match linked {
        Ok(()) => control.say(&FromMember::Linked(epoch)),
        Err(Unlinked::Superseded) => {}
        Err(Unlinked::To(member, error)) => {
            control.say(&FromMember::Unlinked { epoch, member, reason: error.to_string() });
        }
    }
}

/// Whether two members talk through shared memory.
pub(crate) fn share_memory(a: &MemberInfo, b: &MemberInfo) -> bool {
    let allows = |m: &MemberInfo| m.transports.iter().any(|t| t == "shm");
    a.machine == b.machine && a.user == b.user && allows(a) && allows(b)
}

fn named(view: &View, member: &MemberInfo) -> String {
    view.rank_of(member.peer).map_or_else(|| "a peer".into(), |rank| format!("rank {rank}"))
}

fn unreachable_peer(view: &View, member: &MemberInfo, why: &dyn std::fmt::Display) -> Error {
    let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
    Error::join(format!(
        "{} on {} ({}) cannot be reached: {why}. Check the address it advertises and firewalls",
        named(view, member),
        member.host,
        addresses.join(", ")
    ))
}

/// How this process reaches the others, and until when it tries.
struct Way<'a> {
    config: &'a Config,
    identity: &'a Identity,
    view: &'a View,
    /// Knows if the view is not wanted any more, which ends every attempt.
    control: &'a Control,
    deadline: Instant,
}

impl Way<'_> {
    fn connect_tcp(&self, member: &MemberInfo, resumes: bool) -> Result<Vec<(TcpStream, Errand)>, Unlinked> {
        let streams = self.config.streams;
        let connect = |stream| {
            let errand = Errand { stream, streams, resumes, ..Errand::DATA };
            let one = |left| handshake::try_each(&member.addresses, self.identity, errand, left);
            Ok((self.insist(member, one)?, errand))
        };
        (0..streams).map(connect).collect()
    }

    fn connect_unix(&self, member: &MemberInfo) -> Result<UnixStream, Unlinked> {
        self.insist(member, |left| listener::connect_unix(member.peer, self.identity, left))
    }

    /// Tries until it works, the deadline passes, or the view is not wanted any more.
    fn insist<T>(
        &self,
        member: &MemberInfo,
        attempt: impl Fn(Duration) -> io::Result<T>,
    ) -> Result<T, Unlinked> {
        let attempt = |left: Duration| match Linker::is_superseded(self.view, self.control) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => attempt(left.min(PATIENCE)),
        };
        handshake::retry(self.deadline, attempt, handshake::is_hopeless).map_err(|e| {
            match Linker::is_superseded(self.view, self.control) {
                true => Unlinked::Superseded,
                false => Unlinked::To(member.id, unreachable_peer(self.view, member, &e)),
            }
        })
    }
}
