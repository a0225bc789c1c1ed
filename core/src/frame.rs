//! The data-plane frame: a header of 64 bytes and a payload.
//!
//! Headers and payloads are padded to 64 bytes on the wire, since misaligned traffic costs the
//! kernel's copy path dearly (SPEED: a 1-byte message after a 1 MiB one cost 150-390 µs). Fields are
//! little endian. Decoding accepts nothing that it does not know; it never panics.

use crate::{Epoch, Generation, GroupId, OpId, Seq, Tag};

/// Bytes of an encoded header.
pub const HEADER_BYTES: usize = 64;
/// The byte of an encoded header that is left to links: always 0, so that a link may use it if it puts the 0 back.
pub const LINK_BYTE: usize = 43;
/// Version of the data-plane format; peers of different versions refuse each other at hello.
pub const VERSION: u8 = 4;
const MAGIC: u16 = 0x5244;
/// Kinds of ops that a header tells apart: at most one bit is set.
const POINT_TO_POINT: u8 = 1;
const ONE_ATTEMPT: u8 = 2;
/// Set besides: the frame carries a weight.
const WEIGHED: u8 = 4;
/// Payloads above this are refused by every decoder.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes of a plan step, named by window and label.
    Data = 1,
    /// The sender has entered the op: more than the eager bytes may be sent to it.
    Enter = 2,
    /// The sender holds the complete result of the op.
    Done = 3,
    /// The sender's call disagrees with the receiver's; the payload is the sender's descriptor.
    Mismatch = 4,
    /// The sender wants to hear that the receiver has entered the op, to send more than the eager bytes.
    EnterRequest = 5,
    /// Carries only `returned_through`.
    Ack = 6,
    /// The sender's log is full: it wants an Ack as soon as the receiver has returned from the op.
    AckRequest = 7,
    /// The result of an op that the sender has returned from and the receiver lacks, after a loss.
    Result = 8,
}

impl FrameKind {
    fn from_number(number: u8) -> Option<FrameKind> {
        use FrameKind::*;
        let all = [Data, Enter, Done, Mismatch, EnterRequest, Ack, AckRequest, Result];
        all.into_iter().find(|k| *k as u8 == number)
    }
}

/// Header of every data-plane frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame is for.
    pub kind: FrameKind,
    /// Bytes of payload, without the padding.
    pub payload_len: u32,
    /// The op.
    pub op: OpId,
    /// True if the op is a send or receive: its seq counts within (sender, receiver, tag).
    pub point_to_point: bool,
    /// True if the op is a collective that has one attempt among the members of its group, since it tolerates no
    /// loss or has nobody left after one. A loss is the end of its frames or no concern of them, so their epoch only
    /// says when their sender began.
    pub one_attempt: bool,
    /// The attempt; a frame of another attempt is refused. The low 32 bits of the view's epoch:
    /// views are hours apart from wrapping it, and a frame lives for minutes at most.
    pub epoch: Epoch,
    /// Window within the op. Of an Enter or a Done, how many windows its sender takes or holds; of a Done or EnterRequest of an
    /// uneven call, how many bytes it takes from the receiver.
    pub window: u32,
    /// Which message between this pair within the window.
    pub label: u16,
    /// Digest of (collective, dtype, operator, root, count), equal on all ranks of a correct call.
    pub fingerprint: u32,
    /// All ops of this tag below this seq have returned at the sender.
    pub returned_through: Seq,
    /// Of a Done, the digest of the result; of a Done or EnterRequest of an uneven call, the bytes that its sender sends the
    /// receiver; of others, the digest of the op just below `returned_through`, if it needed no Done. 0 says nothing. Of a
    /// frame with `weighed`, the weight of what it carries (the bits of a double).
    pub digest: u64,
    /// It carries data of a weighted average.
    pub weighed: bool,
}

/// Why a header was refused. The link that carried it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FrameError {
    #[error("not a Ronde frame (magic {0:#06x})")]
    Magic(u16),
    #[error("frame version {0}, this side speaks {VERSION}")]
    Version(u8),
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("payload of {0} bytes is above the limit of {MAX_PAYLOAD}")]
    TooLong(u32),
    #[error("reserved bits are set")]
    Reserved,
}

impl Header {
    /// A data header whose every number is 0; the base of others.
    pub const EMPTY: Header = Header {
        kind: FrameKind::Data,
        payload_len: 0,
        op: OpId { group: GroupId(0), generation: Generation(0), tag: Tag(0), seq: Seq(0) },
        point_to_point: false,
        one_attempt: false,
        epoch: Epoch(0),
        window: 0,
        label: 0,
        fingerprint: 0,
        returned_through: Seq(0),
        digest: 0,
        weighed: false,
    };

    /// The weight that it carries.
    #[inline]
    pub fn weight(&self) -> Option<f64> {
        self.weighed.then(|| f64::from_bits(self.digest))
    }

    /// The digest that it carries; 0 for none.
    #[inline]
    pub fn told_digest(&self) -> u64 {
        if self.weighed { 0 } else { self.digest }
    }

    /// True for a frame that belongs to one attempt of an op, and means nothing to any other.
    #[inline]
    pub fn is_of_attempt(&self) -> bool {
        !self.point_to_point && !self.one_attempt && self.moves_an_op()
    }

    /// True for a frame that means nothing once a member of the op's group was lost.
    #[inline]
    pub fn ends_with_a_loss(&self) -> bool {
        self.one_attempt && self.moves_an_op()
    }

    fn moves_an_op(&self) -> bool {
        use FrameKind::*;
        matches!(self.kind, Data | Enter | EnterRequest | Done | Result)
    }

    /// Bytes that the payload takes on the wire.
    #[inline]
    pub fn padded_payload(&self) -> usize {
        pad(self.payload_len as usize)
    }

    /// The header as it travels.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        b[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        b[2] = VERSION;
        b[3] = self.kind as u8;
        b[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        b[8..16].copy_from_slice(&self.op.group.0.to_le_bytes());
        b[16..20].copy_from_slice(&self.op.generation.0.to_le_bytes());
        b[20..24].copy_from_slice(&(self.epoch.0 as u32).to_le_bytes());
        b[24..28].copy_from_slice(&self.op.tag.0.to_le_bytes());
        b[28..32].copy_from_slice(&self.window.to_le_bytes());
        b[32..40].copy_from_slice(&self.op.seq.0.to_le_bytes());
        b[40..42].copy_from_slice(&self.label.to_le_bytes());
        b[42] = (POINT_TO_POINT * self.point_to_point as u8)
            | (ONE_ATTEMPT * self.one_attempt as u8)
            | (WEIGHED * self.weighed as u8);
        b[44..48].copy_from_slice(&self.fingerprint.to_le_bytes());
        b[48..56].copy_from_slice(&self.returned_through.0.to_le_bytes());
        b[56..64].copy_from_slice(&self.digest.to_le_bytes());
        b
    }

    /// Reads a header; refuses whatever this version does not write.
    #[inline]
    pub fn decode(b: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let u64_at = |i: usize| (u32_at(i) as u64) | ((u32_at(i + 4) as u64) << 32);
        if u16_at(0) != MAGIC {
            return Err(FrameError::Magic(u16_at(0)));
        }
        if b[2] != VERSION {
            return Err(FrameError::Version(b[2]));
        }
        let kind = FrameKind::from_number(b[3]).ok_or(FrameError::Kind(b[3]))?;
        let payload_len = u32_at(4);
        if payload_len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(payload_len));
        }
        let (kind_of_op, weighed) = (b[42] & !WEIGHED, b[42] & WEIGHED != 0);
        if kind_of_op > ONE_ATTEMPT || b[LINK_BYTE] != 0 {
            return Err(FrameError::Reserved);
        }
        Ok(Header {
            kind,
            payload_len,
            op: OpId {
                group: GroupId(u64_at(8)),
                generation: Generation(u32_at(16)),
                tag: Tag(u32_at(24)),
                seq: Seq(u64_at(32)),
            },
            point_to_point: kind_of_op == POINT_TO_POINT,
            one_attempt: kind_of_op == ONE_ATTEMPT,
            epoch: Epoch(u32_at(20) as u64),
            window: u32_at(28),
            label: u16_at(40),
            fingerprint: u32_at(44),
            returned_through: Seq(u64_at(48)),
            digest: u64_at(56),
            weighed,
        })
    }
}

/// `len` rounded up to the 64 bytes that all traffic keeps to.
#[inline]
pub const fn pad(len: usize) -> usize {
    (len + HEADER_BYTES - 1) & !(HEADER_BYTES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in 1u8..=8, payload_len in 0u32..=MAX_PAYLOAD as u32, group: u64, generation: u32,
            tag: u32, seq: u64, op_kind in 0u8..=2, epoch: u32, window: u32, label: u16, fingerprint: u32,
            returned: u64, digest: u64, weighed: bool,
        ) {
            let header = Header {
                kind: FrameKind::from_number(kind).unwrap(),
                payload_len,
                op: OpId {
                    group: GroupId(group), generation: Generation(generation), tag: Tag(tag), seq: Seq(seq),
                },
                point_to_point: op_kind == 1,
                one_attempt: op_kind == 2,
                epoch: Epoch(epoch as u64),
                window, label, fingerprint,
                returned_through: Seq(returned),
                digest,
                weighed,
            };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn arbitrary_bytes_decode_to_themselves_or_an_error(bytes in prop::array::uniform32(any::<u8>()),
                                                            rest in prop::array::uniform32(any::<u8>())) {
            let mut all = [0u8; HEADER_BYTES];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            if let Ok(header) = Header::decode(&all) {
                prop_assert_eq!(header.encode(), all);
            }
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let good = Header {
            kind: FrameKind::Data,
            payload_len: 8,
            op: OpId { group: GroupId(1), generation: Generation(0), tag: Tag(0), seq: Seq(0) },
            epoch: Epoch(1),
            ..Header::EMPTY
        }
        .encode();
        let with = |i: usize, v: u8| {
            let mut b = good;
            b[i] = v;
            Header::decode(&b)
        };
        assert!(matches!(with(0, 0), Err(FrameError::Magic(_))));
        assert!(matches!(with(2, 9), Err(FrameError::Version(9))));
        assert!(matches!(with(3, 0), Err(FrameError::Kind(0))));
        assert!(matches!(with(7, 0xff), Err(FrameError::TooLong(_))));
        assert!(matches!(with(42, 3), Err(FrameError::Reserved)));
        assert!(matches!(with(42, 8), Err(FrameError::Reserved)));
        assert!(matches!(with(43, 1), Err(FrameError::Reserved)));
    }
}
