//! The ops of one process, without their bytes: what `core/src/collective` does with them, in as few states as
//! possible.
//!
//! A frame that was sent stays where it was sent from until nobody can take it any more. It may be taken at any
//! time, in any order, or never if its sender has died, which covers every order and loss of frames. An attempt
//! completes in one step: pieces that are there before have no effect on reports.

use crate::Call;
use ronde_core::error::PeerLost;
use ronde_core::membership::{FromMember, Verdict};
use ronde_core::recovery::{RecoveryPlan, Report, TagReport};
use ronde_core::{Collective, Epoch, Formation, Generation, GroupId, MemberId, OpId, Seq, Tag};
use std::time::Duration;

/// Tags of calls and of safe points.
pub const TAGS: [Tag; 2] = [Tag(0), Tag(u32::MAX)];

/// Why a call ends that is late.
fn late(op: OpId) -> Verdict {
    let (collective, waited, culprits) = (Collective::Barrier, Duration::ZERO, String::new());
    Verdict::Timeout { op, collective, waited, culprits }
}

/// Processes, a bit for each.
pub type Set = u8;

/// The members of a set.
pub fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |p| set >> p & 1 == 1)
}

/// A member by its number in the job and as a process.
pub type Member = (MemberId, usize);

/// An op: generation, place of its tag in [`TAGS`], number.
pub type Key = (Generation, usize, usize);

/// How an op becomes final.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Commit {
    /// Nobody else is there.
    Local,
    /// The result stays in the log.
    Log,
    /// Everybody tells everybody.
    Done,
}

/// What came of an op.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// The contributors, and the least flags of a safe point.
    Success(Set, [u32; 2]),
    /// Somebody was lost without whom it cannot be carried out.
    Loss,
    /// By agreement, since somebody found it late.
    Late,
}

/// Where an op is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// An attempt runs; with the result of that, once it is complete.
    Running(Option<End>),
    /// Waits for a plan, perhaps with a complete result.
    Frozen(Option<End>),
    /// Waits for the result from one that has returned.
    Awaiting,
    /// Has returned; by what it was committed.
    Ended(End, Commit),
}

/// A call that was made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Op {
    /// What it does.
    pub call: Call,
    /// Where it is.
    pub phase: Phase,
    /// It has had an attempt.
    planned: bool,
    /// How the attempt becomes final.
    pub commit: Commit,
    /// Of the attempt.
    pub epoch: Epoch,
    /// In what epoch, and who else has to tell that its result is complete: of the attempt, or of a plan that commits it.
    pub confirms: (Epoch, Set),
    /// Who takes part in the attempt.
    pub contributors: Set,
    /// What it contributes to a safe point.
    pub flags: [u32; 2],
    /// Contributions on their way: the attempt, to whom, and the flags of a safe point.
    pub sent: Vec<(Epoch, Set, [u32; 2])>,
    /// `Done` on its way.
    pub told: Vec<(Epoch, Set)>,
    /// Results for those who lack them.
    pub provided: Vec<(Epoch, Set, End)>,
}

impl Op {
    /// Whether it has returned.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(..))
    }

    fn end(&mut self, end: End, commit: Commit) {
        self.phase = Phase::Ended(end, commit);
        (self.epoch, self.contributors, self.flags) = (Epoch(0), 0, [0; 2]);
        (self.planned, self.commit, self.confirms) = (false, Commit::Local, (Epoch(0), 0));
    }

    /// Tells others, who tell the same, that the complete result is here.
    fn confirm(&mut self, end: End, epoch: Epoch, with: Set) {
        self.phase = Phase::Running(Some(end));
        self.confirms = (epoch, with);
        self.told.push((epoch, with));
    }

    /// The attempt's complete result is here.
    pub fn complete(&mut self, end: End) {
        match self.commit {
            Commit::Done => self.confirm(end, self.epoch, self.contributors),
            commit => self.end(end, commit),
        }
    }

    /// Everybody has told that its result is complete, or a result has come from one that returned.
    pub fn succeed(&mut self, end: End, commit: Commit) {
        self.end(end, commit);
    }
}

/// A group of one generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    /// Which one.
    pub generation: Generation,
    /// Label of its attempts.
    pub epoch: Epoch,
    /// In rank order.
    pub members: Vec<Member>,
    /// Of these, who is known to be lost.
    pub lost: Set,
    /// Calls by the place of their tag, in order.
    pub ops: [Vec<Op>; 2],
    /// Ops below commit by Done.
    recovered_below: [usize; 2],
    /// Ops that plans have ended, also such as have not been started here.
    aborted: [Vec<usize>; 2],
}

impl Group {
    fn new(generation: Generation, epoch: Epoch, members: Vec<Member>, lost: &[MemberId]) -> Group {
        let mut group = Group {
            generation,
            epoch,
            members,
            lost: 0,
            ops: Default::default(),
            recovered_below: [0; 2],
            aborted: Default::default(),
        };
        lost.iter().for_each(|&id| group.lose(id));
        group
    }

    fn lose(&mut self, id: MemberId) {
        self.lost |= self.members.iter().filter(|m| m.0 == id).fold(0, |set, m| set | 1 << m.1);
    }

    /// Members that are there.
    pub fn present(&self) -> Set {
        self.members.iter().fold(0, |set, m| set | 1 << m.1) & !self.lost
    }

    fn formation(&self) -> Formation {
        Formation { group: GroupId(0), generation: self.generation }
    }

    fn op_id(&self, tag: usize, seq: usize) -> OpId {
        self.formation().op(TAGS[tag], Seq(seq as u64))
    }

    /// The loss of its root ends a call.
    fn ends_by_loss(&self, call: Call) -> bool {
        matches!(call, Call::Rooted(root) if self.lost >> root & 1 == 1)
    }

    fn begin(&mut self, tag: usize, seq: usize) {
        let present = self.present();
        let recovered = seq < self.recovered_below[tag];
        let op = &mut self.ops[tag][seq];
        op.commit = match op.call {
            _ if present.count_ones() == 1 => Commit::Local,
            Call::Log | Call::Update if !recovered => Commit::Log,
            _ => Commit::Done,
        };
        (op.phase, op.planned, op.epoch, op.contributors) = (Phase::Running(None), true, self.epoch, present);
        op.sent.push((self.epoch, present, op.flags));
    }

    fn report(&self, tag: usize) -> Option<TagReport> {
        let (ops, aborted) = (&self.ops[tag], &self.aborted[tag]);
        if ops.is_empty() && self.recovered_below[tag] == 0 && aborted.is_empty() {
            return None;
        }
        let all = |is: &dyn Fn(&Op) -> bool| {
            let found = ops.iter().zip(0..).filter(|(op, _)| is(op)).map(|(_, seq)| Seq(seq));
            found.collect::<Vec<Seq>>()
        };
        let returned = Seq(ops.iter().take_while(|op| op.has_ended()).count() as u64);
        let mut returned_ahead = all(&Op::has_ended);
        returned_ahead.retain(|&seq| seq > returned);
        let complete = ops.iter().zip(0..).filter(|(op, _)| matches!(op.phase, Phase::Frozen(Some(_))));
        Some(TagReport {
            formation: self.formation(),
            tag: TAGS[tag],
            started: Seq(ops.len().max(self.recovered_below[tag]) as u64),
            returned,
            returned_ahead,
            failed: all(&|op| matches!(op.phase, Phase::Ended(End::Loss | End::Late, _))),
            complete: complete.map(|(op, seq)| (Seq(seq), op.epoch)).collect(),
            aborted: aborted.iter().map(|&seq| (Seq(seq as u64), late(self.op_id(tag, seq)))).collect(),
            // Calls commit as a whole here, and what a member gives nobody else has.
            ..TagReport::default()
        })
    }
}

/// All ops of a process.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Executor {
    me: usize,
    /// Of the last view or loss that ops froze for.
    pub epoch: Epoch,
    /// It has reported, and waits for a plan.
    pub frozen: bool,
    /// The generation that calls are made in.
    pub generation: Generation,
    /// That generation's, the one's before, and the next one's once its view is armed.
    pub groups: Vec<Group>,
    armed: Option<Epoch>,
    lost: Vec<MemberId>,
}

impl Executor {
    /// Of a process whose first view this is.
    pub fn new(me: usize, generation: Generation, epoch: Epoch, members: Vec<Member>) -> Executor {
        let groups = vec![Group::new(generation, epoch, members, &[])];
        Executor { me, epoch: Epoch(0), frozen: false, generation, groups, armed: None, lost: Vec::new() }
    }

    /// The group of a generation.
    pub fn group(&self, generation: Generation) -> Option<&Group> {
        self.groups.iter().find(|group| group.generation == generation)
    }

    fn current(&mut self) -> &mut Group {
        let generation = self.generation;
        self.groups.iter_mut().find(|group| group.generation == generation).expect("a group to call on")
    }

    /// Every op with its key.
    pub fn ops(&self) -> impl Iterator<Item = (Key, &Group, &Op)> {
        self.groups.iter().flat_map(|group| {
            let tags = group.ops.iter().enumerate();
            tags.flat_map(move |(tag, ops)| {
                ops.iter().enumerate().map(move |(seq, op)| ((group.generation, tag, seq), group, op))
            })
        })
    }

    /// An op that is known to be there.
    pub fn op(&self, (generation, tag, seq): Key) -> Option<&Op> {
        self.group(generation)?.ops[tag].get(seq)
    }

    /// The same, to change it.
    pub fn op_mut(&mut self, (generation, tag, seq): Key) -> Option<&mut Op> {
        self.groups.iter_mut().find(|group| group.generation == generation)?.ops[tag].get_mut(seq)
    }

    /// Ops that plans have ended, as far as is known here.
    pub fn aborted(&self) -> impl Iterator<Item = Key> + '_ {
        self.groups.iter().flat_map(|group| {
            let of_tag =
                move |tag: usize| group.aborted[tag].iter().map(move |&seq| (group.generation, tag, seq));
            (0..2).flat_map(of_tag)
        })
    }

    /// Whether it is known here that a plan has ended an op.
    pub fn knows(&self, key: Key) -> bool {
        self.aborted().any(|known| known == key)
    }

    /// What is said of a call that is late.
    pub fn timeout(&self, (generation, tag, seq): Key) -> Option<FromMember> {
        let Verdict::Timeout { op, collective, waited, culprits } =
            late(self.group(generation)?.op_id(tag, seq))
        else {
            return None;
        };
        let (missing, others, strict) = (Vec::new(), Vec::new(), false);
        Some(FromMember::Timeout { op, collective, waited, culprits, missing, others, strict })
    }

    /// Starts a call in the current generation.
    pub fn start(&mut self, call: Call, flags: [u32; 2]) {
        let frozen = self.frozen;
        let group = self.current();
        let tag = usize::from(call == Call::Update);
        group.ops[tag].push(Op {
            call,
            phase: Phase::Frozen(None),
            planned: false,
            commit: Commit::Local,
            epoch: Epoch(0),
            confirms: (Epoch(0), 0),
            contributors: 0,
            flags,
            sent: Vec::new(),
            told: Vec::new(),
            provided: Vec::new(),
        });
        let seq = group.ops[tag].len() - 1;
        if group.aborted[tag].contains(&seq) {
            return group.ops[tag][seq].end(End::Late, Commit::Local);
        }
        if frozen {
            return;
        }
        match group.ends_by_loss(call) {
            true => group.ops[tag][seq].end(End::Loss, Commit::Local),
            false => group.begin(tag, seq),
        }
    }

    /// Makes room for a link to a process that was not there before.
    pub fn admit(&mut self, id: MemberId) {
        self.lost.retain(|&lost| lost != id);
    }

    /// Ends all attempts and says how far every op is.
    pub fn freeze(&mut self, epoch: Epoch, lost: &[PeerLost]) -> Report {
        self.frozen = true;
        self.epoch = epoch;
        for lost in lost {
            if !self.lost.contains(&lost.member) {
                self.lost.push(lost.member);
            }
            self.groups.iter_mut().for_each(|group| group.lose(lost.member));
        }
        self.lost.sort_unstable();
        for group in &mut self.groups {
            group.epoch = epoch;
            for op in group.ops.iter_mut().flatten() {
                op.confirms = (Epoch(0), 0);
                op.phase = match op.phase {
                    Phase::Running(result) => Phase::Frozen(result),
                    Phase::Awaiting => Phase::Frozen(None),
                    phase => phase,
                };
            }
        }
        let tags = self.groups.iter().flat_map(|group| (0..2).filter_map(|tag| group.report(tag)));
        Report {
            epoch,
            groups: self.groups.iter().map(Group::formation).collect(),
            tags: tags.collect(),
            ..Report::default()
        }
    }

    /// Goes on by the plan.
    pub fn resume(&mut self, plan: &RecoveryPlan) {
        if !std::mem::take(&mut self.frozen) {
            return;
        }
        for &(formation, tag, horizon) in &plan.horizons {
            let at = TAGS.iter().position(|&known| known == tag).expect("a known tag");
            if let Some(group) = self.groups.iter_mut().find(|group| group.formation() == formation) {
                group.recovered_below[at] = group.recovered_below[at].max(horizon.0 as usize);
            }
        }
        for (op, _) in &plan.aborts {
            let at = TAGS.iter().position(|&known| known == op.tag).expect("a known tag");
            let group = self.groups.iter_mut().find(|group| group.formation() == op.formation());
            if let Some(aborted) = group.map(|group| &mut group.aborted[at])
                && !aborted.contains(&(op.seq.0 as usize))
            {
                aborted.push(op.seq.0 as usize);
            }
        }
        for at in 0..self.groups.len() {
            for tag in 0..2 {
                for seq in 0..self.groups[at].ops[tag].len() {
                    self.go_on(at, tag, seq, plan);
                }
            }
        }
    }

    fn go_on(&mut self, at: usize, tag: usize, seq: usize, plan: &RecoveryPlan) {
        let me = self.me;
        let group = &mut self.groups[at];
        let commit = plan.commit(group.formation(), TAGS[tag], Seq(seq as u64));
        let lost = group.ends_by_loss(group.ops[tag][seq].call);
        let ends = plan.abort(&group.op_id(tag, seq)).is_some();
        let process = |id: &MemberId| group.members.iter().find(|m| m.0 == *id).map(|m| m.1);
        let (members, epoch) = (&group.members, group.epoch);
        let op = &mut group.ops[tag][seq];
        match (op.phase, commit) {
            (Phase::Frozen(_), _) if ends => op.end(End::Late, Commit::Local),
            (Phase::Ended(end @ End::Success(..), Commit::Log), Some(commit)) => {
                let provider = commit.provider.and_then(|id| members.iter().find(|m| m.0 == id));
                let to = commit.receivers.iter().filter_map(process).fold(0, |set, p| set | 1 << p);
                if provider.is_some_and(|m| m.1 == me) && to != 0 {
                    op.provided.push((epoch, to, end));
                }
            }
            // What they hold is known to be one result, but not that all have made the same call.
            (Phase::Frozen(Some(end)), Some(commit)) => {
                let holders = commit.holders.iter().filter_map(process).fold(0, |set, p| set | 1 << p);
                op.confirm(end, epoch, holders);
            }
            (Phase::Frozen(None), Some(_)) if op.planned && op.commit == Commit::Log => {
                op.phase = Phase::Awaiting;
            }
            (Phase::Frozen(_), _) if lost => op.end(End::Loss, Commit::Local),
            (Phase::Frozen(_), _) => group.begin(tag, seq),
            _ => {}
        }
    }

    /// A view waits for the next safe point: its group is there from now on. False if one waits already.
    pub fn arm(&mut self, epoch: Epoch, members: Vec<Member>) -> bool {
        let next = Generation(self.generation.0 + 1);
        if self.armed.is_some() || self.group(next).is_some() {
            return false;
        }
        self.armed = Some(epoch);
        let group = Group::new(next, epoch.max(self.epoch), members, &self.lost);
        self.groups.push(group);
        true
    }

    /// Passes the safe point.
    pub fn enter(&mut self) {
        let Some(epoch) = self.armed.take() else { return };
        let before = self.generation;
        self.groups.retain(|group| group.generation >= before);
        self.generation = Generation(before.0 + 1);
        self.epoch = self.epoch.max(epoch);
    }

    /// The process has ended: what it has sent and returned still matters.
    pub fn bury(&mut self) {
        (self.epoch, self.frozen, self.armed) = (Epoch(0), false, None);
        self.lost.clear();
        for group in &mut self.groups {
            (group.epoch, group.lost, group.recovered_below) = (Epoch(0), 0, [0; 2]);
            group.aborted = Default::default();
            for op in group.ops.iter_mut().flatten().filter(|op| !op.has_ended()) {
                op.end(End::Loss, Commit::Local);
                op.phase = Phase::Frozen(None);
            }
        }
    }

    /// There are frames that nobody can take any more.
    pub fn has_frames_but(&self, is_wanted: &dyn Fn(Key, Epoch, usize) -> bool) -> bool {
        self.ops().any(|(key, _, op)| {
            let unwanted = |epoch: Epoch, set: Set| !each(set).any(|p| is_wanted(key, epoch, p));
            op.sent.iter().any(|s| unwanted(s.0, s.1))
                || op.told.iter().any(|s| unwanted(s.0, s.1))
                || op.provided.iter().any(|s| unwanted(s.0, s.1))
        })
    }

    /// Drops them.
    pub fn drop_frames(&mut self, is_wanted: &dyn Fn(Key, Epoch, usize) -> bool) {
        for group in &mut self.groups {
            let generation = group.generation;
            for (tag, ops) in group.ops.iter_mut().enumerate() {
                for (seq, op) in ops.iter_mut().enumerate() {
                    let wanted = |epoch: Epoch, set: Set| {
                        each(set).any(|p| is_wanted((generation, tag, seq), epoch, p))
                    };
                    op.sent.retain(|&(epoch, set, _)| wanted(epoch, set));
                    op.told.retain(|&(epoch, set)| wanted(epoch, set));
                    op.provided.retain(|&(epoch, set, _)| wanted(epoch, set));
                }
            }
        }
    }
}
