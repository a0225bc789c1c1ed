//! Element types and reduction operators with their stable numbers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Type of one element. The numbers travel on the wire and in the C ABI and are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum DType {
    I8 = 0,
    U8 = 1,
    I16 = 2,
    U16 = 3,
    I32 = 4,
    U32 = 5,
    I64 = 6,
    U64 = 7,
    F16 = 8,
    Bf16 = 9,
    F32 = 10,
    F64 = 11,
    Bool = 12,
    /// Complex of two `f32`.
    C64 = 13,
    /// Complex of two `f64`.
    C128 = 14,
    /// 8-bit float, 4 exponent bits, finite only (OCP E4M3, "fn").
    F8E4M3 = 15,
    /// 8-bit float, 5 exponent bits (OCP E5M2).
    F8E5M2 = 16,
}

impl DType {
    /// Every type, in the order of their numbers.
    pub const ALL: [DType; 17] = {
        use DType::*;
        [I8, U8, I16, U16, I32, U32, I64, U64, F16, Bf16, F32, F64, Bool, C64, C128, F8E4M3, F8E5M2]
    };

    /// Bytes of one element.
    #[inline]
    pub const fn size(self) -> usize {
        use DType::*;
        match self {
            I8 | U8 | Bool | F8E4M3 | F8E5M2 => 1,
            I16 | U16 | F16 | Bf16 => 2,
            I32 | U32 | F32 => 4,
            I64 | U64 | F64 | C64 => 8,
            C128 => 16,
        }
    }

    /// The name used in messages and on the command line.
    pub const fn name(self) -> &'static str {
        use DType::*;
        match self {
            I8 => "i8",
            U8 => "u8",
            I16 => "i16",
            U16 => "u16",
            I32 => "i32",
            U32 => "u32",
            I64 => "i64",
            U64 => "u64",
            F16 => "f16",
            Bf16 => "bf16",
            F32 => "f32",
            F64 => "f64",
            Bool => "bool",
            C64 => "c64",
            C128 => "c128",
            F8E4M3 => "f8e4m3",
            F8E5M2 => "f8e5m2",
        }
    }

    /// The type with this number.
    pub fn from_number(number: u8) -> Option<DType> {
        Self::ALL.get(number as usize).copied()
    }

    /// Signed or unsigned integer.
    pub const fn is_integer(self) -> bool {
        (self as u8) <= DType::U64 as u8
    }

    /// Float of 8 or 16 bits.
    pub const fn is_narrow_float(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2)
    }

    /// Pair of floats.
    pub const fn is_complex(self) -> bool {
        matches!(self, DType::C64 | DType::C128)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Built-in reduction operator. The numbers travel on the wire and in the C ABI.
///
/// * Integer sums and products wrap (two's complement).
/// * `Avg` divides the sum once, at the end; integers truncate toward zero.
/// * `Min` and `Max` of floats: a NaN in any input gives NaN (IEEE 754-2019 `minimum`, `maximum`).
/// * `Bool`: sum and max are *or*, product and min are *and*; any non-zero byte counts as true.
/// * 8- and 16-bit floats are summed in `f32`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ReduceOp {
    Sum = 0,
    Prod = 1,
    Min = 2,
    Max = 3,
    Avg = 4,
    Band = 5,
    Bor = 6,
    Bxor = 7,
}

impl ReduceOp {
    /// Every operator, in the order of their numbers.
    pub const ALL: [ReduceOp; 8] = {
        use ReduceOp::*;
        [Sum, Prod, Min, Max, Avg, Band, Bor, Bxor]
    };

    /// The name used in messages and on the command line.
    pub const fn name(self) -> &'static str {
        use ReduceOp::*;
        match self {
            Sum => "sum",
            Prod => "prod",
            Min => "min",
            Max => "max",
            Avg => "avg",
            Band => "band",
            Bor => "bor",
            Bxor => "bxor",
        }
    }

    /// The operator with this number.
    pub fn from_number(number: u8) -> Option<ReduceOp> {
        Self::ALL.get(number as usize).copied()
    }

    /// Whether the operator has a meaning on this type.
    pub const fn supports(self, dtype: DType) -> bool {
        use ReduceOp::*;
        match self {
            Sum | Prod => true,
            Min | Max => !dtype.is_complex(),
            Avg => !matches!(dtype, DType::Bool),
            Band | Bor | Bxor => dtype.is_integer() || matches!(dtype, DType::Bool),
        }
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
