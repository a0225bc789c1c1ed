//! What the chooser knows of the machines: nodes, and the measured cost of a message and a byte.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Cost of moving and reducing bytes over one kind of link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Latency of one message, in seconds (alpha).
    pub latency: f64,
    /// CPU time of one message at its sender and receiver together, in seconds (o).
    pub message: f64,
    /// Seconds per byte that a rank sends (beta).
    pub byte: f64,
    /// Seconds per byte of source that a reduction reads.
    pub reduce: f64,
}

impl Costs {
    /// Shared memory on the test machine (2-core AMD EPYC VM): SPEED, first table.
    pub const SHARED_MEMORY: Costs = Costs { latency: 0.2e-6, message: 0.15e-6, byte: 6e-11, reduce: 5e-11 };
    /// TCP over loopback on the same machine.
    pub const TCP: Costs = Costs { latency: 4e-6, message: 3e-6, byte: 1.6e-10, reduce: 5e-11 };
}

/// Which rank runs on which node, with the ranks of each in ascending order.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Ranks of each node.
    members: Vec<Vec<u32>>,
    /// Node of each rank, and its number there.
    places: Vec<(u32, u32)>,
    /// Ranks of the smallest node.
    owners: u32,
}

impl Nodes {
    /// From the node of each rank, by any numbers; nodes are numbered anew as they come.
    fn new(nodes: &[u32]) -> Nodes {
        let mut numbers = BTreeMap::new();
        let mut members: Vec<Vec<u32>> = Vec::new();
        let mut places = Vec::with_capacity(nodes.len());
        for (rank, node) in nodes.iter().enumerate() {
            let number = *numbers.entry(*node).or_insert(members.len());
            if number == members.len() {
                members.push(Vec::new());
            }
            places.push((number as u32, members[number].len() as u32));
            members[number].push(rank as u32);
        }
        let owners = members.iter().map(Vec::len).min().unwrap_or(1) as u32;
        Nodes { members, places, owners }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.members.len() as u32
    }

    /// Ranks of a node.
    pub fn members(&self, node: u32) -> &[u32] {
        &self.members[node as usize]
    }

    /// The rank with this number on a node.
    pub fn rank(&self, node: u32, number: u32) -> u32 {
        self.members[node as usize][number as usize]
    }

    /// Node of a rank, and its number there.
    pub fn place(&self, rank: u32) -> (u32, u32) {
        self.places[rank as usize]
    }

    /// Ranks of the smallest node: as many of every node can share work evenly.
    pub fn owners(&self) -> u32 {
        self.owners
    }
}

/// Where the ranks of a group run.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Costs between ranks of one node.
    pub inside: Costs,
    /// Costs between nodes.
    pub between: Costs,
    nodes: Arc<Nodes>,
}

impl Topology {
    /// A topology with the default costs; `nodes` has the node of each rank, `shm` says whether ranks of
    /// a node share memory.
    pub fn new(nodes: &[u32], shm: bool) -> Topology {
        let inside = if shm { Costs::SHARED_MEMORY } else { Costs::TCP };
        Topology { inside, between: Costs::TCP, nodes: Arc::new(Nodes::new(nodes)) }
    }

    /// Who runs where.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// The costs that bound an op over all ranks.
    pub fn costs(&self) -> &Costs {
        if self.nodes.count() <= 1 { &self.inside } else { &self.between }
    }
}

/// How plans cut vectors.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Bytes of a window over the whole vector. Default 512 KiB.
    pub window_bytes: usize,
    /// Smallest shard of a window in bytes; the window grows with the world. Default 64 KiB.
    pub min_shard_bytes: usize,
    /// Largest message, in bytes: what every link of the group takes in one frame. Default 256 KiB.
    pub max_piece_bytes: usize,
    /// Windows open at once. Default 4.
    pub windows_in_flight: u32,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            window_bytes: 512 << 10,
            min_shard_bytes: 64 << 10,
            max_piece_bytes: 256 << 10,
            windows_in_flight: 4,
        }
    }
}
