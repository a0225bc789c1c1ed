//! A member's half: which view is in effect here, and which one is next.

use super::coordinator::VERSION;
use super::{MemberInfo, Rejoin, View};
use crate::error::PeerLost;
use crate::planted::{self, Bug};
use crate::{Epoch, MemberId, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Follows what the coordinator says of views. It decides nothing: a view takes effect when the safe point's op
/// says that all members have armed it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Follower {
    view: View,
    /// Its links are being made.
    proposed: Option<View>,
    /// It takes effect at the next safe point.
    armed: Option<View>,
    /// Of the views above, those that have left or were lost, with what was said of the loss.
    gone: BTreeMap<MemberId, Option<Arc<PeerLost>>>,
    /// Of these, who was lost since this member last went on.
    unsettled: BTreeSet<MemberId>,
    /// It heard nothing of a coordinator that may live, or others gave it up, and it has not gone on with another since: they may
    /// have gone on without it.
    cut_off: bool,
    /// The highest number that was told, of a view or a loss.
    told: Epoch,
}

impl Follower {
    /// For a member whose first view is this.
    pub fn new(view: View) -> Follower {
        let told = view.epoch;
        Follower {
            view,
            proposed: None,
            armed: None,
            gone: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            cut_off: false,
            told,
        }
    }

    /// The view in effect.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The view that takes effect at the next safe point.
    pub fn armed(&self) -> Option<&View> {
        self.armed.as_ref()
    }

    /// The members of both, each once.
    pub fn members(&self) -> impl Iterator<Item = &MemberInfo> {
        let armed = self.armed.iter().flat_map(|armed| &armed.members);
        self.view.members.iter().chain(armed.filter(|m| self.view.rank_of(m.peer).is_none()))
    }

    /// The coordinator wants the links of a view to be made. A view that it proposed before is void.
    pub fn propose(&mut self, view: View) {
        self.note(view.epoch);
        self.proposed = Some(view);
    }

    /// All links of the proposed view are up.
    pub fn arm(&mut self, epoch: Epoch) -> Option<&View> {
        self.armed = Some(self.proposed.take_if(|view| view.epoch == epoch)?);
        self.armed.as_ref()
    }

    /// A view of those who are left is armed.
    pub fn shrink(&mut self, epoch: Epoch) -> &View {
        self.note(epoch);
        let gone: Vec<MemberId> = self.gone.keys().copied().collect();
        self.armed.insert(self.view.next(epoch, &gone, Vec::new()))
    }

    /// A view is armed that the coordinator before this one had proposed.
    pub fn arm_view(&mut self, view: View) {
        self.note(view.epoch);
        self.armed = Some(view);
    }

    /// A loss, or a view, has this number.
    pub fn note(&mut self, epoch: Epoch) {
        self.told = self.told.max(epoch);
    }

    /// What a successor of the coordinator has to know; the caller adds which members it sees to be dead, and how often it has
    /// asked.
    pub fn rejoin(&self, peer: PeerId, dead: Vec<MemberId>) -> Rejoin {
        Rejoin {
            version: VERSION,
            peer,
            view: self.view.clone(),
            armed: self.armed.clone(),
            gone: self.gone.keys().copied().collect(),
            unsettled: self.unsettled.iter().copied().collect(),
            lost: self.gone.values().flatten().map(|lost| PeerLost::clone(lost)).collect(),
            epoch: self.told,
            dead,
            cut_off: self.cut_off,
            asked: 0,
        }
    }

    /// Who takes the coordinator's place if its host is lost: the first of these that lives. Empty where no
    /// process of the job hosts it.
    pub fn heirs(&self) -> Vec<MemberInfo> {
        let is_hosted = self.view.is_hosted();
        let can =
            |m: &&MemberInfo| is_hosted && Some(m.id) != self.view.host && !self.gone.contains_key(&m.id);
        self.view.members.iter().filter(can).cloned().collect()
    }

    /// The coordinator is hosted by this member now.
    pub fn hosted_by(&mut self, host: Option<MemberId>) {
        for view in [Some(&mut self.view), self.armed.as_mut()].into_iter().flatten() {
            (view.host, view.home) = (host, None);
        }
    }

    /// A member has left in order.
    pub fn has_left(&mut self, member: MemberId) {
        self.is_gone(member, None);
    }

    /// A member was lost. The first that is said of it stays.
    pub fn is_lost(&mut self, lost: &Arc<PeerLost>) {
        if !self.gone.contains_key(&lost.member) {
            self.unsettled.insert(lost.member);
        }
        self.is_gone(lost.member, Some(lost.clone()));
    }

    /// It has heard nothing of its coordinator for too long, which may live: others may go on without it. A coordinator that ran
    /// alone has no rival.
    pub fn hears_nothing(&mut self) {
        self.cut_off |= self.view.is_hosted() && !planted::has(Bug::NobodyIsCutOff);
    }

    /// A member that lived has ended its link to this one. If it has neither left nor is known to be lost it has been told that this
    /// one is: others may go on without it. It may have died since, as all of them may, and a coordinator that runs alone and was
    /// started again knows nothing of it.
    pub fn is_ended_by(&mut self, member: MemberId) {
        self.cut_off |= !self.gone.contains_key(&member) && !planted::has(Bug::NobodyIsCutOff);
    }

    /// Everything goes on without those who were lost.
    pub fn goes_on(&mut self) {
        self.unsettled.clear();
        self.cut_off = false;
    }

    fn is_gone(&mut self, member: MemberId, lost: Option<Arc<PeerLost>>) {
        // What a new coordinator says of the view before concerns nobody here any more, and the number may be
        // given to another.
        let views = [Some(&self.view), self.armed.as_ref()];
        if views.into_iter().flatten().any(|view| view.member(member).is_some()) {
            let known = self.gone.entry(member).or_default();
            *known = known.take().or(lost);
        }
    }

    /// What this member contributes to the safe point's op, of which everybody gets the least of each: the
    /// number of the armed view (0: none), and its complement.
    pub fn flags(&self) -> [u32; 2] {
        let epoch = self.armed.as_ref().map_or(0, |view| view.epoch.0 as u32);
        [epoch, !epoch]
    }

    /// Takes the result of the safe point's op. If all members have armed the same view it is in effect now.
    pub fn enter(&mut self, least: [u32; 2]) -> Option<&View> {
        let [low, high] = [least[0], !least[1]];
        let unarmed = low == 0 || low != high;
        if unarmed && !planted::has(Bug::SafePointsPassUnlessAllHaveArmed) {
            return None;
        }
        self.view = self.armed.take_if(|view| view.epoch.0 as u32 == high)?;
        let view = &self.view;
        self.gone.retain(|&id, _| view.member(id).is_some());
        self.unsettled.retain(|&id| view.member(id).is_some());
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{MachineId, MemberInfo};
    use crate::{Generation, PeerId};

    fn info(id: u32) -> MemberInfo {
        MemberInfo {
            peer: PeerId([id as u8; 16]),
            id: MemberId(id),
            host: String::new(),
            addresses: vec![],
            machine: MachineId::default(),
            user: 0,
            pid: 0,
            transports: vec![],
            costs: String::new(),
        }
    }

    fn follower(size: u32) -> Follower {
        Follower::new(View { epoch: Epoch(1), members: (0..size).map(info).collect(), ..View::default() })
    }

    fn ids(view: &View) -> Vec<u32> {
        view.members.iter().map(|m| m.id.0).collect()
    }

    /// What everybody gets of these contributions.
    fn least(flags: &[[u32; 2]]) -> [u32; 2] {
        [0, 1].map(|at| flags.iter().map(|f| f[at]).min().unwrap())
    }

    #[test]
    fn a_view_takes_effect_once_all_have_armed_it() {
        let mut members = [follower(2), follower(2)];
        let next = members[0].view().next(Epoch(2), &[], vec![info(2)]);
        members.iter_mut().for_each(|m| m.propose(next.clone()));
        assert!(members[0].arm(Epoch(2)).is_some());
        let agreed = least(&[members[0].flags(), members[1].flags()]);
        assert!(members[0].enter(agreed).is_none(), "one has not armed it");
        assert!(members[1].arm(Epoch(3)).is_none(), "another view");
        assert!(members[1].arm(Epoch(2)).is_some());
        let agreed = least(&[members[0].flags(), members[1].flags()]);
        for member in &mut members {
            let view = member.enter(agreed).expect("all have armed it");
            assert_eq!((ids(view), view.generation), (vec![0, 1, 2], Generation(1)));
            assert_eq!(member.flags(), [0, u32::MAX]);
        }
    }

    #[test]
    fn members_that_armed_different_views_stay_where_they_are() {
        let mut members = [follower(3), follower(3)];
        members[0].shrink(Epoch(2));
        members[1].shrink(Epoch(3));
        let agreed = least(&[members[0].flags(), members[1].flags()]);
        assert!(members.iter_mut().all(|m| m.enter(agreed).is_none()));
    }

    #[test]
    fn the_gone_leave_holes_until_a_safe_point() {
        let mut member = follower(4);
        member.has_left(MemberId(1));
        member.shrink(Epoch(3));
        member.has_left(MemberId(3));
        assert_eq!(ids(member.enter(member.flags()).unwrap()), [0, 2, 3], "3 was there when it was armed");
        member.shrink(Epoch(5));
        assert_eq!(ids(member.enter(member.flags()).unwrap()), [0, 2]);
    }
}
