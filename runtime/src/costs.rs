//! Measures the parameters of the chooser's cost model on the links of a group.

use crate::group::Group;
use ronde_algorithms::Costs;
use ronde_core::call::{Call, CallOptions};
use ronde_core::error::{Error, Misuse, Result};
use ronde_core::memory::lend;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Tolerance};
use std::time::Instant;

/// Rounds of each measurement; the median counts.
const ROUNDS: usize = 15;
/// Messages in a round of small ones.
const BURST: usize = 64;
/// Bytes of a large message.
const LARGE: usize = 8 << 20;
/// No machine reduces faster: seconds per byte.
const LEAST_REDUCE: f64 = 5e-12;

impl Group {
    /// Measures what a message and a byte cost between ranks 0 and 1, and what reducing costs, in about a
    /// second. All ranks call it, and get the name of the kind of link (`shm`, `tcp` where all ranks
    /// are on one machine, `net` where they are on several) and its costs as rank 0 saw them; put them in a
    /// [`CostTable`](crate::CostTable) for [`Config::costs`](crate::Config::costs) or `RONDE_COSTS`.
    pub fn measure_costs(&self) -> Result<(&'static str, Costs)> {
        if self.size() < 2 {
            return Err(Misuse::Other("costs are measured between two ranks".into()).into());
        }
        let mut costs = [0f64; 4];
        if self.rank() < 2 {
            costs = Pair { group: self, other: 1 - self.rank() }.measure()?;
        }
        let _ = self.broadcast(&mut costs, 0)?;
        let [latency, message, byte, reduce] = costs;
        let other = u32::from(self.rank() == 0);
        let link = self.links().into_iter().find(|link| link.rank == other);
        let link = link.ok_or_else(|| Error::internal("no link to measure"))?;
        let kind = match link.transport {
            "tcp" if self.has_machines() => "net",
            transport => transport,
        };
        Ok((kind, Costs { latency, message, byte, reduce }))
    }
}

struct Pair<'a> {
    group: &'a Group,
    other: u32,
}

impl Pair<'_> {
    fn measure(&self) -> Result<[f64; 4]> {
        let there_and_back = self.median(|| (0..BURST).try_for_each(|_| self.there_and_back()))?;
        let one_way = there_and_back / (2 * BURST) as f64;
        // Messages that overlap cost what they keep the processors busy with.
        let burst = self.median(|| self.burst())? / BURST as f64;
        let message = burst.min(0.8 * one_way);
        let (sent, mut received) = (vec![1u8; LARGE], vec![0u8; LARGE]);
        let exchange = self.median(|| self.exchange(&sent, &mut received))?;
        let vector = vec![1f32; LARGE / size_of::<f32>()];
        let mut sum = vector.clone();
        let reduced = self.median(|| self.all_reduce(&vector, &mut sum))?;
        // Between two ranks a two-shot all-reduce moves as many bytes, and reads as many to reduce.
        let byte = exchange / LARGE as f64;
        let reduce = ((reduced - exchange) / LARGE as f64).max(LEAST_REDUCE);
        Ok([one_way - message, message, byte, reduce])
    }

    /// Seconds of one run, after one to warm up.
    fn median(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        run()?;
        let mut seconds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            self.there_and_back()?;
            let start = Instant::now();
            run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[ROUNDS / 2])
    }

    fn message(&self, collective: Collective, bytes: usize) -> Call {
        Call { collective, dtype: DType::U8, count: bytes, peer: self.other, ..Call::EMPTY }
    }

    fn there_and_back(&self) -> Result<()> {
        let (sent, mut received) = ([1u8; 8], [0u8; 8]);
        lend(|lender| {
            let send = Call { input: lender.shared(&sent), ..self.message(Collective::Send, 8) };
            let recv = Call { output: lender.unique(&mut received), ..self.message(Collective::Recv, 8) };
            let (first, second) = if self.other == 1 { (send, recv) } else { (recv, send) };
            let _ = self.group.run(first)?;
            self.group.run(second).map(drop)
        })
    }

    fn burst(&self) -> Result<()> {
        let (sent, mut received) = ([1u8; 8 * BURST], [0u8; 8 * BURST]);
        lend(|lender| {
            let (sent, received) = (lender.shared(&sent), lender.unique(&mut received));
            let calls = (0..BURST).map(|at| match self.other {
                1 => Call { input: sent.slice(at * 8, 8), ..self.message(Collective::Send, 8) },
                _ => Call { output: received.slice(at * 8, 8), ..self.message(Collective::Recv, 8) },
            });
            self.group.run_all(calls).map(drop)
        })?;
        self.there_and_back()
    }

    fn exchange(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        lend(|lender| {
            let send = Call { input: lender.shared(sent), ..self.message(Collective::Send, sent.len()) };
            let bytes = received.len();
            let recv = Call { output: lender.unique(received), ..self.message(Collective::Recv, bytes) };
            self.group.run_all(vec![send, recv]).map(drop)
        })
    }

    fn all_reduce(&self, vector: &[f32], sum: &mut [f32]) -> Result<()> {
        lend(|lender| {
            let call = Call {
                collective: Collective::AllReduce,
                dtype: DType::F32,
                count: vector.len(),
                reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
                input: lender.shared(vector),
                output: lender.unique(sum),
                options: CallOptions {
                    algorithm: Some("two-shot"),
                    tolerance: Tolerance::None,
                    ..CallOptions::default()
                },
                ..Call::EMPTY
            };
            self.group.run(call).map(drop)
        })
    }
}
