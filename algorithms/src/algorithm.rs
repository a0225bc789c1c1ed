//! Names of the algorithms.

use ronde_core::Collective;

/// How a collective is carried out. The names are the field's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// Everybody sends everything to everybody and reduces alone.
    OneShot,
    /// Each rank owns a shard: gathers its raw pieces, reduces, sends the result to all (direct).
    TwoShot,
    /// Reduce-scatter and all-gather around a ring.
    Ring,
    /// A ring in each direction, for half of the vector each.
    BidirectionalRing,
    /// Pairs exchange whole vectors at doubling distance.
    RecursiveDoubling,
    /// Reduce-scatter by halving, all-gather by doubling (Rabenseifner).
    HalvingDoubling,
    /// Inside each node first, then between nodes.
    Hierarchical,
    /// One message per pair.
    Direct,
    /// Binomial tree from or to the root.
    Tree,
    /// A pipeline from rank to rank.
    Chain,
    /// Tokens at doubling distance.
    Dissemination,
    /// A message from one rank to another.
    PointToPoint,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 12] = {
        use Algorithm::*;
        [
            OneShot,
            TwoShot,
            Ring,
            BidirectionalRing,
            RecursiveDoubling,
            HalvingDoubling,
            Hierarchical,
            Direct,
            Tree,
            Chain,
            Dissemination,
            PointToPoint,
        ]
    };

    /// The name on the command line and in outcomes.
    pub const fn name(self) -> &'static str {
        use Algorithm::*;
        match self {
            OneShot => "one-shot",
            TwoShot => "two-shot",
            Ring => "ring",
            BidirectionalRing => "bidirectional-ring",
            RecursiveDoubling => "recursive-doubling",
            HalvingDoubling => "halving-doubling",
            Hierarchical => "hierarchical",
            Direct => "direct",
            Tree => "tree",
            Chain => "chain",
            Dissemination => "dissemination",
            PointToPoint => "point-to-point",
        }
    }

    /// The algorithm with this name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// The algorithms that exist for a collective.
pub fn algorithms_for(collective: Collective) -> &'static [Algorithm] {
    use Algorithm::*;
    match collective {
        Collective::AllReduce => {
            &[OneShot, TwoShot, Ring, BidirectionalRing, RecursiveDoubling, HalvingDoubling, Hierarchical]
        }
        Collective::ReduceScatter
        | Collective::ReduceScatterV
        | Collective::AllGather
        | Collective::AllGatherV => &[Direct, Ring],
        Collective::Broadcast | Collective::Reduce => &[Direct, Tree, Chain],
        Collective::Barrier | Collective::Commit => &[Dissemination],
        Collective::Send | Collective::Recv => &[PointToPoint],
        _ => &[Direct],
    }
}

#[cfg(test)]
mod tests {
    use super::Algorithm;

    #[test]
    fn every_algorithm_has_a_name_that_finds_it() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
    }
}
