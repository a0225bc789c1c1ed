//! Hierarchical all-reduce: inside each node, then between nodes, then inside again.
//!
//! With q = the ranks of the smallest node, the first q ranks of every node own a part of each window
//! each. The owner of part i reduces what its node's ranks hold of it, in rank order. Owners of the same
//! part exchange as in two-shot: the part has a shard for each node, whose owner there reduces the nodes'
//! sums, in the order of the nodes. The final shards go to the other owners, and from them to their
//! nodes. Of S bytes, 2(m-1)/m S/q leave an owner towards the m-1 other nodes, all q of a node at once:
//! each byte crosses a node's border as rarely as possible, once for all its ranks.
//!
//! A sum of a node is kept in the vector's type, so 8- and 16-bit floats round once more than in the
//! direct algorithms. In place is safe as it stands: the final bytes of a shard follow from one's own.

use super::geometry::{Pieces, Range, shard};
use crate::topology::Nodes;
use crate::{Topology, Tuning};
use ronde_core::call::Shape;
use ronde_core::plan::{Plan, Span, StepId, Window};
use std::sync::Arc;

/// Shorter windows cost more in messages than they save in memory.
const MIN_WINDOW: usize = 256 << 10;

/// Inside a node: pieces to the owner of the part.
const RAW: u16 = 0;
/// Between nodes: a node's sum to the owner of the shard, and the final shard back.
const SUM: u16 = 1;
const FINAL: u16 = 2;
/// Inside a node: the final shard of node j has label `SPREAD + j`.
const SPREAD: u16 = 3;

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Hierarchical {
    rank: u32,
    nodes: Arc<Nodes>,
    windows: Pieces,
    in_flight: u32,
}

impl Hierarchical {
    pub(super) fn new(shape: &Shape<'_>, topology: &Topology, tuning: &Tuning) -> Hierarchical {
        let nodes = topology.nodes().clone();
        let bytes = shape.count * shape.element;
        // An owner stages its node's sum besides what the others send, and peers that are ahead open windows before their
        // turn: so that all of it is no more than the vector, not all of that may be open at once.
        let few = (bytes / (4 * tuning.windows_in_flight as usize)).max(MIN_WINDOW).min(tuning.window_bytes);
        let windows = Tuning { window_bytes: few, ..tuning.clone() };
        Hierarchical {
            rank: shape.rank,
            windows: Pieces::shared_by(bytes, nodes.owners(), &windows),
            in_flight: tuning.windows_in_flight,
            nodes,
        }
    }

    fn part(&self, whole: Range, owner: u32) -> Range {
        shard(whole, owner, self.nodes.owners())
    }

    fn shard(&self, part: Range, node: u32) -> Range {
        shard(part, node, self.nodes.count())
    }

    /// Sends one's own bytes of a part to its owner in this node, which sends the final ones back.
    fn hand_in(&self, owner: u32, part: Range, window: &mut Window) {
        let node = self.nodes.place(self.rank).0;
        let owner = self.nodes.rank(node, owner);
        window.send(owner, Span::input(part.offset, part.len), RAW, &[]);
        for other in 0..self.nodes.count() {
            let shard = self.shard(part, other);
            if shard.len > 0 {
                window.recv(owner, Span::output(shard.offset, shard.len), SPREAD + other as u16);
            }
        }
    }

    /// What the owner of a part does with it.
    fn own(&self, part: Range, window: &mut Window) {
        let (node, index) = self.nodes.place(self.rank);
        let (sum, summed) = self.sum_of_node(part, window);
        let within =
            |range: Range| Span { offset: sum.offset + range.offset - part.offset, len: range.len, ..sum };

        let mut waits = window.borrow_list();
        let mut sources = window.borrow_spans();
        let mine = self.shard(part, node);
        waits.push(summed);
        for other in 0..self.nodes.count() {
            if other == node {
                sources.push(within(mine));
                continue;
            }
            let peer = self.nodes.rank(other, index);
            let theirs = self.shard(part, other);
            if theirs.len > 0 {
                window.send(peer, within(theirs), SUM, &[summed]);
                let got = window.recv(peer, Span::output(theirs.offset, theirs.len), FINAL);
                self.spread(theirs, other, got, window);
            }
            if mine.len > 0 {
                let slot = window.slot(mine.len);
                waits.push(window.recv(peer, slot, SUM));
                sources.push(slot);
            }
        }
        if mine.len > 0 {
            let result = Span::output(mine.offset, mine.len);
            // With one node the sum is final, and there already.
            let ready =
                if self.nodes.count() == 1 { summed } else { window.reduce(&sources, result, true, &waits) };
            for other in (0..self.nodes.count()).filter(|&other| other != node) {
                window.send(self.nodes.rank(other, index), result, FINAL, &[ready]);
            }
            self.spread(mine, node, ready, window);
        }
        window.give_back_list(waits);
        window.give_back_spans(sources);
    }

    /// Collects what the ranks of this node hold of a part, in rank order.
    fn sum_of_node(&self, part: Range, window: &mut Window) -> (Span, StepId) {
        let node = self.nodes.place(self.rank).0;
        let alone = self.nodes.count() == 1;
        let mut waits = window.borrow_list();
        let mut sources = window.borrow_spans();
        for &member in self.nodes.members(node) {
            if member == self.rank {
                sources.push(Span::input(part.offset, part.len));
                continue;
            }
            let slot = window.slot(part.len);
            waits.push(window.recv(member, slot, RAW));
            sources.push(slot);
        }
        let sum = if alone { Span::output(part.offset, part.len) } else { window.slot(part.len) };
        let summed = window.reduce(&sources, sum, alone, &waits);
        window.give_back_list(waits);
        window.give_back_spans(sources);
        (sum, summed)
    }

    /// Sends a final shard to the other ranks of this node.
    fn spread(&self, shard: Range, of_node: u32, ready: StepId, window: &mut Window) {
        let node = self.nodes.place(self.rank).0;
        for &member in self.nodes.members(node).iter().filter(|&&member| member != self.rank) {
            window.send(member, Span::output(shard.offset, shard.len), SPREAD + of_node as u16, &[ready]);
        }
    }
}

impl Plan for Hierarchical {
    fn windows(&self) -> u32 {
        self.windows.count()
    }

    fn window(&self, index: u32, window: &mut Window) {
        let whole = self.windows.get(index);
        let me = self.nodes.place(self.rank).1;
        for owner in 0..self.nodes.owners() {
            let part = self.part(whole, owner);
            if part.len > 0 && owner != me {
                self.hand_in(owner, part, window);
            }
        }
        if me < self.nodes.owners() {
            let part = self.part(whole, me);
            if part.len > 0 {
                self.own(part, window);
            }
        }
    }

    fn windows_in_flight(&self) -> u32 {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "hierarchical"
    }
}
