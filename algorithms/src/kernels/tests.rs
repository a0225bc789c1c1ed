//! Kernels against an oracle that computes one element at a time in the simplest way.

use super::{CpuKernels, Level};
use half::{bf16, f16};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::memory::{Access, Arena};
use ronde_core::reduce::{Kernels, ReduceSpec, Reduction, UserReduce};
use ronde_core::{DType, ReduceOp, Segment};
use std::sync::Arc;

/// One element as the oracle sees it.
#[derive(Clone, Copy)]
enum Value {
    Int(i128),
    Float(f64),
    Complex(f64, f64),
}

fn decode(dtype: DType, b: &[u8]) -> Value {
    let word = b.iter().rev().take(8).fold(0u64, |w, &x| w << 8 | u64::from(x));
    match dtype {
        DType::I8 => Value::Int((word as i8).into()),
        DType::I16 => Value::Int((word as i16).into()),
        DType::I32 => Value::Int((word as i32).into()),
        DType::I64 => Value::Int((word as i64).into()),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => Value::Int(word.into()),
        DType::Bool => Value::Int((word != 0).into()),
        DType::F16 => Value::Float(f16::from_bits(word as u16).to_f64()),
        DType::Bf16 => Value::Float(bf16::from_bits(word as u16).to_f64()),
        DType::F32 => Value::Float(f32::from_bits(word as u32).into()),
        DType::F64 => Value::Float(f64::from_bits(word)),
        DType::C64 => Value::Complex(
            f32::from_le_bytes(b[..4].try_into().unwrap()).into(),
            f32::from_le_bytes(b[4..].try_into().unwrap()).into(),
        ),
        DType::C128 => Value::Complex(
            f64::from_le_bytes(b[..8].try_into().unwrap()),
            f64::from_le_bytes(b[8..].try_into().unwrap()),
        ),
        DType::F8E4M3 | DType::F8E5M2 => unreachable!("checked in `narrow`"),
    }
}

fn encode(dtype: DType, value: Value) -> Vec<u8> {
    match (dtype, value) {
        (DType::F16, Value::Float(x)) => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        (DType::Bf16, Value::Float(x)) => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
        (DType::F32, Value::Float(x)) => (x as f32).to_le_bytes().to_vec(),
        (_, Value::Float(x)) => x.to_le_bytes().to_vec(),
        (DType::C64, Value::Complex(re, im)) => {
            [(re as f32).to_le_bytes(), (im as f32).to_le_bytes()].concat()
        }
        (_, Value::Complex(re, im)) => [re.to_le_bytes(), im.to_le_bytes()].concat(),
        (_, Value::Int(i)) => i.to_le_bytes()[..dtype.size()].to_vec(),
    }
}

/// Rounds as the accumulator of the type does: everything but `f64` works in `f32`.
fn round(dtype: DType, x: f64) -> f64 {
    if matches!(dtype, DType::F64 | DType::C128) { x } else { f64::from(x as f32) }
}

fn combine(dtype: DType, op: ReduceOp, a: Value, b: Value) -> Value {
    let r = |x: f64| round(dtype, x);
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => {
            let boolean = dtype == DType::Bool;
            let wrapped = match op {
                ReduceOp::Sum if boolean => a | b,
                ReduceOp::Sum | ReduceOp::Avg => a + b,
                ReduceOp::Prod => a.wrapping_mul(b),
                ReduceOp::Min => a.min(b),
                ReduceOp::Max => a.max(b),
                ReduceOp::Band => a & b,
                ReduceOp::Bor => a | b,
                ReduceOp::Bxor => a ^ b,
            };
            decode(dtype, &encode(dtype, Value::Int(wrapped)))
        }
        (Value::Float(a), Value::Float(b)) => Value::Float(match op {
            ReduceOp::Sum | ReduceOp::Avg => r(a + b),
            ReduceOp::Prod => r(a * b),
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            ReduceOp::Min if a == b => {
                if a.is_sign_negative() {
                    a
                } else {
                    b
                }
            }
            ReduceOp::Max if a == b => {
                if a.is_sign_positive() {
                    a
                } else {
                    b
                }
            }
            ReduceOp::Min => a.min(b),
            _ => a.max(b),
        }),
        (Value::Complex(a, b), Value::Complex(c, d)) => match op {
            ReduceOp::Prod => Value::Complex(r(r(a * c) - r(b * d)), r(r(a * d) + r(b * c))),
            _ => Value::Complex(r(a + c), r(b + d)),
        },
        _ => unreachable!("one type"),
    }
}

fn divide(dtype: DType, value: Value, n: u64) -> Value {
    match value {
        Value::Int(a) => Value::Int(a / i128::from(n)),
        Value::Float(a) => Value::Float(round(dtype, a / n as f64)),
        Value::Complex(a, b) => Value::Complex(round(dtype, a / n as f64), round(dtype, b / n as f64)),
    }
}

fn oracle(dtype: DType, op: ReduceOp, sources: &[Vec<u8>], finish: Option<f64>) -> Vec<u8> {
    let size = dtype.size();
    let count = sources[0].len() / size;
    let element = |s: &Vec<u8>, i: usize| decode(dtype, &s[i * size..(i + 1) * size]);
    (0..count)
        .flat_map(|i| {
            let first = element(&sources[0], i);
            let mut value = sources[1..].iter().fold(first, |a, s| combine(dtype, op, a, element(s, i)));
            if let (ReduceOp::Avg, Some(n)) = (op, finish) {
                value = divide(dtype, value, n as u64);
            }
            encode(dtype, value)
        })
        .collect()
}

/// Random elements, special ones among them.
fn random(dtype: DType, count: usize, rng: &mut SmallRng) -> Vec<u8> {
    let special = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-310, 6e-8, 65504.0];
    let float = |rng: &mut SmallRng| match rng.random_range(0..8) {
        0 => special[rng.random_range(0..special.len())],
        _ => rng.random_range(-1.0..1.0) * 10f64.powi(rng.random_range(-3..4)),
    };
    (0..count)
        .flat_map(|_| match dtype {
            DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => encode(dtype, Value::Float(float(rng))),
            DType::C64 | DType::C128 => {
                encode(dtype, Value::Complex(rng.random_range(-9.0..9.0), rng.random_range(-9.0..9.0)))
            }
            _ => (0..dtype.size()).map(|_| rng.random()).collect(),
        })
        .collect()
}

fn same(dtype: DType, a: &[u8], b: &[u8]) -> bool {
    // Any NaN equals any other; all else must agree to the bit.
    a.chunks(dtype.size()).zip(b.chunks(dtype.size())).all(|(a, b)| {
        a == b
            || match (decode(dtype, a), decode(dtype, b)) {
                (Value::Float(x), Value::Float(y)) => x.is_nan() && y.is_nan(),
                _ => false,
            }
    })
}

/// Segments at odd addresses with these bytes.
fn place(bytes: &[u8], offset: usize) -> (Arena, Segment) {
    let arena = Arena::new(bytes.len() + 64);
    let segment = arena.segment(offset, bytes.len());
    segment.fill_from(bytes);
    (arena, segment)
}

fn check(level: Level, dtype: DType, op: ReduceOp, n: usize, count: usize, rng: &mut SmallRng) {
    let Some(kernels) = CpuKernels::with_level(level) else { return };
    let sources: Vec<Vec<u8>> = (0..n).map(|_| random(dtype, count, rng)).collect();
    let finish = rng.random::<bool>().then_some(n as f64);
    let expected = oracle(dtype, op, &sources, finish);
    let placed: Vec<_> = sources.iter().map(|s| place(s, rng.random_range(0..17))).collect();
    let segments: Vec<Segment> = placed.iter().map(|(_, s)| s.clone()).collect();
    let reduction = Reduction::Builtin(op);
    let streaming = rng.random();
    let spec = ReduceSpec { dtype, reduction: &reduction, finish, streaming };
    // Into memory of its own, then over one of the sources.
    let apart = place(&vec![0xa5; sources[0].len()], rng.random_range(0..17));
    for target in [apart.1, segments[rng.random_range(0..n)].clone()] {
        kernels.reduce(&spec, &segments, &target);
        assert!(
            same(dtype, target.bytes(), &expected),
            "{level:?} {dtype} {op} n {n} count {count} {finish:?}"
        );
    }
}

#[test]
fn every_type_and_operator_at_every_level() {
    let mut rng = SmallRng::seed_from_u64(1);
    for level in Level::ALL {
        for dtype in DType::ALL.into_iter().filter(|d| !matches!(d, DType::F8E4M3 | DType::F8E5M2)) {
            for op in ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)) {
                for n in [1, 2, 3, 4, 5, 8, 17] {
                    for count in [0, 1, 7, 63, 64, 65, 1025] {
                        check(level, dtype, op, n, count, &mut rng);
                    }
                }
            }
        }
    }
}

#[test]
fn long_results_bypass_the_cache_correctly() {
    let mut rng = SmallRng::seed_from_u64(2);
    for offset in [0, 1, 16] {
        let sources: Vec<Vec<u8>> = (0..3).map(|_| random(DType::F32, 100_003, &mut rng)).collect();
        let placed: Vec<_> = sources.iter().map(|s| place(s, 0)).collect();
        let segments: Vec<Segment> = placed.iter().map(|(_, s)| s.clone()).collect();
        let (_arena, target) = place(&vec![0xa5; sources[0].len()], offset);
        let reduction = Reduction::Builtin(ReduceOp::Sum);
        let spec = ReduceSpec { dtype: DType::F32, reduction: &reduction, finish: None, streaming: true };
        CpuKernels::detect().reduce(&spec, &segments, &target);
        let expected = oracle(DType::F32, ReduceOp::Sum, &sources, None);
        assert!(same(DType::F32, target.bytes(), &expected), "offset {offset}");
    }
}

#[test]
fn eight_bit_floats_round_once() {
    // 0.5 ulp + 0.5 ulp + 1: two roundings would lose both halves.
    for (dtype, one, half_ulp, sum) in
        [(DType::F8E4M3, 0x38u8, 0x18u8, 0x39u8), (DType::F8E5M2, 0x3c, 0x30, 0x3d)]
    {
        let (_a, a) = place(&[one], 1);
        let (_b, b) = place(&[half_ulp], 2);
        let (_t, target) = place(&[0xa5], 3);
        let reduction = Reduction::Builtin(ReduceOp::Sum);
        let spec = ReduceSpec { dtype, reduction: &reduction, finish: None, streaming: false };
        CpuKernels::detect().reduce(&spec, &[a, b.clone(), b], &target);
        assert_eq!(target.bytes(), [sum], "{dtype}");
    }
}

#[test]
fn a_users_operator_gets_the_sources_in_order() {
    struct Digits;
    impl UserReduce for Digits {
        fn combine(&self, src: &[u8], acc: &mut [u8], _dtype: DType) {
            acc.iter_mut().zip(src).for_each(|(a, s)| *a = a.wrapping_mul(10).wrapping_add(*s));
        }
    }
    let placed: Vec<_> = [1u8, 2, 3].iter().map(|d| place(&vec![*d; 9001], 1)).collect();
    let segments: Vec<Segment> = placed.iter().map(|(_, s)| s.clone()).collect();
    let reduction = Reduction::User(Arc::new(Digits));
    let spec = ReduceSpec { dtype: DType::U8, reduction: &reduction, finish: Some(3.0), streaming: false };
    CpuKernels::detect().reduce(&spec, &segments, &segments[2]);
    assert!(segments[2].bytes().iter().all(|b| *b == 123));
}

#[test]
fn scaling() {
    let scale = |dtype: DType, scalar: &[u8], from: &[u8]| {
        let mut factor = [0u8; 16];
        factor[..scalar.len()].copy_from_slice(scalar);
        let (_s, source) = place(from, 1);
        let (_t, target) = place(&vec![0xa5; from.len()], 3);
        CpuKernels::detect().scale(dtype, &factor, &source, &target);
        target.bytes().to_vec()
    };
    assert_eq!(scale(DType::F32, &0.5f32.to_le_bytes(), &3f32.to_le_bytes()), 1.5f32.to_le_bytes());
    assert_eq!(scale(DType::I16, &(-3i16).to_le_bytes(), &7i16.to_le_bytes()), (-21i16).to_le_bytes());
    let half = bf16::from_f32(0.5).to_le_bytes();
    assert_eq!(
        scale(DType::Bf16, &half, &bf16::from_f32(8.0).to_le_bytes()),
        bf16::from_f32(4.0).to_le_bytes()
    );
    assert_eq!(scale(DType::U8, &[2], &[]), []);
}
