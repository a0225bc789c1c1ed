//! Commit groups: calls that start at once and become final together (PROTOCOL, Commit without a coordinator).
//!
//! A call of a commit group that is complete here waits. The *seal*, the last call of the group, moves no data: once
//! all the others are complete here it commits by Done, and lets them return with it. After a loss only the seal is
//! reported. Where the plan of recovery does not commit it every call of the group starts again, also what was
//! complete: so all of them have the same contributors.

use super::Descriptor;
use super::executor::Executor;
use super::group::GroupIndex;
use super::op::{Commit, OpState, Phase};
use crate::call::Call;
use crate::error::{Error, Hole, Misuse, Outcome, Result};
use crate::plan::Plan;
use crate::planted::{self, Bug};
use crate::{Collective, Instant, Seq, Tag};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Names a commit group of one executor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitGroupId(u64);

/// A commit group whose seal has not ended.
struct CommitGroup {
    id: CommitGroupId,
    group: GroupIndex,
    tag: Tag,
    sealed: bool,
    /// Calls, without the seal, and how many of them are complete here.
    calls: usize,
    complete: usize,
    /// Bytes that calls in place overwrite, which are kept until the end, and how many that may be.
    kept: usize,
    most_kept: usize,
    /// A digest of what they are, on all ranks alike.
    called: u32,
    /// When the last of them began.
    last: Instant,
    /// A sum of the digests of what is complete.
    digest: u64,
    /// What ended one of them alone.
    error: Option<Error>,
}

/// Those of one executor.
#[derive(Default)]
pub(crate) struct CommitGroups {
    open: Vec<CommitGroup>,
    made: u64,
}

/// Bytes of its input that a call overwrites.
fn overwrites(call: &Call) -> usize {
    let changes = call.collective.reduces() || call.collective == Collective::AllToAll;
    if changes && call.is_in_place() { call.output.len() } else { 0 }
}

/// A digest as it is added up, so that that of one call does not stand for another's.
fn share_of(digest: u64, seq: Seq) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&digest.to_le_bytes());
    bytes[8..].copy_from_slice(&seq.0.to_le_bytes());
    if digest == 0 { 0 } else { xxh3_64(&bytes) }
}

impl CommitGroups {
    fn find(&mut self, id: CommitGroupId) -> Option<&mut CommitGroup> {
        self.open.iter_mut().find(|known| known.id == id)
    }

    /// Takes a call in, or lets it pass by; refuses what cannot be carried out.
    pub(crate) fn admit(
        &mut self,
        id: Option<CommitGroupId>,
        group: GroupIndex,
        call: &Call,
        now: Instant,
    ) -> Result<(), Misuse> {
        let refuse = |text: String| Err(Misuse::Other(text.into()));
        let tag = call.options.tag;
        let Some(id) = id else {
            // Nothing of this tag counts as returned before them, and the log would fill up.
            let is_between = |open: &CommitGroup| !open.sealed && (open.group, open.tag) == (group, tag);
            if !call.collective.is_point_to_point() && self.open.iter().any(is_between) {
                return refuse(format!(
                    "tag {tag} has a commit group that is not sealed: make the {} in it, with another tag, or after it",
                    call.collective
                ));
            }
            return Ok(());
        };
        let Some(known) = self.find(id).filter(|known| !known.sealed) else {
            return refuse("the commit group is sealed, or has ended with the job".into());
        };
        if call.collective == Collective::Commit {
            known.sealed = true;
            return Ok(());
        }
        let kept = known.kept.saturating_add(overwrites(call));
        if kept > known.most_kept {
            return refuse(format!(
                "a commit group may keep {} bytes of what its calls in place overwrite, and with this {} of {} bytes it \
                 would be {kept}: give it more, call out of place, or seal it earlier",
                known.most_kept,
                call.collective,
                call.output.len()
            ));
        }
        known.kept = kept;
        known.calls += 1;
        known.last = now;
        let called = Descriptor::of(call, (0, 0), Commit::Group).fingerprint();
        known.called = known.called.rotate_left(5).wrapping_mul(0x9e37_79b1) ^ called;
        Ok(())
    }

    /// A digest of the calls, as they were made.
    pub(crate) fn called(&self, id: CommitGroupId) -> u32 {
        self.open.iter().find(|known| known.id == id).map_or(0, |known| known.called)
    }

    /// When a call that waits for its seal is overdue, which nobody makes: none of the group's calls has begun for so long.
    pub(crate) fn overdue_at(&self, id: CommitGroupId, patience: Duration) -> Option<Instant> {
        let known = self.open.iter().find(|known| known.id == id && !known.sealed);
        known.map(|known| known.last.after(patience))
    }

    /// A sum of the digests of what is complete.
    pub(crate) fn digest(&self, id: CommitGroupId) -> u64 {
        self.open.iter().find(|known| known.id == id).map_or(0, |known| known.digest)
    }

    /// One of the calls is complete; the digest of its result is 0 if none is due.
    pub(crate) fn completed(&mut self, id: CommitGroupId, seq: Seq, digest: u64) {
        if let Some(known) = self.find(id) {
            known.complete += 1;
            known.digest = known.digest.wrapping_add(share_of(digest, seq));
        }
    }

    /// One that was complete starts again.
    pub(crate) fn starts_again(&mut self, id: CommitGroupId, seq: Seq, digest: u64) {
        if let Some(known) = self.find(id) {
            known.complete -= 1;
            known.digest = known.digest.wrapping_sub(share_of(digest, seq));
        }
    }

    /// Whether all calls are complete, or which error ended one alone.
    pub(crate) fn is_complete(&mut self, id: CommitGroupId) -> Result<bool> {
        match self.find(id) {
            None => Ok(true),
            Some(CommitGroup { error: Some(error), .. }) => Err(error.clone()),
            Some(known) => Ok(known.complete == known.calls || planted::has(Bug::SealsDoNotWait)),
        }
    }

    /// One of the calls ended alone.
    pub(crate) fn fail(&mut self, id: CommitGroupId, error: &Error) {
        if let Some(known) = self.find(id) {
            known.error.get_or_insert_with(|| error.clone());
        }
    }
}

impl<P: Plan> Executor<P> {
    /// Opens a commit group for calls of one tag. Calls in place may overwrite so many bytes in it, which are kept until
    /// its end. Its seal is a call of [`Collective::Commit`].
    pub fn open_commit_group(
        &mut self,
        group: GroupIndex,
        tag: Tag,
        most_kept: usize,
    ) -> Result<CommitGroupId> {
        let groups = &mut self.shared.commit_groups;
        if groups.open.iter().any(|open| !open.sealed && (open.group, open.tag) == (group, tag)) {
            let text = format!("tag {tag} has a commit group already that is not sealed");
            return Err(Misuse::Other(text.into()).into());
        }
        groups.made += 1;
        let id = CommitGroupId(groups.made);
        let (sealed, calls, complete, kept, called, last) = (false, 0, 0, 0, 0, Instant(0));
        let (digest, error) = (0, None);
        groups.open.push(CommitGroup {
            id,
            group,
            tag,
            sealed,
            calls,
            complete,
            kept,
            most_kept,
            called,
            last,
            digest,
            error,
        });
        Ok(id)
    }

    /// How many calls a commit group has, which its seal has to say.
    pub fn calls_in(&self, id: CommitGroupId) -> usize {
        self.shared.commit_groups.open.iter().find(|known| known.id == id).map_or(0, |known| known.calls)
    }

    /// Some commit group waits for its seal.
    pub fn has_unsealed(&self) -> bool {
        self.shared.commit_groups.open.iter().any(|open| !open.sealed)
    }

    /// Commit groups whose seals a plan of recovery commits.
    pub(super) fn sealed_by(&self, is_committed: impl Fn(&OpState<P>) -> bool) -> Vec<CommitGroupId> {
        let ops = self.active.iter().map(|&at| &self.ops[at]);
        let seals = ops.filter(|op| op.seals && op.is_complete() && is_committed(op));
        seals.filter_map(|op| op.commit_group).collect()
    }

    /// Of commit groups whose seals are committed everything stays as it is: gives these calls. All others are not
    /// complete any more, before the first of them starts again.
    pub(super) fn settle_commit_groups(&mut self, sealed: &[CommitGroupId]) -> Vec<usize> {
        let mut complete = Vec::new();
        for &at in &self.active {
            let op = &mut self.ops[at];
            let (Phase::Frozen, Some(id)) = (&op.phase, op.commit_group) else { continue };
            let kept = op.is_ready && planted::has(Bug::CompleteCallsAreKept);
            match (sealed.contains(&id), op.seals) {
                (true, true) => {}
                (committed, false) if committed || kept => {
                    op.stay_complete(self.shared.groups[op.group.0].epoch);
                    complete.push(at);
                }
                _ => op.leave_commit(&mut self.shared),
            }
        }
        complete
    }

    /// A seal has ended: so do the calls of its group, and what they moved is in its outcome.
    pub(super) fn end_commit_group(&mut self, seal: usize) {
        let Some(id) = self.ops[seal].commit_group else { return };
        let Phase::Ended(mut result) = std::mem::replace(&mut self.ops[seal].phase, Phase::Free) else {
            return;
        };
        let mut weights = Vec::new();
        // They have numbers that follow each other, and the seal has the next.
        let first = self.ops[seal].id.seq.0.saturating_sub(self.calls_in(id) as u64);
        for at in 0..self.ops.len() {
            let op = &mut self.ops[at];
            if op.commit_group != Some(id) || op.seals {
                continue;
            }
            match &mut result {
                _ if !op.is_open() => {}
                Ok(outcome) => {
                    op.end_well(&mut self.shared);
                    if let Phase::Ended(Ok(part)) = &op.phase {
                        add(outcome, part, op.id.seq.0.saturating_sub(first) as usize);
                        weights.extend(part.weight);
                    }
                }
                Err(error) => op.end(Err(error.clone()), &mut self.shared),
            }
            self.forget(at);
        }
        if let Ok(outcome) = &mut result {
            outcome.holes.sort_unstable_by_key(|hole| (hole.call, hole.bytes.start));
            outcome.weight = weights.first().copied().filter(|first| weights.iter().all(|one| one == first));
        }
        let ops = &self.ops;
        self.active.retain(|&at| ops[at].is_open());
        self.ops[seal].phase = Phase::Ended(result);
        self.ops[seal].commit_group = None;
        self.shared.commit_groups.open.retain(|open| open.id != id);
    }

    /// The job ends: calls of commit groups have no handles to be taken by.
    pub(super) fn end_commit_groups(&mut self) {
        for at in 0..self.ops.len() {
            if self.ops[at].commit_group.is_some() && !self.ops[at].seals {
                self.forget(at);
            }
        }
        self.shared.commit_groups.open.clear();
    }

    /// Nobody takes its result.
    fn forget(&mut self, at: usize) {
        let op = &mut self.ops[at];
        op.commit_group = None;
        if !matches!(op.phase, Phase::Free) {
            op.phase = Phase::Free;
            self.release_slot(at);
        }
    }
}

/// Adds what the call with this number did to the outcome of its commit group.
fn add(whole: &mut Outcome, part: &Outcome, call: usize) {
    let call = if planted::has(Bug::HolesNameNoCall) { 0 } else { call };
    whole.holes.extend(part.holes.iter().map(|Hole { bytes, .. }| Hole { call, bytes: bytes.clone() }));
    whole.bytes_sent += part.bytes_sent;
    whole.bytes_received += part.bytes_received;
    // Of those that the same losses interrupted the one that began first tells how long the group had run.
    if (part.interruptions, part.interrupted_after) > (whole.interruptions, whole.interrupted_after) {
        whole.interruptions = part.interruptions;
        whole.interrupted_after = part.interrupted_after;
        whole.interrupted_for = part.interrupted_for;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;

    fn groups() -> (CommitGroups, CommitGroupId) {
        let id = CommitGroupId(1);
        let known = CommitGroup {
            id,
            group: GroupIndex(0),
            tag: Tag(0),
            sealed: false,
            calls: 0,
            complete: 0,
            kept: 0,
            most_kept: 100,
            called: 0,
            last: Instant(0),
            digest: 0,
            error: None,
        };
        (CommitGroups { open: vec![known], made: 1 }, id)
    }

    fn all_reduce(input: &crate::Segment, output: &crate::Segment) -> Call {
        let (input, output) = (input.clone(), output.clone());
        Call { collective: Collective::AllReduce, count: input.len(), input, output, ..Call::EMPTY }
    }

    #[test]
    fn what_calls_in_place_overwrite_has_a_bound() {
        let (mut groups, id) = groups();
        let memory = Arena::new(1000);
        let (one, other) = (memory.segment(0, 60), memory.segment(500, 60));
        let mut admit = |call: &Call| groups.admit(Some(id), GroupIndex(0), call, Instant(0));
        assert_eq!(admit(&all_reduce(&one, &one)), Ok(()));
        assert_eq!(admit(&all_reduce(&one, &other)), Ok(()), "nothing of an input out of place is kept");
        let refused = admit(&all_reduce(&other, &other)).unwrap_err().to_string();
        assert!(refused.contains("may keep 100 bytes") && refused.contains("would be 120"), "{refused}");
        assert_eq!(groups.open[0].calls, 2);
    }

    #[test]
    fn the_first_that_a_loss_interrupted_says_when_it_was_noticed() {
        let of = |interruptions, after| {
            let interrupted_after = std::time::Duration::from_millis(after);
            Outcome { interruptions, interrupted_after, ..Outcome::default() }
        };
        let mut whole = of(1, 0);
        [of(1, 7), of(1, 5), of(0, 0)].iter().for_each(|part| add(&mut whole, part, 0));
        assert_eq!((whole.interruptions, whole.interrupted_after.as_millis()), (1, 7));
    }

    #[test]
    fn a_tag_belongs_to_its_commit_group_until_that_is_sealed() {
        let (mut groups, id) = groups();
        let seal = Call { collective: Collective::Commit, ..Call::EMPTY };
        let refused = groups.admit(None, GroupIndex(0), &Call::EMPTY, Instant(0)).unwrap_err().to_string();
        assert!(refused.contains("not sealed"), "{refused}");
        let mut other_tag = Call::EMPTY;
        other_tag.options.tag = Tag(1);
        assert_eq!(groups.admit(None, GroupIndex(0), &other_tag, Instant(0)), Ok(()));
        assert_eq!(groups.admit(None, GroupIndex(1), &Call::EMPTY, Instant(0)), Ok(()));
        assert_eq!(groups.admit(Some(id), GroupIndex(0), &seal, Instant(0)), Ok(()));
        assert_eq!(groups.admit(None, GroupIndex(0), &Call::EMPTY, Instant(0)), Ok(()));
        assert!(groups.admit(Some(id), GroupIndex(0), &seal, Instant(0)).is_err());
    }

    #[test]
    fn digests_of_two_calls_are_not_exchangeable() {
        let sum = |one, other| share_of(one, Seq(0)).wrapping_add(share_of(other, Seq(1)));
        assert_ne!(sum(3, 5), sum(5, 3));
        assert_ne!(sum(3, 3), 0);
        assert_eq!(sum(0, 0), 0);
    }
}
