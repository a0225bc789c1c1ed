//! Plans: one file per algorithm. Each is a pure function from rank, world and sizes to steps.

mod all_gather;
mod all_to_all;
mod among;
mod barrier;
mod blocks;
mod broadcast;
mod circle;
mod folding;
mod gather;
mod gathering;
mod geometry;
mod halving_doubling;
mod hierarchical;
mod message;
mod one_shot;
mod recursive_doubling;
mod reduce;
mod reduce_scatter;
mod ring;
mod rooted;
mod two_shot;

pub use among::Survivors;

use crate::{Algorithm, Topology, Tuning, algorithms_for};
use blocks::BlockList;
use geometry::Pieces;
use ronde_core::Collective;
use ronde_core::call::Shape;
use ronde_core::error::Misuse;
use ronde_core::plan::{Plan, Window};

/// A plan of any collective.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AnyPlan {
    OneShot(one_shot::OneShot),
    TwoShot(two_shot::TwoShot),
    Ring(ring::Ring),
    RecursiveDoubling(recursive_doubling::RecursiveDoubling),
    HalvingDoubling(halving_doubling::HalvingDoubling),
    Hierarchical(hierarchical::Hierarchical),
    ReduceScatter(reduce_scatter::ReduceScatter),
    AllGather(all_gather::AllGather),
    AllToAll(all_to_all::AllToAll),
    Broadcast(broadcast::Broadcast),
    Reduce(reduce::Reduce),
    Gather(gather::Gather),
    Barrier(barrier::Barrier),
    Message(message::Message),
    Among(among::Among),
}

macro_rules! each {
    ($self:ident, $plan:ident => $body:expr) => {
        match $self {
            AnyPlan::OneShot($plan) => $body,
            AnyPlan::TwoShot($plan) => $body,
            AnyPlan::Ring($plan) => $body,
            AnyPlan::RecursiveDoubling($plan) => $body,
            AnyPlan::HalvingDoubling($plan) => $body,
            AnyPlan::Hierarchical($plan) => $body,
            AnyPlan::ReduceScatter($plan) => $body,
            AnyPlan::AllGather($plan) => $body,
            AnyPlan::AllToAll($plan) => $body,
            AnyPlan::Broadcast($plan) => $body,
            AnyPlan::Reduce($plan) => $body,
            AnyPlan::Gather($plan) => $body,
            AnyPlan::Barrier($plan) => $body,
            AnyPlan::Message($plan) => $body,
            AnyPlan::Among($plan) => $body,
        }
    };
}

impl Plan for AnyPlan {
    fn windows(&self) -> u32 {
        each!(self, plan => plan.windows())
    }

    fn window(&self, index: u32, window: &mut Window) {
        each!(self, plan => plan.window(index, window));
    }

    fn windows_in_flight(&self) -> u32 {
        each!(self, plan => plan.windows_in_flight())
    }

    fn writes_once(&self) -> bool {
        each!(self, plan => plan.writes_once())
    }

    fn name(&self) -> &'static str {
        each!(self, plan => plan.name())
    }
}

/// This rank's plan for a call.
pub fn build(
    shape: &Shape<'_>,
    algorithm: Algorithm,
    topology: &Topology,
    tuning: &Tuning,
) -> Result<AnyPlan, Misuse> {
    if !algorithms_for(shape.collective).contains(&algorithm) {
        return Err(no_such(shape.collective, algorithm));
    }
    if shape.ordered && !matches!(algorithm, Algorithm::OneShot | Algorithm::TwoShot | Algorithm::Direct) {
        let text =
            format!("a user-defined operator needs rank order, which {} does not keep", algorithm.name());
        return Err(Misuse::Other(text.into()));
    }
    Ok(match shape.collective {
        Collective::AllReduce => all_reduce(shape, algorithm, topology, tuning),
        Collective::ReduceScatter | Collective::ReduceScatterV => {
            AnyPlan::ReduceScatter(reduce_scatter::ReduceScatter::new(shape, algorithm, tuning))
        }
        Collective::AllGather | Collective::AllGatherV => {
            AnyPlan::AllGather(all_gather::AllGather::new(shape, algorithm, tuning))
        }
        Collective::AllToAll | Collective::AllToAllV => {
            AnyPlan::AllToAll(all_to_all::AllToAll::new(shape, tuning))
        }
        Collective::Broadcast => AnyPlan::Broadcast(broadcast::Broadcast::new(shape, algorithm, tuning)),
        Collective::Reduce => AnyPlan::Reduce(reduce::Reduce::new(shape, algorithm, tuning)),
        Collective::Gather | Collective::GatherV => AnyPlan::Gather(gather::Gather::to_root(shape, tuning)),
        Collective::Scatter | Collective::ScatterV => {
            AnyPlan::Gather(gather::Gather::from_root(shape, tuning))
        }
        Collective::Commit => AnyPlan::Barrier(barrier::Barrier::without_rounds()),
        Collective::Barrier => AnyPlan::Barrier(barrier::Barrier::new(shape)),
        Collective::Send | Collective::Recv => AnyPlan::Message(message::Message::new(shape, tuning)),
    })
}

fn all_reduce(shape: &Shape<'_>, algorithm: Algorithm, topology: &Topology, tuning: &Tuning) -> AnyPlan {
    match algorithm {
        Algorithm::TwoShot => AnyPlan::TwoShot(two_shot::TwoShot::new(shape, tuning)),
        Algorithm::Ring => AnyPlan::Ring(ring::Ring::new(shape, false, tuning)),
        Algorithm::BidirectionalRing => AnyPlan::Ring(ring::Ring::new(shape, true, tuning)),
        Algorithm::RecursiveDoubling => {
            AnyPlan::RecursiveDoubling(recursive_doubling::RecursiveDoubling::new(shape, tuning))
        }
        Algorithm::HalvingDoubling => {
            AnyPlan::HalvingDoubling(halving_doubling::HalvingDoubling::new(shape, tuning))
        }
        Algorithm::Hierarchical => {
            AnyPlan::Hierarchical(hierarchical::Hierarchical::new(shape, topology, tuning))
        }
        _ => AnyPlan::OneShot(one_shot::OneShot::new(shape, tuning)),
    }
}

fn no_such(collective: Collective, algorithm: Algorithm) -> Misuse {
    let known: Vec<&str> = algorithms_for(collective).iter().map(|a| a.name()).collect();
    let text = format!("{collective} has no algorithm \"{}\"; it has {}", algorithm.name(), known.join(", "));
    Misuse::Other(text.into())
}
