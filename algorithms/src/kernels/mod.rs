//! Reduction kernels: n sources in one pass, in source order, with the best vector instructions that the
//! processor has.
//!
//! * `lanes`: what an element is, what it accumulates in, and the operators.
//! * `narrow`: 8- and 16-bit floats.
//! * `pass`: the one loop, compiled for each level of vector instructions.
//!
//! The only `unsafe` of this crate: raw loads and stores within segments, whose bounds are checked once per
//! call.
#![allow(unsafe_code)]

mod lanes;
mod narrow;
mod pass;
#[cfg(test)]
mod tests;

use lanes::{And, Band, Bor, Bxor, Lane, Max, Min, Or, Prod, Sum, Xor};
use narrow::{Bf16, F8E4M3, F8E5M2, F16};
pub use pass::Level;
use pass::Pass;
use ronde_core::memory::Access;
use ronde_core::reduce::{Kernels, ReduceSpec, Reduction, UserReduce};
use ronde_core::{DType, ReduceOp, Segment};
use std::sync::OnceLock;

/// Kernels for the processor this runs on.
#[derive(Clone, Copy, Debug)]
pub struct CpuKernels {
    level: Level,
}

impl CpuKernels {
    /// The best kernels for this processor, looked up once.
    pub fn detect() -> &'static CpuKernels {
        static KERNELS: OnceLock<CpuKernels> = OnceLock::new();
        KERNELS.get_or_init(|| CpuKernels { level: Level::best() })
    }

    /// Kernels of one level, if the processor has it.
    pub fn with_level(level: Level) -> Option<CpuKernels> {
        level.is_available().then_some(CpuKernels { level })
    }

    /// Their level.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl Kernels for CpuKernels {
    fn reduce(&self, spec: &ReduceSpec<'_>, srcs: &[Segment], dst: &Segment) {
        assert!(srcs.iter().all(|s| s.len() == dst.len()), "sources and destination differ in length");
        assert!(!srcs.is_empty(), "a reduction of nothing");
        dst.assert_writable();
        let op = match spec.reduction {
            Reduction::Builtin(op) => *op,
            Reduction::PreMulSum(_) => ReduceOp::Sum,
            Reduction::WeightedAvg(_) => ReduceOp::Avg,
            Reduction::User(user) => return reduce_by_user(&**user, spec.dtype, srcs, dst),
        };
        let divisor = if op == ReduceOp::Avg { spec.finish } else { None };
        let pass = Pass { level: self.level, srcs, dst, divisor, streaming: spec.streaming };
        dispatch(spec.dtype, op, &pass);
    }

    fn scale(&self, dtype: DType, scalar: &[u8; 16], src: &Segment, dst: &Segment) {
        assert!(src.len() <= dst.len(), "the destination is too short");
        dst.assert_writable();
        match dtype {
            DType::I8 | DType::U8 | DType::Bool => scale::<u8>(scalar, src, dst),
            DType::I16 | DType::U16 => scale::<u16>(scalar, src, dst),
            DType::I32 | DType::U32 => scale::<u32>(scalar, src, dst),
            DType::I64 | DType::U64 => scale::<u64>(scalar, src, dst),
            DType::F16 => scale::<F16>(scalar, src, dst),
            DType::Bf16 => scale::<Bf16>(scalar, src, dst),
            DType::F32 => scale::<f32>(scalar, src, dst),
            DType::F64 => scale::<f64>(scalar, src, dst),
            DType::C64 => scale::<[f32; 2]>(scalar, src, dst),
            DType::C128 => scale::<[f64; 2]>(scalar, src, dst),
            DType::F8E4M3 => scale::<F8E4M3>(scalar, src, dst),
            DType::F8E5M2 => scale::<F8E5M2>(scalar, src, dst),
        }
    }

    fn weigh(&self, dtype: DType, weight: f64, src: &Segment, dst: &Segment) {
        assert!(src.len() <= dst.len(), "the destination is too short");
        dst.assert_writable();
        if weight == 0.0 {
            // Whatever it is: nothing of an infinity shall be left.
            return dst.slice(0, src.len()).bytes_mut().fill(0);
        }
        match dtype {
            DType::I8 => multiply::<i8>(weight as i8, src, dst),
            DType::U8 => multiply::<u8>(weight as u8, src, dst),
            DType::I16 => multiply::<i16>(weight as i16, src, dst),
            DType::U16 => multiply::<u16>(weight as u16, src, dst),
            DType::I32 => multiply::<i32>(weight as i32, src, dst),
            DType::U32 => multiply::<u32>(weight as u32, src, dst),
            DType::I64 => multiply::<i64>(weight as i64, src, dst),
            DType::U64 => multiply::<u64>(weight as u64, src, dst),
            DType::F16 => multiply::<F16>(weight as f32, src, dst),
            DType::Bf16 => multiply::<Bf16>(weight as f32, src, dst),
            DType::F32 => multiply::<f32>(weight as f32, src, dst),
            DType::F64 => multiply::<f64>(weight, src, dst),
            DType::C64 => multiply::<[f32; 2]>([weight as f32, 0.0], src, dst),
            DType::C128 => multiply::<[f64; 2]>([weight, 0.0], src, dst),
            DType::F8E4M3 => multiply::<F8E4M3>(weight as f32, src, dst),
            DType::F8E5M2 => multiply::<F8E5M2>(weight as f32, src, dst),
            DType::Bool => unsupported(ReduceOp::Avg),
        }
    }
}

fn scale<T: Lane + lanes::Multiplies>(scalar: &[u8; 16], src: &Segment, dst: &Segment) {
    // SAFETY: a scalar has 16 bytes, at least as many as an element; any bits are an element.
    let factor = unsafe { scalar.as_ptr().cast::<T>().read_unaligned() }.widen();
    multiply::<T>(factor, src, dst);
}

fn multiply<T: Lane + lanes::Multiplies>(factor: T::Acc, src: &Segment, dst: &Segment) {
    let count = src.len() / size_of::<T>();
    let (from, to) = (src.as_ptr().cast::<T>(), dst.as_ptr().cast::<T>());
    for i in 0..count {
        // SAFETY: i is within both segments, whose lengths were compared.
        unsafe {
            to.add(i).write_unaligned(T::narrow(T::multiply(factor, from.add(i).read_unaligned().widen())))
        }
    }
}

fn dispatch(dtype: DType, op: ReduceOp, pass: &Pass<'_>) {
    match dtype {
        DType::I8 => integer::<i8>(op, pass),
        DType::U8 => integer::<u8>(op, pass),
        DType::I16 => integer::<i16>(op, pass),
        DType::U16 => integer::<u16>(op, pass),
        DType::I32 => integer::<i32>(op, pass),
        DType::U32 => integer::<u32>(op, pass),
        DType::I64 => integer::<i64>(op, pass),
        DType::U64 => integer::<u64>(op, pass),
        DType::F16 => float::<F16>(op, pass),
        DType::Bf16 => float::<Bf16>(op, pass),
        DType::F32 => float::<f32>(op, pass),
        DType::F64 => float::<f64>(op, pass),
        DType::F8E4M3 => float::<F8E4M3>(op, pass),
        DType::F8E5M2 => float::<F8E5M2>(op, pass),
        DType::Bool => boolean(op, pass),
        DType::C64 => complex::<[f32; 2]>(op, pass),
        DType::C128 => complex::<[f64; 2]>(op, pass),
    }
}

fn unsupported(op: ReduceOp) -> ! {
    panic!("{op} has no meaning on this type: ReduceOp::supports says so before a call starts")
}

fn integer<T>(op: ReduceOp, pass: &Pass<'_>)
where
    T: Lane,
    Sum: lanes::Combine<T::Acc>,
    Prod: lanes::Combine<T::Acc>,
    Min: lanes::Combine<T::Acc>,
    Max: lanes::Combine<T::Acc>,
    Band: lanes::Combine<T::Acc>,
    Bor: lanes::Combine<T::Acc>,
    Bxor: lanes::Combine<T::Acc>,
{
    match op {
        ReduceOp::Sum | ReduceOp::Avg => pass.run::<T, Sum>(),
        ReduceOp::Prod => pass.run::<T, Prod>(),
        ReduceOp::Min => pass.run::<T, Min>(),
        ReduceOp::Max => pass.run::<T, Max>(),
        ReduceOp::Band => pass.run::<T, Band>(),
        ReduceOp::Bor => pass.run::<T, Bor>(),
        ReduceOp::Bxor => pass.run::<T, Bxor>(),
    }
}

fn float<T>(op: ReduceOp, pass: &Pass<'_>)
where
    T: Lane,
    Sum: lanes::Combine<T::Acc>,
    Prod: lanes::Combine<T::Acc>,
    Min: lanes::Combine<T::Acc>,
    Max: lanes::Combine<T::Acc>,
{
    match op {
        ReduceOp::Sum | ReduceOp::Avg => pass.run::<T, Sum>(),
        ReduceOp::Prod => pass.run::<T, Prod>(),
        ReduceOp::Min => pass.run::<T, Min>(),
        ReduceOp::Max => pass.run::<T, Max>(),
        _ => unsupported(op),
    }
}

fn complex<T>(op: ReduceOp, pass: &Pass<'_>)
where
    T: Lane,
    Sum: lanes::Combine<T::Acc>,
    Prod: lanes::Combine<T::Acc>,
{
    match op {
        ReduceOp::Sum | ReduceOp::Avg => pass.run::<T, Sum>(),
        ReduceOp::Prod => pass.run::<T, Prod>(),
        _ => unsupported(op),
    }
}

fn boolean(op: ReduceOp, pass: &Pass<'_>) {
    match op {
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::Bor => pass.run::<lanes::Truth, Or>(),
        ReduceOp::Prod | ReduceOp::Min | ReduceOp::Band => pass.run::<lanes::Truth, And>(),
        ReduceOp::Bxor => pass.run::<lanes::Truth, Xor>(),
        ReduceOp::Avg => unsupported(op),
    }
}

/// Runs a user's operator block by block, so that a destination that is one of the later sources is not
/// overwritten before it is read.
fn reduce_by_user(user: &dyn UserReduce, dtype: DType, srcs: &[Segment], dst: &Segment) {
    const BLOCK: usize = 4096;
    /// Aligned for every type, since functions in C get it as an array of elements.
    #[repr(align(64))]
    struct Block([u8; BLOCK]);
    let mut block = Block([0; BLOCK]);
    let mut offset = 0;
    while offset < dst.len() {
        let len = BLOCK.min(dst.len() - offset);
        let accumulator = &mut block.0[..len];
        accumulator.copy_from_slice(srcs[0].slice(offset, len).bytes());
        for src in &srcs[1..] {
            user.combine(src.slice(offset, len).bytes(), accumulator, dtype);
        }
        dst.slice(offset, len).fill_from(accumulator);
        offset += len;
    }
}
