//! Commit groups: the calls of a step become final together.

use crate::group::{Element, Group};
use crate::op::Op;
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{CommitGroupId, OpHandle};
use ronde_core::error::{Misuse, Outcome, Result};
use ronde_core::memory::lend;
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, ReduceOp, Tag, Tolerance};
use std::time::Duration;

/// What calls in place may overwrite in one commit group, unless it says more: 4 GiB.
const MOST_KEPT: usize = 4 << 30;

/// Options of a commit group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOptions {
    /// Tag of all its calls. Until it is sealed no other collectives are called with it.
    pub tag: Tag,
    /// Deadline of the commit, from [`CommitGroup::seal`] on; `None` takes the group's. Calls have their own, until they
    /// are complete here; once they are the next call or the seal has to come within that time too.
    pub timeout: Option<Duration>,
    /// Bytes that its calls in place may overwrite: so much is copied and kept until the end. The call that would need more
    /// is refused with an error. Nothing is kept of calls out of place, but the scaled inputs of pre-multiplied sums and
    /// weighted averages, which are not counted here. Default 4 GiB.
    pub most_kept: usize,
}

impl Default for CommitOptions {
    fn default() -> CommitOptions {
        CommitOptions { tag: Tag(0), timeout: None, most_kept: MOST_KEPT }
    }
}

/// Calls that start at once and become final together: all have the same contributors, whoever is lost meanwhile, and one
/// outcome. The gradients of a training step, say, whose buckets become ready one after the other.
///
/// Every rank makes the same calls in the same order, and seals after the last. Buffers belong to the calls until the
/// commit has ended, also those of [`lend`], which returns after that: seal where they are lent. Dropping it seals it: what was
/// called runs on to its end, without the calls that were refused.
#[must_use = "nothing of it is final before it is sealed"]
pub struct CommitGroup {
    group: Group,
    id: CommitGroupId,
    options: CommitOptions,
    calls: Vec<OpHandle>,
    sealed: bool,
}

impl Group {
    /// Opens a commit group.
    ///
    /// ```no_run
    /// # fn step(group: &ronde::Group, a: &mut [f32], b: &mut [f32]) -> ronde::Result<()> {
    /// use ronde::{Call, Collective, CommitOptions, DType, ReduceOp, Reduction};
    /// let outcome = ronde::memory::lend(|lender| {
    ///     let mut step = group.commit_group(CommitOptions::default())?;
    ///     for (count, data) in [(a.len(), lender.unique(a)), (b.len(), lender.unique(b))] {
    ///         step.start(Call {
    ///             collective: Collective::AllReduce,
    ///             dtype: DType::F32,
    ///             count,
    ///             reduction: Some(Reduction::Builtin(ReduceOp::Avg)),
    ///             input: data.clone(),
    ///             output: data,
    ///             ..Call::EMPTY
    ///         })?;
    ///     }
    ///     step.commit()
    /// })?;
    /// println!("averages of {} ranks", outcome.contributors);
    /// # Ok(()) }
    /// ```
    pub fn commit_group(&self, options: CommitOptions) -> Result<CommitGroup> {
        let id = self.open_commit_group(options.tag, options.most_kept)?;
        Ok(CommitGroup { group: self.clone(), id, options, calls: Vec::new(), sealed: false })
    }

    /// All-reduces several vectors in place, all with the same contributors: a [`CommitGroup`] of one call each.
    pub fn all_reduce_together<T: Element>(&self, vectors: &mut [&mut [T]], op: ReduceOp) -> Result<Outcome> {
        lend(|lender| {
            // None of them is refused for what the others need: all become final or none.
            let most_kept = vectors.iter().map(|vector| size_of_val(&**vector)).sum();
            let mut together = self.commit_group(CommitOptions { most_kept, ..CommitOptions::default() })?;
            for vector in vectors {
                let (count, data) = (vector.len(), lender.unique(vector));
                together.start(Call {
                    collective: Collective::AllReduce,
                    dtype: T::DTYPE,
                    count,
                    reduction: Some(Reduction::Builtin(op)),
                    input: data.clone(),
                    output: data,
                    ..Call::EMPTY
                })?;
            }
            together.commit()
        })
    }
}

impl CommitGroup {
    /// Starts a call: all_reduce, all_gather(-v), reduce_scatter(-v) or all_to_all, with tolerance `Recover`. Its tag is
    /// the group's.
    pub fn start(&mut self, mut call: Call) -> Result<()> {
        use Collective::{AllGather, AllGatherV, AllReduce, AllToAll, ReduceScatter, ReduceScatterV};
        let collective = call.collective;
        let known = matches!(
            collective,
            AllReduce | AllGather | AllGatherV | ReduceScatter | ReduceScatterV | AllToAll
        );
        if !known || call.options.tolerance != Tolerance::Recover {
            let text = format!(
                "{collective} with tolerance {} in a commit group: it takes all_reduce, all_gather(-v), \
                 reduce_scatter(-v) and all_to_all, with tolerance recover",
                call.options.tolerance.name()
            );
            return Err(Misuse::Other(text.into()).into());
        }
        call.options.tag = self.options.tag;
        let handle = self.group.start_in(call, self.id)?;
        self.calls.push(handle);
        Ok(())
    }

    /// The last call has been made. The op ends when everything is final, on all ranks alike; its outcome is that of all
    /// calls, with the bytes and the holes of all.
    pub fn seal(mut self) -> Result<Op> {
        self.make_seal()
    }

    /// Seals, and waits for the end.
    pub fn commit(self) -> Result<Outcome> {
        self.seal()?.wait()
    }

    fn make_seal(&mut self) -> Result<Op> {
        self.sealed = true;
        let options =
            CallOptions { tag: self.options.tag, timeout: self.options.timeout, ..CallOptions::default() };
        let seal = Call { collective: Collective::Commit, count: self.calls.len(), options, ..Call::EMPTY };
        self.group.start_seal(seal, self.id, &self.calls)
    }
}

impl Drop for CommitGroup {
    fn drop(&mut self) {
        // In a child of the process that joined it is not this one's to end.
        if !self.sealed
            && !self.group.is_forked()
            && let Err(error) = self.make_seal()
        {
            tracing::debug!("a commit group ends unsealed: {error}");
        }
    }
}
