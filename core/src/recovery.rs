//! Recovery: what survivors report of their ops after a loss, and the plan that follows from the reports.
//!
//! The plan is a pure function of the reports (PROTOCOL, Plan), so whoever makes it makes the same one:
//!
//! 0. An op that ended with an error somewhere, for want of somebody who was lost, does so everywhere.
//! 1. An op from which a survivor has returned keeps the contributors that it had. Survivors that lack the
//!    result get it from one that returned.
//! 2. An op whose complete result, of one attempt, every survivor holds is committed as it stands. As of 1., those who
//!    have not returned from it tell each other once more if it commits by Done, so that nothing is left uncompared.
//! 3. Every other op starts again among the survivors.
//!
//! Of an op that commits window by window, what a survivor knows to be final is so for all, and so is what all hold
//! of one attempt; only the rest starts again.
//!
//! A broadcast whose root was lost starts again from a survivor that holds all of it.
//!
//! Of a gather that starts again, the block of a lost member counts if a survivor holds it whole, which hands it on. Not so
//! while an op is made again from which the lost may have returned: its block may follow from a result that nobody has. Nor if
//! only some have gone on by the last plan: in that such an op may have been made again.
//!
//! Calls of two that each commit for itself stand while both are there, whatever is said of them here.
//!
//! Ops that start again commit by Done, on every rank and also where they had not been started yet: the plan
//! says up to which op of each tag.
//!
//! Members may also freeze and report although nobody was lost, so that an op can be ended by agreement: one that has
//! missed its deadline, or all of a job that somebody aborts. What would start again ends instead, on every rank, also
//! where it has not begun yet. What a survivor has returned, or all hold, is committed all the same.

use crate::membership::Verdict;
use crate::planted::{self, Bug};
use crate::{Epoch, Formation, MemberId, OpId, Seq, Tag};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a survivor says of one tag of one group.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct TagReport {
    /// The group.
    pub formation: Formation,
    /// The tag.
    pub tag: Tag,
    /// Ops below this one have been started here or, by an earlier plan that only some may have heard of, elsewhere.
    pub started: Seq,
    /// Ops below this one have returned.
    pub returned: Seq,
    /// Ops that returned although an earlier one has not.
    pub returned_ahead: Vec<Seq>,
    /// Of those that have returned, the ones that ended with an error, for want of somebody who was lost.
    pub failed: Vec<Seq>,
    /// Ops that have not returned, but whose complete result is here, with the epoch of the attempt that gave it.
    pub complete: Vec<(Seq, Epoch)>,
    /// Ops that commit window by window and have not returned.
    pub partial: Vec<Partial>,
    /// Broadcasts that have not returned, but whose data is here.
    pub held: Vec<Seq>,
    /// Of gathers that have not returned, the lost members whose blocks are here whole.
    pub blocks: Vec<(Seq, Vec<MemberId>)>,
    /// Ops that have not returned here, from which others return without a word of this member.
    pub unannounced: Vec<Seq>,
    /// Ops that an earlier plan has ended by agreement, also if they have not been started here.
    pub aborted: Vec<(Seq, Verdict)>,
}

/// An op that is to end by agreement.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Abort {
    /// Which.
    pub op: OpId,
    /// Also if some have returned from it: it tolerates no loss, so that each is done for itself, or what members hold
    /// of it is not the same.
    pub forced: bool,
    /// Why, in the words that everybody gets.
    pub verdict: Verdict,
}

/// What the members freeze for, besides for those who were lost.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Wishes {
    /// Ops that are to end.
    pub aborts: Vec<Abort>,
    /// Everything is.
    pub ending: Option<Verdict>,
}

/// How far an op is that commits window by window, in bytes of its vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Partial {
    /// The op.
    pub seq: Seq,
    /// The epoch of the attempt.
    pub attempt: Epoch,
    /// Final: all members are known to hold it.
    pub committed: u64,
    /// Complete here.
    pub held: u64,
}

impl TagReport {
    /// The attempt whose complete result is here.
    fn attempt(&self, op: Seq) -> Option<Epoch> {
        self.complete.iter().find(|(seq, _)| *seq == op).map(|(_, epoch)| *epoch)
    }

    fn has_returned(&self, op: Seq) -> bool {
        op < self.returned || self.returned_ahead.contains(&op)
    }

    /// It ended with an error here, or will.
    fn has_failed(&self, op: Seq) -> bool {
        self.failed.contains(&op) || self.aborted.iter().any(|(aborted, _)| *aborted == op)
    }
}

/// What a survivor says of all its ops. It is frozen from then on until the plan of that epoch or a later one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The epoch that is to be.
    pub epoch: Epoch,
    /// Groups that this peer is a member of.
    pub groups: Vec<Formation>,
    /// All members of those that were made by splitting, where calls were made: some may still be making the group,
    /// and count as such that have not started any.
    pub splits: Vec<(Formation, Vec<MemberId>)>,
    /// Tags that were used.
    pub tags: Vec<TagReport>,
    /// The job is to end, as a coordinator has said that may have told only some.
    pub ending: Option<Box<Verdict>>,
    /// The plan by which it last went on, or the view that took effect since.
    pub resumed: Epoch,
}

/// An op that is committed with the contributors that it had.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The group of the op.
    pub formation: Formation,
    /// Its tag.
    pub tag: Tag,
    /// Its number.
    pub seq: Seq,
    /// The member that sends the result to those who lack it.
    pub provider: Option<MemberId>,
    /// Who lacks it.
    pub receivers: Vec<MemberId>,
    /// Who holds it and has not returned: if it commits by Done, they tell each other before they do.
    pub holders: Vec<MemberId>,
}

/// What becomes of every op that was open when a peer was lost.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RecoveryPlan {
    /// Ops that are committed; all others start again.
    pub commits: Vec<Commit>,
    /// Ops that start again behind what is final, in bytes of their vectors.
    pub rests: Vec<(Formation, Tag, Seq, u64)>,
    /// Who has the data of a broadcast, if its root should be lost.
    pub sources: Vec<(Formation, Tag, Seq, MemberId)>,
    /// Of gathers, lost members whose blocks count, each with the one that has it.
    pub stand_ins: Vec<(Formation, Tag, Seq, MemberId, MemberId)>,
    /// By group and tag: ops below this one commit by Done.
    pub horizons: Vec<(Formation, Tag, Seq)>,
    /// Ops that end with an error, also where they have not been started.
    pub aborts: Vec<(OpId, Verdict)>,
    /// All that is not committed ends, and the job with it.
    pub ending: Option<Box<Verdict>>,
}

impl RecoveryPlan {
    /// The commit of an op, if it is not to start again.
    pub fn commit(&self, formation: Formation, tag: Tag, seq: Seq) -> Option<&Commit> {
        self.commits.iter().find(|commit| (commit.formation, commit.tag, commit.seq) == (formation, tag, seq))
    }

    /// Who sends the data of a broadcast whose root was lost.
    pub fn source(&self, formation: Formation, tag: Tag, seq: Seq) -> Option<MemberId> {
        let known = self.sources.iter().find(|known| (known.0, known.1, known.2) == (formation, tag, seq));
        known.map(|known| known.3)
    }

    /// Of a gather, lost members whose blocks count, each with the one that has it.
    pub fn stand_ins(
        &self,
        formation: Formation,
        tag: Tag,
        seq: Seq,
    ) -> impl Iterator<Item = (MemberId, MemberId)> + '_ {
        let of_op =
            self.stand_ins.iter().filter(move |known| (known.0, known.1, known.2) == (formation, tag, seq));
        of_op.map(|known| (known.3, known.4))
    }

    /// Why an op ends by agreement.
    pub fn abort(&self, op: &OpId) -> Option<&Verdict> {
        self.aborts.iter().find(|(aborted, _)| aborted == op).map(|(_, verdict)| verdict)
    }

    /// Where the rest of an op begins that starts again.
    pub fn rest(&self, formation: Formation, tag: Tag, seq: Seq) -> u64 {
        let rest = self.rests.iter().find(|rest| (rest.0, rest.1, rest.2) == (formation, tag, seq));
        rest.map_or(0, |rest| rest.3)
    }
}

/// Ops of one tag that a plan may speak of: more than a peer may have open and in its log.
const MOST_OPS: u64 = 1 << 18;

/// The plan that follows from the reports of all survivors, and from what they freeze for.
pub fn plan(reports: &BTreeMap<MemberId, Report>, wishes: &Wishes) -> RecoveryPlan {
    let mut by_tag: BTreeMap<(Formation, Tag), BTreeMap<MemberId, &TagReport>> = BTreeMap::new();
    for (&member, report) in reports {
        for tag in &report.tags {
            by_tag.entry((tag.formation, tag.tag)).or_default().insert(member, tag);
        }
    }
    let nothing = TagReport::default();
    let told = reports.values().find_map(|report| report.ending.clone());
    let ending = told.or(wishes.ending.clone().map(Box::new));
    let mut plan = RecoveryPlan { ending, ..RecoveryPlan::default() };
    // Somebody who was lost may have returned from an op that is made again, or was by a plan of which some have not heard.
    let resumed: BTreeSet<Epoch> = reports.values().map(|report| report.resumed).collect();
    let mut is_unsure = resumed.len() > 1;
    for ((formation, tag), said) in by_tag {
        let named: BTreeSet<MemberId> = reports
            .values()
            .flat_map(|report| &report.splits)
            .filter(|(split, _)| *split == formation && !planted::has(Bug::WhoMakesAGroupDoesNotCount))
            .flat_map(|(_, members)| members.iter().copied())
            .collect();
        let members: Vec<(MemberId, &TagReport)> = reports
            .iter()
            .filter(|(member, report)| report.groups.contains(&formation) || named.contains(member))
            .map(|(member, _)| (*member, said.get(member).copied().unwrap_or(&nothing)))
            .collect();
        let started = said.values().map(|tag| tag.started).max().unwrap_or_default();
        plan.horizons.push((formation, tag, started));
        let is_of_tag = |abort: &&Abort| (abort.op.formation(), abort.op.tag) == (formation, tag);
        // What a loss has ended for one it ends for all.
        let has_failed = |abort: &Abort| members.iter().any(|(_, tag)| tag.failed.contains(&abort.op.seq));
        let wished = wishes.aborts.iter().filter(is_of_tag).filter(|abort| !has_failed(abort));
        let mut aborts = aborted_before(&members);
        let is_forced = |abort: &&Abort| abort.forced || planted::has(Bug::AbortsEndWhatIsFinal);
        for abort in wished.clone().filter(is_forced) {
            aborts.entry(abort.op.seq).or_insert_with(|| abort.verdict.clone());
        }
        let commits: Vec<Commit> = open_ops(&members)
            .into_iter()
            .filter(|seq| !aborts.contains_key(seq))
            .filter_map(|seq| settle(&members, (formation, tag, seq)))
            .collect();
        let committed: BTreeSet<Seq> = commits.iter().map(|commit| commit.seq).collect();
        for abort in wished.filter(|abort| !committed.contains(&abort.op.seq)) {
            aborts.entry(abort.op.seq).or_insert_with(|| abort.verdict.clone());
        }
        let is_open = |seq: &Seq| !committed.contains(seq) && !aborts.contains_key(seq);
        let sources = sources(&members).into_iter().filter(|(seq, _)| is_open(seq));
        plan.sources.extend(sources.map(|(seq, source)| (formation, tag, seq, source)));
        is_unsure |= said.values().flat_map(|tag| &tag.unannounced).any(|seq| !committed.contains(seq));
        let stand_ins = stand_ins(&members).into_iter().filter(|((seq, _), _)| is_open(seq));
        plan.stand_ins.extend(stand_ins.map(|((seq, lost), holder)| (formation, tag, seq, lost, holder)));
        // Of what ends, too, what is final stays.
        let rests = rests(&members).into_iter().filter(|(seq, _)| !committed.contains(seq));
        plan.rests.extend(rests.map(|(seq, begin)| (formation, tag, seq, begin)));
        plan.commits.extend(commits);
        plan.aborts.extend(aborts.into_iter().map(|(seq, verdict)| (formation.op(tag, seq), verdict)));
    }
    if is_unsure {
        plan.stand_ins.clear();
    }
    plan
}

/// What earlier plans have ended. A coordinator that was lost may have told only some.
fn aborted_before(members: &[(MemberId, &TagReport)]) -> BTreeMap<Seq, Verdict> {
    let said = members.iter().flat_map(|(_, tag)| tag.aborted.iter().take(MOST_OPS as usize));
    said.map(|(seq, verdict)| (*seq, verdict.clone())).collect()
}

/// Ops that are not over for everybody and of which somebody holds the result.
fn open_ops(members: &[(MemberId, &TagReport)]) -> BTreeSet<Seq> {
    let over = members.iter().map(|(_, tag)| tag.returned).min().unwrap_or_default();
    let mut ops = BTreeSet::new();
    for (_, tag) in members {
        let returned = over.0..tag.returned.0.min(over.0 + MOST_OPS);
        let held = tag.returned_ahead.iter().chain(tag.complete.iter().map(|(seq, _)| seq)).copied();
        ops.extend(returned.map(Seq).chain(held.filter(|&seq| seq >= over)));
    }
    ops
}

/// Who can send the data of broadcasts; nobody where one has ended already for want of the root.
fn sources(members: &[(MemberId, &TagReport)]) -> BTreeMap<Seq, MemberId> {
    let mut sources = BTreeMap::new();
    for (member, tag) in members {
        for &seq in tag.held.iter().take(MOST_OPS as usize) {
            sources.entry(seq).or_insert(*member);
        }
    }
    for seq in members.iter().flat_map(|(_, tag)| &tag.failed) {
        sources.remove(seq);
    }
    sources
}

/// Who has the blocks of the lost, by op and lost member; nobody where an op has ended with an error.
fn stand_ins(members: &[(MemberId, &TagReport)]) -> BTreeMap<(Seq, MemberId), MemberId> {
    let mut holders = BTreeMap::new();
    for (member, tag) in members {
        let blocks = tag.blocks.iter().flat_map(|(seq, lost)| lost.iter().map(move |&lost| (*seq, lost)));
        for block in blocks.take(MOST_OPS as usize) {
            holders.entry(block).or_insert(*member);
        }
    }
    let failed: BTreeSet<Seq> = members.iter().flat_map(|(_, tag)| tag.failed.iter().copied()).collect();
    holders.retain(|(seq, _), _| !failed.contains(seq));
    holders
}

/// What is final of ops that commit window by window.
fn rests(members: &[(MemberId, &TagReport)]) -> BTreeMap<Seq, u64> {
    let mut by_op: BTreeMap<Seq, Vec<&Partial>> = BTreeMap::new();
    for (_, tag) in members {
        for partial in tag.partial.iter().take(MOST_OPS as usize) {
            by_op.entry(partial.seq).or_default().push(partial);
        }
    }
    let begin = |said: &[&Partial]| {
        let committed = said.iter().map(|p| p.committed).max().unwrap_or(0);
        let of_all = said.len() == members.len() && said.iter().all(|p| p.attempt == said[0].attempt);
        let held = said.iter().map(|p| p.held);
        let held = match planted::has(Bug::WindowsThatOnlySomeHoldAreFinal) {
            true => held.max(),
            false => held.min(),
        };
        let held = held.filter(|_| of_all).unwrap_or(0);
        committed.max(held)
    };
    by_op.iter().map(|(seq, said)| (*seq, begin(said))).filter(|(_, begin)| *begin > 0).collect()
}

/// How an op is committed, if it is.
fn settle(
    members: &[(MemberId, &TagReport)],
    (formation, tag, seq): (Formation, Tag, Seq),
) -> Option<Commit> {
    // It cannot be carried out without the lost, also where its result was complete.
    if members.iter().any(|(_, tag)| tag.has_failed(seq)) && !planted::has(Bug::FailuresCountAsReturns) {
        return None;
    }
    let lacks = |tag: &TagReport| !tag.has_returned(seq) && tag.attempt(seq).is_none();
    let who = |is: &dyn Fn(&TagReport) -> bool| -> Vec<MemberId> {
        members.iter().filter(|(_, tag)| is(tag)).map(|(member, _)| *member).collect()
    };
    let receivers = who(&lacks);
    let holders = who(&|tag| !tag.has_returned(seq) && !lacks(tag));
    let provider = members.iter().find(|(_, tag)| tag.has_returned(seq)).map(|(member, _)| *member);
    if planted::has(Bug::WhatSomebodyReturnedStartsAgain) {
        return None;
    }
    // A coordinator that was lost may have told only some to start again, who then hold another result.
    let mut attempts = members.iter().filter_map(|(_, tag)| tag.attempt(seq));
    let first = attempts.next();
    let alike =
        attempts.all(|attempt| Some(attempt) == first) || planted::has(Bug::ResultsOfAllAttemptsAreAlike);
    let held = receivers.is_empty() && alike || planted::has(Bug::CommitWhatOnlySomeHold);
    (provider.is_some() || held).then_some(Commit { formation, tag, seq, provider, receivers, holders })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Generation, GroupId};

    const GROUP: Formation = Formation { group: GroupId(0), generation: Generation(0) };

    fn report(started: u64, returned: u64, ahead: &[u64], complete: &[u64]) -> Report {
        let seqs = |list: &[u64]| list.iter().copied().map(Seq).collect();
        let tag = TagReport {
            formation: GROUP,
            tag: Tag(0),
            started: Seq(started),
            returned: Seq(returned),
            returned_ahead: seqs(ahead),
            complete: complete.iter().map(|&seq| (Seq(seq), Epoch(1))).collect(),
            ..TagReport::default()
        };
        Report { epoch: Epoch(2), groups: vec![GROUP], splits: vec![], tags: vec![tag], ..Report::default() }
    }

    fn plan_of(reports: Vec<Report>) -> RecoveryPlan {
        plan_with(reports, &Wishes::default())
    }

    fn plan_with(reports: Vec<Report>, wishes: &Wishes) -> RecoveryPlan {
        let reports = reports.into_iter().zip(0..).map(|(report, member)| (MemberId(member), report));
        plan(&reports.collect(), wishes)
    }

    fn requested(rank: u32) -> Verdict {
        Verdict::Requested { rank: crate::Rank(rank), reason: "a test".into() }
    }

    fn abort(seq: u64, forced: bool) -> Wishes {
        let abort = Abort { op: GROUP.op(Tag(0), Seq(seq)), forced, verdict: requested(0) };
        Wishes { aborts: vec![abort], ending: None }
    }

    fn aborted(plan: &RecoveryPlan) -> Vec<u64> {
        plan.aborts.iter().map(|(op, _)| op.seq.0).collect()
    }

    fn commits(plan: &RecoveryPlan) -> Vec<(u64, Option<u32>, Vec<u32>)> {
        let members = |members: &[MemberId]| members.iter().map(|member| member.0).collect();
        plan.commits.iter().map(|c| (c.seq.0, c.provider.map(|m| m.0), members(&c.receivers))).collect()
    }

    #[test]
    fn what_a_survivor_returned_is_provided_to_those_who_lack_it() {
        let plan = plan_of(vec![report(6, 4, &[], &[]), report(7, 5, &[6], &[]), report(5, 4, &[], &[4])]);
        assert_eq!(commits(&plan), [(4, Some(1), vec![0]), (6, Some(1), vec![0, 2])]);
        assert_eq!(plan.commits[0].holders, [MemberId(2)], "the second has returned, the first lacks it");
        assert_eq!(plan.commits[1].holders, []);
        assert_eq!(plan.horizons, [(GROUP, Tag(0), Seq(7))]);
    }

    #[test]
    fn what_everybody_holds_is_committed_and_the_rest_starts_again() {
        let plan = plan_of(vec![report(3, 0, &[], &[0, 2]), report(3, 0, &[], &[0, 1])]);
        assert_eq!(commits(&plan), [(0, None, vec![])]);
        assert_eq!(plan.commits[0].holders, [MemberId(0), MemberId(1)]);
    }

    /// A coordinator told one to start again and died before it told the other.
    #[test]
    fn results_of_different_attempts_are_not_one_result() {
        let again = |mut report: Report| {
            report.tags[0].complete.iter_mut().for_each(|(_, attempt)| attempt.0 += 1);
            report
        };
        let (one, other) = (report(1, 0, &[], &[0]), again(report(1, 0, &[], &[0])));
        assert_eq!(commits(&plan_of(vec![one.clone(), other.clone()])), []);
        assert_eq!(commits(&plan_of(vec![other.clone(), other])), [(0, None, vec![])]);
    }

    /// Two know that the root is lost, the coordinator died before it told the third, which holds the result.
    #[test]
    fn what_failed_for_one_is_not_committed_for_another() {
        let mut knows = report(1, 1, &[], &[]);
        knows.tags[0].failed = vec![Seq(0)];
        assert_eq!(commits(&plan_of(vec![knows.clone(), knows, report(1, 0, &[], &[0])])), []);
    }

    #[test]
    fn who_holds_a_broadcast_sends_it_unless_it_has_failed_for_somebody() {
        let mut holds = report(1, 0, &[], &[]);
        holds.tags[0].held = vec![Seq(0)];
        let lacks = report(1, 0, &[], &[]);
        let plan = plan_of(vec![lacks.clone(), holds.clone(), holds.clone()]);
        assert_eq!(plan.source(GROUP, Tag(0), Seq(0)), Some(MemberId(1)));
        assert_eq!(plan.source(GROUP, Tag(0), Seq(1)), None);
        let mut failed = report(1, 1, &[], &[]);
        failed.tags[0].failed = vec![Seq(0)];
        assert_eq!(plan_of(vec![failed, holds]).sources, []);
    }

    fn holds_blocks(op: u64, lost: &[u32]) -> Report {
        let mut report = report(op + 1, op, &[], &[]);
        report.tags[0].blocks = vec![(Seq(op), lost.iter().copied().map(MemberId).collect())];
        report
    }

    fn stand_ins_of(plan: &RecoveryPlan, op: u64) -> Vec<(u32, u32)> {
        plan.stand_ins(GROUP, Tag(0), Seq(op)).map(|(lost, holder)| (lost.0, holder.0)).collect()
    }

    #[test]
    fn blocks_of_the_lost_come_from_the_first_who_has_them() {
        let lacks = || report(4, 3, &[], &[]);
        // Some have gone on by a plan of which the others have not heard: in that an op may have been made again, and be over.
        let ahead = Report { resumed: Epoch(9), ..lacks() };
        assert_eq!(stand_ins_of(&plan_of(vec![ahead, holds_blocks(3, &[7])]), 3), []);
        let plan = plan_of(vec![lacks(), holds_blocks(3, &[7]), holds_blocks(3, &[8, 7])]);
        assert_eq!(stand_ins_of(&plan, 3), [(7, 1), (8, 2)]);
        assert_eq!(stand_ins_of(&plan, 4), []);
        let late = plan_with(vec![lacks(), holds_blocks(3, &[7])], &abort(3, false));
        assert_eq!(stand_ins_of(&late, 3), [], "it ends");
        let returned = plan_of(vec![report(4, 4, &[], &[]), holds_blocks(3, &[7])]);
        assert_eq!(stand_ins_of(&returned, 3), [], "it is over");
        let mut failed = lacks();
        failed.tags[0].failed = vec![Seq(3)];
        assert_eq!(stand_ins_of(&plan_of(vec![failed, holds_blocks(3, &[7])]), 3), []);
    }

    /// What a lost member gave to one op may follow from the result of another that only it had.
    #[test]
    fn blocks_do_not_count_while_the_lost_may_know_what_nobody_else_does() {
        let waits = |seq: u64| {
            let mut report = holds_blocks(3, &[7]);
            report.tags.push(TagReport {
                formation: GROUP,
                tag: Tag(1),
                started: Seq(seq + 1),
                unannounced: vec![Seq(seq)],
                ..TagReport::default()
            });
            report
        };
        assert_eq!(stand_ins_of(&plan_of(vec![report(4, 3, &[], &[]), waits(0)]), 3), []);
        // Another has returned from it too: it stays as it was.
        let mut has_returned = report(4, 3, &[], &[]);
        let tag = Tag(1);
        let (formation, started) = (GROUP, Seq(1));
        has_returned.tags.push(TagReport {
            formation,
            tag,
            started,
            returned: Seq(1),
            ..TagReport::default()
        });
        assert_eq!(stand_ins_of(&plan_of(vec![has_returned, waits(0)]), 3), [(7, 1)]);
    }

    #[test]
    fn what_is_late_ends_unless_it_is_final() {
        let open = || report(1, 0, &[], &[]);
        let plan = plan_with(vec![open(), report(0, 0, &[], &[])], &abort(0, false));
        assert_eq!((commits(&plan), aborted(&plan)), (vec![], vec![0]), "also where it has not begun");
        assert_eq!(plan.abort(&GROUP.op(Tag(0), Seq(0))), Some(&requested(0)));
        let plan = plan_with(vec![open(), report(1, 1, &[], &[])], &abort(0, false));
        assert_eq!(
            (commits(&plan), aborted(&plan)),
            (vec![(0, Some(1), vec![0])], vec![]),
            "one has returned"
        );
        let holds = || report(1, 0, &[], &[0]);
        let plan = plan_with(vec![holds(), holds()], &abort(0, false));
        assert_eq!((commits(&plan), aborted(&plan)), (vec![(0, None, vec![])], vec![]), "all hold it");
        let plan = plan_with(vec![holds(), report(1, 1, &[], &[])], &abort(0, true));
        assert_eq!((commits(&plan), aborted(&plan)), (vec![], vec![0]), "whatever there is of it");
        assert_eq!(
            aborted(&plan_with(vec![open(), open()], &abort(1, false))),
            [1],
            "nothing is known of it"
        );
    }

    /// The coordinator before this one had told one of them, who need not have started it.
    #[test]
    fn what_was_ended_for_one_ends_for_all() {
        let mut knows = report(0, 0, &[], &[]);
        knows.tags[0].aborted = vec![(Seq(0), requested(3))];
        let plan = plan_of(vec![report(1, 0, &[], &[0]), report(1, 0, &[], &[0]), knows]);
        assert_eq!((commits(&plan), aborted(&plan)), (vec![], vec![0]));
        assert_eq!(plan.abort(&GROUP.op(Tag(0), Seq(0))), Some(&requested(3)), "in the words of then");
    }

    #[test]
    fn a_job_that_ends_for_one_ends_for_all() {
        let knows = Report { ending: Some(Box::new(requested(2))), ..report(1, 0, &[], &[]) };
        let wishes = Wishes { ending: Some(requested(1)), ..Wishes::default() };
        assert_eq!(
            plan_with(vec![report(0, 0, &[], &[]), knows], &wishes).ending.as_deref(),
            Some(&requested(2))
        );
        assert_eq!(plan_with(vec![report(0, 0, &[], &[])], &wishes).ending.as_deref(), Some(&requested(1)));
        assert_eq!(plan_of(vec![report(0, 0, &[], &[])]).ending, None);
    }

    /// By member: attempt, final bytes, bytes that it holds.
    fn rest_of(said: &[(u64, u64, u64)]) -> u64 {
        let reports = said.iter().map(|&(attempt, committed, held)| {
            let mut report = report(1, 0, &[], &[]);
            let partial = Partial { seq: Seq(0), attempt: Epoch(attempt), committed, held };
            report.tags[0].partial.push(partial);
            report
        });
        plan_of(reports.collect()).rest(GROUP, Tag(0), Seq(0))
    }

    #[test]
    fn what_is_final_for_one_or_held_by_all_is_final() {
        assert_eq!(rest_of(&[(1, 0, 64), (1, 0, 128)]), 64);
        assert_eq!(rest_of(&[(1, 128, 256), (1, 64, 128)]), 128);
        assert_eq!(rest_of(&[(1, 64, 256), (2, 64, 128)]), 64, "of different attempts");
        let mut silent = report(0, 0, &[], &[]);
        silent.tags.clear();
        let mut one = report(1, 0, &[], &[]);
        one.tags[0].partial = vec![Partial { seq: Seq(0), attempt: Epoch(1), committed: 0, held: 64 }];
        assert_eq!(plan_of(vec![one, silent]).rests, [], "not held by one that has not started it");
    }

    #[test]
    fn a_member_that_never_used_the_tag_counts() {
        let mut silent = report(0, 0, &[], &[]);
        silent.tags.clear();
        let plan = plan_of(vec![report(1, 0, &[], &[0]), silent.clone()]);
        assert_eq!(commits(&plan), []);
        let stranger = Report { groups: vec![], ..silent };
        let plan = plan_of(vec![report(1, 0, &[], &[0]), stranger.clone()]);
        assert_eq!(commits(&plan), [(0, None, vec![])]);
        // It is still making the group, as the other one knows.
        let knows =
            Report { splits: vec![(GROUP, vec![MemberId(0), MemberId(1)])], ..report(1, 0, &[], &[0]) };
        assert_eq!(commits(&plan_of(vec![knows, stranger])), []);
    }

    /// So do lists of absurd length.
    #[test]
    fn absurd_lists_are_bounded() {
        let mut long = report(0, 0, &[], &[]);
        let seqs = (0..2 * MOST_OPS).map(Seq);
        let partial = |seq| Partial { seq, attempt: Epoch(1), committed: 8, held: 8 };
        long.tags[0].partial = seqs.clone().map(partial).collect();
        long.tags[0].held = seqs.collect();
        long.tags[0].blocks = vec![(Seq(0), (0..2 * MOST_OPS as u32).map(MemberId).collect())];
        let plan = plan_of(vec![long.clone(), long.clone()]);
        assert_eq!((plan.rests.len() as u64, plan.sources.len() as u64), (MOST_OPS, MOST_OPS));
        assert_eq!(plan.stand_ins.len() as u64, MOST_OPS);
        long.tags[0].failed = (0..2 * MOST_OPS).map(Seq).collect();
        assert_eq!(plan_of(vec![long.clone(), long]).stand_ins, []);
    }

    /// A report with absurd numbers costs no more than a bounded time.
    #[test]
    fn absurd_numbers_are_bounded() {
        let plan = plan_of(vec![report(u64::MAX, u64::MAX, &[], &[]), report(0, 0, &[], &[])]);
        assert_eq!(plan.commits.len() as u64, MOST_OPS);
    }
}
