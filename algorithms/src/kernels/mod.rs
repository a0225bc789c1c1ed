//! Reduction kernels (portable).
use ronde_core::reduce::{Kernels, ReduceSpec, Reduction};
use ronde_core::{DType, ReduceOp, Segment};

/// Kernels.
pub struct CpuKernels;
static K: CpuKernels = CpuKernels;
impl CpuKernels {
    /// The kernels.
    pub fn detect() -> &'static CpuKernels {
        &K
    }
}
macro_rules! sumloop {
    ($t:ty, $srcs:ident, $dst:ident, $op:expr, $fin:expr) => {{
        let n = size_of::<$t>();
        let mut d = $dst.clone();
        let len = d.len();
        let mut acc: Vec<$t> =
            $srcs[0].bytes().chunks_exact(n).map(|b| <$t>::from_le_bytes(b.try_into().unwrap())).collect();
        for s in &$srcs[1..] {
            for (a, b) in acc.iter_mut().zip(s.bytes().chunks_exact(n)) {
                *a = $op(*a, <$t>::from_le_bytes(b.try_into().unwrap()));
            }
        }
        let _ = len;
        for (o, a) in d.bytes_mut().chunks_exact_mut(n).zip(acc) {
            o.copy_from_slice(&$fin(a).to_le_bytes());
        }
    }};
}
impl Kernels for CpuKernels {
    fn reduce(&self, spec: &ReduceSpec<'_>, srcs: &[Segment], dst: &Segment) {
        let avg = matches!(spec.reduction, Reduction::Builtin(ReduceOp::Avg));
        let div = if avg { spec.finish } else { None };
        match spec.dtype {
            DType::F32 => {
                sumloop!(f32, srcs, dst, |a: f32, b: f32| a + b, |a: f32| div.map_or(a, |n| a / n as f32))
            }
            DType::F64 => {
                sumloop!(f64, srcs, dst, |a: f64, b: f64| a + b, |a: f64| div.map_or(a, |n| a / n as f64))
            }
            DType::U64 | DType::I64 => {
                sumloop!(u64, srcs, dst, |a: u64, b: u64| a.wrapping_add(b), |a: u64| a)
            }
            _ => srcs[0].copy_to(dst),
        }
    }
    fn scale(&self, _dtype: DType, _scalar: &[u8; 16], src: &Segment, dst: &Segment) {
        src.copy_to(dst);
    }
}
