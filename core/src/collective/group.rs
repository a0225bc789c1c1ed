//! What the executor knows of a group.

use crate::call::StandIn;
use crate::frame::Header;
use crate::recovery::TagReport;
use crate::{Epoch, Formation, Generation, GroupId, MemberId, OpId, Rank, Seq, Tag};

/// Number of a group within one executor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct GroupIndex(pub(crate) usize);

/// Ops that ended with errors are remembered up to so many: all that a peer may have open.
const MOST_FAILED: usize = 1 << 12;

/// Progress of one tag.
pub(crate) struct TagState {
    tag: Tag,
    next: Seq,
    /// Every op below has returned here.
    returned: Seq,
    /// Ops at or above `returned` that have returned out of order.
    returned_ahead: Vec<Seq>,
    /// Ops that have returned with an error, and perhaps not everywhere.
    failed: Vec<Seq>,
    /// What the members said of theirs, by rank; of those that are lost, the end of all numbers.
    peers_returned: Vec<Seq>,
    /// Ops below this one commit by Done: a loss has interrupted them somewhere.
    recovered_below: Seq,
    /// Of the last op that committed by log and whose digest was due; 0 if there was none.
    digest: (Seq, u64),
}

impl TagState {
    /// The number that the next op gets.
    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    /// The seq below which all *other* members have returned.
    pub(crate) fn returned_by_all(&self, me: usize) -> Seq {
        let others = self.peers_returned.iter().enumerate().filter(|(rank, _)| *rank != me);
        others.map(|(_, seq)| *seq).min().unwrap_or(self.next).min(self.next)
    }

    /// Members not known to have returned from an op.
    pub(crate) fn laggards(&self, me: usize, op: Seq) -> impl Iterator<Item = usize> + '_ {
        (0..self.peers_returned.len()).filter(move |&r| r != me && self.peers_returned[r] <= op)
    }
}

/// A frame of an op that tolerates no loss, in a group that had one.
pub(crate) fn has_ended_by_loss(groups: &[GroupState], header: &Header) -> bool {
    let is_broken = |group: &GroupState| group.formation == header.op.formation() && !group.is_whole();
    header.ends_with_a_loss() && groups.iter().any(is_broken)
}

/// Sequence of one (peer, tag, direction) of sends or receives.
struct PairSeq {
    peer: u32,
    tag: Tag,
    sends: bool,
    next: Seq,
}

/// A group to be.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// Its identity, the same on every member.
    pub formation: Formation,
    /// The view that it is of.
    pub epoch: Epoch,
    /// Links (numbers in the job) of the members in rank order.
    pub members: Vec<usize>,
    /// This process's rank in it.
    pub me: Rank,
    /// A frame costs a system call on the link between some two members. The same on every member: it
    /// decides how ops commit.
    pub syscall_per_frame: bool,
}

/// A group: its members as links, and where each tag stands.
pub(crate) struct GroupState {
    pub(crate) formation: Formation,
    pub(crate) epoch: Epoch,
    /// Link (number in the job) of each group rank.
    pub(crate) members: Vec<usize>,
    pub(crate) me: usize,
    pub(crate) syscall_per_frame: bool,
    /// By group rank: it is not there any more. Ranks keep their meaning all the same.
    lost: Vec<bool>,
    /// How many are not: frames ask whether there are any.
    absent: usize,
    tags: Vec<TagState>,
    pairs: Vec<PairSeq>,
    /// The group of the next generation, once its view is armed.
    pub(crate) successor: Option<GroupIndex>,
    /// Nobody makes calls on it any more.
    pub(crate) is_dropped: bool,
}

impl GroupState {
    pub(crate) fn new(new: NewGroup) -> GroupState {
        let NewGroup { formation, epoch, members, me, syscall_per_frame } = new;
        GroupState {
            formation,
            epoch,
            lost: vec![false; members.len()],
            absent: 0,
            members,
            me: me.index(),
            syscall_per_frame,
            tags: Vec::new(),
            pairs: Vec::new(),
            successor: None,
            is_dropped: false,
        }
    }

    /// The same group in the next generation.
    pub(crate) fn successor(before: &GroupState, epoch: Epoch, members: Vec<usize>, me: usize) -> GroupState {
        let Formation { group, generation } = before.formation;
        let formation = Formation { group, generation: Generation(generation.0 + 1) };
        let syscall_per_frame = before.syscall_per_frame;
        GroupState::new(NewGroup { formation, epoch, members, me: Rank(me as u32), syscall_per_frame })
    }

    /// A place in the table that nobody uses: no frame can name it.
    pub(crate) fn vacant() -> GroupState {
        let formation = Formation { group: GroupId(u64::MAX), generation: Generation(u32::MAX) };
        let (epoch, members, me) = (Epoch(0), Vec::new(), Rank(0));
        GroupState::new(NewGroup { formation, epoch, members, me, syscall_per_frame: false })
    }

    /// Members that are there.
    pub(crate) fn present(&self) -> usize {
        self.members.len() - self.absent
    }

    /// Whether a member is gone.
    pub(crate) fn is_lost(&self, rank: usize) -> bool {
        self.lost[rank]
    }

    /// A lost member for whose block another stands in, by their ranks.
    pub(crate) fn stand_in(&self, lost: MemberId, holder: MemberId) -> Option<StandIn> {
        let (lost, holder) = (self.rank_of(lost.index())?, self.rank_of(holder.index())?);
        let is_right = self.is_lost(lost) && !self.is_lost(holder);
        is_right.then_some(StandIn { lost: lost as u32, holder: holder as u32 })
    }

    /// Ranks of the members that are gone.
    pub(crate) fn lost_ranks(&self) -> impl Iterator<Item = u32> + '_ {
        self.lost.iter().zip(0..).filter(|(lost, _)| **lost).map(|(_, rank)| rank)
    }

    /// Whether nobody is gone.
    pub(crate) fn is_whole(&self) -> bool {
        self.absent == 0
    }

    /// The member behind a link is gone: nobody waits for it any more.
    pub(crate) fn lose(&mut self, link: usize) {
        let Some(rank) = self.rank_of(link) else { return };
        self.absent += usize::from(!std::mem::replace(&mut self.lost[rank], true));
        for tag in &mut self.tags {
            tag.peers_returned[rank] = Seq(u64::MAX);
        }
    }

    /// What a report says of the tags; ops whose complete result is here are added by the caller.
    pub(crate) fn tag_reports(&self) -> impl Iterator<Item = TagReport> + '_ {
        self.tags.iter().map(|state| TagReport {
            formation: self.formation,
            tag: state.tag,
            started: state.next.max(state.recovered_below),
            returned: state.returned,
            returned_ahead: state.returned_ahead.clone(),
            failed: state.failed.clone(),
            ..TagReport::default()
        })
    }

    /// Ops of a tag below this one commit by Done.
    pub(crate) fn recover_below(&mut self, tag: Tag, horizon: Seq) {
        let state = self.tag(tag);
        state.recovered_below = state.recovered_below.max(horizon);
    }

    /// Whether an op commits by Done whatever its size.
    pub(crate) fn is_recovered(&self, tag: Tag, seq: Seq) -> bool {
        self.known_tag(tag).is_some_and(|state| seq < state.recovered_below)
    }

    /// The group rank behind a link.
    #[inline]
    pub(crate) fn rank_of(&self, link: usize) -> Option<usize> {
        // Worlds and most groups are ordered, so the first guess is nearly always right.
        if self.members.get(link) == Some(&link) {
            return Some(link);
        }
        self.members.iter().position(|&member| member == link)
    }

    /// A tag that was used here. Frames may name any.
    fn known_tag(&self, tag: Tag) -> Option<&TagState> {
        self.tags.iter().find(|state| state.tag == tag)
    }

    pub(crate) fn tag(&mut self, tag: Tag) -> &mut TagState {
        let at = match self.tags.iter().position(|t| t.tag == tag) {
            Some(at) => at,
            None => {
                self.tags.push(TagState {
                    tag,
                    next: Seq(0),
                    returned: Seq(0),
                    returned_ahead: Vec::new(),
                    failed: Vec::new(),
                    peers_returned: self
                        .lost
                        .iter()
                        .map(|&lost| Seq(if lost { u64::MAX } else { 0 }))
                        .collect(),
                    recovered_below: Seq(0),
                    digest: (Seq(0), 0),
                });
                self.tags.len() - 1
            }
        };
        &mut self.tags[at]
    }

    /// Every tag that was used.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        self.tags.iter().map(|state| state.tag).collect()
    }

    /// Gives the next op of this tag its number; also says what has returned.
    pub(crate) fn next_op(&mut self, tag: Tag) -> (OpId, Seq) {
        let formation = self.formation;
        let state = self.tag(tag);
        let seq = state.next;
        state.next.0 += 1;
        (formation.op(tag, seq), state.returned)
    }

    /// Gives the next send to (or receive from) `peer` its number.
    pub(crate) fn next_message(&mut self, peer: Rank, tag: Tag, sends: bool) -> OpId {
        let formation = self.formation;
        let next = self.pair(peer.0, tag, sends);
        let seq = *next;
        next.0 += 1;
        formation.op(tag, seq)
    }

    fn known_pair(&self, peer: u32, tag: Tag, sends: bool) -> Option<Seq> {
        let known = self.pairs.iter().find(|p| p.peer == peer && p.tag == tag && p.sends == sends);
        known.map(|pair| pair.next)
    }

    fn pair(&mut self, peer: u32, tag: Tag, sends: bool) -> &mut Seq {
        let at = self.pairs.iter().position(|p| p.peer == peer && p.tag == tag && p.sends == sends);
        let at = at.unwrap_or_else(|| {
            self.pairs.push(PairSeq { peer, tag, sends, next: Seq(0) });
            self.pairs.len() - 1
        });
        &mut self.pairs[at].next
    }

    /// True if an op with this number was started here already; `message` says for a send or receive
    /// whether it is this side that sends.
    pub(crate) fn was_started(&self, rank: usize, op: &OpId, message: Option<bool>) -> bool {
        let next = match message {
            None => self.known_tag(op.tag).map(|tag| tag.next),
            Some(sends) => self.known_pair(rank as u32, op.tag, sends),
        };
        next.is_some_and(|next| op.seq < next)
    }

    /// An op ends here with an error.
    pub(crate) fn failed(&mut self, tag: Tag, seq: Seq) {
        let me = self.me;
        let state = self.tag(tag);
        let over = state.returned_by_all(me);
        state.failed.retain(|&failed| failed >= over);
        if state.failed.len() >= MOST_FAILED {
            state.failed.remove(0);
        }
        state.failed.push(seq);
    }

    /// An op returned here.
    pub(crate) fn returned(&mut self, tag: Tag, seq: Seq) {
        let state = self.tag(tag);
        if seq != state.returned {
            state.returned_ahead.push(seq);
            return;
        }
        state.returned.0 += 1;
        while let Some(at) = state.returned_ahead.iter().position(|s| *s == state.returned) {
            state.returned_ahead.swap_remove(at);
            state.returned.0 += 1;
        }
    }

    /// All ops of the tag below this one have returned here.
    pub(crate) fn returned_through(&self, tag: Tag) -> Seq {
        self.known_tag(tag).map_or(Seq(0), |state| state.returned)
    }

    /// The last op that committed by log and whose digest was due, with that.
    pub(crate) fn digest(&self, tag: Tag) -> Option<(Seq, u64)> {
        self.known_tag(tag).map(|state| state.digest).filter(|(_, digest)| *digest != 0)
    }

    pub(crate) fn note_digest(&mut self, tag: Tag, seq: Seq, digest: u64) {
        self.tag(tag).digest = (seq, digest);
    }

    /// What has returned here, and the digest of the last op of that.
    pub(crate) fn last_returned(&self, tag: Tag) -> (Seq, u64) {
        let Some(state) = self.known_tag(tag) else { return (Seq(0), 0) };
        let (seq, digest) = state.digest;
        (state.returned, if seq.0 + 1 == state.returned.0 { digest } else { 0 })
    }

    /// A member said how far it is; returns the new bound below which everybody has returned, if it
    /// grew.
    pub(crate) fn peer_returned(&mut self, rank: usize, tag: Tag, through: Seq) -> Option<Seq> {
        let me = self.me;
        let state = self.tags.iter_mut().find(|state| state.tag == tag)?;
        // A peer cannot have returned from an op that this one has not even started.
        let through = through.min(state.next);
        if state.peers_returned[rank] >= through {
            return None;
        }
        let before = state.returned_by_all(me);
        state.peers_returned[rank] = through;
        let after = state.returned_by_all(me);
        (after > before).then_some(after)
    }
}
