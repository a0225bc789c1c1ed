//! Numbers as bits: how each element type stores a value.

use half::{bf16, f16};
use ronde::DType;

/// A floating-point format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    F8E4M3,
    F8E5M2,
    F16,
    Bf16,
    F32,
    F64,
}

/// How an element is made of lanes: parts that are numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    Int { bytes: usize, signed: bool },
    Float(Format),
    Bool,
}

impl Lane {
    /// The lanes of a type: one, or two of a complex number.
    pub(crate) fn of(dtype: DType) -> (Lane, usize) {
        let float = |format| (Lane::Float(format), 1);
        match dtype {
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => {
                (Lane::Int { bytes: dtype.size(), signed: true }, 1)
            }
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                (Lane::Int { bytes: dtype.size(), signed: false }, 1)
            }
            DType::Bool => (Lane::Bool, 1),
            DType::F8E4M3 => float(Format::F8E4M3),
            DType::F8E5M2 => float(Format::F8E5M2),
            DType::F16 => float(Format::F16),
            DType::Bf16 => float(Format::Bf16),
            DType::F32 => float(Format::F32),
            DType::F64 => float(Format::F64),
            DType::C64 => (Lane::Float(Format::F32), 2),
            DType::C128 => (Lane::Float(Format::F64), 2),
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Lane::Int { bytes, .. } => bytes,
            Lane::Float(format) => format.bytes(),
            Lane::Bool => 1,
        }
    }
}

impl Format {
    fn bytes(self) -> usize {
        match self {
            Format::F8E4M3 | Format::F8E5M2 => 1,
            Format::F16 | Format::Bf16 => 2,
            Format::F32 => 4,
            Format::F64 => 8,
        }
    }

    /// All whole numbers up to this one are exact.
    pub(crate) fn exact_limit(self) -> i64 {
        match self {
            Format::F8E4M3 => 1 << 4,
            Format::F8E5M2 => 1 << 3,
            Format::F16 => 1 << 11,
            Format::Bf16 => 1 << 8,
            Format::F32 => 1 << 24,
            Format::F64 => 1 << 53,
        }
    }

    /// The nearest number of the format, ties to even. Finite and in range.
    pub(crate) fn encode(self, value: f64) -> u64 {
        match self {
            Format::F8E4M3 => encode_small(value, decode_e4m3, 0x7e),
            Format::F8E5M2 => encode_small(value, decode_e5m2, 0x7b),
            Format::F16 => u64::from(f16::from_f64(value).to_bits()),
            Format::Bf16 => u64::from(bf16::from_f64(value).to_bits()),
            Format::F32 => u64::from((value as f32).to_bits()),
            Format::F64 => value.to_bits(),
        }
    }

    pub(crate) fn decode(self, bits: u64) -> f64 {
        match self {
            Format::F8E4M3 => decode_e4m3(bits as u8),
            Format::F8E5M2 => decode_e5m2(bits as u8),
            Format::F16 => f16::from_bits(bits as u16).to_f64(),
            Format::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Format::F32 => f64::from(f32::from_bits(bits as u32)),
            Format::F64 => f64::from_bits(bits),
        }
    }

    /// `sum / n` as the library defines an average: one division in `f32` (`f64` for `f64`), then one
    /// rounding to the format.
    pub(crate) fn divide(self, sum: f64, n: u32) -> f64 {
        match self {
            Format::F64 => sum / f64::from(n),
            _ => f64::from(sum as f32 / n as f32),
        }
    }
}

fn decode_e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (code >> 3 & 15, f64::from(code & 7));
    let magnitude = match exponent {
        15 if code & 7 == 7 => f64::NAN,
        0 => mantissa / 8.0 * 2f64.powi(-6),
        e => (1.0 + mantissa / 8.0) * 2f64.powi(i32::from(e) - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn decode_e5m2(code: u8) -> f64 {
    let (exponent, mantissa) = (code >> 2 & 31, f64::from(code & 3));
    let magnitude = match exponent {
        31 if code & 3 == 0 => f64::INFINITY,
        31 => f64::NAN,
        0 => mantissa / 4.0 * 2f64.powi(-14),
        e => (1.0 + mantissa / 4.0) * 2f64.powi(i32::from(e) - 15),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The code whose value is nearest: codes from 0 to `largest` have ascending values.
fn encode_small(value: f64, decode: fn(u8) -> f64, largest: u8) -> u64 {
    let magnitude = value.abs();
    let (mut low, mut high) = (0u8, largest);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if decode(middle) <= magnitude { low = middle } else { high = middle }
    }
    let (below, above) = (magnitude - decode(low), decode(high) - magnitude);
    let code = match below.total_cmp(&above) {
        std::cmp::Ordering::Less => low,
        std::cmp::Ordering::Greater => high,
        std::cmp::Ordering::Equal => low + (low & 1),
    };
    u64::from(code) | if value.is_sign_negative() { 0x80 } else { 0 }
}

/// Reads up to 8 bytes, little endian (as every supported machine stores numbers).
pub(crate) fn read_bits(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The lowest `bytes` bytes of `bits`.
pub(crate) fn truncate(bits: u64, bytes: usize) -> u64 {
    if bytes == 8 { bits } else { bits & ((1 << (8 * bytes)) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_round_trip() {
        for (format, largest) in [(Format::F8E4M3, 0x7eu64), (Format::F8E5M2, 0x7b)] {
            for code in 0..=largest {
                for sign in [0, 0x80] {
                    assert_eq!(format.encode(format.decode(code | sign)), code | sign, "{format:?}");
                }
            }
        }
    }

    #[test]
    fn known_codes() {
        assert_eq!(Format::F8E4M3.encode(1.0), 0x38);
        assert_eq!(Format::F8E4M3.encode(448.0), 0x7e);
        assert_eq!(Format::F8E5M2.encode(1.0), 0x3c);
        assert_eq!(Format::F8E5M2.encode(-57344.0), 0xfb);
        assert_eq!(Format::F8E4M3.encode(17.0), Format::F8E4M3.encode(16.0), "ties go to even");
        assert_eq!(Format::F8E4M3.encode(19.0), Format::F8E4M3.encode(20.0), "ties go to even");
        assert_eq!(Format::F16.encode(1.0), 0x3c00);
        assert_eq!(Format::Bf16.encode(-2.0), 0xc000);
        assert_eq!(Format::F32.encode(1.0), 0x3f80_0000);
    }

    #[test]
    fn whole_numbers_are_exact_up_to_the_limit() {
        for format in [Format::F8E4M3, Format::F8E5M2, Format::F16, Format::Bf16, Format::F32] {
            let limit = format.exact_limit();
            for n in (1..=limit.min(2048)).chain([limit - 1, limit]) {
                assert_eq!(format.decode(format.encode(n as f64)), n as f64, "{format:?}");
            }
            assert_ne!(format.decode(format.encode((limit + 1) as f64)), (limit + 1) as f64);
        }
    }
}
