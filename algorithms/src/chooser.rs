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
    let two_shot = 2.0 * (c.latency + (n - 1.0) * c.message)
        + 2.0 * (n - 1.0) / n * bytes * c.byte
        + bytes * (c.reduce + c.byte / 4.0);
    let doubling = rounds * (c.latency + c.message + bytes * (c.byte + 2.0 * c.reduce));
    let ring = 2.0 * (n - 1.0) * (c.latency + c.message)
        + 2.0 * (n - 1.0) / n * bytes * c.byte
        + 2.0 * (n - 1.0) / n * bytes * c.reduce;
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
