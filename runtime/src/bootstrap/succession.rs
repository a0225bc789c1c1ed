//! What a member does when it has lost its coordinator.
//!
//! One that a member hosted is succeeded by the lowest rank that lives: that one starts a coordinator in its own
//! listener, the others go there. One that ran alone is asked for again at its address. Whoever is not there yet
//! (it may not have noticed) is asked again, whoever cannot be reached is passed over.

use super::handshake::{self, Identity, Purpose};
use super::{ControlEvents, Listener};
use crate::config::Config;
use crate::control::{read_message, write_message};
use crate::engine::lock;
use ronde_core::membership::{FromMember, MemberInfo, Rejoin, ToMember, Verdict};
use ronde_core::{MemberId, PeerId};
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Pause before one who is not the coordinator yet is asked again.
const PAUSE: Duration = Duration::from_millis(5);
/// A member that cannot be reached at all for so many times as long as one may be silent is passed over.
const PATIENCE: u32 = 2;
/// So many times as long as a member may be silent is looked for another host. One that ran alone is waited for
/// as long as it takes: operations need it only after a loss.
const LIMIT: u32 = 15;
/// Pause before one that ran alone is asked for again.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// What is needed to find another coordinator, or to become its host.
pub(crate) struct Succession {
    config: Config,
    identity: Identity,
    /// Where the first coordinator was found.
    addresses: Vec<SocketAddr>,
}

/// What came of looking for a coordinator.
pub(crate) enum Found {
    /// The connection to it.
    Coordinator(TcpStream),
    /// It has ended the job for this member.
    Verdict(Verdict),
    Nothing,
}

/// What came of asking somebody.
enum Answer {
    /// It is the coordinator, and has taken this member in.
    Welcome(TcpStream),
    /// It is, and has not.
    Verdict(Verdict),
    /// It lives, but is no coordinator.
    NotYet,
    /// Nobody listens there: its process has ended.
    Gone,
    /// It does not answer.
    Silence,
}

impl Succession {
    pub(crate) fn new(config: &Config, identity: &Identity, addresses: Vec<SocketAddr>) -> Succession {
        Succession { config: config.clone(), identity: identity.clone(), addresses }
    }

    /// This process.
    pub(crate) fn peer(&self) -> PeerId {
        self.identity.peer
    }

    /// The connection to the coordinator that takes the place of one that was lost. `silent`: that one may live.
    pub(crate) fn find(
        &self,
        events: &dyn ControlEvents,
        listener: &Mutex<Option<Listener>>,
        silent: bool,
        is_over: &dyn Fn() -> bool,
    ) -> Found {
        let suspect_after = self.config.suspect_after();
        let start = Instant::now();
        let (mut dead, mut passed_over) = (BTreeSet::new(), BTreeSet::new());
        let mut waiting_for: Option<(MemberId, Instant)> = None;
        while !is_over() {
            let Some((mut rejoin, heirs)) = events.rejoin() else { return Found::Nothing };
            // Only who has ended for certain counts as dead: of one that does not answer others may go on.
            if !silent {
                rejoin.dead.extend(rejoin.view.host);
            }
            rejoin.dead.extend(&dead);
            if rejoin.view.host.is_none() {
                match self.ask_again(&rejoin) {
                    Answer::Welcome(stream) => return Found::Coordinator(stream),
                    Answer::Verdict(verdict) => return Found::Verdict(verdict),
                    _ => std::thread::park_timeout(LONG_PAUSE),
                }
                continue;
            }
            let heirs_left = heirs.iter().find(|m| !passed_over.contains(&m.id));
            let limit = suspect_after * (LIMIT + (PATIENCE + 1) * heirs.len() as u32);
            let Some(heir) = heirs_left.filter(|_| start.elapsed() < limit) else { return Found::Nothing };
            tracing::debug!("the coordinator was lost: asking member {}", heir.id);
            if heir.peer == self.identity.peer {
                rejoin.hosts_coordinator = true;
                if self.host(listener).is_none() {
                    return Found::Nothing;
                }
            }
            match self.ask(&self.addresses(heir, listener), &rejoin) {
                Answer::Welcome(stream) => {
                    events.hosted_by(Some(heir.id));
                    return Found::Coordinator(stream);
                }
                Answer::Verdict(verdict) => return Found::Verdict(verdict),
                Answer::Gone => {
                    dead.insert(heir.id);
                    passed_over.insert(heir.id);
                }
                Answer::NotYet => waiting_for = None,
                Answer::Silence => {
                    let since =
                        waiting_for.filter(|(id, _)| *id == heir.id).map_or_else(Instant::now, |w| w.1);
                    waiting_for = Some((heir.id, since));
                    if since.elapsed() > suspect_after * PATIENCE {
                        passed_over.insert(heir.id);
                    }
                }
            }
            std::thread::park_timeout(PAUSE);
        }
        Found::Nothing
    }

    /// One that ran alone may be started again at its address.
    fn ask_again(&self, rejoin: &Rejoin) -> Answer {
        self.ask(&self.addresses, rejoin)
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
        let hosted = listener.as_ref()?.host_successor(&self.config, &self.addresses);
        hosted.inspect_err(|e| tracing::warn!("no coordinator can be started here: {e}")).ok()
    }

    fn ask(&self, addresses: &[SocketAddr], rejoin: &Rejoin) -> Answer {
        let patience = self.config.suspect_after();
        let stream = match handshake::try_each(addresses, &self.identity, Purpose::Control, 1, patience) {
            Ok(stream) => stream,
            Err(error) => return Answer::of_error(&error),
        };
        let asked = stream
            .set_read_timeout(Some(patience))
            .and_then(|()| stream.set_write_timeout(Some(patience)))
            .and_then(|()| write_message(&stream, &FromMember::Rejoin(Box::new(rejoin.clone()))))
            .and_then(|()| read_message::<ToMember>(&stream));
        match asked {
            Ok(ToMember::Heartbeat) => Answer::Welcome(stream),
            Ok(ToMember::Verdict(verdict)) => Answer::Verdict(verdict),
            Ok(_) => Answer::NotYet,
            Err(error) => Answer::of_error(&error),
        }
    }
}

impl Answer {
    fn of_error(error: &io::Error) -> Answer {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Answer::Gone,
            io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Answer::Silence,
            // A member without a coordinator closes such connections.
            _ => Answer::NotYet,
        }
    }
}
