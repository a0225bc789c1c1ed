//! The group handle: what users call.

use crate::config::Config;
use crate::engine::diagnosis::RecentCall;
use crate::engine::{Current, Engine, GroupCell, Prepared, lock};
use crate::op::Op;
use crate::validate;
use ronde_core::call::{Blocks, Call, CallOptions};
use ronde_core::collective::{CommitGroupId, OpHandle};
use ronde_core::error::{Error, Misuse, Outcome, Result};
use ronde_core::membership::View;
use ronde_core::memory::{Arena, Pod, lend};
use ronde_core::reduce::{Kernels, Reduction};
use ronde_core::{Collective, DType, GroupId, MemberId, Rank, ReduceOp, Tag};
use ronde_shm::SharedBuffer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// As good as for ever.
const AGES: Duration = Duration::from_secs(1 << 31);
/// Tag of the library's own calls on a group.
const INTERNAL_TAG: Tag = Tag(u32::MAX);

/// Rust types that are element types: integers of 8 to 64 bits, [`half::f16`], [`half::bf16`], `f32`, `f64`, and with the
/// feature `num-complex` its `Complex<f32>` and `Complex<f64>`.
///
/// The others have no type of Rust that every byte of a peer would be a value of: [`Group::run`] takes them as bytes, with
/// [`DType::Bool`] and so on. Types of your own that are laid out as an element type may implement this.
pub trait Element: Pod {
    /// Their number.
    const DTYPE: DType;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
element!(i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
         f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => Bf16);
#[cfg(feature = "num-complex")]
element!(num_complex::Complex<f32> => C64, num_complex::Complex<f64> => C128);

/// A group of peers. Cheap to clone; clones are the same group.
///
/// Calls may be made from any thread. Threads that call concurrently use different tags, since the
/// calls of one tag must come in the same order on every rank.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    id: GroupId,
    cell: Arc<GroupCell>,
    /// The generation, and how many splits there were in it: newcomers count like the others.
    splits: Mutex<(u32, u32)>,
    closed: AtomicBool,
    /// The group that `join` made: closing it ends the job here.
    is_world: bool,
}

/// One link of a group, with what moved over it.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Rank of the other side.
    pub rank: u32,
    /// `"shm"` or `"tcp"`.
    pub transport: &'static str,
    /// How many connections have taken the place of others that were cut ([`Config::reconnect`]).
    pub reconnections: u32,
    /// Host name of the other side.
    pub host: String,
}

/// What a safe point changed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "after a change, ranks are new and newcomers need the state of the others"]
pub struct Update {
    /// Ranks are new from now on.
    pub changed: bool,
    /// Ranks, as they are now, of those who came.
    pub joined: Vec<u32>,
    /// Ranks, as they were, of those who are not there any more.
    pub gone: Vec<u32>,
}

impl Config {
    /// Joins the job this configuration describes and returns its group of all peers.
    pub fn join(&self) -> Result<Group> {
        let (engine, cell) = Engine::join(self)?;
        Ok(Group::new(engine, GroupId(0), cell, true))
    }
}

impl Group {
    fn new(engine: Arc<Engine>, id: GroupId, cell: Arc<GroupCell>, is_world: bool) -> Group {
        let (splits, closed) = (Mutex::default(), AtomicBool::new(false));
        Group { inner: Arc::new(Inner { id, cell, splits, closed, is_world, engine }) }
    }

    fn current(&self) -> Arc<Current> {
        self.inner.cell.get()
    }

    /// This process's rank. It changes only in [`Group::update`].
    pub fn rank(&self) -> u32 {
        self.current().planner.rank().0
    }

    /// Number of ranks. It changes only in [`Group::update`]; those that are lost leave holes until then.
    pub fn size(&self) -> u32 {
        self.current().planner.members().len() as u32
    }

    /// The default deadline of a call.
    pub fn timeout(&self) -> Duration {
        self.inner.engine.timeout
    }

    /// The first error that ended the group, if any.
    pub fn failure(&self) -> Option<Error> {
        self.inner.engine.failure()
    }

    /// The last calls of this process (256 that have ended, and all that are open), for a look at what a job does that does not
    /// go on. When a job fails the last of them are logged.
    pub fn recent_calls(&self) -> Vec<RecentCall> {
        self.inner.engine.recent_calls()
    }

    /// The links of this group.
    pub fn links(&self) -> Vec<LinkInfo> {
        let engine = &self.inner.engine;
        let links = engine.links();
        let (view, current) = (engine.view(), self.current());
        let members = current.planner.members().iter().enumerate();
        members
            .filter(|(rank, _)| *rank != current.planner.rank().index())
            .map(|(rank, &member)| LinkInfo {
                rank: rank as u32,
                // None if another thread is just passing a safe point.
                transport: links.get(member).map(|link| link.0).unwrap_or_default(),
                reconnections: links.get(member).map_or(0, |link| link.1),
                host: view.member(MemberId(member as u32)).map_or_else(String::new, |m| m.host.clone()),
            })
            .collect()
    }

    pub(crate) fn has_machines(&self) -> bool {
        self.current().planner.has_machines()
    }

    /// Zeroed memory that local peers read without a copy.
    pub fn mem_alloc(&self, bytes: usize) -> Result<SharedBuffer> {
        SharedBuffer::new(bytes, &self.inner.engine.registry)
            .map_err(|e| Error::resource(format!("cannot allocate {bytes} bytes of shared memory: {e}")))
    }

    /// Starts a call. The buffers named in it must stay valid until the op ends, which the makers of
    /// its segments vouch for.
    pub fn start(&self, mut call: Call) -> Result<Op> {
        let handle = self.inner.engine.start(self.prepare(&mut call)?, call)?;
        self.inner.engine.hand_to_background();
        Ok(Op::new(self.inner.engine.clone(), handle))
    }

    /// Makes a call and waits for its end on this thread.
    pub fn run(&self, mut call: Call) -> Result<Outcome> {
        self.inner.engine.run(self.prepare(&mut call)?, call)
    }

    /// Starts several calls, then waits for all; the first error wins. Sends and receives in a batch
    /// cannot deadlock by their order. All are checked before the first starts.
    pub fn run_all(&self, calls: impl IntoIterator<Item = Call>) -> Result<Vec<Outcome>> {
        let prepare = |mut call| Ok((self.prepare(&mut call)?, call));
        let prepared = calls.into_iter().map(prepare).collect::<Result<Vec<(Prepared, Call)>>>()?;
        let start = |(prepared, call)| self.inner.engine.start(prepared, call);
        let started: Vec<Result<OpHandle>> = prepared.into_iter().map(start).collect();
        let ended = started.into_iter().map(|handle| self.inner.engine.wait(handle?));
        ended.collect::<Vec<_>>().into_iter().collect()
    }

    /// Bytes that a call reads and writes on this rank: the least lengths of its input and output.
    pub fn buffer_bytes(&self, call: &Call) -> Result<(usize, usize)> {
        let current = self.current();
        Ok(validate::buffer_bytes(call, current.planner.rank(), current.planner.members().len() as u32)?)
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.inner.engine.control.is_forked()
    }

    pub(crate) fn open_commit_group(&self, tag: Tag, most_kept: usize) -> Result<CommitGroupId> {
        if self.inner.closed.load(Ordering::Relaxed) {
            return Err(Misuse::Closed.into());
        }
        check_tag(tag)?;
        self.inner.engine.open_commit_group(&self.current(), tag, most_kept)
    }

    /// Starts a call of a commit group. Its seal takes the result.
    pub(crate) fn start_in(&self, mut call: Call, commit_group: CommitGroupId) -> Result<OpHandle> {
        let prepared = self.prepare_in(&mut call, Some(commit_group))?;
        let handle = self.inner.engine.start(prepared, call)?;
        self.inner.engine.hand_to_background();
        Ok(handle)
    }

    /// Starts the seal of these calls. After an error they have ended all the same.
    pub(crate) fn start_seal(&self, mut seal: Call, id: CommitGroupId, calls: &[OpHandle]) -> Result<Op> {
        let prepared = self.prepare_in(&mut seal, Some(id))?;
        let handle = self.inner.engine.start_seal(prepared, seal, calls)?;
        self.inner.engine.hand_to_background();
        Ok(Op::new(self.inner.engine.clone(), handle))
    }

    /// Checks a call and plans it.
    fn prepare(&self, call: &mut Call) -> Result<Prepared> {
        if call.collective == Collective::Commit {
            let text = "a commit is no call of its own: Group::commit_group opens what it ends";
            return Err(Misuse::Other(text.into()).into());
        }
        check_tag(call.options.tag)?;
        self.prepare_in(call, None)
    }

    fn prepare_in(&self, call: &mut Call, commit_group: Option<CommitGroupId>) -> Result<Prepared> {
        let group = &*self.inner;
        // What was called in a commit group of a part that was closed meanwhile still becomes final.
        if group.closed.load(Ordering::Relaxed) && call.collective != Collective::Commit {
            return Err(Misuse::Closed.into());
        }
        let current = self.current();
        validate::check(call, current.planner.rank(), current.planner.members().len() as u32)?;
        let scratch = self.pre_multiply(call);
        let planned = current.planner.plan(call)?;
        let now = group.engine.now();
        let deadline = now.after(call.options.timeout.unwrap_or(group.engine.timeout));
        Ok(Prepared { current, planned, now, deadline, scratch, commit_group })
    }

    /// The input of a pre-multiplied sum or a weighted average is scaled into memory of the library first.
    fn pre_multiply(&self, call: &mut Call) -> Option<Arena> {
        let engine = &self.inner.engine;
        let scaled = |scratch: &Arena| scratch.segment(0, call.input.len());
        let scratch = match &call.reduction {
            Some(Reduction::PreMulSum(scalar)) => {
                let scratch = engine.take_scratch(call.input.len());
                engine.kernels.scale(call.dtype, scalar, &call.input, &scaled(&scratch));
                scratch
            }
            Some(Reduction::WeightedAvg(weight)) => {
                let scratch = engine.take_scratch(call.input.len());
                engine.kernels.weigh(call.dtype, *weight, &call.input, &scaled(&scratch));
                scratch
            }
            _ => return None,
        };
        call.input_in_output = call.input.overlaps(&call.output);
        call.input = scaled(&scratch);
        Some(scratch)
    }

    /// Splits the group: members with the same colour form a new one, ranked by (key, old rank).
    /// `None` joins no new group. Every member calls it.
    pub fn split(&self, color: Option<u32>, key: i32) -> Result<Option<Group>> {
        let generation = self.generation();
        let number = {
            let mut splits = lock(&self.inner.splits);
            if splits.0 != generation {
                *splits = (generation, 0);
            }
            splits.1 += 1;
            splits.1
        };
        let mine = [color.map_or(-1, i64::from), i64::from(key)];
        let current = self.current();
        let mut all = vec![0i64; 2 * current.planner.members().len()];
        let outcome = lend(|lender| {
            let (input, output) = (lender.shared(&mine), lender.unique(&mut all));
            self.run_own(Call { input, output, ..part::<i64>(Collective::AllGather, mine.len(), 0) })
        })?;
        let Some(color) = color else { return Ok(None) };
        let mut chosen: Vec<(i64, usize)> = all
            .chunks_exact(2)
            .enumerate()
            .filter(|(rank, pair)| pair[0] == i64::from(color) && !outcome.absent.contains(&(*rank as u32)))
            .map(|(rank, pair)| (pair[1], rank))
            .collect();
        chosen.sort_unstable();
        let me = chosen.iter().position(|(_, rank)| *rank == current.planner.rank().index());
        let Some(me) = me else { return Err(Error::internal("a split lost its own caller")) };
        let members = chosen.iter().map(|(_, rank)| current.planner.members()[*rank]).collect();
        let id = child_id(self.inner.id, (generation, number), color);
        let engine = self.inner.engine.clone();
        let cell = engine.add_group(id, members, Rank(me as u32));
        Ok(Some(Group::new(engine, id, cell, false)))
    }

    /// The stretch of the job that this is, from 0: it grows by one with each [`Group::update`] that changes
    /// something. A process that joined a job which ran already starts with a later one than 0, and has to get
    /// its state from the others.
    pub fn generation(&self) -> u32 {
        self.inner.engine.generation().0
    }

    /// A safe point: processes that want to join come in, those that were lost or have left stop being holes.
    /// Every member of the job calls it, each at the same place of its program (once a training step, say). It
    /// waits for the ends of all ops of this process, and costs an all-reduce of 8 bytes if nothing changes.
    ///
    /// After a change ranks and sizes are new, also of groups that were made by [`Group::split`]: they keep
    /// those of their members that are there. Newcomers are in none of them, have the highest ranks of the
    /// job, and make the same calls as the others from here on.
    pub fn update(&self) -> Result<Update> {
        if !self.inner.is_world {
            return Err(Misuse::Other("update is called on the group of the whole job".into()).into());
        }
        let engine = &self.inner.engine;
        if engine.has_unsealed() {
            let text = "a commit group is open: seal it before the safe point (update)";
            return Err(Misuse::Other(text.into()).into());
        }
        engine.await_all_ops();
        let mut flags = engine.safe_point_flags();
        let _ = self.agree_on_flags(&mut flags)?;
        let Some((before, now)) = engine.enter(flags) else {
            return Ok(Update { changed: false, joined: Vec::new(), gone: Vec::new() });
        };
        let ranks = |of: &View, not_in: &View| {
            let outside = of.members.iter().zip(0..).filter(|(m, _)| not_in.rank_of(m.peer).is_none());
            outside.map(|(_, rank)| rank).collect::<Vec<u32>>()
        };
        Ok(Update { changed: true, joined: ranks(&now, &before), gone: ranks(&before, &now) })
    }

    /// The least of everybody's flags.
    fn agree_on_flags<T: Element>(&self, flags: &mut [T]) -> Result<Outcome> {
        let count = flags.len();
        lend(|lender| {
            let data = lender.unique(flags);
            let reduction = Some(Reduction::Builtin(ReduceOp::Min));
            let call = part::<T>(Collective::AllReduce, count, 0);
            self.run_own(Call { input: data.clone(), output: data, reduction, ..call })
        })
    }

    /// Makes a call of the library's own.
    fn run_own(&self, mut call: Call) -> Result<Outcome> {
        call.options.tag = INTERNAL_TAG;
        self.inner.engine.run(self.prepare_in(&mut call, None)?, call)
    }

    /// Ends the job: ops on all ranks end with an error that carries `reason`, but for those that have returned on some rank,
    /// which do on all. Returns when it has ended here, or after half a second.
    pub fn abort(&self, reason: &str) {
        self.inner.engine.abort(reason);
    }

    /// Leaves in order: sees that the peers need nothing more from this one, for at most a second. In the
    /// process that hosts the coordinator it returns when all others have left too (or after
    /// [`Group::timeout`], with an error), since they need it. Ops in flight here end with an error.
    /// Closing a sub-group only ends this handle.
    pub fn close(&self) -> Result<()> {
        if self.inner.closed.swap(true, Ordering::AcqRel) || !self.inner.is_world {
            return Ok(());
        }
        self.inner.engine.close()
    }

    // Typed calls. The `…_with` form takes options.

    /// All-reduce in place: `data` becomes the reduction of every rank's `data`.
    pub fn all_reduce<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<Outcome> {
        self.all_reduce_with(data, op, &CallOptions::default())
    }

    /// As [`Group::all_reduce`], with options.
    pub fn all_reduce_with<T: Element>(
        &self,
        data: &mut [T],
        op: ReduceOp,
        options: &CallOptions,
    ) -> Result<Outcome> {
        let count = data.len();
        lend(|lender| {
            let data = lender.unique(data);
            self.run(Call {
                input: data.clone(),
                output: data,
                reduction: Some(Reduction::Builtin(op)),
                ..call::<T>(Collective::AllReduce, count, options)
            })
        })
    }

    /// All-reduce out of place. The two slices have the same length.
    pub fn all_reduce_into<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<Outcome> {
        self.all_reduce_into_with(input, output, op, &CallOptions::default())
    }

    /// As [`Group::all_reduce_into`], with options.
    pub fn all_reduce_into_with<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        options: &CallOptions,
    ) -> Result<Outcome> {
        lend(|lender| {
            self.run(Call {
                input: lender.shared(input),
                output: lender.unique(output),
                reduction: Some(Reduction::Builtin(op)),
                ..call::<T>(Collective::AllReduce, input.len(), options)
            })
        })
    }

    /// Gathers every rank's `input` into `output`, which is size × as long. Blocks of those who are lost hold anything
    /// ([`Outcome::holes`]), here and in all that gathers or exchanges blocks.
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<Outcome> {
        self.all_gather_with(input, output, &CallOptions::default())
    }

    /// As [`Group::all_gather`], with options.
    pub fn all_gather_with<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        options: &CallOptions,
    ) -> Result<Outcome> {
        self.moving(Collective::AllGather, input.len(), input, output, 0, options)
    }

    /// Reduces and scatters: `input` is size × as long as `output`, which gets this rank's block.
    pub fn reduce_scatter<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<Outcome> {
        self.reducing(Collective::ReduceScatter, output.len(), input, output, op, 0)
    }

    /// Exchanges equal blocks: block i of `input` goes to rank i. Both slices have the same length, a
    /// multiple of the size.
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<Outcome> {
        let (got, size) = (input.len(), self.size() as usize);
        if !got.is_multiple_of(size) || output.len() != got {
            let text = format!(
                "all_to_all of {got} elements into {}: both slices have the same length, a multiple of the {size} ranks",
                output.len()
            );
            return Err(Misuse::Other(text.into()).into());
        }
        self.moving(Collective::AllToAll, got / size, input, output, 0, &CallOptions::default())
    }

    /// Broadcast in place from `root`.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: u32) -> Result<Outcome> {
        let count = data.len();
        lend(|lender| {
            let data = lender.unique(data);
            let options = CallOptions::default();
            self.run(Call {
                input: data.clone(),
                output: data,
                peer: root,
                ..call::<T>(Collective::Broadcast, count, &options)
            })
        })
    }

    /// Reduces to `root`; `output` is used there only and may be empty elsewhere.
    pub fn reduce<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: u32,
    ) -> Result<Outcome> {
        self.reducing(Collective::Reduce, input.len(), input, output, op, root)
    }

    /// Gathers every rank's `input` at `root`; `output` is used there only.
    pub fn gather<T: Element>(&self, input: &[T], output: &mut [T], root: u32) -> Result<Outcome> {
        self.moving(Collective::Gather, input.len(), input, output, root, &CallOptions::default())
    }

    /// Scatters the blocks of `input` at `root`; `input` is used there only.
    pub fn scatter<T: Element>(&self, input: &[T], output: &mut [T], root: u32) -> Result<Outcome> {
        self.moving(Collective::Scatter, output.len(), input, output, root, &CallOptions::default())
    }

    // Blocks of different sizes. `Blocks::dense` makes those that follow each other; what lies between blocks stays as
    // it is.

    /// Gathers every rank's `input` into its block of `output`. All ranks give the same blocks; `input` is as long as
    /// one's own.
    pub fn all_gather_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        blocks: &Blocks,
    ) -> Result<Outcome> {
        self.check_own("all_gather_v: the input", input.len(), blocks)?;
        let recv = blocks.clone();
        self.moving_blocks(Call { recv, ..part::<T>(Collective::AllGatherV, input.len(), 0) }, input, output)
    }

    /// Reduces the blocks of all ranks' `input` and gives each rank its own in `output`, which is as long. All ranks
    /// give the same blocks.
    pub fn reduce_scatter_v<T: Element>(
        &self,
        input: &[T],
        blocks: &Blocks,
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<Outcome> {
        self.check_own("reduce_scatter_v: the output", output.len(), blocks)?;
        let (send, reduction) = (blocks.clone(), Some(Reduction::Builtin(op)));
        let call = part::<T>(Collective::ReduceScatterV, output.len(), 0);
        self.moving_blocks(Call { send, reduction, ..call }, input, output)
    }

    /// Exchanges blocks: block i of `input` goes to rank i, and what rank i sends here becomes block i of `output`. Both
    /// sides of an exchange give its length alike.
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        send: &Blocks,
        output: &mut [T],
        recv: &Blocks,
    ) -> Result<Outcome> {
        let (send, recv) = (send.clone(), recv.clone());
        self.moving_blocks(Call { send, recv, ..part::<T>(Collective::AllToAllV, 0, 0) }, input, output)
    }

    /// Gathers every rank's `input` into its block of `output` at `root`. Output and blocks are used there only, and may be
    /// empty elsewhere.
    pub fn gather_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        blocks: &Blocks,
        root: u32,
    ) -> Result<Outcome> {
        if self.rank() == root {
            self.check_own("gather_v: the root's input", input.len(), blocks)?;
        }
        let recv = blocks.clone();
        self.moving_blocks(Call { recv, ..part::<T>(Collective::GatherV, input.len(), root) }, input, output)
    }

    /// Scatters the blocks of `input` at `root`; `output` is as long as one's own. Input and blocks are used at the root
    /// only, and may be empty elsewhere.
    pub fn scatter_v<T: Element>(
        &self,
        input: &[T],
        blocks: &Blocks,
        output: &mut [T],
        root: u32,
    ) -> Result<Outcome> {
        if self.rank() == root {
            self.check_own("scatter_v: the root's output", output.len(), blocks)?;
        }
        let send = blocks.clone();
        self.moving_blocks(
            Call { send, ..part::<T>(Collective::ScatterV, output.len(), root) },
            input,
            output,
        )
    }

    /// Agrees on a flag: whether all who are there say yes; the outcome says who is not there. Everybody gets the same answer,
    /// whoever dies meanwhile, and an answer that anybody got holds for all: it commits by Done. (The fault-tolerant
    /// agreement of ULFM, MPI's proposal for user-level failure mitigation.)
    pub fn agree(&self, flag: bool) -> Result<(bool, Outcome)> {
        let mut flags = [u8::from(flag)];
        let options = CallOptions { strict_commit: true, ..CallOptions::default() };
        let outcome = self.all_reduce_with(&mut flags, ReduceOp::Min, &options)?;
        Ok((flags == [1], outcome))
    }

    /// Gives everybody the state of those who have it: of the lowest rank that says so and lives. Where that one
    /// dies meanwhile, of the next. All ranks call it with slices of one length, after an update that let newcomers
    /// in.
    pub fn share<T: Element>(&self, data: &mut [T], has_it: bool) -> Result<Outcome> {
        loop {
            let mut giver = [if has_it { self.rank() } else { u32::MAX }];
            let options = CallOptions { strict_commit: true, ..CallOptions::default() };
            let _ = self.all_reduce_with(&mut giver, ReduceOp::Min, &options)?;
            if giver == [u32::MAX] {
                let text = "nobody has the state that is to be shared: those who had it are lost";
                return Err(Misuse::Other(text.into()).into());
            }
            match self.broadcast(data, giver[0]) {
                // On all alike; in the next round it has no say.
                Err(Error::PeerLost(lost)) => tracing::info!("the state comes from another peer: {lost}"),
                other => return other,
            }
        }
    }

    /// Waits until every rank has called it.
    pub fn barrier(&self) -> Result<Outcome> {
        self.run(Call::EMPTY)
    }

    /// Sends to a rank.
    pub fn send<T: Element>(&self, data: &[T], to: u32, options: &CallOptions) -> Result<Outcome> {
        self.moving(Collective::Send, data.len(), data, &mut [], to, options)
    }

    /// Receives from a rank; the lengths of send and receive are equal.
    pub fn recv<T: Element>(&self, data: &mut [T], from: u32, options: &CallOptions) -> Result<Outcome> {
        self.moving(Collective::Recv, data.len(), &[], data, from, options)
    }

    /// The rank from which a message with this tag comes that is not being received yet: what a receive from anybody is made of. Of
    /// several it is the one whose message came first. Waits at most so long, and then there is none. Threads that receive with one
    /// tag must take turns, or one takes what another has found.
    pub fn probe(&self, tag: Tag, patience: Duration) -> Result<Option<u32>> {
        let until = Instant::now().checked_add(patience).unwrap_or_else(|| Instant::now() + AGES);
        let found = self.inner.engine.probe(self.current().index, tag, until)?;
        Ok(found.map(|rank| rank as u32))
    }

    /// A slice that holds this rank's block and nothing else has its length. Blocks for another number of ranks are named
    /// when the call is checked.
    fn check_own(&self, what: &str, got: usize, blocks: &Blocks) -> Result<()> {
        match blocks.counts.get(self.rank() as usize) {
            Some(&count) if count != got => {
                let text = format!("{what} has {got} elements, this rank's block {count}");
                Err(Misuse::Other(text.into()).into())
            }
            _ => Ok(()),
        }
    }

    fn moving_blocks<T: Element>(&self, call: Call, input: &[T], output: &mut [T]) -> Result<Outcome> {
        lend(|lender| self.run(Call { input: lender.shared(input), output: lender.unique(output), ..call }))
    }

    fn reducing<T: Element>(
        &self,
        collective: Collective,
        count: usize,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        peer: u32,
    ) -> Result<Outcome> {
        lend(|lender| {
            self.run(Call {
                input: lender.shared(input),
                output: lender.unique(output),
                reduction: Some(Reduction::Builtin(op)),
                peer,
                ..call::<T>(collective, count, &CallOptions::default())
            })
        })
    }

    fn moving<T: Element>(
        &self,
        collective: Collective,
        count: usize,
        input: &[T],
        output: &mut [T],
        peer: u32,
        options: &CallOptions,
    ) -> Result<Outcome> {
        lend(|lender| {
            self.run(Call {
                input: lender.shared(input),
                output: lender.unique(output),
                peer,
                ..call::<T>(collective, count, options)
            })
        })
    }
}

/// A user's call has a user's tag.
fn check_tag(tag: Tag) -> Result<()> {
    if tag == INTERNAL_TAG {
        let text = format!("tag {tag} is the library's own (split, update): take a lower one");
        return Err(Misuse::Other(text.into()).into());
    }
    Ok(())
}

/// A call with default options.
fn part<T: Element>(collective: Collective, count: usize, peer: u32) -> Call {
    Call { peer, ..call::<T>(collective, count, &CallOptions::default()) }
}

fn call<T: Element>(collective: Collective, count: usize, options: &CallOptions) -> Call {
    Call { collective, dtype: T::DTYPE, count, options: options.clone(), ..Call::EMPTY }
}

/// The id of a sub-group: the same on all members, different for every split.
fn child_id(parent: GroupId, (generation, number): (u32, u32), color: u32) -> GroupId {
    let mut bytes = [0u8; 20];
    bytes[..8].copy_from_slice(&parent.0.to_le_bytes());
    for (at, part) in [generation, number, color].into_iter().enumerate() {
        bytes[8 + 4 * at..][..4].copy_from_slice(&part.to_le_bytes());
    }
    GroupId(xxhash_rust::xxh3::xxh3_64(&bytes) | 1)
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without `close()` the others take this peer's end for a crash, as promised; but threads and
        // descriptors of this process must not outlive the handle.
        if self.is_world && !self.closed.load(Ordering::Relaxed) {
            self.engine.stop();
        }
    }
}
