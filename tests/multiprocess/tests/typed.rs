//! The typed methods of a group with every element type that Rust has, against an oracle.

use ronde::{Blocks, Complex, Element, Error, Group, ReduceOp, bf16, f16};
use ronde_multiprocess::everywhere;
use std::fmt::Debug;

/// An element type as the oracle sees it. Sums of a few elements are exact in what they are computed in, so that they do not
/// depend on an order.
trait Number: Element + PartialEq + Debug {
    /// A whole number from -100 to 100 as an element, with a fraction where the type has one.
    fn of(whole: i32) -> Self;
    /// The sum, rounded once.
    fn sum(terms: &[Self]) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Number for $t {
            fn of(whole: i32) -> $t {
                whole as $t
            }
            fn sum(terms: &[$t]) -> $t {
                terms.iter().fold(0, |sum, term| sum.wrapping_add(*term))
            }
        }
    )* };
}
integers!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! floats {
    ($($t:ty),*) => { $(
        impl Number for $t {
            fn of(whole: i32) -> $t {
                whole as $t / 4.0
            }
            fn sum(terms: &[$t]) -> $t {
                terms.iter().sum()
            }
        }
    )* };
}
floats!(f32, f64);

macro_rules! narrow_floats {
    ($($t:ty),*) => { $(
        impl Number for $t {
            /// Most of these are rounded, and most of their sums have to be.
            fn of(whole: i32) -> $t {
                <$t>::from_f32(whole as f32 / 7.0)
            }
            fn sum(terms: &[$t]) -> $t {
                <$t>::from_f32(terms.iter().map(|term| term.to_f32()).sum())
            }
        }
    )* };
}
narrow_floats!(f16, bf16);

macro_rules! complex {
    ($($t:ty),*) => { $(
        impl Number for Complex<$t> {
            fn of(whole: i32) -> Self {
                Complex::new(whole as $t / 4.0, (whole % 13) as $t)
            }
            fn sum(terms: &[Self]) -> Self {
                terms.iter().sum()
            }
        }
    )* };
}
complex!(f32, f64);

/// The input of a rank.
fn input<T: Number>(seed: usize, rank: usize, count: usize) -> Vec<T> {
    (0..count).map(|i| T::of(((seed * 31 + rank * 57 + i * 23) % 201) as i32 - 100)).collect()
}

/// What outputs hold before: no input has it at the places where it would be taken for a result.
fn poison<T: Number>(count: usize) -> Vec<T> {
    vec![T::of(77); count]
}

/// Calls `check` with every element type.
fn every_type(group: &Group, check: &impl Check) {
    check.run::<i8>(group);
    check.run::<u8>(group);
    check.run::<i16>(group);
    check.run::<u16>(group);
    check.run::<i32>(group);
    check.run::<u32>(group);
    check.run::<i64>(group);
    check.run::<u64>(group);
    check.run::<f16>(group);
    check.run::<bf16>(group);
    check.run::<f32>(group);
    check.run::<f64>(group);
    check.run::<Complex<f32>>(group);
    check.run::<Complex<f64>>(group);
}

/// A closure cannot be generic.
trait Check {
    fn run<T: Number>(&self, group: &Group);
}

/// Element i of what all ranks contribute, added.
fn summed<T: Number>(inputs: &[Vec<T>]) -> Vec<T> {
    let column = |i: usize| inputs.iter().map(|input| input[i]).collect::<Vec<T>>();
    (0..inputs[0].len()).map(|i| T::sum(&column(i))).collect()
}

struct EqualBlocks {
    count: usize,
}

impl Check for EqualBlocks {
    fn run<T: Number>(&self, group: &Group) {
        let (me, n, count) = (group.rank() as usize, group.size() as usize, self.count);
        let (dtype, root) = (T::DTYPE, (count % n) as u32);
        let at_root = |length: usize| if group.rank() == root { length } else { 0 };
        let own = me * count..(me + 1) * count;
        let inputs: Vec<Vec<T>> = (0..n).map(|rank| input(count, rank, n * count)).collect();
        let (mine, sums) = (&inputs[me], summed(&inputs));
        let blocks = |of: usize| inputs.iter().flat_map(|i| &i[of * count..][..count]).copied().collect();
        let (first_blocks, my_blocks): (Vec<T>, Vec<T>) = (blocks(0), blocks(me));

        let mut data = mine.clone();
        let outcome = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(outcome.contributors, group.size());
        assert_eq!(data, sums, "all_reduce of {dtype}");
        let mut output = poison(n * count);
        let _ = group.all_reduce_into(mine, &mut output, ReduceOp::Sum).unwrap();
        assert_eq!(output, sums, "all_reduce_into of {dtype}");
        let mut output = poison(count);
        let _ = group.reduce_scatter(mine, &mut output, ReduceOp::Sum).unwrap();
        assert_eq!(output, sums[own], "reduce_scatter of {dtype}");
        let mut output = poison(at_root(n * count));
        let _ = group.reduce(mine, &mut output, ReduceOp::Sum, root).unwrap();
        assert_eq!(output, sums[..at_root(n * count)], "reduce of {dtype}");

        let mut output = poison(n * count);
        let _ = group.all_gather(&mine[..count], &mut output).unwrap();
        assert_eq!(output, first_blocks, "all_gather of {dtype}");
        let mut output = poison(at_root(n * count));
        let _ = group.gather(&mine[..count], &mut output, root).unwrap();
        assert_eq!(output, first_blocks[..at_root(n * count)], "gather of {dtype}");
        let mut output = poison(n * count);
        let _ = group.all_to_all(mine, &mut output).unwrap();
        assert_eq!(output, my_blocks, "all_to_all of {dtype}");
        let of_root = &inputs[root as usize];
        let mut output = poison(count);
        let _ = group.scatter(&mine[..at_root(n * count)], &mut output, root).unwrap();
        assert_eq!(output, of_root[me * count..][..count], "scatter of {dtype}");
        let mut data = mine.clone();
        let _ = group.broadcast(&mut data, root).unwrap();
        assert_eq!(&data, of_root, "broadcast of {dtype}");
    }
}

#[test]
fn equal_blocks_of_every_type() {
    everywhere(|group| {
        for count in [0, 1, 7, 1000] {
            every_type(group, &EqualBlocks { count });
        }
    });
}

struct UnequalBlocks {
    seed: usize,
}

impl UnequalBlocks {
    /// Elements that go from one rank to another: none for some.
    fn count(&self, from: usize, to: usize) -> usize {
        (self.seed * 7 + from * 3 + to * 5) % 6 * self.seed
    }

    /// The blocks that every rank has alike, in reverse order with a gap of one element before each; the length of it all.
    fn blocks(&self, n: usize) -> (Blocks, usize) {
        let counts: Vec<usize> = (0..n).map(|rank| self.count(0, rank)).collect();
        let (mut offsets, mut end) = (vec![0; n], 0);
        for rank in (0..n).rev() {
            offsets[rank] = end + 1;
            end = offsets[rank] + counts[rank];
        }
        (Blocks { counts, offsets }, end)
    }
}

impl Check for UnequalBlocks {
    fn run<T: Number>(&self, group: &Group) {
        let (me, n, dtype) = (group.rank() as usize, group.size() as usize, T::DTYPE);
        let root = self.seed % n;
        let (blocks, len) = self.blocks(n);
        let part = |rank: usize| blocks.offsets[rank]..blocks.offsets[rank] + blocks.counts[rank];
        let inputs: Vec<Vec<T>> = (0..n).map(|rank| input(self.seed, rank, len)).collect();
        let mine = &inputs[me];
        // What is between the blocks stays.
        let mut gathered = poison(len);
        (0..n).for_each(|rank| gathered[part(rank)].copy_from_slice(&inputs[rank][part(rank)]));

        let mut output = poison(len);
        let _ = group.all_gather_v(&mine[part(me)], &mut output, &blocks).unwrap();
        assert_eq!(output, gathered, "all_gather_v of {dtype}");
        let mut output = poison(blocks.counts[me]);
        let _ = group.reduce_scatter_v(mine, &blocks, &mut output, ReduceOp::Sum).unwrap();
        assert_eq!(output, summed(&inputs)[part(me)], "reduce_scatter_v of {dtype}");

        // Only the root knows the blocks.
        let (at_root, nothing) = (me == root, Blocks::default());
        let known = if at_root { &blocks } else { &nothing };
        let mut output = poison(if at_root { len } else { 0 });
        let _ = group.gather_v(&mine[part(me)], &mut output, known, root as u32).unwrap();
        assert!(output == if at_root { gathered } else { Vec::new() }, "gather_v of {dtype}");
        let mut output = poison(blocks.counts[me]);
        let whole = if at_root { mine.as_slice() } else { &[] };
        let _ = group.scatter_v(whole, known, &mut output, root as u32).unwrap();
        assert_eq!(output, inputs[root][part(me)], "scatter_v of {dtype}");

        let sent = |from: usize, to: usize| input::<T>(self.seed + to, from, self.count(from, to));
        let send = Blocks::dense(&(0..n).map(|to| self.count(me, to)).collect::<Vec<_>>());
        let recv = Blocks::dense(&(0..n).map(|from| self.count(from, me)).collect::<Vec<_>>());
        let from_me: Vec<T> = (0..n).flat_map(|to| sent(me, to)).collect();
        let to_me: Vec<T> = (0..n).flat_map(|from| sent(from, me)).collect();
        let mut output = poison(to_me.len());
        let _ = group.all_to_all_v(&from_me, &send, &mut output, &recv).unwrap();
        assert_eq!(output, to_me, "all_to_all_v of {dtype}");
    }
}

#[test]
fn unequal_blocks_of_every_type() {
    everywhere(|group| {
        for seed in [0, 1, 2, 400] {
            every_type(group, &UnequalBlocks { seed });
        }
    });
}

/// Sums alone would be the same of numbers that are no pairs.
#[test]
fn complex_numbers_are_multiplied_and_averaged() {
    everywhere(|group| {
        let n = group.size();
        // Powers of 1 + i grow slowly enough to be exact.
        let mut factors = vec![Complex::new(1f32, 1.0); 5];
        let _ = group.all_reduce(&mut factors, ReduceOp::Prod).unwrap();
        assert_eq!(factors, vec![Complex::new(1f32, 1.0).powu(n); 5]);
        let mut terms = vec![Complex::new(f64::from(group.rank()), -1.0); 5];
        let _ = group.all_reduce(&mut terms, ReduceOp::Avg).unwrap();
        assert_eq!(terms, vec![Complex::new(f64::from(n - 1) / 2.0, -1.0); 5]);
        let refused = group.all_reduce(&mut terms, ReduceOp::Max).unwrap_err().to_string();
        assert!(refused.contains("max") && refused.contains("c128"), "{refused}");
    });
}

/// Sums that a float of 16 bits cannot hold on the way to their average.
#[test]
fn averages_of_narrow_floats_are_rounded_once() {
    everywhere(|group| {
        let large = f16::from_f32(60_000.0);
        let mut data = vec![large; 3];
        let _ = group.all_reduce(&mut data, ReduceOp::Avg).unwrap();
        assert_eq!(data, [large; 3]);
    });
}

/// Nothing is sent: each rank gets the error of its own call, and the group goes on.
#[test]
fn lengths_that_do_not_fit_are_named() {
    everywhere(|group| {
        let (rank, n) = (group.rank(), group.size() as usize);
        let blocks = Blocks::dense(&vec![2; n]);
        let refused = |result: Result<ronde::Outcome, Error>, words: &str| {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        };
        let (three, mut whole, mut out) = ([0f32; 3], vec![0f32; 2 * n], [0f32; 3]);
        refused(
            group.all_gather_v(&three, &mut whole, &blocks),
            "the input has 3 elements, this rank's block 2",
        );
        refused(
            group.reduce_scatter_v(&whole, &blocks, &mut out, ReduceOp::Sum),
            "the output has 3 elements, this rank's block 2",
        );
        refused(group.gather_v(&three, &mut whole, &blocks, rank), "the root's input has 3 elements");
        refused(group.scatter_v(&whole, &blocks, &mut out, rank), "the root's output has 3 elements");
        let too_many = Blocks::dense(&vec![2; n + 1]);
        let words = format!("{} counts", n + 1);
        refused(group.all_gather_v(&three[..2], &mut whole, &too_many), &words);
        let _ = group.barrier().unwrap();
    });
}
