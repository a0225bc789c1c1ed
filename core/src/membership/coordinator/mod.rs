//! The coordinator's half: who came, and what follows. What follows a loss stands in [`losses`], how the
//! members of a job that runs change at safe points in [`views`], and how another coordinator takes over in
//! [`succession`].

mod flapping;
mod losses;
mod round;
mod status;
mod succession;
mod views;

use super::message::{CallProgress, FromMember, Hello, LinkEnd, MemberInfo, ToMember, Verdict, View};
use crate::planted::{self, Bug};
use crate::recovery::Abort;
use crate::{Epoch, Incarnation, Instant, MemberId, OpId, PeerId, Rank};
use flapping::Flapping;
use losses::{Accusation, Closed};
use round::Round;
pub use status::{LastCall, MemberStatus, NextStatus, PendingStatus, Status, Suspicion};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use succession::Gathered;
pub use succession::QUORUM_SILENCES;
use views::NextView;

/// Version of the control protocol.
pub const VERSION: u32 = 11;

/// Others find the same silence of a link as much later as they began to wait, or hear of it: so many silences are enough.
const SILENCES_OF_A_LINK: u32 = 2;

/// How patient a coordinator is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CoordinatorOptions {
    /// Number of ranks; `None` takes it from the first hello that names one.
    pub size: Option<u32>,
    /// Without a size the job starts as soon as so many have come; `None` takes it from the first hello that
    /// names it.
    pub min_peers: Option<u32>,
    /// Nobody joins a job of so many. Default: no limit.
    pub max_peers: Option<u32>,
    /// Nobody joins a job that runs: it can only shrink. Default: they do, at safe points.
    pub shrink_only: bool,
    /// How long the links of a newcomer may take before the others go on without it. Default 10 s.
    pub link_patience: Duration,
    /// Silence after which a member is lost. Default 1 s (LAN); 5 s suits a WAN.
    pub suspect_after: Duration,
    /// How often members hear that the coordinator lives. Default 200 ms.
    pub heartbeat: Duration,
    /// A report that a link failed waits so long for a better proof of death. Default 50 ms.
    pub grace: Duration,
    /// The process that it runs in; `None` if it runs alone.
    pub host: Option<PeerId>,
    /// A job without a size does not start sooner: members of a coordinator that this one was started in the place of may
    /// come meanwhile, and are that job. Counted from where the shell's clock starts, at [`Instant`] 0. Default: 0.
    pub rejoin_patience: Duration,
}

impl Default for CoordinatorOptions {
    fn default() -> CoordinatorOptions {
        let suspect_after = Duration::from_secs(1);
        let heartbeat = Duration::from_millis(200);
        CoordinatorOptions {
            size: None,
            min_peers: None,
            max_peers: None,
            shrink_only: false,
            link_patience: Duration::from_secs(10),
            suspect_after,
            heartbeat,
            grace: Duration::from_millis(50),
            host: None,
            rejoin_patience: Duration::ZERO,
        }
    }
}

/// What the shell shall do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Send to a connection.
    Send(u64, ToMember),
    /// Close a connection after what was sent.
    Close(u64),
    /// See whether a process has ended ([`Coordinator::handle_ended`]).
    Probe(MemberInfo),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Member {
    hello: Hello,
    /// Its number, once it is in a view; a newcomer whose view came to nothing loses it again.
    id: Option<MemberId>,
    /// The number that it had in a view which came to nothing: links to it may have been made with that.
    reserved: Option<MemberId>,
    left: bool,
    /// It has come from another coordinator and has said nothing since: it may not know that it was taken in.
    unaware: bool,
    /// How often it had asked when it came from there.
    asked: u64,
    heard: Instant,
    /// The same without what may have been on its way while this coordinator was stopped.
    lives_since: Instant,
    /// What it last said of its calls.
    progress: Option<CallProgress>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    Gathering,
    /// The first view is being linked.
    Linking,
    Active,
    /// All have been told to freeze and to report.
    Recovering(Round),
    /// Members whose coordinator was lost come here.
    Succeeding(Gathered),
    Failed(Verdict),
    /// The process that it runs in is cut off from too many: the others go on with another.
    SteppedDown,
}

/// How long a job that cannot form stays to say so.
const LINGER: Duration = Duration::from_secs(1);

/// Decides who belongs. Connections are numbers of the shell's choosing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Coordinator {
    options: CoordinatorOptions,
    /// The size and the least number of peers that it was given, not told by those who came.
    given: (Option<u32>, Option<u32>),
    state: State,
    members: BTreeMap<u64, Member>,
    epoch: Epoch,
    /// In effect.
    view: View,
    /// On its way to effect.
    next: Option<NextView>,
    /// Of the views above, those that have left or were lost.
    gone: BTreeSet<MemberId>,
    /// Of those that are gone, whom the others do not wait for any more.
    fenced: BTreeSet<MemberId>,
    /// When the first and the last newcomer came that no view has yet.
    newcomers_since: Option<(Instant, Instant)>,
    accusations: Vec<Accusation>,
    /// Of those that are gone, who was lost without proof of its death since the view took effect: it may go on
    /// elsewhere.
    unproven: BTreeSet<MemberId>,
    /// Members whose connection has ended and of whom it is not known yet whether they have too.
    closed: BTreeMap<PeerId, Closed>,
    /// Who was given up without proof of its death, until when it may come to hear of that. Before, nobody who hosts this
    /// coordinator is gone: it would be taken for dead, and with it all who have ended the job in order.
    may_ask: BTreeMap<PeerId, Instant>,
    /// When the members were last told that the coordinator lives.
    beaten: Instant,
    /// When time last passed.
    ticked: Instant,
    /// When it last went on after it had been stopped for so long that others may have gone on without it.
    woke: Option<Instant>,
    /// Until then a job that failed before it formed is kept, so that who comes late hears why; and one whose coordinator has
    /// stepped down, so that who looks for another does not take it for over.
    lingers_until: Instant,
    flapping: Flapping,
    /// The last ops that were to end: what comes late of them says nothing new.
    aborted: VecDeque<OpId>,
    effects: Vec<Effect>,
}

impl Coordinator {
    /// A coordinator that waits for its members.
    pub fn new(options: CoordinatorOptions) -> Coordinator {
        Coordinator {
            given: (options.size, options.min_peers),
            state: State::Gathering,
            members: BTreeMap::new(),
            epoch: Epoch(0),
            view: View::default(),
            next: None,
            gone: BTreeSet::new(),
            fenced: BTreeSet::new(),
            newcomers_since: None,
            accusations: Vec::new(),
            unproven: BTreeSet::new(),
            closed: BTreeMap::new(),
            may_ask: BTreeMap::new(),
            beaten: Instant(0),
            ticked: Instant(0),
            woke: None,
            lingers_until: Instant(0),
            flapping: Flapping::default(),
            aborted: VecDeque::new(),
            effects: Vec::new(),
            options,
        }
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The view in effect. It is empty before the first one is.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// When [`Coordinator::handle_tick`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let accusation = self.next_judgement().filter(|_| !self.is_succeeding());
        let watched = self.is_watching();
        let silent = self.members.values().filter(|m| watched && m.is_watched()).map(|m| m.heard).min();
        let silent = silent.map(|heard| heard.after(self.options.suspect_after));
        let beats = self.beats() && (watched || !self.members.is_empty());
        let beat = beats.then(|| self.beaten.after(self.options.heartbeat));
        let lingers = matches!(self.state, State::Failed(_) | State::SteppedDown);
        let lingering = lingers && self.lingers_until > self.ticked;
        let farewell = lingering.then_some(self.lingers_until);
        let starts = self.has_enough().then(|| self.held_until());
        let asked = self.may_ask.values().min().copied();
        let changes =
            [starts, asked, self.next_change_of_view(), self.succession_deadline(), self.reports_due()];
        let all = [accusation, silent, beat, farewell].into_iter().chain(changes);
        all.fold(None, |first: Option<Instant>, next| match (first, next) {
            (Some(first), Some(next)) => Some(first.min(next)),
            (first, next) => first.or(next),
        })
    }

    /// True once every member has left or the job has failed and nobody is connected.
    pub fn is_finished(&self) -> bool {
        match self.state {
            State::Gathering => false,
            State::Succeeding(_) => false,
            State::Failed(_) | State::SteppedDown => {
                self.members.is_empty() && self.ticked >= self.lingers_until && self.may_ask.is_empty()
            }
            _ => self.bound().next().is_none() && self.may_ask.is_empty(),
        }
    }

    /// True while no job has formed and nobody waits for one.
    pub fn is_unused(&self) -> bool {
        matches!(self.state, State::Gathering) && self.members.is_empty()
    }

    /// A message came.
    pub fn handle_message(&mut self, connection: u64, message: FromMember, now: Instant) {
        self.notice_own_pause(now);
        let just_woke = self.woke.is_some_and(|woke| now.since(woke) < self.options.suspect_after / 2);
        if let Some(member) = self.members.get_mut(&connection) {
            member.heard = now;
            if !just_woke {
                member.lives_since = now;
            }
            member.unaware = false;
        } else if matches!(message, FromMember::Status) {
            let status = Box::new(self.status(now));
            self.effects.push(Effect::Send(connection, ToMember::Status(status)));
            return self.effects.push(Effect::Close(connection));
        } else if !matches!(message, FromMember::Hello(_) | FromMember::Rejoin(_)) {
            return self.effects.push(Effect::Close(connection));
        }
        match message {
            FromMember::Hello(hello) => self.hello(connection, hello, now),
            FromMember::Rejoin(rejoin) => self.rejoin(connection, *rejoin, now),
            FromMember::Succeeded => self.succeeded(connection, now),
            FromMember::Heartbeat(progress) => self.note_progress(connection, progress),
            // A coordinator is that of one job.
            FromMember::Status | FromMember::Job(_) => {}
            FromMember::Linked(epoch) => self.linked(connection, epoch),
            FromMember::Unlinked { epoch, member, reason } => {
                self.unlinked(connection, epoch, member, &reason);
            }
            FromMember::Entered(epoch) => self.entered(connection, epoch),
            FromMember::Report(report) => self.reported(connection, report),
            FromMember::Leave => self.leave(connection),
            FromMember::LinkFailed { member, reason, end } => {
                if end == LinkEnd::Farewell {
                    self.rejoined_and_is_ended_by(connection, member);
                }
                let silences = self.options.suspect_after * SILENCES_OF_A_LINK;
                let patience = if end == LinkEnd::Silence { silences } else { self.options.grace };
                self.accuse(connection, member, reason, now.after(patience));
            }
            FromMember::Missed { member, reason } => self.miss(member, &reason, now),
            FromMember::Mismatch { op, rank, call, other_rank, other_call } => {
                self.disagree(
                    connection,
                    op,
                    ordered_mismatch(op, (rank, call), (other_rank, other_call)),
                    now,
                );
            }
            FromMember::Timeout { op, collective, waited, culprits, missing, others, strict } => {
                let culprits = culprits + &self.whereabouts(&op, collective, &missing, &others);
                let verdict = Verdict::Timeout { op, collective, waited, culprits };
                match collective.is_point_to_point() {
                    // The two of a message do not say how far they are.
                    true => self.end(connection, verdict, now),
                    false => self.abort_late(Abort { op, forced: strict, verdict }, now),
                }
            }
            FromMember::Diverged { op, holders } => {
                self.disagree(connection, op, Verdict::Diverged { op, holders }, now);
            }
            FromMember::Abort { reason } => {
                let id = self.members.get(&connection).and_then(|m| m.id).unwrap_or_default();
                let rank = self.view_of(id).rank_of_member(id).unwrap_or_default();
                self.end(connection, Verdict::Requested { rank, reason }, now);
            }
        }
    }

    /// A connection ended.
    pub fn handle_closed(&mut self, connection: u64, now: Instant) {
        self.notice_own_pause(now);
        let Some(member) = self.members.get(&connection) else { return };
        let (id, expected) = (member.id, member.left || matches!(self.state, State::Failed(_)));
        match id {
            Some(id) if self.is_succeeding() => self.rejoined_no_more(id, connection),
            // It stays a member, that says nothing any more.
            Some(id) if !expected && !self.lose_closed(id, now) => return,
            _ => {}
        }
        self.members.remove(&connection);
        self.forget_waiting(connection);
        if self.is_unused() {
            // Whoever comes next may mean another job.
            (self.options.size, self.options.min_peers) = self.given;
        }
        if matches!(self.state, State::Gathering) {
            self.tell_gathering();
        }
        // It may have been a newcomer on whose account no other view was made.
        self.shrink_if_needed();
    }

    /// Time passed.
    pub fn handle_tick(&mut self, now: Instant) {
        self.forgive_own_pause(now);
        self.may_ask.retain(|_, until| *until > now);
        self.form_if_due(now);
        self.succeed_if_due(now);
        self.go_on_without_reports_if_due(now);
        if !self.is_succeeding() {
            self.judge_accusations(now);
        }
        if self.beats() && now.since(self.beaten) >= self.options.heartbeat {
            self.beaten = now;
            self.probe_the_closed();
            let all: Vec<u64> = self.members.keys().copied().collect();
            self.send_to(all, &ToMember::Heartbeat);
        }
        if !self.is_watching() {
            return;
        }
        let limit = self.options.suspect_after;
        let silent = self.members.values().filter(|m| m.is_watched() && now.since(m.heard) >= limit);
        if let Some(id) = silent.filter_map(|m| m.id).min() {
            self.lose_unproven(id, "it sent no heartbeat (stopped, overloaded, or cut off)", now);
        }
        self.change_view_when_due(now);
    }

    /// Members work.
    fn runs(&self) -> bool {
        matches!(self.state, State::Active | State::Recovering(_))
    }

    /// Members are told that it is there: also once the job has ended, for as long as they need each other.
    fn beats(&self) -> bool {
        self.is_watching() || self.is_succeeding() || matches!(self.state, State::Failed(_))
    }

    /// Members are expected to be there and to say so.
    fn is_watching(&self) -> bool {
        matches!(self.state, State::Linking) || self.runs()
    }

    /// While it was stopped members may have looked for another coordinator.
    fn notice_own_pause(&mut self, now: Instant) {
        let is_long = now.since(self.ticked) >= self.options.suspect_after / 2;
        if is_long && self.is_watching() && self.view.is_hosted() {
            self.woke = Some(now);
        }
    }

    /// A coordinator that was itself stopped for long has heard nobody: that is no member's fault.
    fn forgive_own_pause(&mut self, now: Instant) {
        self.notice_own_pause(now);
        let pause = now.since(self.ticked);
        self.ticked = now;
        if pause > self.options.heartbeat * 2 {
            self.members.values_mut().for_each(|member| member.heard = member.heard.max(now));
            // Nor did it hear what others would have said meanwhile.
            self.accusations.iter_mut().for_each(|accusation| accusation.due = accusation.due.after(pause));
        }
    }

    fn hello(&mut self, connection: u64, hello: Hello, now: Instant) {
        if self.members.contains_key(&connection) {
            return;
        }
        let is_ending =
            self.runs() && hello.size.is_some() && self.members.values().any(|member| member.left);
        if is_ending || matches!(self.state, State::SteppedDown) {
            self.effects.push(Effect::Send(connection, ToMember::TryLater));
            self.effects.push(Effect::Close(connection));
            return;
        }
        if let Err(text) = self.admissible(&hello) {
            self.effects.push(Effect::Send(connection, ToMember::Refused(text.clone())));
            self.effects.push(Effect::Close(connection));
            // A wrong rank or size makes the job impossible: nobody should wait for a deadline. A job that could start does
            // without whoever is wrong.
            let gathers = matches!(self.state, State::Gathering) && !self.has_enough();
            if gathers && hello.version == VERSION {
                self.fail(Verdict::Join(text));
                self.lingers_until = now.after(LINGER);
            }
            return;
        }
        // One that comes to a job that runs waits for its members, if this coordinator was only started again.
        if !matches!(self.state, State::Gathering) || hello.newcomer {
            return self.newcomer(connection, hello, now);
        }
        let is_full = self.options.max_peers.is_some_and(|most| self.gathered().count() >= most as usize);
        if is_full && self.has_enough() {
            // Whether it is one too many is known once the job has started.
            self.effects.push(Effect::Send(connection, ToMember::TryLater));
            return self.effects.push(Effect::Close(connection));
        }
        self.options.size = self.options.size.or(hello.size);
        self.options.min_peers = self.options.min_peers.or(hello.min_peers);
        self.members.insert(connection, Member::new(hello, None, now));
        self.tell_gathering();
        self.form_if_due(now);
    }

    /// Those who came for the start of the job.
    fn gathered(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.hello.newcomer)
    }

    /// How many there have to be for the job to start.
    fn needed(&self) -> Option<u32> {
        self.options.size.or(self.options.min_peers)
    }

    /// As many have come as the job needs to start.
    fn has_enough(&self) -> bool {
        let gathers = matches!(self.state, State::Gathering);
        gathers && self.needed().is_some_and(|needed| self.gathered().count() >= needed as usize)
    }

    /// Until then a job without a size does not start.
    fn held_until(&self) -> Instant {
        Instant(0).after(self.options.rejoin_patience)
    }

    fn form_if_due(&mut self, now: Instant) {
        // With a size the members of an earlier job are among those who are counted.
        if self.has_enough() && (self.options.size.is_some() || now >= self.held_until()) {
            self.form_view(now);
        }
    }

    fn admissible(&self, hello: &Hello) -> Result<(), String> {
        let host = &hello.info.host;
        if hello.version != VERSION {
            return Err(format!(
                "{host} speaks control protocol {}, the coordinator {VERSION}: use one version of Ronde",
                hello.version
            ));
        }
        if hello.size == Some(0) || hello.min_peers == Some(0) {
            return Err(format!("{host} expects 0 ranks: a job has at least one"));
        }
        match &self.state {
            State::Gathering => {}
            State::Failed(verdict) => {
                return Err(format!("the job has failed: {}", crate::Error::from(verdict.clone())));
            }
            _ => return self.admissible_late(hello),
        }
        if let (Some(mine), Some(size)) = (hello.size, self.options.size)
            && mine != size
        {
            return Err(format!("{host} expects {mine} ranks, the others {size}: give all the same size"));
        }
        let here = self.gathered().count();
        if let Some(size) = hello.size.filter(|&size| here >= size as usize) {
            return Err(format!(
                "{host} expects {size} ranks, and {here} others have come already: give all processes the same size, or none"
            ));
        }
        let size = hello.size.or(self.options.size);
        if let (Some(rank), Some(size)) = (hello.rank, size)
            && rank >= size
        {
            let last = size.saturating_sub(1);
            return Err(format!("{host} claims rank {rank} of {size}: ranks go from 0 to {last}"));
        }
        self.refuse_twin(hello)
    }

    /// Two processes that claim one rank are a mistake in how they were started.
    fn refuse_twin(&self, hello: &Hello) -> Result<(), String> {
        let live = self.members.values().filter(|m| !m.left && m.hello.rank.is_some());
        match live.into_iter().find(|m| m.hello.rank == hello.rank) {
            Some(other) => Err(format!(
                "two processes claim rank {}: pid {} on {} and pid {} on {}",
                hello.rank.unwrap_or(0),
                other.hello.info.pid,
                other.hello.info.host,
                hello.info.pid,
                hello.info.host
            )),
            None => Ok(()),
        }
    }

    fn tell_gathering(&mut self) {
        let Some(size) = self.needed() else { return };
        let claimed: Vec<u32> = self.gathered().filter_map(|m| m.hello.rank).collect();
        let explicit = claimed.len() == self.gathered().count();
        let missing = (0..size).filter(|r| explicit && !claimed.contains(r)).take(64).collect::<Vec<_>>();
        let joined = self.gathered().count() as u32;
        let all: Vec<u64> = self.members.keys().copied().collect();
        self.send_to(all, &ToMember::Gathering { joined, size, missing });
    }

    /// Everybody is here: ranks as claimed, the others in order of arrival.
    fn form_view(&mut self, now: Instant) {
        let claimed: Vec<u32> = self.gathered().filter_map(|m| m.hello.rank).collect();
        let mut free = (0..).filter(|r| !claimed.contains(r));
        let mut order: Vec<&mut Member> = self.members.values_mut().filter(|m| !m.hello.newcomer).collect();
        order.sort_by_cached_key(|member| member.hello.rank.or_else(|| free.next()));
        for (member, id) in order.iter_mut().zip(0..) {
            member.id = Some(MemberId(id));
            member.heard = now;
        }
        let members: Vec<MemberInfo> = order.iter().filter_map(|member| member.info()).collect();
        self.epoch.0 += 1;
        let host = self.members.values().find(|m| m.hello.hosts_coordinator).and_then(|m| m.id);
        let incarnation = Incarnation(1);
        let view = View { epoch: self.epoch, incarnation, members, host, ..View::default() };
        self.state = State::Linking;
        self.link(view, now);
    }

    fn leave(&mut self, connection: u64) {
        let Some(member) = self.members.get_mut(&connection) else { return };
        member.left = true;
        let id = member.id;
        self.effects.push(Effect::Send(connection, ToMember::Released));
        let Some(id) = id else { return };
        match &mut self.state {
            State::Linking => return self.lose(id, "it left while the job formed", self.ticked),
            // Nobody can ask it for a result any more.
            State::Recovering(round) => drop(round.reports.remove(&id)),
            _ => {}
        }
        self.rejoined_and_left(id);
        if self.is_unarmed_newcomer(id) {
            self.withdraw(self.ticked);
            return self.shrink_if_needed();
        }
        self.send_to(self.bound().collect(), &ToMember::Left(id));
        self.accusations.retain(|a| a.member != id);
        self.is_gone(id);
        // It may have been the last whose report was missing.
        self.go_on();
        self.shrink_if_needed();
    }

    fn send_to(&mut self, connections: Vec<u64>, message: &ToMember) {
        self.effects.extend(connections.into_iter().map(|c| Effect::Send(c, message.clone())));
    }

    /// Connections of those that ops may need: members of the view in effect and, once it is armed, of the
    /// next one.
    fn bound(&self) -> impl Iterator<Item = u64> + '_ {
        let view = match &self.next {
            Some(_) if self.view.epoch > Epoch(0) && planted::has(Bug::NewcomersDoNotReport) => &self.view,
            Some(next) if next.armed || matches!(self.state, State::Linking) => &next.view,
            _ => &self.view,
        };
        let is_bound = |m: &Member| !m.left && m.id.is_some_and(|id| view.member(id).is_some());
        self.members.iter().filter(move |(_, m)| is_bound(m)).map(|(connection, _)| *connection)
    }

    /// The view in effect, and the one on its way to effect.
    fn views(&self) -> impl Iterator<Item = &View> {
        std::iter::once(&self.view).chain(self.next.as_ref().map(|next| &next.view))
    }

    fn connection_of(&self, id: MemberId) -> Option<u64> {
        self.members.iter().find(|(_, m)| m.id == Some(id)).map(|(connection, _)| *connection)
    }
}

impl Member {
    fn new(hello: Hello, id: Option<MemberId>, now: Instant) -> Member {
        Member {
            hello,
            id,
            reserved: None,
            left: false,
            unaware: false,
            asked: 0,
            heard: now,
            lives_since: now,
            progress: None,
        }
    }

    /// Its silence would be its loss.
    fn is_watched(&self) -> bool {
        !self.left && self.id.is_some()
    }

    /// What everybody may know of it, once it has a number.
    fn info(&self) -> Option<MemberInfo> {
        self.id.map(|id| MemberInfo { id, ..self.hello.info.clone() })
    }
}

/// A mismatch is seen from both sides; the lower rank is named first, so that both say the same.
fn ordered_mismatch(op: crate::OpId, one: (Rank, String), other: (Rank, String)) -> Verdict {
    let (low, high) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    Verdict::Mismatch { op, rank: low.0, call: low.1, other_rank: high.0, other_call: high.1 }
}

#[cfg(test)]
mod tests;
