//! Sockets to every peer of a view: the higher rank connects, the lower accepts.
//!
//! Pairs on one machine that both allow shared memory use a Unix socket, all others TCP.

use super::PeerSockets;
use super::handshake::{self, Identity, Purpose};
use super::listener::{Arrival, Inbox, connect_unix};
use crate::config::Config;
use ronde_core::error::{Error, Result};
use ronde_core::membership::{MemberInfo, View};
use ronde_core::{PeerId, Rank};
use std::time::Instant;

/// Connects to all.
pub(super) fn connect(
    config: &Config,
    view: &View,
    rank: Rank,
    identity: &Identity,
    inbox: &Inbox,
    deadline: Instant,
) -> Result<Vec<PeerSockets>> {
    let me = &view.members[rank.index()];
    let mut sockets: Vec<PeerSockets> = view.members.iter().map(|_| PeerSockets::default()).collect();
    for (member, sockets) in view.members.iter().zip(&mut sockets).take(rank.index()) {
        if share_memory(me, member) {
            sockets.unix = Some(
                connect_unix(member.peer, identity, deadline).map_err(|e| unreachable_peer(member, &e))?,
            );
        } else if config.allows_transport("tcp") {
            sockets.tcp.push(connect_tcp(member, identity, deadline)?);
        } else {
            return Err(Error::join(format!(
                "rank {} on {} cannot be reached by {} alone (RONDE_TRANSPORTS)",
                member.rank,
                member.host,
                config.transports.join(",")
            )));
        }
    }
    accept_the_others(view, rank, inbox, deadline, &mut sockets)?;
    Ok(sockets)
}

fn share_memory(a: &MemberInfo, b: &MemberInfo) -> bool {
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

fn connect_tcp(member: &MemberInfo, identity: &Identity, deadline: Instant) -> Result<std::net::TcpStream> {
    let mut last = std::io::Error::other("it advertises no address");
    for &address in &member.addresses {
        match handshake::connect(address, identity, Purpose::Data, deadline) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(unreachable_peer(member, &last))
}

/// Takes the connections of higher ranks as they come.
fn accept_the_others(
    view: &View,
    rank: Rank,
    inbox: &Inbox,
    deadline: Instant,
    sockets: &mut [PeerSockets],
) -> Result<()> {
    let is_missing = |s: &PeerSockets| s.tcp.is_empty() && s.unix.is_none();
    let rank_of = |peer: PeerId| view.members.iter().position(|m| m.peer == peer);
    while let Some(missing) = (rank.index() + 1..sockets.len()).find(|&r| is_missing(&sockets[r])) {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(arrival) = inbox.recv_timeout(left) else {
            return Err(unreachable_peer(&view.members[missing], &"it did not connect in time"));
        };
        match arrival {
            Arrival::Tcp(peer, stream) => {
                if let Some(from) = rank_of(peer).filter(|&r| r > rank.index()) {
                    sockets[from].tcp.push(stream);
                }
            }
            Arrival::Unix(peer, stream) => {
                if let Some(from) = rank_of(peer).filter(|&r| r > rank.index()) {
                    sockets[from].unix = Some(stream);
                }
            }
        }
    }
    Ok(())
}
