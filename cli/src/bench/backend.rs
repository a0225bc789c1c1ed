//! What the measuring loop needs of a group, so that it can be tested without one.

use crate::output_file::OutputFile;
use crate::quantity::show_bytes;
use ronde::memory::{Pod, lend};
use ronde::{
    Call, Collective, DType, Element, Error, Group, Outcome, ReduceOp, Reduction, Result, SharedBuffer,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of the reason why a file cannot be made.
const MOST_WORDS: usize = 1024;

/// Memory for vectors.
pub(crate) trait Memory {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// A group of ranks and two clocks.
pub(crate) trait Backend {
    fn rank(&self) -> u32;
    fn ranks(&self) -> u32;
    /// Makes a call and waits for its end.
    fn run(&self, call: Call) -> Result<Outcome>;
    /// Makes several calls at once and waits for all.
    fn run_all(&self, calls: Vec<Call>) -> Result<Vec<Outcome>>;
    /// Zeroed memory, registered with the group or plain.
    fn allocate(&self, bytes: usize, registered: bool) -> Result<Box<dyn Memory>>;
    /// Time since some start.
    fn elapsed(&self) -> Duration;
    /// Processor time of this process.
    fn cpu_time(&self) -> Duration;
}

/// Waits for all ranks.
pub(crate) fn meet(backend: &dyn Backend) -> Result<()> {
    backend.run(Call::EMPTY).map(drop)
}

/// Rank 0 makes an output file.
pub(crate) fn create_output(path: Option<&Path>, backend: &dyn Backend) -> anyhow::Result<Output> {
    let Some(path) = path else { return Ok(Output { is_wanted: false, file: None }) };
    let file = if backend.rank() == 0 { OutputFile::create(path).map(Some) } else { Ok(None) };
    let file = tell_all(backend, file)?;
    Ok(Output { is_wanted: true, file })
}

/// The output file of a bench, which rank 0 has.
pub(crate) struct Output {
    is_wanted: bool,
    file: Option<OutputFile>,
}

impl Output {
    /// Rank 0 writes it, and all hear whether it could; returns its name on rank 0.
    pub(crate) fn finish(
        self,
        content: impl FnOnce() -> anyhow::Result<Vec<u8>>,
        backend: &dyn Backend,
    ) -> anyhow::Result<Option<PathBuf>> {
        match self.is_wanted {
            true => tell_all(backend, self.finish_alone(content)),
            false => Ok(None),
        }
    }

    /// As [`Output::finish`] where the others may not listen any more.
    pub(crate) fn finish_alone(
        self,
        content: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Option<PathBuf>> {
        self.file.map(|file| file.finish(&content()?)).transpose()
    }
}

/// If rank 0 has failed, all ranks end alike and say why, none as the victim of another's end.
fn tell_all<T>(backend: &dyn Backend, done: anyhow::Result<T>) -> anyhow::Result<T> {
    // Whoever ends first is heard: all have the words.
    let mut why = [0u8; MOST_WORDS];
    if let Err(error) = &done {
        let words = format!("{error:#}");
        let len = words.len().min(MOST_WORDS);
        why[..len].copy_from_slice(&words.as_bytes()[..len]);
    }
    combine(backend, &mut why, ReduceOp::Max)?;
    let why = String::from_utf8_lossy(&why);
    match why.trim_end_matches('\0') {
        "" => done,
        why => anyhow::bail!("{why}"),
    }
}

/// Reduces numbers over all ranks, in place.
pub(crate) fn combine<T: Element>(backend: &dyn Backend, numbers: &mut [T], op: ReduceOp) -> Result<()> {
    let count = numbers.len();
    lend(|lender| {
        let data = lender.unique(numbers);
        let reduction = Some(Reduction::Builtin(op));
        let call =
            Call { input: data.clone(), output: data, reduction, ..typed::<T>(Collective::AllReduce, count) };
        backend.run(call).map(drop)
    })
}

/// Everybody's `mine`, in the order of the ranks; all have the same length.
pub(crate) fn gather<T: Element + Default>(backend: &dyn Backend, mine: &[T]) -> Result<Vec<T>> {
    let mut all = vec![T::default(); mine.len() * backend.ranks() as usize];
    lend(|lender| {
        let (input, output) = (lender.shared(mine), lender.unique(&mut all));
        backend.run(Call { input, output, ..typed::<T>(Collective::AllGather, mine.len()) }).map(drop)
    })?;
    Ok(all)
}

fn typed<T: Element + Pod>(collective: Collective, count: usize) -> Call {
    let dtype: DType = T::DTYPE;
    Call { collective, dtype, count, ..Call::EMPTY }
}

/// A group of the library.
pub(crate) struct GroupBackend<'a> {
    group: &'a Group,
    start: Instant,
}

impl<'a> GroupBackend<'a> {
    pub(crate) fn new(group: &'a Group) -> GroupBackend<'a> {
        GroupBackend { group, start: Instant::now() }
    }
}

impl Backend for GroupBackend<'_> {
    fn rank(&self) -> u32 {
        self.group.rank()
    }

    fn ranks(&self) -> u32 {
        self.group.size()
    }

    fn run(&self, call: Call) -> Result<Outcome> {
        self.group.run(call)
    }

    fn run_all(&self, calls: Vec<Call>) -> Result<Vec<Outcome>> {
        self.group.run_all(calls)
    }

    fn allocate(&self, bytes: usize, registered: bool) -> Result<Box<dyn Memory>> {
        Ok(match registered {
            true => Box::new(Registered(self.group.mem_alloc(bytes)?)),
            false => Box::new(Plain::new(bytes)?),
        })
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn cpu_time(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    }
}

struct Registered(SharedBuffer);

impl Memory for Registered {
    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

/// Memory of the heap, from an address that is a multiple of [`Plain::ALIGN`].
pub(crate) struct Plain {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Plain {
    /// What arrays of numerical programs are aligned to.
    const ALIGN: usize = 64;

    pub(crate) fn new(len: usize) -> Result<Plain> {
        let size = len.saturating_add(Plain::ALIGN);
        // Zeroed memory comes as pages that take nothing until they are written, but only from a macro that ends the
        // process where there is none: that is found out first.
        Vec::<u8>::new()
            .try_reserve_exact(size)
            .map_err(|error| Error::resource(format!("{}: {error}", show_bytes(len as u64))))?;
        let storage = vec![0u8; size];
        let address = storage.as_ptr().addr();
        Ok(Plain { start: address.next_multiple_of(Plain::ALIGN) - address, storage, len })
    }
}

impl Memory for Plain {
    fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}
