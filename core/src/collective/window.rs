//! One open window of an op.

use super::slots::SlotPool;
use crate::Segment;
use crate::memory::{Access, Arena};
use crate::plan::{Action, Place, Plan, Span, Step, StepId, Window};
use crate::transport::ViewToken;

/// A view that a receive step holds: read in place instead of copied to the slot.
struct HeldView {
    step: StepId,
    offset: usize,
    segment: Segment,
    link: usize,
    token: ViewToken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Waits for other steps, or (a receive) for its message.
    Waiting,
    /// A receive whose bytes are being placed.
    Placing,
    /// A send that the link has taken but not finished.
    Sending,
    Done,
}

/// Progress of one window.
#[derive(Default)]
pub(crate) struct Running {
    pub(crate) index: u32,
    /// Which plan its steps are from: a number that the op gave.
    plan_number: u64,
    pub(crate) plan: Window,
    state: Vec<State>,
    /// Steps that each step still waits for.
    waits_for: Vec<u32>,
    /// Steps that still have to read what this one made.
    uses: Vec<u32>,
    /// The same at the start, and the steps whose turn comes first.
    first: (Vec<u32>, Vec<u32>, Vec<StepId>),
    /// The step is a send, or waits for one, directly or not.
    follows_send: Vec<bool>,
    /// Compressed rows: the steps that wait for step i are `waiters[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
    waiters: Vec<StepId>,
    /// Steps whose turn has come (never receives).
    pub(crate) ready: Vec<StepId>,
    unfinished: usize,
    slots: Option<Arena>,
    views: Vec<HeldView>,
    /// Of a weighted average: what was written, with the sum of the weights that are in it.
    weights: Vec<(Span, f64)>,
}

/// What to do with the bytes of a receive step.
pub(crate) enum Landing {
    /// In user memory or in a slot.
    At(Segment),
    /// The step had its bytes already, or the label is unknown.
    Unexpected,
    /// The peer sent another number of bytes than this side expects.
    Length(usize),
}

impl Running {
    /// Whether it was loaded with this window of this plan.
    pub(crate) fn has(&self, plan_number: u64, index: u32) -> bool {
        self.plan_number == plan_number && self.index == index
    }

    /// Loads window `index` of `plan`.
    pub(crate) fn load<P: Plan>(&mut self, plan: &P, plan_number: u64, index: u32) {
        (self.index, self.plan_number) = (index, plan_number);
        self.plan.clear();
        plan.window(index, &mut self.plan);
        self.index_waiters(self.plan.steps.len());
        let (waits_for, _, ready) = &mut self.first;
        ready.clear();
        for (id, step) in self.plan.steps.iter().enumerate() {
            if waits_for[id] == 0 && !matches!(step.action, Action::Recv { .. }) {
                ready.push(id as StepId);
            }
        }
    }

    /// Starts over with the steps that are loaded.
    pub(crate) fn restart(&mut self) {
        let steps = self.plan.steps.len();
        self.unfinished = steps;
        self.state.clear();
        self.state.resize(steps, State::Waiting);
        let (waits_for, uses, ready) = &self.first;
        self.waits_for.clone_from(waits_for);
        self.uses.clone_from(uses);
        self.ready.clone_from(ready);
        self.weights.clear();
    }

    fn index_waiters(&mut self, steps: usize) {
        let (waits_for, uses, _) = &mut self.first;
        waits_for.clear();
        uses.clear();
        uses.resize(steps, 0);
        self.follows_send.clear();
        for step in &self.plan.steps {
            let after = self.plan.after(step);
            waits_for.push(after.len() as u32);
            let follows = matches!(step.action, Action::Send { .. })
                || after.iter().any(|&dep| self.follows_send[dep as usize]);
            self.follows_send.push(follows);
            for &dep in after {
                uses[dep as usize] += 1;
            }
        }
        self.starts.clear();
        let mut total = 0;
        for &uses in &*uses {
            self.starts.push(total);
            total += uses;
        }
        self.starts.push(total);
        self.waiters.clear();
        self.waiters.resize(total as usize, 0);
        // `starts[i]` is used as the write cursor of row i and put back by shifting afterwards.
        for (id, step) in self.plan.steps.iter().enumerate() {
            for &dep in self.plan.after(step) {
                let cursor = &mut self.starts[dep as usize];
                self.waiters[*cursor as usize] = id as StepId;
                *cursor += 1;
            }
        }
        for i in (1..=steps).rev() {
            self.starts[i] = self.starts[i - 1];
        }
        self.starts[0] = 0;
    }

    pub(crate) fn has_received_nothing(&self) -> bool {
        let steps = self.plan.steps.iter().zip(&self.state);
        steps
            .into_iter()
            .all(|(step, state)| !matches!(step.action, Action::Recv { .. }) || *state == State::Waiting)
    }

    /// Steps that are over.
    pub(crate) fn steps_done(&self) -> impl Iterator<Item = &Step> {
        self.plan
            .steps
            .iter()
            .zip(&self.state)
            .filter(|(_, state)| **state == State::Done)
            .map(|(step, _)| step)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    /// The receive step for a message, if it still waits.
    pub(crate) fn receive_step(&self, from: u32, label: u16) -> Option<StepId> {
        let matches = |action: &Action| matches!(action, Action::Recv { from: f, label: l, .. } if *f == from && *l == label);
        let id = self.plan.steps.iter().position(|step| matches(&step.action))?;
        (self.state[id] == State::Waiting).then_some(id as StepId)
    }

    /// Where the bytes of receive step `id` go.
    pub(crate) fn landing(
        &mut self,
        id: StepId,
        len: usize,
        input: &Segment,
        output: &Segment,
        pool: &mut SlotPool,
    ) -> Landing {
        let Action::Recv { dst, .. } = self.plan.steps[id as usize].action else {
            return Landing::Unexpected;
        };
        if dst.len != len {
            return Landing::Length(dst.len);
        }
        self.ensure_slots(pool);
        Landing::At(self.memory(dst, input, output))
    }

    /// True if receive step `id` may be satisfied by a view: its bytes go to a slot, and no reader of them
    /// waits for a send of this rank. A view of registered memory holds the peer's send open, so two
    /// ranks that kept views until their own sends are done would wait for each other.
    pub(crate) fn accepts_view(&self, id: StepId) -> bool {
        let at = id as usize;
        let readers = &self.waiters[self.starts[at] as usize..self.starts[at + 1] as usize];
        matches!(self.plan.steps[at].action, Action::Recv { dst, .. } if dst.place == Place::Slot)
            && !readers.is_empty()
            && !readers.iter().any(|&reader| self.follows_send[reader as usize])
    }

    /// Bytes that weigh so much are written.
    pub(crate) fn note_weight(&mut self, dst: Span, weight: f64) {
        self.weights.push((dst, weight));
    }

    /// The weight of bytes: what was written there last, or that of the input.
    pub(crate) fn weight_of(&self, src: Span, of_input: f64) -> f64 {
        let overlaps = |span: &Span| {
            span.place == src.place
                && span.offset < src.offset + src.len
                && src.offset < span.offset + span.len
        };
        self.weights.iter().rev().find(|(span, _)| overlaps(span)).map_or(of_input, |(_, weight)| *weight)
    }

    /// The weight of the beginning of the output, once the window is finished: the same on all ranks that have it, since one of
    /// them has made it.
    pub(crate) fn weight_of_output(&self) -> Option<f64> {
        let written = self.weights.iter().filter(|(span, _)| span.place == Place::Output && span.len > 0);
        let first = written.min_by_key(|(span, _)| span.offset)?.0;
        Some(self.weight_of(Span { len: 1, ..first }, 0.0))
    }

    pub(crate) fn expected_len(&self, id: StepId) -> usize {
        match self.plan.steps[id as usize].action {
            Action::Recv { dst, .. } => dst.len,
            _ => 0,
        }
    }

    pub(crate) fn start_placing(&mut self, id: StepId) {
        self.state[id as usize] = State::Placing;
    }

    /// The receive step whose bytes are being placed for this message.
    pub(crate) fn placing_step(&self, from: u32, label: u16) -> Option<StepId> {
        self.plan
            .steps
            .iter()
            .zip(&self.state)
            .position(|(step, state)| {
                *state == State::Placing
                    && matches!(step.action, Action::Recv { from: f, label: l, .. } if f == from && l == label)
            })
            .map(|id| id as StepId)
    }

    /// Keeps a view as the bytes of receive step `id`.
    pub(crate) fn hold_view(&mut self, id: StepId, segment: Segment, link: usize, token: ViewToken) {
        let Action::Recv { dst, .. } = self.plan.steps[id as usize].action else { return };
        self.views.push(HeldView { step: id, offset: dst.offset, segment, link, token });
    }

    pub(crate) fn sending(&mut self, id: StepId) {
        self.state[id as usize] = State::Sending;
    }

    pub(crate) fn is_sending(&self, id: StepId) -> bool {
        self.state.get(id as usize) == Some(&State::Sending)
    }

    /// Marks a step done, makes those that waited for it ready, and reports views nobody needs any more.
    pub(crate) fn finish(&mut self, id: StepId, mut release: impl FnMut(usize, ViewToken, usize)) {
        let at = id as usize;
        debug_assert_ne!(self.state[at], State::Done);
        self.state[at] = State::Done;
        self.unfinished -= 1;
        for row in self.starts[at]..self.starts[at + 1] {
            let waiter = self.waiters[row as usize];
            let left = &mut self.waits_for[waiter as usize];
            *left -= 1;
            if *left == 0 {
                self.ready.push(waiter);
            }
        }
        let after = self.plan.steps[at].after.clone();
        for dep in after {
            let dep = self.plan.dependencies[dep as usize];
            self.uses[dep as usize] -= 1;
            if self.uses[dep as usize] == 0
                && let Some(view) = self.views.iter().position(|v| v.step == dep)
            {
                let view = self.views.swap_remove(view);
                release(view.link, view.token, view.segment.len());
            }
        }
    }

    /// Copies the views of one link to where their bytes belong, and gives them back.
    pub(crate) fn give_up_views(
        &mut self,
        link: usize,
        pool: &mut SlotPool,
        mut release: impl FnMut(usize, ViewToken, usize),
    ) {
        for at in (0..self.views.len()).rev() {
            if self.views[at].link != link {
                continue;
            }
            self.ensure_slots(pool);
            let view = self.views.swap_remove(at);
            if let Some(slots) = &self.slots {
                view.segment.copy_to(&slots.segment(view.offset, view.segment.len()));
            }
            release(link, view.token, view.segment.len());
        }
    }

    /// Links whose memory is read in place.
    pub(crate) fn viewed_links(&self) -> impl Iterator<Item = usize> + '_ {
        self.views.iter().map(|view| view.link)
    }

    /// The bytes of a span for reading: a held view if there is one.
    pub(crate) fn source(&self, span: Span, input: &Segment, output: &Segment) -> Segment {
        if span.place == Place::Slot
            && let Some(view) = self
                .views
                .iter()
                .find(|v| v.offset <= span.offset && span.offset + span.len <= v.offset + v.segment.len())
        {
            return view.segment.slice(span.offset - view.offset, span.len);
        }
        self.memory(span, input, output)
    }

    /// The memory of a span itself.
    pub(crate) fn memory(&self, span: Span, input: &Segment, output: &Segment) -> Segment {
        match span.place {
            Place::Input => input.slice(span.offset, span.len),
            Place::Output => output.slice(span.offset, span.len),
            Place::Slot if span.len == 0 => Segment::empty(),
            Place::Slot => {
                self.slots.as_ref().map_or_else(Segment::empty, |slots| slots.segment(span.offset, span.len))
            }
        }
    }

    /// Makes sure that the window has its slots.
    pub(crate) fn ensure_slots(&mut self, pool: &mut SlotPool) {
        if self.slots.is_none() && self.plan.slot_bytes > 0 {
            self.slots = Some(pool.take(self.plan.slot_bytes));
        }
    }

    /// Gives memory and views back, whatever the state.
    pub(crate) fn unload(&mut self, pool: &mut SlotPool, mut release: impl FnMut(usize, ViewToken, usize)) {
        for view in self.views.drain(..) {
            release(view.link, view.token, view.segment.len());
        }
        if let Some(slots) = self.slots.take() {
            pool.give(slots);
        }
    }

    /// Ranks whose messages have not come, for error texts.
    pub(crate) fn waits_on(&self) -> impl Iterator<Item = u32> + '_ {
        self.plan.steps.iter().zip(&self.state).filter_map(|(step, state)| match (&step.action, state) {
            (Action::Recv { from, .. }, State::Waiting | State::Placing) => Some(*from),
            (Action::Send { to, .. }, State::Waiting | State::Sending) => Some(*to),
            _ => None,
        })
    }
}
