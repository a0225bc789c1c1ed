//! Members compare digests (XXH3) of what they hold. A wrong bit on one of them, be it of a machine, of a user's operator or of
//! this library, ends the job with an error that names it, instead of models that drift apart in silence.

use super::OpState;
use crate::collective::executor::{Effect, Executor, Shared};
use crate::frame::Header;
use crate::memory::{Access, Segment};
use crate::plan::Plan;
use crate::{Collective, MemberId, Seq};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// How much of the results that all members hold alike (all-reduce, all-gather, broadcast) is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Digests {
    /// Nothing.
    Never,
    /// Of one call in 16, at most 256 KiB, in blocks that change from call to call. The default.
    #[default]
    Sampled,
    /// Everything: each result is read once more.
    Always,
}

/// One call in so many is sampled, and so much of it.
const SAMPLED_CALLS: u64 = 16;
const SAMPLED_BLOCKS: usize = 64;
const BLOCK_BYTES: usize = 4096;
/// This bit of a digest says that it is of the whole result. Members that are told to look at different amounts compare nothing.
const WHOLE: u64 = 1;

/// Whether two digests, of which 0 says nothing, are of different results.
fn differ(one: u64, other: u64) -> bool {
    one != other && one != 0 && other != 0 && (one ^ other) & WHOLE == 0
}

impl Digests {
    fn is_due(self, seq: Seq) -> bool {
        match self {
            Digests::Never => false,
            Digests::Sampled => seq.0.is_multiple_of(SAMPLED_CALLS),
            Digests::Always => true,
        }
    }

    /// The digest of a result; 0 where none is due.
    fn of(self, result: &Segment, seq: Seq) -> u64 {
        if !self.is_due(seq) {
            return 0;
        }
        let stretch = result.len() / SAMPLED_BLOCKS;
        if self == Digests::Always || stretch <= BLOCK_BYTES {
            return xxh3_64(result.bytes()) | WHOLE;
        }
        let mut digest = Xxh3::new();
        for block in 0..SAMPLED_BLOCKS {
            let place = xxh3_64(&(seq.0 ^ (block as u64) << 48).to_le_bytes());
            // Around a place in the stretch, so that its ends are as likely as its middle.
            let around = block * stretch + place as usize % stretch;
            let offset = around.saturating_sub(BLOCK_BYTES / 2).min(result.len() - BLOCK_BYTES);
            digest.update(result.slice(offset, BLOCK_BYTES).bytes());
        }
        (digest.digest() & !WHOLE).max(2)
    }

    /// What the digests of several results make together; 0 where none was due. Who looks at other calls has another.
    fn of_sum(self, sum: u64) -> u64 {
        match (sum, self) {
            (0, _) => 0,
            (_, Digests::Always) => sum | WHOLE,
            _ => (sum & !WHOLE).max(2),
        }
    }
}

/// Members do not hold the same result of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The op.
    pub op: crate::OpId,
    /// Digests by member, as far as they are known.
    pub held: Vec<(MemberId, u64)>,
}

impl<P: Plan> OpState<P> {
    /// The digest of the result, which is complete; 0 where none is due or where members hold different things.
    pub(super) fn digest_of_result(&self, shared: &Shared) -> u64 {
        let Some(call) = &self.call else { return 0 };
        let is_root = call.peer as usize == shared.groups[self.group.0].me;
        let result = match call.collective {
            Collective::AllReduce => &call.output,
            Collective::Broadcast if is_root => &call.input,
            Collective::Broadcast => &call.output,
            // The blocks of those who are absent hold anything.
            Collective::AllGather if self.is_without_holes() => &call.output,
            Collective::Commit => {
                let sum = self.commit_group.map_or(0, |id| shared.commit_groups.digest(id));
                return shared.limits.digests.of_sum(sum);
            }
            _ => return 0,
        };
        shared.limits.digests.of(result, self.id.seq)
    }

    /// A member says what it holds; 0 says nothing.
    pub(crate) fn note_digest(&mut self, rank: usize, digest: u64) {
        if digest != 0 {
            self.digests.resize(self.entered.len(), 0);
            self.digests[rank] = digest;
        }
    }

    /// Who holds what, if that is not the same.
    pub(super) fn divergence(&self, shared: &Shared) -> Option<Divergence> {
        let mine = self.digest.unwrap_or(0);
        if !self.digests.iter().any(|&theirs| differ(mine, theirs)) {
            return None;
        }
        let me = shared.groups[self.group.0].me;
        let of = |(rank, &theirs): (usize, &u64)| (rank, if rank == me { mine } else { theirs });
        let told = self.digests.iter().enumerate().map(of).filter(|(_, digest)| *digest != 0);
        let held = told.map(|(rank, digest)| (self.member(rank as u32, shared), digest)).collect();
        Some(Divergence { op: self.id, held })
    }
}

impl<P: Plan> Executor<P> {
    /// Compares what a frame says of an earlier op that needed no Done. Only whoever has returned from the same one can: of
    /// two members, the one that is no further.
    pub(crate) fn compare_last(&mut self, link: usize, header: &Header) {
        let Some(group) = self.group_of(&header.op) else { return };
        let state = &self.shared.groups[group.0];
        let me = MemberId(state.members[state.me] as u32);
        let Some((seq, mine)) = state.digest(header.op.tag) else { return };
        if !differ(mine, header.told_digest()) || seq.0.checked_add(1) != Some(header.returned_through.0) {
            return;
        }
        // Once is enough.
        self.shared.groups[group.0].note_digest(header.op.tag, seq, 0);
        let op = crate::OpId { seq, ..header.op };
        let held = vec![(me, mine), (MemberId(link as u32), header.digest)];
        self.shared.effects.push(Effect::Diverged(Divergence { op, held }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;

    fn filled(len: usize) -> Arena {
        let arena = Arena::new(len);
        arena.segment(0, len).fill_from(&(0..len).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>());
        arena
    }

    #[test]
    fn a_changed_bit_changes_the_digest() {
        for len in [1, 7, 4096, 300_001] {
            let memory = filled(len);
            let whole = memory.segment(0, len);
            let before = Digests::Always.of(&whole, Seq(5));
            for at in [0, len / 2, len - 1] {
                let mut byte = whole.slice(at, 1);
                byte.bytes_mut()[0] ^= 4;
                assert_ne!(Digests::Always.of(&whole, Seq(5)), before, "byte {at} of {len}");
                byte.bytes_mut()[0] ^= 4;
            }
            assert_eq!(Digests::Always.of(&whole, Seq(5)), before);
        }
    }

    #[test]
    fn nothing_has_a_digest_too_and_what_is_not_due_has_none() {
        let nothing = Segment::empty();
        assert_ne!(Digests::Always.of(&nothing, Seq(0)), 0);
        assert_ne!(Digests::Sampled.of(&nothing, Seq(32)), 0);
        assert_eq!(Digests::Sampled.of(&nothing, Seq(33)), 0);
        assert_eq!(Digests::Never.of(&nothing, Seq(0)), 0);
    }

    /// Who samples is compared with who does not only where both look at everything.
    #[test]
    fn samples_are_not_taken_for_the_whole() {
        for (len, comparable) in [(1000, true), (SAMPLED_BLOCKS * BLOCK_BYTES, true), (1 << 20, false)] {
            let (memory, changed) = (filled(len), filled(len));
            changed.segment(0, len).slice(len / 2, 1).fill_from(&[255]);
            let (some, all) = (memory.segment(0, len), changed.segment(0, len));
            let (sampled, whole) = (Digests::Sampled.of(&some, Seq(0)), Digests::Always.of(&all, Seq(0)));
            assert_eq!(differ(sampled, whole), comparable, "{len} bytes");
            assert!(!differ(sampled, Digests::Always.of(&some, Seq(0))), "{len} bytes");
        }
        assert!(!differ(0, 3) && !differ(3, 0) && differ(3, 5));
    }

    /// Each byte of a long vector is looked at sooner or later.
    #[test]
    fn samples_reach_everything() {
        let len = SAMPLED_BLOCKS * (2 * BLOCK_BYTES + 5) + 3;
        let memory = filled(len);
        let whole = memory.segment(0, len);
        let seqs = || (0..64).map(|call| Seq(call * SAMPLED_CALLS));
        let before: Vec<u64> = seqs().map(|seq| Digests::Sampled.of(&whole, seq)).collect();
        for at in (0..len).step_by(1009).chain([len - 1]) {
            let mut byte = whole.slice(at, 1);
            byte.bytes_mut()[0] ^= 0x80;
            assert!(
                seqs().zip(&before).any(|(seq, before)| Digests::Sampled.of(&whole, seq) != *before),
                "byte {at}"
            );
            byte.bytes_mut()[0] ^= 0x80;
        }
    }
}
