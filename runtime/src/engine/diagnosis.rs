//! What errors and people are told of calls and members.

use super::{Engine, Inner, lock};
use ronde_core::collective::{CallState, Divergence, Effect, Overdue, WaitsFor};
use ronde_core::error::{Aborted, Error};
use ronde_core::membership::{FromMember, View};
use ronde_core::{MemberId, OpId, Rank};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// So many calls are logged when the job fails.
const LOGGED_CALLS: usize = 16;

/// A call that this process has made, as [`crate::Group::recent_calls`] gives it.
#[derive(Clone, Debug)]
pub struct RecentCall {
    /// Its identity: group, generation, tag and number.
    pub op: OpId,
    /// What was called, in words.
    pub call: String,
    /// Since its start.
    pub started_ago: Duration,
    /// How it stands.
    pub state: CallState,
    /// Ranks in the job that hold it up, if it is open.
    pub waits_for: Vec<u32>,
}

impl std::fmt::Display for RecentCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RecentCall { op, call, started_ago, state, waits_for } = self;
        write!(f, "{call} #{} (tag {}), {:.3} s ago: ", op.seq, op.tag, started_ago.as_secs_f64())?;
        match state {
            CallState::Open => write!(f, "open, waits for ranks {waits_for:?}"),
            CallState::Recovering => f.write_str("open, recovers from a loss"),
            CallState::Returned => f.write_str("returned"),
            CallState::Failed => f.write_str("failed"),
        }
    }
}

impl Engine {
    /// The last calls of this process, and those that are open.
    pub(crate) fn recent_calls(&self) -> Vec<RecentCall> {
        self.recent_calls_of(&lock(&self.inner))
    }

    fn recent_calls_of(&self, inner: &Inner) -> Vec<RecentCall> {
        let now = self.now();
        let calls = inner.executor.recent_calls().into_iter();
        let calls = calls.map(|recent| RecentCall {
            op: recent.op,
            call: recent.call,
            started_ago: now.since(recent.started),
            state: recent.state,
            waits_for: recent.waits_for.into_iter().map(|member| inner.rank_of(member).0).collect(),
        });
        calls.collect()
    }

    /// Logs what this process was doing when the job failed, where that helps to find out why.
    pub(super) fn warn_of_calls(&self, inner: &Inner, error: &Error) {
        let Error::Aborted(aborted) = error else { return };
        if matches!(**aborted, Aborted::Requested { .. }) {
            return;
        }
        let calls = self.recent_calls_of(inner);
        let last = calls.iter().skip(calls.len().saturating_sub(LOGGED_CALLS));
        let lines: String = last.map(|call| format!("\n    {call}")).collect();
        tracing::warn!("the last calls of rank {}:{lines}", inner.rank());
    }

    /// Tells the coordinator what ends the job, whose verdict comes back in the same words for all.
    pub(super) fn report_effect(&self, inner: &mut Inner, effect: Effect) {
        let (report, aborted) = match effect {
            Effect::Mismatch { op, member, call, other, other_call } => {
                let (rank, other_rank) = (inner.rank_of(member), inner.rank_of(other));
                let (mine, theirs) = (call.clone(), other_call.clone());
                let report = FromMember::Mismatch { op, rank, call: mine, other_rank, other_call: theirs };
                (report, Aborted::Mismatch { op, rank, call, other_rank, other_call })
            }
            Effect::Diverged(Divergence { op, held }) => {
                let holders = describe_holders(inner.follower.view(), &held);
                let report = FromMember::Diverged { op, holders: holders.clone() };
                (report, Aborted::Diverged { op, holders })
            }
        };
        self.control.say(&report);
        let error = Error::Aborted(Arc::new(aborted));
        inner.pending_verdict.get_or_insert((self.now(), error, None));
    }
}

impl Inner {
    pub(super) fn timeout_report(&self, overdue: &Overdue) -> (FromMember, Error) {
        let transport =
            |member: MemberId| self.link_states.get(member.index()).map_or("", |state| state.transport);
        let culprits = describe_missing(self.follower.view(), self.rank(), overdue, &transport);
        let Overdue { op, collective, waited, .. } = *overdue;
        let missing = overdue.missing.iter().map(|(member, _)| *member).collect();
        let (told, others, strict) = (culprits.clone(), overdue.others.clone(), overdue.strict);
        let report = FromMember::Timeout { op, collective, waited, culprits: told, missing, others, strict };
        (report, Error::Aborted(Arc::new(Aborted::Timeout { op, collective, waited, culprits })))
    }
}

/// A member by rank, host, address and transport, as far as they are known.
fn describe(view: &View, member: MemberId, transport: &str) -> String {
    let (Some(info), Some(rank)) = (view.member(member), view.rank_of_member(member)) else {
        return format!("member {member}");
    };
    let address = info.addresses.first().map(ToString::to_string);
    let known = [Some(format!("host {}", info.host)), address, Some(transport.to_owned())];
    let known: Vec<String> = known.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    format!("rank {rank} ({})", known.join(", "))
}

/// Who holds which result, by digest; the rarest last.
pub(crate) fn describe_holders(view: &View, held: &[(MemberId, u64)]) -> String {
    let mut by_digest: BTreeMap<u64, Vec<MemberId>> = BTreeMap::new();
    held.iter().for_each(|&(member, digest)| by_digest.entry(digest).or_default().push(member));
    let mut by_digest: Vec<_> = by_digest.into_iter().collect();
    by_digest.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let mut texts = Vec::new();
    for (digest, mut members) in by_digest {
        members.sort_unstable();
        let names: Vec<String> = members.iter().map(|&member| describe(view, member, "")).collect();
        texts.push(format!("{digest:016x} on {}", names.join(", ")));
    }
    texts.join("; ")
}

/// Who holds an op up, in words.
pub(crate) fn describe_missing(
    view: &View,
    me: Rank,
    overdue: &Overdue,
    transport: &dyn Fn(MemberId) -> &'static str,
) -> String {
    match overdue.waits_for {
        WaitsFor::Members => {}
        WaitsFor::Plan => {
            return format!(
                "a peer was lost, and not all of the others have said how far they are, or the coordinator was lost \
                 too and no other is found (seen by rank {me}). Look for processes that hang"
            );
        }
        WaitsFor::Seal => {
            return format!(
                "it is complete on rank {me}, which neither seals its commit group nor makes another call in it. Seal it, or \
                 give its calls a longer timeout"
            );
        }
        WaitsFor::Result => {
            return format!(
                "a peer was lost, and the result that another one has did not come (seen by rank {me}). Look at the \
                 network"
            );
        }
    }
    let list = |entered: bool| {
        let of = overdue.missing.iter().filter(|(_, e)| *e == entered);
        of.map(|&(member, _)| describe(view, member, transport(member))).collect::<Vec<_>>().join(", ")
    };
    // That nothing has come of a rank does not mean that it did not make the call: it may have nothing to send here.
    let (absent, silent) = (list(false), list(true));
    let mut texts = Vec::new();
    if !absent.is_empty() {
        texts.push(format!("nothing has come from {absent}"));
    }
    if !silent.is_empty() {
        texts.push(format!("{silent} has entered it, but what is left does not come or is not taken"));
    }
    if texts.is_empty() {
        texts.push("no peer is missing: the local links did not take the data".into());
    }
    let text = texts.join("; ");
    let window = match overdue.window {
        Some((window, windows)) if windows > 1 => format!(" in window {} of {windows}", window + 1),
        _ => String::new(),
    };
    let (arrived, of) = (overdue.arrived, overdue.of);
    format!(
        "{text} (seen by rank {me}{window}; {arrived} of {of} are known to be in it). Look at what those processes do, or \
         raise the timeout"
    )
}
