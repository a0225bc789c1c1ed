//! Ops of a commit group: the calls in it wait for the seal, the seal for the calls.

use super::{OpState, Phase};
use crate::Epoch;
use crate::collective::executor::Shared;
use crate::plan::Plan;

impl<P: Plan> OpState<P> {
    /// For a call whose complete result is here: goes on when its group is sealed, and that is final.
    pub(super) fn wait_for_seal(&mut self, shared: &mut Shared) -> bool {
        if std::mem::replace(&mut self.is_ready, true) {
            return false;
        }
        let digest = self.digest_of_result(shared);
        self.digest = Some(digest);
        if let Some(id) = self.commit_group {
            shared.commit_groups.completed(id, self.id.seq, digest);
        }
        true
    }

    /// For a seal: whether it may tell the others that everything is complete here. It ends if something never will be.
    pub(super) fn may_seal(&mut self, shared: &mut Shared) -> bool {
        let Some(id) = self.commit_group else { return true };
        match shared.commit_groups.is_complete(id) {
            Ok(complete) => self.is_ready = complete,
            Err(error) => self.end(Err(error), shared),
        }
        self.is_ready
    }

    /// Before another attempt: what was complete is so no longer.
    pub(crate) fn leave_commit(&mut self, shared: &mut Shared) {
        let was_ready = std::mem::take(&mut self.is_ready);
        if let (true, false, Some(id)) = (was_ready, self.seals, self.commit_group) {
            shared.commit_groups.starts_again(id, self.id.seq, self.digest.unwrap_or(0));
        }
    }

    /// The plan of recovery commits the seal, and with it this call, whose result is here.
    pub(crate) fn stay_complete(&mut self, epoch: Epoch) {
        self.phase = Phase::Running;
        self.header.epoch = epoch;
    }

    /// A call that is complete and waits for its seal is not overdue, however long the caller takes until then.
    pub(crate) fn is_held(&self) -> bool {
        self.is_ready && !self.seals && matches!(self.phase, Phase::Running)
    }
}
