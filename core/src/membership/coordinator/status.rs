//! What a coordinator says of its job, for people and programs that ask.

use super::{Coordinator, State};
use crate::membership::CallProgress;
use crate::{Collective, Epoch, Generation, Incarnation, Instant, MemberId, OpId};
use serde::{Deserialize, Serialize};

/// So many members are described in an error.
const MOST_NAMED: usize = 8;

/// Where a member is in its calls, in words.
fn describe(progress: &CallProgress) -> String {
    match (progress.open, progress.last) {
        (Some((op, collective, waited)), _) => {
            format!("in {collective} #{} (tag {}) for {:.1} s", op.seq, op.tag, waited.as_secs_f64())
        }
        (None, Some((op, collective))) => {
            format!("in no call after {collective} #{} (tag {})", op.seq, op.tag)
        }
        (None, None) => "in no call, and has made none yet".to_owned(),
    }
}

/// By its last call of the op's tag, or since it has made none at all.
fn has_not_made(progress: &CallProgress, op: &OpId) -> bool {
    progress.last.is_none_or(|(last, kind)| {
        let same = last.formation() == op.formation() && last.tag == op.tag;
        same && !kind.is_point_to_point() && last.seq < op.seq
    })
}

/// Where a member stands towards a call that others wait in, in words.
fn standing(progress: &CallProgress, op: &OpId, collective: Collective) -> String {
    let elsewhere = format!("lives and is {}", describe(progress));
    // The numbers of messages count for each pair, so they say nothing of those between others.
    if collective.is_point_to_point() {
        return elsewhere;
    }
    let of_its_tag = |(other, kind): (OpId, Collective)| {
        let same = other.formation() == op.formation() && other.tag == op.tag;
        (same && !kind.is_point_to_point()).then_some((other.seq, kind))
    };
    let made = progress.last.and_then(of_its_tag).is_some_and(|(last, _)| last >= op.seq);
    match progress.open {
        Some((open, kind, waited)) if of_its_tag((open, kind)) == Some((op.seq, kind)) => {
            let waited = waited.as_secs_f64();
            match kind == collective {
                true => format!(
                    "waits in this call too, for {waited:.1} s: its arguments may differ (root, counts), or look at the \
                     network between"
                ),
                false => format!("waits in {kind} of the same number, for {waited:.1} s: the calls differ"),
            }
        }
        // Calls are open in the order in which they were made, and this is the first of those.
        Some((open, kind, _)) if of_its_tag((open, kind)).is_some_and(|(open, _)| open > op.seq) => {
            format!(
                "has returned from it and is {}: its arguments may differ (root, counts)",
                describe(progress)
            )
        }
        None if made => {
            format!(
                "has returned from it and is {}: its arguments may differ (root, counts)",
                describe(progress)
            )
        }
        Some(_) if made => format!("has made this call and is {}", describe(progress)),
        _ => elsewhere,
    }
}

/// A job, as its coordinator sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Status {
    /// `gathering`, `linking`, `active`, `recovering`, `succeeding`, `stepped_down` or `failed`.
    pub state: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The last number given, to a view or a loss.
    pub epoch: Epoch,
    /// The coordinator's life.
    pub incarnation: Incarnation,
    /// The stretch between safe points.
    pub generation: Generation,
    /// The rank that hosts the coordinator, if one does.
    pub host: Option<u32>,
    /// Members of the view in effect, by rank.
    pub members: Vec<MemberStatus>,
    /// Processes that wait to be taken in.
    pub pending: Vec<PendingStatus>,
    /// The view on its way to effect.
    pub next: Option<NextStatus>,
    /// Who may be lost, and is not given up yet.
    pub suspicions: Vec<Suspicion>,
}

/// A member that may be lost.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Suspicion {
    /// Its number in the job.
    pub member: MemberId,
    /// Who says so: whose link to it has failed; `None` for the coordinator itself.
    pub by: Option<MemberId>,
    /// Why.
    pub reason: String,
    /// Milliseconds until it is judged; `None` while a proof that its process has ended is waited for.
    pub judged_in_ms: Option<u64>,
}

/// The last collective or message that a member has begun.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LastCall {
    /// Its name.
    pub collective: String,
    /// The group's number: 0 for the group of all.
    pub group: u64,
    /// Its tag.
    pub tag: u32,
    /// Its number in this tag of the group; of a message, among those of the two.
    pub seq: u64,
}

/// A member.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its rank.
    pub rank: u32,
    /// Its number in the job.
    pub id: MemberId,
    /// Its identity.
    pub peer: String,
    /// Its host name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Transports that it may use.
    pub transports: Vec<String>,
    /// Ranks to which its link has failed, as one of the two has reported.
    pub lacks_links_to: Vec<u32>,
    /// `here`, `left`, `lost`, or `reported` and `awaited` while the others recover.
    pub state: String,
    /// Milliseconds since it was heard of.
    pub silent_ms: Option<u64>,
    /// Calls that have ended there, as it last said.
    pub calls_ended: Option<u64>,
    /// The last call that it has begun, as it last said.
    pub last_call: Option<LastCall>,
    /// The call that it has been in for longest, or the last that it has made.
    pub in_call: Option<String>,
}

/// A process that waits to be taken in.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PendingStatus {
    /// Its host name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
}

/// A view on its way to effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NextStatus {
    /// Its number.
    pub epoch: Epoch,
    /// How many members it has.
    pub ranks: u32,
    /// It takes effect at the next safe point; else its links are being made.
    pub armed: bool,
    /// Members whose word is missing: that their links are up, or that they have passed a safe point.
    pub waits_for: Vec<MemberId>,
}

impl LastCall {
    fn of((op, collective): (OpId, Collective)) -> LastCall {
        let (group, tag, seq) = (op.group.0, op.tag.0, op.seq.0);
        LastCall { collective: collective.to_string(), group, tag, seq }
    }
}

impl Coordinator {
    /// The job as it is now.
    pub fn status(&self, now: Instant) -> Status {
        let (state, failure) = match &self.state {
            State::Gathering => ("gathering", None),
            State::Linking => ("linking", None),
            State::Active => ("active", None),
            State::Recovering(_) => ("recovering", None),
            State::Succeeding(_) => ("succeeding", None),
            State::SteppedDown => ("stepped_down", None),
            State::Failed(verdict) => ("failed", Some(crate::Error::from(verdict.clone()).to_string())),
        };
        let rank_of = |id: MemberId| self.view.rank_of_member(id).map(|rank| rank.0);
        let members = self.view.members.iter().zip(0..).map(|(info, rank)| {
            let member = self.connection_of(info.id).and_then(|connection| self.members.get(&connection));
            MemberStatus {
                rank,
                id: info.id,
                peer: info.peer.to_string(),
                host: info.host.clone(),
                pid: info.pid,
                addresses: info.addresses.iter().map(ToString::to_string).collect(),
                transports: info.transports.clone(),
                lacks_links_to: self.lacking(info.id).into_iter().filter_map(rank_of).collect(),
                state: self.state_of(info.id).to_owned(),
                silent_ms: member.map(|member| now.since(member.heard).as_millis() as u64),
                calls_ended: member.and_then(|member| member.progress).map(|progress| progress.ended),
                last_call: member.and_then(|member| member.progress?.last).map(LastCall::of),
                in_call: member.and_then(|member| member.progress).map(|progress| describe(&progress)),
            }
        });
        let waiting = self.members.values().filter(|m| m.id.is_none() && !m.left);
        Status {
            state: state.to_owned(),
            failure,
            epoch: self.epoch,
            incarnation: self.view.incarnation,
            generation: self.view.generation,
            host: self.view.host.and_then(rank_of),
            members: members.collect(),
            pending: waiting
                .map(|m| PendingStatus { host: m.hello.info.host.clone(), pid: m.hello.info.pid })
                .collect(),
            next: self.next.as_ref().map(|next| next.status()),
            suspicions: self.suspicions(now),
        }
    }

    pub(super) fn note_progress(&mut self, connection: u64, progress: CallProgress) {
        if let Some(member) = self.members.get_mut(&connection) {
            member.progress = Some(progress);
        }
    }

    /// What is known of members that hold an op up, for the error that all get: who never made the call is told apart from who
    /// waits in it, and from who has returned from it. Those for whom whoever reports waits may wait for another themselves
    /// (a ring, a tree): of the others in the group, the ones that have not made the call come first.
    pub(super) fn whereabouts(
        &self,
        op: &OpId,
        collective: Collective,
        missing: &[MemberId],
        others: &[MemberId],
    ) -> String {
        let known = |&id: &MemberId| {
            let rank = self.view.rank_of_member(id)?;
            let progress = self.members.get(&self.connection_of(id)?)?.progress?;
            Some((rank, progress))
        };
        let absent = others.iter().filter_map(known).filter(|(_, progress)| has_not_made(progress, op));
        let waited_for = missing.iter().filter_map(known);
        let (absent_too, present): (Vec<_>, Vec<_>) =
            waited_for.partition(|(_, progress)| has_not_made(progress, op));
        let text = |(rank, progress): (_, CallProgress)| {
            format!("rank {rank} {}", standing(&progress, op, collective))
        };
        let all = absent_too.into_iter().chain(absent).chain(present);
        let texts: Vec<String> = all.map(text).take(MOST_NAMED).collect();
        if texts.is_empty() { String::new() } else { format!(". By their heartbeats, {}", texts.join("; ")) }
    }

    fn state_of(&self, id: MemberId) -> &'static str {
        match &self.state {
            _ if self.fenced.contains(&id) => "lost",
            _ if self.gone.contains(&id) => "left",
            State::Recovering(round) if round.reports.contains_key(&id) => "reported",
            State::Recovering(_) => "awaited",
            _ => "here",
        }
    }
}
