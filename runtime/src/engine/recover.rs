//! What the engine does when the coordinator says that peers were lost.

use super::{Engine, Inner};
use crate::control::Report;
use ronde_core::Epoch;
use ronde_core::call::Call;
use ronde_core::collective::GroupIndex;
use ronde_core::error::{Error, PeerLost};
use ronde_core::recovery::RecoveryPlan;
use std::sync::Arc;

impl Engine {
    /// Ends all attempts and reports how far the ops here are.
    pub(super) fn freeze(&self, inner: &mut Inner, epoch: Epoch, lost: Vec<PeerLost>) {
        if inner.failed {
            return;
        }
        // What was reported of a link is answered with this; links to others are looked at again.
        inner.pending_verdict = None;
        let lost: Vec<(usize, Error)> =
            lost.into_iter().map(|peer| (peer.rank.index(), Error::PeerLost(Arc::new(peer)))).collect();
        for (_, error) in &lost {
            tracing::warn!("{error}");
        }
        let report = inner.executor.freeze(epoch, &lost, self.now(), &mut inner.links);
        for (_, planner) in &inner.planners {
            planner.lose(&self.view, |member| inner.executor.is_lost(member));
        }
        self.control.report(Report::Report(report));
    }

    /// Goes on by the plan.
    pub(super) fn resume(&self, inner: &mut Inner, epoch: Epoch, plan: &RecoveryPlan) {
        if inner.failed {
            return;
        }
        tracing::info!("going on in epoch {epoch}");
        let Inner { executor, links, planners, .. } = inner;
        let mut replan = |group: GroupIndex, call: &Call| {
            let planner = planners.iter().find(|(index, _)| *index == group);
            let (_, planner) = planner.ok_or_else(|| Error::internal("a group without a planner"))?;
            Ok(planner.plan(call)?.plan)
        };
        let resumed = self.contain(|| executor.resume(plan, self.now(), &mut replan, links, self.kernels));
        if let Err(panic) = resumed {
            self.panicked(inner, &panic);
        }
        self.ended.notify_all();
    }
}
