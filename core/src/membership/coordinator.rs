//! The coordinator's half.

use super::message::{FromMember, Hello, MemberInfo, ToMember, Verdict, View};
use crate::error::PeerLost;
use crate::planted::{self, Bug};
use crate::recovery::{self, Report};
use crate::{Epoch, Incarnation, Instant, Rank};
use std::collections::BTreeMap;
use std::time::Duration;

/// Version of the control protocol.
pub const VERSION: u32 = 1;

/// How patient a coordinator is.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// Number of ranks; `None` takes it from the first hello that names one.
    pub size: Option<u32>,
    /// Silence after which a member is lost. Default 1 s (LAN); 5 s suits a WAN.
    pub suspect_after: Duration,
    /// How often members hear that the coordinator lives. Default 200 ms.
    pub heartbeat: Duration,
    /// A report that a link failed waits so long for a better proof of death. Default 50 ms.
    pub grace: Duration,
}

impl Default for CoordinatorOptions {
    fn default() -> CoordinatorOptions {
        let suspect_after = Duration::from_secs(1);
        let heartbeat = Duration::from_millis(200);
        CoordinatorOptions { size: None, suspect_after, heartbeat, grace: Duration::from_millis(50) }
    }
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send to a connection.
    Send(u64, ToMember),
    /// Close a connection after what was sent.
    Close(u64),
}

struct Member {
    hello: Hello,
    rank: Option<Rank>,
    linked: bool,
    left: bool,
    heard: Instant,
}

struct Accusation {
    rank: Rank,
    reason: String,
    since: Instant,
}

#[derive(Debug)]
enum State {
    Gathering,
    Linking,
    Active,
    /// Members were lost since the others last went on; these have reported for the current epoch.
    Recovering {
        lost: Vec<PeerLost>,
        reports: BTreeMap<Rank, Report>,
    },
    Failed(Verdict),
}

/// How long a job that cannot form stays to say so.
const LINGER: Duration = Duration::from_secs(1);

/// Decides who belongs. Connections are numbers of the shell's choosing.
pub struct Coordinator {
    options: CoordinatorOptions,
    state: State,
    members: BTreeMap<u64, Member>,
    epoch: Epoch,
    accusation: Option<Accusation>,
    /// When the members were last told that the coordinator lives.
    beaten: Instant,
    /// When time last passed.
    ticked: Instant,
    /// Until then a job that failed before it formed is kept, so that who comes late hears why.
    lingers_until: Instant,
    effects: Vec<Effect>,
}

impl Coordinator {
    /// A coordinator that waits for its members.
    pub fn new(options: CoordinatorOptions) -> Coordinator {
        Coordinator {
            options,
            state: State::Gathering,
            members: BTreeMap::new(),
            epoch: Epoch(0),
            accusation: None,
            beaten: Instant(0),
            ticked: Instant(0),
            lingers_until: Instant(0),
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Coordinator::handle_tick`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let accusation = self.accusation.as_ref().map(|a| a.since.after(self.options.grace));
        let watched = self.is_watching();
        let silent = self.members.values().filter(|m| watched && !m.left).map(|m| m.heard).min();
        let silent = silent.map(|heard| heard.after(self.options.suspect_after));
        let beat = watched.then(|| self.beaten.after(self.options.heartbeat));
        let lingering = matches!(self.state, State::Failed(_)) && self.lingers_until > self.ticked;
        let farewell = lingering.then_some(self.lingers_until);
        accusation.into_iter().chain(silent).chain(beat).chain(farewell).min()
    }

    /// True once every member has left or the job has failed and nobody is connected.
    pub fn is_finished(&self) -> bool {
        match self.state {
            State::Gathering => false,
            State::Failed(_) => self.members.is_empty() && self.ticked >= self.lingers_until,
            _ => self.members.values().all(|m| m.left),
        }
    }

    /// A message came.
    pub fn handle_message(&mut self, connection: u64, message: FromMember, now: Instant) {
        if let Some(member) = self.members.get_mut(&connection) {
            member.heard = now;
        } else if !matches!(message, FromMember::Hello(_)) {
            return self.effects.push(Effect::Close(connection));
        }
        match message {
            FromMember::Hello(hello) => self.hello(connection, hello, now),
            FromMember::Heartbeat => {}
            FromMember::Linked(epoch) if epoch == self.epoch => self.linked(connection),
            FromMember::Linked(_) => {}
            FromMember::Report(report) => self.reported(connection, report),
            FromMember::Leave => self.leave(connection),
            FromMember::LinkFailed { rank, reason } => self.accuse(rank, reason, now),
            FromMember::Mismatch { op, rank, call, other_rank, other_call } => {
                self.fail(ordered_mismatch(op, (rank, call), (other_rank, other_call)));
            }
            FromMember::Timeout { op, collective, waited, culprits } => {
                self.fail(Verdict::Timeout { op, collective, waited, culprits });
            }
            FromMember::Abort { reason } => {
                let rank = self.rank_of(connection);
                self.fail(Verdict::Requested { rank, reason });
            }
        }
    }

    /// A connection ended.
    pub fn handle_closed(&mut self, connection: u64, now: Instant) {
        let Some(member) = self.members.get(&connection) else { return };
        if member.left || matches!(self.state, State::Failed(_)) {
            self.members.remove(&connection);
            return;
        }
        match (&self.state, member.rank) {
            (State::Linking | State::Active | State::Recovering { .. }, Some(rank)) => {
                self.lose(rank, "its process ended or its control connection broke", now);
                self.members.remove(&connection);
            }
            _ => {
                self.members.remove(&connection);
                self.tell_gathering();
            }
        }
    }

    /// Time passed.
    pub fn handle_tick(&mut self, now: Instant) {
        self.forgive_own_pause(now);
        if let Some(accusation) = self.accusation.take_if(|a| now.since(a.since) >= self.options.grace) {
            self.lose(accusation.rank, &accusation.reason, now);
        }
        if !self.is_watching() {
            return;
        }
        if now.since(self.beaten) >= self.options.heartbeat {
            self.beaten = now;
            self.broadcast(&ToMember::Heartbeat);
        }
        let limit = self.options.suspect_after;
        let silent = self.members.values().filter(|m| !m.left && now.since(m.heard) >= limit);
        if let Some(rank) = silent.filter_map(|m| m.rank).min() {
            self.lose(rank, "it sent no heartbeat (stopped, overloaded, or cut off)", now);
        }
    }

    /// Members are expected to be there and to say so.
    fn is_watching(&self) -> bool {
        matches!(self.state, State::Linking | State::Active | State::Recovering { .. })
    }

    /// A coordinator that was itself stopped for long has heard nobody: that is no member's fault.
    fn forgive_own_pause(&mut self, now: Instant) {
        let pause = now.since(self.ticked);
        self.ticked = now;
        if pause > self.options.heartbeat * 2 {
            self.members.values_mut().for_each(|member| member.heard = member.heard.max(now));
        }
    }

    fn hello(&mut self, connection: u64, hello: Hello, now: Instant) {
        if matches!(self.state, State::Active) && self.members.values().any(|member| member.left) {
            self.effects.push(Effect::Send(connection, ToMember::TryLater));
            self.effects.push(Effect::Close(connection));
            return;
        }
        if let Err(text) = self.admissible(&hello) {
            self.effects.push(Effect::Send(connection, ToMember::Refused(text.clone())));
            self.effects.push(Effect::Close(connection));
            // A wrong rank or size makes the job impossible: nobody should wait for a deadline.
            if matches!(self.state, State::Gathering) && hello.version == VERSION {
                self.fail(Verdict::Join(text));
                self.lingers_until = now.after(LINGER);
            }
            return;
        }
        self.options.size = self.options.size.or(hello.size);
        let member = Member { hello, rank: None, linked: false, left: false, heard: now };
        self.members.insert(connection, member);
        self.tell_gathering();
        if self.options.size == Some(self.members.len() as u32) {
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
        match &self.state {
            State::Gathering => {}
            State::Failed(verdict) => {
                return Err(format!("the job has failed: {}", crate::Error::from(verdict.clone())));
            }
            _ => return Err(format!("the job is complete; {host} came too late or is one process too many")),
        }
        if let (Some(mine), Some(size)) = (hello.size, self.options.size)
            && mine != size
        {
            return Err(format!("{host} expects {mine} ranks, the others {size}: give all the same size"));
        }
        let size = hello.size.or(self.options.size);
        if let (Some(rank), Some(size)) = (hello.rank, size)
            && rank >= size
        {
            return Err(format!("{host} claims rank {rank} of {size}: ranks go from 0 to {}", size - 1));
        }
        let twin = self.members.values().find(|m| m.hello.rank.is_some() && m.hello.rank == hello.rank);
        match twin {
            Some(other) => Err(format!(
                "two processes claim rank {}: pid {} on {} and pid {} on {host}",
                hello.rank.unwrap_or(0),
                other.hello.info.pid,
                other.hello.info.host,
                hello.info.pid
            )),
            None => Ok(()),
        }
    }

    fn tell_gathering(&mut self) {
        let Some(size) = self.options.size else { return };
        let claimed: Vec<u32> = self.members.values().filter_map(|m| m.hello.rank).collect();
        let explicit = claimed.len() == self.members.len();
        let missing = (0..size).filter(|r| explicit && !claimed.contains(r)).take(64).collect::<Vec<_>>();
        let joined = self.members.len() as u32;
        for &connection in self.members.keys() {
            let news = ToMember::Gathering { joined, size, missing: missing.clone() };
            self.effects.push(Effect::Send(connection, news));
        }
    }

    /// Everybody is here: ranks as claimed, the others in order of arrival.
    fn form_view(&mut self, now: Instant) {
        let claimed: Vec<u32> = self.members.values().filter_map(|m| m.hello.rank).collect();
        let mut free = (0..).filter(|r| !claimed.contains(r));
        for member in self.members.values_mut() {
            let rank = member.hello.rank.or_else(|| free.next()).unwrap_or(0);
            member.rank = Some(Rank(rank));
            member.heard = now;
        }
        self.epoch.0 += 1;
        let mut members: Vec<MemberInfo> = self
            .members
            .values()
            .map(|m| MemberInfo { rank: m.rank.unwrap_or_default(), ..m.hello.info.clone() })
            .collect();
        members.sort_by_key(|m| m.rank);
        let host = self.members.values().find(|m| m.hello.hosts_coordinator).and_then(|m| m.rank);
        let view = View { epoch: self.epoch, incarnation: Incarnation(1), members, host };
        for (&connection, member) in &self.members {
            let news = ToMember::View(view.clone(), member.rank.unwrap_or_default());
            self.effects.push(Effect::Send(connection, news));
        }
        self.state = State::Linking;
    }

    fn linked(&mut self, connection: u64) {
        if let Some(member) = self.members.get_mut(&connection) {
            member.linked = true;
        }
        if matches!(self.state, State::Linking) && self.members.values().all(|m| m.linked) {
            self.state = State::Active;
            self.broadcast(&ToMember::Activate(self.epoch));
        }
    }

    fn leave(&mut self, connection: u64) {
        let rank = self.rank_of(connection);
        let Some(member) = self.members.get_mut(&connection) else { return };
        member.left = true;
        self.effects.push(Effect::Send(connection, ToMember::Released));
        let others: Vec<u64> = self.members.iter().filter(|(_, m)| !m.left).map(|(c, _)| *c).collect();
        for other in others {
            self.effects.push(Effect::Send(other, ToMember::Left(rank)));
        }
        if self.accusation.as_ref().is_some_and(|a| a.rank == rank) {
            self.accusation = None;
        }
        // It may have been the last whose report was missing.
        self.go_on();
    }

    /// A member says that its link to another ended. The dead one's own connection is better proof, so
    /// that is waited for; without it the accused goes, by rule.
    fn accuse(&mut self, rank: Rank, reason: String, now: Instant) {
        if let State::Failed(_) = self.state {
            return;
        }
        let accused = self.members.values().find(|m| m.rank == Some(rank));
        if accused.is_some_and(|m| !m.left) && self.accusation.is_none() {
            self.accusation = Some(Accusation { rank, reason, since: now });
        }
    }

    fn lose(&mut self, rank: Rank, reason: &str, now: Instant) {
        let Some(member) = self.members.values().find(|m| m.rank == Some(rank)) else { return };
        let info = &member.hello.info;
        let address = info.addresses.first().map_or_else(String::new, ToString::to_string);
        let lost = PeerLost {
            peer: info.peer,
            rank,
            host: info.host.clone(),
            address,
            reason: reason.to_owned(),
            silent_for: now.since(member.heard),
            epoch: Epoch(self.epoch.0 + 1),
        };
        match self.state {
            State::Active | State::Recovering { .. } => self.go_on_without(lost),
            _ => self.fail(Verdict::PeerLost(lost)),
        }
    }

    /// The others freeze and report. Another loss before they go on starts that over.
    fn go_on_without(&mut self, peer: PeerLost) {
        self.epoch.0 += 1;
        self.accusation.take_if(|accusation| accusation.rank == peer.rank);
        let connection = self.members.iter().find(|(_, m)| m.rank == Some(peer.rank)).map(|(c, _)| *c);
        if let Some(connection) = connection {
            // If it lives it is told, and may join again.
            self.effects.push(Effect::Send(connection, ToMember::Verdict(Verdict::PeerLost(peer.clone()))));
            self.effects.push(Effect::Close(connection));
            self.members.remove(&connection);
        }
        let mut all = match std::mem::replace(&mut self.state, State::Active) {
            State::Recovering { lost, .. } => lost,
            _ => Vec::new(),
        };
        all.push(peer);
        self.broadcast(&ToMember::Prepare { epoch: self.epoch, lost: all.clone() });
        self.state = State::Recovering { lost: all, reports: BTreeMap::new() };
    }

    fn reported(&mut self, connection: u64, report: Report) {
        let Some(rank) = self.members.get(&connection).and_then(|member| member.rank) else { return };
        if let State::Recovering { reports, .. } = &mut self.state
            && (report.epoch == self.epoch || planted::has(Bug::ReportsOfAnotherEpochCount))
        {
            reports.insert(rank, report);
        }
        self.go_on();
    }

    /// Goes on by the plan once everybody who is there has reported.
    fn go_on(&mut self) {
        let State::Recovering { reports, .. } = &mut self.state else { return };
        let waits = |m: &Member| !m.left && m.rank.is_some_and(|rank| !reports.contains_key(&rank));
        if self.members.values().any(waits) {
            return;
        }
        let plan = recovery::plan(reports);
        self.state = State::Active;
        self.broadcast(&ToMember::Resume { epoch: self.epoch, plan });
    }

    /// The first verdict stands; everybody gets it.
    fn fail(&mut self, verdict: Verdict) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        self.accusation = None;
        self.epoch.0 += 1;
        self.broadcast(&ToMember::Verdict(verdict.clone()));
        self.state = State::Failed(verdict);
    }

    fn broadcast(&mut self, message: &ToMember) {
        for (&connection, member) in &self.members {
            if !member.left {
                self.effects.push(Effect::Send(connection, message.clone()));
            }
        }
    }

    fn rank_of(&self, connection: u64) -> Rank {
        self.members.get(&connection).and_then(|m| m.rank).unwrap_or_default()
    }
}

/// A mismatch is seen from both sides; the lower rank is named first, so that both say the same.
fn ordered_mismatch(op: crate::OpId, one: (Rank, String), other: (Rank, String)) -> Verdict {
    let (low, high) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    Verdict::Mismatch { op, rank: low.0, call: low.1, other_rank: high.0, other_call: high.1 }
}

#[cfg(test)]
mod tests {
    use super::super::MachineId;
    use super::*;
    use crate::PeerId;

    fn hello(rank: Option<u32>, size: u32) -> FromMember {
        FromMember::Hello(Hello {
            version: VERSION,
            rank,
            size: Some(size),
            hosts_coordinator: rank == Some(0),
            info: MemberInfo {
                peer: PeerId([rank.unwrap_or(9) as u8; 16]),
                rank: Rank(0),
                host: format!("host-{rank:?}"),
                addresses: vec!["127.0.0.1:1".parse().unwrap()],
                machine: MachineId::default(),
                pid: 1,
                transports: vec![],
                costs: String::new(),
            },
        })
    }

    /// A job of `size` members on connections 10, 11, … that is active at time 0.
    fn active(size: u32) -> Coordinator {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        for rank in 0..size {
            coordinator.handle_message(10 + u64::from(rank), hello(Some(rank), size), Instant(0));
        }
        for rank in 0..size {
            coordinator.handle_message(10 + u64::from(rank), FromMember::Linked(Epoch(1)), Instant(0));
        }
        let effects = coordinator.take_effects();
        let activated = effects.iter().filter(|e| matches!(e, Effect::Send(_, ToMember::Activate(_))));
        assert_eq!(activated.count(), size as usize);
        coordinator
    }

    fn verdicts(effects: &[Effect]) -> Vec<(u64, Verdict)> {
        let verdict = |e: &Effect| match e {
            Effect::Send(to, ToMember::Verdict(v)) => Some((*to, v.clone())),
            _ => None,
        };
        effects.iter().filter_map(verdict).collect()
    }

    /// An impossible rank that comes first must not end the coordinator before the others ask.
    #[test]
    fn a_job_that_cannot_form_tells_latecomers_why() {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        coordinator.handle_message(1, hello(Some(5), 2), Instant(0));
        coordinator.handle_tick(Instant(0));
        assert!(!coordinator.is_finished());
        drop(coordinator.take_effects());
        coordinator.handle_message(2, hello(Some(0), 2), Instant(1));
        let told = coordinator.take_effects();
        assert!(
            told.iter().any(|e| matches!(e, Effect::Send(2, ToMember::Refused(t)) if t.contains("rank 5")))
        );
        let until = coordinator.next_deadline().expect("it lingers");
        coordinator.handle_tick(until);
        assert!(coordinator.is_finished());
    }

    #[test]
    fn ranks_are_given_in_order_of_arrival() {
        let mut coordinator = Coordinator::new(CoordinatorOptions::default());
        for (connection, rank) in [(1, None), (2, Some(0)), (3, None)] {
            coordinator.handle_message(connection, hello(rank, 3), Instant(0));
        }
        let ranks: Vec<(u64, u32)> = coordinator
            .take_effects()
            .into_iter()
            .filter_map(|e| match e {
                Effect::Send(to, ToMember::View(_, rank)) => Some((to, rank.0)),
                _ => None,
            })
            .collect();
        assert_eq!(ranks, [(1, 1), (2, 0), (3, 2)]);
    }

    /// Who was told to go on without whom, and in which epoch.
    fn prepared(effects: &[Effect]) -> Vec<(u64, Epoch, Vec<u32>)> {
        let prepare = |effect: &Effect| match effect {
            Effect::Send(to, ToMember::Prepare { epoch, lost }) => {
                Some((*to, *epoch, lost.iter().map(|peer| peer.rank.0).collect()))
            }
            _ => None,
        };
        effects.iter().filter_map(prepare).collect()
    }

    fn resumed(effects: &[Effect]) -> Vec<u64> {
        let resume = |effect: &Effect| match effect {
            Effect::Send(to, ToMember::Resume { .. }) => Some(*to),
            _ => None,
        };
        effects.iter().filter_map(resume).collect()
    }

    fn report(epoch: u64) -> FromMember {
        FromMember::Report(Report { epoch: Epoch(epoch), ..Report::default() })
    }

    #[test]
    fn the_others_go_on_when_all_have_reported() {
        let mut coordinator = active(4);
        coordinator.handle_closed(12, Instant(5_000_000));
        let effects = coordinator.take_effects();
        let all = [10, 11, 13].map(|to| (to, Epoch(2), vec![2]));
        assert_eq!(prepared(&effects), all);
        for connection in [13, 10] {
            coordinator.handle_message(connection, report(2), Instant(6_000_000));
        }
        assert!(resumed(&coordinator.take_effects()).is_empty(), "one has not reported");
        coordinator.handle_message(11, report(2), Instant(6_000_000));
        assert_eq!(resumed(&coordinator.take_effects()), [10, 11, 13]);
    }

    #[test]
    fn a_loss_on_the_way_starts_over() {
        let mut coordinator = active(4);
        coordinator.handle_closed(12, Instant(5_000_000));
        coordinator.handle_message(10, report(2), Instant(6_000_000));
        coordinator.handle_message(11, report(2), Instant(6_000_000));
        drop(coordinator.take_effects());
        coordinator.handle_closed(13, Instant(7_000_000));
        let effects = coordinator.take_effects();
        assert_eq!(prepared(&effects), [10, 11].map(|to| (to, Epoch(3), vec![2, 3])));
        assert!(resumed(&effects).is_empty(), "reports count for their epoch only");
        coordinator.handle_message(10, report(2), Instant(8_000_000));
        coordinator.handle_message(10, report(3), Instant(8_000_000));
        assert!(resumed(&coordinator.take_effects()).is_empty());
        coordinator.handle_message(11, report(3), Instant(8_000_000));
        assert_eq!(resumed(&coordinator.take_effects()), [10, 11]);
    }

    #[test]
    fn who_leaves_instead_of_reporting_is_not_waited_for() {
        let mut coordinator = active(3);
        coordinator.handle_closed(12, Instant(5_000_000));
        coordinator.handle_message(10, report(2), Instant(6_000_000));
        drop(coordinator.take_effects());
        coordinator.handle_message(11, FromMember::Leave, Instant(7_000_000));
        assert_eq!(resumed(&coordinator.take_effects()), [10]);
    }

    #[test]
    fn the_dead_ones_connection_beats_an_accusation() {
        let mut coordinator = active(3);
        let accuse = FromMember::LinkFailed { rank: Rank(1), reason: "reset".into() };
        coordinator.handle_message(10, accuse, Instant(0));
        coordinator.handle_tick(Instant(10_000_000));
        assert!(verdicts(&coordinator.take_effects()).is_empty(), "the grace has not passed");
        // Rank 2 died and took its link to rank 1 with it; rank 1 is innocent.
        coordinator.handle_closed(12, Instant(20_000_000));
        assert_eq!(prepared(&coordinator.take_effects())[0].2, [2]);
    }

    #[test]
    fn an_accusation_stands_after_the_grace() {
        let mut coordinator = active(3);
        let accuse = FromMember::LinkFailed { rank: Rank(1), reason: "reset".into() };
        coordinator.handle_message(10, accuse, Instant(0));
        coordinator.handle_tick(coordinator.next_deadline().unwrap());
        let effects = coordinator.take_effects();
        assert_eq!(prepared(&effects), [10, 12].map(|to| (to, Epoch(2), vec![1])));
        // The accused lives, and hears that it is out.
        let told = verdicts(&effects);
        assert!(matches!(&told[..], [(11, Verdict::PeerLost(lost))] if lost.reason == "reset"), "{told:?}");
        assert!(effects.contains(&Effect::Close(11)));
    }

    #[test]
    fn silence_is_loss() {
        let mut coordinator = active(3);
        for ms in (0..1000).step_by(100) {
            let now = Instant(ms * 1_000_000);
            for connection in [10, 12] {
                coordinator.handle_message(connection, FromMember::Heartbeat, now);
            }
            coordinator.handle_tick(now);
            assert!(verdicts(&coordinator.take_effects()).is_empty());
        }
        coordinator.handle_tick(Instant(1_000_000_000));
        let effects = coordinator.take_effects();
        assert_eq!(prepared(&effects)[0].2, [1]);
        assert!(matches!(&verdicts(&effects)[..], [(11, Verdict::PeerLost(_))]));
    }

    #[test]
    fn a_pause_of_the_coordinator_is_nobodys_fault() {
        let mut coordinator = active(3);
        coordinator.handle_tick(Instant(100_000_000));
        coordinator.handle_tick(Instant(5_000_000_000));
        let effects = coordinator.take_effects();
        assert!(verdicts(&effects).is_empty(), "{effects:?}");
        let beats = effects.iter().filter(|e| matches!(e, Effect::Send(_, ToMember::Heartbeat)));
        assert_eq!(beats.count(), 3);
    }

    #[test]
    fn who_leaves_in_order_is_not_lost() {
        let mut coordinator = active(2);
        coordinator.handle_message(11, FromMember::Leave, Instant(0));
        coordinator.handle_closed(11, Instant(1));
        let accuse = FromMember::LinkFailed { rank: Rank(1), reason: "closed".into() };
        coordinator.handle_message(10, accuse, Instant(2));
        coordinator.handle_tick(Instant(900_000_000));
        assert!(verdicts(&coordinator.take_effects()).is_empty());
        assert!(!coordinator.is_finished());
        coordinator.handle_message(10, FromMember::Leave, Instant(3));
        assert!(coordinator.is_finished());
    }

    #[test]
    fn impossible_hellos_fail_everybody_at_once() {
        for (second, word) in [
            (hello(Some(0), 3), "two processes"),
            (hello(Some(1), 4), "expects 4"),
            (hello(Some(3), 3), "0 to 2"),
        ] {
            let mut coordinator = Coordinator::new(CoordinatorOptions::default());
            coordinator.handle_message(1, hello(Some(0), 3), Instant(0));
            coordinator.handle_message(2, second, Instant(0));
            let effects = coordinator.take_effects();
            let refused = effects
                .iter()
                .any(|e| matches!(e, Effect::Send(2, ToMember::Refused(text)) if text.contains(word)));
            assert!(refused, "{effects:?}");
            assert!(matches!(&verdicts(&effects)[..], [(1, Verdict::Join(text))] if text.contains(word)));
        }
    }
}
