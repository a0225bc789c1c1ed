//! A round: everybody freezes and reports, and goes on by the plan that follows from the reports. Losses lead to one, and
//! whatever is to end by agreement: nobody may return success from what others see fail.

use super::{Coordinator, Effect, State};
use crate::error::PeerLost;
use crate::membership::{ToMember, Verdict};
use crate::planted::{self, Bug};
use crate::recovery::{self, Abort, Report, Wishes};
use crate::{Epoch, Instant, MemberId, OpId};
use std::collections::BTreeMap;

/// A member that beats and yet does not say how far its calls are is lost after so many silences: its process works on
/// something else, or hangs.
const REPORT_SILENCES: u32 = 5;
/// So many ops that were to end are remembered: what may be on its way.
const MOST_REMEMBERED: usize = 256;

/// What everybody froze for, and who has reported since.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Round {
    /// Who was lost since the members last went on.
    pub(super) lost: Vec<PeerLost>,
    wishes: Wishes,
    pub(super) reports: BTreeMap<MemberId, Report>,
    since: Instant,
}

impl Round {
    pub(super) fn of(lost: Vec<PeerLost>, wishes: Wishes) -> Round {
        Round { lost, wishes, ..Round::default() }
    }

    pub(super) fn prepare(&self, epoch: Epoch) -> ToMember {
        let (lost, ending) = (self.lost.clone(), self.wishes.ending.clone().map(Box::new));
        let held = self.wishes.aborts.iter().map(|abort| abort.op).collect();
        ToMember::Prepare { epoch, lost, held, ending }
    }
}

impl Coordinator {
    /// The round that there is, or a new one; another takes its place.
    pub(super) fn take_round(&mut self) -> Round {
        match std::mem::replace(&mut self.state, State::Active) {
            State::Recovering(round) => round,
            _ => Round::default(),
        }
    }

    /// Has everybody freeze and report, of what there was before too.
    pub(super) fn start(&mut self, mut round: Round, now: Instant) {
        // Newcomers whose links are being made are not told to freeze: they may not come in until all go on.
        self.withdraw(now);
        self.epoch.0 += 1;
        round.reports.clear();
        round.since = now;
        self.send_to(self.bound().collect(), &round.prepare(self.epoch));
        self.state = State::Recovering(round);
    }

    pub(super) fn reported(&mut self, connection: u64, report: Report) {
        let Some(id) = self.members.get(&connection).and_then(|member| member.id) else { return };
        if let State::Recovering(round) = &mut self.state
            && (report.epoch == self.epoch || planted::has(Bug::ReportsOfAnotherEpochCount))
        {
            round.reports.insert(id, report);
        }
        self.go_on();
    }

    /// Goes on by the plan once everybody who is there has reported.
    pub(super) fn go_on(&mut self) {
        let State::Recovering(round) = &self.state else { return };
        if self.unreported(round).next().is_some() {
            return;
        }
        let plan = recovery::plan(&round.reports, &round.wishes);
        let epoch = self.epoch;
        if let Some(verdict) = plan.ending.clone() {
            let bound: Vec<u64> = self.bound().collect();
            self.send_to(bound.clone(), &ToMember::Resume { epoch, plan, shrink: None });
            return self.fail_but_for(&bound, *verdict);
        }
        self.state = State::Active;
        let shrink = self.shrink();
        self.send_to(self.bound().collect(), &ToMember::Resume { epoch, plan, shrink });
    }

    /// Connections of those who are waited for.
    fn unreported(&self, round: &Round) -> impl Iterator<Item = u64> {
        let waits =
            |connection: &u64| self.members[connection].id.is_some_and(|id| !round.reports.contains_key(&id));
        self.bound().filter(waits)
    }

    /// An op has missed its deadline: it ends for all, unless it is final.
    pub(super) fn abort_late(&mut self, abort: Abort, now: Instant) {
        if !self.runs() {
            // Who says so does it again once it has gone on.
            return;
        }
        let is_wished = |round: &Round| round.wishes.aborts.iter().any(|known| known.op == abort.op);
        if self.aborted.contains(&abort.op)
            || matches!(&self.state, State::Recovering(round) if is_wished(round))
        {
            return;
        }
        self.remember(abort.op);
        let mut round = self.take_round();
        round.wishes.aborts.push(abort);
        self.start(round, now);
    }

    /// Somebody was lost: what was final may start again, and be late again.
    pub(super) fn forget_the_late(&mut self) {
        self.aborted.clear();
    }

    /// Members made different calls, or hold different results of one: that one can be final for nobody, and the job ends.
    pub(super) fn disagree(&mut self, connection: u64, op: OpId, verdict: Verdict, now: Instant) {
        let abort = Abort { op, forced: true, verdict: verdict.clone() };
        self.end_with(connection, vec![abort], verdict, now);
    }

    /// The job ends: all that is not final does, everywhere alike. So says the member at this connection; the first verdict stands.
    pub(super) fn end(&mut self, connection: u64, verdict: Verdict, now: Instant) {
        self.end_with(connection, Vec::new(), verdict, now);
    }

    fn end_with(&mut self, connection: u64, aborts: Vec<Abort>, verdict: Verdict, now: Instant) {
        if let State::Succeeding(gathered) = &mut self.state {
            // Once all are here they agree on what is final.
            if let Some(id) = self.members.get(&connection).and_then(|member| member.id) {
                gathered.wish(id, Wishes { aborts, ending: Some(verdict) });
            }
            return;
        }
        if !self.runs() {
            return self.fail(verdict);
        }
        if self.is_ending() {
            return;
        }
        let mut round = self.take_round();
        round.wishes.aborts.extend(aborts);
        round.wishes.ending = Some(verdict);
        self.start(round, now);
    }

    fn is_ending(&self) -> bool {
        matches!(&self.state, State::Recovering(round) if round.wishes.ending.is_some())
    }

    fn remember(&mut self, op: OpId) {
        if self.aborted.len() == MOST_REMEMBERED {
            self.aborted.pop_front();
        }
        self.aborted.push_back(op);
    }

    /// When those who have not reported are waited for no longer.
    pub(super) fn reports_due(&self) -> Option<Instant> {
        let State::Recovering(round) = &self.state else { return None };
        self.unreported(round).next()?;
        let silences = if round.wishes.ending.is_some() { 1 } else { REPORT_SILENCES };
        Some(round.since.after(self.options.suspect_after * silences))
    }

    pub(super) fn go_on_without_reports_if_due(&mut self, now: Instant) {
        let State::Recovering(round) = &self.state else { return };
        if self.reports_due().is_none_or(|due| now < due) {
            return;
        }
        let silent: Vec<u64> = self.unreported(round).collect();
        let ending = round.wishes.ending.clone();
        for connection in silent {
            let Some(id) = self.members.get(&connection).and_then(|member| member.id) else { continue };
            match &ending {
                // It ends there too, if not in the way that the others agree on.
                Some(verdict) => self.expel(connection, verdict.clone()),
                None => self.lose_unproven(id, "it does not say how far its calls are (does it hang?)", now),
            }
        }
        self.go_on();
    }

    /// The job has failed. These know already.
    fn fail_but_for(&mut self, known: &[u64], verdict: Verdict) {
        self.accusations.clear();
        self.next = None;
        let others = self.members.iter().filter(|(c, m)| !m.left && !known.contains(c));
        let others = others.map(|(connection, _)| *connection).collect();
        self.send_to(others, &ToMember::Verdict(verdict.clone()));
        self.state = State::Failed(verdict);
    }

    /// The first verdict stands; everybody gets it.
    pub(super) fn fail(&mut self, verdict: Verdict) {
        if matches!(self.state, State::Failed(_) | State::SteppedDown) {
            return;
        }
        self.epoch.0 += 1;
        let earlier = match &self.state {
            State::Recovering(round) => round.wishes.ending.clone(),
            State::Succeeding(gathered) => gathered.first_verdict(),
            _ => None,
        };
        self.fail_but_for(&[], earlier.unwrap_or(verdict));
    }

    /// The job goes on without whoever is at this connection.
    pub(super) fn expel(&mut self, connection: u64, verdict: Verdict) {
        self.effects.push(Effect::Send(connection, ToMember::Verdict(verdict)));
        self.effects.push(Effect::Close(connection));
        self.members.remove(&connection);
    }
}
