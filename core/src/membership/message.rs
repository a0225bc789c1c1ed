//! Control messages; the direction is in the type. On the wire: length (u32, little endian), postcard.

use super::coordinator::Status;
use crate::error::{Aborted, Error, PeerLost};
use crate::recovery::{RecoveryPlan, Report};
use crate::{Collective, Epoch, Generation, Incarnation, MemberId, OpId, PeerId, Rank};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// No control message is longer: a view of some 100,000 members.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Processes with equal ids can share memory and reach each other's abstract Unix sockets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct MachineId(pub String);

/// What everybody knows of a member.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its identity.
    pub peer: PeerId,
    /// Its number in the job.
    pub id: MemberId,
    /// Host name, for people.
    pub host: String,
    /// Where its listener can be reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// Its machine.
    pub machine: MachineId,
    /// Its user there: processes share memory only with their own user's.
    pub user: u32,
    /// Its process id there.
    pub pid: u32,
    /// Transports it may use.
    pub transports: Vec<String>,
    /// Costs of messages and bytes that it would have everybody reckon with; those of rank 0 count.
    pub costs: String,
}

/// Who belongs, in rank order.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// Its number.
    pub epoch: Epoch,
    /// The coordinator's life that made it.
    pub incarnation: Incarnation,
    /// The stretch of the job in which it gives the ranks.
    pub generation: Generation,
    /// Members in rank order.
    pub members: Vec<MemberInfo>,
    /// The member that hosts the coordinator, if one does.
    pub host: Option<MemberId>,
    /// Who hosts it and is no member any more: it left before its coordinator ended. Of the two one at most is there.
    pub home: Option<Box<MemberInfo>>,
}

/// No job has more members: tables go by their numbers.
const MOST_MEMBERS: u32 = 1 << 20;

impl View {
    /// Whether numbers and identities are as a coordinator gives them.
    pub fn is_sound(&self) -> bool {
        let ids: BTreeSet<MemberId> = self.members.iter().map(|m| m.id).collect();
        let peers: BTreeSet<PeerId> = self.members.iter().map(|m| m.peer).collect();
        let all = self.members.len();
        let known = self.host.is_none_or(|host| ids.contains(&host));
        let bounded = ids.last().is_none_or(|last| last.0 < MOST_MEMBERS) && self.epoch.0 < u64::MAX / 2;
        let known = known && (self.host.is_none() || self.home.is_none());
        known && bounded && ids.len() == all && peers.len() == all && self.generation.0 < u32::MAX / 2
    }

    /// Whether the coordinator runs in a process of this job: then another takes its place when it is lost.
    pub fn is_hosted(&self) -> bool {
        self.host.is_some() || self.home.is_some()
    }

    /// The process that hosts the coordinator, if one does.
    pub fn host_info(&self) -> Option<&MemberInfo> {
        self.host.and_then(|host| self.member(host)).or(self.home.as_deref())
    }

    /// The same view where the coordinator runs in this process, or alone.
    pub fn hosted_by(self, host: Option<&MemberInfo>) -> View {
        let id = host.and_then(|host| self.rank_of(host.peer)).map(|rank| self.members[rank.index()].id);
        let home = host.filter(|_| id.is_none()).cloned().map(Box::new);
        View { host: id, home, ..self }
    }

    /// The rank of a process.
    pub fn rank_of(&self, peer: PeerId) -> Option<Rank> {
        self.members.iter().position(|m| m.peer == peer).map(|rank| Rank(rank as u32))
    }

    /// The rank of a member.
    pub fn rank_of_member(&self, id: MemberId) -> Option<Rank> {
        self.members.iter().position(|m| m.id == id).map(|rank| Rank(rank as u32))
    }

    /// What is known of a member.
    pub fn member(&self, id: MemberId) -> Option<&MemberInfo> {
        // Until somebody is lost, numbers are ranks.
        let guess = self.members.get(id.index()).filter(|m| m.id == id);
        guess.or_else(|| self.members.iter().find(|m| m.id == id))
    }

    /// The loss of a member, as everybody shall hear of it.
    pub fn lost(
        &self,
        id: MemberId,
        reason: impl Into<String>,
        silent_for: Duration,
        epoch: Epoch,
    ) -> Option<PeerLost> {
        let rank = self.rank_of_member(id)?;
        let info = &self.members[rank.index()];
        Some(PeerLost {
            peer: info.peer,
            member: id,
            rank,
            host: info.host.clone(),
            address: info.addresses.first().map_or_else(String::new, ToString::to_string),
            reason: reason.into(),
            silent_for,
            epoch,
        })
    }

    /// The view after this one: those who are left, in the same order, and the newcomers behind them.
    pub fn next(&self, epoch: Epoch, gone: &[MemberId], newcomers: Vec<MemberInfo>) -> View {
        let stay = self.members.iter().filter(|m| !gone.contains(&m.id)).cloned();
        let view = View {
            epoch,
            incarnation: self.incarnation,
            generation: Generation(self.generation.0 + 1),
            members: stay.chain(newcomers).collect(),
            ..View::default()
        };
        // Its coordinator may go on, and is not one that ran alone.
        view.hosted_by(self.host_info())
    }
}

/// A process asks to join.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the control protocol.
    pub version: u32,
    /// Its rank, if the launcher gave it one.
    pub rank: Option<u32>,
    /// Number of ranks it expects.
    pub size: Option<u32>,
    /// Without a size: the job starts when so many have come.
    pub min_peers: Option<u32>,
    /// It comes to a job that runs: without it no job forms.
    pub newcomer: bool,
    /// It also runs the coordinator.
    pub hosts_coordinator: bool,
    /// Everything else.
    pub info: MemberInfo,
}

/// Where a member stands that has lost its coordinator, for the one that takes its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Rejoin {
    /// Version of the control protocol.
    pub version: u32,
    /// The member.
    pub peer: PeerId,
    /// The view in effect there.
    pub view: View,
    /// The view that takes effect at its next safe point.
    pub armed: Option<View>,
    /// Members of these views that have left or were lost, as it was told.
    pub gone: Vec<MemberId>,
    /// Of these, whom it has not gone on without yet: if nobody has they may be a part of their own.
    pub unsettled: Vec<MemberId>,
    /// What it was told of those of them that were lost.
    pub lost: Vec<PeerLost>,
    /// The highest number that it was told of, of a view or a loss.
    pub epoch: Epoch,
    /// Members whose processes may have ended: their connections to it were closed.
    pub dead: Vec<MemberId>,
    /// Its coordinator fell silent, and may have given it up meanwhile and taken in others.
    pub cut_off: bool,
    /// How often it has asked before, this coordinator or others: of two words of a member the later counts, also if it is
    /// overtaken.
    pub asked: u64,
}

impl Rejoin {
    /// Whether it is of a member, and may be reckoned with.
    pub fn is_sound(&self) -> bool {
        let views = [Some(&self.view), self.armed.as_ref()];
        let sound =
            views.into_iter().flatten().all(|view| view.is_sound() && view.rank_of(self.peer).is_some());
        sound && self.epoch.0 < u64::MAX / 2 && self.lost.iter().all(|lost| lost.epoch <= self.epoch)
    }
}

/// How far a member is in its calls: what it says with every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct CallProgress {
    /// Calls that have ended there, of all groups and tags.
    pub ended: u64,
    /// The last call that was started.
    pub last: Option<(OpId, Collective)>,
    /// Of the open ones that which was started first, and for how long it has been open.
    pub open: Option<(OpId, Collective, Duration)>,
}

/// How a link to a member ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum LinkEnd {
    /// Without a word: its process has ended, or something between the two cut it.
    Cut,
    /// The member has ended it, and so lived then. Unless it left, or its job failed, it had been told that the one at this end is
    /// lost: others may go on without that.
    Farewell,
    /// It did not end by itself: nothing came back on it. Others may find the same of that member, or of this one, only a
    /// little later.
    Silence,
}

/// From a member to the coordinator.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum FromMember {
    /// First message.
    Hello(Hello),
    /// First message to the successor of a coordinator.
    Rejoin(Box<Rejoin>),
    /// Last message to a coordinator that was silent: the members go on with another.
    Succeeded,
    /// All links of the view are up.
    Linked(Epoch),
    /// A link of the view cannot be made.
    Unlinked {
        /// The view.
        epoch: Epoch,
        /// To whom.
        member: MemberId,
        /// Why.
        reason: String,
    },
    /// This member has passed a safe point: the view is in effect here.
    Entered(Epoch),
    /// It lives, and how far it is.
    Heartbeat(CallProgress),
    /// Its link to a member ended.
    LinkFailed {
        /// The member.
        member: MemberId,
        /// What it saw.
        reason: String,
        /// How.
        end: LinkEnd,
    },
    /// A member has left in order, and an op waits for it.
    Missed {
        /// The member.
        member: MemberId,
        /// By which op.
        reason: String,
    },
    /// Two ranks made different calls.
    Mismatch {
        /// The op.
        op: OpId,
        /// One rank.
        rank: Rank,
        /// Its call.
        call: String,
        /// The other.
        other_rank: Rank,
        /// Its call.
        other_call: String,
    },
    /// An op missed its deadline.
    Timeout {
        /// The op.
        op: OpId,
        /// What kind.
        collective: Collective,
        /// For how long it was waited for.
        waited: Duration,
        /// Who did not arrive.
        culprits: String,
        /// The same, by their numbers.
        missing: Vec<MemberId>,
        /// All others of the op's group: those who are missing may wait for one of them.
        others: Vec<MemberId>,
        /// It tolerates no loss: what some have returned of it binds nobody.
        strict: bool,
    },
    /// Members hold different results.
    Diverged {
        /// The op.
        op: OpId,
        /// Who holds what.
        holders: String,
    },
    /// `abort()` was called.
    Abort {
        /// The caller's words.
        reason: String,
    },
    /// From anybody who knows the token: how is the job?
    Status,
    /// How far its ops are: the answer to [`ToMember::Prepare`].
    Report(Report),
    /// It leaves in order.
    Leave,
    /// Before anything else, where its job has a name: which one that is.
    Job(String),
}

/// From the coordinator to a member.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ToMember {
    /// Who has come so far; the ranks that are missing where they are known.
    Gathering {
        /// Members that have said hello.
        joined: u32,
        /// Members that are expected.
        size: u32,
        /// Ranks that nobody has claimed.
        missing: Vec<u32>,
    },
    /// It cannot join.
    Refused(String),
    /// It cannot join yet: the job before this one is ending.
    TryLater,
    /// The coordinator here is not that of its job, for this reason. Another may be there soon.
    NotHere(String),
    /// It may join: at a safe point of those who work already.
    Pending {
        /// How many those are.
        members: u32,
    },
    /// The view that is to be: make the links that are missing.
    View(Arc<View>),
    /// All links of the view are up: it takes effect at the next safe point.
    Armed(Epoch),
    /// A view of those who are left takes effect at the next safe point; no links are missing.
    Shrink(Epoch),
    /// This view takes effect at the next safe point: the coordinator before had told some members.
    Arm(Arc<View>),
    /// The view is in effect: go.
    Activate(Epoch),
    /// A member left in order.
    Left(MemberId),
    /// Nothing to say but that the coordinator lives.
    Heartbeat,
    /// To a member whose coordinator was lost: this is the one that takes its place.
    Welcome {
        /// The process that it runs in, unless it runs alone. It may answer at the address of the one before.
        host: Option<PeerId>,
    },
    /// Members were lost, or something is to end by agreement: end all attempts, and report. Everything waits for the plan.
    Prepare {
        /// The epoch that is to be.
        epoch: Epoch,
        /// Who was lost since the members last went on.
        lost: Vec<PeerLost>,
        /// Ops that are to end: none of them may return meanwhile.
        held: Vec<OpId>,
        /// The job is to end.
        ending: Option<Box<Verdict>>,
    },
    /// Everybody has reported: go on by the plan.
    Resume {
        /// The epoch that begins.
        epoch: Epoch,
        /// What becomes of the open ops.
        plan: RecoveryPlan,
        /// A view of those who are left, with this number, takes effect at the next safe point.
        shrink: Option<Epoch>,
    },
    /// The answer to the same.
    Status(Box<Status>),
    /// The answer to Leave.
    Released,
    /// The job has failed.
    Verdict(Verdict),
}

/// The one reason why a job failed, in the words that every survivor gets.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Verdict {
    PeerLost(PeerLost),
    Mismatch { op: OpId, rank: Rank, call: String, other_rank: Rank, other_call: String },
    Timeout { op: OpId, collective: Collective, waited: Duration, culprits: String },
    Diverged { op: OpId, holders: String },
    Requested { rank: Rank, reason: String },
    Join(String),
    NoQuorum { here: u32, of: u32 },
    Deposed(Epoch),
}

impl From<Verdict> for Error {
    fn from(verdict: Verdict) -> Error {
        match verdict {
            Verdict::PeerLost(lost) => Error::PeerLost(Arc::new(lost)),
            Verdict::Mismatch { op, rank, call, other_rank, other_call } => {
                Error::Aborted(Arc::new(Aborted::Mismatch { op, rank, call, other_rank, other_call }))
            }
            Verdict::Timeout { op, collective, waited, culprits } => {
                Error::Aborted(Arc::new(Aborted::Timeout { op, collective, waited, culprits }))
            }
            Verdict::Diverged { op, holders } => Error::Aborted(Arc::new(Aborted::Diverged { op, holders })),
            Verdict::Requested { rank, reason } => {
                Error::Aborted(Arc::new(Aborted::Requested { rank, reason }))
            }
            Verdict::Join(text) => Error::join(text),
            Verdict::NoQuorum { here, of } => Error::Aborted(Arc::new(Aborted::NoQuorum { here, of })),
            Verdict::Deposed(epoch) => Error::Expelled {
                epoch,
                reason: "its coordinator was silent, and the others went on with another".into(),
            },
        }
    }
}

/// Bytes that are no message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MessageError {
    #[error("a control message of {0} bytes is above the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    #[error("not a control message of this version")]
    Malformed,
}

/// A message with its length in front.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let body = postcard::to_stdvec(message).map_err(|_| MessageError::Malformed)?;
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLong(body.len()));
    }
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The message in `body` (without the length), which must be used up.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLong(body.len()));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(MessageError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<FromMember>(&bytes);
            let _ = decode::<ToMember>(&bytes);
        }

        #[test]
        fn reports_survive_the_wire(rank: u32, reason in ".{0,60}", silent: bool, extra in any::<u8>()) {
            let end = if silent { LinkEnd::Silence } else { LinkEnd::Farewell };
            let message = FromMember::LinkFailed { member: MemberId(rank), reason, end };
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(decode::<FromMember>(&bytes[4..]), Ok(message));
            let mut longer = bytes[4..].to_vec();
            longer.push(extra);
            prop_assert_eq!(decode::<FromMember>(&longer), Err(MessageError::Malformed));
        }
    }
}
