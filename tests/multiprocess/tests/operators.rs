//! Pre-multiplied sums, operators of the user, and blocks of different sizes, over each kind of link and
//! against an oracle. Ranks are threads, since a process may hold several.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ronde::memory::lend;
use ronde::{Blocks, Call, Collective, DType, Group, Outcome, Reduction, UserReduce};
use ronde_multiprocess::everywhere;
use std::ops::Range;
use std::sync::Arc;

const POISON: f32 = -7777.5;

/// Values of a rank that others can compute too: of both signs, and of sizes from tiny to large.
fn values(seed: u64, rank: u32, count: usize) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed << 16 | u64::from(rank));
    (0..count).map(|_| rng.random_range(-1f32..1.0) * 10f32.powi(rng.random_range(-20..20))).collect()
}

fn run(group: &Group, call: Call, input: &[f32], output: &mut [f32]) {
    let _ = outcome_of(group, call, input, output);
}

fn outcome_of(group: &Group, call: Call, input: &[f32], output: &mut [f32]) -> Outcome {
    let outcome = lend(|lender| {
        let (input, output) = (lender.shared(input), lender.unique(output));
        group.run(Call { dtype: DType::F32, input, output, ..call })
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.contributors, group.size());
    outcome
}

fn run_in_place(group: &Group, call: Call, data: &mut [f32]) -> Outcome {
    let outcome = lend(|lender| {
        let data = lender.unique(data);
        group.run(Call { dtype: DType::F32, input: data.clone(), output: data, ..call })
    });
    outcome.unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn scalar(rank: u32) -> f32 {
    [0.5, -3.25, 1e-3, 7.0, 1.0][rank as usize % 5]
}

/// Each rank's scalar, times its values rounded to a float, in rank order.
#[test]
fn sums_of_multiples() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        for (seed, count) in [0usize, 1, 7, 1000, 70_001].into_iter().enumerate() {
            let whole = |rank| values(seed as u64, rank, count * ranks as usize);
            let inputs: Vec<Vec<f32>> = (0..ranks).map(whole).collect();
            let sums: Vec<f32> = (0..count * ranks as usize)
                .map(|i| {
                    let terms = inputs.iter().zip(0..).map(|(input, rank)| input[i] * scalar(rank));
                    terms.reduce(|sum, term| sum + term).unwrap_or(0.0)
                })
                .collect();
            let mut bytes = [0u8; 16];
            bytes[..4].copy_from_slice(&scalar(rank).to_le_bytes());
            let reduction = Some(Reduction::PreMulSum(bytes));
            let mine = &inputs[rank as usize];
            // The direct algorithms sum in rank order; others may not, so their bits are not those.
            let options = ronde::CallOptions { algorithm: Some("two-shot"), ..Default::default() };

            let mut output = vec![POISON; mine.len()];
            let call = Call { collective: Collective::AllReduce, count: mine.len(), options, ..Call::EMPTY };
            run(group, Call { reduction: reduction.clone(), ..call }, mine, &mut output);
            assert_eq!(bits(&output), bits(&sums), "all_reduce of {count}");

            let mut block = vec![POISON; count];
            let options = ronde::CallOptions { algorithm: Some("direct"), ..Default::default() };
            let call = Call { collective: Collective::ReduceScatter, count, options, ..Call::EMPTY };
            run(group, Call { reduction, ..call }, mine, &mut block);
            let first = rank as usize * count;
            assert_eq!(bits(&block), bits(&sums[first..first + count]), "reduce_scatter of {count}");
        }
    });
}

/// Each rank's weight, times its values rounded to a float, in rank order, divided by the sum of the weights once. Who weighs
/// nothing may hold anything.
#[test]
fn weighted_averages() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        let weight = |rank: u32| if rank == 1 { 0.0 } else { 0.25 + f64::from(rank) };
        let weights: f64 = (0..ranks).map(weight).sum();
        for (seed, count) in [1usize, 7, 1000, 70_001].into_iter().enumerate() {
            let inputs: Vec<Vec<f32>> = (0..ranks).map(|rank| values(seed as u64, rank, count)).collect();
            let averages: Vec<f32> = (0..count)
                .map(|i| {
                    let term = |rank: u32| match rank {
                        1 => 0.0,
                        _ => inputs[rank as usize][i] * weight(rank) as f32,
                    };
                    (0..ranks).map(term).reduce(|sum, term| sum + term).unwrap_or(0.0) / weights as f32
                })
                .collect();
            let mut mine = inputs[rank as usize].clone();
            if rank == 1 {
                mine.fill(f32::INFINITY);
            }
            let reduction = Some(Reduction::WeightedAvg(weight(rank)));
            let options = ronde::CallOptions { algorithm: Some("two-shot"), ..Default::default() };
            let call = Call { collective: Collective::AllReduce, count, options, reduction, ..Call::EMPTY };
            let mut output = vec![POISON; count];
            let outcome = outcome_of(group, call.clone(), &mine, &mut output);
            assert_eq!(bits(&output), bits(&averages), "{count}");
            assert_eq!(outcome.weight, Some(weights));
            // Other algorithms sum in another order, in place too.
            for algorithm in ["one-shot", "ring", "recursive-doubling", "halving-doubling"] {
                let options = ronde::CallOptions { algorithm: Some(algorithm), ..Default::default() };
                let mut output = mine.clone();
                let outcome = run_in_place(group, Call { options, ..call.clone() }, &mut output);
                assert!(
                    (outcome.weight.expect("a weight") - weights).abs() < 1e-9,
                    "{algorithm}: {outcome:?}"
                );
                let scale = averages.iter().fold(0f32, |most, x| most.max(x.abs()));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= scale * 1e-4;
                assert!(output.iter().zip(&averages).all(near), "{algorithm} of {count}");
            }
        }
    });
}

/// Products of 2 x 2 matrices: the order counts.
struct Product;

type Matrix = [u64; 4];

fn product(a: Matrix, b: Matrix) -> Matrix {
    let term = |i: usize, j: usize| a[i].wrapping_mul(b[j]).wrapping_add(a[i + 1].wrapping_mul(b[j + 2]));
    [term(0, 0), term(0, 1), term(2, 0), term(2, 1)]
}

fn matrix(bytes: &[u8]) -> Matrix {
    std::array::from_fn(|i| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap()))
}

impl UserReduce for Product {
    fn combine(&self, src: &[u8], acc: &mut [u8], dtype: DType) {
        assert_eq!(dtype, DType::C128, "an element is as long as half a matrix");
        for (src, acc) in src.chunks_exact(32).zip(acc.chunks_exact_mut(32)) {
            let both = product(matrix(acc), matrix(src));
            acc.copy_from_slice(&both.map(u64::to_le_bytes).concat());
        }
    }
}

/// An operator of the user gets its operands in rank order. A matrix fills two elements: no piece may
/// end between them, which holds for blocks of 64 bytes.
#[test]
fn products_of_matrices() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        for (seed, matrices) in [0usize, 1, 2, 64, 1000, 30_000].into_iter().enumerate() {
            let of = |rank: u32| {
                let mut rng = SmallRng::seed_from_u64((seed as u64) << 16 | u64::from(rank));
                (0..4 * matrices).flat_map(|_| rng.random::<u64>().to_le_bytes()).collect::<Vec<u8>>()
            };
            let inputs: Vec<Vec<u8>> = (0..ranks).map(of).collect();
            let expected: Vec<u8> = (0..matrices)
                .flat_map(|i| {
                    let all = inputs.iter().map(|input| matrix(&input[32 * i..]));
                    all.reduce(product).unwrap_or_default().map(u64::to_le_bytes).concat()
                })
                .collect();
            let mut output = vec![0xa5u8; 32 * matrices];
            let mine = inputs[rank as usize].clone();
            let outcome = lend(|lender| {
                group.run(Call {
                    collective: Collective::AllReduce,
                    dtype: DType::C128,
                    count: 2 * matrices,
                    reduction: Some(Reduction::User(Arc::new(Product))),
                    input: lender.shared(&mine),
                    output: lender.unique(&mut output),
                    ..Call::EMPTY
                })
            });
            let _ = outcome.unwrap();
            assert!(output == expected, "{matrices} matrices, rank {rank}");
        }
    });
}

/// Block sizes from nothing to a few windows, the same on all ranks.
fn random_counts(rng: &mut SmallRng, ranks: u32) -> Vec<usize> {
    (0..ranks)
        .map(|_| match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(1..10),
            2 => rng.random_range(10..2000),
            _ => rng.random_range(2000..90_000),
        })
        .collect()
}

/// The blocks in any order in memory, with gaps between them; returns the length of it all.
fn scattered(rng: &mut SmallRng, counts: &[usize]) -> (Blocks, usize) {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.shuffle(rng);
    let (mut offsets, mut end) = (vec![0; counts.len()], 0);
    for rank in order {
        offsets[rank] = end + rng.random_range(0..3);
        end = offsets[rank] + counts[rank];
    }
    (Blocks { counts: counts.to_vec(), offsets }, end)
}

/// Only the blocks were written, with these values.
fn assert_blocks(memory: &[f32], blocks: &Blocks, expected: &[Vec<f32>], what: &str) {
    let mut left = memory.to_vec();
    for ((&count, &offset), expected) in blocks.counts.iter().zip(&blocks.offsets).zip(expected) {
        assert_eq!(bits(&memory[offset..offset + count]), bits(expected), "{what}");
        left[offset..offset + count].fill(POISON);
    }
    assert!(left.iter().all(|value| *value == POISON), "{what}: something was written between the blocks");
}

#[test]
fn blocks_of_all_sizes_gathered_and_scattered() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        for seed in 0..12u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let counts = random_counts(&mut rng, ranks);
            let (blocks, len) = scattered(&mut rng, &counts);
            let own = counts[rank as usize];
            let all: Vec<Vec<f32>> = (0..ranks).map(|r| values(seed, r, counts[r as usize])).collect();
            let mine = &all[rank as usize];

            let mut output = vec![POISON; len];
            let call = Call { collective: Collective::AllGatherV, recv: blocks.clone(), ..Call::EMPTY };
            run(group, Call { count: own, ..call }, mine, &mut output);
            assert_blocks(&output, &blocks, &all, "all_gather_v");

            let root = seed as u32 % ranks;
            let at_root = rank == root;
            let mut output = vec![POISON; if at_root { len } else { 0 }];
            let call = Call { collective: Collective::GatherV, count: own, peer: root, ..Call::EMPTY };
            let recv = if at_root { blocks.clone() } else { Blocks::default() };
            run(group, Call { recv, ..call }, mine, &mut output);
            if at_root {
                assert_blocks(&output, &blocks, &all, "gather_v");
            }

            let mut input = vec![POISON; if at_root { len } else { 0 }];
            if at_root {
                for (r, block) in all.iter().enumerate() {
                    input[blocks.offsets[r]..blocks.offsets[r] + counts[r]].copy_from_slice(block);
                }
            }
            let mut output = vec![POISON; own];
            let call = Call { collective: Collective::ScatterV, count: own, peer: root, ..Call::EMPTY };
            let send = if at_root { blocks.clone() } else { Blocks::default() };
            run(group, Call { send, ..call }, &input, &mut output);
            assert_eq!(bits(&output), bits(mine), "scatter_v");
        }
    });
}

#[test]
fn blocks_of_all_sizes_reduced_and_exchanged() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        for seed in 100..112u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let counts = random_counts(&mut rng, ranks);
            let (blocks, len) = scattered(&mut rng, &counts);
            let inputs: Vec<Vec<f32>> = (0..ranks).map(|r| values(seed, r, len)).collect();
            let (own, first) = (counts[rank as usize], blocks.offsets[rank as usize]);
            let greatest = |i: usize| inputs.iter().map(|input| input[i]).fold(f32::NEG_INFINITY, f32::max);
            let expected: Vec<f32> = (first..first + own).map(greatest).collect();
            let mut output = vec![POISON; own];
            let reduction = Some(Reduction::Builtin(ronde::ReduceOp::Max));
            let call = Call { collective: Collective::ReduceScatterV, count: own, reduction, ..Call::EMPTY };
            run(group, Call { send: blocks, ..call }, &inputs[rank as usize], &mut output);
            assert_eq!(bits(&output), bits(&expected), "reduce_scatter_v");

            // A matrix of block sizes that every rank draws alike; where blocks lie is its own affair.
            let sizes: Vec<Vec<usize>> = (0..ranks).map(|_| random_counts(&mut rng, ranks)).collect();
            let block = |from: u32, to: u32| {
                values(seed * 100 + u64::from(to), from, sizes[from as usize][to as usize])
            };
            let mut rng = SmallRng::seed_from_u64(seed << 8 | u64::from(rank));
            let (send, sent) = scattered(&mut rng, &sizes[rank as usize]);
            let column: Vec<usize> = sizes.iter().map(|row| row[rank as usize]).collect();
            let (recv, received) = scattered(&mut rng, &column);
            let mut input = vec![POISON; sent];
            for to in 0..ranks {
                let at = send.offsets[to as usize];
                input[at..at + send.counts[to as usize]].copy_from_slice(&block(rank, to));
            }
            let mut output = vec![POISON; received];
            let call = Call { collective: Collective::AllToAllV, send, recv: recv.clone(), ..Call::EMPTY };
            run(group, call, &input, &mut output);
            let expected: Vec<Vec<f32>> = (0..ranks).map(|from| block(from, rank)).collect();
            assert_blocks(&output, &recv, &expected, "all_to_all_v");
        }
    });
}

/// Runs a call in place: input and output are stretches of one memory.
fn run_in_one(group: &Group, call: Call, data: &mut [f32], from: Range<usize>, to: Range<usize>) {
    let outcome = lend(|lender| {
        let all = lender.unique(data);
        let part = |range: &Range<usize>| all.slice(4 * range.start, 4 * range.len());
        group.run(Call { dtype: DType::F32, input: part(&from), output: part(&to), ..call })
    });
    let _ = outcome.unwrap();
}

/// A rank's own block of the longer side is the shorter side. Nothing changes but what is received.
#[test]
fn blocks_of_all_sizes_in_place() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank() as usize, group.size());
        for seed in 200..212u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let counts = random_counts(&mut rng, ranks);
            let (blocks, len) = scattered(&mut rng, &counts);
            let part = |of: usize| blocks.offsets[of]..blocks.offsets[of] + counts[of];
            let (own, count) = (part(rank), counts[rank]);
            let inputs: Vec<Vec<f32>> = (0..ranks).map(|r| values(seed, r, len)).collect();
            let (mine, root) = (&inputs[rank], seed as usize % ranks as usize);
            // With each rank's own block in its place, and the memory of a rank before the call around it.
            let gathered = |around: &[f32]| {
                let mut all = around.to_vec();
                (0..inputs.len()).for_each(|of| all[part(of)].copy_from_slice(&inputs[of][part(of)]));
                all
            };
            let call = |collective, send: &Blocks, recv: &Blocks| {
                let (send, recv) = (send.clone(), recv.clone());
                Call { collective, count, peer: 0, send, recv, ..Call::EMPTY }
            };
            let (at_root, none) = (rank == root, Blocks::default());
            let rooted = |call: Call| Call { peer: root as u32, ..call };

            let mut data = mine.clone();
            let all_gather = call(Collective::AllGatherV, &none, &blocks);
            run_in_one(group, all_gather, &mut data, own.clone(), 0..len);
            assert_eq!(bits(&data), bits(&gathered(mine)), "all_gather_v");

            let mut data = mine.clone();
            let reduction = Some(Reduction::Builtin(ronde::ReduceOp::Max));
            let reduce_scatter = Call { reduction, ..call(Collective::ReduceScatterV, &blocks, &none) };
            run_in_one(group, reduce_scatter, &mut data, 0..len, own.clone());
            let greatest = |i: usize| inputs.iter().map(|input| input[i]).fold(f32::NEG_INFINITY, f32::max);
            let mut expected = mine.clone();
            own.clone().for_each(|i| expected[i] = greatest(i));
            assert_eq!(bits(&data), bits(&expected), "reduce_scatter_v");

            let mut data = mine.clone();
            let gather = rooted(call(Collective::GatherV, &none, if at_root { &blocks } else { &none }));
            run_in_one(group, gather, &mut data, own.clone(), if at_root { 0..len } else { 0..0 });
            let expected = if at_root { gathered(mine) } else { mine.clone() };
            assert_eq!(bits(&data), bits(&expected), "gather_v");

            let mut data = mine.clone();
            let scatter = rooted(call(Collective::ScatterV, if at_root { &blocks } else { &none }, &none));
            run_in_one(group, scatter, &mut data, if at_root { 0..len } else { 0..0 }, own.clone());
            let mut expected = mine.clone();
            expected[own.clone()].copy_from_slice(&inputs[root][own]);
            assert_eq!(bits(&data), bits(&expected), "scatter_v");
        }
    });
}

/// In place, what a rank sends to another is as long as what comes back, and lies where that goes.
#[test]
fn blocks_of_all_sizes_exchanged_in_place() {
    everywhere(|group| {
        let (rank, ranks) = (group.rank(), group.size());
        for seed in 300..306u64 {
            let length = |a: u32, b: u32| {
                let pair = u64::from(a.min(b)) << 8 | u64::from(a.max(b));
                SmallRng::seed_from_u64(seed << 16 | pair).random_range(0..30_000)
            };
            let block = |from: u32, to: u32| values(seed * 100 + u64::from(to), from, length(from, to));
            let counts: Vec<usize> = (0..ranks).map(|other| length(rank, other)).collect();
            let (blocks, len) = scattered(&mut SmallRng::seed_from_u64(seed << 8 | u64::from(rank)), &counts);
            let mut data = vec![POISON; len];
            for (to, (&offset, &count)) in (0..).zip(blocks.offsets.iter().zip(&counts)) {
                data[offset..offset + count].copy_from_slice(&block(rank, to));
            }
            let (send, recv) = (blocks.clone(), blocks.clone());
            let call = Call { collective: Collective::AllToAllV, send, recv, ..Call::EMPTY };
            run_in_one(group, call, &mut data, 0..len, 0..len);
            let expected: Vec<Vec<f32>> = (0..ranks).map(|from| block(from, rank)).collect();
            assert_blocks(&data, &blocks, &expected, "all_to_all_v");
        }
    });
}
