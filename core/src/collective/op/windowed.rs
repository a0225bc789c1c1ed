//! Ops whose windows commit one after the other (PROTOCOL, Per-window).
//!
//! A member tells the others how many windows it holds from the first on. Those that all hold are final: a loss
//! leaves them as they are, and what is left of the vector is reduced among the survivors. The contributors may so
//! differ from part to part, and are the same on all members for each.

use super::{Commit, OpState};
use crate::collective::Links;
use crate::collective::executor::Shared;
use crate::collective::group::GroupState;
use crate::collective::window::Running;
use crate::error::{Outcome, Part};
use crate::failpoint::{self, Point};
use crate::frame::FrameKind;
use crate::plan::{Place, Plan};
use crate::planted::{self, Bug};
use crate::recovery::Partial;
use std::ops::Range;

/// How far an op is whose windows commit one after the other.
#[derive(Default)]
pub(super) struct Windowed {
    /// Bytes of the whole vector that earlier attempts have made final: what is left begins there.
    base: usize,
    /// By window, as they open: the end of what it writes.
    ends: Vec<usize>,
    /// Windows that are final.
    committed: u32,
    /// By group rank: windows that it holds, and what it was told of this member.
    held_by: Vec<u32>,
    told: Vec<u32>,
    /// What everybody was told.
    told_all: u32,
    /// What earlier attempts have made final.
    parts: Vec<Part>,
}

impl Windowed {
    /// For the first attempt of an op.
    pub(super) fn reset(&mut self) {
        self.base = 0;
        self.parts.clear();
    }

    /// For an attempt in a group.
    pub(super) fn start_attempt(&mut self, group: &GroupState) {
        self.ends.clear();
        self.committed = 0;
        self.told_all = 0;
        for counts in [&mut self.held_by, &mut self.told] {
            counts.clear();
            // Nothing is expected of oneself and of the lost.
            let counts_here = (0..group.members.len()).map(|rank| rank != group.me && !group.is_lost(rank));
            counts.extend(counts_here.map(|here| if here { 0 } else { u32::MAX }));
        }
    }

    /// A window opens. Of an all-reduce each writes what follows the one before.
    pub(super) fn opened(&mut self, window: &Running) {
        let targets = window.plan.steps.iter().filter_map(|step| step.action.target());
        let written = targets.filter(|span| span.place == Place::Output).map(|span| span.offset + span.len);
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.push(written.max().unwrap_or(before));
    }

    /// Bytes of the whole vector up to the end of so many windows.
    fn bytes(&self, windows: u32) -> usize {
        self.base + windows.checked_sub(1).map_or(0, |last| self.ends[last as usize])
    }

    /// Ranks that are not known to hold so many.
    pub(super) fn missing(&self, windows: u32) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.held_by).filter(move |(_, held)| **held < windows).map(|(rank, _)| rank)
    }
}

impl<P: Plan> OpState<P> {
    /// Prepares for windows that commit one after the other.
    pub(crate) fn plan_windows(&mut self, group: &GroupState) {
        if self.commit == Commit::Window {
            self.windowed.start_attempt(group);
        }
    }

    /// Windows that are complete here, from the first on.
    pub(super) fn held_windows(&self) -> u32 {
        self.open.iter().map(|window| window.index).min().unwrap_or(self.next_window)
    }

    /// A member says that it holds so many windows.
    pub(crate) fn windows_are_held(&mut self, rank: usize, windows: u32) {
        let held = &mut self.windowed.held_by[rank];
        *held = windows.max(*held);
    }

    /// Tells the others of windows that are complete, and ends the op once all are final.
    pub(super) fn commit_windows(&mut self, shared: &mut Shared, links: &mut Links) -> bool {
        let held = self.held_windows();
        let mut moved = false;
        if self.windowed.told_all < held {
            for rank in 0..self.windowed.told.len() {
                if self.windowed.told[rank] >= held {
                    continue;
                }
                if !self.control(FrameKind::Done, rank, shared, links) {
                    return moved;
                }
                self.windowed.told[rank] = held;
                moved = true;
                failpoint::reach(Point::DoneSent, &self.id, held - 1);
            }
            self.windowed.told_all = held;
        }
        let committed = self.windowed.held_by.iter().fold(held, |least, &of_rank| least.min(of_rank));
        if committed > self.windowed.committed {
            self.windowed.committed = committed;
            self.backup.forget_before(committed, &mut shared.pool);
        }
        if committed == self.windows { self.end_if_alike(shared) } else { moved }
    }

    /// How far the op is, for a report; nothing of one that commits as a whole.
    pub(crate) fn partial(&self) -> Option<Partial> {
        let Windowed { base, committed, .. } = self.windowed;
        let in_windows = self.planned && self.commit == Commit::Window;
        if !in_windows && base == 0 {
            return None;
        }
        let (committed, held) = match in_windows {
            true => (committed, self.frozen_at),
            false => (0, 0),
        };
        let [committed, held] = [committed, held].map(|windows| self.windowed.bytes(windows) as u64);
        Some(Partial { seq: self.id.seq, attempt: self.given_in, committed, held })
    }

    /// The vector is final up to here: the op goes on with the rest. False if that cannot be.
    pub(crate) fn go_on_from(&mut self, end: u64, shared: &mut Shared) -> bool {
        let Some(call) = &mut self.call else { return false };
        let size = call.dtype.size();
        let Some(done) = usize::try_from(end).ok().and_then(|end| end.checked_sub(self.windowed.base)) else {
            return false;
        };
        let in_windows = self.planned && self.commit == Commit::Window;
        if done > 0 && !(in_windows && self.windowed.ends.contains(&done)) {
            return false;
        }
        if done > 0 {
            let whole = self.windowed.ends.iter().take_while(|&&end| end <= done).count();
            if !planted::has(Bug::FinalWindowsAreRestored) {
                self.backup.forget_before(whole as u32, &mut shared.pool);
            }
            self.backup.restore(call);
            self.backup.clear(&mut shared.pool);
            let first = self.windowed.base / size;
            add_part(&mut self.windowed.parts, first..first + done / size, self.contributors, &self.absent);
            self.windowed.base += done;
            call.count -= done / size;
            call.input = call.input.slice(done, call.input.len() - done);
            call.output = call.output.slice(done, call.output.len() - done);
        }
        true
    }

    /// Adds what earlier attempts have made final to what an op says of itself.
    pub(super) fn add_parts(&mut self, outcome: &mut Outcome) {
        if self.windowed.parts.is_empty() {
            return;
        }
        let mut parts = std::mem::take(&mut self.windowed.parts);
        if let Some(call) = self.call.as_ref().filter(|call| call.count > 0) {
            let first = self.windowed.base / call.dtype.size();
            add_part(&mut parts, first..first + call.count, outcome.contributors, &outcome.absent);
        }
        // Others may have been lost than members of the group.
        if parts.len() > 1 {
            outcome.parts = parts;
        }
    }
}

/// Adds a part behind the others; one with the contributors of the last is no other part.
fn add_part(parts: &mut Vec<Part>, elements: Range<usize>, contributors: u32, absent: &[u32]) {
    match parts.last_mut() {
        Some(last) if last.absent == absent => last.elements.end = elements.end,
        _ => parts.push(Part { elements, contributors, absent: absent.to_vec() }),
    }
}
