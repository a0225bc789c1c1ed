//! What is called, who is lost at which point of it, and both as text.

use ronde::{Collective, DType, Tolerance};
use ronde_core::failpoint::Point;
use std::fmt::{self, Display};

/// The root of calls that have one: not the host of the coordinator.
pub(crate) const ROOT: u32 = 1;

/// A collective as it is called here.
#[derive(PartialEq, Debug)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) collective: Collective,
    pub(crate) algorithm: Option<&'static str>,
    pub(crate) dtype: DType,
    pub(crate) count: usize,
    pub(crate) tolerance: Tolerance,
    /// Two such calls in a commit group.
    pub(crate) together: bool,
}

const fn setup(
    name: &'static str,
    collective: Collective,
    algorithm: &'static str,
    (dtype, count): (DType, usize),
) -> Setup {
    let (algorithm, tolerance, together) = (Some(algorithm), Tolerance::Recover, false);
    Setup { name, collective, algorithm, dtype, count, tolerance, together }
}

const fn together(setup: Setup) -> Setup {
    Setup { together: true, ..setup }
}

// Vectors and blocks of some windows on both transports. Plans that add in rank order get floats, of which another
// order gives other bits.
const VECTOR: (DType, usize) = (DType::F32, 175_003);
const VECTOR_ANY_ORDER: (DType, usize) = (DType::U64, 87_501);
const BLOCK: (DType, usize) = (DType::F32, 45_001);
const BLOCK_ANY_ORDER: (DType, usize) = (DType::U64, 22_501);
/// Little enough for a commit by log.
const SMALL: (DType, usize) = (DType::F32, 33);

/// All of them.
pub(crate) const SETUPS: [Setup; 31] = {
    use Collective::*;
    [
        setup("one-shot-small", AllReduce, "one-shot", SMALL),
        setup("one-shot", AllReduce, "one-shot", VECTOR),
        setup("two-shot", AllReduce, "two-shot", VECTOR),
        setup("two-shot-small", AllReduce, "two-shot", SMALL),
        setup("ring", AllReduce, "ring", VECTOR_ANY_ORDER),
        setup("bidirectional-ring", AllReduce, "bidirectional-ring", VECTOR_ANY_ORDER),
        setup("recursive-doubling", AllReduce, "recursive-doubling", VECTOR_ANY_ORDER),
        setup("halving-doubling", AllReduce, "halving-doubling", VECTOR_ANY_ORDER),
        setup("hierarchical", AllReduce, "hierarchical", VECTOR_ANY_ORDER),
        Setup { tolerance: Tolerance::PerWindow, ..setup("per-window", AllReduce, "two-shot", VECTOR) },
        Setup {
            tolerance: Tolerance::PerWindow,
            ..setup("per-window-ring", AllReduce, "ring", VECTOR_ANY_ORDER)
        },
        Setup { tolerance: Tolerance::None, ..setup("strict", AllReduce, "two-shot", VECTOR) },
        together(setup("together-small", AllReduce, "one-shot", SMALL)),
        together(setup("together", AllReduce, "two-shot", VECTOR)),
        together(setup("together-ring", AllReduce, "ring", VECTOR_ANY_ORDER)),
        together(setup("together-gather", AllGather, "direct", BLOCK)),
        setup("all-gather-small", AllGather, "direct", SMALL),
        setup("all-gather", AllGather, "direct", BLOCK),
        setup("all-gather-ring", AllGather, "ring", BLOCK),
        setup("reduce-scatter", ReduceScatter, "direct", BLOCK),
        setup("reduce-scatter-ring", ReduceScatter, "ring", BLOCK_ANY_ORDER),
        setup("all-to-all", AllToAll, "direct", BLOCK),
        setup("broadcast", Broadcast, "direct", VECTOR),
        setup("broadcast-tree", Broadcast, "tree", VECTOR),
        setup("broadcast-chain", Broadcast, "chain", VECTOR),
        setup("reduce", Reduce, "direct", VECTOR),
        setup("reduce-tree", Reduce, "tree", VECTOR_ANY_ORDER),
        setup("reduce-chain", Reduce, "chain", VECTOR_ANY_ORDER),
        setup("gather", Gather, "direct", BLOCK),
        setup("scatter", Scatter, "direct", BLOCK),
        setup("barrier", Barrier, "dissemination", (DType::U8, 0)),
    ]
};

/// Even ranks send to the odd ones after them.
pub(crate) const MESSAGE: Setup = setup("message", Collective::Send, "point-to-point", VECTOR);

impl Setup {
    pub(crate) fn all() -> impl Iterator<Item = &'static Setup> {
        SETUPS.iter().chain([&MESSAGE])
    }

    pub(crate) fn named(name: &str) -> Option<&'static Setup> {
        Setup::all().find(|setup| setup.name == name)
    }

    pub(crate) fn has_places(&self) -> bool {
        self.count > 0 && !self.collective.is_point_to_point()
    }

    /// Survivors may end it differently: some well, some with the error that names the lost.
    pub(crate) fn ends_alone(&self) -> bool {
        self.collective.is_point_to_point() || self.tolerance == Tolerance::None
    }
}

/// What happens to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Kill,
    /// It wakes once the others have gone on.
    Stop,
    /// Its sockets to this rank are shut down: one of the two is given up.
    Cut(u32),
    /// The same where connections are made again: nobody is lost.
    Snip(u32),
}

/// A rank and what happens to it when it has been so often at a point of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Armed {
    pub(crate) rank: u32,
    pub(crate) point: Point,
    pub(crate) window: u32,
    pub(crate) nth: u32,
    pub(crate) fate: Fate,
}

/// One call, and who is lost in it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) setup: &'static Setup,
    pub(crate) in_place: bool,
    pub(crate) armed: Vec<Armed>,
}

impl Case {
    /// Who may be lost.
    pub(crate) fn suspects(&self) -> Vec<u32> {
        let of = |armed: &Armed| match armed.fate {
            Fate::Cut(peer) => vec![armed.rank, peer],
            Fate::Kill | Fate::Stop => vec![armed.rank],
            Fate::Snip(_) => Vec::new(),
        };
        self.armed.iter().flat_map(of).collect()
    }

    /// How many are lost.
    pub(crate) fn losses(&self) -> usize {
        self.armed.iter().filter(|armed| !matches!(armed.fate, Fate::Snip(_))).count()
    }

    pub(crate) fn kills(&self) -> usize {
        self.armed.iter().filter(|armed| armed.fate == Fate::Kill).count()
    }

    pub(crate) fn parse(text: &str) -> Option<Case> {
        let mut words = text.split_whitespace();
        let (name, place) = words.next()?.split_once(':')?;
        let armed = words.map(Armed::parse).collect::<Option<Vec<_>>>()?;
        Some(Case { setup: Setup::named(name)?, in_place: place == "in", armed })
    }
}

impl Armed {
    fn parse(text: &str) -> Option<Armed> {
        let parts: Vec<&str> = text.split('.').collect();
        let [rank, point, window, nth, fate] = parts[..] else { return None };
        let fate = match fate {
            "kill" => Fate::Kill,
            "stop" => Fate::Stop,
            cut => match cut.strip_prefix("snip-") {
                Some(peer) => Fate::Snip(peer.parse().ok()?),
                None => Fate::Cut(cut.strip_prefix("cut-")?.parse().ok()?),
            },
        };
        let point = *Point::ALL.iter().find(|known| format!("{known:?}") == point)?;
        let (window, nth) = (window.parse().ok()?, nth.parse().ok()?);
        Some(Armed { rank: rank.parse().ok()?, point, window, nth, fate })
    }
}

impl Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:?}.{}.{}.", self.rank, self.point, self.window, self.nth)?;
        match self.fate {
            Fate::Kill => f.write_str("kill"),
            Fate::Stop => f.write_str("stop"),
            Fate::Cut(peer) => write!(f, "cut-{peer}"),
            Fate::Snip(peer) => write!(f, "snip-{peer}"),
        }
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.setup.name, if self.in_place { "in" } else { "out" })?;
        self.armed.iter().try_for_each(|armed| write!(f, " {armed}"))
    }
}
