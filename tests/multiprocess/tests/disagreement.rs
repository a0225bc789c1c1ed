//! Ranks that make different calls: each difference is the same named error on every rank, long before the
//! deadline, over each kind of link. Ranks are threads, since a process may hold several.

use ronde::memory::lend;
use ronde::{
    Aborted, Blocks, Call, CallOptions, Collective, Config, DType, Error, Group, ReduceOp, Reduction,
    Tolerance,
};
use ronde_multiprocess::free_port;
use std::time::{Duration, Instant};

/// Deadline of the calls; a mismatch is found without it.
const DEADLINE: Duration = Duration::from_secs(60);
/// How soon every rank has to know.
const SOON: Duration = Duration::from_secs(15);

/// A call of so many elements, without its memory.
fn call(collective: Collective, dtype: DType, count: usize) -> Call {
    let reduction = collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum));
    Call { collective, dtype, count, reduction, ..Call::EMPTY }
}

fn rooted(collective: Collective, peer: u32) -> Call {
    Call { peer, ..call(collective, DType::U32, 7) }
}

fn uneven(collective: Collective, send: &[usize], recv: &[usize]) -> Call {
    let options = CallOptions { timeout: Some(DEADLINE), ..CallOptions::default() };
    Call { send: Blocks::dense(send), recv: Blocks::dense(recv), options, ..call(collective, DType::U32, 0) }
}

/// Makes these calls one after another, and then barriers, until one fails.
fn make(group: &Group, calls: &[Call]) -> Error {
    let all = |call: &Call| {
        let (input, output) = group.buffer_bytes(call)?;
        let (input, mut output) = (vec![1u8; input], vec![0xa5u8; output]);
        lend(|lender| {
            let (input, output) = (lender.shared(&input), lender.unique(&mut output));
            group.run(Call { input, output, ..call.clone() })
        })
    };
    let made = calls.iter().try_for_each(|call| all(call).map(drop));
    let until = Instant::now() + SOON;
    let mut barriers =
        std::iter::repeat_with(|| group.barrier().map(drop)).take_while(|_| Instant::now() < until);
    made.and_then(|()| barriers.find(Result::is_err).unwrap_or(Ok(()))).expect_err("the calls differ")
}

/// Two ranks make these calls; returns the words that both get.
fn words(what: &str, transports: &str, zero: &[Call], one: &[Call]) -> String {
    let coordinator = format!("127.0.0.1:{}", free_port());
    let started = Instant::now();
    let rank = |rank: u32| {
        let config = Config::new().coordinator(&coordinator).rank(rank).size(2).timeout(DEADLINE);
        let group = config.transports(transports.split(',')).unwrap().join().unwrap();
        make(&group, if rank == 0 { zero } else { one })
    };
    let errors = std::thread::scope(|scope| {
        let ranks = [0, 1].map(|at| scope.spawn(move || rank(at)));
        ranks.map(|rank| rank.join().expect("no panic"))
    });
    let took = started.elapsed();
    for error in &errors {
        let is_mismatch = matches!(error, Error::Aborted(why) if matches!(**why, Aborted::Mismatch { .. }));
        assert!(is_mismatch, "{what} over {transports} after {took:?}: {error}");
    }
    assert_eq!(errors[0].to_string(), errors[1].to_string(), "{what} over {transports}");
    assert!(took < SOON, "{what} over {transports}: {took:?}");
    errors[0].to_string()
}

/// Both kinds of links, and words that the error has to have.
fn expect(what: &str, zero: &[Call], one: &[Call], expected: &[&str]) {
    for transports in ["shm,tcp", "tcp"] {
        let text = words(what, transports, zero, one);
        for word in expected {
            assert!(text.contains(word), "{what} over {transports}: {word:?} is not in {text}");
        }
    }
}

#[test]
fn another_collective_type_or_operator() {
    use Collective::*;
    let sum = [call(AllReduce, DType::U32, 7)];
    let max = [Call { reduction: Some(Reduction::Builtin(ReduceOp::Max)), ..sum[0].clone() }];
    let barrier = [call(Barrier, DType::U8, 0)];
    let in_order = [&sum[..], &barrier[..]].concat();
    let in_another = [&barrier[..], &sum[..]].concat();
    expect("collective", &sum, &barrier, &["all_reduce", "barrier"]);
    expect("order", &in_order, &in_another, &["all_reduce", "barrier"]);
    expect("type of one size", &sum, &[call(AllReduce, DType::F32, 7)], &["u32", "f32"]);
    expect("type of another size", &sum, &[call(AllReduce, DType::F64, 7)], &["u32", "f64"]);
    expect("operator", &sum, &max, &["sum", "max"]);
    expect("nothing at all", &sum, &[call(AllReduce, DType::U32, 0)], &["count 7", "count 0"]);
}

/// Whoever the ranks take for the root, also where each only waits for the other.
#[test]
fn another_root() {
    use Collective::*;
    for collective in [Broadcast, Reduce, Gather, Scatter] {
        for (zero, one) in [(0, 1), (1, 0)] {
            let what = format!("{collective} from {zero} and {one}");
            expect(&what, &[rooted(collective, zero)], &[rooted(collective, one)], &["root 0", "root 1"]);
        }
    }
}

/// Blocks on which two ranks disagree, within a piece, by a piece, or by all.
#[test]
fn another_block() {
    use Collective::*;
    const PIECE: usize = 1 << 18;
    for (sent, taken) in [(4, 5), (5, 4), (0, 5), (5, 0), (2 * PIECE, PIECE), (PIECE, 2 * PIECE)] {
        let what = |collective: Collective| format!("{collective} of {sent} and {taken}");
        let all_to_all = [uneven(AllToAllV, &[0, sent], &[0, 0]), uneven(AllToAllV, &[0, 0], &[taken, 0])];
        let all_gather = [uneven(AllGatherV, &[], &[3, sent]), uneven(AllGatherV, &[], &[3, taken])];
        let reduce_scatter =
            [uneven(ReduceScatterV, &[3, sent], &[]), uneven(ReduceScatterV, &[3, taken], &[])];
        let to_one = Call { count: taken, ..uneven(ScatterV, &[], &[]) };
        let scatter = [uneven(ScatterV, &[0, sent], &[]), to_one];
        let from_one = Call { count: sent, ..uneven(GatherV, &[], &[]) };
        let gather = [uneven(GatherV, &[], &[0, taken]), from_one];
        for [zero, one] in [all_to_all, all_gather, reduce_scatter, scatter, gather] {
            expect(&what(zero.collective), &[zero], &[one], &[]);
        }
    }
}

/// The same where no rank waits for the others: what comes for a call that has ended is noticed.
#[test]
fn another_block_that_nobody_waits_for() {
    use Collective::*;
    let none = |call: Call| {
        let options = CallOptions { tolerance: Tolerance::None, ..call.options };
        Call { options, ..call }
    };
    let zero = none(uneven(AllToAllV, &[0, 5], &[0, 0]));
    let one = none(uneven(AllToAllV, &[0, 0], &[0, 0]));
    expect("all_to_all_v of 5 and 0", &[zero], &[one], &["larger block", "smaller block"]);
}
