//! What the executor asks of reduction kernels; `ronde-algorithms` implements it.

use crate::{DType, ReduceOp, Segment};
use std::{fmt, sync::Arc};

/// A user-defined reduction: combines `src` into `acc`, `count` elements of `dtype` each.
///
/// It is called in ascending rank order on every element range, by one rank per range (or by all
/// ranks in the same order), so it may be non-commutative but must be deterministic.
pub trait UserReduce: Send + Sync {
    /// `acc[i] = acc[i] op src[i]` for the elements in both slices, which have equal length.
    fn combine(&self, src: &[u8], acc: &mut [u8], dtype: DType);
}

/// The reduction of one call.
#[derive(Clone)]
pub enum Reduction {
    /// One of the built-in operators.
    Builtin(ReduceOp),
    /// Sum of contributions each multiplied by its rank's scalar: one element of the call's dtype,
    /// in the first bytes.
    PreMulSum([u8; 16]),
    /// The average of contributions, each weighed by its rank's weight (finite, not negative): their sum, each multiplied by its
    /// weight, divided by the sum of the weights of those who contributed. For floating types.
    WeightedAvg(f64),
    /// A function of the user.
    User(Arc<dyn UserReduce>),
}

impl Reduction {
    /// Number on the wire, to catch ranks that call with different operators.
    pub fn number(&self) -> u8 {
        match self {
            Reduction::Builtin(op) => *op as u8,
            Reduction::PreMulSum(_) => 0x40,
            Reduction::User(_) => 0x41,
            Reduction::WeightedAvg(_) => 0x42,
        }
    }

    /// The name used in messages, for a number made by [`Reduction::number`].
    pub fn name_of(number: u8) -> &'static str {
        match number {
            0x40 => "premulsum",
            0x41 => "user",
            0x42 => "weighted avg",
            0xff => "none",
            n => ReduceOp::from_number(n).map_or("unknown", ReduceOp::name),
        }
    }
}

impl fmt::Debug for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Reduction::name_of(self.number()))
    }
}

/// How to reduce one range.
#[derive(Clone, Copy, Debug)]
pub struct ReduceSpec<'a> {
    /// Element type of all sources and of the destination.
    pub dtype: DType,
    /// The operator.
    pub reduction: &'a Reduction,
    /// What averages are divided by when this pass completes the reduction: the number of contributors, or the sum of their
    /// weights. `None` for a partial result.
    pub finish: Option<f64>,
    /// The destination will not be read again soon: stores may bypass the cache.
    pub streaming: bool,
}

/// Reduction kernels.
pub trait Kernels: Send + Sync {
    /// `dst = srcs[0] op srcs[1] op …` in that order, in one pass over memory.
    ///
    /// All segments have the same length, a multiple of the element size. `dst` may be exactly one
    /// of the sources but must not overlap one otherwise. Nothing needs to be aligned. With one
    /// source this is a copy (and the finish).
    fn reduce(&self, spec: &ReduceSpec<'_>, srcs: &[Segment], dst: &Segment);

    /// `dst[i] = src[i] * scalar` in the arithmetic of `dtype` (8- and 16-bit floats through `f32`);
    /// the pre-multiplication of [`Reduction::PreMulSum`].
    fn scale(&self, dtype: DType, scalar: &[u8; 16], src: &Segment, dst: &Segment);

    /// `dst[i] = src[i] * weight`, rounded once: the same for [`Reduction::WeightedAvg`].
    fn weigh(&self, dtype: DType, weight: f64, src: &Segment, dst: &Segment);
}
