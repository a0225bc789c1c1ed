//! What may happen next in a job, and what comes of it.

use crate::executor::{Commit, End, Executor, Key, Op, Phase, each};
use crate::shared::Shared;
use crate::world::{
    Life, Link, NEVER, Process, Status, World, hello, members_of, options, peer_id, process_of,
};
use crate::{Call, Scenario};
use ronde_core::membership::{
    Coordinator, CoordinatorOptions, Follower, FromMember, LinkEnd, MemberInfo, ToMember, Verdict, View,
};
use ronde_core::{Epoch, Instant, MemberId};
use std::sync::Arc;
use std::time::Duration;

/// One step of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A process makes its next call.
    Call(usize),
    /// It has all that its attempt needs.
    Complete(usize, Key),
    /// It has heard from everybody that theirs is complete.
    Return(usize, Key),
    /// It takes the result from a process that has returned.
    TakeResult(usize, Key, usize),
    /// It passes the safe point, or not.
    Enter(usize),
    /// It hears what the coordinator has sent.
    Hear(usize),
    /// The coordinator hears what a process has sent.
    Deliver(usize),
    /// The coordinator sees that a process has ended.
    Notice(usize),
    /// A process sees that its coordinator has ended; what else that had sent is lost.
    Orphan(usize),
    /// It goes to the next coordinator; whether it knows of all that have died.
    Rejoin(usize, bool),
    /// It tells a successor that its link to another has ended.
    SeeDeath(usize, usize),
    /// Its links to the members of a view are up.
    Link(usize),
    /// It misses one that has left.
    Miss(usize, MemberId),
    /// The coordinator has waited for long enough.
    Tick(usize),
    /// The coordinator finds out that a process has ended which it asks for.
    Probe(usize, usize),
    /// A process dies.
    Die(usize),
    /// A coordinator that runs alone ends, and another begins at its address.
    Restart,
    /// A process asks to join.
    Join,
    /// A process leaves in order.
    Leave(usize),
    /// A process has heard nothing of its coordinator for too long and looks for another.
    Forsake(usize),
    /// The coordinator hears what it had sent before, and at last that it has gone.
    DeliverFormer(usize),
    /// A process finds that a call is late.
    Late(usize, Key),
    /// Everybody passes another safe point.
    Round,
}

impl World {
    /// Everything that may happen without anybody's fault or will.
    pub fn steps(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        for p in 0..self.processes.len() {
            let process = &*self.processes[p];
            if let Some(link) = &process.link {
                if !link.up.is_empty() {
                    steps.push(Step::Deliver(p));
                }
                if !process.lives() {
                    // Who leaves waits until that is heard.
                    if link.up.is_empty() || process.status != Status::Left {
                        steps.push(Step::Notice(p));
                    }
                } else if !link.down.is_empty() {
                    steps.push(Step::Hear(p));
                }
                if process.lives() && link.broken {
                    steps.push(Step::Orphan(p));
                }
            }
            if !process.former.is_empty() {
                steps.push(Step::DeliverFormer(p));
            }
            if !process.lives() {
                continue;
            }
            if process.link.is_none() {
                self.rejoin_steps(p, steps);
            }
            if process.linking.is_some() {
                steps.push(Step::Link(p));
            }
            if process.least().is_some() {
                steps.push(Step::Enter(p));
            }
            if self.next_call(scenario, p).is_some() {
                steps.push(Step::Call(p));
            }
            self.op_steps(p, steps);
            self.death_steps(p, steps);
            self.miss_steps(p, steps);
        }
        for (at, life) in self.lives.iter().enumerate() {
            if self.due(scenario, life).is_some() {
                steps.push(Step::Tick(at));
            }
            let has_ended = |&p: &usize| life.probed >> p & 1 == 1 && !self.processes[p].lives();
            steps.extend((0..self.processes.len()).filter(has_ended).map(|p| Step::Probe(at, p)));
        }
    }

    /// What somebody does, or what befalls somebody.
    pub fn events(&self, scenario: &Scenario, steps: &mut Vec<Step>) {
        if self.deaths_left > 0 && self.alive().filter(|&p| self.processes[p].active).count() > 1 {
            steps.extend(self.alive().map(Step::Die));
        }
        if self.restarts_left > 0 {
            steps.push(Step::Restart);
        }
        if self.newcomers_left > 0 {
            steps.push(Step::Join);
        }
        if self.leaves_left > 0 && self.alive().count() > 1 {
            steps.extend(self.alive().filter(|&p| self.may_leave(p)).map(Step::Leave));
        }
        if self.silences_left > 0 {
            steps.extend(self.alive().filter(|&p| self.may_forsake(p)).map(Step::Forsake));
        }
        if self.late_left > 0 {
            steps.extend(self.alive().flat_map(|p| self.late_steps(p)));
        }
        if scenario.silences == 0 && self.needs_round(scenario) {
            steps.push(Step::Round);
        }
    }

    /// Calls that are open where somebody hears of it.
    fn late_steps(&self, p: usize) -> Vec<Step> {
        let process = &self.processes[p];
        let connected = process.link.as_ref().is_some_and(|link| !link.broken);
        let ops = process.executor.iter().filter(|_| connected).flat_map(|executor| executor.ops());
        let open = ops.filter(|(key, _, op)| key.1 == 0 && !op.has_ended());
        open.map(|(key, ..)| Step::Late(p, key)).collect()
    }

    fn rejoin_steps(&self, p: usize, steps: &mut Vec<Step>) {
        if self.processes[p].follower.is_none() {
            if !self.lives.is_empty() || self.processes[p].first_view.is_some() {
                steps.push(Step::Rejoin(p, true));
            }
            return;
        }
        let host = self.heir(p);
        if host == Some(p) || self.lives.iter().any(|life| life.host == host) {
            steps.push(Step::Rejoin(p, true));
            if self.known_dead(p, true) != self.known_dead(p, false) {
                steps.push(Step::Rejoin(p, false));
            }
        }
    }

    /// The process where a member looks for its next coordinator; `None`: at the address of one that runs alone.
    fn heir(&self, p: usize) -> Option<usize> {
        let heirs = self.processes[p].follower.iter().flat_map(|follower| follower.heirs());
        heirs.map(|m| process_of(m.peer)).find(|&heir| self.processes[heir].lives())
    }

    /// Members whose end a process knows of: all that have ended, or those that it has asked in vain.
    fn known_dead(&self, p: usize, all: bool) -> Vec<MemberId> {
        let Some(follower) = &self.processes[p].follower else { return Vec::new() };
        let is_dead = |m: &MemberInfo| !self.processes[process_of(m.peer)].lives();
        let mut dead: Vec<MemberId> = match all {
            true => {
                let has_ended = |m: &&MemberInfo| is_dead(m) || self.has_fenced(process_of(m.peer), p);
                follower.members().filter(has_ended).map(|m| m.id).collect()
            }
            false => {
                let heirs = follower.heirs();
                let asked = heirs.iter().take_while(|m| is_dead(m)).map(|m| m.id);
                let host = follower.view().members.iter().filter(|m| Some(m.id) == follower.view().host);
                host.filter(|m| is_dead(m)).map(|m| m.id).chain(asked).collect()
            }
        };
        dead.sort_unstable();
        dead.dedup();
        dead
    }

    /// A process has closed its link to another, which was lost for it.
    fn has_fenced(&self, q: usize, p: usize) -> bool {
        let executor = self.processes[q].executor.as_ref();
        executor.is_some_and(|executor| executor.groups.iter().any(|group| group.lost >> p & 1 == 1))
    }

    fn op_steps(&self, p: usize, steps: &mut Vec<Step>) {
        let Some(executor) = &self.processes[p].executor else { return };
        for (key, group, op) in executor.ops() {
            let from = |q: usize| q == p || group.lost >> q & 1 == 0;
            match op.phase {
                Phase::Running(None) => {
                    let wanted = match op.call {
                        Call::Rooted(root) => 1 << root,
                        _ => op.contributors,
                    };
                    let has_come = |q| {
                        let sent = self.op_of(q, key).map(|op| &op.sent);
                        from(q)
                            && sent.is_some_and(|s| s.iter().any(|s| s.0 == op.epoch && s.1 >> p & 1 == 1))
                    };
                    if each(wanted).all(|q| q == p || has_come(q)) {
                        steps.push(Step::Complete(p, key));
                    }
                }
                Phase::Running(Some(_)) => {
                    let (epoch, with) = op.confirms;
                    let has_come = |q| {
                        let told = self.op_of(q, key).map(|op| &op.told);
                        from(q) && told.is_some_and(|s| s.iter().any(|s| s.0 == epoch && s.1 >> p & 1 == 1))
                    };
                    if each(with).all(|q| q == p || has_come(q)) {
                        steps.push(Step::Return(p, key));
                    }
                }
                Phase::Awaiting => {
                    for q in (0..self.processes.len()).filter(|&q| from(q)) {
                        let provided = self.op_of(q, key).map(|op| &op.provided);
                        let is_for = |s: &(Epoch, u8, End)| s.0 == group.epoch && s.1 >> p & 1 == 1;
                        if provided.is_some_and(|s| s.iter().any(is_for)) {
                            steps.push(Step::TakeResult(p, key, q));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn op_of(&self, p: usize, key: Key) -> Option<&Op> {
        self.processes[p].executor.as_ref()?.op(key)
    }

    fn death_steps(&self, p: usize, steps: &mut Vec<Step>) {
        let Some(life) = self.life_of(p).map(|at| &self.lives[at]) else { return };
        if !life.machine.is_succeeding() {
            return;
        }
        let process = &self.processes[p];
        let is_news = |q: &usize| {
            let dead = !self.processes[*q].lives() || self.has_fenced(*q, p);
            dead && process.told >> q & 1 == 0 && process.knows(*q)
        };
        steps.extend((0..self.processes.len()).filter(is_news).map(|q| Step::SeeDeath(p, q)));
    }

    fn miss_steps(&self, p: usize, steps: &mut Vec<Step>) {
        let process = &self.processes[p];
        let Some(executor) = &process.executor else { return };
        for &id in &process.left {
            let waits = executor.ops().any(|(key, group, op)| {
                let member = group.members.iter().find(|m| m.0 == id);
                member.is_some_and(|m| op.contributors >> m.1 & 1 == 1 && self.lacks(key, op, m.1, p))
            });
            if waits {
                steps.push(Step::Miss(p, id));
            }
        }
    }

    /// An attempt waits for something that a process has not sent.
    fn lacks(&self, key: Key, op: &Op, from: usize, p: usize) -> bool {
        let sent = self.op_of(from, key);
        match op.phase {
            Phase::Running(None) => {
                !sent.is_some_and(|o| o.sent.iter().any(|s| s.0 == op.epoch && s.1 >> p & 1 == 1))
            }
            Phase::Running(Some(_)) => {
                let (epoch, with) = op.confirms;
                with >> from & 1 == 1
                    && !sent.is_some_and(|o| o.told.iter().any(|s| s.0 == epoch && s.1 >> p & 1 == 1))
            }
            _ => false,
        }
    }

    fn may_forsake(&self, p: usize) -> bool {
        let host = self.life_of(p).and_then(|at| self.lives[at].host);
        let linked = self.processes[p].link.as_ref().is_some_and(|link| !link.broken);
        linked && self.processes[p].active && host.is_some_and(|host| host != p)
    }

    /// When a coordinator wants to be woken, if that may be now.
    fn due(&self, scenario: &Scenario, life: &Life) -> Option<Instant> {
        let due = life.machine.next_deadline()?;
        if life.machine.is_succeeding() {
            // Who has not come is dead, and found to be.
            let is_sought = |p: usize| life.probed >> p & 1 == 1 && !self.processes[p].lives();
            let mut seen = Vec::new();
            self.alive().for_each(|p| self.death_steps(p, &mut seen));
            if !seen.is_empty() || (0..self.processes.len()).any(is_sought) {
                return None;
            }
            let has_come = |p: usize| {
                let link = self.processes[p].link.as_ref();
                link.is_some_and(|link| link.life == life.number && link.up.is_empty())
            };
            let times = if life.now == Instant(0) { 3 } else { 30 };
            let due = Instant(0).after(NEVER * times);
            return match scenario.silences {
                0 => (times == 3 && self.alive().all(has_come)).then_some(due),
                _ => (life.now < due && self.alive().any(has_come)).then_some(due),
            };
        }
        // An accusation waits for the better proof, which is on its way.
        let is_noticed = |process: &Shared<Process>| {
            process.lives() || process.link.as_ref().is_none_or(|link| link.life != life.number)
        };
        let soon = due.since(life.now) < Duration::from_secs(1);
        (soon && self.processes.iter().all(is_noticed)).then_some(due.max(life.now))
    }

    /// Nobody needs anything of a process that has nothing to do, and its log is empty.
    fn may_leave(&self, p: usize) -> bool {
        let process = &self.processes[p];
        let Some(executor) = process.executor.as_ref().filter(|_| process.active) else { return false };
        let is_over = |key: Key| {
            self.alive().all(|q| {
                let other = self.processes[q].executor.as_ref();
                let is_past = other.is_none_or(|e| e.group(key.0).is_none());
                is_past || self.op_of(q, key).is_some_and(Op::has_ended)
            })
        };
        let hosts = self.lives.iter().any(|life| life.host == Some(p));
        let connected = process.link.as_ref().is_some_and(|link| !link.broken);
        !hosts
            && connected
            && !process.updating
            && executor.ops().all(|(key, _, op)| op.has_ended() && is_over(key))
    }

    /// Carries out a step.
    pub fn take(&mut self, scenario: &Scenario, step: &Step) {
        match *step {
            Step::Call(p) => self.call(scenario, p),
            Step::Complete(p, key) => self.complete(p, key),
            Step::Return(p, key) => {
                let Some(Phase::Running(Some(end))) = self.op_of(p, key).map(|op| op.phase) else { return };
                self.succeed(p, key, end, Commit::Done);
            }
            Step::TakeResult(p, key, q) => self.take_result(p, key, q),
            Step::Enter(p) => self.enter(p),
            Step::Hear(p) => self.hear(scenario, p),
            Step::Deliver(p) => self.deliver(p),
            Step::Notice(p) => self.notice(p),
            Step::Orphan(p) => self.processes[p].change(|process| {
                process.link = None;
                process.told = 0;
            }),
            Step::Rejoin(p, knows_all) => self.rejoin(p, knows_all),
            Step::SeeDeath(p, q) => self.see_death(p, q),
            Step::Link(p) => self.processes[p].change(|process| {
                let epoch = process.linking.take();
                epoch.into_iter().for_each(|epoch| process.say(FromMember::Linked(epoch)));
            }),
            Step::Miss(p, member) => {
                self.has_missed = true;
                self.processes[p].change(|process| {
                    process.left.retain(|&left| left != member);
                    process.say(FromMember::Missed { member, reason: String::new() });
                });
            }
            Step::Tick(at) => {
                let Some(due) = self.due(scenario, &self.lives[at]) else { return };
                if self.lives[at].machine.is_succeeding() {
                    self.lives[at].now = due;
                }
                self.coordinate(at, |machine, _| machine.handle_tick(due));
            }
            Step::Probe(at, p) => {
                self.lives[at].probed &= !(1 << p);
                self.coordinate(at, |machine, now| machine.handle_ended(peer_id(p), now));
            }
            Step::Die(p) => {
                self.deaths_left -= 1;
                self.die(p, Status::Dead);
            }
            Step::Restart => {
                self.restarts_left -= 1;
                let lives: Vec<Life> = std::mem::take(&mut self.lives);
                lives.iter().for_each(|life| self.break_links(life.number));
                self.begin_life(None, Coordinator::new(options()));
            }
            Step::Join => self.join(),
            Step::Leave(p) => {
                self.leaves_left -= 1;
                self.processes[p].change(|process| {
                    process.say(FromMember::Leave);
                    process.status = Status::Left;
                    process.link.iter_mut().for_each(|link| link.down.clear());
                    process.bury();
                });
            }
            Step::Forsake(p) => {
                self.silences_left -= 1;
                self.processes[p].change(|process| {
                    process.say(FromMember::Succeeded);
                    process.change_follower(Follower::hears_nothing);
                    let mut link = process.link.take();
                    link.iter_mut().for_each(|link| link.down.clear());
                    process.former.extend(link);
                });
            }
            Step::Late(p, key) => {
                self.late_left -= 1;
                self.processes[p].change(|process| {
                    let timeout = process.executor.as_ref().and_then(|executor| executor.timeout(key));
                    timeout.into_iter().for_each(|timeout| process.say(timeout));
                });
            }
            Step::DeliverFormer(p) => self.deliver_former(p),
            Step::Round => {
                let generation = self.generation().unwrap_or_default();
                let before = if self.rounds.0 == generation { self.rounds.1 } else { 0 };
                self.rounds = (generation, before + 1);
            }
        }
        self.tidy();
    }

    fn call(&mut self, scenario: &Scenario, p: usize) {
        let Some(call) = self.next_call(scenario, p) else { return };
        self.processes[p].change(|process| {
            let flags = process.follower.as_ref().map_or([0; 2], |follower| follower.flags());
            process.calls += 1;
            process.updating = call == Call::Update;
            let flags = if call == Call::Update { flags } else { [0; 2] };
            process.executor.iter_mut().for_each(|executor| executor.start(call, flags));
        });
        if scenario.silences == 0 {
            self.check_sent(p);
        }
    }

    /// Frames of an attempt that come to one that has not ended the attempts before would be dropped there.
    fn check_sent(&mut self, p: usize) {
        let Some(executor) = &self.processes[p].executor else { return };
        let mut early = false;
        for (key, _, op) in executor.ops().filter(|(_, _, op)| matches!(op.phase, Phase::Running(_))) {
            for q in each(op.contributors).filter(|&q| q != p && self.processes[q].lives()) {
                let other = &self.processes[q];
                let epoch = match (&other.executor, &other.first_view) {
                    (Some(executor), _) => executor.group(key.0).map_or(executor.epoch, |group| group.epoch),
                    (None, Some(view)) => view.epoch,
                    (None, None) => Epoch(0),
                };
                early |= epoch < op.epoch;
            }
        }
        if early {
            self.has_fault("a frame of an attempt comes to one that has not ended the one before");
        }
    }

    fn complete(&mut self, p: usize, key: Key) {
        let Some(op) = self.op_of(p, key) else { return };
        let (epoch, contributors) = (op.epoch, op.contributors);
        let from = match op.call {
            Call::Rooted(root) => 1 << root,
            _ => contributors,
        };
        let mine = op.flags;
        let others = each(from).filter(|&q| q != p);
        let sent = others.filter_map(|q| self.op_of(q, key)?.sent.iter().find(|sent| sent.0 == epoch));
        let sent: Vec<_> = sent.copied().collect();
        if sent.iter().any(|sent| sent.1 != contributors) {
            return self.has_fault("contributions to one attempt differ in who takes part");
        }
        let least =
            sent.iter().fold(mine, |least, (_, _, flags)| [least[0].min(flags[0]), least[1].min(flags[1])]);
        let end = End::Success(contributors, least);
        self.processes[p].change(|process| {
            let executor = process.executor.as_mut();
            executor.and_then(|e| e.op_mut(key)).into_iter().for_each(|op| op.complete(end));
        });
    }

    fn succeed(&mut self, p: usize, key: Key, end: End, commit: Commit) {
        self.processes[p].change(|process| {
            let executor = process.executor.as_mut();
            executor.and_then(|e| e.op_mut(key)).into_iter().for_each(|op| op.succeed(end, commit));
        });
    }

    fn take_result(&mut self, p: usize, key: Key, q: usize) {
        let Some(provided) = self.op_of(q, key).and_then(|op| op.provided.iter().find(|s| s.1 >> p & 1 == 1))
        else {
            return;
        };
        let end = provided.2;
        let expected = self.op_of(p, key).map(|op| op.contributors);
        if !matches!(end, End::Success(contributors, _) if Some(contributors) == expected) {
            return self.has_fault("a result of other contributors than those of the attempt is taken");
        }
        self.succeed(p, key, end, Commit::Log);
    }

    fn enter(&mut self, p: usize) {
        self.processes[p].change(|process| {
            let Some(least) = process.least() else { return };
            process.updating = false;
            let view = process.follower.as_mut().and_then(|f| f.change(|f| f.enter(least).cloned()));
            let Some(view) = view else { return };
            let epoch = view.epoch;
            process.left.retain(|&left| view.member(left).is_some());
            process.executor.iter_mut().for_each(|executor| executor.enter());
            process.calls = 0;
            process.say(FromMember::Entered(epoch));
        });
    }

    fn hear(&mut self, scenario: &Scenario, p: usize) {
        let message = self.processes[p].change(|process| process.link.as_mut()?.down.pop_front());
        let Some(message) = message else { return };
        match message {
            ToMember::Prepare { epoch, lost, .. } => self.processes[p].change(|process| {
                process.change_follower(|follower| {
                    follower.note(epoch);
                    lost.iter().for_each(|lost| follower.is_lost(&Arc::new(lost.clone())));
                });
                process.left.retain(|left| lost.iter().all(|lost| lost.member != *left));
                let report = process.executor.as_mut().map(|executor| executor.freeze(epoch, &lost));
                report.into_iter().for_each(|report| process.say(FromMember::Report(report)));
            }),
            ToMember::Resume { plan, shrink, .. } => {
                self.processes[p].change(|process| {
                    process.change_follower(Follower::goes_on);
                    process.executor.iter_mut().for_each(|executor| executor.resume(&plan));
                });
                if scenario.silences == 0 {
                    self.check_sent(p);
                }
                shrink.into_iter().for_each(|epoch| self.shrink(p, epoch));
            }
            ToMember::View(view) => self.processes[p].change(|process| {
                let view = Arc::unwrap_or_clone(view);
                process.linking = Some(view.epoch);
                match &mut process.follower {
                    Some(follower) => follower.change(|follower| follower.propose(view)),
                    None => process.first_view = Some(view),
                }
            }),
            ToMember::Armed(epoch) => self.armed(p, epoch),
            ToMember::Arm(view) => {
                self.processes[p].change(|process| {
                    process.change_follower(|follower| follower.arm_view(View::clone(&view)));
                });
                self.arm(p);
            }
            ToMember::Shrink(epoch) => self.shrink(p, epoch),
            ToMember::Activate(_) => self.processes[p].change(|process| process.active = true),
            ToMember::Left(member) => self.processes[p].change(|process| {
                process.change_follower(|follower| follower.has_left(member));
                process.left.push(member);
            }),
            // Nobody that the new coordinator knows had heard of the view that this one waited for.
            ToMember::Verdict(Verdict::Deposed(_)) if !self.processes[p].active => self.die(p, Status::Dead),
            ToMember::Verdict(_) if scenario.silences > 0 => self.die(p, Status::Expelled),
            other => self.has_fault(format!("process {p} hears {other:?}")),
        }
    }

    fn armed(&mut self, p: usize, epoch: Epoch) {
        if self.processes[p].follower.is_some() {
            let is_proposed = self.processes[p].change(|process| {
                process.follower.as_mut().is_some_and(|f| f.change(|f| f.arm(epoch).is_some()))
            });
            if !is_proposed {
                self.has_fault("a view is armed that was not proposed last");
            }
            return self.arm(p);
        }
        let view = self.processes[p].change(|process| process.first_view.take());
        let Some(view) = view.filter(|view| view.epoch == epoch) else {
            return self.has_fault("a view is armed that was not proposed last");
        };
        self.processes[p].change(|process| {
            let executor = Executor::new(p, view.generation, view.epoch, members_of(&view));
            process.executor = Some(executor);
            process.follower = Some(Shared::new(Follower::new(view)));
        });
    }

    fn shrink(&mut self, p: usize, epoch: Epoch) {
        self.processes[p].change(|process| {
            process.change_follower(|follower| {
                follower.shrink(epoch);
            });
        });
        self.arm(p);
    }

    /// A view waits for the next safe point of a process.
    fn arm(&mut self, p: usize) {
        let is_first = self.processes[p].change(|process| {
            let Some(follower) = &process.follower else { return true };
            let Some(view) = follower.armed() else { return true };
            let Some(executor) = &mut process.executor else { return true };
            for member in view.members.iter().filter(|m| follower.view().rank_of(m.peer).is_none()) {
                executor.admit(member.id);
            }
            executor.arm(view.epoch, members_of(view))
        });
        if !is_first {
            self.has_fault("a view is armed while another waits for a safe point");
        }
    }

    fn deliver(&mut self, p: usize) {
        let message = self.processes[p].change(|process| process.link.as_mut()?.up.pop_front());
        if let (Some(message), Some(at)) = (message, self.life_of(p)) {
            self.coordinate(at, |machine, now| machine.handle_message(p as u64, message, now));
        }
    }

    fn deliver_former(&mut self, p: usize) {
        let (life, message) = self.processes[p].change(|process| {
            let link = &mut process.former[0];
            let (life, message) = (link.life, link.up.pop_front());
            if message.is_none() {
                process.former.remove(0);
            }
            (life, message)
        });
        let Some(at) = self.lives.iter().position(|l| l.number == life) else { return };
        self.coordinate(at, |machine, now| match message {
            Some(message) => machine.handle_message(p as u64, message, now),
            None => machine.handle_closed(p as u64, now),
        });
    }

    fn notice(&mut self, p: usize) {
        let Some(at) = self.life_of(p) else { return };
        self.processes[p].change(|process| process.link = None);
        self.coordinate(at, |machine, now| machine.handle_closed(p as u64, now));
    }

    fn see_death(&mut self, p: usize, q: usize) {
        self.processes[p].change(|process| {
            process.told |= 1 << q;
            let views = process.follower.iter().flat_map(|f| [Some(f.view()), f.armed()]);
            let members: Vec<_> = views.flatten().flat_map(|view| &view.members).collect();
            let Some(member) = members.iter().find(|m| m.peer == peer_id(q)).map(|m| m.id) else { return };
            process.say(FromMember::LinkFailed { member, reason: String::new(), end: LinkEnd::Cut });
        });
    }

    fn rejoin(&mut self, p: usize, knows_all: bool) {
        if self.processes[p].follower.is_none() {
            // It asks the next coordinator, unless others may reckon with it already.
            if self.processes[p].first_view.is_some() {
                return self.die(p, Status::Dead);
            }
            let life = self.lives.last().map_or(0, |life| life.number);
            return self.processes[p].change(|process| {
                process.link = Some(Link::new(life));
                process.say(hello(p, None, false));
            });
        }
        let heir = self.heir(p);
        if heir == Some(p) && !self.lives.iter().any(|life| life.host == heir) {
            let options = CoordinatorOptions { host: Some(peer_id(p)), ..options() };
            self.begin_life(heir, Coordinator::successor(options));
        }
        let Some(life) = self.lives.iter().find(|life| life.host == heir).map(|life| life.number) else {
            return;
        };
        let dead = self.known_dead(p, knows_all);
        self.processes[p].change(|process| {
            let Some(follower) = &mut process.follower else { return };
            let rejoin = follower.rejoin(peer_id(p), dead);
            if let Some(heir) = heir {
                let host = follower
                    .view()
                    .rank_of(peer_id(heir))
                    .map(|rank| follower.view().members[rank.index()].id);
                follower.change(|follower| follower.hosted_by(host));
            }
            process.link = Some(Link::new(life));
            process.say(FromMember::Rejoin(Box::new(rejoin)));
        });
    }

    fn begin_life(&mut self, host: Option<usize>, machine: Coordinator) {
        let number = self.lives_begun;
        self.lives_begun += 1;
        self.lives.push(Life { number, host, machine: Shared::new(machine), now: Instant(0), probed: 0 });
    }

    fn break_links(&mut self, life: u8) {
        for process in &mut self.processes {
            if process.former.iter().any(|link| link.life == life) {
                process.change(|process| process.former.retain(|link| link.life != life));
            }
            let is_linked = process.link.as_ref().is_some_and(|link| link.life == life);
            match is_linked {
                true if !process.lives() => process.change(|process| process.link = None),
                true => process.change(|process| {
                    process.link.iter_mut().for_each(|link| {
                        link.broken = true;
                        link.up.clear();
                    });
                }),
                false => {}
            }
        }
    }

    fn die(&mut self, p: usize, status: Status) {
        self.processes[p].change(|process| {
            process.status = status;
            process.link.take_if(|link| link.broken);
            process.link.iter_mut().for_each(|link| link.down.clear());
            process.bury();
        });
        let over: Vec<u8> = self.lives.iter().filter(|l| l.host == Some(p)).map(|l| l.number).collect();
        self.lives.retain(|life| life.host != Some(p));
        over.into_iter().for_each(|life| self.break_links(life));
    }

    fn join(&mut self) {
        self.newcomers_left -= 1;
        let p = self.processes.len();
        let mut process = Process::new(self.lives.last().map(|life| Link::new(life.number)));
        process.say(hello(p, None, false));
        self.processes.push(Shared::new(process));
    }

    /// Drops what cannot matter any more, so that states are the same that go on in the same way.
    fn tidy(&mut self) {
        for p in 0..self.processes.len() {
            let Some(executor) = &self.processes[p].executor else { continue };
            let wanted = |key: Key, epoch: Epoch, q: usize| q != p && self.may_take(q, p, key, epoch);
            if !executor.has_frames_but(&wanted) {
                continue;
            }
            let mut next = executor.clone();
            next.drop_frames(&wanted);
            self.processes[p].change(|process| process.executor = Some(next));
        }
    }

    /// A process may take frames of an attempt from another now or later.
    fn may_take(&self, q: usize, from: usize, key: Key, epoch: Epoch) -> bool {
        let process = &self.processes[q];
        if !process.lives() {
            return false;
        }
        let Some(executor) = &process.executor else { return true };
        let Some(group) = executor.group(key.0) else {
            return executor.epoch <= epoch && executor.generation <= key.0;
        };
        let ended = group.ops[key.1].get(key.2).is_some_and(Op::has_ended);
        !ended && group.epoch <= epoch && group.lost >> from & 1 == 0
    }
}
