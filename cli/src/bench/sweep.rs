//! Which rows a bench has: sizes, types, operators, roots.

use super::measure::Case;
use super::names::all_ops;
use crate::args::{BenchArgs, BenchOp, Pick, Target};
use crate::exit::Failure;
use ronde::DType;

/// nccl-tests' default for both ends.
const DEFAULT_BYTES: u64 = 32 << 20;
/// More rows than this are a slip of the hand (`-b 8 -e 1G` without `-f`).
const MAX_SIZES: u64 = 100_000;

/// Smallest and largest size.
pub(crate) fn bounds(args: &BenchArgs) -> Result<(u64, u64), Failure> {
    if args.target == Target::Barrier {
        return Ok((0, 0));
    }
    let (low, high) = match args.target {
        Target::Pairs => (8, 1 << 20),
        Target::Recover => (8, 64 << 20),
        _ => (DEFAULT_BYTES, DEFAULT_BYTES),
    };
    let min = args.min_bytes.unwrap_or(low.min(args.max_bytes.unwrap_or(low)));
    let max = args.max_bytes.unwrap_or(high.max(min));
    if min > max {
        return Err(Failure::usage(format!("the smallest size, {min} bytes, is above the largest, {max}")));
    }
    Ok((min, max))
}

/// The sizes from `min` to `max`.
pub(crate) fn sizes(args: &BenchArgs, min: u64, max: u64) -> Result<Vec<u64>, Failure> {
    if args.step_factor.is_some_and(|factor| factor < 2) {
        return Err(Failure::usage("the factor between sizes (-f) must be 2 or more"));
    }
    if args.step_factor.is_none() && args.step_bytes == 0 && min < max {
        return Err(Failure::usage("the step between sizes (-i) must be more than 0"));
    }
    if args.step_factor.is_none() && (max - min) / args.step_bytes.max(1) > MAX_SIZES {
        return Err(Failure::usage(
            "that makes more than 100000 sizes; take a factor (-f 2) or a larger step (-i)",
        ));
    }
    let next = |size: &u64| match args.step_factor {
        Some(factor) => Some(size.saturating_mul(u64::from(factor)).max(1)),
        None => size.checked_add(args.step_bytes.max(1)),
    };
    Ok(std::iter::successors(Some(min), next).take_while(|size| *size <= max).collect())
}

/// The cases that are measured at each size.
pub(crate) fn cases(args: &BenchArgs, ranks: u32) -> Result<Vec<Case>, Failure> {
    let dtypes = picked(args.dtype, DType::ALL.to_vec());
    let ops: Vec<Option<BenchOp>> = match args.target.reduces() {
        true => picked(args.op, all_ops().collect()).into_iter().map(Some).collect(),
        false => vec![None],
    };
    let roots = match args.target.has_root() {
        true => picked(args.root, (0..ranks).collect()),
        false => vec![0],
    };
    if let Some(root) = roots.iter().find(|root| **root >= ranks) {
        return Err(Failure::usage(format!("the root is {root}, but there are {ranks} ranks")));
    }
    if args.target == Target::SendRecv && ranks < 2 {
        return Err(Failure::usage("send-recv needs 2 ranks or more"));
    }
    let mut cases = Vec::new();
    for &dtype in &dtypes {
        for &op in ops.iter().filter(|op| op.is_none_or(|op| op.supports(dtype))) {
            cases.extend(roots.iter().map(|&root| Case { target: args.target, dtype, op, root }));
        }
    }
    match cases.is_empty() {
        true => Err(Failure::usage("the operator has no meaning on the type")),
        false => Ok(cases),
    }
}

fn picked<T>(pick: Pick<T>, all: Vec<T>) -> Vec<T> {
    match pick {
        Pick::One(one) => vec![one],
        Pick::All => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> BenchArgs {
        let cli = Cli::try_parse_from(format!("ronde bench {line}").split(' ')).unwrap();
        match cli.command {
            Command::Bench(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn sizes_of(line: &str) -> Result<Vec<u64>, String> {
        let args = parse(line);
        let (min, max) = bounds(&args).map_err(|e| e.text)?;
        sizes(&args, min, max).map_err(|e| e.text)
    }

    #[test]
    fn sizes_by_factor_and_by_step() {
        assert_eq!(sizes_of("all-reduce -b 8 -e 1K -f 4"), Ok(vec![8, 32, 128, 512]));
        assert_eq!(sizes_of("all-reduce -b 1M -e 3M"), Ok(vec![1 << 20, 2 << 20, 3 << 20]));
        assert_eq!(sizes_of("all-reduce -b 0 -e 4 -f 2"), Ok(vec![0, 1, 2, 4]));
        assert_eq!(sizes_of("all-reduce"), Ok(vec![32 << 20]));
        assert_eq!(sizes_of("all-reduce -b 64M"), Ok(vec![64 << 20]));
        assert_eq!(sizes_of("all-reduce -e 8"), Ok(vec![8]));
        assert_eq!(sizes_of("barrier -b 5"), Ok(vec![0]));
    }

    #[test]
    fn bad_sizes_are_named() {
        for line in [
            "all-reduce -b 2 -e 1",
            "all-reduce -b 0 -e 8 -i 0",
            "all-reduce -f 1",
            "all-reduce -b 8 -e 1G -i 8",
        ] {
            assert!(sizes_of(line).is_err(), "{line}");
        }
    }

    #[test]
    fn cases_are_the_meaningful_combinations() {
        assert_eq!(cases(&parse("all-reduce"), 4).unwrap().len(), 1);
        let all = cases(&parse("all-reduce -d all -o all"), 4).unwrap();
        assert!(all.iter().all(|case| case.op.is_some_and(|op| op.supports(case.dtype))));
        assert!(all.len() > 90);
        assert_eq!(cases(&parse("broadcast -r -1"), 3).unwrap().len(), 3);
        assert_eq!(cases(&parse("all-gather -r 7 -o max"), 3).unwrap()[0].op, None);
        for (line, ranks) in [("reduce -r 3", 3), ("send-recv", 1), ("all-reduce -o band -d f32", 2)] {
            assert!(cases(&parse(line), ranks).is_err(), "{line}");
        }
    }
}
