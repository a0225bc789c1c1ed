//! Which members the job has here: its first view, and those that follow at safe points.

use super::{Engine, Inner, links, lock};
use crate::planner::Planner;
use ronde_core::collective::{GroupIndex, NewGroup};
use ronde_core::error::Result;
use ronde_core::membership::{FromMember, LinkEnd, MemberInfo, Rejoin, View};
use ronde_core::{Formation, Generation, GroupId, MemberId, Rank};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// So often are links polled at most that still bring something, before it is looked at how they stand.
const LAST_POLLS: usize = 64;

/// A group as it stands in one generation.
pub(crate) struct Current {
    pub(crate) index: GroupIndex,
    pub(crate) formation: Formation,
    pub(crate) planner: Planner,
}

/// A group through all its generations.
pub(crate) struct GroupCell(RwLock<Arc<Current>>);

impl GroupCell {
    pub(crate) fn get(&self) -> Arc<Current> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, current: Arc<Current>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// A group that the engine knows.
pub(super) struct Registered {
    id: GroupId,
    pub(super) current: Arc<Current>,
    cell: Weak<GroupCell>,
}

impl Engine {
    /// Takes the links of the first view, and makes the group of all its members.
    pub(super) fn begin(&self, view: &View) -> Result<Arc<GroupCell>> {
        let inner = &mut *lock(&self.inner);
        self.take_links(inner, view)?;
        let members = view.members.iter().map(|m| m.id.index()).collect();
        Ok(self.add_group_locked(inner, GroupId(0), members, inner.rank()))
    }

    /// Adds a group of members, by their numbers.
    pub(crate) fn add_group(&self, id: GroupId, members: Vec<usize>, me: Rank) -> Arc<GroupCell> {
        self.add_group_locked(&mut lock(&self.inner), id, members, me)
    }

    fn add_group_locked(
        &self,
        inner: &mut Inner,
        id: GroupId,
        members: Vec<usize>,
        me: Rank,
    ) -> Arc<GroupCell> {
        let view = inner.follower.view();
        let planner = Planner::new(view, me, members.clone());
        planner.lose(view, |member| inner.executor.is_lost(member));
        let formation = Formation { group: id, generation: view.generation };
        let index = inner.executor.add_group(NewGroup {
            formation,
            epoch: view.epoch,
            members,
            me,
            syscall_per_frame: planner.is_slow(),
        });
        let current = Arc::new(Current { index, formation, planner });
        let cell = Arc::new(GroupCell(RwLock::new(current.clone())));
        inner.groups.push(Registered { id, current, cell: Arc::downgrade(&cell) });
        cell
    }

    /// Takes the links of a view that are new.
    fn take_links(&self, inner: &mut Inner, view: &View) -> Result<()> {
        for member in &view.members {
            let at = member.id.index();
            let current = inner.follower.view();
            if current.epoch != view.epoch && current.rank_of(member.peer).is_some() {
                continue;
            }
            inner.executor.admit(at);
            if inner.links.len() <= at {
                inner.links.resize_with(at + 1, || None);
                inner.link_states.resize_with(at + 1, Default::default);
            }
            if member.peer == inner.me {
                continue;
            }
            inner.gone.retain(|&gone| gone != at);
            let (link, state) = match self.ready.take(member.peer) {
                Some((link, state)) => (Some(link), state),
                None => (None, Default::default()),
            };
            if link.is_none() {
                let reason = "its link was not there when it was needed".to_owned();
                self.control.say(&FromMember::LinkFailed { member: member.id, reason, end: LinkEnd::Cut });
            }
            inner.links[at] = link;
            inner.link_states[at] = state;
        }
        let oversubscribed = links::local_peers(view, inner.me) > crate::environment::cores();
        self.oversubscribed.store(oversubscribed, Ordering::Relaxed);
        self.waker.watch(&inner.link_states)
    }

    /// A view waits for the next safe point: groups of the next generation are there from now on, since members
    /// that pass it sooner may send at once.
    pub(super) fn arm(&self, inner: &mut Inner) {
        let Some(view) = inner.follower.armed().cloned() else { return };
        if let Err(error) = self.take_links(inner, &view) {
            // This process cannot go on; the others can.
            crate::bootstrap::ControlEvents::failed(&*self.announced, error);
            return;
        }
        for group in
            inner.groups.iter().filter(|group| group.id != GroupId(0) && group.cell.strong_count() == 0)
        {
            inner.executor.drop_group(group.current.index);
        }
        let members = view.members.iter().map(|m| m.id.index()).collect();
        inner.executor.arm(view.epoch, members);
    }

    /// What this process contributes to the op of a safe point.
    pub(crate) fn safe_point_flags(&self) -> [u32; 2] {
        lock(&self.inner).follower.flags()
    }

    /// Passes a safe point whose op gave this. If another view is in effect from now on: the one before, and it.
    pub(crate) fn enter(&self, least: [u32; 2]) -> Option<(View, View)> {
        let inner = &mut *lock(&self.inner);
        inner.follower.armed()?;
        let before = inner.follower.view().clone();
        let view = inner.follower.enter(least).cloned()?;
        let me = MemberId(view.members.iter().find(|m| m.peer == inner.me).map_or(0, |m| m.id.0));
        let mut planners = Vec::new();
        let moved = inner.executor.enter(&mut |members| {
            let rank = members.iter().position(|&member| member == me.index()).unwrap_or(0);
            let planner = Planner::new(&view, Rank(rank as u32), members.to_vec());
            let slow = planner.is_slow();
            planners.push(planner);
            slow
        });
        inner.groups.retain(|group| group.id == GroupId(0) || group.cell.strong_count() > 0);
        for ((before, index), planner) in moved.into_iter().zip(planners) {
            planner.lose(&view, |member| inner.executor.is_lost(member));
            if let Some(group) = inner.groups.iter_mut().find(|group| group.current.index == before) {
                let formation = Formation { group: group.id, generation: view.generation };
                let current = Arc::new(Current { index, formation, planner });
                group.current = current.clone();
                if let Some(cell) = group.cell.upgrade() {
                    cell.set(current);
                }
            }
        }
        self.close_links_outside(inner, &view);
        self.control.say(&FromMember::Entered(view.epoch));
        tracing::info!("view {} of {} peers is in effect", view.epoch, view.members.len());
        Some((before, view))
    }

    /// Those who left in order need nothing any more.
    fn close_links_outside(&self, inner: &mut Inner, view: &View) {
        for at in 0..inner.links.len() {
            if view.member(MemberId(at as u32)).is_none() {
                inner.executor.close_link(&mut inner.links, at);
                inner.link_states[at] = Default::default();
                inner.gone.retain(|&gone| gone != at);
            }
        }
        // Fails for want of descriptors only, and there are fewer to watch than before.
        let _ = self.waker.watch(&inner.link_states);
    }

    /// Where this process stands, for a coordinator that takes the place of another, and who may host that.
    pub(super) fn rejoin(&self) -> (Rejoin, Vec<MemberInfo>) {
        let inner = &mut *lock(&self.inner);
        // What the one before said counts, also what nobody has looked at yet; and who has died or said farewell is seen now.
        self.look_at_links(inner);
        let is_done = || !self.poll(inner);
        std::iter::repeat_with(is_done).take(LAST_POLLS).find(|is_done| *is_done);
        inner.seeks_coordinator = true;
        let ended =
            inner.link_states.iter().zip(0..).filter(|(state, _)| state.end == Some(LinkEnd::Farewell));
        ended.for_each(|(_, at)| inner.follower.is_ended_by(MemberId(at)));
        let is_dead = |m: &&MemberInfo| {
            let at = m.id.index();
            m.peer != inner.me && inner.links.get(at).is_none_or(Option::is_none)
        };
        let dead = inner.follower.members().filter(is_dead).map(|m| m.id).collect();
        (inner.follower.rejoin(inner.me, dead), inner.follower.heirs())
    }

    /// What a new coordinator may not have heard: which view is in effect here, and which links have ended.
    pub(super) fn say_again(&self) {
        let inner = &mut *lock(&self.inner);
        let view = inner.follower.view();
        self.control.say(&FromMember::Entered(view.epoch));
        self.say_abort();
        // A link to one whose view is only armed here may be in use there.
        for info in inner.follower.members().filter(|info| info.peer != inner.me) {
            let at = info.id.index();
            let ended = inner.links.get(at).is_none_or(Option::is_none);
            if ended && !inner.executor.is_lost(at) && !inner.link_states[at].left {
                let reason = format!("rank {} has no link to it", inner.rank());
                let end = inner.link_states[at].end.unwrap_or(LinkEnd::Cut);
                self.control.say(&FromMember::LinkFailed { member: info.id, reason, end });
            }
        }
    }

    /// This process has left: the others see from their links that nothing more comes.
    pub(super) fn end_links(&self) {
        let inner = &mut *lock(&self.inner);
        for at in 0..inner.links.len() {
            inner.executor.close_link(&mut inner.links, at);
        }
    }

    /// The generation that calls are made in.
    pub(crate) fn generation(&self) -> Generation {
        lock(&self.inner).follower.view().generation
    }

    /// The view in effect here.
    pub(crate) fn view(&self) -> View {
        lock(&self.inner).follower.view().clone()
    }
}
