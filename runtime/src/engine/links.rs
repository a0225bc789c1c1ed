//! The links of a process: which transport for which peer, and what their end means.

use super::{Engine, Inner};
use crate::bootstrap::{PeerSockets, share_memory};
use crate::config::Config;
use ronde_algorithms::{Topology, Tuning};
use ronde_core::error::{Aborted, Error};
use ronde_core::membership::{FromMember, LinkEnd, MemberInfo, View};
use ronde_core::transport::{Link, LinkFailure};
use ronde_core::{Instant, MemberId, PeerId};
use ronde_shm::{Registry, ShmLink, ShmOptions};
use ronde_tcp::{Resumption, TcpLink, TcpOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What the engine keeps of a link besides the link.
#[derive(Default)]
pub(crate) struct LinkState {
    /// Name of the transport; empty for one's own entry.
    pub(crate) transport: &'static str,
    /// Duplicate of the descriptor to poll before a sleep.
    pub(crate) descriptor: Option<OwnedFd>,
    /// The peer has left in order.
    pub(crate) left: bool,
    /// Since when nothing has come back from its machine.
    unanswered_since: Option<Instant>,
    /// How the link has ended.
    pub(super) end: Option<LinkEnd>,
    /// When it was connected anew since nothing came back, and how often in a row.
    connected_anew: Option<(Instant, u32)>,
}

impl LinkState {
    pub(super) fn new(transport: &'static str, descriptor: Option<OwnedFd>) -> LinkState {
        LinkState { transport, descriptor, ..LinkState::default() }
    }
}

/// A link is silent that answers nothing for so many times as long as a member may be: who is cut off from the coordinator
/// too is found there first.
const SILENCES: u32 = 2;
/// And to which so much was sent in vain.
const SILENT_RETRIES: u32 = 3;

/// A link that falls silent again soon after it was connected anew, so often in a row, has failed.
const MOST_IN_VAIN: u32 = 3;

/// What the links within a machine need.
pub(crate) struct Local<'a> {
    pub(crate) registry: &'a Arc<Registry>,
    /// How many members there are on it.
    pub(crate) peers: usize,
    /// When a link has to be set up.
    pub(crate) deadline: std::time::Instant,
}

/// Opens the link to a member: shared memory where both run on one machine, as one of so many, and it is allowed, else TCP.
pub(crate) fn open(
    config: &Config,
    peer: usize,
    mut sockets: PeerSockets,
    resumption: Option<Resumption>,
    local: &Local<'_>,
) -> Result<(Box<dyn Link>, LinkState), String> {
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| e.to_string());
    if let Some(socket) = sockets.unix.take()
        && config.allows_transport("shm")
    {
        let descriptor = Some(duplicate(socket.as_fd())?);
        let link = ShmLink::connect(
            peer,
            socket,
            &ShmOptions::among(local.peers),
            local.registry.clone(),
            local.deadline,
        )
        .map_err(|e| e.to_string())?;
        return Ok((Box::new(link), LinkState::new("shm", descriptor)));
    }
    let (streams, options) = (sockets.streams(), TcpOptions::default());
    if streams.is_empty() {
        return Err("no transport that both sides allow (see RONDE_TRANSPORTS)".into());
    }
    let link = match resumption {
        Some(resumption) => TcpLink::resumable(peer, streams, &options, resumption),
        None => TcpLink::new(peer, streams, &options),
    };
    let link = link.map_err(|e| e.to_string())?;
    let descriptor = link.descriptor().map(duplicate).transpose()?;
    Ok((Box::new(link), LinkState::new("tcp", descriptor)))
}

/// Members on this process's machine, itself included.
pub(crate) fn local_peers(view: &View, me: PeerId) -> usize {
    let machine = view.members.iter().find(|m| m.peer == me).map(|m| &m.machine);
    view.members.iter().filter(|m| Some(&m.machine) == machine).count()
}

fn infos<'a>(view: &'a View, members: &[usize]) -> Vec<&'a MemberInfo> {
    members.iter().filter_map(|&member| view.member(MemberId(member as u32))).collect()
}

/// The members by what makes them alike, numbered as it comes.
fn numbered(infos: &[&MemberInfo], alike: impl Fn(&MemberInfo, &MemberInfo) -> bool) -> Vec<u32> {
    let mut first_of: Vec<&MemberInfo> = Vec::new();
    let mut numbers = Vec::with_capacity(infos.len());
    for &info in infos {
        let known = first_of.iter().position(|first| alike(first, info));
        numbers.push(known.unwrap_or_else(|| {
            first_of.push(info);
            first_of.len() - 1
        }) as u32);
    }
    numbers
}

/// Where the members of a group run: those of one node share memory, all others talk over TCP. A matter of
/// the view alone, since every rank must come to the same answer, whatever links it has itself.
pub(crate) fn topology(view: &View, members: &[usize]) -> Arc<Topology> {
    // The same text gives the same choice on every rank; one that nobody understands counts as none.
    let costs = view.members.first().and_then(|first| first.costs.parse().ok()).unwrap_or_default();
    let infos = infos(view, members);
    let domains = numbered(&infos, share_memory);
    let machines = numbered(&infos, |one, other| one.machine == other.machine);
    Arc::new(Topology::new(&domains, &machines, &costs))
}

/// How plans cut vectors for the links between any two members.
pub(crate) fn tuning(topology: &Topology) -> Tuning {
    let nodes = topology.nodes();
    let default = Tuning::default();
    Tuning {
        max_piece_bytes: match nodes.largest() {
            1 => ronde_tcp::MAX_PAYLOAD,
            _ => ShmOptions::default().max_payload(),
        },
        // Shorter ones stay in the cache; over sockets they would cost more calls.
        window_bytes: if nodes.count() > 1 { default.window_bytes } else { default.window_bytes / 2 },
        ..default
    }
}

impl Engine {
    /// Polls every link. A link that ends is reported to the coordinator, who decides what it means.
    pub(super) fn poll_links(&self, inner: &mut Inner) -> bool {
        let mut moved = false;
        for at in 0..inner.links.len() {
            let Some(link) = inner.links[at].as_mut() else { continue };
            let polled = link.poll(&mut inner.executor);
            match polled {
                Ok(some) => moved |= some,
                Err(failure) => {
                    moved = true;
                    self.end_link(inner, at, failure);
                }
            }
        }
        self.end_failed_links(inner);
        moved
    }

    /// Ends the links that the executor finds unusable.
    pub(super) fn end_failed_links(&self, inner: &mut Inner) {
        while let Some((at, failure)) = inner.executor.take_failure() {
            self.end_link(inner, at, failure);
        }
    }

    fn end_link(&self, inner: &mut Inner, at: usize, failure: LinkFailure) {
        inner.executor.close_link(&mut inner.links, at);
        if failure == LinkFailure::Revoked {
            inner.executor.stall_ops_with(at);
            let reason = format!(
                "rank {} ended an operation (it failed there, or the group was closed) before rank {} had \
                 read its data; see its log for the cause",
                inner.rank_of(MemberId(at as u32)),
                inner.rank()
            );
            self.control.say(&FromMember::Abort { reason: reason.clone() });
            let error = Error::Aborted(Arc::new(Aborted::Announced(reason)));
            inner.pending_verdict.get_or_insert((self.now(), error, None));
        }
        self.link_ended(inner, at, failure);
    }

    fn link_ended(&self, inner: &mut Inner, peer: usize, failure: LinkFailure) {
        if inner.link_states[peer].left {
            return self.check_left(inner, peer);
        }
        let transport = inner.link_states[peer].transport;
        let reason = format!("rank {} saw on {transport}: {failure}", inner.rank());
        let member = MemberId(peer as u32);
        let end = match failure {
            LinkFailure::Closed => LinkEnd::Farewell,
            LinkFailure::Silent => LinkEnd::Silence,
            _ => LinkEnd::Cut,
        };
        inner.link_states[peer].end = Some(end);
        self.control.say(&FromMember::LinkFailed { member, reason: reason.clone(), end });
        if inner.executor.open_ops() > 0 {
            let text = format!(
                "the link to rank {} ended ({reason}) and the coordinator gave no verdict",
                inner.rank_of(member)
            );
            let error = Error::Aborted(Arc::new(Aborted::Announced(text)));
            inner.pending_verdict.get_or_insert((self.now(), error, Some(peer)));
        }
    }

    /// The path to a peer may end without a word, and the peer live, and be heard by the coordinator. So while a call waits for
    /// long all links are probed, also those that it does not wait for (how many a member lacks decides who goes), and those given up on
    /// which nothing comes back.
    pub(super) fn watch_links(&self, inner: &mut Inner, now: Instant, waits: bool) {
        if std::mem::replace(&mut inner.watches_links, waits) != waits {
            let period = waits.then_some(self.suspect_after);
            inner.links.iter_mut().flatten().for_each(|link| link.probe(period));
        }
        if waits {
            self.end_silent_links(inner, now);
        }
    }

    fn end_silent_links(&self, inner: &mut Inner, now: Instant) {
        let silence = self.suspect_after * SILENCES;
        let since_last = now.since(std::mem::replace(&mut inner.looked_for_silence, now));
        for at in 0..inner.links.len() {
            let Some(link) = &mut inner.links[at] else { continue };
            let Some(unanswered) = link.unanswered() else { continue };
            let since = &mut inner.link_states[at].unanswered_since;
            // What was seen long ago has been answered since, for all that is known.
            if unanswered == 0 || since_last > silence {
                *since = None;
            }
            let since = if unanswered > 0 { *since.get_or_insert(now) } else { now };
            if unanswered < SILENT_RETRIES || now.since(since) < silence {
                continue;
            }
            let state = &mut inner.link_states[at];
            // On some paths little gets through and more does not: a new connection looks well at first.
            let recent = state.connected_anew.filter(|(at, _)| now.since(*at) < silence * 3);
            let in_vain = recent.map_or(0, |(_, times)| times);
            if in_vain < MOST_IN_VAIN && link.reconnect() {
                state.unanswered_since = None;
                state.connected_anew = Some((now, in_vain + 1));
            } else {
                self.end_link(inner, at, LinkFailure::Silent);
            }
        }
    }

    /// A peer that left in order is only missed if an op still waits for it and its link has ended.
    pub(super) fn check_left(&self, inner: &mut Inner, peer: usize) {
        if inner.links[peer].is_some() || !inner.link_states[peer].left {
            return;
        }
        if let Some((op, collective)) = inner.executor.waits_on(peer) {
            let member = MemberId(peer as u32);
            let reason =
                format!("rank {} left the group before {collective} #{}", inner.rank_of(member), op.seq);
            self.control.say(&FromMember::Missed { member, reason: reason.clone() });
            let error = Error::Aborted(Arc::new(Aborted::Announced(reason)));
            inner.pending_verdict.get_or_insert((self.now(), error, Some(peer)));
        }
    }
}
