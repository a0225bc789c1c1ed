//! Every collective × element type × operator × in and out of place × transport × number of ranks, on
//! real processes, against an oracle in integers. In place, a rooted collective is called in both ways
//! that programs use: with the root's vectors alone, and with the same vectors on every rank.
//!
//! Values are small integers that every element type holds exactly, so the oracle needs no floats:
//! it computes in `i64` and encodes the result once. Buffers start at odd addresses, outputs poisoned.

use half::{bf16, f16};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde::{Call, CallOptions, Collective, DType, Group, ReduceOp, Reduction, Segment, Tolerance};
use ronde_core::memory::Arena;
use ronde_multiprocess::{is_child, run};

const POISON: u8 = 0xa5;

/// Bytes of a small integer in an element type.
fn encode(dtype: DType, value: i64) -> Vec<u8> {
    use DType::*;
    let small_float = |exponent_bits: u32, mantissa_bits: u32| -> Vec<u8> {
        let magnitude = value.unsigned_abs() as f32;
        if magnitude == 0.0 {
            return vec![0];
        }
        let exponent = magnitude.log2().floor() as i32;
        let mantissa = ((magnitude / 2f32.powi(exponent) - 1.0) * (1 << mantissa_bits) as f32) as u8;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let bits = ((exponent + bias) as u8) << mantissa_bits | mantissa;
        vec![bits | if value < 0 { 0x80 } else { 0 }]
    };
    match dtype {
        I8 | U8 => vec![value as u8],
        I16 | U16 => (value as u16).to_le_bytes().to_vec(),
        I32 | U32 => (value as u32).to_le_bytes().to_vec(),
        I64 | U64 => (value as u64).to_le_bytes().to_vec(),
        F16 => f16::from_f32(value as f32).to_le_bytes().to_vec(),
        Bf16 => bf16::from_f32(value as f32).to_le_bytes().to_vec(),
        F32 => (value as f32).to_le_bytes().to_vec(),
        F64 => (value as f64).to_le_bytes().to_vec(),
        Bool => vec![u8::from(value != 0)],
        C64 => [(value as f32).to_le_bytes(), 0f32.to_le_bytes()].concat(),
        C128 => [(value as f64).to_le_bytes(), 0f64.to_le_bytes()].concat(),
        F8E4M3 => small_float(4, 3),
        F8E5M2 => small_float(5, 2),
    }
}

/// A value of rank `rank` at element `i`, exact in every type together with what is made of it.
fn value(dtype: DType, op: Option<ReduceOp>, seed: u64, rank: usize, i: usize) -> i64 {
    // An average is exact when all ranks have the same value.
    let rank = if op == Some(ReduceOp::Avg) { 0 } else { rank };
    let mut rng = SmallRng::seed_from_u64(seed ^ (rank as u64) << 40 ^ i as u64);
    let signed = !matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool);
    // Products of floats keep clear of zeros, whose sign an integer oracle does not know.
    let product = op == Some(ReduceOp::Prod);
    match (dtype, signed) {
        (dtype, _) if product && dtype.is_complex() => rng.random_range(1..3),
        (dtype, _) if product && !dtype.is_integer() && dtype != DType::Bool => {
            1 - 2 * rng.random_range(0..2)
        }
        (DType::Bool, _) => rng.random_range(0..2),
        (_, true) => rng.random_range(-1..=1),
        (_, false) => rng.random_range(0..=1),
    }
}

fn combine(dtype: DType, op: ReduceOp, values: &[i64]) -> i64 {
    let boolean = dtype == DType::Bool;
    match op {
        ReduceOp::Sum if boolean => i64::from(values.iter().any(|v| *v != 0)),
        ReduceOp::Sum => values.iter().sum(),
        ReduceOp::Avg => values[0],
        ReduceOp::Prod => values.iter().product(),
        ReduceOp::Min => *values.iter().min().unwrap(),
        ReduceOp::Max => *values.iter().max().unwrap(),
        ReduceOp::Band => values.iter().fold(-1, |a, b| a & b),
        ReduceOp::Bor => values.iter().fold(0, |a, b| a | b),
        ReduceOp::Bxor => values.iter().fold(0, |a, b| a ^ b),
    }
}

/// Memory at an odd address.
struct Odd {
    arena: Arena,
    len: usize,
}

impl Odd {
    fn new(bytes: &[u8]) -> Odd {
        let arena = Arena::new(bytes.len() + 64);
        arena.segment(1, bytes.len()).fill_from(bytes);
        Odd { arena, len: bytes.len() }
    }

    fn part(&self, offset: usize, len: usize) -> Segment {
        self.arena.segment(1 + offset, len)
    }

    fn all(&self) -> Segment {
        self.part(0, self.len)
    }
}

/// How input and output of a call lie to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Apart,
    /// The same memory where a rank has both.
    Shared,
    /// Every rank names the same memory as input and output, as programs do that make the same call everywhere,
    /// also where a rank sends or receives nothing. For rooted collectives.
    NamedByAll,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    collective: Collective,
    dtype: DType,
    op: Option<ReduceOp>,
    count: usize,
    root: u32,
    place: Place,
    tolerance: Tolerance,
    seed: u64,
}

impl Case {
    fn element(&self, rank: usize, i: usize) -> i64 {
        value(self.dtype, self.op, self.seed, rank, i)
    }

    fn encode(&self, values: impl IntoIterator<Item = i64>) -> Vec<u8> {
        values.into_iter().flat_map(|v| encode(self.dtype, v)).collect()
    }

    /// Elements of a rank's input.
    fn input_len(&self, rank: usize, n: usize) -> usize {
        use Collective::*;
        match self.collective {
            ReduceScatter | AllToAll => n * self.count,
            Scatter => {
                if rank == self.root as usize {
                    n * self.count
                } else {
                    0
                }
            }
            Broadcast => {
                if rank == self.root as usize {
                    self.count
                } else {
                    0
                }
            }
            _ => self.count,
        }
    }

    fn input(&self, rank: usize, n: usize) -> Vec<u8> {
        self.encode((0..self.input_len(rank, n)).map(|i| self.element(rank, i)))
    }

    fn reduced(&self, n: usize, i: usize) -> i64 {
        let values: Vec<i64> = (0..n).map(|rank| self.element(rank, i)).collect();
        self.op.map_or(0, |op| combine(self.dtype, op, &values))
    }

    fn expected(&self, rank: usize, n: usize) -> Vec<u8> {
        use Collective::*;
        let (c, root) = (self.count, self.root as usize);
        match self.collective {
            AllReduce => self.encode((0..c).map(|i| self.reduced(n, i))),
            Reduce if rank == root => self.encode((0..c).map(|i| self.reduced(n, i))),
            ReduceScatter => self.encode((0..c).map(|i| self.reduced(n, rank * c + i))),
            Broadcast => self.encode((0..c).map(|i| self.element(root, i))),
            AllGather => self.encode((0..n * c).map(|i| self.element(i / c.max(1), i % c.max(1)))),
            Gather if rank == root => {
                self.encode((0..n * c).map(|i| self.element(i / c.max(1), i % c.max(1))))
            }
            Scatter => self.encode((0..c).map(|i| self.element(root, rank * c + i))),
            AllToAll => self.encode((0..n * c).map(|i| self.element(i / c.max(1), rank * c + i % c.max(1)))),
            _ => Vec::new(),
        }
    }

    /// Runs the case on this rank and checks the bytes.
    fn check(&self, group: &Group) {
        let (rank, n) = (group.rank() as usize, group.size() as usize);
        let input = self.input(rank, n);
        let expected = self.expected(rank, n);
        let call = Call {
            collective: self.collective,
            dtype: self.dtype,
            count: self.count,
            peer: self.root,
            reduction: self.op.map(Reduction::Builtin),
            options: CallOptions { tolerance: self.tolerance, ..CallOptions::default() },
            ..Call::EMPTY
        };
        let got = if self.place != Place::Apart {
            self.run_in_place(group, call, &input, expected.len())
        } else {
            let (source, target) = (Odd::new(&input), Odd::new(&vec![POISON; expected.len()]));
            let call = Call { input: source.all(), output: target.all(), ..call };
            let _ = group.run(call).unwrap_or_else(|e| panic!("{self:?}: {e}"));
            assert_eq!(source.all().bytes(), input, "{self:?}: the input changed");
            target.all().bytes().to_vec()
        };
        assert!(got == expected, "{self:?} rank {rank}: got {got:?}, expected {expected:?}");
    }

    /// Lengths in bytes of the longest input and output of any rank, which the root has.
    fn lengths_at_root(&self, n: usize) -> (usize, usize) {
        let block = self.count * self.dtype.size();
        match self.collective {
            Collective::Gather => (block, n * block),
            Collective::Scatter => (n * block, block),
            _ => (block, block),
        }
    }

    /// Returns the output. Nothing else in the memory may change.
    fn run_in_place(&self, group: &Group, call: Call, input: &[u8], output: usize) -> Vec<u8> {
        use Collective::*;
        let (rank, n) = (group.rank() as usize, group.size() as usize);
        let (named_input, named_output) = match self.place {
            Place::NamedByAll => self.lengths_at_root(n),
            _ => (input.len(), output),
        };
        let memory = Odd::new(&vec![POISON; named_input.max(named_output)]);
        let own = rank * self.count * self.dtype.size();
        // Where a rank has the whole vector, the other side is its own block of it.
        let (from, to) = match self.collective {
            AllGather | Gather if named_output > 0 => (own, 0),
            ReduceScatter | Scatter if named_input > 0 => (0, own),
            _ => (0, 0),
        };
        memory.part(from, input.len()).fill_from(input);
        let mut wanted = memory.all().bytes().to_vec();
        let call =
            Call { input: memory.part(from, named_input), output: memory.part(to, named_output), ..call };
        let _ = group.run(call).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        let got = memory.part(to, output).bytes().to_vec();
        wanted[to..to + output].copy_from_slice(&got);
        assert!(memory.all().bytes() == wanted, "{self:?} rank {rank}: more than the output changed");
        got
    }
}

fn cases(n: usize) -> Vec<Case> {
    use Collective::*;
    let mut cases = Vec::new();
    let mut seed = 7;
    for collective in [AllReduce, ReduceScatter, AllGather, AllToAll, Broadcast, Reduce, Gather, Scatter] {
        let reduces = collective.reduces();
        let places: &[Place] = match collective.has_root() {
            true => &[Place::Apart, Place::Shared, Place::NamedByAll],
            false => &[Place::Apart, Place::Shared],
        };
        for dtype in DType::ALL {
            let ops: Vec<Option<ReduceOp>> = match reduces {
                true => ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)).map(Some).collect(),
                false => vec![None],
            };
            for op in ops {
                for &place in places {
                    // Where a root's vectors lie has nothing to do with the operator: one spares time.
                    if place != Place::Apart && collective == Reduce && op != Some(ReduceOp::Sum) {
                        continue;
                    }
                    for count in [0, 1, n - 1, n, n + 1, 251] {
                        seed += 1;
                        let root = (seed % n as u64) as u32;
                        let tolerance = if seed % 3 == 0 { Tolerance::None } else { Tolerance::Recover };
                        cases.push(Case { collective, dtype, op, count, root, place, tolerance, seed });
                    }
                }
            }
        }
        for count in [40_000, 400_001] {
            let op = reduces.then_some(ReduceOp::Sum);
            for &place in places {
                let (dtype, tolerance) = (DType::F32, Tolerance::Recover);
                seed += 1;
                let root = (seed % n as u64) as u32;
                cases.push(Case { collective, dtype, op, count, root, place, tolerance, seed });
            }
        }
    }
    cases
}

#[test]
fn matrix_rank() {
    if !is_child() {
        return;
    }
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    for case in cases(group.size() as usize) {
        case.check(&group);
    }
    group.close().expect("close");
}

#[test]
fn over_tcp() {
    if !is_child() {
        for ranks in [1, 2, 3, 4, 5, 8] {
            run("matrix_rank", ranks, &[("RONDE_TRANSPORTS", "tcp")]);
        }
    }
}

#[test]
fn over_shared_memory() {
    if !is_child() {
        for ranks in [2, 3, 4, 5, 8] {
            run("matrix_rank", ranks, &[("RONDE_TRANSPORTS", "shm")]);
        }
    }
}
