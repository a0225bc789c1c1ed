//! How the members of a job change while it runs.
//!
//! Newcomers wait until a view with them is linked: every member of it says that its links are up. Then it is
//! *armed*, which all are told, and from then on nothing takes it back: a member that dies is a hole in it. It
//! takes effect at the first safe point at which all members know that it is armed; they see that from a small
//! op among themselves, and tell the coordinator afterwards. A view of those who are left needs no links and is
//! armed at once.

use super::{Coordinator, Effect, Member, NextStatus, State};
use crate::membership::{Hello, ToMember, View};
use crate::planted::{self, Bug};
use crate::{Epoch, Instant, MemberId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Newcomers are taken into one view that come within so long of each other…
const QUIET: Duration = Duration::from_millis(5);
/// …but none waits longer than this for others to come.
const LONGEST_QUIET: Duration = Duration::from_millis(50);

/// A view on its way to effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct NextView {
    pub(super) view: View,
    /// Nothing takes it back any more.
    pub(super) armed: bool,
    /// Whose word is missing: that its links are up or, once it is armed, that it has passed a safe point.
    waits_for: BTreeSet<MemberId>,
    /// Somebody has passed a safe point with it.
    entered: bool,
    since: Instant,
}

impl NextView {
    /// One that some members have armed already.
    pub(super) fn armed(view: View, since: Instant) -> NextView {
        NextView { view, armed: true, waits_for: BTreeSet::new(), entered: false, since }
    }

    pub(super) fn status(&self) -> NextStatus {
        NextStatus {
            epoch: self.view.epoch,
            ranks: self.view.members.len() as u32,
            armed: self.armed,
            waits_for: self.waits_for.iter().copied().collect(),
        }
    }
}

impl Coordinator {
    /// Whether a process may come to a job that runs.
    pub(super) fn admissible_late(&self, hello: &Hello) -> Result<(), String> {
        let (host, there) = (&hello.info.host, self.members.values().filter(|m| !m.left).count());
        let full = |size: u32| there >= size as usize;
        if self.options.shrink_only {
            return Err(format!("{host} came too late: this job only shrinks (RONDE_SHRINK_ONLY)"));
        }
        if hello.size.is_some_and(full) {
            return Err(format!("the job is complete; {host} came too late or is one process too many"));
        }
        if let Some(max) = self.options.max_peers.filter(|&max| full(max)) {
            return Err(format!("the job has {there} peers and takes no more than {max} (RONDE_MAX_PEERS)"));
        }
        self.refuse_twin(hello)
    }

    pub(super) fn newcomer(&mut self, connection: u64, hello: Hello, now: Instant) {
        let waits = self.holds_back(connection, &hello, now);
        self.members.insert(connection, Member::new(hello, None, now));
        let members = self.bound().count() as u32;
        self.effects.push(Effect::Send(connection, ToMember::Pending { members }));
        if !waits {
            self.has_come(now);
        }
    }

    fn has_come(&mut self, now: Instant) {
        let (first, _) = self.newcomers_since.unwrap_or((now, now));
        self.newcomers_since = Some((first, now));
    }

    /// When the view may change, or has waited too long for its links.
    pub(super) fn next_change_of_view(&self) -> Option<Instant> {
        match &self.next {
            _ if matches!(self.state, State::Linking) => None,
            Some(next) if !next.armed => Some(next.since.after(self.options.link_patience)),
            None if matches!(self.state, State::Active) => {
                let come = self.newcomers_since;
                let due = come.map(|(first, last)| last.after(QUIET).min(first.after(LONGEST_QUIET)));
                due.into_iter().chain(self.flapping.next()).min()
            }
            _ => None,
        }
    }

    pub(super) fn change_view_when_due(&mut self, now: Instant) {
        if self.flapping.release(now) {
            self.has_come(now);
        }
        if self.next_change_of_view().is_none_or(|due| due > now) {
            return;
        }
        match &self.next {
            Some(next) => {
                let late = next.waits_for.clone();
                self.drop_those_who_do_not_link(&late, now);
            }
            None => self.propose(now),
        }
    }

    /// Has the links of a view made that takes in all newcomers.
    fn propose(&mut self, now: Instant) {
        self.newcomers_since = None;
        let reserved: BTreeSet<MemberId> = self.members.values().filter_map(|m| m.reserved).collect();
        let is_free = |id: &MemberId| self.view.member(*id).is_none() && !reserved.contains(id);
        let mut free = (0..).map(MemberId).filter(is_free);
        let mut infos = Vec::new();
        let flapping = &self.flapping;
        let comes = |(connection, m): &(&u64, &mut Member)| {
            m.id.is_none() && !m.left && !flapping.holds(**connection)
        };
        for (_, member) in self.members.iter_mut().filter(comes) {
            member.id = member.reserved.take().or_else(|| free.next());
            member.heard = now;
            infos.extend(member.info());
        }
        if infos.is_empty() {
            return self.shrink_if_needed();
        }
        self.epoch.0 += 1;
        let gone: Vec<MemberId> = self.gone.iter().copied().collect();
        let view = self.view.next(self.epoch, &gone, infos);
        self.link(view, now);
    }

    /// Tells the members of a view to make its links.
    pub(super) fn link(&mut self, view: View, now: Instant) {
        let mut waits_for = BTreeSet::new();
        // One for all of them: there may be thousands.
        let shared = Arc::new(view.clone());
        for (&connection, member) in self.members.iter().filter(|(_, m)| !m.left) {
            if let Some(id) = member.id.filter(|&id| view.member(id).is_some()) {
                waits_for.insert(id);
                self.effects.push(Effect::Send(connection, ToMember::View(shared.clone())));
            }
        }
        self.next = Some(NextView { view, armed: false, waits_for, entered: false, since: now });
    }

    pub(super) fn linked(&mut self, connection: u64, epoch: Epoch) {
        let Some(id) = self.members.get(&connection).and_then(|m| m.id) else { return };
        let Some(next) = self.next.as_mut().filter(|next| next.view.epoch == epoch && !next.armed) else {
            return;
        };
        next.waits_for.remove(&id);
        if !next.waits_for.is_empty() {
            return;
        }
        if matches!(self.state, State::Linking) {
            self.state = State::Active;
            if let Some(next) = self.next.take() {
                self.view = next.view;
            }
            return self.send_to(self.bound().collect(), &ToMember::Activate(epoch));
        }
        next.armed = true;
        self.send_to(self.bound().collect(), &ToMember::Armed(epoch));
        self.wait_for_safe_point();
    }

    /// From now on those who were there before have to pass a safe point.
    fn wait_for_safe_point(&mut self) {
        let before = self.view.members.iter().map(|m| m.id).filter(|id| !self.gone.contains(id));
        self.wait_for_safe_point_of(before.collect());
    }

    pub(super) fn wait_for_safe_point_of(&mut self, members: BTreeSet<MemberId>) {
        if let Some(next) = &mut self.next {
            next.waits_for = members;
        }
        self.take_effect_if_all_entered();
    }

    /// A member cannot be reached by another: of the two, the newcomer goes.
    pub(super) fn unlinked(&mut self, connection: u64, epoch: Epoch, other: MemberId, reason: &str) {
        let Some(id) = self.members.get(&connection).and_then(|m| m.id) else { return };
        if !self.next.as_ref().is_some_and(|next| next.view.epoch == epoch && !next.armed) {
            return;
        }
        let now = self.ticked;
        match self.is_unarmed_newcomer(other) {
            true => self.drop_newcomer(other, reason, now),
            false => self.drop_newcomer(id, reason, now),
        }
    }

    pub(super) fn is_unarmed_newcomer(&self, id: MemberId) -> bool {
        let runs = self.runs();
        let next = self.next.as_ref().filter(|next| runs && !next.armed);
        next.is_some_and(|next| next.view.member(id).is_some() && self.view.member(id).is_none())
    }

    /// The view comes to nothing; the other newcomers wait for the next.
    pub(super) fn drop_newcomer(&mut self, id: MemberId, reason: &str, now: Instant) {
        if !self.is_unarmed_newcomer(id) {
            return;
        }
        if let Some(connection) = self.connection_of(id) {
            let text = format!("it could not be connected with all members: {reason}");
            self.effects.push(Effect::Send(connection, ToMember::Refused(text)));
            self.effects.push(Effect::Close(connection));
            self.members.remove(&connection);
        }
        self.withdraw(now);
        self.shrink_if_needed();
    }

    fn drop_those_who_do_not_link(&mut self, late: &BTreeSet<MemberId>, now: Instant) {
        let limit = self.options.link_patience.as_secs_f64();
        let newcomers: Vec<MemberId> =
            late.iter().copied().filter(|&id| self.is_unarmed_newcomer(id)).collect();
        // If only old members are late it is not known to whom they have no link.
        let goes = newcomers.first().copied().or_else(|| {
            let all = self.next.iter().flat_map(|next| &next.view.members);
            all.map(|m| m.id).find(|&id| self.is_unarmed_newcomer(id))
        });
        if let Some(id) = goes {
            self.note_flapping(id, now);
            let reason = format!("links were missing after {limit:.0} s, at members {late:?}");
            self.drop_newcomer(id, &reason, now);
        }
    }

    /// A view that is not armed comes to nothing.
    pub(super) fn withdraw(&mut self, now: Instant) {
        let Some(next) = self.next.take_if(|next| !next.armed) else { return };
        for member in self.members.values_mut() {
            if member.id.is_some_and(|id| next.view.member(id).is_some() && self.view.member(id).is_none()) {
                member.reserved = member.id.take();
                if !planted::has(Bug::ViewsForgetNewcomers) {
                    self.newcomers_since = Some((now, now));
                }
            }
        }
    }

    /// A member of the view in effect, or of one that is armed, has left or was lost.
    pub(super) fn is_gone(&mut self, id: MemberId) {
        self.gone.insert(id);
        self.withdraw(self.ticked);
        if let Some(next) = &mut self.next {
            next.waits_for.remove(&id);
        }
        self.take_effect_if_all_entered();
    }

    pub(super) fn entered(&mut self, connection: u64, epoch: Epoch) {
        let Some(id) = self.members.get(&connection).and_then(|m| m.id) else { return };
        self.rejoined_and_entered(id, epoch);
        let Some(next) = self.next.as_mut().filter(|next| next.view.epoch == epoch && next.armed) else {
            return;
        };
        next.waits_for.remove(&id);
        self.activate_newcomers();
        self.take_effect_if_all_entered();
    }

    /// Once one member has passed the safe point, all do.
    pub(super) fn activate_newcomers(&mut self) {
        let Some(next) = self.next.as_mut().filter(|next| !next.entered) else { return };
        next.entered = true;
        let view = &next.view;
        let is_new = |id: MemberId| view.member(id).is_some() && self.view.member(id).is_none();
        let new = self.members.iter().filter(|(_, m)| !m.left && m.id.is_some_and(is_new));
        let connections = new.map(|(connection, _)| *connection).collect();
        let epoch = view.epoch;
        self.send_to(connections, &ToMember::Activate(epoch));
    }

    fn take_effect_if_all_entered(&mut self) {
        if !self.next.as_ref().is_some_and(|next| next.armed && next.waits_for.is_empty()) {
            return;
        }
        self.activate_newcomers();
        let Some(next) = self.next.take() else { return };
        self.view = next.view;
        let view = &self.view;
        self.gone.retain(|&id| view.member(id).is_some());
        self.fenced.retain(|&id| view.member(id).is_some());
        // A quorum has gone on to this view, so nobody has who is not in it.
        self.unproven.retain(|&id| view.member(id).is_some());
        self.closed.retain(|_, closed| closed.awaited);
        self.shrink_if_needed();
    }

    /// Arms a view without those that are gone, unless another is on its way or newcomers will bring one.
    pub(super) fn shrink(&mut self) -> Option<Epoch> {
        let newcomers = self.members.values().any(|m| m.id.is_none() && !m.left);
        if self.next.is_some() || self.gone.is_empty() || newcomers || !matches!(self.state, State::Active) {
            return None;
        }
        self.epoch.0 += 1;
        let gone: Vec<MemberId> = self.gone.iter().copied().collect();
        let view = self.view.next(self.epoch, &gone, Vec::new());
        let (epoch, since) = (self.epoch, self.ticked);
        self.next = Some(NextView::armed(view, since));
        self.wait_for_safe_point();
        Some(epoch)
    }

    pub(super) fn shrink_if_needed(&mut self) {
        if let Some(epoch) = self.shrink() {
            self.send_to(self.bound().collect(), &ToMember::Shrink(epoch));
        }
    }
}
