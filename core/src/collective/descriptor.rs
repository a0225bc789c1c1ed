//! What a rank called, in a form that other ranks can compare and print.

use super::op::Commit;
use crate::call::Call;
use crate::reduce::Reduction;
use crate::{Collective, DType, Tolerance};
use xxhash_rust::xxh3::Xxh3;

/// The fields in which the calls of all ranks must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    collective: u8,
    dtype: u8,
    reduction: u8,
    /// How it commits: tolerance, and what follows from it.
    commit: u8,
    root: u32,
    /// Elements; of uneven calls a digest of the counts of all ranks, where all ranks give these.
    count: u64,
    /// The algorithm, and how it cuts the vector.
    plan: u32,
}

/// Bytes of an encoded descriptor.
pub(super) const DESCRIPTOR_BYTES: usize = 20;

impl Descriptor {
    /// The descriptor of a call that is carried out by a plan of this algorithm and number of windows.
    /// Sizes that may differ from rank to rank (blocks that concern only some pair) are left out.
    pub(super) fn of(call: &Call, (algorithm, windows): (u32, u32), commit: Commit) -> Descriptor {
        let point_to_point = call.collective.is_point_to_point();
        let collective = call.collective;
        let uneven = collective.is_uneven();
        Descriptor {
            collective: collective as u8,
            dtype: call.dtype as u8,
            reduction: call.reduction.as_ref().map_or(0xff, Reduction::number),
            commit: commit as u8,
            root: if point_to_point { 0 } else { call.peer },
            count: match collective {
                Collective::AllGatherV => digest_of(&call.recv.counts),
                Collective::ReduceScatterV => digest_of(&call.send.counts),
                _ if uneven => 0,
                _ => call.count as u64,
            },
            plan: if uneven { algorithm } else { algorithm ^ windows.rotate_left(16) },
        }
    }

    /// A 32-bit digest for the header of every frame. Equal calls give equal digests; different
    /// ones differ but for one chance in four billion, and then fail on a length instead.
    #[inline]
    pub fn fingerprint(&self) -> u32 {
        // The two sides of a message are one call.
        let receives = self.collective == Collective::Recv as u8;
        let collective = if receives { Collective::Send as u8 } else { self.collective };
        let fields = (collective as u64)
            | (self.dtype as u64) << 8
            | (self.reduction as u64) << 16
            | (self.commit as u64) << 24
            | (self.root as u64) << 32;
        let fields = fields ^ (self.plan as u64).wrapping_mul(0xa24b_aed4_963e_e407);
        let mixed = (fields ^ self.count.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32) ^ self.count).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 32) as u32
    }

    pub(crate) fn encode(&self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0u8; DESCRIPTOR_BYTES];
        bytes[0] = self.collective;
        bytes[1] = self.dtype;
        bytes[2] = self.reduction;
        bytes[3] = self.commit;
        bytes[4..8].copy_from_slice(&self.root.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.plan.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Descriptor> {
        let bytes: &[u8; DESCRIPTOR_BYTES] = bytes.try_into().ok()?;
        Some(Descriptor {
            collective: bytes[0],
            dtype: bytes[1],
            reduction: bytes[2],
            commit: bytes[3],
            root: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
            count: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            plan: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
        })
    }
}

/// A digest of the counts of all ranks.
fn digest_of(counts: &[usize]) -> u64 {
    let mut digest = Xxh3::new();
    counts.iter().for_each(|&count| digest.update(&(count as u64).to_le_bytes()));
    digest.digest()
}

impl Descriptor {
    /// Blocks may differ from rank to rank.
    pub(super) fn is_uneven(&self) -> bool {
        Collective::from_number(self.collective).is_some_and(Collective::is_uneven)
    }

    /// It ends without a word from all others.
    pub(super) fn ends_alone(&self) -> bool {
        self.commit == Commit::Local as u8
    }

    /// This call and that of a rank which sends more than is expected here, in words.
    pub(super) fn with_larger_block(&self) -> (String, String) {
        let mine = format!("{self} with a smaller block from the other, or none");
        (mine, format!("{self} with a larger block for it"))
    }

    /// This and another rank's call in words that show where they differ.
    pub(super) fn versus(&self, other: &Descriptor) -> (String, String) {
        let (mut mine, mut theirs) = (self.to_string(), other.to_string());
        if mine == theirs && self.tolerance() != other.tolerance() {
            mine += &format!(" with tolerance {}", self.tolerance());
            theirs += &format!(" with tolerance {}", other.tolerance());
        }
        if mine == theirs && self.commit != other.commit {
            mine += self.kind_of_commit();
            theirs += other.kind_of_commit();
        }
        if mine == theirs && self.count != other.count {
            mine += &format!(" with counts of digest {:016x}", self.count);
            theirs += &format!(" with counts of digest {:016x}", other.count);
        }
        if mine == theirs && self.plan != other.plan && self.collective == Collective::Commit as u8 {
            mine += &format!(" of digest {:08x}", self.plan);
            theirs += &format!(" of digest {:08x}: a call in it differs", other.plan);
        }
        if mine == theirs && self.plan != other.plan {
            mine += &format!(" by plan {:08x}", self.plan);
            theirs += &format!(" by plan {:08x}, another algorithm", other.plan);
        }
        (mine, theirs)
    }

    fn kind_of_commit(&self) -> &'static str {
        match self.commit {
            commit if commit == Commit::Group as u8 => " in a commit group",
            commit if commit == Commit::Done as u8 => " in no commit group, with strict_commit",
            _ => " in no commit group, without strict_commit",
        }
    }

    /// Of a commit group: a digest of the calls in it, in their order.
    pub(super) fn of_calls(mut self, digest: u32) -> Descriptor {
        self.plan = digest;
        self
    }

    fn tolerance(&self) -> &'static str {
        match self.commit {
            commit if commit == Commit::Local as u8 => Tolerance::None.name(),
            commit if commit == Commit::Window as u8 => Tolerance::PerWindow.name(),
            _ => Tolerance::Recover.name(),
        }
    }
}

impl std::fmt::Display for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let collective = Collective::from_number(self.collective).map_or("an unknown op", Collective::name);
        let dtype = DType::from_number(self.dtype).map_or("unknown", DType::name);
        match self.collective {
            kind if kind == Collective::Barrier as u8 => return f.write_str(collective),
            kind if kind == Collective::Commit as u8 => {
                return write!(f, "{collective} of {} calls", self.count);
            }
            _ if self.is_uneven() => write!(f, "{collective}({dtype}")?,
            _ => write!(f, "{collective}(count {}, {dtype}", self.count)?,
        }
        if self.reduction != 0xff {
            write!(f, ", {}", Reduction::name_of(self.reduction))?;
        }
        if Collective::from_number(self.collective).is_some_and(Collective::has_root) {
            write!(f, ", root {}", self.root)?;
        }
        f.write_str(")")
    }
}
