//! Every collective × element type × operator × in and out of place × kind of memory × transport × number of ranks, on
//! real processes, against an oracle. In place, a rooted collective is called in both ways that programs use: with the
//! root's vectors alone, and with the same vectors on every rank. What all ranks get is compared bit by bit.

mod barriers;
mod case;
mod memory;
mod messages;
mod values;

use case::{Case, Here, Place, has_uneven_blocks};
use memory::Memory;
use ronde::{Collective, DType, Group, ReduceOp, Tolerance};
use ronde_algorithms::algorithms_for;
use ronde_multiprocess::{is_child, run};

/// All that move vectors.
fn collectives() -> impl Iterator<Item = Collective> {
    let others = [Collective::Barrier, Collective::Send, Collective::Recv];
    Collective::ALL.into_iter().filter(move |collective| !others.contains(collective))
}

fn operators(collective: Collective, dtype: DType) -> Vec<Option<ReduceOp>> {
    match collective.reduces() {
        true => ReduceOp::ALL.into_iter().filter(|op| op.supports(dtype)).map(Some).collect(),
        false => vec![None],
    }
}

fn places(collective: Collective) -> &'static [Place] {
    match collective.has_root() && !has_uneven_blocks(collective) {
        true => &[Place::Apart, Place::Shared, Place::NamedByAll],
        false => &[Place::Apart, Place::Shared],
    }
}

/// Which lengths to run with which types and operators.
struct Cases {
    n: usize,
    registered: bool,
    cases: Vec<Case>,
}

impl Cases {
    fn push(&mut self, case: Case) {
        let seed = self.cases.len() as u64 + 7;
        let root = (seed % self.n as u64) as u32;
        self.cases.push(Case { root, seed, ..case });
    }

    /// Lengths around the number of ranks and an odd one; of registered memory what is read in place at each rank, and
    /// what is too short for that.
    fn counts(&self, case: &Case) -> Vec<usize> {
        let n = self.n;
        if !self.registered {
            return vec![0, 1, n - 1, n, n + 1, 251];
        }
        let whole =
            matches!(case.collective, Collective::AllReduce | Collective::Reduce | Collective::Broadcast);
        let pieces = if whole { n } else { 1 };
        vec![251, ((4096 * pieces + 100) / case.dtype.size()) | 1]
    }

    fn all_types(&mut self, case: Case) {
        for dtype in DType::ALL {
            for op in operators(case.collective, dtype) {
                for &place in places(case.collective) {
                    // Where a root's vectors lie has nothing to do with the operator at the other ranks: one spares time.
                    if place == Place::NamedByAll
                        && case.collective == Collective::Reduce
                        && op != Some(ReduceOp::Sum)
                    {
                        continue;
                    }
                    let case = Case { dtype, op, place, ..case };
                    for count in self.counts(&case) {
                        let tolerance = if self.cases.len().is_multiple_of(3) {
                            Tolerance::None
                        } else {
                            Tolerance::Recover
                        };
                        self.push(Case { count, tolerance, ..case });
                    }
                }
            }
        }
    }

    /// Vectors of many windows.
    fn long(&mut self, case: Case) {
        for count in [40_000, 400_001] {
            for &place in places(case.collective) {
                self.push(Case { count, place, ..case });
            }
        }
    }

    /// Each algorithm by its name.
    fn by_algorithm(&mut self, case: Case) {
        for algorithm in algorithms_for(case.collective) {
            for dtype in DType::ALL {
                for op in operators(case.collective, dtype) {
                    for &place in &places(case.collective)[..2] {
                        self.push(Case { dtype, op, place, algorithm: Some(algorithm.name()), ..case });
                    }
                }
            }
        }
    }
}

fn cases(n: usize, registered: bool) -> Vec<Case> {
    let mut cases = Cases { n, registered, cases: Vec::new() };
    for collective in collectives() {
        let case = Case {
            collective,
            dtype: DType::F32,
            op: collective.reduces().then_some(ReduceOp::Sum),
            count: 131,
            root: 0,
            place: Place::Apart,
            tolerance: Tolerance::Recover,
            algorithm: None,
            seed: 0,
        };
        cases.all_types(case);
        cases.long(case);
        if !registered && algorithms_for(collective).len() > 1 {
            cases.by_algorithm(case);
        }
    }
    cases.cases
}

/// What all ranks should have alike they have.
fn compare(group: &Group, cases: &[Case], hashes: &[u64]) {
    let mut all = vec![0; hashes.len() * group.size() as usize];
    let _ = group.all_gather(hashes, &mut all).expect("all hashes");
    for (rank, others) in all.chunks(hashes.len()).enumerate() {
        let other = (0..hashes.len()).find(|&i| others[i] != hashes[i]);
        assert!(other.is_none(), "rank {rank} has other bits of {:?}", other.map(|i| cases[i]));
    }
}

#[test]
fn matrix_rank() {
    if !is_child() {
        return;
    }
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    let registered = std::env::var_os(REGISTERED).is_some();
    let here = Here { group: &group, memory: Memory::new(&group), registered };
    messages::check(&here);
    let cases = cases(group.size() as usize, registered);
    let hashes: Vec<u64> = cases.iter().map(|case| case.check(&here)).collect();
    compare(&group, &cases, &hashes);
    drop(here);
    group.close().expect("close");
}

const REGISTERED: &str = "RONDE_TEST_REGISTERED";

#[test]
fn over_tcp() {
    if !is_child() {
        for ranks in [1, 2, 3, 4, 5, 8] {
            run("matrix_rank", ranks, &[("RONDE_TRANSPORTS", "tcp")]);
        }
    }
}

#[test]
fn over_shared_memory() {
    if !is_child() {
        for ranks in [2, 3, 4, 5, 8] {
            run("matrix_rank", ranks, &[("RONDE_TRANSPORTS", "shm")]);
        }
    }
}

#[test]
fn in_registered_memory() {
    if !is_child() {
        for ranks in [1, 2, 3, 4, 5, 8] {
            run("matrix_rank", ranks, &[("RONDE_TRANSPORTS", "shm"), (REGISTERED, "1")]);
        }
    }
}
