//! A group of threads that share one table: the measuring loop's partner in tests. Slow and plain.

use super::backend::{Backend, Memory, Plain};
use ronde::{Call, Collective, DType, Outcome, ReduceOp, Reduction, Result};
use ronde_core::memory::Access;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What one rank puts in: its calls with their inputs.
type Offer = Vec<(Call, Vec<u8>)>;

#[derive(Default)]
struct Table {
    rounds: Mutex<BTreeMap<u64, Vec<Option<Offer>>>>,
    complete: Condvar,
}

/// One rank of the mesh.
pub(crate) struct MeshRank {
    table: Arc<Table>,
    rank: u32,
    ranks: u32,
    round: Cell<u64>,
    /// Ticks by a microsecond with each call, so that measured times are known.
    ticks: Cell<u64>,
    /// Flips a bit in every result of this collective.
    pub(crate) corrupts: Option<Collective>,
    /// Ranks that count as lost in what is measured: results lack what they put in.
    pub(crate) absent: Vec<u32>,
}

/// Runs `body` on a thread per rank and returns what it returned, in the order of the ranks.
pub(crate) fn on_mesh<R: Send>(ranks: u32, body: impl Fn(MeshRank) -> R + Sync) -> Vec<R> {
    let table = Arc::new(Table::default());
    std::thread::scope(|scope| {
        let start = |rank| {
            let (table, body) = (table.clone(), &body);
            let (round, ticks) = (Cell::new(0), Cell::new(0));
            let absent = Vec::new();
            scope.spawn(move || body(MeshRank { table, rank, ranks, round, ticks, corrupts: None, absent }))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl MeshRank {
    fn exchange(&self, calls: &[Call]) -> Vec<Offer> {
        let round = self.round.replace(self.round.get() + 1);
        let offer = calls.iter().map(|call| (plain(call), call.input.bytes().to_vec())).collect();
        let mut rounds = self.table.rounds.lock().unwrap();
        let slots = rounds.entry(round).or_insert_with(|| vec![None; self.ranks as usize]);
        slots[self.rank as usize] = Some(offer);
        self.table.complete.notify_all();
        let full =
            |rounds: &mut BTreeMap<u64, Vec<Option<Offer>>>| rounds[&round].iter().any(Option::is_none);
        let (rounds, wait) =
            self.table.complete.wait_timeout_while(rounds, Duration::from_secs(60), full).unwrap();
        assert!(!wait.timed_out(), "a rank did not make call {round}");
        rounds[&round].iter().flatten().cloned().collect()
    }
}

impl Backend for MeshRank {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn run(&self, call: Call) -> Result<Outcome> {
        Ok(self.run_all(vec![call])?.swap_remove(0))
    }

    fn run_all(&self, mut calls: Vec<Call>) -> Result<Vec<Outcome>> {
        let offers = self.exchange(&calls);
        for (at, call) in calls.iter_mut().enumerate() {
            let result = result(&offers, at, call, self.rank as usize, &self.absent);
            let len = result.len();
            call.output.slice(0, len).fill_from(&result);
            if self.corrupts == Some(call.collective) && len > 0 {
                call.output.bytes_mut()[len - 1] ^= 1;
            }
        }
        self.ticks.set(self.ticks.get() + calls.len() as u64);
        let mut outcome = Outcome::default();
        outcome.contributors = self.ranks - self.absent.len() as u32;
        outcome.absent.clone_from(&self.absent);
        Ok(vec![outcome; calls.len()])
    }

    fn allocate(&self, bytes: usize, _registered: bool) -> Result<Box<dyn Memory>> {
        Ok(Box::new(Plain::new(bytes)?))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.ticks.get())
    }

    fn cpu_time(&self) -> Duration {
        Duration::from_micros(2 * self.ticks.get())
    }
}

/// A call without its buffers.
fn plain(call: &Call) -> Call {
    Call { input: ronde::Segment::EMPTY, output: ronde::Segment::EMPTY, ..call.clone() }
}

/// What one rank's call number `at` gives.
fn result(offers: &[Offer], at: usize, call: &Call, me: usize, absent: &[u32]) -> Vec<u8> {
    let bytes = call.count * call.dtype.size();
    let junk = vec![0xee; offers.iter().map(|offer| offer[at].1.len()).max().unwrap_or(0)];
    let input = |rank: usize| match &offers[rank][at].1 {
        // What the loop says to itself, such as times, is no result.
        input if absent.contains(&(rank as u32)) && call.dtype == DType::F32 => &junk[..input.len()],
        input => input.as_slice(),
    };
    let everyone = 0..offers.len();
    let root = call.peer as usize;
    let block = |rank: usize, number: usize| &input(rank)[number * bytes..(number + 1) * bytes];
    match call.collective {
        Collective::AllReduce => reduce(offers, at, call, 0, absent),
        Collective::Reduce if me == root => reduce(offers, at, call, 0, absent),
        Collective::ReduceScatter => reduce(offers, at, call, me * bytes, absent),
        Collective::Gather if me != root => Vec::new(),
        Collective::AllGather | Collective::Gather => everyone.flat_map(input).copied().collect(),
        Collective::AllToAll => everyone.flat_map(|from| block(from, me)).copied().collect(),
        Collective::AllToAllV => {
            let from = |rank: usize| {
                let (blocks, size) = (&offers[rank][at].0.send, call.dtype.size());
                let start = blocks.offsets[me] * size;
                input(rank)[start..start + blocks.counts[me] * size].to_vec()
            };
            everyone.flat_map(from).collect()
        }
        Collective::Broadcast => input(root).to_vec(),
        Collective::Scatter => block(root, me).to_vec(),
        Collective::Recv => {
            let sent = |(theirs, _): &&(Call, Vec<u8>)| {
                theirs.collective == Collective::Send && theirs.peer as usize == me
            };
            offers[root].iter().find(sent).map(|(_, bytes)| bytes.clone()).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn reduce(offers: &[Offer], at: usize, call: &Call, start: usize, absent: &[u32]) -> Vec<u8> {
    let present = offers.iter().enumerate().filter(|(rank, _)| !absent.contains(&(*rank as u32)));
    let inputs: Vec<&[u8]> = present.map(|(_, offer)| &offer[at].1[start..]).collect();
    let Some(Reduction::Builtin(op)) = call.reduction else { panic!("the mesh knows built-in operators") };
    match call.dtype {
        DType::U64 => {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            fold(&inputs, call.count, |a, b| a.wrapping_add(b), word, u64::to_le_bytes)
        }
        DType::F32 => {
            let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
            fold(&inputs, call.count, |a, b| a + b, word, f32::to_le_bytes)
        }
        DType::F64 => {
            let word = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap());
            let n = inputs.len() as f64;
            match op {
                ReduceOp::Min => fold(&inputs, call.count, f64::min, word, f64::to_le_bytes),
                ReduceOp::Max => fold(&inputs, call.count, f64::max, word, f64::to_le_bytes),
                ReduceOp::Avg => fold(&inputs, call.count, |a, b| a + b, word, |v| (v / n).to_le_bytes()),
                _ => fold(&inputs, call.count, |a, b| a + b, word, f64::to_le_bytes),
            }
        }
        other => panic!("the mesh does not know {other}"),
    }
}

fn fold<T, const SIZE: usize>(
    inputs: &[&[u8]],
    count: usize,
    op: impl Fn(T, T) -> T,
    read: impl Fn(&[u8]) -> T,
    write: impl Fn(T) -> [u8; SIZE],
) -> Vec<u8> {
    let element = |i: usize| {
        let values = inputs.iter().map(|input| read(&input[i * SIZE..(i + 1) * SIZE]));
        values.reduce(&op).map(&write).expect("a mesh has ranks")
    };
    (0..count).flat_map(element).collect()
}
