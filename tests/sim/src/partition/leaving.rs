//! Members that leave in order: as `close` does it.

use super::ops::Op;
use super::wires::Data;
use super::{Event, MS, World, process_of};
use rand::Rng;
use ronde_core::MemberId;
use ronde_core::membership::FromMember;
use std::collections::BTreeSet;

/// How long others may take to say that they have what they need.
const DRAINS: u64 = 1000 * MS;
/// How long the coordinator may take to answer.
const PATIENCE: u64 = 2000 * MS;

/// How far a process has come with leaving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Others may still need its results.
    Drains,
    /// The coordinator does not know, or has not answered.
    Leaves,
    /// It has left. If it hosts a coordinator others may still need that.
    SeesOthersOff,
}

/// A process that is leaving.
pub(super) struct Closing {
    stage: Stage,
    until: u64,
    /// The last op that has returned here, and who has said that it has returned there too.
    last: Option<Op>,
    has_returned: BTreeSet<usize>,
    /// All others have what has returned here.
    is_sure: bool,
}

impl Closing {
    pub(super) fn is_released(&self) -> bool {
        self.stage == Stage::SeesOthersOff
    }

    /// It has left in order, and what it returned the others have returned too.
    pub(super) fn is_done(&self) -> bool {
        self.is_released() && self.is_sure
    }
}

impl World {
    /// A process leaves in order before its next call.
    pub fn leave(&mut self, process: usize) {
        self.note(&[70, process as u64]);
        self.processes[process].leaves = true;
    }

    /// Everybody leaves in order after the same call, which comes soon.
    pub fn finish(&mut self, more: usize) {
        self.note(&[71]);
        if self.last_op.is_none() {
            self.last_op = self.newest_op().map(|(generation, seq)| (generation, seq + more));
        }
    }

    pub(super) fn close(&mut self, process: usize) {
        self.note(&[72, process as u64]);
        let last = self.last_returned(process);
        let others = last.iter().flat_map(|(_, others)| others).copied().collect::<Vec<_>>();
        let last = last.map(|(op, _)| op);
        let until = self.now + DRAINS;
        let has_returned = BTreeSet::new();
        self.processes[process].closing =
            Some(Closing { stage: Stage::Drains, until, last, has_returned, is_sure: false });
        if let Some(op) = last {
            others.into_iter().for_each(|other| self.send_data(process, other, Data::Ask(op)));
        }
        self.go_on_closing(process);
    }

    pub(super) fn is_asked(&mut self, from: usize, to: usize, op: Op) {
        self.processes[to].ops.askers.push((op, from));
        self.answer_askers(to);
    }

    pub(super) fn answer_askers(&mut self, process: usize) {
        let askers = std::mem::take(&mut self.processes[process].ops.askers);
        for (op, asker) in askers {
            match self.has_outcome(process, op) {
                true => self.send_data(process, asker, Data::Returned(op)),
                false => self.processes[process].ops.askers.push((op, asker)),
            }
        }
    }

    pub(super) fn has_returned(&mut self, from: usize, to: usize, op: Op) {
        if let Some(closing) = self.processes[to].closing.as_mut().filter(|closing| closing.last == Some(op))
        {
            closing.has_returned.insert(from);
        }
    }

    pub(super) fn go_on_closing(&mut self, process: usize) {
        let others = self.last_returned(process).map_or_else(BTreeSet::new, |(_, others)| others);
        let hosts = self.processes[process].hosts.is_some_and(|coordinator| self.is_there(coordinator));
        let now = self.now;
        let this = &mut self.processes[process];
        let Some(closing) = this.closing.as_mut().filter(|_| this.ended.is_none()) else { return };
        let is_late = now >= closing.until;
        match closing.stage {
            Stage::Drains => {
                closing.is_sure = others.is_subset(&closing.has_returned);
                if closing.is_sure || is_late {
                    (closing.stage, closing.until) = (Stage::Leaves, now + PATIENCE);
                    self.say(process, FromMember::Leave);
                }
            }
            // Its links end with a farewell, though nobody knows that it has left.
            Stage::Leaves if is_late => {
                self.close_all_links(process);
                return self.end(process, false);
            }
            Stage::SeesOthersOff if !hosts || is_late => return self.end(process, false),
            Stage::Leaves | Stage::SeesOthersOff => {}
        }
        self.schedule(10 * MS, Event::Close(process));
    }

    pub(super) fn is_released(&mut self, process: usize) {
        let patience = match self.rng.random() {
            true => self.some_ms(2000),
            false => 20_000 * MS,
        };
        let Some(closing) = &mut self.processes[process].closing else { return };
        (closing.stage, closing.until) = (Stage::SeesOthersOff, self.now + patience);
        self.truth.tally.left += 1;
        self.close_all_links(process);
    }

    pub(super) fn has_left(&mut self, process: usize, member: MemberId) {
        let Some(follower) = &mut self.processes[process].follower else { return };
        let peer = follower.members().find(|m| m.id == member).map(|m| m.peer);
        follower.has_left(member);
        self.processes[process].left.extend(peer.map(process_of));
        self.miss_the_left(process);
    }

    /// One that left in order is only missed if an op waits for it and its link has ended.
    pub(super) fn miss_the_left(&mut self, process: usize) {
        let this = &self.processes[process];
        if this.left.is_empty() || this.ended.is_some() {
            return;
        }
        for other in self.awaited(process) {
            let this = &self.processes[process];
            if this.left.contains(&other)
                && this.ends.contains(&other)
                && let Some(member) = self.member_of(process, other)
            {
                let reason = format!("process {other} has left");
                self.say(process, FromMember::Missed { member, reason });
            }
        }
    }
}
