//! One op: its plan's windows, and who has entered it. How it is tried again stands in [`attempt`], how it ends in
//! [`commit`].

mod attempt;
mod backup;
mod blocks;
mod commit;
mod digest;
mod holes;
mod sealed;
mod windowed;

use super::commit_group::CommitGroupId;
use super::cookie::Cookie;
use super::early::charge;
use super::executor::{Limits, Shared};
use super::group::GroupIndex;
use super::mismatch::told_taken;
use super::slots::SlotPool;
use super::window::Running;
use super::{Descriptor, Links};
use crate::call::Call;
use crate::error::Outcome;
use crate::failpoint::{self, Point};
use crate::frame::{FrameKind, Header};
use crate::memory::{Access, Segment};
use crate::plan::{Action, Place, Plan, Span, StepId};
use crate::reduce::{Kernels, ReduceSpec, Reduction};
use crate::transport::Submit;
use crate::{Epoch, Instant, OpId, Result};
use backup::Backup;
pub(crate) use commit::Commit;
pub use digest::{Digests, Divergence};
use std::time::Duration;
use windowed::Windowed;

static NOTHING: Segment = Segment::EMPTY;

#[derive(Debug)]
pub(crate) enum Phase {
    Free,
    Running,
    /// Calls disagree: waits for the coordinator's verdict.
    Stalled,
    /// A peer was lost: waits for the plan of recovery.
    Frozen,
    /// Waits for the result from a survivor that has returned.
    Awaiting,
    Ended(Result<Outcome>),
}

/// State of one op. Reused from op to op, so that its vectors keep their memory.
pub(crate) struct OpState<P> {
    pub(crate) life: u8,
    pub(crate) phase: Phase,
    pub(crate) group: GroupIndex,
    pub(crate) id: OpId,
    /// The link of the other side, for a send or receive.
    pub(crate) pair: Option<usize>,
    pub(crate) receives: bool,
    pub(crate) descriptor: Descriptor,
    pub(crate) header: Header,
    pub(crate) call: Option<Call>,
    /// This op's plan or, once it has ended, still the last one's.
    plan: Option<P>,
    /// The root of the call, if it was lost and another sends what it had sent.
    pub(crate) lost_root: Option<u32>,
    /// The link to who sends the result that is awaited.
    pub(crate) provider: Option<usize>,
    /// All that a broadcast brings is here.
    holds_data: bool,
    /// Of a gather, by group rank: its block has come whole.
    whole_blocks: Vec<bool>,
    /// Counts plans that differed from the one before.
    plan_number: u64,
    /// This op has a plan: one that starts after a report gets it with the plan of recovery.
    planned: bool,
    /// What the plan says of itself.
    windows: u32,
    in_flight: usize,
    /// Of the algorithm's name and, where all ranks have as many, of the number of windows.
    algorithm: u32,
    pub(crate) commit: Commit,
    pub(crate) started: Instant,
    pub(crate) deadline: Instant,
    /// Counts attempts, so that what a link says of an earlier one is not taken for this one's.
    pub(crate) attempt: u8,
    /// Members whose contributions make up the result.
    contributors: u32,
    /// Ranks that were lost before this attempt began.
    absent: Vec<u32>,
    pub(crate) interruptions: u32,
    pub(crate) interrupted_after: Duration,
    pub(crate) interrupted_for: Duration,
    backup: Backup,
    windowed: Windowed,
    /// Windows that were complete, from the first on, when the attempt ended.
    frozen_at: u32,
    next_window: u32,
    finished_windows: u32,
    #[expect(clippy::vec_box, reason = "large, and they move between these two in every op")]
    pub(crate) open: Vec<Box<Running>>,
    #[expect(clippy::vec_box, reason = "as above")]
    spare: Vec<Box<Running>>,
    /// Of uneven calls, by group rank: data comes from it in windows below this one, of those opened so far.
    pub(crate) expected: Vec<u32>,
    /// By group rank: a frame of this op has come from it.
    pub(crate) entered: Vec<bool>,
    /// By group rank: bytes sent before it was known to have entered.
    pub(crate) eager: Vec<usize>,
    asked: Vec<bool>,
    /// By group rank: windows below this may be sent there; empty while nobody said so.
    window_limits: Vec<u32>,
    /// What this rank has said of itself.
    window_limit: u32,
    pub(crate) enter_to: Vec<u32>,
    /// By group rank: it is told Done.
    done_to: Vec<bool>,
    pub(crate) done_from: Vec<bool>,
    pub(crate) done_missing: u32,
    done_next: u32,
    /// What this rank's input weighs in a weighted average.
    pub(crate) own_weight: Option<f64>,
    /// What the result weighs.
    pub(crate) weight: Option<f64>,
    /// Of the complete result, once others are told of it.
    digest: Option<u64>,
    /// What others said of theirs, by group rank; empty while nobody did.
    digests: Vec<u64>,
    /// Another makes another call: that was said, or the coordinator heard.
    pub(crate) disagrees: bool,
    /// The epoch of the attempt that gives the result. Frames name a later one where the plan of recovery has committed it.
    pub(crate) given_in: Epoch,
    /// `returned_through` counts this op.
    counted: bool,
    /// The commit group that it is a call of, or the seal.
    pub(crate) commit_group: Option<CommitGroupId>,
    pub(crate) seals: bool,
    /// In a commit group: it is complete here; for the seal, everything is.
    pub(crate) is_ready: bool,
    /// It must not return before a plan says whether it ends.
    pub(crate) is_withheld: bool,
    /// How long it may take.
    pub(crate) patience: Duration,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    sources: Vec<Segment>,
}

impl<P: Plan> OpState<P> {
    pub(crate) fn new() -> OpState<P> {
        OpState {
            life: 0,
            phase: Phase::Free,
            group: GroupIndex(0),
            id: Header::EMPTY.op,
            pair: None,
            receives: false,
            descriptor: Descriptor::of(&Call::EMPTY, (0, 0), Commit::Local),
            header: Header::EMPTY,
            call: None,
            plan: None,
            lost_root: None,
            provider: None,
            holds_data: false,
            whole_blocks: Vec::new(),
            plan_number: 0,
            planned: false,
            windows: 0,
            in_flight: 1,
            algorithm: 0,
            commit: Commit::Local,
            started: Instant(0),
            deadline: Instant(0),
            attempt: 0,
            contributors: 0,
            absent: Vec::new(),
            interruptions: 0,
            interrupted_after: Duration::ZERO,
            interrupted_for: Duration::ZERO,
            backup: Backup::default(),
            windowed: Windowed::default(),
            frozen_at: 0,
            next_window: 0,
            finished_windows: 0,
            open: Vec::new(),
            spare: Vec::new(),
            expected: Vec::new(),
            entered: Vec::new(),
            eager: Vec::new(),
            asked: Vec::new(),
            window_limits: Vec::new(),
            window_limit: 0,
            enter_to: Vec::new(),
            done_to: Vec::new(),
            done_from: Vec::new(),
            done_missing: 0,
            done_next: 0,
            own_weight: None,
            weight: None,
            digest: None,
            digests: Vec::new(),
            disagrees: false,
            given_in: Epoch(0),
            counted: false,
            commit_group: None,
            seals: false,
            is_ready: false,
            is_withheld: false,
            patience: Duration::ZERO,
            sent_bytes: 0,
            received_bytes: 0,
            sources: Vec::new(),
        }
    }

    /// Opens windows up to the plan's number in flight.
    pub(crate) fn open_windows(&mut self, pool: &mut SlotPool) {
        while self.open.len() < self.in_flight && self.next_window < self.windows {
            self.open_next(pool);
        }
    }

    /// Sets the plan of the op that starts.
    pub(crate) fn set_plan(&mut self, plan: P) {
        self.planned = true;
        if self.plan.as_ref() != Some(&plan) {
            self.plan_number += 1;
            self.windows = plan.windows();
            self.in_flight = plan.windows_in_flight().max(1) as usize;
            self.algorithm =
                plan.name().bytes().fold(0, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(byte));
            self.plan = Some(plan);
        }
    }

    /// What the plans of all ranks have in common.
    pub(crate) fn plan_digest(&self) -> (u32, u32) {
        (self.algorithm, self.windows)
    }

    fn open_next(&mut self, pool: &mut SlotPool) {
        let index = self.next_window;
        let loaded = self.spare.iter().position(|spare| spare.has(self.plan_number, index));
        let mut running = match loaded {
            Some(at) => self.spare.swap_remove(at),
            None => self.spare.pop().unwrap_or_default(),
        };
        if let (Some(plan), None) = (&self.plan, loaded) {
            running.load(plan, self.plan_number, index);
        }
        running.restart();
        if let Some(call) = &self.call {
            self.backup.save(&running, call, pool);
        }
        if self.commit == Commit::Window {
            self.windowed.opened(&running);
        }
        if self.descriptor.is_uneven() {
            self.note_expected(&running);
        }
        self.next_window += 1;
        self.open.push(running);
        failpoint::reach(Point::WindowOpened, &self.id, index);
    }

    fn note_expected(&mut self, window: &Running) {
        self.expected.resize(self.entered.len(), 0);
        for step in &window.plan.steps {
            if let Action::Recv { from, .. } = step.action {
                self.expected[from as usize] = window.index + 1;
            }
        }
    }

    /// Whether a window that was opened has data from a rank.
    pub(crate) fn expects(&self, from: usize, window: u32) -> bool {
        self.expected.get(from).is_some_and(|&windows| window < windows)
    }

    /// Number of windows.
    pub(crate) fn windows(&self) -> u32 {
        self.windows
    }

    /// Whether a window was opened before, and may have ended.
    pub(crate) fn is_past(&self, index: u32) -> bool {
        index < self.next_window
    }

    /// The open window with this index; a peer that is ahead makes this side open it now.
    pub(crate) fn window(&mut self, index: u32, shared: &mut Shared) -> Option<usize> {
        while self.next_window <= index
            && index < self.windows
            && self.open.len() < shared.limits.open_windows
        {
            self.open_next(&mut shared.pool);
        }
        self.open.iter().position(|w| w.index == index)
    }

    /// Notes who must be told that this side has entered: peers that may send more than the eager
    /// bytes and hear nothing else from this side first.
    pub(crate) fn plan_entry(&mut self, limits: &Limits) {
        let windows = self.windows as usize;
        let Some(first) = self.open.first() else { return };
        for step in &first.plan.steps {
            let Action::Recv { from, dst, .. } = &step.action else { continue };
            if charge(dst.len) * windows <= limits.eager_bytes {
                continue;
            }
            let speaks_first =
                first.plan.steps.iter().any(|s| {
                    matches!(&s.action, Action::Send { to, .. } if to == from) && s.after.is_empty()
                });
            if !speaks_first && !self.enter_to.contains(from) {
                self.enter_to.push(*from);
            }
        }
    }

    /// Runs every step whose turn has come. Returns true if anything moved.
    pub(crate) fn run(
        &mut self,
        at: usize,
        shared: &mut Shared,
        links: &mut Links,
        kernels: &dyn Kernels,
    ) -> bool {
        if !matches!(self.phase, Phase::Running) {
            return false;
        }
        let mut moved = self.send_entries(shared, links);
        let mut i = 0;
        while i < self.open.len() {
            moved |= self.run_window(i, at, shared, links, kernels);
            if self.open[i].is_finished() {
                self.close_window(i, shared);
                moved = true;
            } else {
                i += 1;
            }
        }
        if self.commit == Commit::Window {
            moved |= self.commit_windows(shared, links);
        } else if self.finished_windows == self.windows && (!self.seals || self.may_seal(shared)) {
            moved |= self.try_commit(shared, links);
        }
        moved
    }

    fn run_window(
        &mut self,
        i: usize,
        at: usize,
        shared: &mut Shared,
        links: &mut Links,
        kernels: &dyn Kernels,
    ) -> bool {
        let mut moved = false;
        let mut next = 0;
        while next < self.open[i].ready.len() {
            let step = self.open[i].ready[next];
            if self.run_step(i, step, at, shared, links, kernels) {
                self.open[i].ready.remove(next);
                moved = true;
            } else {
                next += 1;
            }
        }
        moved
    }

    /// Runs a ready step; false if it has to wait for its link.
    fn run_step(
        &mut self,
        i: usize,
        step: StepId,
        at: usize,
        shared: &mut Shared,
        links: &mut Links,
        kernels: &dyn Kernels,
    ) -> bool {
        match self.open[i].plan.steps[step as usize].action.clone() {
            Action::Send { to, src, label } => {
                let payload = self.source(i, src);
                let weight = self.own_weight.map(|own| self.open[i].weight_of(src, own));
                match self.send(i, step, (to, label, weight), payload, at, shared, links) {
                    Submit::Full => return false,
                    Submit::Pending => return true,
                    Submit::Sent => {}
                }
            }
            Action::Copy { src, dst } => {
                self.open[i].ensure_slots(&mut shared.pool);
                let (from, to) = (self.source(i, src), self.memory(i, dst));
                from.copy_to(&to);
                if let Some(own) = self.own_weight {
                    let weight = self.open[i].weight_of(src, own);
                    self.open[i].note_weight(dst, weight);
                }
            }
            Action::Reduce { srcs, dst, finish } => {
                self.open[i].ensure_slots(&mut shared.pool);
                self.reduce(i, srcs, dst, finish, shared, kernels);
                failpoint::reach(Point::Reduced, &self.id, self.open[i].index);
            }
            Action::Recv { .. } => return true,
        }
        if let Some(link) = self.open[i].viewed_links().find(|&link| !shared.is_sound(link, links)) {
            // What was read may be anything: the op must not end well.
            self.phase = Phase::Stalled;
            shared.revoked.push(link);
            return true;
        }
        self.open[i].finish(step, |link, token, len| shared.release(link, token, len));
        true
    }

    fn segments(&self) -> (&Segment, &Segment) {
        match &self.call {
            Some(call) => (&call.input, &call.output),
            None => (&NOTHING, &NOTHING),
        }
    }

    fn source(&self, i: usize, span: Span) -> Segment {
        let (input, output) = self.segments();
        self.open[i].source(span, input, output)
    }

    fn memory(&self, i: usize, span: Span) -> Segment {
        let (input, output) = self.segments();
        self.open[i].memory(span, input, output)
    }

    fn reduce(
        &mut self,
        i: usize,
        srcs: std::ops::Range<u32>,
        dst: Span,
        finish: bool,
        shared: &Shared,
        kernels: &dyn Kernels,
    ) {
        let mut divisor = f64::from(self.contributors);
        if let Some(own) = self.own_weight {
            let window = &mut self.open[i];
            let spans = &window.plan.sources[srcs.start as usize..srcs.end as usize];
            divisor = spans.iter().map(|&span| window.weight_of(span, own)).sum();
            window.note_weight(dst, divisor);
        }
        let mut sources = std::mem::take(&mut self.sources);
        for at in srcs {
            let span = self.open[i].plan.sources[at as usize];
            sources.push(self.source(i, span));
        }
        let to = self.memory(i, dst);
        let Some(call) = &self.call else { return };
        let builtin = Reduction::Builtin(crate::ReduceOp::Sum);
        let spec = ReduceSpec {
            dtype: call.dtype,
            reduction: call.reduction.as_ref().unwrap_or(&builtin),
            finish: finish.then_some(divisor),
            streaming: dst.place == Place::Output
                && call.output.len() >= shared.limits.streaming_bytes
                && !call.input.overlaps(&call.output),
        };
        kernels.reduce(&spec, &sources, &to);
        sources.clear();
        self.sources = sources;
    }

    #[allow(clippy::too_many_arguments)]
    fn send(
        &mut self,
        i: usize,
        step: StepId,
        (to, label, weight): (u32, u16, Option<f64>),
        payload: Segment,
        at: usize,
        shared: &mut Shared,
        links: &mut Links,
    ) -> Submit {
        let rank = to as usize;
        let link_at = shared.groups[self.group.0].members[rank];
        if self.open[i].index >= self.window_limit_of(rank, &shared.limits)
            || !self.may_send(rank, charge(payload.len()), link_at, shared, links)
        {
            return Submit::Full;
        }
        let Some(link) = links[link_at].as_mut() else { return Submit::Full };
        let mut header = self.header;
        header.kind = FrameKind::Data;
        header.window = self.open[i].index;
        header.label = label;
        header.payload_len = payload.len() as u32;
        if self.pair.is_none() {
            (header.returned_through, header.digest) = shared.groups[self.group.0].last_returned(self.id.tag);
        }
        if let Some(weight) = weight {
            (header.weighed, header.digest) = (true, weight.to_bits());
        }
        let cookie = Cookie { op: at, attempt: self.attempt, window: header.window, step }.pack();
        let answer = link.submit(&header, &payload, cookie);
        if answer != Submit::Full {
            self.sent_bytes += payload.len() as u64;
            self.count_early(rank, link_at, charge(payload.len()), shared);
        }
        if answer == Submit::Pending {
            self.open[i].sending(step);
        }
        if answer != Submit::Full {
            failpoint::reach(Point::Sent, &self.id, header.window);
        }
        answer
    }

    /// Asks those that it waits for, once each, how they call it.
    pub(crate) fn ask_the_missing(&mut self, shared: &mut Shared, links: &mut Links) {
        for rank in self.missing().into_iter().map(|rank| rank as usize) {
            // What is known of those who have entered an even call is that they make the same.
            if !self.asked[rank] && (!self.entered[rank] || self.descriptor.is_uneven()) {
                self.asked[rank] = self.control(FrameKind::EnterRequest, rank, shared, links);
            }
        }
    }

    /// Flow control: beyond the eager bytes only to those who have entered.
    fn may_send(
        &mut self,
        rank: usize,
        cost: usize,
        link: usize,
        shared: &mut Shared,
        links: &mut Links,
    ) -> bool {
        if self.entered[rank] {
            return true;
        }
        let limits = &shared.limits;
        let unentered = shared.unentered[link] + cost;
        let most = limits.unentered_bytes.min(limits.early_bytes / 2);
        let may = self.eager[rank] + cost <= limits.eager_bytes && unentered <= most;
        // Asks before it must: what the peer has entered meanwhile comes off the account with its answer.
        let early = unentered > most / 2 && !shared.asking[link];
        if (!may || early) && !self.asked[rank] {
            self.asked[rank] = self.control(FrameKind::EnterRequest, rank, shared, links);
            shared.asking[link] = self.asked[rank];
        }
        may
    }

    /// A frame may come before its receiver has entered: it counts until that is known.
    fn count_early(&mut self, rank: usize, link: usize, cost: usize, shared: &mut Shared) {
        if !self.entered[rank] {
            self.eager[rank] += cost;
            shared.unentered[link] += cost;
        }
    }

    /// Windows below this may be sent to a rank.
    fn window_limit_of(&self, rank: usize, limits: &Limits) -> u32 {
        self.window_limits.get(rank).copied().unwrap_or(0).max(limits.open_windows as u32)
    }

    /// A rank says how many windows it takes.
    pub(crate) fn allow_windows(&mut self, rank: usize, limit: u32) {
        if limit > 0 {
            self.window_limits.resize(self.entered.len(), 0);
            self.window_limits[rank] = self.window_limits[rank].max(limit);
        }
    }

    /// Tells those who send to this rank that they may go on, where ops have more windows than may be
    /// open at one time. Links do not deliver in order, so one lost for want of room would be lost for good.
    fn move_window_limit(&mut self, limits: &Limits, me: usize, lost: impl Fn(usize) -> bool) {
        let most = limits.open_windows as u32;
        if self.windows <= most {
            return;
        }
        let oldest = self.open.iter().map(|window| window.index).min().unwrap_or(self.next_window);
        if oldest + most < self.window_limit.max(most) + most.div_ceil(2) {
            return;
        }
        self.window_limit = oldest + most;
        // Any of them may send in some window, also those that do not in others.
        self.enter_to.clear();
        let ranks =
            (0..self.entered.len() as u32).filter(|&rank| rank as usize != me && !lost(rank as usize));
        match &self.call {
            Some(call) if self.pair.is_some() => self.enter_to.push(call.peer),
            _ => self.enter_to.extend(ranks),
        }
    }

    /// Sends a frame without payload; false if it has to wait.
    pub(crate) fn control(
        &mut self,
        kind: FrameKind,
        rank: usize,
        shared: &mut Shared,
        links: &mut Links,
    ) -> bool {
        let link = shared.groups[self.group.0].members[rank];
        if !self.entered[rank] && shared.unentered[link] + charge(0) > shared.limits.early_bytes {
            return false;
        }
        let mut header = self.header;
        header.kind = kind;
        header.window = match kind {
            FrameKind::Enter => self.window_limit,
            FrameKind::Done if self.commit == Commit::Window => self.held_windows(),
            _ => 0,
        };
        let tells_blocks = matches!(kind, FrameKind::Done | FrameKind::EnterRequest);
        if tells_blocks && self.descriptor.is_uneven() {
            let (sent, taken) = self.blocks_with(rank, shared.groups[self.group.0].me);
            (header.digest, header.window) = (sent, told_taken(taken));
        } else if kind == FrameKind::Done && self.is_complete() {
            header.digest = match self.digest {
                Some(digest) => digest,
                None => *self.digest.insert(self.digest_of_result(shared)),
            };
        }
        header.returned_through = shared.returned_through(self.group, self.id.tag);
        let sent = shared.submit_control(link, &header, &Segment::EMPTY, links);
        if sent {
            self.count_early(rank, link, charge(0), shared);
        }
        sent
    }

    fn send_entries(&mut self, shared: &mut Shared, links: &mut Links) -> bool {
        let mut moved = false;
        while let Some(&rank) = self.enter_to.last() {
            if !self.control(FrameKind::Enter, rank as usize, shared, links) {
                break;
            }
            self.enter_to.pop();
            moved = true;
        }
        moved
    }

    fn close_window(&mut self, i: usize, shared: &mut Shared) {
        let mut window = self.open.remove(i);
        if self.own_weight.is_some() && window.index == 0 {
            self.weight = window.weight_of_output();
        }
        window.unload(&mut shared.pool, |link, token, len| {
            shared.held_views[link] -= len;
            shared.releases.push((link, token));
        });
        failpoint::reach(Point::WindowFinished, &self.id, window.index);
        self.spare.push(window);
        self.finished_windows += 1;
        self.open_windows(&mut shared.pool);
        let group = &shared.groups[self.group.0];
        self.move_window_limit(&shared.limits, group.me, |rank| group.is_lost(rank));
    }

    /// The other side is known to have entered.
    pub(crate) fn note_entered(&mut self, rank: usize, link: usize, shared: &mut Shared) {
        if !self.entered[rank] {
            self.entered[rank] = true;
            shared.unentered[link] -= self.eager[rank];
        }
    }

    /// The number in the job of a rank of the op's group.
    pub(crate) fn member(&self, rank: u32, shared: &Shared) -> crate::MemberId {
        crate::MemberId(shared.groups[self.group.0].members[rank as usize] as u32)
    }

    /// Ranks that hold the op up, ascending.
    pub(crate) fn missing(&self) -> Vec<u32> {
        let mut ranks: Vec<u32> = self.open.iter().flat_map(|window| window.waits_on()).collect();
        if self.commit == Commit::Window && self.open.is_empty() {
            ranks.extend(self.windowed.missing(self.windows));
        }
        if self.open.is_empty() && self.commit == Commit::Done {
            ranks.extend((0..self.done_from.len()).filter(|&r| !self.done_from[r]).map(|r| r as u32));
        }
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// The first window that is not complete, and how many there are.
    pub(crate) fn oldest_window(&self) -> Option<(u32, u32)> {
        let oldest = self.open.iter().map(|window| window.index).min();
        oldest.map(|index| (index, self.windows))
    }

    /// Charge of frames whose receivers are not known to have entered, by rank.
    pub(crate) fn unentered(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let ranks = self.eager.iter().zip(&self.entered).enumerate();
        ranks
            .filter(|(_, (bytes, entered))| **bytes > 0 && !**entered)
            .map(|(rank, (bytes, _))| (rank, *bytes))
    }

    /// A receive that runs, and to which nothing has come.
    pub(crate) fn has_received_nothing(&self) -> bool {
        let untouched =
            self.finished_windows == 0 && self.open.iter().all(|window| window.has_received_nothing());
        self.receives && matches!(self.phase, Phase::Running) && untouched
    }

    /// It was started and has not ended.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Free | Phase::Ended(_))
    }
}

/// Eager bytes of an op that ended before its receiver was heard of.
pub(crate) struct Owed {
    pub(crate) op: OpId,
    pub(crate) pair: Option<usize>,
    pub(crate) one_attempt: bool,
    pub(crate) link: usize,
    pub(crate) bytes: usize,
}
