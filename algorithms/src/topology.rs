//! What the chooser knows of the machines: nodes, and the measured cost of a message and a byte.

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

/// Where the ranks of a group run.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Node of each rank, numbered from 0.
    pub nodes: Vec<u32>,
    /// Costs between ranks of one node.
    pub inside: Costs,
    /// Costs between nodes.
    pub between: Costs,
    one_node: bool,
}

impl Topology {
    /// A topology with the default costs; `shm` says whether ranks of a node share memory.
    pub fn new(nodes: Vec<u32>, shm: bool) -> Topology {
        let inside = if shm { Costs::SHARED_MEMORY } else { Costs::TCP };
        let one_node = nodes.windows(2).all(|pair| pair[0] == pair[1]);
        Topology { nodes, inside, between: Costs::TCP, one_node }
    }

    /// The costs that bound an op over all ranks.
    pub fn costs(&self) -> &Costs {
        if self.one_node { &self.inside } else { &self.between }
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
