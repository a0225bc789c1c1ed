//! Safe points: every group gets a successor for the next generation while ops of this one still run, and all
//! move over to them at once.
//!
//! A member that is ahead may send frames of the next generation as soon as it has passed the safe point. It
//! cannot pass before every member has armed the view, so such frames find their group and wait for their op
//! like any other that come early.

use super::executor::Executor;
use super::group::{GroupIndex, GroupState};
use crate::error::{Error, Misuse};
use crate::frame::Header;
use crate::memory::Arena;
use crate::plan::Plan;
use crate::{Epoch, Formation, Generation, GroupId, Seq};

/// The view that takes effect at the next safe point.
#[derive(Clone, Debug)]
pub(super) struct Armed {
    epoch: Epoch,
    /// Links of its members in rank order.
    members: Vec<usize>,
}

impl<P: Plan> Executor<P> {
    /// Makes room for a link with this number, to a process that was not there before.
    pub fn admit(&mut self, link: usize) {
        if link >= self.losses.len() {
            let links = link + 1;
            self.losses.resize(links, None);
            self.scratch.resize_with(links, || Arena::new(super::descriptor::DESCRIPTOR_BYTES));
            self.early.grow(links);
            self.shared.unentered.resize(links, 0);
            self.shared.asking.resize(links, false);
            self.shared.held_views.resize(links, 0);
        }
        // The number may have been that of one who was lost in an earlier generation.
        self.losses[link] = None;
        self.shared.owed.retain(|owed| owed.link != link);
        self.shared.unentered[link] = 0;
        self.shared.asking[link] = false;
    }

    /// The generation that calls are made in.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// A view of these members takes effect at the next safe point. Links to all of them are there.
    pub fn arm(&mut self, epoch: Epoch, members: Vec<usize>) {
        let armed = Armed { epoch, members };
        for at in 0..self.shared.groups.len() {
            self.add_successor(at, &armed);
        }
        self.armed = Some(armed);
    }

    /// Nobody makes calls on a group any more: it gets no successor, and is forgotten after the next safe points.
    pub fn drop_group(&mut self, group: GroupIndex) {
        self.shared.groups[group.0].is_dropped = true;
    }

    /// Whether a view waits for the next safe point.
    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Gives a group of this generation one for the next: the job gets the members of the view, every other
    /// group those of its own that are in it.
    pub(super) fn add_successor(&mut self, at: usize, armed: &Armed) {
        let group = &self.shared.groups[at];
        if group.formation.generation != self.generation || group.members.is_empty() || group.is_dropped {
            return;
        }
        let me = group.members[group.me];
        let members: Vec<usize> = match group.formation.group {
            GroupId(0) => armed.members.clone(),
            _ => group.members.iter().copied().filter(|link| armed.members.contains(link)).collect(),
        };
        let Some(me) = members.iter().position(|&link| link == me) else { return };
        let mut next = GroupState::successor(group, armed.epoch.max(self.epoch), members, me);
        for link in (0..self.losses.len()).filter(|&link| self.losses[link].is_some()) {
            next.lose(link);
        }
        let next = self.insert_group(next);
        self.shared.groups[at].successor = Some(next);
    }

    /// Passes the safe point: calls are made in the next generation from now on. Returns each group with the
    /// one that takes its place; `slow` says of members, by their links, whether a frame between some two
    /// costs a system call. Every op of this generation has ended; any that was started meanwhile by another
    /// thread ends with an error.
    pub fn enter(&mut self, slow: &mut dyn FnMut(&[usize]) -> bool) -> Vec<(GroupIndex, GroupIndex)> {
        let Some(armed) = self.armed.take() else { return Vec::new() };
        self.end_what_is_open();
        let before = self.generation;
        self.forget_groups_before(before);
        self.generation = Generation(before.0 + 1);
        self.epoch = self.epoch.max(armed.epoch);
        self.resumed = self.resumed.max(armed.epoch);
        let mut moved = Vec::new();
        for at in 0..self.shared.groups.len() {
            self.keep_last_of_log(GroupIndex(at));
            if let Some(next) = self.shared.groups[at].successor.take() {
                let state = &mut self.shared.groups[next.0];
                state.syscall_per_frame = slow(&state.members);
                moved.push((GroupIndex(at), next));
            }
        }
        let now = self.generation;
        self.early.forget_frames(&mut self.shared.pool, |_, header| header.op.generation < now);
        self.horizons.retain(|(formation, ..)| formation.generation >= now);
        self.sources.retain(|(formation, ..)| formation.generation >= now);
        self.stand_ins.retain(|(formation, ..)| formation.generation >= now);
        self.agreed.forget_before(now);
        moved
    }

    fn end_what_is_open(&mut self) {
        for at in std::mem::take(&mut self.active) {
            let text = "the group passed a safe point (update) while this call was open: make no calls from other \
                        threads meanwhile";
            let error = Error::Misuse(Misuse::Other(text.into()));
            self.ops[at].fail(&error, &mut self.shared);
        }
        self.end_commit_groups();
    }

    /// Of an op before the last one of its tag all members have returned: they wait for that before a safe
    /// point.
    fn keep_last_of_log(&mut self, group: GroupIndex) {
        let shared = &mut self.shared;
        for tag in shared.groups[group.0].tags() {
            let next = shared.groups[group.0].tag(tag).next();
            shared.log.release(group, tag, Seq(next.0.saturating_sub(1)), &mut shared.pool);
        }
    }

    /// Everybody has passed the safe point after these, since the one that is passed now needed them all.
    fn forget_groups_before(&mut self, generation: Generation) {
        let shared = &mut self.shared;
        for at in 0..shared.groups.len() {
            let group = &shared.groups[at];
            if group.formation.generation >= generation || group.members.is_empty() {
                continue;
            }
            for tag in group.tags() {
                shared.log.release(GroupIndex(at), tag, Seq(u64::MAX), &mut shared.pool);
            }
            shared.ack_requests.retain(|(group, ..)| group.0 != at);
            shared.groups[at] = GroupState::vacant();
            self.vacant_groups.push(at);
        }
    }

    /// Whether calls cannot be made on a group any more: it has a successor. Places in the table are used again, so
    /// the caller says which group it means.
    pub fn is_past(&self, group: GroupIndex, formation: Formation) -> bool {
        formation.generation != self.generation || self.shared.groups[group.0].formation != formation
    }

    pub(super) fn insert_group(&mut self, group: GroupState) -> GroupIndex {
        if !group.is_whole() {
            // What others sent before they heard of the loss.
            let formation = group.formation;
            let is_over =
                |_, header: &Header| header.ends_with_a_loss() && header.op.formation() == formation;
            self.early.forget_frames(&mut self.shared.pool, is_over);
        }
        match self.vacant_groups.pop() {
            Some(at) => {
                self.shared.groups[at] = group;
                GroupIndex(at)
            }
            None => {
                self.shared.groups.push(group);
                GroupIndex(self.shared.groups.len() - 1)
            }
        }
    }
}
