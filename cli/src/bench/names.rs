//! Names of operators, types and roots on the command line: ours and those of nccl-tests.

use crate::args::{BenchOp, Pick};
use ronde::{DType, ReduceOp};

/// nccl-tests' name for a type, and ours.
const DTYPE_ALIASES: [(&str, DType); 11] = [
    ("int8", DType::I8),
    ("uint8", DType::U8),
    ("int32", DType::I32),
    ("uint32", DType::U32),
    ("int64", DType::I64),
    ("uint64", DType::U64),
    ("half", DType::F16),
    ("float", DType::F32),
    ("double", DType::F64),
    ("bfloat16", DType::Bf16),
    ("f8e4m3fn", DType::F8E4M3),
];

impl BenchOp {
    pub(crate) fn name(self) -> &'static str {
        match self {
            BenchOp::Builtin(op) => op.name(),
            BenchOp::MulSum => "mulsum",
        }
    }

    /// Whether the operator has a meaning on this type.
    pub(crate) fn supports(self, dtype: DType) -> bool {
        match self {
            BenchOp::Builtin(op) => op.supports(dtype),
            BenchOp::MulSum => !matches!(dtype, DType::Bool),
        }
    }
}

pub(crate) fn all_ops() -> impl Iterator<Item = BenchOp> {
    ReduceOp::ALL.into_iter().map(BenchOp::Builtin).chain([BenchOp::MulSum])
}

pub(crate) fn parse_op(text: &str) -> Result<Pick<BenchOp>, String> {
    if text == "all" {
        return Ok(Pick::All);
    }
    let found = all_ops().find(|op| op.name() == text);
    found.map(Pick::One).ok_or_else(|| {
        let names: Vec<_> = all_ops().map(BenchOp::name).collect();
        format!("`{text}` is none of {}, all", names.join(", "))
    })
}

pub(crate) fn parse_dtype(text: &str) -> Result<Pick<DType>, String> {
    if text == "all" {
        return Ok(Pick::All);
    }
    let ours = DType::ALL.into_iter().map(|dtype| (dtype.name(), dtype));
    let found = ours.chain(DTYPE_ALIASES).find(|(name, _)| *name == text);
    found.map(|(_, dtype)| Pick::One(dtype)).ok_or_else(|| {
        let names: Vec<_> = DType::ALL.into_iter().map(DType::name).collect();
        format!("`{text}` is none of {}, all", names.join(", "))
    })
}

pub(crate) fn parse_root(text: &str) -> Result<Pick<u32>, String> {
    match text {
        "all" | "-1" => Ok(Pick::All),
        _ => text.parse().map(Pick::One).map_err(|_| format!("`{text}` is not a rank; -1 means every rank")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_and_those_of_nccl_tests() {
        for dtype in DType::ALL {
            assert_eq!(parse_dtype(dtype.name()), Ok(Pick::One(dtype)));
        }
        assert_eq!(parse_dtype("float"), Ok(Pick::One(DType::F32)));
        assert_eq!(parse_dtype("bfloat16"), Ok(Pick::One(DType::Bf16)));
        assert!(parse_dtype("f42").unwrap_err().contains("bf16"));
        for op in all_ops() {
            assert_eq!(parse_op(op.name()), Ok(Pick::One(op)));
        }
        assert!(parse_op("median").unwrap_err().contains("bxor"));
        assert_eq!(parse_root("-1"), Ok(Pick::All));
        assert_eq!(parse_root("3"), Ok(Pick::One(3)));
        assert!(parse_root("-2").is_err());
    }
}
