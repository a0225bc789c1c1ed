//! Plans: what one rank does in one op, as pure data.
//!
//! An op's vector is cut into *windows* that move on their own, so phases overlap. A [`Plan`] writes
//! the steps of one window into a [`Window`]; the executor runs the steps of several windows at once.
//!
//! Rules for authors (checked by [`validate`], for every plan that the simulator makes):
//!
//! * A step may depend on earlier steps of the same window only. Windows are independent of each other.
//! * No two windows write the same bytes of the output: what an op in place overwrites is saved as each opens.
//! * `Recv` has no dependencies: it is ready as soon as the window is open. So memory that this rank
//!   still has to send must not be the destination of a `Recv` unless the message can only have been
//!   sent after the bytes arrived there (an owner's final bytes follow from one's raw piece). In doubt
//!   receive into a slot and `Copy` after the `Send`: a receive that waits for a send deadlocks.
//! * A `Send` is complete when its bytes have left the memory, not when they arrived.
//! * A window of a rank whose sends land in another's *slots* completes only after that rank used them
//!   (a reply, or a `Recv` of 0 bytes as credit), so that nobody runs ahead of the others' memory. Windows after which
//!   none can open any more ([`Plan::lets_open`]) need none.
//! * Between one pair within one window each label is used once per direction.
//! * No payload exceeds [`MAX_STEP_BYTES`].
//! * Slot offsets are multiples of 64. Cut windows and shards at multiples of 64 bytes where possible.

use std::ops::Range;

/// Largest payload of one `Send` or `Recv`.
pub const MAX_STEP_BYTES: usize = 1 << 20;

/// Which memory a [`Span`] lies in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// The caller's input; the same memory as the output for an op in place.
    Input,
    /// The caller's output.
    Output,
    /// Staging of this window. A `Recv` into a slot may be satisfied without a copy.
    Slot,
}

/// A range of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span {
    /// Which memory.
    pub place: Place,
    /// First byte; for input and output from the start of the whole vector, for slots from the start
    /// of the window's staging.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

impl Span {
    /// A span of the input.
    pub const fn input(offset: usize, len: usize) -> Span {
        Span { place: Place::Input, offset, len }
    }
    /// A span of the output.
    pub const fn output(offset: usize, len: usize) -> Span {
        Span { place: Place::Output, offset, len }
    }
    /// A span of the window's slots.
    pub const fn slot(offset: usize, len: usize) -> Span {
        Span { place: Place::Slot, offset, len }
    }
    /// No bytes at all.
    pub const fn nothing() -> Span {
        Span { place: Place::Slot, offset: 0, len: 0 }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send bytes to a rank of the group.
    Send {
        /// Receiver.
        to: u32,
        /// What.
        src: Span,
        /// Label between this pair in this window.
        label: u16,
    },
    /// Receive bytes from a rank of the group.
    Recv {
        /// Sender.
        from: u32,
        /// Where to; the length must be what the sender sends.
        dst: Span,
        /// Label between this pair in this window.
        label: u16,
    },
    /// `dst = srcs[0] op srcs[1] op …`, in this order.
    Reduce {
        /// Range in [`Window::sources`].
        srcs: Range<u32>,
        /// Result; may equal one of the sources.
        dst: Span,
        /// This completes the reduction: averages divide now.
        finish: bool,
    },
    /// Copy bytes.
    Copy {
        /// From.
        src: Span,
        /// To, of the same length.
        dst: Span,
    },
}

impl Action {
    /// What it writes.
    pub fn target(&self) -> Option<Span> {
        match self {
            Action::Send { .. } => None,
            Action::Recv { dst, .. } | Action::Reduce { dst, .. } | Action::Copy { dst, .. } => Some(*dst),
        }
    }
}

/// A step with the steps it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Range in [`Window::dependencies`].
    pub after: Range<u32>,
}

/// Index of a step in its window.
pub type StepId = u32;

/// The steps of one window, in an order in which each follows those it waits for.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The steps.
    pub steps: Vec<Step>,
    /// Step indices that [`Step::after`] points into.
    pub dependencies: Vec<StepId>,
    /// Spans that [`Action::Reduce`] points into.
    pub sources: Vec<Span>,
    /// Bytes of slots.
    pub slot_bytes: usize,
    /// Lists that authors collect steps and spans in, kept for their memory.
    lists: (Vec<StepId>, Vec<Span>),
}

impl Window {
    /// Empties the window and keeps its memory.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.dependencies.clear();
        self.sources.clear();
        self.slot_bytes = 0;
    }

    /// An empty list of steps that keeps its memory from window to window; see [`Window::give_back_list`].
    pub fn borrow_list(&mut self) -> Vec<StepId> {
        std::mem::take(&mut self.lists.0)
    }

    /// An empty list of spans, likewise.
    pub fn borrow_spans(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.lists.1)
    }

    /// Takes a borrowed list back.
    pub fn give_back_list(&mut self, mut steps: Vec<StepId>) {
        steps.clear();
        self.lists.0 = steps;
    }

    /// Takes borrowed spans back.
    pub fn give_back_spans(&mut self, mut spans: Vec<Span>) {
        spans.clear();
        self.lists.1 = spans;
    }

    /// Reserves `len` bytes of slot, 64-byte aligned.
    pub fn slot(&mut self, len: usize) -> Span {
        let span = Span::slot(self.slot_bytes, len);
        self.slot_bytes += crate::frame::pad(len);
        span
    }

    /// Adds a send after the steps in `after`.
    pub fn send(&mut self, to: u32, src: Span, label: u16, after: &[StepId]) -> StepId {
        self.push(Action::Send { to, src, label }, after)
    }

    /// Adds a receive.
    pub fn recv(&mut self, from: u32, dst: Span, label: u16) -> StepId {
        self.push(Action::Recv { from, dst, label }, &[])
    }

    /// Adds a copy after the steps in `after`.
    pub fn copy(&mut self, src: Span, dst: Span, after: &[StepId]) -> StepId {
        self.push(Action::Copy { src, dst }, after)
    }

    /// Adds a reduction of `srcs`, in this order, after the steps in `after`.
    pub fn reduce(&mut self, srcs: &[Span], dst: Span, finish: bool, after: &[StepId]) -> StepId {
        let start = self.sources.len() as u32;
        self.sources.extend_from_slice(srcs);
        let srcs = start..self.sources.len() as u32;
        self.push(Action::Reduce { srcs, dst, finish }, after)
    }

    fn push(&mut self, action: Action, after: &[StepId]) -> StepId {
        let start = self.dependencies.len() as u32;
        self.dependencies.extend_from_slice(after);
        let after = start..self.dependencies.len() as u32;
        self.steps.push(Step { action, after });
        (self.steps.len() - 1) as StepId
    }

    /// The steps that `step` waits for.
    #[inline]
    pub fn after(&self, step: &Step) -> &[StepId] {
        &self.dependencies[step.after.start as usize..step.after.end as usize]
    }

    /// The sources of a reduction.
    #[inline]
    pub fn sources(&self, srcs: &Range<u32>) -> &[Span] {
        &self.sources[srcs.start as usize..srcs.end as usize]
    }

    /// Checks the rules that one rank's window can show.
    fn validate(&self, rank: u32, world: u32, input_len: usize, output_len: usize) -> Result<(), String> {
        let within = |span: &Span| {
            let limit = match span.place {
                Place::Input => input_len,
                Place::Output => output_len,
                Place::Slot => self.slot_bytes,
            };
            span.offset.checked_add(span.len).is_some_and(|end| end <= limit)
        };
        let mut labels = std::collections::BTreeSet::new();
        for (id, step) in self.steps.iter().enumerate() {
            let fail = |why: &str| Err(format!("step {id} {:?}: {why}", step.action));
            if self.after(step).iter().any(|&dep| dep as usize >= id) {
                return fail("waits for itself or a later step");
            }
            match &step.action {
                Action::Send { to: peer, src: span, label }
                | Action::Recv { from: peer, dst: span, label } => {
                    let sends = matches!(step.action, Action::Send { .. });
                    if *peer >= world || *peer == rank {
                        return fail("names no other rank");
                    }
                    if !within(span) || span.len > MAX_STEP_BYTES {
                        return fail("span out of range");
                    }
                    if !labels.insert((sends, *peer, *label)) {
                        return fail("label used twice");
                    }
                    if !sends && !self.after(step).is_empty() {
                        return fail("a receive must not wait");
                    }
                }
                Action::Reduce { srcs, dst, .. } => {
                    let sources = self.sources(srcs);
                    if sources.is_empty() || !within(dst) || !sources.iter().all(within) {
                        return fail("span out of range");
                    }
                    if sources.iter().any(|s| s.len != dst.len) {
                        return fail("lengths differ");
                    }
                }
                Action::Copy { src, dst } => {
                    if !within(src) || !within(dst) || src.len != dst.len {
                        return fail("span out of range or lengths differ");
                    }
                }
            }
        }
        Ok(())
    }
}

/// The plan of one rank for one op: a pure function of rank, world and sizes.
///
/// Equal plans write equal windows, so an op like the one before it uses that one's steps again.
pub trait Plan: Send + PartialEq {
    /// Number of windows; 0 for an op that has nothing to do.
    fn windows(&self) -> u32;

    /// Writes the steps of window `index` into `window`, which is empty.
    fn window(&self, index: u32, window: &mut Window);

    /// Whether another window opens once this one is complete.
    fn lets_open(&self, index: u32) -> bool {
        self.windows() - index > self.windows_in_flight()
    }

    /// How many windows should be open at once; staging is this many times a window's slots.
    fn windows_in_flight(&self) -> u32 {
        4
    }

    /// Whether one step writes all of the output, when nothing else is left to do: an op in place that is interrupted before has its
    /// input still.
    fn writes_once(&self) -> bool {
        false
    }

    /// The algorithm's name, as in `--algorithm`.
    fn name(&self) -> &'static str;
}

/// Checks the rules at the top of this module that one rank's plan can show, for buffers of these lengths.
pub fn validate<P: Plan>(
    plan: &P,
    rank: u32,
    world: u32,
    input_len: usize,
    output_len: usize,
) -> Result<(), String> {
    let mut window = Window::default();
    // First byte, end, and window, of all that is written.
    let mut written: Vec<(usize, usize, u32)> = Vec::new();
    for index in 0..plan.windows() {
        window.clear();
        plan.window(index, &mut window);
        window
            .validate(rank, world, input_len, output_len)
            .map_err(|why| format!("{} window {index}: {why}", plan.name()))?;
        let targets = window.steps.iter().filter_map(|step| step.action.target());
        let output = targets.filter(|span| span.place == Place::Output && span.len > 0);
        written.extend(output.map(|span| (span.offset, span.offset + span.len, index)));
    }
    if plan.writes_once() && written.len() > 1 {
        return Err(format!("{}: {} steps write the output", plan.name(), written.len()));
    }
    written.sort_unstable();
    let mut end = (0, 0);
    for (first, past, index) in written {
        if first < end.0 && index != end.1 {
            return Err(format!("{}: windows {} and {index} both write byte {first}", plan.name(), end.1));
        }
        end = end.max((past, index));
    }
    Ok(())
}
