//! 8- and 16-bit floats: exact into `f32`, back with round to nearest even. Written without branches
//! where it matters, so that loops over them become vector code.

use super::lanes::{Lane, Multiplies};

/// IEEE binary16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16(u16);

/// bfloat16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16(u16);

/// OCP E4M3: no infinities, one NaN per sign.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F8E4M3(u8);

/// OCP E5M2: as binary16 with 2 bits of fraction.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F8E5M2(u8);

/// Picks without a branch.
#[inline(always)]
fn select(condition: bool, yes: u32, no: u32) -> u32 {
    let mask = 0u32.wrapping_sub(u32::from(condition));
    (yes & mask) | (no & !mask)
}

#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // As if the exponent had f32's bias; 2^112 makes up for it, also for subnormals.
    let value = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = select(magnitude >= 0x7c00 << 13, magnitude | 0x7f80_0000, value);
    f32::from_bits(special | u32::from(bits & 0x8000) << 16)
}

#[inline(always)]
fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    // Normal range: rebias, then round to even by adding what carries.
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    // Subnormal range: adding 2^-1 leaves the rounded fraction in the low bits.
    let half = 0.5f32;
    let subnormal = (f32::from_bits(magnitude) + half).to_bits().wrapping_sub(half.to_bits());
    let finite = select(magnitude < 113 << 23, subnormal, normal);
    let nan = 0x7e00 | (magnitude >> 13 & 0x1ff);
    let overflow = select(magnitude > 0x7f80_0000, nan, 0x7c00);
    (select(magnitude >= 143 << 23, overflow, finite.min(0x7c00)) | sign) as u16
}

#[inline(always)]
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding a NaN could make it an infinity: keep it, quiet.
    select(bits & 0x7fff_ffff > 0x7f80_0000, bits >> 16 | 0x40, rounded) as u16
}

#[inline(always)]
fn e5m2_to_f32(bits: u8) -> f32 {
    f16_to_f32(u16::from(bits) << 8)
}

#[inline(always)]
fn f32_to_e5m2(value: f32) -> u8 {
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let finite = small_float::<2, 15>(magnitude).min(0x7c);
    select(magnitude > 0x7f80_0000, 0x7f, finite) as u8 | (value.to_bits() >> 24 & 0x80) as u8
}

#[inline(always)]
fn e4m3_to_f32(bits: u8) -> f32 {
    let magnitude = u32::from(bits & 0x7f) << 20;
    let value = (f32::from_bits(magnitude) * f32::from_bits((127 + 120) << 23)).to_bits();
    let special = select(bits & 0x7f == 0x7f, 0x7fc0_0000, value);
    f32::from_bits(special | u32::from(bits & 0x80) << 24)
}

#[inline(always)]
fn f32_to_e4m3(value: f32) -> u8 {
    let magnitude = value.to_bits() & 0x7fff_ffff;
    // 0x7e is the largest value; what would round above it has no representation but NaN.
    let finite = small_float::<3, 7>(magnitude).min(0x7f);
    select(magnitude > 0x7f80_0000, 0x7f, finite) as u8 | (value.to_bits() >> 24 & 0x80) as u8
}

/// Rounds the bits of a magnitude to a float of so many bits of fraction and this bias, to nearest even. What
/// is too large gives a number above those of the format.
#[inline(always)]
fn small_float<const FRACTION: u32, const BIAS: u32>(magnitude: u32) -> u32 {
    let shift = 23 - FRACTION;
    let least_normal = (128 - BIAS) << 23;
    // As for binary16.
    let odd = magnitude >> shift & 1;
    let below_half = (1 << (shift - 1)) - 1;
    // No more than this, so that nothing wraps around.
    let bounded = magnitude.min(0x7f80_0000);
    let normal = bounded.wrapping_sub((127 - BIAS) << 23).wrapping_add(below_half + odd) >> shift;
    // A number whose last place is the smallest subnormal: adding it rounds to a multiple of that.
    let rounder = f32::from_bits((127 + 23 + 1 - BIAS - FRACTION) << 23);
    let subnormal = (f32::from_bits(magnitude) + rounder).to_bits().wrapping_sub(rounder.to_bits());
    select(magnitude < least_normal, subnormal, normal)
}

macro_rules! narrow {
    ($($t:ident: $bits:ty, $to:ident, $from:ident);*) => { $(
        impl Lane for $t {
            type Acc = f32;
            #[inline(always)]
            fn widen(self) -> f32 {
                $to(self.0)
            }
            #[inline(always)]
            fn narrow(acc: f32) -> $t {
                $t($from(acc))
            }
            #[inline(always)]
            fn divide(acc: f32, by: f64) -> f32 {
                acc / by as f32
            }
        }
        impl Multiplies for $t {
            #[inline(always)]
            fn multiply(a: f32, b: f32) -> f32 {
                a * b
            }
        }
    )* };
}
narrow!(F16: u16, f16_to_f32, f32_to_f16; Bf16: u16, bf16_to_f32, f32_to_bf16;
        F8E4M3: u8, e4m3_to_f32, f32_to_e4m3; F8E5M2: u8, e5m2_to_f32, f32_to_e5m2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around every boundary of the 16-bit formats, and many between.
    fn values() -> impl Iterator<Item = f32> {
        let near = |bits: u32| (0..5).map(move |d| bits.wrapping_add(d).wrapping_sub(2));
        let all16 = (0..=u16::MAX).flat_map(move |h| near(half::f16::from_bits(h).to_f32().to_bits()));
        let midpoints = (0..=u16::MAX).flat_map(move |h| near((u32::from(h) << 16) + 0x8000));
        let spread = (0..200_000u32).map(|i| i.wrapping_mul(0x9e37_79b9));
        all16.chain(midpoints).chain(spread).map(f32::from_bits)
    }

    #[test]
    fn binary16_agrees_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
        for value in values() {
            let (ours, theirs) = (f32_to_f16(value), half::f16::from_f32(value));
            let nan = half::f16::from_bits(ours).is_nan() && theirs.is_nan();
            assert!(ours == theirs.to_bits() || nan, "{value:e}: {ours:#x} {:#x}", theirs.to_bits());
        }
    }

    #[test]
    fn bfloat16_agrees_with_the_half_crate() {
        for value in values() {
            let (ours, theirs) = (f32_to_bf16(value), half::bf16::from_f32(value));
            let nan = half::bf16::from_bits(ours).is_nan() && theirs.is_nan();
            assert!(ours == theirs.to_bits() || nan, "{value:e}: {ours:#x} {:#x}", theirs.to_bits());
        }
    }

    /// Every value of an 8-bit format comes back, and what lies between goes to the nearest, ties to even.
    fn check_8_bits(to: fn(u8) -> f32, from: fn(f32) -> u8, largest: u8) {
        for bits in 0..=largest {
            let value = to(bits);
            assert_eq!(from(value), bits);
            assert_eq!(from(-value), bits | 0x80);
            if bits < largest {
                let next = to(bits + 1);
                let middle = (value + next) / 2.0;
                assert_eq!(from(middle), bits + (bits & 1), "tie between {value} and {next}");
                assert_eq!(from(middle.next_up()), bits + 1);
                assert_eq!(from(middle.next_down()), bits);
            }
        }
    }

    #[test]
    fn e4m3() {
        check_8_bits(e4m3_to_f32, f32_to_e4m3, 0x7e);
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
        for overflow in [465.0, f32::INFINITY, f32::NAN] {
            assert_eq!(f32_to_e4m3(overflow) & 0x7f, 0x7f);
        }
        assert!(e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn e5m2() {
        check_8_bits(e5m2_to_f32, f32_to_e5m2, 0x7b);
        assert_eq!(e5m2_to_f32(0x7b), 57344.0);
        assert_eq!(f32_to_e5m2(61440.0), 0x7c);
        assert_eq!(f32_to_e5m2(f32::NEG_INFINITY), 0xfc);
        assert!(e5m2_to_f32(f32_to_e5m2(f32::NAN)).is_nan());
    }
}
