//! What a rank called, in a form that other ranks can compare and print.

use crate::call::Call;
use crate::reduce::Reduction;
use crate::{Collective, DType};

/// The fields in which the calls of all ranks must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    collective: u8,
    dtype: u8,
    reduction: u8,
    root: u32,
    count: u64,
}

/// Bytes of an encoded descriptor.
pub(super) const DESCRIPTOR_BYTES: usize = 16;

impl Descriptor {
    /// The descriptor of a call. Sizes that may differ from rank to rank (`…_v` blocks) are left out.
    pub fn of(call: &Call) -> Descriptor {
        let point_to_point = call.collective.is_point_to_point();
        let collective = if point_to_point { Collective::Send } else { call.collective };
        let uneven = matches!(
            collective,
            Collective::AllGatherV
                | Collective::ReduceScatterV
                | Collective::AllToAllV
                | Collective::GatherV
                | Collective::ScatterV
        );
        Descriptor {
            collective: collective as u8,
            dtype: call.dtype as u8,
            reduction: call.reduction.as_ref().map_or(0xff, Reduction::number),
            root: if point_to_point { 0 } else { call.peer },
            count: if uneven { 0 } else { call.count as u64 },
        }
    }

    /// A 32-bit digest for the header of every frame. Equal calls give equal digests; different
    /// ones differ but for one chance in four billion, and then fail on a length instead.
    #[inline]
    pub fn fingerprint(&self) -> u32 {
        let fields = (self.collective as u64)
            | (self.dtype as u64) << 8
            | (self.reduction as u64) << 16
            | (self.root as u64) << 32;
        let mixed = (fields ^ self.count.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32) ^ self.count).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 32) as u32
    }

    pub(crate) fn encode(&self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0u8; DESCRIPTOR_BYTES];
        bytes[0] = self.collective;
        bytes[1] = self.dtype;
        bytes[2] = self.reduction;
        bytes[4..8].copy_from_slice(&self.root.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Descriptor> {
        let bytes: &[u8; DESCRIPTOR_BYTES] = bytes.try_into().ok()?;
        Some(Descriptor {
            collective: bytes[0],
            dtype: bytes[1],
            reduction: bytes[2],
            root: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
            count: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
        })
    }
}

impl std::fmt::Display for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let collective = Collective::from_number(self.collective).map_or("an unknown op", Collective::name);
        let dtype = DType::from_number(self.dtype).map_or("unknown", DType::name);
        write!(f, "{collective}(count {}, {dtype}", self.count)?;
        if self.reduction != 0xff {
            write!(f, ", {}", Reduction::name_of(self.reduction))?;
        }
        if Collective::from_number(self.collective).is_some_and(|c| {
            use Collective::*;
            matches!(c, Broadcast | Reduce | Gather | GatherV | Scatter | ScatterV)
        }) {
            write!(f, ", root {}", self.root)?;
        }
        f.write_str(")")
    }
}
