//! After warm-up, collectives do not allocate on the threads that call them, but for the lists of those with blocks of
//! different sizes. The only test of this program, since it replaces the allocator.

use ronde::{Blocks, CallOptions, Config, Group, ReduceOp};
use ronde_conformance::Counting;
use ronde_multiprocess::free_port;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OPS: u64 = 200;
/// A peak of messages that came early may be higher than any before.
const FEW: u64 = OPS / 40;
/// Lists of lengths and offsets travel with a call, whatever it moves: of what is sent, of what is received, and in the plan.
const LISTS: u64 = 10 * OPS;

/// Runs an op often: at first to warm up, then counted. Returns the allocations of the calmest of some runs.
fn count(mut op: impl FnMut()) -> u64 {
    (0..300).for_each(|_| op());
    let mut run = || {
        let before = Counting::allocations();
        (0..OPS).for_each(|_| op());
        Counting::allocations() - before
    };
    (0..4).map(|_| run()).min().unwrap_or(0)
}

fn measure(group: &Group) -> Vec<(String, u64)> {
    let ranks = group.size() as usize;
    let mut counts = Vec::new();
    for elements in [2usize, 4096, 100_000] {
        let (mut data, mut block) = (vec![1f32; elements * ranks], vec![0f32; elements]);
        let input = vec![1f32; elements * ranks];
        let mut add = |what: &str, allocations| counts.push((format!("{what} of {elements}"), allocations));
        add("all_reduce", count(|| drop(group.all_reduce(&mut data, ReduceOp::Max).unwrap())));
        add(
            "all_reduce out of place",
            count(|| drop(group.all_reduce_into(&input, &mut data, ReduceOp::Sum).unwrap())),
        );
        add(
            "reduce_scatter",
            count(|| drop(group.reduce_scatter(&input, &mut block, ReduceOp::Sum).unwrap())),
        );
        add("all_gather", count(|| drop(group.all_gather(&block, &mut data).unwrap())));
        add("all_to_all", count(|| drop(group.all_to_all(&input, &mut data).unwrap())));
        add("broadcast", count(|| drop(group.broadcast(&mut data, 0).unwrap())));
        add("barrier", count(|| drop(group.barrier().unwrap())));
        add("reduce", count(|| drop(group.reduce(&input, &mut data, ReduceOp::Sum, 0).unwrap())));
        add("gather", count(|| drop(group.gather(&block, &mut data, 0).unwrap())));
        add("scatter", count(|| drop(group.scatter(&input, &mut block, 0).unwrap())));
        let options = CallOptions::default();
        let (next, before) = ((group.rank() + 1) % group.size(), (group.rank() + 2) % group.size());
        let first = group.rank() == 0;
        add(
            "messages",
            count(|| {
                // One after another around the circle, so that none waits for itself.
                if first {
                    drop(group.send(&input[..elements], next, &options).unwrap());
                }
                drop(group.recv(&mut block, before, &options).unwrap());
                if !first {
                    drop(group.send(&block, next, &options).unwrap());
                }
            }),
        );
        let blocks = Blocks::dense(&(0..ranks).map(|rank| elements - rank % 2).collect::<Vec<_>>());
        let own = elements - group.rank() as usize % 2;
        let lists = count(|| drop(group.all_gather_v(&block[..own], &mut data, &blocks).unwrap()));
        add("all_gather_v", lists.saturating_sub(LISTS));
    }
    counts
}

#[test]
fn nothing_is_allocated_after_warm_up() {
    for transport in ["shm,tcp", "tcp"] {
        let coordinator = format!("127.0.0.1:{}", free_port());
        let rank = |rank: u32| {
            let config = Config::new().coordinator(&coordinator).rank(rank).size(3);
            let config = config.transports(transport.split(',')).unwrap();
            std::thread::spawn(move || {
                let group = config.join().unwrap();
                let counts = measure(&group);
                group.close().unwrap();
                counts
            })
        };
        let ranks: Vec<_> = (0..3).map(rank).collect();
        for (rank, counts) in ranks.into_iter().enumerate() {
            let found: Vec<_> = counts.join().unwrap().into_iter().filter(|(_, n)| *n > FEW).collect();
            assert!(found.is_empty(), "rank {rank} over {transport} allocates: {found:?}");
        }
    }
}
