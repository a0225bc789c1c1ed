//! Coordinators, and what members do with theirs: as the runtime does it.

use super::check::Ending;
use super::sessions::Beats;
use super::wires::{Data, Down, Up};
use super::{Event, HEARTBEAT, JOIN_PATIENCE, SUSPECT_AFTER, World, peer_id, process_of, span};
use rand::Rng;
use ronde_core::membership::{
    self, Absence, CallProgress, Coordinator, CoordinatorOptions, Effect, Follower, FromMember, Hello,
    LinkEnd, Rejoin, Search, Step, ToMember, Verdict, View,
};
use ronde_core::{Epoch, Instant, MemberId};
use std::sync::Arc;

/// A coordinator in a process.
pub(super) struct Seat {
    pub(super) machine: Coordinator,
    pub(super) home: usize,
    /// When it wants to know the time next.
    tick: u64,
    /// It has finished.
    over: bool,
}

/// A process waits for the answer of one that may be its coordinator.
pub(super) struct Asking {
    connection: usize,
    /// The member that is asked; `None` for a coordinator that ran alone.
    host: Option<MemberId>,
    rejoin: Box<Rejoin>,
    /// It answers until then, or not at all.
    until: u64,
}

fn options() -> CoordinatorOptions {
    CoordinatorOptions {
        suspect_after: span(SUSPECT_AFTER),
        heartbeat: span(HEARTBEAT),
        ..CoordinatorOptions::default()
    }
}

/// How often a process looks whether a link can be made.
const LOOK: u64 = 50 * super::MS;
/// A link on which nothing comes is given up after this, or a little later.
const SILENCE: u64 = 3000 * super::MS;
/// A process in which the job has failed is gone after so many milliseconds, if it goes.
const LINGER: u64 = 3000;

impl World {
    fn hello(&self, process: usize, size: Option<u32>) -> FromMember {
        FromMember::Hello(Hello {
            version: membership::VERSION,
            rank: size.map(|_| process as u32),
            size,
            min_peers: None,
            newcomer: false,
            hosts_coordinator: size.is_some() && process == 0 && self.alone.is_none(),
            info: self.info(process),
        })
    }

    /// The first coordinator, and its members.
    pub(super) fn found(&mut self, size: usize) {
        let home = self.alone.unwrap_or(0);
        let coordinator = self.seat(home, Coordinator::new(options()));
        let connections: Vec<usize> = (0..size).map(|process| self.connect(process, home)).collect();
        for &connection in &connections {
            let of = &mut self.connections[connection];
            of.up.clear();
            of.coordinator = Some(coordinator);
            let hello = self.hello(connection, Some(size as u32));
            self.coordinators[coordinator].machine.handle_message(connection as u64, hello, Instant(0));
        }
        for &connection in &connections {
            let linked = FromMember::Linked(Epoch(1));
            self.coordinators[coordinator].machine.handle_message(connection as u64, linked, Instant(0));
        }
        drop(self.coordinators[coordinator].machine.take_effects());
        let view = self.coordinators[coordinator].machine.view().clone();
        for (process, &connection) in connections.iter().enumerate() {
            self.follow(process, connection);
            let delay = self.some_ms(200);
            self.schedule(delay, Event::Beat(process));
            self.takes_part(process, view.clone());
            self.is_active(process);
        }
        self.tick(coordinator);
    }

    fn seat(&mut self, home: usize, machine: Coordinator) -> usize {
        let coordinator = self.coordinators.len();
        self.coordinators.push(Seat { machine, home, tick: u64::MAX, over: false });
        self.processes[home].hosts = Some(coordinator);
        coordinator
    }

    pub(super) fn run_alone(&mut self, process: usize) {
        let coordinator = self.seat(process, Coordinator::new(options()));
        self.tick(coordinator);
    }

    /// It runs.
    pub(super) fn is_there(&self, coordinator: usize) -> bool {
        let seat = &self.coordinators[coordinator];
        !seat.over && self.processes[seat.home].alive
    }

    pub(super) fn tick_if_due(&mut self, coordinator: usize, due: u64) {
        if self.coordinators[coordinator].tick == due {
            self.coordinators[coordinator].tick = u64::MAX;
            self.tick(coordinator);
        }
    }

    /// Time passes for a coordinator, as its shell has it pass after every message.
    fn tick(&mut self, coordinator: usize) {
        let now = self.instant();
        if !self.is_there(coordinator) {
            return;
        }
        self.coordinators[coordinator].machine.handle_tick(now);
        self.perform(coordinator);
        let seat = &mut self.coordinators[coordinator];
        if seat.machine.is_finished() {
            seat.over = true;
            let its = |c: &super::Connection| c.coordinator == Some(coordinator);
            let connections: Vec<usize> =
                (0..self.connections.len()).filter(|&c| its(&self.connections[c])).collect();
            return connections.into_iter().for_each(|connection| self.send_down(connection, Down::End));
        }
        let due = seat.machine.next_deadline().map_or(u64::MAX, |due| due.0);
        let due = due.clamp(now.0 + super::MS, now.0 + 1000 * super::MS);
        if due < seat.tick {
            seat.tick = due;
            self.schedule(due - now.0, Event::Tick(coordinator, due));
        }
    }

    fn perform(&mut self, coordinator: usize) {
        for effect in self.coordinators[coordinator].machine.take_effects() {
            match effect {
                Effect::Send(connection, message) => {
                    self.send_down(connection as usize, Down::Say(message));
                }
                Effect::Close(connection) => self.send_down(connection as usize, Down::End),
                Effect::Probe(member) => {
                    let delay = self.some_ms(5);
                    self.schedule(delay, Event::Probed(coordinator, process_of(member.peer)));
                }
            }
        }
    }

    /// The answer to whether a process has ended is there, if one comes.
    pub(super) fn is_probed(&mut self, coordinator: usize, process: usize) {
        let home = self.coordinators[coordinator].home;
        let answers = self.reaches(home, process) && self.reaches(process, home);
        if answers && !self.processes[process].alive && self.is_there(coordinator) {
            let now = self.instant();
            self.coordinators[coordinator].machine.handle_ended(peer_id(process), now);
            self.perform(coordinator);
            self.tick(coordinator);
        }
    }

    pub(super) fn host_hears(&mut self, connection: usize, message: Up) {
        let host = self.connections[connection].host;
        let coordinator = self.connections[connection].coordinator;
        let now = self.instant();
        match (message, coordinator) {
            (Up::Connect, _) if !self.processes[host].alive => self.send_down(connection, Down::Refused),
            (Up::Connect, _) => match self.processes[host].hosts.filter(|&c| self.is_there(c)) {
                Some(coordinator) => {
                    self.connections[connection].coordinator = Some(coordinator);
                    self.send_down(connection, Down::Accepted);
                }
                None if self.processes[host].ended.is_some() && self.processes[host].hosts.is_none() => {
                    self.send_down(connection, Down::Failed);
                }
                None if self.alone == Some(host) => self.send_down(connection, Down::Accepted),
                None => self.send_down(connection, Down::End),
            },
            (Up::Say(message), Some(coordinator)) if self.is_there(coordinator) => {
                let machine = &mut self.coordinators[coordinator].machine;
                machine.handle_message(connection as u64, message, now);
                self.perform(coordinator);
                self.tick(coordinator);
            }
            // The job has ended there.
            (Up::Say(FromMember::Rejoin(rejoin)), None) => {
                let deposed = ToMember::Verdict(Verdict::Deposed(rejoin.epoch));
                self.send_down(connection, Down::Say(deposed));
            }
            (Up::Say(_), None) => self.send_down(connection, Down::Say(ToMember::TryLater)),
            (Up::End, Some(coordinator)) if self.is_there(coordinator) => {
                self.coordinators[coordinator].machine.handle_closed(connection as u64, now);
                self.perform(coordinator);
                self.tick(coordinator);
            }
            _ => {}
        }
    }

    fn follow(&mut self, process: usize, connection: usize) {
        let this = &mut self.processes[process];
        this.control = Some(connection);
        this.heard = self.now;
        this.followed.extend(self.connections[connection].coordinator);
        self.schedule(self.silence(), Event::Silence(process, connection));
    }

    /// Tells the coordinator, if there is one.
    pub(super) fn say(&mut self, process: usize, message: FromMember) {
        if let Some(connection) = self.processes[process].control {
            self.send_up(connection, Up::Say(message));
        }
    }

    pub(super) fn beat(&mut self, process: usize) {
        let now = self.now;
        self.processes[process].beats.note(now);
        if self.processes[process].ended.is_none() {
            self.say(process, FromMember::Heartbeat(CallProgress::default()));
            self.schedule(HEARTBEAT, Event::Beat(process));
        }
    }

    pub(super) fn lose_silent_coordinator(&mut self, process: usize, connection: usize) {
        let this = &self.processes[process];
        // Before there is a view nobody beats.
        let waits = this.follower.is_some() || this.first_view.is_some();
        if this.control != Some(connection) || !waits || self.connections[connection].taking_up.is_some() {
            return;
        }
        let silent = self.now - this.heard;
        match silent >= self.silence() {
            true => self.hears_nothing(process, connection),
            false => self.schedule(self.silence() - silent, Event::Silence(process, connection)),
        }
    }

    pub(super) fn lose_coordinator(&mut self, process: usize, silent: bool) {
        let this = &self.processes[process];
        let Some(connection) = this.control.filter(|_| !this.released()) else { return };
        let silent = silent || this.beats.had_a_pause(self.now);
        if silent {
            self.say(process, FromMember::Succeeded);
        }
        self.send_up(connection, Up::End);
        let now = self.instant();
        let this = &mut self.processes[process];
        this.control = None;
        if this.follower.is_none() {
            return self.fails(process, Ending::CoordinatorLost);
        }
        if silent {
            this.follower.iter_mut().for_each(Follower::hears_nothing);
        }
        this.search = Some(Search::new(peer_id(process), silent, span(SUSPECT_AFTER), now));
        self.search(process);
    }

    pub(super) fn search(&mut self, process: usize) {
        let now = self.instant();
        let this = &self.processes[process];
        if this.asking.is_some() || this.search.is_none() {
            return;
        }
        // Who has died, or has given this one up, is seen now.
        self.read_links(process);
        let dead = self.dead_to(process);
        let this = &mut self.processes[process];
        if let Some(follower) = &mut this.follower {
            let ended =
                follower.members().filter(|m| this.ended_by.contains(&process_of(m.peer))).map(|m| m.id);
            ended.collect::<Vec<_>>().into_iter().for_each(|member| follower.is_ended_by(member));
        }
        let (Some(search), Some(follower)) = (&mut this.search, &this.follower) else { return };
        let rejoin = follower.rejoin(peer_id(process), dead);
        let (target, host, rejoin) = match search.next(rejoin, follower.heirs(), now) {
            Step::AskAgain(rejoin) => (self.alone.unwrap_or(0), None, rejoin),
            Step::Ask(heir, rejoin) => (process_of(heir.peer), Some(heir.id), rejoin),
            Step::Host(me, rejoin) => (process, Some(me.id), rejoin),
            Step::GiveUp => return self.fails(process, Ending::CoordinatorLost),
        };
        if target == process && self.processes[process].hosts.is_none() {
            let options = CoordinatorOptions { host: Some(peer_id(process)), ..options() };
            self.seat(process, Coordinator::successor(options));
        }
        let connection = self.connect(process, target);
        let this = &mut self.processes[process];
        this.asked += 1;
        let rejoin = Box::new(Rejoin { asked: this.asked, ..*rejoin });
        this.asking = Some(Asking { connection, host, rejoin, until: self.now + SUSPECT_AFTER });
        self.schedule(SUSPECT_AFTER, Event::Unanswered(process, connection));
    }

    pub(super) fn is_unanswered(&mut self, process: usize, connection: usize) {
        let asked = self.processes[process].asking.as_ref();
        if asked.is_some_and(|asking| asking.connection == connection && asking.until <= self.now) {
            self.is_absent(process, Absence::Silent);
        }
    }

    fn is_absent(&mut self, process: usize, absence: Absence) {
        let now = self.instant();
        let this = &mut self.processes[process];
        let (Some(asking), Some(search)) = (this.asking.take(), &mut this.search) else { return };
        let pause = search.not_found(absence, now);
        if search.is_cut_off() {
            this.follower.iter_mut().for_each(Follower::hears_nothing);
        }
        self.send_up(asking.connection, Up::End);
        self.schedule(pause.as_nanos() as u64, Event::Search(process));
    }

    pub(super) fn member_hears(&mut self, connection: usize, message: Down) {
        let process = self.connections[connection].member;
        let this = &self.processes[process];
        if !this.alive || this.ended.is_some() || this.released() {
            return;
        }
        if this.asking.as_ref().is_some_and(|asking| asking.connection == connection) {
            return self.is_answered(process, message);
        }
        if this.control != Some(connection) {
            return;
        }
        match message {
            Down::Say(message) => {
                self.processes[process].heard = self.now;
                self.connections[connection].was_silent = false;
                self.hears(process, message);
            }
            Down::Accepted => {
                let hello = self.hello(process, None);
                self.say(process, hello);
            }
            Down::Refused | Down::Failed | Down::End
                if this.follower.is_none() && this.first_view.is_none() =>
            {
                self.fails(process, Ending::NotJoined);
            }
            Down::Refused | Down::Failed | Down::End => self.lose_coordinator(process, false),
        }
    }

    fn is_answered(&mut self, process: usize, message: Down) {
        let asking = self.processes[process].asking.as_ref().expect("it asks");
        let connection = asking.connection;
        match message {
            Down::Accepted => {
                let rejoin = asking.rejoin.clone();
                self.send_up(connection, Up::Say(FromMember::Rejoin(rejoin)));
                // The answer of one that is busy may come when nobody listens any more. A host that was taken to be there is
                // lost if it is so slow.
                let asking = self.processes[process].asking.as_ref().expect("it asks");
                let host = self.processes[process].follower.as_ref().and_then(|f| f.view().host);
                let is_patient = asking.host.is_some() && asking.host == host;
                let patience = match !is_patient && self.rng.random_ratio(1, 8) {
                    true => self.some_ms(20),
                    false => SUSPECT_AFTER,
                };
                self.processes[process].asking.as_mut().expect("it asks").until = self.now + patience;
                self.schedule(patience, Event::Unanswered(process, connection));
            }
            Down::Refused => self.is_absent(process, Absence::Ended),
            Down::Failed => self.is_absent(process, Absence::Failed),
            Down::Say(ToMember::Welcome { host }) => self.is_welcome(process, host),
            Down::Say(ToMember::Verdict(verdict)) => {
                self.processes[process].asking = None;
                self.send_up(connection, Up::End);
                self.has_verdict(process, verdict);
            }
            Down::Say(_) | Down::End => self.is_absent(process, Absence::NotYet),
        }
    }

    fn is_welcome(&mut self, process: usize, host: Option<ronde_core::PeerId>) {
        let this = &mut self.processes[process];
        let Some(asking) = this.asking.take() else { return };
        this.search = None;
        if let (Some(host), Some(follower)) = (host, &mut this.follower) {
            let view = follower.view();
            let id = view.rank_of(host).map(|rank| view.members[rank.index()].id);
            if id.is_some() {
                follower.hosted_by(id);
            }
        }
        self.follow(process, asking.connection);
        self.say_again(process);
    }

    /// What a new coordinator may not have heard.
    fn say_again(&mut self, process: usize) {
        let Some(follower) = &self.processes[process].follower else { return };
        let epoch = follower.view().epoch;
        let told = follower.rejoin(peer_id(process), Vec::new()).gone;
        self.say(process, FromMember::Entered(epoch));
        for member in self.dead_to(process).into_iter().filter(|id| !told.contains(id)) {
            self.say(process, FromMember::LinkFailed { member, reason: "no link".into(), end: LinkEnd::Cut });
        }
    }

    /// Members to which a process has no link.
    fn dead_to(&self, process: usize) -> Vec<MemberId> {
        let this = &self.processes[process];
        let Some(follower) = &this.follower else { return Vec::new() };
        follower.members().filter(|m| this.ends.contains(&process_of(m.peer))).map(|m| m.id).collect()
    }

    /// A process looks again later whether a link says nothing.
    pub(super) fn listen(&mut self, process: usize, other: usize) {
        let delay = SILENCE + self.some_ms(1500);
        self.schedule(delay, Event::Deaf(process, other));
    }

    /// Who waits for an op gives up a link on which nothing came for long.
    pub(super) fn finds_silence(&mut self, process: usize, other: usize) {
        let Some(since) = self.mute_since(process, other) else { return };
        // There are links to members only.
        let is_linked = self.member_of(process, other).is_some();
        if self.now - since < SILENCE || !is_linked || !self.waits_for_an_op(process) {
            return self.listen(process, other);
        }
        self.note(&[50, process as u64, other as u64]);
        // The other side sees the end, now or once the link carries something again.
        self.send_data(process, other, Data::End { farewell: true });
        self.link_ended(process, other, LinkEnd::Silence);
    }

    /// The number of another in the view of a process, or in the one that waits for a safe point there.
    pub(super) fn member_of(&self, process: usize, other: usize) -> Option<MemberId> {
        let follower = self.processes[process].follower.as_ref()?;
        follower.members().find(|m| m.peer == peer_id(other)).map(|m| m.id)
    }

    /// A link of a process has ended at the other side, or nothing came on it.
    pub(super) fn link_ended(&mut self, process: usize, other: usize, end: LinkEnd) {
        let this = &mut self.processes[process];
        if !this.ends.insert(other) || this.ended.is_some() {
            return;
        }
        if this.left.contains(&other) {
            return self.miss_the_left(process);
        }
        if let Some(member) = self.member_of(process, other) {
            let reason = format!("process {process} saw it end");
            self.say(process, FromMember::LinkFailed { member, reason, end });
        }
    }

    fn hears(&mut self, process: usize, message: ToMember) {
        let sound = |view: &View| view.is_sound() && view.rank_of(peer_id(process)).is_some();
        match message {
            ToMember::Verdict(verdict) => self.has_verdict(process, verdict),
            ToMember::Refused(_) => self.fails(process, Ending::Refused),
            ToMember::TryLater => self.fails(process, Ending::NotJoined),
            ToMember::View(view) => {
                assert!(sound(&view), "process {process} is sent {view:?}");
                let view = Arc::unwrap_or_clone(view);
                self.processes[process].proposed = Some(view.clone());
                self.schedule(0, Event::Link(process, view.epoch));
                match &mut self.processes[process].follower {
                    Some(follower) => follower.propose(view),
                    None => self.has_first_view(process, view),
                }
            }
            ToMember::Armed(epoch) => self.armed(process, epoch),
            ToMember::Arm(view) => {
                assert!(sound(&view), "process {process} is sent {view:?}");
                if let Some(follower) = &mut self.processes[process].follower {
                    follower.arm_view(Arc::unwrap_or_clone(view));
                }
                self.arm(process);
            }
            ToMember::Shrink(epoch) => self.shrink(process, epoch),
            ToMember::Activate(epoch) => {
                let follower = self.processes[process].follower.as_ref();
                if follower.is_some_and(|f| f.view().epoch == epoch) && !self.processes[process].active {
                    self.is_active(process);
                }
            }
            ToMember::Left(member) => self.has_left(process, member),
            ToMember::Released => self.is_released(process),
            ToMember::Prepare { epoch, lost, .. } => self.freeze(process, epoch, lost),
            ToMember::Resume { plan, shrink, .. } => {
                self.resumes(process);
                self.resume(process, &plan);
                shrink.into_iter().for_each(|epoch| self.shrink(process, epoch));
            }
            _ => {}
        }
    }

    fn has_first_view(&mut self, process: usize, view: View) {
        if self.processes[process].first_view.replace(view).is_none() {
            self.processes[process].heard = self.now;
            self.processes[process].beats = Beats::new(self.now);
            let connection = self.processes[process].control.expect("it has heard from somebody");
            self.schedule(self.silence(), Event::Silence(process, connection));
            self.schedule(0, Event::Beat(process));
        }
    }

    fn armed(&mut self, process: usize, epoch: Epoch) {
        if let Some(follower) = &mut self.processes[process].follower {
            assert!(follower.arm(epoch).is_some(), "process {process} knows no view {epoch}");
            return self.arm(process);
        }
        let view = self.processes[process].first_view.take().filter(|view| view.epoch == epoch);
        self.takes_part(process, view.expect("the view that was proposed last"));
    }

    fn takes_part(&mut self, process: usize, view: View) {
        self.processes[process].follower = Some(Follower::new(view));
        self.add_group(process);
    }

    fn is_active(&mut self, process: usize) {
        self.processes[process].active = true;
        let view = self.processes[process].follower.as_ref().expect("it takes part").view().clone();
        let goes_on = |p: usize| self.processes[p].goes_on();
        self.truth.is_in_effect(process, &view, &goes_on);
        let delay = self.some_ms(300);
        self.schedule(delay, Event::Call(process));
    }

    fn shrink(&mut self, process: usize, epoch: Epoch) {
        if let Some(follower) = &mut self.processes[process].follower {
            follower.shrink(epoch);
        }
        self.arm(process);
    }

    fn has_verdict(&mut self, process: usize, verdict: Verdict) {
        let ending = match verdict {
            Verdict::PeerLost(lost) if lost.peer == peer_id(process) => Ending::Expelled(lost.reason),
            Verdict::Deposed(_) => Ending::Deposed,
            Verdict::NoQuorum { .. } => Ending::NoQuorum,
            other => panic!("process {process} is told {other:?}"),
        };
        self.fails(process, ending);
    }

    /// The job has failed for a process. Most end then.
    pub(super) fn fails(&mut self, process: usize, ending: Ending) {
        if self.processes[process].ended.is_some() {
            return;
        }
        self.note(&[30, process as u64]);
        self.truth.ends(&ending);
        let this = &mut self.processes[process];
        this.ended = Some(ending);
        this.search = None;
        if let Some(asking) = this.asking.take() {
            self.send_up(asking.connection, Up::End);
        }
        if let Some(connection) = self.processes[process].control.take() {
            self.send_up(connection, Up::End);
        }
        self.close_all_links(process);
        if self.rng.random_ratio(3, 4) {
            let delay = self.some_ms(LINGER);
            self.schedule(delay, Event::Exit(process));
        }
    }

    pub(super) fn say_hello(&mut self, process: usize, home: usize) {
        let connection = self.connect(process, home);
        self.processes[process].control = Some(connection);
        self.schedule(JOIN_PATIENCE, Event::Impatient(process));
    }

    pub(super) fn give_joining_up(&mut self, process: usize) {
        if !self.processes[process].active {
            self.fails(process, Ending::NotJoined);
        }
    }

    /// Says that the links of a view are up, as soon as they can be.
    pub(super) fn make_links(&mut self, process: usize, epoch: Epoch) {
        let this = &self.processes[process];
        let wanted = |view: &&View| view.epoch == epoch && this.ended.is_none();
        let Some(view) = this.proposed.as_ref().filter(wanted) else { return };
        let others: Vec<(usize, MemberId)> =
            view.members.iter().map(|m| (process_of(m.peer), m.id)).filter(|m| m.0 != process).collect();
        let is_old = |other: usize| {
            let follower = self.processes[process].follower.as_ref();
            follower.is_some_and(|f| f.view().rank_of(peer_id(other)).is_some())
        };
        let new: Vec<(usize, MemberId)> = others.into_iter().filter(|(other, _)| !is_old(*other)).collect();
        for (other, member) in &new {
            let there = &self.processes[*other];
            let reaches = self.reaches(process, *other) && self.reaches(*other, process);
            let reaches = reaches && self.mute_since(process, *other).is_none();
            if reaches && (!there.alive || there.ended.is_some()) {
                let reason = "refused".to_owned();
                return self.say(process, FromMember::Unlinked { epoch, member: *member, reason });
            }
            if !reaches || there.stopped {
                return self.schedule(LOOK, Event::Link(process, epoch));
            }
        }
        self.say(process, FromMember::Linked(epoch));
    }

    pub(super) fn data_comes(&mut self, from: usize, to: usize, message: Data) {
        if !self.processes[to].alive || self.processes[to].ends.contains(&from) {
            return;
        }
        match message {
            Data::End { farewell } => {
                if farewell {
                    self.processes[to].ended_by.insert(from);
                }
                let end = if farewell { LinkEnd::Farewell } else { LinkEnd::Cut };
                self.link_ended(to, from, end);
            }
            Data::Ask(op) => self.is_asked(from, to, op),
            Data::Returned(op) => self.has_returned(from, to, op),
            Data::Contribution { op, attempt, flags } => self.contributes(from, to, op, attempt, flags),
            Data::Result { op, attempt, outcome } => self.is_given(to, op, attempt, outcome),
        }
    }

    /// A coordinator's plan is carried out.
    fn resumes(&mut self, process: usize) {
        let Some(connection) = self.processes[process].control else { return };
        let Some(coordinator) = self.connections[connection].coordinator else { return };
        self.note(&[31, process as u64, coordinator as u64]);
        let this = &mut self.processes[process];
        if this.obeyed.last() != Some(&coordinator) {
            assert!(!this.obeyed.contains(&coordinator), "process {process} obeys one that it had given up");
            this.obeyed.push(coordinator);
        }
        if let [.., last, now] = this.followed[..]
            && now == coordinator
        {
            let (old, new) = (self.coordinators[last].home, self.coordinators[now].home);
            self.truth.succession(now, self.processes[old].alive && old != new, self.alone.is_some());
        }
    }
}
