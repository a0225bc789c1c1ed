//! Elements of every type, and what a reduction of them has to give.
//!
//! Elements are bits at random: integers of any size, so that sums and products wrap; floats of both signs and of sizes that
//! matter to each other, with NaNs, infinities, zeros of both signs and the least ones among them. The oracle takes the
//! formats apart itself and computes in `f64`, so what it says of a rounded result is an interval.

use ronde::{DType, ReduceOp};

/// The elements of a vector repeat after so many: a prime, so that no piece that is at a wrong place looks right.
pub(crate) const PERIOD: usize = 1021;

/// A number that follows from these.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A binary floating-point format: the bits of exponent and fraction.
#[derive(Clone, Copy)]
struct Format {
    dtype: DType,
    exponent: u32,
    fraction: u32,
}

impl Format {
    /// That of a float, or of one part of a complex number.
    fn of(dtype: DType) -> Option<Format> {
        use DType::*;
        let (exponent, fraction) = match dtype {
            F16 => (5, 10),
            Bf16 => (8, 7),
            F32 | C64 => (8, 23),
            F64 | C128 => (11, 52),
            F8E4M3 => (4, 3),
            F8E5M2 => (5, 2),
            _ => return None,
        };
        Some(Format { dtype, exponent, fraction })
    }

    fn bytes(self) -> usize {
        (1 + self.exponent + self.fraction) as usize / 8
    }

    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The smallest number above 0.
    fn least(self) -> f64 {
        2f64.powi(1 - self.bias()) * (self.roundoff() * 2.0)
    }

    /// The largest error of one rounding, relative to the result.
    fn roundoff(self) -> f64 {
        2f64.powi(-1 - self.fraction as i32)
    }

    fn join(self, negative: bool, exponent: u64, fraction: u64) -> Vec<u8> {
        let fraction = fraction & ((1 << self.fraction) - 1);
        let bits = (u64::from(negative) << self.exponent | exponent) << self.fraction | fraction;
        bits.to_le_bytes()[..self.bytes()].to_vec()
    }

    fn value(self, bytes: &[u8]) -> f64 {
        let bits = word(bytes);
        let fraction = bits & ((1 << self.fraction) - 1);
        let most = (1u64 << self.exponent) - 1;
        let exponent = bits >> self.fraction & most;
        let part = fraction as f64 / 2f64.powi(self.fraction as i32);
        // E4M3 has no infinities, and one NaN of each sign.
        let is_e4m3 = self.dtype == DType::F8E4M3;
        let magnitude = match exponent {
            0 => part * 2f64.powi(1 - self.bias()),
            e if e == most && is_e4m3 && fraction == 7 => f64::NAN,
            e if e == most && !is_e4m3 && fraction == 0 => f64::INFINITY,
            e if e == most && !is_e4m3 => f64::NAN,
            e => (1.0 + part) * 2f64.powi(e as i32 - self.bias()),
        };
        let negative = bits >> (self.exponent + self.fraction) & 1 == 1;
        if negative { -magnitude } else { magnitude }
    }

    /// Below 2, so that no sum overflows; as a factor at least a half, so that no product vanishes.
    fn draw(self, factor: bool, random: u64) -> Vec<u8> {
        let (negative, random) = (random & 1 == 1, random >> 1);
        let spread = if factor { 2 } else { (u64::from(self.fraction) + 3).min(self.bias() as u64 - 1) };
        self.join(negative, self.bias() as u64 - random % spread, random >> 9)
    }

    /// What is no usual number. The least one as a factor would be lost in some order of the others and not in another.
    fn draw_special(self, factor: bool, random: u64) -> Vec<u8> {
        let (negative, most) = (random & 1 == 1, (1 << self.exponent) - 1);
        match random >> 1 & 7 {
            0 => self.join(negative, most, u64::MAX),
            // Another NaN, where there are several.
            1 if self.fraction > 3 => self.join(negative, most, random >> 4 | 1 << (self.fraction - 1)),
            2 | 3 if self.dtype != DType::F8E4M3 => self.join(negative, most, 0),
            4 if !factor => self.join(negative, 0, 1),
            _ => self.join(negative, 0, 0),
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// An element of an input. What is only moved may be any bits.
pub(crate) fn element(dtype: DType, op: Option<ReduceOp>, random: u64) -> Vec<u8> {
    let words = [random, mix(random, 1)];
    let (Some(op), Some(format)) = (op, Format::of(dtype)) else {
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| word.to_le_bytes()).take(dtype.size()).collect();
        if dtype == DType::Bool && random >> 32 & 1 == 0 {
            bytes.fill(0);
        }
        return bytes;
    };
    let product = op == ReduceOp::Prod;
    let part = |random: u64| match random >> 60 {
        // Complex products of what is not finite are what the formula gives, of which IEEE 754 says nothing.
        0 if !(product && dtype.is_complex()) => format.draw_special(product, random),
        _ => format.draw(product, random),
    };
    words.into_iter().take(dtype.size() / format.bytes()).flat_map(part).collect()
}

/// What a reduced element has to be.
pub(crate) enum Wanted {
    /// These bytes.
    Exactly(Vec<u8>),
    /// For each part of a number the value and how far from it one may be.
    Near(Vec<(f64, f64)>),
}

/// How a result has been rounded: in each step, or once after steps in `f32`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Each,
    Once,
}

/// What the reduction of these elements, one of each rank, has to be.
pub(crate) fn reduce(dtype: DType, op: ReduceOp, elements: &[&[u8]], rounding: Rounding) -> Wanted {
    match Format::of(dtype) {
        Some(format) if dtype.is_complex() => reduce_complex(format, op, elements),
        Some(format) if matches!(op, ReduceOp::Min | ReduceOp::Max) => extreme(format, op, elements),
        Some(format) => Wanted::Near(vec![reduce_floats(format, op, elements, rounding)]),
        None if dtype == DType::Bool => Wanted::Exactly(vec![u8::from(reduce_truths(op, elements))]),
        None => Wanted::Exactly(reduce_integers(dtype, op, elements)),
    }
}

fn reduce_truths(op: ReduceOp, elements: &[&[u8]]) -> bool {
    let mut truths = elements.iter().map(|bytes| bytes[0] != 0);
    match op {
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::Bor => truths.any(|truth| truth),
        ReduceOp::Bxor => truths.filter(|truth| *truth).count() % 2 == 1,
        _ => truths.all(|truth| truth),
    }
}

fn integer(dtype: DType, bytes: &[u8]) -> i128 {
    use DType::*;
    let unused = 64 - 8 * dtype.size() as u32;
    match dtype {
        I8 | I16 | I32 | I64 => i128::from((word(bytes) << unused) as i64 >> unused),
        _ => i128::from(word(bytes)),
    }
}

fn reduce_integers(dtype: DType, op: ReduceOp, elements: &[&[u8]]) -> Vec<u8> {
    let values = elements.iter().map(|bytes| integer(dtype, bytes));
    let wrapped = |value: i128| value.to_le_bytes()[..dtype.size()].to_vec();
    let result = match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Avg => integer(dtype, &wrapped(values.sum())) / elements.len() as i128,
        ReduceOp::Prod => values.fold(1, i128::wrapping_mul),
        ReduceOp::Min => values.min().unwrap_or(0),
        ReduceOp::Max => values.max().unwrap_or(0),
        ReduceOp::Band => values.fold(-1, |a, b| a & b),
        ReduceOp::Bor => values.fold(0, |a, b| a | b),
        ReduceOp::Bxor => values.fold(0, |a, b| a ^ b),
    };
    wrapped(result)
}

/// The least or greatest: -0 is below +0, and a NaN anywhere gives a NaN.
fn extreme(format: Format, op: ReduceOp, elements: &[&[u8]]) -> Wanted {
    let value = |bytes: &&&[u8]| format.value(bytes);
    if elements.iter().any(|bytes| format.value(bytes).is_nan()) {
        return Wanted::Near(vec![(f64::NAN, 0.0)]);
    }
    let order = |a: &&&[u8], b: &&&[u8]| value(a).total_cmp(&value(b));
    let of = elements.iter();
    let found = if op == ReduceOp::Min { of.min_by(order) } else { of.max_by(order) };
    Wanted::Exactly(found.expect("one rank at least").to_vec())
}

/// The value and how far off it a result may be, which grows with the number of ranks.
fn reduce_floats(format: Format, op: ReduceOp, elements: &[&[u8]], rounding: Rounding) -> (f64, f64) {
    let values: Vec<f64> = elements.iter().map(|bytes| format.value(bytes)).collect();
    let ranks = values.len() as f64;
    let (value, size) = match op {
        ReduceOp::Prod => {
            let product: f64 = values.iter().product();
            (product, product.abs())
        }
        _ => (values.iter().sum(), values.iter().map(|value| value.abs()).sum()),
    };
    let parts = if op == ReduceOp::Avg { ranks } else { 1.0 };
    let steps = 2.0 * ranks * if rounding == Rounding::Once { 2f64.powi(-24) } else { format.roundoff() };
    let once = if rounding == Rounding::Once { format.roundoff() * value.abs() } else { 0.0 };
    (value / parts, (steps * size + once) / parts + least_error(format, op, elements.len()))
}

/// Results near 0 are as far from each other as the least numbers, and factors make that more.
fn least_error(format: Format, op: ReduceOp, ranks: usize) -> f64 {
    let factors = if op == ReduceOp::Prod { 2f64.powi(2 * ranks as i32) } else { 1.0 };
    format.least() * factors * ranks as f64
}

fn reduce_complex(format: Format, op: ReduceOp, elements: &[&[u8]]) -> Wanted {
    let half = format.bytes();
    if op != ReduceOp::Prod {
        let part = |at: usize| {
            let parts: Vec<&[u8]> = elements.iter().map(|bytes| &bytes[at..at + half]).collect();
            reduce_floats(format, op, &parts, Rounding::Each)
        };
        return Wanted::Near(vec![part(0), part(half)]);
    }
    let (mut re, mut im, mut size) = (1.0, 0.0, 1.0);
    for bytes in elements {
        let (c, d) = (format.value(&bytes[..half]), format.value(&bytes[half..]));
        (re, im) = (re * c - im * d, re * d + im * c);
        size *= c.hypot(d);
    }
    let slack = 4.0 * elements.len() as f64 * format.roundoff() * size;
    let slack = slack + least_error(format, op, elements.len());
    Wanted::Near(vec![(re, slack), (im, slack)])
}

impl Wanted {
    /// Whether an element is what it has to be.
    pub(crate) fn is_met(&self, dtype: DType, got: &[u8]) -> bool {
        let parts = match self {
            Wanted::Exactly(bytes) => return got == bytes,
            Wanted::Near(parts) => parts,
        };
        let Some(format) = Format::of(dtype) else { return false };
        parts.iter().zip(got.chunks(format.bytes())).all(|(&(wanted, slack), bytes)| {
            let got = format.value(bytes);
            if wanted.is_finite() {
                (got - wanted).abs() <= slack
            } else {
                got == wanted || got.is_nan() && wanted.is_nan()
            }
        })
    }

    /// For a failure's text.
    pub(crate) fn text(&self) -> String {
        match self {
            Wanted::Exactly(bytes) => format!("{bytes:x?}"),
            Wanted::Near(parts) => format!("{parts:?} (value and slack)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// The oracle reads the formats as those who define them do.
    #[test]
    fn formats() {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let value = |dtype| Format::of(dtype).unwrap().value(&bytes);
            assert!(same(value(DType::F16), f16::from_bits(bits).to_f64()), "{bits:#x}");
            assert!(same(value(DType::Bf16), bf16::from_bits(bits).to_f64()), "{bits:#x}");
        }
        for i in 0..10_000 {
            let bits = mix(3, i);
            let bytes = bits.to_le_bytes();
            let value = |dtype, len: usize| Format::of(dtype).unwrap().value(&bytes[..len]);
            assert!(same(value(DType::F64, 8), f64::from_bits(bits)), "{bits:#x}");
            assert!(same(value(DType::F32, 4), f64::from(f32::from_bits(bits as u32))), "{bits:#x}");
        }
        let eight = |dtype, byte: u8| Format::of(dtype).unwrap().value(&[byte]);
        assert_eq!([0x7e, 0xb8, 0x01].map(|byte| eight(DType::F8E4M3, byte)), [448.0, -1.0, 0.001953125]);
        assert_eq!(
            [0x7b, 0xbc, 0xfc].map(|byte| eight(DType::F8E5M2, byte)),
            [57344.0, -1.0, -f64::INFINITY]
        );
        assert!(eight(DType::F8E4M3, 0xff).is_nan() && eight(DType::F8E5M2, 0x7d).is_nan());
    }
}
