//! What the chooser knows of the machines: nodes, and the measured cost of a message and a byte.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Cost of moving and reducing bytes over one kind of link: the parameters of Hockney's model with a cost
/// per message as in LogP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Latency of one message, in seconds (alpha).
    pub latency: f64,
    /// CPU time of one message at its sender and receiver together, in seconds (o).
    pub message: f64,
    /// Seconds per byte that a rank sends while it receives as many (beta).
    pub byte: f64,
    /// Seconds per byte of source that a reduction reads.
    pub reduce: f64,
}

impl Costs {
    /// With so many ranks to a processor: what keeps it busy takes as many times as long, and whoever waits for a message
    /// waits for its turn.
    fn in_turns(self, ranks: f64) -> Costs {
        Costs {
            latency: self.latency + TURN * (ranks - 1.0),
            message: self.message * ranks,
            byte: self.byte * ranks,
            reduce: self.reduce * ranks,
        }
    }
}

/// The costs of every kind of link. All ranks of a job use the same ones, so that they choose alike.
///
/// The defaults were measured by `ronde bench costs` on two cores of an AMD EPYC virtual machine. Only reducing
/// after TCP was not: there it hides behind the exchange, so that little of it can be told from noise, and the
/// figure of shared memory stands for it. Those of a network are what one of 10 Gbit/s within a building is like (a
/// round trip of 50 µs): measure yours. As text:
/// latency and message in microseconds, bytes sent and reduced in picoseconds each, for example
/// `shm=0.1,0.36,60,30 tcp=0.4,1.5,170,30 net=20,3,800,30 cores=16`; what is left out has its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostTable {
    /// Shared memory.
    pub shm: Costs,
    /// TCP within one machine.
    pub tcp: Costs,
    /// TCP between machines.
    pub net: Costs,
    /// Processors of a machine; 0: as many as it has ranks. With fewer, ranks take turns.
    pub cores: u32,
}

/// What it costs at least that a processor turns from one rank to another, in seconds.
const TURN: f64 = 1.5e-6;

impl Default for CostTable {
    fn default() -> CostTable {
        CostTable {
            shm: Costs { latency: 0.1e-6, message: 0.36e-6, byte: 60e-12, reduce: 30e-12 },
            tcp: Costs { latency: 0.4e-6, message: 1.5e-6, byte: 170e-12, reduce: 30e-12 },
            net: Costs { latency: 20e-6, message: 3e-6, byte: 800e-12, reduce: 30e-12 },
            cores: 0,
        }
    }
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Costs { latency, message, byte, reduce } = self;
        write!(f, "{:.3},{:.3},{:.1},{:.1}", latency * 1e6, message * 1e6, byte * 1e12, reduce * 1e12)
    }
}

impl std::fmt::Display for CostTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shm={} tcp={} net={} cores={}", self.shm, self.tcp, self.net, self.cores)
    }
}

impl std::str::FromStr for CostTable {
    type Err = String;

    fn from_str(text: &str) -> Result<CostTable, String> {
        let mut table = CostTable::default();
        for entry in text.split_whitespace() {
            let bad = || format!("\"{entry}\" is not of the form tcp=4,3,160,50 (us, us, ps, ps)");
            let (kind, numbers) = entry.split_once('=').ok_or_else(bad)?;
            if kind == "cores" {
                table.cores = numbers.parse().map_err(|_| bad())?;
                continue;
            }
            let numbers: Vec<f64> = numbers.split(',').map_while(|n| n.trim().parse().ok()).collect();
            let &[latency, message, byte, reduce] = &numbers[..] else { return Err(bad()) };
            if !numbers.iter().all(|n| n.is_finite() && (1e-6..=1e12).contains(n)) {
                return Err(bad());
            }
            let costs = Costs {
                latency: latency * 1e-6,
                message: message * 1e-6,
                byte: byte * 1e-12,
                reduce: reduce * 1e-12,
            };
            match kind {
                "shm" => table.shm = costs,
                "tcp" => table.tcp = costs,
                "net" => table.net = costs,
                _ => return Err(bad()),
            }
        }
        Ok(table)
    }
}

/// Which rank runs on which node, with the ranks of each in ascending order.
#[derive(Clone, Debug, PartialEq)]
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

    /// Ranks of the largest node.
    pub fn largest(&self) -> u32 {
        self.members.iter().map(Vec::len).max().unwrap_or(1) as u32
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
    machines: u32,
}

impl Topology {
    /// `nodes` has the node of each rank: ranks of one node share memory. `machines` has the machine.
    pub fn new(nodes: &[u32], machines: &[u32], costs: &CostTable) -> Topology {
        let machines = Nodes::new(machines);
        let between = if machines.count() > 1 { costs.net } else { costs.tcp };
        let turns = match costs.cores {
            0 => 1.0,
            cores => (f64::from(machines.largest()) / f64::from(cores)).max(1.0),
        };
        Topology {
            inside: costs.shm.in_turns(turns),
            between: between.in_turns(turns),
            nodes: Arc::new(Nodes::new(nodes)),
            machines: machines.count(),
        }
    }

    /// Who runs where.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Whether there is more than one machine.
    pub fn has_machines(&self) -> bool {
        self.machines > 1
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_as_text() {
        let table = CostTable::default();
        assert_eq!(
            table.to_string(),
            "shm=0.100,0.360,60.0,30.0 tcp=0.400,1.500,170.0,30.0 net=20.000,3.000,800.0,30.0 cores=0"
        );
        let again: CostTable = table.to_string().parse().unwrap();
        assert_eq!(again.to_string(), table.to_string());
        let one: CostTable = "tcp=100, 5,800,60".replace(' ', "").parse().unwrap();
        assert_eq!(one.shm, table.shm);
        assert!((one.tcp.latency * 1e6 - 100.0).abs() < 1e-9);
        assert_eq!("cores=3".parse::<CostTable>().unwrap().cores, 3);
        for bad in [
            "cores=-1",
            "tcp",
            "tcp=1,2,3",
            "tcp=1,2,3,x",
            "tcp=1,2,3,4,5",
            "ib=1,2,3,4",
            "tcp=1,2,-3,4",
            "tcp=1,2,nan,4",
        ] {
            assert!(bad.parse::<CostTable>().unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn nodes_by_any_number_and_in_any_order() {
        let nodes = Nodes::new(&[7, 3, 7, 9, 3, 7]);
        assert_eq!((nodes.count(), nodes.owners()), (3, 1));
        assert_eq!(nodes.members(0), [0, 2, 5]);
        assert_eq!((nodes.place(4), nodes.rank(1, 1)), ((1, 1), 4));
    }
}
