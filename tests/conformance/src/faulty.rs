//! A link that wraps another and injects faults.
//!
//! It stays within the contract of [`Link`]: whatever works over a link must work over this one.
//! What it does follows from a seed and the calls made.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource,
};
use std::time::Duration;

/// Frames held back at most.
const MAX_HELD: usize = 16;
/// Completions held back at most; those beyond are told at once.
const MAX_LATE: usize = 16;
/// ECONNRESET on Linux.
const RESET: LinkFailure = LinkFailure::Os(104);

/// Which faults, and how often: each share is in 256ths.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Seed of all choices.
    pub seed: u64,
    /// A submit is answered with `Full`.
    pub full: u8,
    /// A frame is held back when submitted, and again at each poll.
    pub hold: u8,
    /// The next held frame to leave is any of them, not the oldest.
    pub reorder: u8,
    /// An arrival or a `sent` is told in a later poll, in any order.
    pub late: u8,
    /// The link is reset, as if the peer's process had died, when this many frames have been
    /// submitted or have arrived.
    pub kill_at: Option<u64>,
}

/// A link that injects faults into another.
pub struct FaultyLink {
    link: usize,
    /// None after a reset.
    inner: Option<Box<dyn Link>>,
    capabilities: Capabilities,
    faults: Faults,
    rng: SmallRng,
    held: Vec<Held>,
    late: Vec<Late>,
    /// Frames submitted or arrived.
    frames: u64,
    /// A submit was refused for no reason since the last `prepare_sleep`: nothing will wake whoever
    /// waits to try again, so it must not sleep.
    refused: bool,
}

/// A frame that has been taken and not yet submitted to the inner link.
struct Held {
    header: Header,
    payload: Segment,
    cookie: u64,
}

/// A completion to be told later.
enum Late {
    Arrived(Header, Payload),
    Sent(u64),
}

impl FaultyLink {
    /// Wraps the link with the number `link`.
    pub fn new(link: usize, inner: Box<dyn Link>, faults: Faults) -> FaultyLink {
        FaultyLink {
            link,
            capabilities: inner.capabilities(),
            inner: Some(inner),
            rng: SmallRng::seed_from_u64(faults.seed),
            faults,
            held: Vec::with_capacity(MAX_HELD),
            late: Vec::with_capacity(MAX_LATE),
            frames: 0,
            refused: false,
        }
    }

    fn chance(&mut self, share: u8) -> bool {
        self.rng.random_range(0..256) < u32::from(share)
    }

    /// Resets the link if its time has come.
    fn is_dead(&mut self) -> bool {
        if self.faults.kill_at.is_some_and(|at| self.frames >= at) {
            self.inner = None;
            self.held.clear();
            self.late.clear();
        }
        self.inner.is_none()
    }

    /// Passes held frames on until chance or the inner link stops it.
    fn let_frames_leave(&mut self, receiver: &mut dyn Receiver) -> bool {
        let mut moved = false;
        while !self.held.is_empty() && !self.chance(self.faults.hold) {
            let at =
                if self.chance(self.faults.reorder) { self.rng.random_range(0..self.held.len()) } else { 0 };
            if !self.pass_on(at, receiver) {
                break;
            }
            moved = true;
        }
        moved
    }

    fn pass_on(&mut self, at: usize, receiver: &mut dyn Receiver) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let Held { header, payload, cookie } = &self.held[at];
        let cookie = *cookie;
        let answer = inner.submit(header, payload, cookie);
        if answer == Submit::Full {
            return false;
        }
        self.held.remove(at);
        if answer == Submit::Sent {
            self.tell(Late::Sent(cookie), receiver);
        }
        true
    }

    /// Tells some of what was kept back, in any order; `all` of it if asked.
    fn tell_late(&mut self, all: bool, receiver: &mut dyn Receiver) -> bool {
        let before = self.late.len();
        for _ in 0..before {
            if all || !self.chance(self.faults.late) {
                let at = self.rng.random_range(0..self.late.len());
                let late = self.late.swap_remove(at);
                self.tell(late, receiver);
            }
        }
        self.late.len() < before
    }

    fn tell(&mut self, late: Late, receiver: &mut dyn Receiver) {
        match late {
            Late::Sent(cookie) => receiver.sent(self.link, cookie),
            Late::Arrived(header, payload) => {
                let token = match &payload {
                    Payload::View(_, token) => Some(*token),
                    Payload::Placed => None,
                };
                let kept = receiver.arrived(self.link, &header, payload);
                if let (Some(token), false, Some(inner)) = (token, kept, &mut self.inner) {
                    inner.release(token);
                }
            }
        }
    }

    fn poll_inner(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        let Some(inner) = &mut self.inner else { return Err(RESET) };
        let mut delayer = Delayer {
            receiver,
            share: self.faults.late,
            rng: &mut self.rng,
            late: &mut self.late,
            frames: &mut self.frames,
        };
        inner.poll(&mut delayer)
    }
}

impl Link for FaultyLink {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn probe(&mut self, period: Option<Duration>) {
        self.inner.iter_mut().for_each(|inner| inner.probe(period));
    }

    fn unanswered(&self) -> Option<u32> {
        self.inner.as_ref()?.unanswered()
    }

    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit {
        if self.is_dead() || self.held.len() == MAX_HELD || self.chance(self.faults.full) {
            self.refused = true;
            return Submit::Full;
        }
        let answer = if self.chance(self.faults.hold) {
            self.held.push(Held { header: *header, payload: payload.clone(), cookie });
            Submit::Pending
        } else {
            self.inner.as_mut().map_or(Submit::Full, |inner| inner.submit(header, payload, cookie))
        };
        self.frames += u64::from(answer != Submit::Full);
        answer
    }

    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        if self.is_dead() {
            return Err(RESET);
        }
        let moved = self.let_frames_leave(receiver) | self.tell_late(false, receiver);
        let result = self.poll_inner(receiver);
        if result.is_err() {
            self.tell_late(true, receiver);
            self.held.clear();
        }
        result.map(|inner_moved| moved || inner_moved)
    }

    fn release(&mut self, token: ViewToken) {
        if let Some(inner) = &mut self.inner {
            inner.release(token);
        }
    }

    fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        self.held.retain(|held| !is_over(&held.header));
        if let Some(inner) = &mut self.inner {
            inner.fence(is_over);
        }
    }

    fn prepare_sleep(&mut self) -> bool {
        let busy = !self.held.is_empty() || !self.late.is_empty() || self.is_dead();
        let refused = std::mem::take(&mut self.refused);
        !busy && !refused && self.inner.as_mut().is_some_and(|inner| inner.prepare_sleep())
    }

    fn cancel_sleep(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.cancel_sleep();
        }
    }

    fn wake_source(&self) -> Option<WakeSource> {
        self.inner.as_ref()?.wake_source()
    }

    fn close(&mut self) {
        if let Some(inner) = &mut self.inner {
            for Held { header, payload, cookie } in &self.held {
                if inner.submit(header, payload, *cookie) == Submit::Full {
                    break;
                }
            }
            inner.close();
        }
        self.held.clear();
        self.late.clear();
    }
}

/// Between the inner link and the receiver: keeps completions back.
struct Delayer<'a> {
    receiver: &'a mut dyn Receiver,
    share: u8,
    rng: &'a mut SmallRng,
    late: &'a mut Vec<Late>,
    frames: &'a mut u64,
}

impl Delayer<'_> {
    fn delays(&mut self) -> bool {
        self.late.len() < MAX_LATE && self.rng.random_range(0..256) < u32::from(self.share)
    }
}

impl Receiver for Delayer<'_> {
    fn place(&mut self, link: usize, header: &Header) -> Placement {
        self.receiver.place(link, header)
    }

    fn arrived(&mut self, link: usize, header: &Header, payload: Payload) -> bool {
        *self.frames += 1;
        if self.delays() {
            self.late.push(Late::Arrived(*header, payload));
            return true;
        }
        self.receiver.arrived(link, header, payload)
    }

    fn give_up_views(&mut self, link: usize) {
        self.receiver.give_up_views(link);
    }

    fn sent(&mut self, link: usize, cookie: u64) {
        if self.delays() {
            self.late.push(Late::Sent(cookie));
        } else {
            self.receiver.sent(link, cookie);
        }
    }
}
