//! What a member does when it has lost its coordinator: the shell around the search for another, which decides
//! whom to ask ([`Search`]).

use super::handshake::{self, Errand, Identity};
use super::{ControlEvents, Listener, Reconnections};
use crate::config::Config;
use crate::control::introduce;
use crate::engine::lock;
use crate::session::{Session, Talk, Way};
use ronde_core::membership::{Absence, FromMember, MemberInfo, Rejoin, Search, Step, ToMember, Verdict};
use ronde_core::{MemberId, PeerId};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is needed to find another coordinator, or to become its host.
pub(crate) struct Succession {
    config: Config,
    identity: Identity,
    /// Where the first coordinator was found.
    addresses: Vec<SocketAddr>,
    reconnections: Arc<Reconnections>,
    /// How often this process has asked for one.
    asked: AtomicU64,
}

/// What came of looking for a coordinator.
pub(crate) enum Found {
    /// The connection to it.
    Coordinator(Talk),
    /// It has ended the job for this member.
    Verdict(Verdict),
    Nothing,
}

/// What came of asking somebody.
enum Answer {
    /// It is the coordinator, and has taken this member in.
    Welcome(Talk, Option<PeerId>),
    /// It is, and has not.
    Verdict(Verdict),
    Nobody(Absence),
}

impl Succession {
    pub(crate) fn new(
        config: &Config,
        identity: &Identity,
        addresses: Vec<SocketAddr>,
        reconnections: Arc<Reconnections>,
    ) -> Succession {
        let (config, identity) = (config.clone(), identity.clone());
        Succession { config, identity, addresses, reconnections, asked: AtomicU64::new(0) }
    }

    /// What becomes of a connection to a coordinator that has taken this member in. The coordinator beats like its members: its
    /// silence is its loss. One that can be connected to again is given half of the time for that.
    pub(crate) fn session(&self, talk: Talk, write: Duration) -> io::Result<Session> {
        let patience = self.config.suspect_after();
        let session = Session::new(talk, Way::Connects(self.reconnections.clone(), patience / 2));
        let silence = if session.id().is_some() { patience / 2 } else { patience };
        session.set_timeouts(Some(silence), Some(write))?;
        Ok(session)
    }

    /// This process.
    pub(crate) fn peer(&self) -> PeerId {
        self.identity.peer
    }

    /// The connection to the coordinator that takes the place of one that was lost. `silent`: that one may live. While it looks this
    /// process may have a pause, in which others go on without it.
    pub(crate) fn find(
        &self,
        events: &dyn ControlEvents,
        listener: &Mutex<Option<Listener>>,
        silent: bool,
        had_a_pause: &dyn Fn() -> bool,
        is_over: &dyn Fn() -> bool,
    ) -> Found {
        let start = Instant::now();
        let now = || ronde_core::Instant(start.elapsed().as_nanos() as u64);
        let mut search = Search::new(self.peer(), silent, self.config.suspect_after(), now());
        if search.is_cut_off() {
            events.hears_nothing();
        }
        while !is_over() {
            if had_a_pause() {
                events.hears_nothing();
            }
            let Some((rejoin, heirs)) = events.rejoin() else { return Found::Nothing };
            let known: Vec<(PeerId, MemberId)> =
                rejoin.view.members.iter().chain(&heirs).map(|member| (member.peer, member.id)).collect();
            let answer = match search.next(rejoin, heirs, now()) {
                Step::AskAgain(rejoin) => self.ask(&self.addresses, &rejoin),
                Step::Ask(heir, rejoin) => {
                    tracing::debug!("the coordinator was lost: asking member {}", heir.id);
                    self.ask(&self.addresses(&heir, listener), &rejoin)
                }
                Step::Host(me, rejoin) => {
                    if self.host(listener).is_none() {
                        return Found::Nothing;
                    }
                    self.ask(&self.addresses(&me, listener), &rejoin)
                }
                Step::GiveUp => return Found::Nothing,
            };
            match answer {
                // Whoever was asked: a successor listens at the address of the one before too.
                Answer::Welcome(talk, host) => {
                    let host = known.iter().find(|(peer, _)| Some(*peer) == host).map(|(_, id)| *id);
                    if host.is_some() {
                        events.hosted_by(host);
                    }
                    return Found::Coordinator(talk);
                }
                Answer::Verdict(verdict) => return Found::Verdict(verdict),
                Answer::Nobody(absence) => {
                    let pause = search.not_found(absence, now());
                    if search.is_cut_off() {
                        events.hears_nothing();
                    }
                    std::thread::park_timeout(pause);
                }
            }
        }
        Found::Nothing
    }

    /// Where a member's coordinator is asked for: this process's own at its listener.
    fn addresses(&self, heir: &MemberInfo, listener: &Mutex<Option<Listener>>) -> Vec<SocketAddr> {
        match (&*lock(listener), heir.peer == self.identity.peer) {
            (Some(listener), true) => vec![listener.reachable_address()],
            _ => heir.addresses.clone(),
        }
    }

    /// Starts a coordinator in this process, unless that was done before.
    fn host(&self, listener: &Mutex<Option<Listener>>) -> Option<()> {
        let listener = lock(listener);
        let hosted = listener.as_ref()?.host_successor(&self.config, self.peer(), &self.addresses);
        hosted.inspect_err(|e| tracing::warn!("no coordinator can be started here: {e}")).ok()
    }

    fn ask(&self, addresses: &[SocketAddr], rejoin: &Rejoin) -> Answer {
        let patience = self.config.suspect_after();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let epoch = rejoin.epoch;
        let rejoin = Rejoin { asked, ..rejoin.clone() };
        let ask = || -> io::Result<(Talk, ToMember)> {
            let errand = Errand::stay(self.config.reconnect, addresses).map_err(io::Error::other)?;
            let stream = handshake::try_each(addresses, &self.identity, errand, patience)?;
            stream.set_write_timeout(Some(patience))?;
            let mut talk = Talk::new(stream, errand.session());
            introduce(&mut talk, &self.config.job, &FromMember::Rejoin(Box::new(rejoin)))?;
            let answer = talk.hear(Instant::now() + patience)?;
            Ok((talk, answer))
        };
        match ask() {
            Ok((talk, ToMember::Welcome { host })) => Answer::Welcome(talk, host),
            Ok((_, ToMember::Verdict(verdict))) => Answer::Verdict(verdict),
            // The job has ended there, without this member.
            Ok((_, ToMember::TryLater)) => Answer::Verdict(Verdict::Deposed(epoch)),
            Ok((_, ToMember::NotHere(_))) => Answer::Nobody(Absence::Failed),
            Ok(_) => Answer::Nobody(Absence::NotYet),
            Err(error) => Answer::of_error(&error),
        }
    }
}

impl Answer {
    fn of_error(error: &io::Error) -> Answer {
        Answer::Nobody(match error.kind() {
            io::ErrorKind::ConnectionRefused => Absence::Ended,
            io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Absence::Silent,
            // A member without a coordinator closes such connections.
            _ => Absence::NotYet,
        })
    }
}
