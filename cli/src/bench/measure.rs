//! Measuring one row: rewrite the vectors, meet, run, and check.
//!
//! No operation reads a vector that a cache still holds from the operation before: every vector is
//! written anew before it is used. That takes place outside the measured time, for as many vectors at
//! once as fit into [`BATCH_BYTES`] (at least one), after which the ranks meet and run the operations of
//! the batch one after another. So a small operation is not timed together with the barrier before it.

use super::backend::{Backend, Memory, combine, meet};
use super::layout::{Layout, Piece, Place, Source};
use super::oracle::Contents;
use super::stats::PerIteration;
use crate::args::{Average, BenchOp, Target};
use anyhow::Result;
use ronde::memory::lend;
use ronde::{Call, CallOptions, Collective, DType, Outcome, Part, ReduceOp, Reduction, Segment};
use std::ops::Range;
use std::time::Duration;

/// Vectors of one batch take at most this much, unless one alone is larger.
const BATCH_BYTES: usize = 1 << 20;
/// Vectors start at multiples of this (plus what `--unalign` adds).
const VECTOR_ALIGN: usize = 64;
/// Vectors are rewritten from a pattern of this length.
const PATTERN_BYTES: usize = 64 << 10;
/// What an output holds before a checked operation.
const POISON: u8 = 0xa5;

/// What a row measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) target: Target,
    pub(crate) dtype: DType,
    pub(crate) op: Option<BenchOp>,
    pub(crate) root: u32,
}

/// How a row is measured.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) iters: u32,
    pub(crate) agg_iters: u32,
    pub(crate) warmup_iters: u32,
    pub(crate) check: u32,
    pub(crate) blocking: bool,
    pub(crate) cpu_time: bool,
    pub(crate) average: Average,
    pub(crate) per_iter: bool,
    pub(crate) per_iter_skip: u32,
    pub(crate) unalign: u32,
    pub(crate) registered: bool,
    pub(crate) options: CallOptions,
}

impl Method {
    /// How many operations so many iterations are: more than the numbers of both flags together may hold.
    fn operations(&self, iters: u32) -> usize {
        iters as usize * self.agg_iters as usize
    }
}

/// One side of a row: out of place or in place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Side {
    pub(crate) time_us: f64,
    pub(crate) alg_bw: f64,
    pub(crate) bus_bw: f64,
    /// Wrong elements over all ranks; `None` where nothing was checked.
    pub(crate) wrong: Option<u64>,
    pub(crate) per_iter: Option<PerIteration>,
    /// Fewest contributors of any operation.
    pub(crate) contributors: u32,
}

/// The memory of all rows, allocated once for the largest.
pub(crate) struct Vectors {
    send: Box<dyn Memory>,
    recv: Box<dyn Memory>,
}

/// Where the vectors of one row lie.
struct Arrangement<'a> {
    layout: &'a Layout,
    in_place: bool,
    element: usize,
    /// Bytes before the first element of each vector.
    skew: usize,
    send_stride: usize,
    recv_stride: usize,
    /// Operations of one batch.
    operations: usize,
}

/// The measuring of one side of one row.
pub(crate) struct Bench<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) method: &'a Method,
    pub(crate) case: Case,
    pub(crate) count: usize,
}

impl<'a> Arrangement<'a> {
    /// `whole` is the number of elements of the longest vector of any rank.
    fn new(
        layout: &'a Layout,
        whole: usize,
        in_place: bool,
        element: usize,
        method: &Method,
    ) -> Arrangement<'a> {
        let skew = method.unalign as usize * element;
        let stride = |elements: usize| (elements * element + skew).next_multiple_of(VECTOR_ALIGN);
        let (send, recv) = match in_place {
            true => (0, layout.in_place),
            false => (layout.input, layout.output),
        };
        let (send_stride, recv_stride) = (stride(send), stride(recv));
        let agg = method.agg_iters as usize;
        // Every rank must make the same batches, though a root's vectors are longer than the others'.
        let fit = BATCH_BYTES / (2 * stride(whole)).max(VECTOR_ALIGN) / agg * agg;
        Arrangement {
            layout,
            in_place,
            element,
            skew,
            send_stride,
            recv_stride,
            operations: fit.clamp(agg, method.operations(method.iters)),
        }
    }

    /// Bytes that the vectors of a batch take: sent from, received into.
    fn needs(&self) -> (usize, usize) {
        let of_batch = |stride: usize| stride.saturating_mul(self.operations);
        (of_batch(self.send_stride), of_batch(self.recv_stride))
    }

    fn input(&self, send: &Segment, recv: &Segment, at: usize) -> Segment {
        let (from, stride) = if self.in_place { (recv, self.recv_stride) } else { (send, self.send_stride) };
        let range = self.layout.input_range(self.in_place);
        from.slice(at * stride + self.skew + range.start * self.element, range.len() * self.element)
    }

    fn output(&self, recv: &Segment, at: usize) -> Segment {
        let range = self.layout.output_range(self.in_place);
        let start = at * self.recv_stride + self.skew + range.start * self.element;
        recv.slice(start, range.len() * self.element)
    }
}

/// What the operations of a batch have in common.
struct Pattern<'a> {
    arrangement: &'a Arrangement<'a>,
    send: Segment,
    recv: Segment,
    first: Call,
    /// Of a send the receive that goes with it.
    second: Option<Call>,
}

impl Pattern<'_> {
    /// The call of an operation, or the first of its two.
    fn first_call(&self, at: usize) -> Call {
        let input = self.arrangement.input(&self.send, &self.recv, at);
        let output =
            if self.second.is_some() { Segment::EMPTY } else { self.arrangement.output(&self.recv, at) };
        Call { input, output, ..self.first.clone() }
    }

    fn second_call(&self, at: usize) -> Option<Call> {
        let output = self.arrangement.output(&self.recv, at);
        self.second.clone().map(|second| Call { output, ..second })
    }
}

impl Vectors {
    /// Memory for the given rows, `(case, count)`.
    pub(crate) fn for_rows(
        backend: &dyn Backend,
        method: &Method,
        rows: impl Iterator<Item = (Case, usize)>,
    ) -> Result<Vectors> {
        let (mut send, mut recv) = (0, 0);
        for (case, count) in rows {
            let layout = case.layout(backend, count);
            for in_place in [false, true] {
                let whole = case.longest(backend, count);
                let needs = Arrangement::new(&layout, whole, in_place, case.dtype.size(), method).needs();
                (send, recv) = (send.max(needs.0), recv.max(needs.1));
            }
        }
        let registered = method.registered;
        Ok(Vectors { send: backend.allocate(send, registered)?, recv: backend.allocate(recv, registered)? })
    }
}

impl Case {
    fn layout(&self, backend: &dyn Backend, count: usize) -> Layout {
        self.target.layout(count, Place { rank: backend.rank(), ranks: backend.ranks(), root: self.root })
    }

    /// Elements of the longest vector of any rank.
    fn longest(&self, backend: &dyn Backend, count: usize) -> usize {
        let element = self.dtype.size();
        (self.target.row_bytes(count, element, backend.ranks()) / element as u64) as usize
    }

    fn contents(&self, ranks: u32, seed: u64) -> Contents {
        Contents { dtype: self.dtype, op: self.op, ranks, seed }
    }
}

impl Bench<'_> {
    /// Measures and checks one side.
    pub(crate) fn side(&self, vectors: &mut Vectors, in_place: bool) -> Result<Side> {
        let layout = self.case.layout(self.backend, self.count);
        let whole = self.case.longest(self.backend, self.count);
        let arrangement = Arrangement::new(&layout, whole, in_place, self.case.dtype.size(), self.method);
        let mut contributors = self.backend.ranks();
        self.time(&arrangement, vectors, self.method.warmup_iters, &mut contributors)?;
        let timed = self.time(&arrangement, vectors, self.method.iters, &mut contributors)?;
        let wrong = self.check(&arrangement, vectors, &mut contributors)?;
        let per_operation = timed.total / self.method.operations(self.method.iters) as f64;
        let time_us = self.over_ranks(&mut [per_operation])?;
        let per_iter = match self.method.per_iter {
            true => self.per_iteration(timed.each)?,
            false => None,
        };
        let bytes = self.case.target.row_bytes(self.count, self.case.dtype.size(), self.backend.ranks());
        let alg_bw = if time_us > 0.0 { bytes as f64 / time_us / 1e3 } else { 0.0 };
        let bus_bw = alg_bw * self.case.target.bus_factor(self.backend.ranks());
        Ok(Side { time_us, alg_bw, bus_bw, wrong, per_iter, contributors })
    }

    fn time(
        &self,
        arrangement: &Arrangement<'_>,
        vectors: &mut Vectors,
        iters: u32,
        contributors: &mut u32,
    ) -> Result<Timed> {
        let mut timed = Timed::default();
        let mut left = self.method.operations(iters);
        let mut pattern = vec![0; PATTERN_BYTES];
        self.case.contents(self.backend.ranks(), 0).fill(self.backend.rank(), &mut pattern);
        while left > 0 {
            let operations = left.min(arrangement.operations);
            left -= operations;
            self.rewrite(arrangement, vectors, operations, &pattern);
            let batch = lend(|lender| {
                let (send, recv) =
                    (lender.shared(vectors.send.bytes()), lender.unique(vectors.recv.bytes_mut()));
                self.time_batch(&self.pattern(arrangement, send, recv), operations, contributors)
            })?;
            timed.total += batch.total;
            timed.each.extend(batch.each);
        }
        Ok(timed)
    }

    fn rewrite(
        &self,
        arrangement: &Arrangement<'_>,
        vectors: &mut Vectors,
        operations: usize,
        pattern: &[u8],
    ) {
        let (memory, stride) = match arrangement.in_place {
            true => (&mut vectors.recv, arrangement.recv_stride),
            false => (&mut vectors.send, arrangement.send_stride),
        };
        for part in memory.bytes_mut()[..stride * operations].chunks_mut(pattern.len()) {
            part.copy_from_slice(&pattern[..part.len()]);
        }
    }

    /// What the operations of a batch have in common.
    fn pattern<'a>(&self, arrangement: &'a Arrangement<'a>, send: Segment, recv: Segment) -> Pattern<'a> {
        let (rank, ranks) = (self.backend.rank(), self.backend.ranks());
        let base = Call {
            collective: self.case.target.collective(),
            dtype: self.case.dtype,
            count: arrangement.layout.count,
            reduction: self.reduction(),
            peer: if self.case.target.has_root() { self.case.root } else { 0 },
            send: arrangement.layout.send.clone(),
            recv: arrangement.layout.recv.clone(),
            options: self.method.options.clone(),
            ..Call::EMPTY
        };
        let is_pair = self.case.target == Target::SendRecv;
        let from = Call { collective: Collective::Recv, peer: (rank + ranks - 1) % ranks, ..base.clone() };
        let first = if is_pair { Call { peer: (rank + 1) % ranks, ..base } } else { base };
        Pattern { arrangement, send, recv, first, second: is_pair.then_some(from) }
    }

    fn reduction(&self) -> Option<Reduction> {
        Some(match self.case.op? {
            BenchOp::Builtin(op) => Reduction::Builtin(op),
            BenchOp::MulSum => {
                Reduction::PreMulSum(self.case.contents(self.backend.ranks(), 0).scalar(self.backend.rank()))
            }
        })
    }

    /// Runs a batch after all ranks have met. Calls are made one at a time: a list of them would push the vectors out of
    /// the cache.
    fn time_batch(&self, pattern: &Pattern<'_>, operations: usize, contributors: &mut u32) -> Result<Timed> {
        let together = self.method.agg_iters as usize;
        let iterations = operations.div_ceil(together);
        let mut each = Vec::with_capacity(if self.method.per_iter { iterations } else { 0 });
        meet(self.backend)?;
        let start = self.clock();
        let mut last = start;
        for first in (0..operations).step_by(together) {
            let all = first..operations.min(first + together);
            self.run_together(pattern, all, |outcome| {
                *contributors = outcome.contributors.min(*contributors);
            })?;
            if self.method.blocking {
                meet(self.backend)?;
            }
            if self.method.per_iter {
                let now = self.clock();
                each.push(micros(now - last) / f64::from(self.method.agg_iters));
                last = now;
            }
        }
        Ok(Timed { total: micros(self.clock() - start), each })
    }

    fn run_together(
        &self,
        pattern: &Pattern<'_>,
        operations: Range<usize>,
        note: impl FnMut(Outcome),
    ) -> Result<()> {
        if operations.len() == 1 && pattern.second.is_none() {
            [self.backend.run(pattern.first_call(operations.start))?].into_iter().for_each(note);
            return Ok(());
        }
        let calls = operations.flat_map(|at| [Some(pattern.first_call(at)), pattern.second_call(at)]);
        self.backend.run_all(calls.flatten().collect())?.into_iter().for_each(note);
        Ok(())
    }

    fn clock(&self) -> Duration {
        if self.method.cpu_time { self.backend.cpu_time() } else { self.backend.elapsed() }
    }

    /// Runs operations on fresh random contents and compares every element; the sum over all ranks.
    fn check(
        &self,
        arrangement: &Arrangement<'_>,
        vectors: &mut Vectors,
        contributors: &mut u32,
    ) -> Result<Option<u64>> {
        if self.method.check == 0 || !self.case.target.has_data() {
            return Ok(None);
        }
        let mut wrong = 0u64;
        for round in 0..self.method.check {
            let seed = u64::from(round) << 40 | self.count as u64;
            let contents = self.case.contents(self.backend.ranks(), seed);
            wrong += self.check_once(arrangement, vectors, &contents, contributors)?;
        }
        let mut total = [wrong];
        combine(self.backend, &mut total, ReduceOp::Sum)?;
        Ok(Some(total[0]))
    }

    fn check_once(
        &self,
        arrangement: &Arrangement<'_>,
        vectors: &mut Vectors,
        contents: &Contents,
        contributors: &mut u32,
    ) -> Result<u64> {
        let rank = self.backend.rank();
        vectors.recv.bytes_mut()[..arrangement.recv_stride].fill(POISON);
        let (element, skew) = (arrangement.element, arrangement.skew);
        let bytes_of = |range: Range<usize>| skew + range.start * element..skew + range.end * element;
        let input = bytes_of(arrangement.layout.input_range(arrangement.in_place));
        let source = if arrangement.in_place { &mut vectors.recv } else { &mut vectors.send };
        contents.fill(rank, &mut source.bytes_mut()[input.clone()]);
        let mut outcome = Outcome::default();
        lend(|lender| {
            let (send, recv) = (lender.shared(vectors.send.bytes()), lender.unique(vectors.recv.bytes_mut()));
            self.run_together(&self.pattern(arrangement, send, recv), 0..1, |last| outcome = last)
        })?;
        *contributors = outcome.contributors.min(*contributors);
        let output = &vectors.recv.bytes()[bytes_of(arrangement.layout.output_range(arrangement.in_place))];
        let mut wrong = 0;
        for (piece, absent) in arrangement.layout.expected.iter().flat_map(|piece| by_absent(piece, &outcome))
        {
            let bytes = &output[piece.output.start * element..piece.output.end * element];
            wrong += contents.count_wrong(&piece, bytes, absent);
        }
        if !arrangement.in_place {
            // An operation out of place leaves its input alone.
            let all = 0..arrangement.layout.input;
            let own = Piece { output: all, source: Source::Copied { rank, start: 0 } };
            wrong += contents.count_wrong(&own, &vectors.send.bytes()[input], &[]);
        }
        Ok(wrong)
    }

    fn per_iteration(&self, mut each: Vec<f64>) -> Result<Option<PerIteration>> {
        let skip = (self.method.per_iter_skip as usize).min(each.len().saturating_sub(1));
        each.drain(..skip);
        self.over_ranks(&mut each)?;
        Ok(PerIteration::of(each))
    }

    /// Makes one number of those of all ranks, as `-a` says; returns the first.
    fn over_ranks(&self, times: &mut [f64]) -> Result<f64> {
        let op = match self.method.average {
            Average::Rank0 => None,
            Average::Mean => Some(ReduceOp::Avg),
            Average::Min => Some(ReduceOp::Min),
            Average::Max => Some(ReduceOp::Max),
        };
        if let Some(op) = op {
            combine(self.backend, times, op)?;
        }
        Ok(times.first().copied().unwrap_or(0.0))
    }
}

/// A piece of a result as stretches that lack the same ranks.
fn by_absent<'a>(piece: &Piece, outcome: &'a Outcome) -> Vec<(Piece, &'a [u32])> {
    if outcome.parts.is_empty() {
        return vec![(piece.clone(), &outcome.absent)];
    }
    let within = |part: &'a Part| {
        let start = part.elements.start.max(piece.output.start);
        let end = part.elements.end.min(piece.output.end);
        (start < end).then(|| (piece.cut(start..end), part.absent.as_slice()))
    };
    outcome.parts.iter().filter_map(within).collect()
}

/// Measured microseconds.
#[derive(Default)]
struct Timed {
    total: f64,
    each: Vec<f64>,
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mesh::{MeshRank, on_mesh};

    const TARGETS: [Target; 11] = [
        Target::AllReduce,
        Target::AllGather,
        Target::ReduceScatter,
        Target::AllToAll,
        Target::AllToAllV,
        Target::Broadcast,
        Target::Reduce,
        Target::Gather,
        Target::Scatter,
        Target::SendRecv,
        Target::Barrier,
    ];

    fn method() -> Method {
        Method {
            iters: 3,
            agg_iters: 1,
            warmup_iters: 1,
            check: 2,
            blocking: false,
            cpu_time: false,
            average: Average::Mean,
            per_iter: false,
            per_iter_skip: 0,
            unalign: 0,
            registered: false,
            options: CallOptions::default(),
        }
    }

    fn case(target: Target) -> Case {
        let op = target.reduces().then_some(BenchOp::Builtin(ReduceOp::Sum));
        Case { target, dtype: DType::F32, op, root: 1 }
    }

    fn measure(rank: &MeshRank, method: &Method, case: Case, count: usize, in_place: bool) -> Side {
        let rows = std::iter::once((case, count));
        let mut vectors = Vectors::for_rows(rank, method, rows).unwrap();
        Bench { backend: rank, method, case, count }.side(&mut vectors, in_place).unwrap()
    }

    #[test]
    fn right_results_count_as_right() {
        for target in TARGETS {
            for (in_place, count) in [(false, 0), (false, 1), (false, 37), (true, 37)] {
                if in_place && !target.has_in_place() {
                    continue;
                }
                for agg_iters in [1, 3] {
                    let method = Method { unalign: 1, agg_iters, ..method() };
                    let sides = on_mesh(3, |rank| measure(&rank, &method, case(target), count, in_place));
                    let expected = target.has_data().then_some(0);
                    assert!(sides.iter().all(|side| side.wrong == expected), "{} {sides:?}", target.name());
                }
            }
        }
    }

    #[test]
    fn results_without_the_lost_are_right_and_their_contributors_counted() {
        for target in TARGETS.into_iter().filter(|target| *target != Target::SendRecv) {
            for in_place in [false, true] {
                if in_place && !target.has_in_place() {
                    continue;
                }
                let sides = on_mesh(4, |mut rank| {
                    rank.absent = vec![3];
                    measure(&rank, &method(), case(target), 37, in_place)
                });
                let expected = (target.has_data().then_some(0), 3);
                let found = |side: &Side| (side.wrong, side.contributors);
                assert!(sides.iter().all(|side| found(side) == expected), "{} {sides:?}", target.name());
            }
        }
    }

    #[test]
    fn parts_of_a_vector_lack_ranks_of_their_own() {
        let part = |elements: Range<usize>, absent: &[u32]| Part {
            contributors: 3 - absent.len() as u32,
            absent: absent.to_vec(),
            elements,
        };
        let mut outcome = Outcome::default();
        outcome.parts = vec![part(0..10, &[]), part(10..20, &[1])];
        let piece = Piece { output: 4..16, source: Source::Reduced { start: 0 } };
        let cut = |output, start| Piece { output, source: Source::Reduced { start } };
        assert_eq!(by_absent(&piece, &outcome), [(cut(4..10, 0), &[][..]), (cut(10..16, 6), &[1][..])]);
        outcome.parts.clear();
        outcome.absent = vec![2];
        assert_eq!(by_absent(&piece, &outcome), [(piece.clone(), &[2][..])]);
    }

    #[test]
    fn a_wrong_element_of_one_rank_is_counted_on_all() {
        for target in TARGETS.into_iter().filter(|target| target.has_data() && !target.reduces()) {
            let collective = match target {
                Target::SendRecv => Collective::Recv,
                other => other.collective(),
            };
            let sides = on_mesh(3, |mut rank| {
                rank.corrupts = (rank.rank() == 1).then_some(collective);
                measure(&rank, &method(), case(target), 5, false)
            });
            let wrong: Vec<_> = sides.iter().map(|side| side.wrong).collect();
            assert_eq!(wrong, [Some(2); 3], "{}: one wrong element in each of two checks", target.name());
        }
    }

    #[test]
    fn time_is_per_operation_without_barriers_and_rewriting() {
        // The clock of the mesh ticks once per call.
        let [side] = &on_mesh(1, |rank| measure(&rank, &method(), case(Target::AllGather), 4, false))[..]
        else {
            panic!("one rank");
        };
        assert!((side.time_us - 1.0).abs() < 1e-9, "{side:?}");
        assert!((side.alg_bw - 16.0 / 1e3).abs() < 1e-9, "{side:?}");
        let cpu = Method { cpu_time: true, ..method() };
        let sides = on_mesh(2, |rank| measure(&rank, &cpu, case(Target::AllGather), 4, true));
        assert!((sides[0].time_us - 2.0).abs() < 1e-9, "{sides:?}");
    }

    #[test]
    fn many_iterations_of_many_operations_are_counted() {
        let method = Method { iters: 5_000_000, agg_iters: 1024, ..method() };
        assert_eq!(method.operations(method.iters), 5_120_000_000);
    }

    #[test]
    fn per_iteration_figures_leave_the_first_out() {
        let method = Method { per_iter: true, per_iter_skip: 2, blocking: true, iters: 5, ..method() };
        let sides = on_mesh(2, |rank| measure(&rank, &method, case(Target::AllToAll), 4, false));
        let figures = sides[1].per_iter.as_ref().unwrap();
        assert_eq!(figures.times_us.len(), 3);
        // With `-z`, each iteration is the operation and a barrier.
        assert!(figures.times_us.iter().all(|time| (time - 2.0).abs() < 1e-9), "{figures:?}");
    }
}
