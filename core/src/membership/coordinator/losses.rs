//! What follows a loss: the others freeze, report, and go on by a plan.

use super::{Coordinator, Effect, State};
use crate::error::PeerLost;
use crate::membership::{MemberInfo, ToMember, Verdict};
use crate::planted::{self, Bug};
use crate::recovery::{self, Report};
use crate::{Epoch, Instant, MemberId, PeerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A member says that another cannot be reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Accusation {
    /// The connection of who says so.
    pub(super) accuser: u64,
    pub(super) member: MemberId,
    pub(super) reason: String,
    pub(super) since: Instant,
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
    /// that is waited for; without it the accused goes, by rule. Of one that has left in order it is no news.
    pub(super) fn accuse(&mut self, accuser: u64, member: MemberId, reason: String, now: Instant) {
        let accuser_id = self.members.get(&accuser).and_then(|m| m.id);
        if let Some(id) = accuser_id.filter(|_| self.is_succeeding()) {
            self.is_suspected_by(id, member);
        }
        if matches!(self.state, State::Failed(_)) || self.gone.contains(&member) {
            return;
        }
        // The host of this coordinator lives: the other one goes.
        let host = self.view.host.filter(|&host| host == member);
        let member = host.and(accuser_id).unwrap_or(member);
        let known = self.accusations.iter().any(|a| (a.accuser, a.member) == (accuser, member));
        if self.connection_of(member).is_some() && !known {
            self.accusations.push(Accusation { accuser, member, reason, since: now });
        }
    }

    /// Accusations stand after the grace, if who made them is still here.
    pub(super) fn judge_accusations(&mut self, now: Instant) {
        let is_due =
            |a: &Accusation| now.since(a.since) >= self.options.grace && !self.awaits_proof(a.member);
        let (due, rest): (Vec<_>, Vec<_>) = self.accusations.iter().cloned().partition(is_due);
        self.accusations = rest;
        for Accusation { accuser, member, reason, .. } in due {
            if self.members.contains_key(&accuser) || planted::has(Bug::TheTurnedAwayAccuse) {
                self.lose_unproven(member, &reason, now);
            }
        }
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
        let awaited = lacks_quorum.map(|lacks| lacks || unaware).or(unaware.then_some(true));
        let (Some(awaited), Some(info)) = (awaited, info.filter(|_| !self.gone.contains(&id))) else {
            self.lose(id, CLOSED, now);
            return true;
        };
        self.effects.push(Effect::Probe(info.clone()));
        self.closed.insert(info.peer, Closed { info, awaited });
        if !awaited {
            self.unproven.insert(id);
            self.note_flapping(id, now);
            self.lose(id, CLOSED, now);
        }
        !awaited
    }

    /// Whether it is being found out if a member has ended before it is given up.
    pub(super) fn awaits_proof(&self, id: MemberId) -> bool {
        self.closed.values().any(|closed| closed.awaited && closed.info.id == id)
    }

    pub(super) fn closed_one_has_ended(&mut self, peer: PeerId, now: Instant) {
        let Some(Closed { info, awaited }) = self.closed.remove(&peer) else { return };
        if self.unproven.remove(&info.id) {
            self.forgive_flapping(&info.machine);
        }
        if awaited {
            self.lose(info.id, CLOSED, now);
        }
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
            State::Active | State::Recovering { .. } => self.go_on_without(lost),
            _ => self.fail(Verdict::PeerLost(lost)),
        }
    }

    /// The others freeze and report. Another loss before they go on starts that over.
    fn go_on_without(&mut self, peer: PeerLost) {
        if !self.fenced.insert(peer.member) {
            return;
        }
        if let Some(closed) = self.closed.get_mut(&peer.peer) {
            closed.awaited = false;
        }
        self.accusations.retain(|accusation| accusation.member != peer.member);
        if let Some(connection) = self.connection_of(peer.member) {
            // If it lives it is told, and may join again.
            self.expel(connection, Verdict::PeerLost(peer.clone()));
        }
        let member = peer.member;
        let mut lost = match std::mem::replace(&mut self.state, State::Active) {
            State::Recovering { lost, .. } => lost,
            _ => Vec::new(),
        };
        lost.push(peer);
        self.epoch.0 += 1;
        let epoch = self.epoch;
        // No view without it is made before the others have heard that it is gone.
        self.state = State::Recovering { lost: lost.clone(), reports: BTreeMap::new() };
        self.is_gone(member);
        self.send_to(self.bound().collect(), &ToMember::Prepare { epoch, lost });
    }

    pub(super) fn reported(&mut self, connection: u64, report: Report) {
        let Some(id) = self.members.get(&connection).and_then(|member| member.id) else { return };
        if let State::Recovering { reports, .. } = &mut self.state
            && (report.epoch == self.epoch || planted::has(Bug::ReportsOfAnotherEpochCount))
        {
            reports.insert(id, report);
        }
        self.go_on();
    }

    /// Goes on by the plan once everybody who is there has reported.
    pub(super) fn go_on(&mut self) {
        let State::Recovering { reports, .. } = &self.state else { return };
        let waits =
            |connection: u64| self.members[&connection].id.is_some_and(|id| !reports.contains_key(&id));
        if self.bound().any(waits) {
            return;
        }
        let plan = recovery::plan(reports);
        let epoch = self.epoch;
        self.state = State::Active;
        let shrink = self.shrink();
        self.send_to(self.bound().collect(), &ToMember::Resume { epoch, plan, shrink });
    }
}
