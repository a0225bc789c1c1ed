//! Which algorithm: the alpha-beta model of Hockney with a cost per message and per reduced byte, over
//! the parameters in [`Topology`]. A pure function of the call and the view, so that all ranks choose
//! alike without talking.

use crate::{Algorithm, Topology};
use ronde_core::Collective;
use ronde_core::call::Shape;

/// Ranks above which a vector is reduced around a ring rather than by direct exchange.
const DIRECT_RANKS: u32 = 32;

/// The cheapest algorithm for a call.
pub fn choose(shape: &Shape<'_>, topology: &Topology) -> Algorithm {
    match shape.collective {
        Collective::AllReduce => all_reduce(shape, topology),
        Collective::Broadcast => broadcast(shape, topology),
        Collective::Barrier => Algorithm::Dissemination,
        Collective::Send | Collective::Recv => Algorithm::PointToPoint,
        _ => Algorithm::Direct,
    }
}

fn all_reduce(shape: &Shape<'_>, topology: &Topology) -> Algorithm {
    let n = f64::from(shape.world);
    let bytes = (shape.count * shape.element) as f64;
    let c = topology.costs();
    let rounds = f64::from(u32::BITS - (shape.world - 1).leading_zeros());
    let one_shot = c.latency + (n - 1.0) * (c.message + bytes * c.byte) + n * bytes * c.reduce;
    let two_shot =
        2.0 * (c.latency + (n - 1.0) * c.message) + 2.0 * (n - 1.0) / n * bytes * c.byte + bytes * c.reduce;
    let doubling = rounds * (c.latency + c.message + bytes * (c.byte + 2.0 * c.reduce));
    let ring = 2.0 * (n - 1.0) * (c.latency + c.message)
        + 2.0 * (n - 1.0) / n * bytes * c.byte
        + 2.0 * (n - 1.0) / n * bytes * c.reduce;
    // Small one-shot ops commit by log, without a message; all others tell everybody that they are done.
    let done = c.latency + (n - 1.0) * c.message / 2.0;
    let (two_shot, doubling, ring) = (two_shot + done, doubling + done, ring + done);
    if shape.ordered {
        return if one_shot <= two_shot { Algorithm::OneShot } else { Algorithm::TwoShot };
    }
    let direct = if shape.world <= DIRECT_RANKS { two_shot } else { f64::INFINITY };
    let mut best = (one_shot, Algorithm::OneShot);
    for other in
        [(direct, Algorithm::TwoShot), (doubling, Algorithm::RecursiveDoubling), (ring, Algorithm::Ring)]
    {
        if other.0 < best.0 {
            best = other;
        }
    }
    best.1
}

fn broadcast(shape: &Shape<'_>, topology: &Topology) -> Algorithm {
    let n = f64::from(shape.world);
    let bytes = (shape.count * shape.element) as f64;
    let c = topology.costs();
    let rounds = f64::from(u32::BITS - (shape.world.max(2) - 1).leading_zeros());
    let direct = c.latency + (n - 1.0) * (c.message + bytes * c.byte);
    let tree = rounds * (c.latency + c.message + bytes * c.byte);
    // A chain is a pipeline: its latency counts once per rank, its bytes once.
    let chain = (n - 1.0) * (c.latency + c.message + (512e3f64).min(bytes) * c.byte) + bytes * c.byte;
    if direct <= tree && direct <= chain {
        Algorithm::Direct
    } else if tree <= chain {
        Algorithm::Tree
    } else {
        Algorithm::Chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronde_core::call::Blocks;

    fn chosen(world: u32, bytes: usize, shm: bool) -> Algorithm {
        let none = Blocks::default();
        let shape = Shape {
            collective: Collective::AllReduce,
            rank: 0,
            world,
            count: bytes / 4,
            element: 4,
            peer: 0,
            send: &none,
            recv: &none,
            in_place: false,
            ordered: false,
        };
        choose(&shape, &Topology::new(&vec![0; world as usize], shm))
    }

    #[test]
    fn small_vectors_go_in_one_shot_and_large_ones_in_two() {
        for shm in [true, false] {
            for world in [2, 3, 4] {
                assert_eq!(chosen(world, 8, shm), Algorithm::OneShot, "{world} ranks, shm {shm}");
                assert_eq!(chosen(world, 64 << 20, shm), Algorithm::TwoShot, "{world} ranks, shm {shm}");
            }
        }
    }

    #[test]
    fn many_ranks_double_when_small_and_go_round_when_large() {
        assert_eq!(chosen(64, 8, false), Algorithm::RecursiveDoubling);
        assert_eq!(chosen(64, 256 << 20, false), Algorithm::Ring);
    }
}
