//! Groups that some members have made and others have not yet, while somebody dies.

use crate::case::{Memory, SMALL};
use ronde_core::call::{Call, CallOptions};
use ronde_core::collective::{GroupIndex, Limits};
use ronde_core::error::{Hole, Outcome};
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, DType, ReduceOp, Result, Segment, Tolerance};
use ronde_sim::{Cluster, InFlight};

const WORLD: usize = 4;
const COUNT: usize = 8;
/// Makes the group, and its call, only after another has died.
const LATE: usize = 2;

/// One call on all ranks.
struct Op {
    collective: Collective,
    root: usize,
    sources: Vec<Memory>,
    targets: Vec<Memory>,
}

impl Op {
    fn new(collective: Collective, root: usize) -> Op {
        let memories = |value: u64| (0..WORLD).map(|_| Memory::new(&[value; WORLD * COUNT])).collect();
        Op { collective, root, sources: memories(3), targets: memories(9) }
    }

    fn call(&self, rank: usize) -> Call {
        use Collective::*;
        let one = |memory: &Memory| memory.segment().slice(0, COUNT * 8);
        let (source, target) = (&self.sources[rank], &self.targets[rank]);
        let at_root = rank == self.root;
        let (input, output) = match self.collective {
            Broadcast if at_root => (one(source), one(target)),
            Broadcast => (Segment::EMPTY, one(target)),
            Scatter if at_root => (source.segment(), one(target)),
            Scatter => (Segment::EMPTY, one(target)),
            Gather if at_root => (one(source), target.segment()),
            Reduce if at_root => (one(source), one(target)),
            _ => (one(source), Segment::EMPTY),
        };
        Call {
            collective: self.collective,
            dtype: DType::U64,
            count: COUNT,
            peer: self.root as u32,
            reduction: self.collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
            input,
            output,
            ..Call::EMPTY
        }
    }
}

fn steps(cluster: &mut Cluster, rounds: usize) {
    for _ in 0..rounds {
        cluster.step_control();
        for rank in cluster.alive() {
            cluster.step(rank);
        }
    }
}

/// What the survivors are told if rank 2 makes the group only after another has died.
fn told(op: &Op, victim: usize, seed: u64) -> Vec<Option<Result<Outcome>>> {
    let mut cluster = Cluster::new(&[0; WORLD], seed, &Limits::default(), SMALL);
    let mut handles = [None; WORLD];
    let start = |cluster: &mut Cluster, rank: usize| {
        let group = cluster.split(rank);
        cluster.start_in(group, rank, op.call(rank), false).expect("a good call")
    };
    for rank in (0..WORLD).filter(|&rank| rank != LATE) {
        handles[rank] = Some(start(&mut cluster, rank));
    }
    steps(&mut cluster, 400);
    cluster.kill(victim, InFlight::Delivered);
    cluster.notice_death(victim);
    steps(&mut cluster, 2000);
    handles[LATE] = Some(start(&mut cluster, LATE));
    steps(&mut cluster, 2000);
    let take = |rank: usize| cluster.peers[rank].executor.take(handles[rank].expect("it was started"));
    (0..WORLD).filter(|&rank| rank != victim).map(take).collect()
}

/// Nobody is a stranger to a group that it is still making: what only the others hold is not held by all.
pub(crate) fn late_members_agree(seed: u64) {
    use Collective::*;
    for collective in [Broadcast, Scatter, Gather, Reduce] {
        for (root, victim) in [(1, 1), (1, 3), (2, 3), (0, 1)] {
            let what = format!("{collective} from {root} without {victim}, seed {seed}");
            let op = Op::new(collective, root);
            let told = told(&op, victim, seed);
            if collective == Gather && root != LATE {
                let block = &op.targets[root].values()[victim * COUNT..][..COUNT];
                assert_eq!(block, [3; COUNT], "{what}");
            }
            let ended = told.iter().flatten().count();
            assert_eq!(ended, WORLD - 1, "{what}: {told:?}");
            let ok = told.iter().flatten().filter(|told| told.is_ok()).count();
            assert!(ok == 0 || ok == WORLD - 1, "{what}: {told:?}");
            assert!(ok > 0 || root == victim, "{what}: {told:?}");
            let survivors = (0..WORLD).filter(|&rank| rank != victim);
            for (rank, told) in survivors.zip(told.iter().flatten()) {
                // A root that was there has the block of the dead already.
                let counts = collective == Gather && root != LATE;
                let absent = if counts { Vec::new() } else { vec![victim as u32] };
                let lacks = Hole { call: 0, bytes: victim * COUNT * 8..(victim + 1) * COUNT * 8 };
                let has_hole = collective == Gather && rank == root && !counts;
                let holes = if has_hole { vec![lacks] } else { Vec::new() };
                let is_right = |told: &Outcome| {
                    let is_whole = told.interruptions == 0 && told.absent.is_empty();
                    told.holes == holes && (told.absent == absent || is_whole)
                };
                assert!(told.as_ref().map_or(true, is_right), "{what}: {told:?}");
            }
        }
    }
}

#[cfg(not(feature = "planted-bugs"))]
#[test]
fn members_that_are_late_agree_with_the_others() {
    (0..20).for_each(late_members_agree);
}

/// Calls that tolerate no loss wait at a member that has not made their group. Their end takes them from no account
/// of the sender while they may still lie there, or other calls would be too much for it.
#[test]
fn what_waits_for_a_group_stays_on_the_account() {
    for seed in 0..40 {
        let limits = Limits { eager_bytes: 1 << 12, early_bytes: 1 << 14, ..Limits::default() };
        let mut cluster = Cluster::new(&[0; WORLD], seed, &limits, SMALL);
        let op = Op::new(Collective::Broadcast, 0);
        let broadcasts = |cluster: &mut Cluster, group: GroupIndex, tolerance: Tolerance| {
            for _ in 0..50 {
                let options = CallOptions { tolerance, ..CallOptions::default() };
                let call = Call { options, ..op.call(0) };
                let _ = cluster.start_in(group, 0, call, true);
            }
        };
        let group = cluster.split(0);
        broadcasts(&mut cluster, group, Tolerance::None);
        steps(&mut cluster, 300);
        cluster.kill(3, InFlight::Delivered);
        cluster.notice_death(3);
        steps(&mut cluster, 2000);
        // A correct peer that is accused panics here.
        broadcasts(&mut cluster, GroupIndex::default(), Tolerance::Recover);
        steps(&mut cluster, 600);
    }
}
