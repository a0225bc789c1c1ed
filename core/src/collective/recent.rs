//! The last calls that ended here, for errors that are noticed later.

use super::Descriptor;
use crate::OpId;

/// How many are kept.
const KEPT: usize = 64;

/// One call: its identity; for a message the link of the other side and whether it was received here.
type Entry = (OpId, Option<(usize, bool)>, Descriptor);

/// The last [`KEPT`] calls.
#[derive(Default)]
pub(crate) struct RecentCalls {
    entries: Vec<Entry>,
    next: usize,
}

impl RecentCalls {
    pub(crate) fn add(&mut self, op: OpId, side: Option<(usize, bool)>, descriptor: Descriptor) {
        let entry = (op, side, descriptor);
        match self.entries.get_mut(self.next) {
            Some(oldest) => *oldest = entry,
            None => self.entries.push(entry),
        }
        self.next = (self.next + 1) % KEPT;
    }

    pub(crate) fn find(&self, op: &OpId, side: Option<(usize, bool)>) -> Option<&Descriptor> {
        self.entries.iter().find(|entry| entry.0 == *op && entry.1 == side).map(|entry| &entry.2)
    }
}
