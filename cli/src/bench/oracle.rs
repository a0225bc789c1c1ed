//! What every rank puts in, and what must come out: to the bit, computed without the library.
//!
//! Contents are a function of (seed, rank, element). Where vectors are only moved they are random
//! bits. Where they are reduced they are chosen so that the exact result exists in the type and does
//! not depend on the order: random bits for wrapping integers, small whole numbers for sums of floats,
//! powers of two for products. So one comparison without tolerance serves every algorithm.

use super::layout::{Piece, Source};
use super::number::{Lane, read_bits, truncate};
use crate::args::BenchOp;
use ronde::{DType, ReduceOp};

/// Contents begin again after so many lanes, so that vectors of gigabytes are written and checked as fast as they are copied. Twice a
/// prime: windows, pieces and blocks that are mixed up do not fall on the same contents.
const PERIOD: u64 = 2 * 524_287;
/// How many factors of a product of floats differ from ±1: their exponents must fit the smallest type.
const MAX_SCALED_FACTORS: u32 = 6;

/// The contents of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub(crate) dtype: DType,
    /// `None` where vectors are only moved.
    pub(crate) op: Option<BenchOp>,
    pub(crate) ranks: u32,
    pub(crate) seed: u64,
}

impl Contents {
    /// Writes the input of `rank`, whole elements from the first on.
    pub(crate) fn fill(&self, rank: u32, out: &mut [u8]) {
        let width = self.lane_bytes();
        let (first, rest) = out.split_at_mut(out.len().min(PERIOD as usize * width));
        for (lane, bytes) in first.chunks_exact_mut(width).enumerate() {
            bytes.copy_from_slice(&self.input_bits(rank, lane as u64).to_le_bytes()[..width]);
        }
        if !rest.is_empty() {
            rest.chunks_mut(first.len()).for_each(|again| again.copy_from_slice(&first[..again.len()]));
        }
    }

    /// Number of wrong elements of a stretch of output that lacks the inputs of some ranks: what would come from those alone may be
    /// anything.
    pub(crate) fn count_wrong(&self, piece: &Piece, output: &[u8], absent: &[u32]) -> u64 {
        match piece.source {
            Source::Copied { rank, .. } if absent.contains(&rank) => 0,
            Source::Copied { rank, start } => {
                self.compare(start, output, |lane, got| got == self.input_bits(rank, lane))
            }
            Source::Reduced { start } => match (self.op, Lane::of(self.dtype)) {
                (Some(BenchOp::Builtin(ReduceOp::Prod)), (Lane::Float(format), 2)) => {
                    self.compare(start, output, |lane, got| {
                        format.decode(got) == self.complex_product(lane / 2, absent)[lane as usize % 2]
                    })
                }
                (Some(op), (Lane::Float(format), _)) => self.compare(start, output, |lane, got| {
                    format.decode(got) == self.reduced_float(op, lane, absent)
                }),
                (Some(op), (lane_type, _)) => self
                    .compare(start, output, |lane, got| got == self.reduced_int(op, lane_type, lane, absent)),
                (None, _) => (output.len() / self.dtype.size()) as u64,
            },
        }
    }

    /// The number that `rank` multiplies its input with (operator mulsum), as bytes of the type.
    pub(crate) fn scalar(&self, rank: u32) -> [u8; 16] {
        let bits = match Lane::of(self.dtype).0 {
            Lane::Float(format) => format.encode(f64::from(scalar(rank))),
            _ => u64::from(scalar(rank)),
        };
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&bits.to_le_bytes());
        bytes
    }

    fn lane_bytes(&self) -> usize {
        match self.op {
            Some(_) => Lane::of(self.dtype).0.bytes(),
            None => self.dtype.size().min(8),
        }
    }

    /// Counts elements with a lane for which `right(lane, bits)` is false; `start` is in elements.
    fn compare(&self, start: usize, output: &[u8], right: impl Fn(u64, u64) -> bool) -> u64 {
        let (mut wrong, mut before, mut wrong_before) = (0, &output[..0], 0);
        for stretch in output.chunks(PERIOD as usize * self.lane_bytes()) {
            // What is as a period before is as right as that.
            let is_known =
                before.starts_with(stretch) && (wrong_before == 0 || stretch.len() == before.len());
            if !is_known {
                wrong_before = self.compare_each(start, stretch, &right);
            }
            // The next stretch begins at the same place of the period.
            (before, wrong) = (stretch, wrong + wrong_before);
        }
        wrong
    }

    /// The same for at most a period.
    fn compare_each(&self, start: usize, output: &[u8], right: impl Fn(u64, u64) -> bool) -> u64 {
        let (size, width) = (self.dtype.size(), self.lane_bytes());
        let per_element = (size / width) as u64;
        let mut first_lane = start as u64 * per_element % PERIOD;
        let mut wrong = 0;
        for element in output.chunks_exact(size) {
            let lanes = first_lane..first_lane + per_element;
            let mut parts = lanes.zip(element.chunks_exact(width));
            wrong += u64::from(!parts.all(|(lane, bytes)| right(lane, read_bits(bytes))));
            first_lane = (first_lane + per_element) % PERIOD;
        }
        wrong
    }

    /// The bits of one lane of a rank's input.
    fn input_bits(&self, rank: u32, lane: u64) -> u64 {
        let Some(op) = self.op else {
            let bits = truncate(self.hash(rank, lane), self.lane_bytes());
            return if self.dtype == DType::Bool { bits & 1 } else { bits };
        };
        match Lane::of(self.dtype) {
            (Lane::Float(format), 2) if op == BenchOp::Builtin(ReduceOp::Prod) => {
                format.encode(unit(self.hash(rank, lane / 2))[lane as usize % 2])
            }
            (Lane::Float(format), _) => format.encode(self.float_input(op, rank, lane)),
            (Lane::Int { bytes, signed }, _) => {
                truncate(self.int_input(op, bytes, signed, rank, lane), bytes)
            }
            (Lane::Bool, _) => u64::from(self.bool_input(op, rank, lane)),
        }
    }

    fn float_input(&self, op: BenchOp, rank: u32, lane: u64) -> f64 {
        let Lane::Float(format) = Lane::of(self.dtype).0 else { return 0.0 };
        let hash = self.hash(rank, lane);
        let limit = format.exact_limit();
        match op {
            BenchOp::Builtin(ReduceOp::Prod) => {
                let exponent = match self.place(rank, lane) < MAX_SCALED_FACTORS {
                    true => (hash >> 8) % 3,
                    false => 1,
                };
                let magnitude = [0.5, 1.0, 2.0][exponent as usize];
                if hash & 1 == 0 { magnitude } else { -magnitude }
            }
            BenchOp::Builtin(ReduceOp::Min | ReduceOp::Max) => within(hash, limit) as f64,
            BenchOp::MulSum => self.addend(hash, limit / 2, rank, lane) as f64,
            BenchOp::Builtin(_) => self.addend(hash, limit, rank, lane) as f64,
        }
    }

    /// A whole number such that all partial sums over the ranks stay within `limit`. With more ranks than
    /// that, only `limit` of them contribute to a lane, others to the next.
    fn addend(&self, hash: u64, limit: i64, rank: u32, lane: u64) -> i64 {
        let bound = (limit / i64::from(self.ranks)).max(1);
        match i64::from(self.place(rank, lane)) < limit / bound {
            true => within(hash, bound),
            false => 0,
        }
    }

    /// The ranks in an order that differs from lane to lane.
    fn place(&self, rank: u32, lane: u64) -> u32 {
        ((u64::from(rank) + lane) % u64::from(self.ranks)) as u32
    }

    fn int_input(&self, op: BenchOp, bytes: usize, signed: bool, rank: u32, lane: u64) -> u64 {
        let hash = self.hash(rank, lane);
        match op {
            BenchOp::Builtin(ReduceOp::Prod) => hash | 1,
            BenchOp::Builtin(ReduceOp::Avg) => {
                let largest = i64::MAX >> (64 - 8 * bytes);
                let value = within(hash, largest / i64::from(self.ranks));
                if signed { value as u64 } else { value.unsigned_abs() }
            }
            BenchOp::Builtin(ReduceOp::Band) => hash | hash.rotate_left(17),
            BenchOp::Builtin(ReduceOp::Bor) => hash & hash.rotate_left(17),
            _ => hash,
        }
    }

    fn bool_input(&self, op: BenchOp, rank: u32, lane: u64) -> bool {
        let hash = self.hash(rank, lane);
        let rare = hash.is_multiple_of(2 * u64::from(self.ranks));
        match op {
            BenchOp::Builtin(ReduceOp::Prod | ReduceOp::Min | ReduceOp::Band) => !rare,
            BenchOp::Builtin(ReduceOp::Sum | ReduceOp::Max | ReduceOp::Bor) => rare,
            _ => hash & 1 == 1,
        }
    }

    /// The ranks that are not among these.
    fn others(&self, absent: &[u32]) -> impl Iterator<Item = u32> + Clone {
        (0..self.ranks).filter(|rank| !absent.contains(rank))
    }

    fn reduced_float(&self, op: BenchOp, lane: u64, absent: &[u32]) -> f64 {
        let Lane::Float(format) = Lane::of(self.dtype).0 else { return f64::NAN };
        let inputs = self.others(absent).map(|rank| (rank, self.float_input(op, rank, lane)));
        let values = inputs.clone().map(|(_, value)| value);
        match op {
            BenchOp::MulSum => inputs.map(|(rank, value)| value * f64::from(scalar(rank))).sum(),
            BenchOp::Builtin(ReduceOp::Prod) => values.product(),
            BenchOp::Builtin(ReduceOp::Min) => values.fold(f64::INFINITY, f64::min),
            BenchOp::Builtin(ReduceOp::Max) => values.fold(f64::NEG_INFINITY, f64::max),
            BenchOp::Builtin(ReduceOp::Avg) => {
                let contributors = inputs.count() as u32;
                format.decode(format.encode(format.divide(values.sum(), contributors)))
            }
            BenchOp::Builtin(_) => values.sum(),
        }
    }

    /// A product of the units 1, i, -1, -i: their powers of i add up.
    fn complex_product(&self, element: u64, absent: &[u32]) -> [f64; 2] {
        unit(self.others(absent).map(|rank| self.hash(rank, element) & 3).sum())
    }

    fn reduced_int(&self, op: BenchOp, lane_type: Lane, lane: u64, absent: &[u32]) -> u64 {
        let (bytes, signed) = match lane_type {
            Lane::Int { bytes, signed } => (bytes, signed),
            _ => return u64::from(self.reduced_bool(op, lane, absent)),
        };
        let extend = |bits: u64| {
            let shift = 64 - 8 * bytes as u32;
            if signed {
                (((bits << shift) as i64) >> shift) as i128
            } else {
                i128::from(bits << shift >> shift)
            }
        };
        let value = |rank| extend(self.int_input(op, bytes, signed, rank, lane));
        let ranks = self.others(absent);
        let values = ranks.clone().map(value);
        let reduced = match op {
            BenchOp::MulSum => {
                ranks.map(|rank| value(rank) * i128::from(scalar(rank))).fold(0, i128::wrapping_add)
            }
            BenchOp::Builtin(ReduceOp::Sum) => values.sum(),
            BenchOp::Builtin(ReduceOp::Prod) => values.fold(1, i128::wrapping_mul),
            BenchOp::Builtin(ReduceOp::Min) => values.fold(i128::MAX, i128::min),
            BenchOp::Builtin(ReduceOp::Max) => values.fold(i128::MIN, i128::max),
            BenchOp::Builtin(ReduceOp::Avg) => values.sum::<i128>() / ranks.count().max(1) as i128,
            BenchOp::Builtin(ReduceOp::Band) => values.fold(-1, |a, b| a & b),
            BenchOp::Builtin(ReduceOp::Bor) => values.fold(0, |a, b| a | b),
            BenchOp::Builtin(ReduceOp::Bxor) => values.fold(0, |a, b| a ^ b),
        };
        truncate(reduced as u64, bytes)
    }

    fn reduced_bool(&self, op: BenchOp, lane: u64, absent: &[u32]) -> bool {
        let mut values = self.others(absent).map(|rank| self.bool_input(op, rank, lane));
        match op {
            BenchOp::Builtin(ReduceOp::Prod | ReduceOp::Min | ReduceOp::Band) => values.all(|v| v),
            BenchOp::Builtin(ReduceOp::Bxor) => values.fold(false, |a, b| a ^ b),
            _ => values.any(|v| v),
        }
    }

    /// Random bits for (seed, rank, lane): the finisher of splitmix64.
    fn hash(&self, rank: u32, lane: u64) -> u64 {
        let stream = self.seed ^ u64::from(rank + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mut z = stream.wrapping_add((lane + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn scalar(rank: u32) -> u32 {
    1 + rank % 2
}

/// A whole number from `-bound` to `bound`.
fn within(hash: u64, bound: i64) -> i64 {
    ((hash % (2 * bound as u64 + 1)) as i64).wrapping_sub(bound)
}

/// i to the power of `power`, as real and imaginary part.
fn unit(power: u64) -> [f64; 2] {
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]][power as usize & 3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::names::all_ops;

    fn contents(dtype: DType, op: Option<BenchOp>, ranks: u32) -> Contents {
        Contents { dtype, op, ranks, seed: 42 }
    }

    fn input(contents: &Contents, rank: u32, elements: usize) -> Vec<u8> {
        let mut bytes = vec![0xa5; elements * contents.dtype.size()];
        contents.fill(rank, &mut bytes);
        bytes
    }

    fn reduced(elements: usize) -> Piece {
        Piece { output: 0..elements, source: Source::Reduced { start: 0 } }
    }

    #[test]
    fn moved_vectors_are_checked_to_the_bit() {
        for dtype in DType::ALL {
            let contents = contents(dtype, None, 3);
            let mut bytes = input(&contents, 1, 57);
            let tail = Piece { output: 0..50, source: Source::Copied { rank: 1, start: 7 } };
            assert_eq!(contents.count_wrong(&tail, &bytes[7 * dtype.size()..], &[]), 0, "{dtype}");
            bytes[20 * dtype.size()] ^= 1;
            assert_eq!(contents.count_wrong(&tail, &bytes[7 * dtype.size()..], &[]), 1, "{dtype}");
            assert_ne!(input(&contents, 0, 57), input(&contents, 1, 57), "{dtype}");
        }
    }

    #[test]
    fn wrong_elements_are_found_in_every_period() {
        for (dtype, op) in [
            (DType::U8, None),
            (DType::C128, None),
            (DType::F32, Some(BenchOp::Builtin(ReduceOp::Sum))),
            (DType::C64, Some(BenchOp::Builtin(ReduceOp::Prod))),
        ] {
            let (contents, size) = (contents(dtype, op, 1), dtype.size());
            let period = PERIOD as usize * contents.lane_bytes() / size;
            let mut bytes = input(&contents, 0, 3 * period + 57);
            let of = |piece: usize, bytes: &[u8]| {
                let source = if op.is_some() {
                    Source::Reduced { start: piece }
                } else {
                    Source::Copied { rank: 0, start: piece }
                };
                contents.count_wrong(
                    &Piece { output: 0..bytes.len() / size - piece, source },
                    &bytes[piece * size..],
                    &[],
                )
            };
            assert_eq!((of(0, &bytes), of(3, &bytes), of(period - 1, &bytes)), (0, 0, 0), "{dtype}");
            // In the first period; in the second and the third alike; in the rest.
            for element in [7, period + 9, 2 * period + 9, 3 * period + 56] {
                bytes[element * size] ^= 1;
            }
            assert_eq!((of(0, &bytes), of(8, &bytes), of(2 * period, &bytes)), (4, 3, 2), "{dtype}");
            // A vector that is moved along by one is wrong nearly everywhere.
            let moved = Piece { output: 0..period, source: Source::Copied { rank: 0, start: 1 } };
            assert!(
                contents.count_wrong(&moved, &bytes[..period * size], &[]) as usize > period / 2,
                "{dtype}"
            );
        }
    }

    #[test]
    fn one_rank_reduces_to_itself() {
        for dtype in DType::ALL {
            for op in all_ops().filter(|op| op.supports(dtype)) {
                let contents = contents(dtype, Some(op), 1);
                let bytes = input(&contents, 0, 33);
                assert_eq!(contents.count_wrong(&reduced(33), &bytes, &[]), 0, "{dtype} {}", op.name());
            }
        }
    }

    #[test]
    fn sums_are_exact_in_the_type_in_every_order() {
        for (ranks, elements) in [(2, 999), (8, 999), (33, 99)] {
            let contents = contents(DType::F32, Some(BenchOp::Builtin(ReduceOp::Sum)), ranks);
            let inputs: Vec<Vec<f32>> = (0..ranks)
                .map(|rank| {
                    let bytes = input(&contents, rank, elements);
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                })
                .collect();
            assert!(inputs[1].iter().any(|v| *v < 0.0) && inputs[1].iter().any(|v| *v > 0.0));
            let sum = |order: &mut dyn Iterator<Item = u32>| -> Vec<u8> {
                let mut acc = vec![0f32; elements];
                for rank in order {
                    acc.iter_mut().zip(&inputs[rank as usize]).for_each(|(a, v)| *a += v);
                }
                acc.iter().flat_map(|v| v.to_le_bytes()).collect()
            };
            let mut upward = sum(&mut (0..ranks));
            assert_eq!(upward, sum(&mut (0..ranks).rev()));
            assert_eq!(contents.count_wrong(&reduced(elements), &upward, &[]), 0);
            upward[4] ^= 1;
            upward[400 - 8] ^= 1;
            assert_eq!(contents.count_wrong(&reduced(elements), &upward, &[]), 2);
        }
    }

    #[test]
    fn narrow_floats_never_leave_their_exact_range() {
        for dtype in [DType::F8E4M3, DType::F8E5M2, DType::F16, DType::Bf16] {
            let Lane::Float(format) = Lane::of(dtype).0 else { unreachable!() };
            for ranks in [1, 2, 5, 16, 100] {
                for op in [BenchOp::Builtin(ReduceOp::Sum), BenchOp::MulSum] {
                    let contents = contents(dtype, Some(op), ranks);
                    for lane in 0..200 {
                        let total: f64 = (0..ranks)
                            .map(|rank| {
                                let factor = if op == BenchOp::MulSum { scalar(rank) } else { 1 };
                                contents.float_input(op, rank, lane).abs() * f64::from(factor)
                            })
                            .sum();
                        assert!(total <= format.exact_limit() as f64, "{dtype} {ranks}: {total}");
                    }
                }
            }
        }
    }

    #[test]
    fn integers_wrap_and_averages_truncate_toward_zero() {
        let contents = contents(DType::I8, Some(BenchOp::Builtin(ReduceOp::Sum)), 3);
        let wrapped: Vec<u8> = (0..40)
            .map(|i| (0..3).fold(0u8, |acc, rank| acc.wrapping_add(input(&contents, rank, 40)[i])))
            .collect();
        assert_eq!(contents.count_wrong(&reduced(40), &wrapped, &[]), 0);
        let contents = Contents { op: Some(BenchOp::Builtin(ReduceOp::Avg)), ..contents };
        let averages: Vec<u8> = (0..40)
            .map(|i| {
                let sum: i32 = (0..3).map(|rank| i32::from(input(&contents, rank, 40)[i] as i8)).sum();
                (sum / 3) as u8
            })
            .collect();
        assert_eq!(contents.count_wrong(&reduced(40), &averages, &[]), 0);
        assert!(averages.iter().any(|v| *v > 127), "some averages are negative");
    }

    #[test]
    fn complex_products_follow_the_arithmetic() {
        let contents = contents(DType::C64, Some(BenchOp::Builtin(ReduceOp::Prod)), 5);
        let inputs: Vec<Vec<u8>> = (0..5).map(|rank| input(&contents, rank, 20)).collect();
        let part =
            |bytes: &[u8], at: usize| f32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
        let mut out = Vec::new();
        for i in 0..20 {
            let (mut re, mut im) = (1f32, 0f32);
            for bytes in &inputs {
                let (a, b) = (part(bytes, 2 * i), part(bytes, 2 * i + 1));
                (re, im) = (re * a - im * b, re * b + im * a);
            }
            out.extend(re.to_le_bytes());
            out.extend(im.to_le_bytes());
        }
        assert_eq!(contents.count_wrong(&reduced(20), &out, &[]), 0);
    }

    #[test]
    fn no_operator_hides_a_lost_contribution() {
        for dtype in DType::ALL {
            for op in all_ops().filter(|op| op.supports(dtype)) {
                let contents = contents(dtype, Some(op), 4);
                let one = input(&contents, 2, 256);
                let wrong = contents.count_wrong(&reduced(256), &one, &[]);
                assert!(wrong > 20, "{dtype} {}: only {wrong} of 256 differ", op.name());
            }
        }
    }

    #[test]
    fn a_contribution_that_is_known_to_be_lost_is_not_missed() {
        for dtype in DType::ALL {
            for op in all_ops().filter(|op| op.supports(dtype)) {
                let contents = contents(dtype, Some(op), 4);
                let one = input(&contents, 2, 256);
                // Of one rank the reduction is its input, but for the factor of mulsum, which is 1 for rank 2.
                assert_eq!(contents.count_wrong(&reduced(256), &one, &[0, 1, 3]), 0, "{dtype} {}", op.name());
                assert!(contents.count_wrong(&reduced(256), &one, &[0, 1]) > 0, "{dtype} {}", op.name());
            }
            let moved = contents(dtype, None, 4);
            let piece = |rank| Piece { output: 0..9, source: Source::Copied { rank, start: 0 } };
            let junk = vec![0xa5; 9 * dtype.size()];
            assert_eq!(moved.count_wrong(&piece(1), &junk, &[1]), 0, "{dtype}");
            assert!(moved.count_wrong(&piece(2), &junk, &[1]) > 0, "{dtype}");
        }
    }
}
