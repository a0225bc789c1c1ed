//! Who is lost, and what follows of that for views and quorums. How the others go on stands in [`round`](super::round).

use super::round::Round;
use super::status::Suspicion;
use super::{Coordinator, Effect, State};
use crate::error::PeerLost;
use crate::membership::{MemberInfo, Verdict};
use crate::planted::{self, Bug};
use crate::{Epoch, Instant, MemberId, PeerId};
use std::collections::BTreeSet;
use std::time::Duration;

/// A member says that another cannot be reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Accusation {
    /// The connection of who says so, and its number.
    accuser: u64,
    by: Option<MemberId>,
    pub(super) member: MemberId,
    pub(super) reason: String,
    /// Until then a better proof of death is waited for, and what others say.
    pub(super) due: Instant,
}

/// A member whose connection has ended, which a process that lives may have caused, or the network.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Closed {
    info: MemberInfo,
    /// Without it there is a quorum only if it is dead: that is waited for as long as a member may be silent.
    pub(super) awaited: bool,
}

/// Why a member is lost whose connection has ended.
const CLOSED: &str = "its process ended or its control connection broke";

impl Coordinator {
    /// A member says that its link to another ended. The dead one's own connection is better proof, so
    /// that is waited for; without it one of the two goes. Of one that has left in order it is no news.
    pub(super) fn accuse(&mut self, accuser: u64, member: MemberId, reason: String, due: Instant) {
        let by = self.members.get(&accuser).and_then(|m| m.id);
        if let Some(id) = by.filter(|_| self.is_succeeding()) {
            self.is_suspected_by(id, member);
        }
        if matches!(self.state, State::Failed(_)) || self.gone.contains(&member) {
            return;
        }
        let is_known = |a: &&mut Accusation| {
            let is_answer = by.is_some_and(|by| (a.by, a.member) == (Some(member), by));
            is_answer || (a.accuser, a.member) == (accuser, member)
        };
        let is_here = self.connection_of(member).is_some();
        match self.accusations.iter_mut().find(is_known) {
            // Who gives a link up ends it, which the other end sees, and may say sooner.
            Some(known) => known.due = known.due.max(due),
            None if is_here => self.accusations.push(Accusation { accuser, by, member, reason, due }),
            None => {}
        }
    }

    /// When the next accusation is to be judged.
    pub(super) fn next_judgement(&self) -> Option<Instant> {
        self.accusations.iter().filter(|a| !self.is_held(a)).map(|a| a.due).min()
    }

    /// One of its ends may prove to be dead.
    fn is_held(&self, accusation: &Accusation) -> bool {
        self.awaits_proof(accusation.member) || accusation.by.is_some_and(|by| self.awaits_proof(by))
    }

    /// Accusations stand once they are due, if who made them is still here.
    pub(super) fn judge_accusations(&mut self, now: Instant) {
        let first_due =
            |this: &Coordinator| this.accusations.iter().position(|a| now >= a.due && !this.is_held(a));
        while let Some(at) = first_due(self) {
            if let Some(reason) = self.why_host_goes() {
                return self.step_down(&reason, now);
            }
            let is_here = self.members.contains_key(&self.accusations[at].accuser);
            let lost = is_here.then(|| self.who_goes(&self.accusations[at]));
            let Accusation { member, reason, .. } = self.accusations.remove(at);
            match lost {
                Some(lost) if lost != member => {
                    self.lose_unproven(lost, &format!("it lacks links that others have ({reason})"), now);
                }
                Some(_) => self.lose_unproven(member, &reason, now),
                None if planted::has(Bug::TheTurnedAwayAccuse) => self.lose_unproven(member, &reason, now),
                None => {}
            }
        }
    }

    /// Which end of a link that failed: the one that lacks more links, so that one whose machine is cut off takes nobody along.
    /// The host of this coordinator stays, since it has not stepped down, and with it who is linked with it; of two alike the one
    /// stays whose word is due first.
    fn who_goes(&self, accusation: &Accusation) -> MemberId {
        let (by, member) = (accusation.by.unwrap_or(accusation.member), accusation.member);
        let Some(host) = self.view.host else { return self.lacks_more(by, member) };
        let lacks_host = |id: MemberId| id != host && self.lacking(id).contains(&host);
        match (by == host || lacks_host(member), member == host || lacks_host(by)) {
            (true, false) => member,
            (false, true) => by,
            _ => self.lacks_more(by, member),
        }
    }

    /// Why the host of this coordinator goes: with all that it still has links to it would be no quorum, and without it the others
    /// are one.
    fn why_host_goes(&self) -> Option<String> {
        let host = self.view.host.filter(|&host| self.connection_of(host).is_some())?;
        let (ending, lacking): (BTreeSet<MemberId>, BTreeSet<MemberId>) =
            self.lacking(host).into_iter().partition(|&id| self.awaits_proof(id));
        let has_quorum_without = |members: &BTreeSet<MemberId>| self.count(members).has_quorum();
        let others_go_on = || has_quorum_without(&ending.iter().copied().chain([host]).collect());
        if lacking.is_empty() || has_quorum_without(&(&lacking | &ending)) || !others_go_on() {
            return None;
        }
        let concerns_host = |a: &&Accusation| a.by == Some(host) || a.member == host;
        let saw = self.accusations.iter().find(concerns_host).map(|a| a.reason.as_str()).unwrap_or_default();
        Some(format!("it hosted the coordinator and has links to too few others to go on with ({saw})"))
    }

    /// For the others it is as if the host's process had ended: they look for another coordinator. Its own process hears why.
    fn step_down(&mut self, reason: &str, now: Instant) {
        let epoch = Epoch(self.epoch.0 + 1);
        let host = self.view.host.unwrap_or_default();
        let lost = self.views().find_map(|view| view.lost(host, reason, Duration::ZERO, epoch));
        if let (Some(own), Some(lost)) = (self.connection_of(host), lost) {
            self.expel(own, Verdict::PeerLost(lost));
        }
        let others = std::mem::take(&mut self.members).into_keys();
        self.effects.extend(others.map(Effect::Close));
        self.accusations.clear();
        self.closed.clear();
        self.next = None;
        // Who asks for it later has been silent for too long. Its process cannot close before.
        self.lingers_until = now.after(self.options.suspect_after);
        self.state = State::SteppedDown;
    }

    fn lacks_more(&self, one: MemberId, other: MemberId) -> MemberId {
        if self.lacking(one).len() > self.lacking(other).len() { one } else { other }
    }

    /// Members to which a member's link has failed, for all that they say who are here.
    pub(super) fn lacking(&self, id: MemberId) -> BTreeSet<MemberId> {
        let here = self.accusations.iter().filter(|a| self.members.contains_key(&a.accuser));
        let others = here.filter_map(|a| match a.by {
            Some(by) if by == id => Some(a.member),
            by => by.filter(|_| a.member == id),
        });
        others.collect()
    }

    /// An op waits for one that has left in order: only now do the others go on without it.
    pub(super) fn miss(&mut self, member: MemberId, reason: &str, now: Instant) {
        if self.gone.contains(&member) {
            self.lose(member, reason, now);
        }
    }

    /// A member is given up that may live: it is silent, or cannot be reached. The others go on without it only if
    /// those who may be on its side cannot go on too.
    pub(super) fn lose_unproven(&mut self, id: MemberId, reason: &str, now: Instant) {
        let (here, of) = match self.count_without(id) {
            Some(_) if planted::has(Bug::SilenceProvesDeaths) => return self.lose(id, reason, now),
            Some(count) if !count.has_quorum() => (count.here, count.of),
            count => {
                if count.is_some() {
                    self.unproven.insert(id);
                }
                self.may_come_to_ask(id, now);
                self.note_flapping(id, now);
                return self.lose(id, reason, now);
            }
        };
        self.fail(Verdict::NoQuorum { here: here as u32, of: of as u32 });
    }

    /// The connection of a member has ended. Until it is known that its process has too it may be on another side.
    /// False if that is waited for.
    pub(super) fn lose_closed(&mut self, id: MemberId, now: Instant) -> bool {
        let unaware = self.connection_of(id).is_some_and(|connection| self.members[&connection].unaware);
        let lacks_quorum = self.count_without(id).map(|count| !count.has_quorum());
        let info = self.views().find_map(|view| view.member(id)).cloned();
        // One that does not know that it was taken in may come again.
        let awaited = unaware || lacks_quorum == Some(true);
        let Some(info) = info.filter(|_| !self.gone.contains(&id)) else {
            self.lose(id, CLOSED, now);
            return true;
        };
        self.effects.push(Effect::Probe(info.clone()));
        self.closed.insert(info.peer, Closed { info, awaited });
        if !awaited {
            if lacks_quorum.is_some() {
                self.unproven.insert(id);
                self.note_flapping(id, now);
            }
            self.may_come_to_ask(id, now);
            self.lose(id, CLOSED, now);
        }
        !awaited
    }

    /// One that is given up and whose process lives looks for its coordinator, unless it is stopped: then it knows of that.
    fn may_come_to_ask(&mut self, id: MemberId, now: Instant) {
        let peer = self.views().find_map(|view| view.member(id)).map(|info| info.peer);
        self.may_ask.extend(peer.map(|peer| (peer, now.after(self.options.suspect_after))));
    }

    /// Whether it is being found out if a member has ended before it is given up.
    pub(super) fn awaits_proof(&self, id: MemberId) -> bool {
        self.closed.values().any(|closed| closed.awaited && closed.info.id == id)
    }

    pub(super) fn closed_one_has_ended(&mut self, peer: PeerId, now: Instant) {
        self.may_ask.remove(&peer);
        let Some(Closed { info, awaited }) = self.closed.remove(&peer) else { return };
        if self.unproven.remove(&info.id) {
            self.forgive_flapping(&info.machine);
        }
        if !awaited {
            return;
        }
        let count = self.count_without(info.id).filter(|count| !count.has_quorum());
        match count.filter(|_| self.may_have_gone_on(info.id)) {
            Some(count) => self.fail(Verdict::NoQuorum { here: count.here as u32, of: count.of as u32 }),
            None => self.lose(info.id, CLOSED, now),
        }
    }

    /// A member that has ended was not heard of since this coordinator was stopped: it may have gone on with another, and ended what
    /// it had to do.
    fn may_have_gone_on(&self, id: MemberId) -> bool {
        let member = self.connection_of(id).map(|connection| &self.members[&connection]);
        let is_unheard = |woke: Instant| member.is_none_or(|member| member.lives_since < woke);
        self.woke.is_some_and(is_unheard)
    }

    /// Who may be lost, and why.
    pub(super) fn suspicions(&self, now: Instant) -> Vec<Suspicion> {
        let of_links = self.accusations.iter().map(|accusation| Suspicion {
            member: accusation.member,
            by: accusation.by,
            reason: accusation.reason.clone(),
            judged_in_ms: (!self.is_held(accusation)).then(|| accusation.due.since(now).as_millis() as u64),
        });
        let awaited = self.closed.values().filter(|closed| closed.awaited);
        let of_connections = awaited.map(|Closed { info, .. }| Suspicion {
            member: info.id,
            by: None,
            reason: CLOSED.to_owned(),
            judged_in_ms: None,
        });
        of_links.chain(of_connections).collect()
    }

    /// One that was just ending when it was asked for may have ended now.
    pub(super) fn probe_the_closed(&mut self) {
        self.effects.extend(self.closed.values().map(|closed| Effect::Probe(closed.info.clone())));
    }

    pub(super) fn lose(&mut self, id: MemberId, reason: &str, now: Instant) {
        if self.is_unarmed_newcomer(id) {
            return self.drop_newcomer(id, reason, now);
        }
        let connection = self.connection_of(id);
        let heard = connection.and_then(|connection| self.members.get(&connection)).map(|m| m.heard);
        let silent_for = heard.map_or(Duration::ZERO, |heard| now.since(heard));
        let epoch = Epoch(self.epoch.0 + 1);
        let Some(lost) = self.views().find_map(|view| view.lost(id, reason, silent_for, epoch)) else {
            return;
        };
        match self.state {
            State::Active | State::Recovering(_) => self.go_on_without(lost, now),
            _ => self.fail(Verdict::PeerLost(lost)),
        }
    }

    /// The others freeze and report. Another loss before they go on starts that over.
    fn go_on_without(&mut self, peer: PeerLost, now: Instant) {
        if !self.fenced.insert(peer.member) {
            return;
        }
        if let Some(closed) = self.closed.get_mut(&peer.peer) {
            closed.awaited = false;
        }
        let by_the_lost =
            |a: &Accusation| a.by == Some(peer.member) && !planted::has(Bug::TheTurnedAwayAccuse);
        self.accusations.retain(|a| a.member != peer.member && !by_the_lost(a));
        if let Some(connection) = self.connection_of(peer.member) {
            // If it lives it is told, and may join again.
            self.expel(connection, Verdict::PeerLost(peer.clone()));
        }
        let member = peer.member;
        self.forget_the_late();
        let mut round = self.take_round();
        round.lost.push(peer);
        // No view without it is made before the others have heard that it is gone.
        self.state = State::Recovering(Round::default());
        self.is_gone(member);
        self.start(round, now);
    }
}
