//! What links bring: frames find their op, window and step.

use super::cookie::Cookie;
use super::early::Early;
use super::executor::{Executor, Shared};
use super::group::{GroupIndex, has_ended_by_loss};
use super::op::{Commit, OpState, Phase};
use super::window::Landing;
use crate::failpoint::{self, Point};
use crate::frame::{FrameKind, Header};
use crate::memory::{Access, Segment};
use crate::plan::{Plan, StepId};
use crate::planted::{self, Bug};
use crate::transport::{Payload, Placement, Receiver, ViewToken};
use crate::{OpId, Seq, Tag};

/// True for a frame of a message that is for its sender: all others are for its receiver.
pub(super) fn for_sender(header: &Header) -> bool {
    header.kind == FrameKind::Enter || header.kind == FrameKind::Mismatch && header.label == TO_SENDER
}

/// Label of a Mismatch that is for the sender of a message.
pub(super) const TO_SENDER: u16 = 1;

/// What a peer did that ignores flow control.
const TOO_EARLY: &str = "more for calls not yet made here than flow control allows";

/// Where a data frame belongs.
struct Target {
    op: usize,
    window: usize,
    step: StepId,
}

impl<P: Plan> Receiver for Executor<P> {
    fn place(&mut self, link: usize, header: &Header) -> Placement {
        if self.is_of_another_attempt(header) {
            return Placement::Discard;
        }
        match header.kind {
            FrameKind::Result => self.place_result(link, header),
            FrameKind::Data => self.place_data(link, header),
            FrameKind::Mismatch => match header.payload_len as usize {
                super::descriptor::DESCRIPTOR_BYTES => {
                    Placement::Into(self.scratch[link].segment(0, header.payload_len as usize))
                }
                _ => Placement::Refuse("a descriptor of the wrong size"),
            },
            _ if header.payload_len == 0 => Placement::Into(Segment::empty()),
            _ => Placement::Refuse("a control frame with a payload"),
        }
    }

    fn arrived(&mut self, link: usize, header: &Header, payload: Payload) -> bool {
        self.note_returned(link, header);
        if self.is_of_another_attempt(header) {
            return false;
        }
        if header.kind == FrameKind::Result {
            self.result_arrived(link, header, payload);
            return false;
        }
        if header.kind != FrameKind::Data {
            let bytes = match &payload {
                Payload::Placed => {
                    let scratch = &self.scratch[link];
                    scratch.segment(0, scratch.len().min(header.payload_len as usize))
                }
                Payload::View(segment, _) => segment.clone(),
            };
            self.control_frame(link, header, &bytes);
            return false;
        }
        match payload {
            Payload::Placed => {
                self.placed(link, header);
                false
            }
            Payload::View(segment, token) => self.viewed(link, header, segment, token),
        }
    }

    fn give_up_views(&mut self, link: usize) {
        let Shared { pool, held_views, releases, .. } = &mut self.shared;
        for &at in &self.active {
            for window in &mut self.ops[at].open {
                window.give_up_views(link, pool, |link, token, len| {
                    held_views[link] -= len;
                    releases.push((link, token));
                });
            }
        }
    }

    fn sent(&mut self, _link: usize, cookie: u64) {
        if cookie == u64::MAX {
            return;
        }
        let cookie = Cookie::unpack(cookie);
        let Some(op) = self.ops.get_mut(cookie.op) else { return };
        if op.attempt != cookie.attempt || !matches!(op.phase, Phase::Running | Phase::Stalled) {
            return;
        }
        let shared = &mut self.shared;
        if let Some(window) = op.open.iter_mut().find(|w| cookie.names_window(w.index))
            && window.is_sending(cookie.step)
        {
            window.finish(cookie.step, |link, token, len| shared.release(link, token, len));
        }
    }
}

impl<P: Plan> Executor<P> {
    pub(super) fn group_of(&self, op: &OpId) -> Option<GroupIndex> {
        self.shared.groups.iter().position(|g| g.formation == op.formation()).map(GroupIndex)
    }

    /// A frame of an attempt that has ended, or of a view that this peer is not in yet.
    fn is_of_another_attempt(&self, header: &Header) -> bool {
        if header.ends_with_a_loss() {
            return has_ended_by_loss(&self.shared.groups, header);
        }
        if !header.is_of_attempt() || planted::has(Bug::FramesOfOldAttemptsAreTaken) {
            return false;
        }
        // Of a group that only others have made so far, the epoch of the last loss says as much.
        let current = match self.group_of(&header.op) {
            Some(group) => self.shared.groups[group.0].epoch,
            None => self.epoch,
        };
        current != crate::Epoch(0) && current.0 as u32 as u64 != header.epoch.0
    }

    /// The open op that a frame belongs to. What comes for one that is frozen waits for it to start again.
    pub(super) fn find(&self, link: usize, header: &Header) -> Option<usize> {
        self.active.iter().copied().find(|&at| {
            let op = &self.ops[at];
            op.id == header.op
                && (!matches!(op.phase, Phase::Frozen) || planted::has(Bug::FrozenOpsTakeFrames))
                && match op.pair {
                    None => !header.point_to_point,
                    Some(peer) => header.point_to_point && peer == link && op.receives != for_sender(header),
                }
        })
    }

    /// The sender's rank in the op's group, if it is a member and the frame is of this attempt, or of an op that
    /// has but one.
    fn sender(&self, at: usize, link: usize, header: &Header) -> Option<usize> {
        let group = &self.shared.groups[self.ops[at].group.0];
        let one_attempt = header.point_to_point || header.one_attempt;
        let current = one_attempt || group.epoch.0 as u32 as u64 == header.epoch.0;
        (current || planted::has(Bug::FramesOfOldAttemptsAreTaken)).then(|| group.rank_of(link)).flatten()
    }

    /// The rank from which something of a message with this tag has come, for which no receive has been started here: of several
    /// the one that came first.
    pub fn probe(&self, group: GroupIndex, tag: Tag) -> Option<usize> {
        let group = &self.shared.groups[group.0];
        let is_one = |link: usize, header: &Header| {
            let for_here = header.point_to_point && !for_sender(header);
            for_here
                && (header.op.formation(), header.op.tag) == (group.formation, tag)
                && group.rank_of(link).is_some()
        };
        self.early.first(is_one).and_then(|link| group.rank_of(link))
    }

    fn place_data(&mut self, link: usize, header: &Header) -> Placement {
        let Some(at) = self.find(link, header) else { return self.place_early(link, header) };
        let Some(target) = self.target(at, link, header) else { return Placement::Discard };
        let shared = &mut self.shared;
        let op = &mut self.ops[target.op];
        let Some(call) = &op.call else { return Placement::Discard };
        let window = &mut op.open[target.window];
        match window.landing(
            target.step,
            header.payload_len as usize,
            &call.input,
            &call.output,
            &mut shared.pool,
        ) {
            Landing::At(memory) => {
                window.start_placing(target.step);
                Placement::Into(memory)
            }
            Landing::Unexpected => Placement::Discard,
            Landing::Length(expected) => {
                self.wrong_length(at, link, header, expected);
                Placement::Discard
            }
        }
    }

    pub(super) fn place_early(&mut self, link: usize, header: &Header) -> Placement {
        if self.is_stale(link, header) {
            self.settle(link, header);
            self.check_late_data(link, header);
            return Placement::Discard;
        }
        let budget = self.shared.limits.early_bytes;
        match self.early.admit(link, header, budget, &mut self.shared.pool) {
            Some(memory) => Placement::Into(memory),
            None => Placement::Refuse(TOO_EARLY),
        }
    }

    /// True for a frame of an op that was started here before and has ended.
    fn is_stale(&mut self, link: usize, header: &Header) -> bool {
        let Some(group) = self.group_of(&header.op) else {
            // Of a group that only others have made so far, or of one that all are done with.
            return header.op.generation < self.generation;
        };
        let waits = |op: &OpState<P>| op.pair.is_none() && op.id == header.op;
        if self.is_frozen() && !header.point_to_point && self.active.iter().any(|&at| waits(&self.ops[at])) {
            return false;
        }
        let state = &mut self.shared.groups[group.0];
        match state.rank_of(link) {
            // Not a member: nothing of it can ever be wanted.
            None => true,
            Some(rank) => {
                state.was_started(rank, &header.op, header.point_to_point.then(|| for_sender(header)))
            }
        }
    }

    /// The step of an open op that a data frame is for; notes that the sender has entered.
    fn target(&mut self, at: usize, link: usize, header: &Header) -> Option<Target> {
        let from = self.sender(at, link, header)?;
        let op = &mut self.ops[at];
        op.note_entered(from, link, &mut self.shared);
        if header.fingerprint != op.header.fingerprint {
            self.tell_mismatch(at, from);
            return None;
        }
        op.note_epoch_of_peer(header);
        let is_beyond = header.window >= op.windows();
        if is_beyond && !op.descriptor.is_uneven() {
            self.shared.violations.push((link, "a window that the op does not have"));
            return None;
        }
        let window = op.window(header.window, &mut self.shared);
        let was_opened = op.is_past(header.window);
        if op.descriptor.is_uneven() && (is_beyond || was_opened) && !op.expects(from, header.window) {
            self.larger_block(at, from);
            return None;
        }
        let Some(window) = window else {
            if !was_opened {
                self.shared.violations.push((link, "a window further ahead than it may be"));
            }
            return None;
        };
        let step = op.open[window].receive_step(from as u32, header.label)?;
        if let (Some(weight), Some(dst)) =
            (header.weight(), op.open[window].plan.steps[step as usize].action.target())
        {
            op.open[window].note_weight(dst, weight);
        }
        Some(Target { op: at, window, step })
    }

    fn placed(&mut self, link: usize, header: &Header) {
        if !self.early.is_empty() && self.early.completed(link, header, &mut self.shared.pool) {
            if let Some(at) = self.find(link, header) {
                self.deliver_early(at);
            } else if self.is_stale(link, header) {
                // Its op has ended meanwhile, without it.
                self.settle(link, header);
                self.check_late_data(link, header);
                let is_this = |of: usize, other: &Header| of == link && other == header;
                self.early.forget_frames(&mut self.shared.pool, is_this);
            }
            return;
        }
        let Some(at) = self.find(link, header) else { return };
        let Some(from) = self.sender(at, link, header) else { return };
        let (op, shared) = (&mut self.ops[at], &mut self.shared);
        let Some(window) = op.open.iter_mut().find(|w| w.index == header.window) else { return };
        if let Some(step) = window.placing_step(from as u32, header.label) {
            op.received_bytes += header.payload_len as u64;
            window.finish(step, |link, token, len| shared.release(link, token, len));
            failpoint::reach(Point::Received, &op.id, header.window);
        }
    }

    /// A payload that lies in the transport's memory. Returns true if it is kept there.
    fn viewed(&mut self, link: usize, header: &Header, segment: Segment, token: ViewToken) -> bool {
        let Some(at) = self.find(link, header) else {
            match self.place_early(link, header) {
                Placement::Into(memory) => {
                    segment.copy_to(&memory);
                    self.early.completed(link, header, &mut self.shared.pool);
                }
                Placement::Refuse(why) => self.shared.violations.push((link, why)),
                Placement::Discard => {}
            }
            return false;
        };
        let Some(target) = self.target(at, link, header) else { return false };
        let op = &self.ops[target.op];
        let window = &op.open[target.window];
        let len = segment.len();
        let keep = window.accepts_view(target.step)
            && window.expected_len(target.step) == len
            && self.shared.held_views[link] + len <= self.shared.limits.view_bytes;
        if !keep {
            self.copy_in(&target, link, header, &segment);
            return false;
        }
        let shared = &mut self.shared;
        shared.held_views[link] += len;
        let op = &mut self.ops[target.op];
        op.received_bytes += len as u64;
        let window = &mut op.open[target.window];
        window.hold_view(target.step, segment, link, token);
        window.finish(target.step, |link, token, len| shared.release(link, token, len));
        failpoint::reach(Point::Received, &op.id, header.window);
        true
    }

    fn copy_in(&mut self, target: &Target, link: usize, header: &Header, bytes: &Segment) {
        let shared = &mut self.shared;
        let op = &mut self.ops[target.op];
        let Some(call) = &op.call else { return };
        let window = &mut op.open[target.window];
        match window.landing(target.step, bytes.len(), &call.input, &call.output, &mut shared.pool) {
            Landing::At(memory) => {
                bytes.copy_to(&memory);
                op.received_bytes += bytes.len() as u64;
                window.finish(target.step, |link, token, len| shared.release(link, token, len));
                failpoint::reach(Point::Received, &op.id, header.window);
            }
            Landing::Unexpected => {}
            Landing::Length(expected) => self.wrong_length(target.op, link, header, expected),
        }
    }

    /// Hands an op the frames that came before it started.
    pub(crate) fn deliver_early(&mut self, at: usize) {
        while !self.early.is_empty() && self.early.may_have(&self.ops[at].id) {
            let op = &self.ops[at];
            let (id, pair, receives) = (op.id, op.pair, op.receives);
            let members = &self.shared.groups[op.group.0];
            let wanted = |link: usize, header: &Header| {
                header.op == id
                    && match pair {
                        None => !header.point_to_point && members.rank_of(link).is_some(),
                        Some(peer) => header.point_to_point && peer == link && receives != for_sender(header),
                    }
            };
            let Some(frame) = self.early.take_complete(wanted) else { return };
            self.deliver(at, frame);
        }
    }

    fn deliver(&mut self, at: usize, frame: Early) {
        let payload = frame.payload();
        match frame.header.kind {
            // It may have needed nothing of anybody.
            FrameKind::Data if !self.ops[at].is_open() => {
                self.settle(frame.link, &frame.header);
                self.check_late_data(frame.link, &frame.header);
            }
            FrameKind::Data => {
                if let Some(target) = self.target(at, frame.link, &frame.header) {
                    self.copy_in(&target, frame.link, &frame.header, &payload);
                }
            }
            FrameKind::Result => self.take_result(at, &frame.header, &payload),
            _ => self.control_frame(frame.link, &frame.header, &payload),
        }
        if let Some(block) = frame.block {
            self.shared.pool.give(block);
        }
    }

    fn control_frame(&mut self, link: usize, header: &Header, payload: &Segment) {
        if header.kind == FrameKind::Enter {
            self.shared.asking[link] = false;
        }
        if header.kind == FrameKind::Ack {
            return;
        }
        if header.kind == FrameKind::AckRequest {
            return self.want_ack(link, header);
        }
        let Some(at) = self.find(link, header) else {
            if self.is_stale(link, header) {
                self.settle(link, header);
                match header.kind {
                    FrameKind::Mismatch => self.learn_late_mismatch(link, header, payload),
                    FrameKind::Enter => self.settle_messages_before(link, header),
                    FrameKind::EnterRequest => self.answer_late_request(link, header),
                    _ => {}
                }
            } else {
                let budget = self.shared.limits.early_bytes;
                match self.early.admit(link, header, budget, &mut self.shared.pool) {
                    Some(memory) => {
                        payload.copy_to(&memory);
                        self.early.completed(link, header, &mut self.shared.pool);
                    }
                    None => self.shared.violations.push((link, TOO_EARLY)),
                }
            }
            return;
        };
        let Some(from) = self.sender(at, link, header) else { return };
        let op = &mut self.ops[at];
        op.note_entered(from, link, &mut self.shared);
        if header.kind != FrameKind::Mismatch && header.fingerprint != op.header.fingerprint {
            return self.tell_mismatch(at, from);
        }
        let tells_blocks = matches!(header.kind, FrameKind::Done | FrameKind::EnterRequest);
        if tells_blocks && op.descriptor.is_uneven() {
            self.compare_blocks(at, from, header);
        }
        let op = &mut self.ops[at];
        match header.kind {
            FrameKind::Done => {
                op.note_digest(from, header.told_digest());
                if op.commit == Commit::Window {
                    op.windows_are_held(from, header.window);
                    failpoint::reach(Point::DoneReceived, &op.id, header.window.saturating_sub(1));
                } else if !std::mem::replace(&mut op.done_from[from], true) {
                    op.done_missing -= 1;
                    failpoint::reach(Point::DoneReceived, &op.id, 0);
                }
            }
            FrameKind::EnterRequest => op.enter_to.push(from as u32),
            FrameKind::Enter => {
                op.allow_windows(from, header.window);
                self.settle_messages_before(link, header);
            }
            FrameKind::Mismatch => self.learn_mismatch(at, from, payload),
            _ => {}
        }
    }

    fn want_ack(&mut self, link: usize, header: &Header) {
        let Some(group) = self.group_of(&header.op) else {
            if header.op.generation < self.generation {
                let answer = Header { kind: FrameKind::Ack, returned_through: Seq(u64::MAX), ..*header };
                self.shared.unsent.push((link, answer, Segment::EMPTY));
            }
            return;
        };
        let Some(rank) = self.shared.groups[group.0].rank_of(link) else { return };
        let requests = &mut self.shared.ack_requests;
        let known =
            requests.iter().any(|(g, r, request)| (*g, *r) == (group, rank) && request.op == header.op);
        if known || requests.len() >= self.shared.limits.log_entries * self.shared.unentered.len() {
            return;
        }
        // Requests may overtake each other, so none replaces another; each log entry is asked about
        // once, which bounds their number.
        requests.push((group, rank, *header));
        self.shared.answer_ack_requests();
    }

    /// A frame says how far its sender has returned in its tag.
    fn note_returned(&mut self, link: usize, header: &Header) {
        if !self.shared.owed.is_empty() {
            self.settle_generations_before(link, header);
        }
        if header.point_to_point {
            return;
        }
        let is_of_this_op = matches!(header.kind, FrameKind::Done | FrameKind::EnterRequest);
        if header.told_digest() != 0 && !is_of_this_op {
            self.compare_last(link, header);
        }
        let Some(group) = self.group_of(&header.op) else { return };
        self.shared.peer_returned(group, link, header.op.tag, header.returned_through);
        let shared = &mut self.shared;
        let through = header.returned_through;
        let (formation, tag) = (header.op.formation(), header.op.tag);
        shared.owed.retain(|owed| {
            let settled = owed.link == link
                && owed.pair.is_none()
                && owed.op.formation() == formation
                && owed.op.tag == tag
                && owed.op.seq < through;
            if settled {
                shared.unentered[link] -= owed.bytes;
            }
            !settled
        });
    }

    /// A peer that has passed a safe point is done with everything before it.
    fn settle_generations_before(&mut self, link: usize, header: &Header) {
        let shared = &mut self.shared;
        shared.owed.retain(|owed| {
            let settled = owed.link == link && owed.op.generation < header.op.generation;
            if settled {
                shared.unentered[link] -= owed.bytes;
            }
            !settled
        });
    }

    /// A peer asks whether an op was entered here that has ended meanwhile.
    fn answer_late_request(&mut self, link: usize, header: &Header) {
        if !header.point_to_point && self.tell_late_mismatch(link, header) {
            return;
        }
        let Some(group) = self.group_of(&header.op) else { return };
        if self.shared.groups[group.0].rank_of(link).is_none() {
            return;
        }
        let returned_through = self.shared.returned_through(group, header.op.tag);
        let answer = Header { kind: FrameKind::Enter, window: 0, digest: 0, returned_through, ..*header };
        self.shared.unsent.push((link, answer, Segment::EMPTY));
    }

    /// The receiver of a message has entered it, so it has entered all before it of the same tag.
    fn settle_messages_before(&mut self, link: usize, header: &Header) {
        if !header.point_to_point {
            return;
        }
        let shared = &mut self.shared;
        shared.owed.retain(|owed| {
            let settled = owed.link == link
                && owed.pair.is_some()
                && owed.op.formation() == header.op.formation()
                && owed.op.tag == header.op.tag
                && owed.op.seq < header.op.seq;
            if settled {
                shared.unentered[link] -= owed.bytes;
            }
            !settled
        });
    }

    /// A frame of an ended op: its sender has entered, so eager bytes are no longer on its account.
    fn settle(&mut self, link: usize, header: &Header) {
        let pair = header.point_to_point.then_some(link);
        if let Some(at) = self
            .shared
            .owed
            .iter()
            .position(|owed| owed.link == link && owed.op == header.op && owed.pair == pair)
        {
            let owed = self.shared.owed.swap_remove(at);
            self.shared.unentered[link] -= owed.bytes;
        }
    }
}
