//! What the engine does when the coordinator says that peers were lost.

use super::{Engine, Inner};
use crate::bootstrap::{ControlEvents, Round};
use ronde_core::Epoch;
use ronde_core::call::Call;
use ronde_core::collective::GroupIndex;
use ronde_core::error::{Error, PeerLost};
use ronde_core::membership::FromMember;
use ronde_core::recovery::{RecoveryPlan, Report};
use std::sync::Arc;

impl Engine {
    /// Ends all attempts and reports how far the ops here are.
    pub(super) fn freeze(&self, inner: &mut Inner, round: Round) {
        let Round { epoch, lost, held, ending } = round;
        if inner.failed && inner.executor.ended_by().is_none() {
            // Nothing is here any more for which the others should wait.
            return self.control.say(&FromMember::Report(Report { epoch, ..Report::default() }));
        }
        inner.seeks_coordinator = false;
        // What was reported of a link is answered with this; links to others are looked at again.
        inner.pending_verdict = None;
        self.await_abort(inner);
        inner.follower.note(epoch);
        let lost: Vec<Arc<PeerLost>> = lost.into_iter().map(Arc::new).collect();
        for peer in &lost {
            inner.follower.is_lost(peer);
            tracing::warn!("{peer}");
        }
        inner.executor.is_to_end(&held, ending.as_deref(), inner.follower.view().host);
        let report = inner.executor.freeze(epoch, &lost, self.now(), &mut inner.links);
        self.forget_descriptors(inner, &lost);
        let Inner { groups, executor, follower, .. } = inner;
        for group in groups {
            group.current.planner.lose(follower.view(), |member| executor.is_lost(member));
        }
        self.control.say(&FromMember::Report(report));
    }

    /// The sockets to the lost are closed for good: duplicates would keep them until the next safe point.
    fn forget_descriptors(&self, inner: &mut Inner, lost: &[Arc<PeerLost>]) {
        for peer in lost {
            // A newcomer may hear of some whom it never knew.
            if let Some(state) = inner.link_states.get_mut(peer.member.index()) {
                state.descriptor = None;
            }
        }
        // Fails for want of descriptors only, and there are fewer to watch than before.
        let _ = self.waker.watch(&inner.link_states);
    }

    /// Goes on by the plan.
    pub(super) fn resume(&self, inner: &mut Inner, plan: &RecoveryPlan, shrink: Option<Epoch>) {
        if inner.failed {
            return;
        }
        inner.follower.goes_on();
        let Inner { executor, links, groups, .. } = inner;
        let mut replan = |group: GroupIndex, call: &Call| {
            let registered = groups.iter().find(|registered| registered.current.index == group);
            let registered = registered.ok_or_else(|| Error::internal("a group without a planner"))?;
            Ok(registered.current.planner.plan(call)?.plan)
        };
        let resumed = self.contain(|| executor.resume(plan, self.now(), &mut replan, links, self.kernels));
        if let Err(panic) = resumed {
            self.panicked(inner, &panic);
        }
        if let Some(epoch) = shrink {
            inner.follower.shrink(epoch);
            self.arm(inner);
        }
        if let Some(error) = inner.executor.ended_by() {
            // What is final goes on, for as long as a member may be silent.
            inner.pending_verdict = Some((self.now(), error, None));
            self.fail_if_over(inner);
        }
        self.ended.notify_all();
    }

    /// The job has ended by agreement, and nothing is left that is final, nor anybody who lacks something of it.
    pub(super) fn fail_if_over(&self, inner: &mut Inner) {
        let Some(error) = inner.executor.ended_by() else { return };
        let is_needed = inner.executor.is_needed(&mut inner.links);
        let is_settled = inner.links.iter().flatten().all(|link| link.is_settled());
        if is_settled && !is_needed {
            self.announced.failed(error);
        }
    }
}
