//! What those who are lost leave open in an output: the outcome says which bytes, of every kind of call.

use ronde::memory::lend;
use ronde::{
    Blocks, Call, CallOptions, Collective, CommitOptions, Config, DType, Group, Hole, Outcome, ReduceOp,
    Reduction,
};
use ronde_multiprocess::free_port;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const SIZE: u32 = 5;
/// One leaves in order, the other just ends.
const GONE: [u32; 2] = [1, 3];
/// What outputs hold before.
const POISON: u16 = 0xabab;

/// First byte and end of each.
fn holes(outcome: &Outcome) -> Vec<(usize, usize)> {
    assert!(outcome.holes.iter().all(|hole| hole.call == 0), "{outcome:?}");
    outcome.holes.iter().map(|hole| (hole.bytes.start, hole.bytes.end)).collect()
}

/// Waits until all agree that those who go are gone.
fn await_losses(group: &Group) {
    let until = Instant::now() + PATIENCE;
    while group.agree(true).expect("it goes on").1.absent != GONE {
        assert!(Instant::now() < until, "they stay");
    }
}

/// Elements of 2 bytes that say whose they are.
fn own(group: &Group, length: usize) -> Vec<u16> {
    vec![group.rank() as u16; length]
}

fn even_blocks(group: &Group) {
    let me = group.rank();
    let mut all = [POISON; 10];
    let outcome = group.all_gather(&own(group, 2), &mut all).unwrap();
    assert_eq!(holes(&outcome), [(4, 8), (12, 16)]);
    assert_eq!((all[0], all[1], all[4], all[5], all[8], all[9]), (0, 0, 2, 2, 4, 4));
    let outcome = group.all_to_all(&own(group, 5), &mut all[..5]).unwrap();
    assert_eq!(holes(&outcome), [(2, 4), (6, 8)]);
    let outcome = group.gather(&own(group, 1), &mut all[..5], 2).unwrap();
    assert_eq!(holes(&outcome), if me == 2 { vec![(2, 4), (6, 8)] } else { vec![] });
    // Of nothing nothing is missing.
    assert!(holes(&group.all_gather::<u16>(&[], &mut []).unwrap()).is_empty());
}

fn uneven_blocks(group: &Group) {
    let me = group.rank();
    let mut all = [POISON; 40];
    // Nothing of 1, five of 3.
    let blocks = Blocks::dense(&[1, 0, 2, 5, 1]);
    let mine = own(group, blocks.counts[me as usize]);
    assert_eq!(holes(&group.all_gather_v(&mine, &mut all, &blocks).unwrap()), [(6, 16)]);
    let at_root = if me == 4 { vec![(6, 16)] } else { vec![] };
    assert_eq!(holes(&group.gather_v(&mine, &mut all, &blocks, 4).unwrap()), at_root);
    // The blocks of both touch; what lies between others stays as it is.
    let blocks = Blocks { counts: vec![1, 2, 1, 3, 1], offsets: vec![0, 4, 2, 6, 10] };
    let mut all = [POISON; 40];
    let mine = own(group, blocks.counts[me as usize]);
    assert_eq!(holes(&group.all_gather_v(&mine, &mut all, &blocks).unwrap()), [(8, 18)]);
    assert_eq!(
        (all[0], all[1], all[2], all[3], all[9], all[10], all[11]),
        (0, POISON, 2, POISON, POISON, 4, POISON)
    );
    // Two give each other as much; the blocks are in the reverse order.
    let counts: Vec<usize> = (0..SIZE).map(|other| (other + me) as usize).collect();
    let mut recv = Blocks::dense(&counts.iter().rev().copied().collect::<Vec<_>>());
    recv.counts.reverse();
    recv.offsets.reverse();
    let send = Blocks::dense(&counts);
    let outcome = group.all_to_all_v(&own(group, 40), &send, &mut all, &recv).unwrap();
    let of = |rank: usize| (2 * recv.offsets[rank], 2 * (recv.offsets[rank] + recv.counts[rank]));
    assert_eq!(holes(&outcome), [of(3), of(1)]);
}

/// What is reduced, and what comes from one rank, has none.
fn whole_results(group: &Group) {
    let mut data = own(group, 10);
    let mut part = own(group, 2);
    let outcomes = [
        group.all_reduce(&mut data, ReduceOp::Max).unwrap(),
        group.reduce_scatter(&[7u16; 10], &mut part, ReduceOp::Max).unwrap(),
        group.reduce(&[7u16; 10], &mut data, ReduceOp::Max, 2).unwrap(),
        group.broadcast(&mut data, 2).unwrap(),
        group.scatter(&[7u16; 10], &mut part, 0).unwrap(),
        group.barrier().unwrap(),
    ];
    for outcome in outcomes {
        assert_eq!((&outcome.absent[..], &outcome.holes[..]), (&GONE[..], &[][..]));
    }
    assert_eq!(part, [7; 2]);
}

/// Calls as data: in place, in flight, and in a commit group.
fn calls_as_data(group: &Group) {
    let me = group.rank() as usize;
    let (mut gathered, mut exchanged, mut reduced) = ([POISON; 10], [me as u16; 15], [1u16; 9]);
    gathered[2 * me..][..2].fill(me as u16);
    let (expected, next) = ([(4, 8), (12, 16)], [(6, 12), (18, 24)]);
    lend(|lender| {
        let (gathered, exchanged) = (lender.unique(&mut gathered), lender.unique(&mut exchanged));
        let reduced = lender.unique(&mut reduced);
        let gather = Call {
            collective: Collective::AllGather,
            dtype: DType::U16,
            count: 2,
            input: gathered.slice(4 * me, 4),
            output: gathered,
            ..Call::EMPTY
        };
        let exchange = Call {
            collective: Collective::AllToAll,
            dtype: DType::U16,
            count: 3,
            input: exchanged.clone(),
            output: exchanged,
            ..Call::EMPTY
        };
        let reduce = Call {
            collective: Collective::AllReduce,
            dtype: DType::U16,
            count: 9,
            reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
            input: reduced.clone(),
            output: reduced,
            ..Call::EMPTY
        };
        assert_eq!(holes(&group.run(gather.clone()).unwrap()), expected);
        assert_eq!(holes(&group.start(exchange.clone()).unwrap().wait().unwrap()), next);
        let (said, heard) = mpsc::channel();
        let op = group.start(gather.clone()).unwrap();
        op.on_complete(move |result| said.send(result.as_ref().map(holes).unwrap()).unwrap());
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), expected);
        let mut together = group.commit_group(CommitOptions::default()).unwrap();
        for call in [reduce, gather, exchange] {
            together.start(call).unwrap();
        }
        let all = together.commit().unwrap().holes;
        let of_call =
            |call: usize, all: [(usize, usize); 2]| all.map(|(start, end)| Hole { call, bytes: start..end });
        assert_eq!(all, [of_call(1, expected), of_call(2, next)].concat());
    });
}

/// A part of the group, whose ranks are the reverse of the group's, has holes of its own ranks alone.
fn in_a_part(part: &Group, members: &[u32]) {
    let mut all = vec![POISON; 3 * members.len()];
    let outcome = part.all_gather(&own(part, 3), &mut all).unwrap();
    let gone = |rank: &usize| GONE.contains(&members[*rank]);
    assert_eq!(
        holes(&outcome),
        (0..members.len()).filter(gone).map(|rank| (6 * rank, 6 * rank + 6)).collect::<Vec<_>>()
    );
}

/// At a safe point ranks become dense again.
fn without_holes(group: &Group) {
    let until = Instant::now() + PATIENCE;
    while group.size() > SIZE - GONE.len() as u32 {
        let _ = group.update().unwrap();
        assert!(Instant::now() < until, "they stay holes");
    }
    let mut all = [POISON; 6];
    let outcome = group.all_gather_with(&own(group, 2), &mut all, &CallOptions::default()).unwrap();
    assert_eq!((all, outcome.absent.len(), outcome.holes), ([0, 0, 1, 1, 2, 2], 0, vec![]));
}

fn work(rank: u32, config: Config) {
    let group = config.timeout(PATIENCE).rank(rank).size(SIZE).join().unwrap();
    let members: &[u32] = if [1, 2].contains(&rank) { &[2, 1] } else { &[4, 3, 0] };
    let part = group.split(Some(members[0]), -(rank as i32)).unwrap().unwrap();
    let mut all = [POISON; 10];
    assert!(holes(&group.all_gather(&own(&group, 2), &mut all).unwrap()).is_empty());
    let _ = group.barrier().unwrap();
    match rank {
        1 => return group.close().unwrap(),
        3 => return,
        _ => await_losses(&group),
    }
    even_blocks(&group);
    uneven_blocks(&group);
    whole_results(&group);
    calls_as_data(&group);
    in_a_part(&part, members);
    without_holes(&group);
    group.close().unwrap();
}

#[test]
fn the_lost_leave_holes() {
    for transport in ["shm", "tcp"] {
        let coordinator = format!("127.0.0.1:{}", free_port());
        std::thread::scope(|scope| {
            for rank in 0..SIZE {
                let config = Config::new().coordinator(&coordinator).transports([transport]).unwrap();
                scope.spawn(move || work(rank, config));
            }
        });
    }
}
