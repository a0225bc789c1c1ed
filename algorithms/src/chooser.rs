//! Which algorithm: Hockney's alpha-beta model with a cost per message and per reduced byte, over the
//! measured parameters in [`Topology`]. A pure function of the call and the view, so that all ranks
//! choose alike without talking.

use crate::{Algorithm, Costs, Topology};
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::collective::Limits;

/// Ranks above which every rank does not talk to every other with large vectors: so many senders at once
/// overflow the queues before one receiver (incast), which the model does not know.
const DIRECT_RANKS: u32 = 32;

/// Part of a vector that is under way before the next rank of a pipeline begins, in bytes.
const PIPELINE_BYTES: f64 = 256e3;

/// The cheapest algorithm for a call.
pub fn choose(shape: &Shape<'_>, topology: &Topology) -> Algorithm {
    let model = Model::new(shape, topology);
    let rounds_once = shape.narrow && shape.world <= DIRECT_RANKS;
    match shape.collective {
        Collective::AllReduce => model.all_reduce(shape.ordered || rounds_once),
        Collective::ReduceScatter if shape.ordered => Algorithm::Direct,
        Collective::ReduceScatter | Collective::AllGather => model.blocks(),
        Collective::Broadcast => model.broadcast(),
        Collective::Reduce if shape.ordered || rounds_once => Algorithm::Direct,
        Collective::Reduce => model.reduce(),
        Collective::Barrier | Collective::Commit => Algorithm::Dissemination,
        Collective::Send | Collective::Recv => Algorithm::PointToPoint,
        _ => Algorithm::Direct,
    }
}

struct Model<'a> {
    world: u32,
    /// The same, and what it takes often.
    n: f64,
    rounds: f64,
    bytes: f64,
    c: Costs,
    topology: &'a Topology,
}

impl<'a> Model<'a> {
    fn new(shape: &Shape<'_>, topology: &'a Topology) -> Model<'a> {
        Model {
            world: shape.world,
            n: f64::from(shape.world),
            rounds: f64::from(u32::BITS - (shape.world.max(2) - 1).leading_zeros()),
            bytes: (shape.count * shape.element) as f64,
            c: *topology.costs(),
            topology,
        }
    }

    fn all_reduce(&self, ordered: bool) -> Algorithm {
        use Algorithm::*;
        let Model { n, bytes: s, c, .. } = self;
        if self.world == 1 {
            return OneShot;
        }
        let done = self.done();
        let one_shot = done + c.latency + (n - 1.0) * (c.message + s * c.byte) + n * s * c.reduce;
        let two_shot = done + direct(*n, *s, c);
        if ordered {
            return if one_shot <= two_shot { OneShot } else { TwoShot };
        }
        // Each byte that is reduced is read from two sources; each shard is reduced n-1 times.
        let hop = c.latency + c.message;
        let moved = 2.0 * (n - 1.0) / n * s;
        // Ranks beyond a power of two hand their vector in, and get the result.
        let folds = f64::from(u8::from(!self.world.is_power_of_two()));
        let halves = f64::from(self.world.ilog2());
        let folded = folds * 2.0 * (hop + s * (c.byte + c.reduce));
        let doubling = done + folded + halves * (hop + s * (c.byte + 2.0 * c.reduce));
        let halving = done + folded + 2.0 * halves * hop + moved * (c.byte + c.reduce);
        let ring = done + 2.0 * (n - 1.0) * hop + moved * (c.byte + c.reduce);
        let talks_to_all = self.world <= DIRECT_RANKS;
        cheapest([
            (one_shot, OneShot),
            (if talks_to_all { two_shot } else { f64::INFINITY }, TwoShot),
            // The same as one shot for two.
            (if self.world > 2 { doubling } else { f64::INFINITY }, RecursiveDoubling),
            (halving, HalvingDoubling),
            (ring, Ring),
            (done + self.hierarchical(), Hierarchical),
        ])
    }

    /// Small ops commit by log, without a message; in all others everybody tells everybody that it is done.
    fn done(&self) -> f64 {
        let limit = Limits::default().log_op_bytes(self.topology.nodes().count() > 1);
        match self.bytes <= limit as f64 {
            true => 0.0,
            false => self.c.latency + (self.n - 1.0) * self.c.message / 2.0,
        }
    }

    /// Inside the nodes, between them, inside again. No choice where nodes do not differ from ranks.
    fn hierarchical(&self) -> f64 {
        let nodes = self.topology.nodes();
        if nodes.count() < 2 || nodes.owners() < 2 || nodes.count() > DIRECT_RANKS {
            return f64::INFINITY;
        }
        let inside = direct(f64::from(nodes.largest()), self.bytes, &self.topology.inside);
        let part = self.bytes / f64::from(nodes.owners());
        inside + direct(f64::from(nodes.count()), part, &self.topology.between)
    }

    /// Reduce-scatter and all-gather: `bytes` is one rank's block.
    fn blocks(&self) -> Algorithm {
        let large = self.bytes * self.c.byte > self.c.latency + self.c.message;
        if self.world > DIRECT_RANKS && large { Algorithm::Ring } else { Algorithm::Direct }
    }

    fn broadcast(&self) -> Algorithm {
        let Model { n, rounds, bytes: s, c, .. } = self;
        let hop = c.latency + c.message;
        cheapest([
            (c.latency + (n - 1.0) * (c.message + s * c.byte), Algorithm::Direct),
            (rounds * (hop + s * c.byte), Algorithm::Tree),
            ((n - 1.0) * (hop + s.min(PIPELINE_BYTES) * c.byte) + s * c.byte, Algorithm::Chain),
        ])
    }

    fn reduce(&self) -> Algorithm {
        let Model { n, rounds, bytes: s, c, .. } = self;
        let hop = c.latency + c.message;
        let pass = c.byte + 2.0 * c.reduce;
        cheapest([
            (c.latency + (n - 1.0) * (c.message + s * c.byte) + n * s * c.reduce, Algorithm::Direct),
            (rounds * (hop + s * pass), Algorithm::Tree),
            ((n - 1.0) * (hop + s.min(PIPELINE_BYTES) * pass) + s * pass, Algorithm::Chain),
        ])
    }
}

/// Two-shot: shards to their owners, reduced, and back.
fn direct(n: f64, bytes: f64, c: &Costs) -> f64 {
    2.0 * (c.latency + (n - 1.0) * c.message) + 2.0 * (n - 1.0) / n * bytes * c.byte + bytes * c.reduce
}

/// The first of the least.
fn cheapest<const N: usize>(candidates: [(f64, Algorithm); N]) -> Algorithm {
    let least = |best: (f64, Algorithm), next: (f64, Algorithm)| if next.0 < best.0 { next } else { best };
    candidates.into_iter().fold((f64::INFINITY, candidates[0].1), least).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CostTable;
    use ronde_core::call::Blocks;

    /// What is chosen for `count` elements of `element` bytes.
    fn chosen_for(
        collective: Collective,
        (count, element): (usize, usize),
        narrow: bool,
        (nodes, machines, costs): (&[u32], bool, &CostTable),
    ) -> Algorithm {
        let none = Blocks::default();
        let shape = Shape {
            collective,
            rank: 0,
            world: nodes.len() as u32,
            count,
            element,
            peer: 0,
            send: &none,
            recv: &none,
            stand_ins: &[],
            in_place: false,
            ordered: false,
            narrow,
        };
        let alone: Vec<u32> = (0..nodes.len() as u32).collect();
        let machines = if machines { alone } else { vec![0; nodes.len()] };
        choose(&shape, &Topology::new(nodes, &machines, costs))
    }

    /// Ranks that all share memory, or none.
    fn nodes(world: u32, shm: bool) -> Vec<u32> {
        (0..world).map(|rank| if shm { 0 } else { rank }).collect()
    }

    fn chosen_on(world: u32, bytes: usize, (shm, machines): (bool, bool)) -> Algorithm {
        let at = (&nodes(world, shm)[..], machines, &CostTable::default());
        chosen_for(Collective::AllReduce, (bytes / 4, 4), false, at)
    }

    /// On one machine, or one rank a machine.
    fn chosen(world: u32, bytes: usize, shm: bool) -> Algorithm {
        chosen_on(world, bytes, (shm, !shm))
    }

    #[test]
    fn small_vectors_go_in_one_shot_and_large_ones_in_two() {
        for shm in [true, false] {
            for world in [2, 3] {
                assert_eq!(chosen(world, 8, shm), Algorithm::OneShot, "{world} ranks, shm {shm}");
                assert_eq!(chosen(world, 64 << 20, shm), Algorithm::TwoShot, "{world} ranks, shm {shm}");
            }
        }
    }

    /// Where there is hardly any latency, messages count.
    #[test]
    fn on_one_machine_even_four_ranks_double() {
        assert_eq!(chosen_on(4, 8, (false, false)), Algorithm::RecursiveDoubling);
        assert_eq!(chosen_on(4, 8, (true, false)), Algorithm::RecursiveDoubling);
        assert_eq!(chosen_on(4, 8, (false, true)), Algorithm::OneShot);
    }

    /// Each round is a turn to wait for.
    #[test]
    fn ranks_that_take_turns_want_few_rounds() {
        let chosen = |shm, bytes: usize, cores| {
            let costs = CostTable { cores, ..CostTable::default() };
            chosen_for(Collective::AllReduce, (bytes / 4, 4), false, (&nodes(4, shm), false, &costs))
        };
        assert_eq!(
            [4, 2].map(|cores| chosen(true, 8, cores)),
            [Algorithm::RecursiveDoubling, Algorithm::OneShot]
        );
        assert_eq!(chosen(false, 32 << 10, 2), Algorithm::HalvingDoubling, "bytes cost twice as much too");
        assert_eq!(chosen(false, 64 << 20, 2), Algorithm::TwoShot);
    }

    #[test]
    fn many_ranks_double_when_small_and_halve_when_large() {
        assert_eq!(chosen(64, 8, false), Algorithm::RecursiveDoubling);
        assert_eq!(chosen(64, 256 << 10, false), Algorithm::HalvingDoubling);
        assert_eq!(chosen(65, 256 << 20, false), Algorithm::Ring);
    }

    #[test]
    fn narrow_floats_round_once_up_to_many_ranks() {
        let chosen = |world, collective, narrow| {
            chosen_for(collective, (4, 2), narrow, (&nodes(world, false), false, &CostTable::default()))
        };
        assert_eq!(chosen(32, Collective::AllReduce, false), Algorithm::RecursiveDoubling);
        assert_eq!(chosen(32, Collective::AllReduce, true), Algorithm::OneShot);
        assert_eq!(chosen(64, Collective::AllReduce, true), Algorithm::RecursiveDoubling);
        assert_eq!(chosen(32, Collective::Reduce, true), Algorithm::Direct);
    }

    #[test]
    fn nodes_are_used_where_they_are_faster_inside() {
        let nodes: Vec<u32> = (0..16).map(|rank| rank / 4).collect();
        let chosen = |costs: &CostTable| {
            chosen_for(Collective::AllReduce, (16 << 20, 4), false, (&nodes, false, costs))
        };
        let even = CostTable { shm: CostTable::default().tcp, ..CostTable::default() };
        assert_eq!(chosen(&CostTable::default()), Algorithm::Hierarchical);
        assert_ne!(chosen(&even), Algorithm::Hierarchical);
    }
}
