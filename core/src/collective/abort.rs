//! What ends by agreement: calls that missed their deadline, and all of a job that somebody ends. Members freeze and report
//! as after a loss, so that what is final for one of them is for all; everything else that is to end does, everywhere.

use super::Links;
use super::executor::Executor;
use super::op::{Commit, Phase};
use crate::error::Error;
use crate::frame::Header;
use crate::membership::Verdict;
use crate::plan::Plan;
use crate::planted::{self, Bug};
use crate::recovery::{RecoveryPlan, TagReport};
use crate::{Generation, MemberId, OpId};
use std::collections::BTreeMap;

/// What is to end, and what has.
#[derive(Default)]
pub(crate) struct Agreed {
    /// Ops that are to end, once there is a plan.
    held: Vec<OpId>,
    /// Ops that plans have ended, also such as have not been started here.
    aborted: BTreeMap<OpId, Verdict>,
    /// The job is to end.
    ending: Option<Verdict>,
    /// The coordinator that says so is in the process of this member.
    host: Option<MemberId>,
    /// A plan has said so.
    has_ended: bool,
}

impl Agreed {
    /// Nobody makes calls of those generations any more.
    pub(super) fn forget_before(&mut self, generation: Generation) {
        self.aborted.retain(|op, _| op.generation >= generation);
    }

    /// The first word on an op stands.
    fn note_abort(&mut self, op: OpId, verdict: &Verdict) {
        self.aborted.entry(op).or_insert_with(|| verdict.clone());
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn ending(&self) -> Option<Verdict> {
        self.ending.clone()
    }
}

impl<P: Plan> Executor<P> {
    /// To be said before [`Executor::freeze`]: these ops are to end, or everything is. So says the coordinator, which is in the process
    /// of member `host`, or in none.
    pub fn is_to_end(&mut self, held: &[OpId], ending: Option<&Verdict>, host: Option<MemberId>) {
        self.agreed.host = host;
        self.agreed.held = held.to_vec();
        if let Some(verdict) = ending {
            self.agreed.ending.get_or_insert_with(|| verdict.clone());
        }
    }

    /// Why the job has ended by agreement, if it has. Only what is final goes on, to its own end; all other calls end once nobody
    /// needs this process any more ([`Executor::is_needed`]), since it may end then.
    pub fn ended_by(&self) -> Option<Error> {
        let verdict = self.agreed.ending.as_ref().filter(|_| self.agreed.has_ended)?;
        Some(verdict.clone().into())
    }

    /// Calls of two that each end for themselves wait for the plan, if that may end them: what one reports as open it must not
    /// return from meanwhile.
    pub(super) fn withhold(&mut self) {
        for &at in &self.active {
            let waits = self.may_end_by_agreement(at) && self.ops[at].commit == Commit::Pair;
            self.ops[at].is_withheld |= waits && !planted::has(Bug::PairsDoNotWait);
        }
    }

    /// The plan that is waited for may end it.
    pub(super) fn may_end_by_agreement(&self, at: usize) -> bool {
        let (Agreed { held, ending, .. }, op) = (&self.agreed, &self.ops[at]);
        op.pair.is_none() && (ending.is_some() || held.contains(&op.id))
    }

    /// Adds what plans have ended to a report, for a coordinator that does not know of it.
    pub(super) fn report_aborted(&self, tags: &mut Vec<TagReport>) {
        for (op, verdict) in &self.agreed.aborted {
            let (formation, tag) = (op.formation(), op.tag);
            let at = tags.iter().position(|known| (known.formation, known.tag) == (formation, tag));
            let at = at.unwrap_or_else(|| {
                tags.push(TagReport { formation, tag, ..TagReport::default() });
                tags.len() - 1
            });
            tags[at].aborted.push((op.seq, verdict.clone()));
        }
    }

    /// Takes note of what a plan ends, and sees that nothing of it is on its way from or to a caller's memory any more.
    pub(super) fn learn_aborts(&mut self, plan: &RecoveryPlan, links: &mut Links) {
        for (op, verdict) in &plan.aborts {
            if !planted::has(Bug::AbortsAreForgotten) {
                self.agreed.note_abort(*op, verdict);
            }
        }
        if let Some(verdict) = &plan.ending {
            self.agreed.ending = Some(Verdict::clone(verdict));
            self.agreed.has_ended = true;
        }
        self.forget_what_is_over();
        // Attempts have ended already; this is of calls that have but one.
        let committed = |op: &OpId| plan.commit(op.formation(), op.tag, op.seq).is_some();
        let ends_with_the_job = |header: &Header| {
            plan.ending.is_some() && (header.point_to_point || header.one_attempt && !committed(&header.op))
        };
        let ends = |header: &Header| {
            !header.point_to_point && plan.abort(&header.op).is_some() || ends_with_the_job(header)
        };
        if !plan.aborts.is_empty() || plan.ending.is_some() {
            links.iter_mut().flatten().for_each(|link| link.fence(&ends));
        }
    }

    /// Forgets those from which everybody has returned.
    fn forget_what_is_over(&mut self) {
        let groups = &mut self.shared.groups;
        self.agreed.aborted.retain(|op, _| {
            let Some(group) = groups.iter_mut().find(|group| group.formation == op.formation()) else {
                return true;
            };
            let me = group.me;
            let tag = group.tag(op.tag);
            tag.next() <= op.seq || tag.returned_by_all(me) <= op.seq
        });
    }

    /// The error with which an open op ends by a plan, if it does.
    pub(super) fn agreed_end(&self, at: usize, plan: &RecoveryPlan) -> Option<Error> {
        let op = &self.ops[at];
        let verdict = plan.abort(&op.id).filter(|_| op.pair.is_none() && plan.ending.is_none())?;
        Some(verdict.clone().into())
    }

    /// An open op is not final and ends with the job.
    pub(super) fn ends_with_the_job(&self, at: usize, plan: &RecoveryPlan) -> bool {
        let op = &self.ops[at];
        let is_committed = plan.commit(op.id.formation(), op.id.tag, op.id.seq).is_some();
        let goes_on = op.is_complete() || op.commits_by_log() || op.commit == Commit::Pair;
        plan.ending.is_some() && !(op.starts_again() && is_committed && goes_on)
    }

    /// It ends with all the others that are not final. What has returned behind it may be told to have. Another coordinator, if
    /// this one was lost before all had heard of the end, hears that nothing was returned from it.
    pub(super) fn wait_for_the_end(&mut self, at: usize) {
        let op = &mut self.ops[at];
        op.phase = Phase::Stalled;
        op.count_as_returned(&mut self.shared);
        if let Some(verdict) = self.agreed.ending()
            && op.starts_again()
            && !planted::has(Bug::WhatEndedCountsAsReturned)
        {
            let op = op.id;
            self.agreed.note_abort(op, &verdict);
        }
    }

    /// The error with which a call ends that is only made now.
    pub(super) fn ended_before_it_began(&self, at: usize) -> Option<Error> {
        let op = &self.ops[at];
        let known = self.agreed.aborted.get(&op.id).filter(|_| op.pair.is_none());
        known.map(|verdict| verdict.clone().into())
    }

    /// After the job has ended by agreement: something that is final goes on, or another may lack what has returned here.
    pub fn is_needed(&mut self, links: &mut Links) -> bool {
        // Who has ended its link needs nothing more, and says nothing: no plan will tell who was lost since the last, unless that was
        // the coordinator's host.
        let host = self.agreed.host;
        for link in (0..links.len()).filter(|&link| links[link].is_none()) {
            self.peer_left(link);
            if host.is_some_and(|host| host.index() == link) {
                continue;
            }
            for at in self.active.clone() {
                let op = &mut self.ops[at];
                let group = &self.shared.groups[op.group.0];
                let rank = group.rank_of(link).filter(|rank| *rank != group.me);
                rank.into_iter().for_each(|rank| op.confirm_without(rank));
                let awaits_it = match op.phase {
                    Phase::Awaiting => op.provider == Some(link),
                    Phase::Running => op.commit == Commit::Pair && rank.is_some(),
                    _ => false,
                };
                if awaits_it {
                    self.wait_for_the_end(at);
                }
            }
        }
        self.shared.ask_laggards(links);
        let goes_on = |at: &usize| !matches!(self.ops[*at].phase, Phase::Stalled);
        self.active.iter().any(goes_on) || self.has_unsent() || !self.log_is_empty()
    }
}
