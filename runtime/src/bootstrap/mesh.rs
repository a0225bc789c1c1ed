//! Sockets to every peer of a view: the higher rank connects, the lower accepts.
//!
//! Pairs on one machine that both allow shared memory use a Unix socket, all others TCP.

use super::PeerSockets;
use super::handshake::{self, Identity, Purpose};
use super::listener::{self, Arrival, Inbox};
use crate::config::Config;
use crate::control::Control;
use ronde_core::error::{Error, Result};
use ronde_core::membership::{MemberInfo, View};
use ronde_core::{PeerId, Rank};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long one attempt to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often whoever waits for connections looks whether the job still lives.
const LOOK: Duration = Duration::from_millis(20);

/// Connects to all.
pub(super) fn connect(
    config: &Config,
    view: &View,
    rank: Rank,
    identity: &Identity,
    inbox: &Inbox,
    control: &Control,
    deadline: Instant,
) -> Result<Vec<PeerSockets>> {
    let way = Way { config, identity, control, deadline };
    let me = &view.members[rank.index()];
    let mut sockets: Vec<PeerSockets> = view.members.iter().map(|_| PeerSockets::default()).collect();
    for (member, sockets) in view.members.iter().zip(&mut sockets).take(rank.index()) {
        if share_memory(me, member) {
            sockets.unix = Some(way.connect_unix(member)?);
        } else if config.allows_transport("tcp") {
            sockets.tcp = way.connect_tcp(member)?;
        } else {
            return Err(Error::join(format!(
                "rank {} on {} cannot be reached by {} alone (RONDE_TRANSPORTS)",
                member.rank,
                member.host,
                config.transports.join(",")
            )));
        }
    }
    way.accept_the_others(view, rank, inbox, &mut sockets)?;
    Ok(sockets)
}

/// Whether two members talk through shared memory.
pub(crate) fn share_memory(a: &MemberInfo, b: &MemberInfo) -> bool {
    let allows = |m: &MemberInfo| m.transports.iter().any(|t| t == "shm");
    a.machine == b.machine && allows(a) && allows(b)
}

fn unreachable_peer(member: &MemberInfo, why: &dyn std::fmt::Display) -> Error {
    let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
    Error::join(format!(
        "rank {} on {} ({}) cannot be reached: {why}. Check the address it advertises and firewalls",
        member.rank,
        member.host,
        addresses.join(", ")
    ))
}

/// How this process reaches the others, and until when it tries.
struct Way<'a> {
    config: &'a Config,
    identity: &'a Identity,
    /// Knows if the job has failed meanwhile, which ends every attempt.
    control: &'a Control,
    deadline: Instant,
}

impl Way<'_> {
    fn connect_tcp(&self, member: &MemberInfo) -> Result<Vec<TcpStream>> {
        let streams = self.config.streams;
        let one = |left| handshake::try_each(&member.addresses, self.identity, Purpose::Data, streams, left);
        (0..streams).map(|_| self.insist(member, one)).collect()
    }

    fn connect_unix(&self, member: &MemberInfo) -> Result<UnixStream> {
        self.insist(member, |left| listener::connect_unix(member.peer, self.identity, left))
    }

    /// Tries until it works, the deadline passes, or the job has failed.
    fn insist<T>(&self, member: &MemberInfo, attempt: impl Fn(Duration) -> io::Result<T>) -> Result<T> {
        let attempt = |left: Duration| match self.control.failure() {
            Some(_) => Err(io::ErrorKind::PermissionDenied.into()),
            None => attempt(left.min(PATIENCE)),
        };
        let connected = handshake::retry(self.deadline, attempt, handshake::is_hopeless);
        connected.map_err(|e| self.control.failure().unwrap_or_else(|| unreachable_peer(member, &e)))
    }

    /// Takes the connections of higher ranks as they come.
    fn accept_the_others(
        &self,
        view: &View,
        rank: Rank,
        inbox: &Inbox,
        sockets: &mut [PeerSockets],
    ) -> Result<()> {
        let is_missing = |s: &PeerSockets| s.tcp.len() < s.expected.max(1) && s.unix.is_none();
        let rank_of = |peer: PeerId| view.members.iter().position(|m| m.peer == peer);
        while let Some(missing) = (rank.index() + 1..sockets.len()).find(|&r| is_missing(&sockets[r])) {
            if let Some(error) = self.control.failure() {
                return Err(error);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            let arrival = match inbox.recv_timeout(left.min(LOOK)) {
                Ok(arrival) => arrival,
                Err(_) if left.is_zero() => {
                    return Err(unreachable_peer(&view.members[missing], &"it did not connect in time"));
                }
                Err(_) => continue,
            };
            let (peer, streams) = match &arrival {
                Arrival::Tcp(peer, _, streams) => (*peer, usize::from(*streams)),
                Arrival::Unix(peer, _) => (*peer, 0),
            };
            let Some(from) = rank_of(peer).filter(|&r| r > rank.index()) else { continue };
            sockets[from].expected = streams;
            match arrival {
                Arrival::Tcp(_, stream, _) => sockets[from].tcp.push(stream),
                Arrival::Unix(_, stream) => sockets[from].unix = Some(stream),
            }
        }
        Ok(())
    }
}
