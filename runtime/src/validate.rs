//! Checks of a call before anything is sent: sizes, ranks, pointers, overlap.

use ronde_algorithms::Algorithm;
use ronde_core::call::{Blocks, Call};
use ronde_core::error::{Misuse, Result};
use ronde_core::reduce::Reduction;
use ronde_core::{Collective, Rank, Segment};

/// Checks a call. Fields that its collective does not use are as in [`Call::EMPTY`] afterwards: what a rank left in them makes
/// its call no other than the others'.
pub(crate) fn check(call: &mut Call, rank: Rank, size: u32) -> Result<(), Misuse> {
    if !names_a_rank(call.collective) {
        call.peer = Call::EMPTY.peer;
    }
    if !has_count(call.collective) {
        call.count = Call::EMPTY.count;
    }
    if call.collective == Collective::Barrier {
        call.dtype = Call::EMPTY.dtype;
    }
    let (input, output) = buffer_bytes(call, rank, size)?;
    check_len("input", &call.input, input)?;
    check_len("output", &call.output, output)?;
    // The root of a broadcast may name its data twice.
    let is_source = call.collective == Collective::Broadcast && call.peer == rank.0;
    let is_written = output > 0 && !(is_source && call.input.same_as(&call.output));
    if is_written && !call.output.is_writable() {
        return Err(Misuse::ReadOnly { what: "the output" });
    }
    check_overlap(call, rank)?;
    if call.output.len() > output {
        // What a survivor sends to one who lacks it, and what members compare, is the result alone.
        call.output = call.output.slice(0, output);
    }
    Ok(())
}

/// Bytes that a call needs in its input and output.
pub(crate) fn buffer_bytes(call: &Call, rank: Rank, size: u32) -> Result<(usize, usize), Misuse> {
    check_peer(call, rank, size)?;
    check_reduction(call)?;
    check_blocks(call, rank, size)?;
    need(call, rank, size)
}

/// The name of an algorithm as [`ronde_core::call::CallOptions`] takes it; the error lists those known.
pub fn algorithm_name(name: &str) -> Result<&'static str, Misuse> {
    algorithm(name).map(Algorithm::name)
}

/// Names of all algorithms.
pub fn algorithm_names() -> impl Iterator<Item = &'static str> {
    Algorithm::ALL.into_iter().map(Algorithm::name)
}

/// The algorithm with this name.
pub(crate) fn algorithm(name: &str) -> Result<Algorithm, Misuse> {
    Algorithm::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = algorithm_names().collect();
        Misuse::Other(format!("unknown algorithm \"{name}\"; known are {}", known.join(", ")).into())
    })
}

/// Whether it has a root or goes to one other rank.
fn names_a_rank(collective: Collective) -> bool {
    collective.has_root() || collective.is_point_to_point()
}

/// Whether its call says a number of elements, beside those of blocks.
fn has_count(collective: Collective) -> bool {
    !matches!(collective, Collective::Barrier | Collective::AllToAllV)
}

fn check_peer(call: &Call, rank: Rank, size: u32) -> Result<(), Misuse> {
    if !names_a_rank(call.collective) {
        return Ok(());
    }
    let what = if call.collective.is_point_to_point() { "the other rank" } else { "the root" };
    if call.peer >= size {
        return Err(Misuse::RankOutOfRange { what, got: call.peer, size });
    }
    if call.collective.is_point_to_point() && call.peer == rank.0 {
        return Err(Misuse::SelfMessage { rank });
    }
    Ok(())
}

fn check_reduction(call: &Call) -> Result<(), Misuse> {
    let reduces = call.collective.reduces();
    match &call.reduction {
        Some(Reduction::Builtin(op)) if reduces && !op.supports(call.dtype) => {
            Err(Misuse::Unsupported { op: op.name(), dtype: call.dtype.name() })
        }
        Some(Reduction::WeightedAvg(weight)) if reduces && !(weight.is_finite() && *weight >= 0.0) => {
            Err(Misuse::Other(format!("a weight is {weight}: weights are finite and not negative").into()))
        }
        Some(Reduction::WeightedAvg(_))
            if reduces && (call.dtype.is_integer() || call.dtype == ronde_core::DType::Bool) =>
        {
            Err(Misuse::Unsupported { op: "weighted avg", dtype: call.dtype.name() })
        }
        Some(Reduction::PreMulSum(_)) if call.dtype == ronde_core::DType::Bool => {
            Err(Misuse::Unsupported { op: "premulsum", dtype: "bool" })
        }
        None if reduces => Err(Misuse::Other("the call reduces but names no operator".into())),
        Some(_) if !reduces => Err(Misuse::Other("the call names an operator but does not reduce".into())),
        _ => Ok(()),
    }
}

fn check_blocks(call: &Call, rank: Rank, size: u32) -> Result<(), Misuse> {
    use Collective::*;
    let at_root = call.peer == rank.0;
    let (send, recv) = match call.collective {
        AllToAllV => (true, true),
        AllGatherV => (false, true),
        ReduceScatterV => (true, false),
        GatherV => (false, at_root),
        ScatterV => (at_root, false),
        _ => (false, false),
    };
    for (needed, blocks, name) in [(send, &call.send, "send"), (recv, &call.recv, "recv")] {
        if needed && (blocks.counts.len() != size as usize || blocks.offsets.len() != size as usize) {
            let (counts, offsets) = (blocks.counts.len(), blocks.offsets.len());
            let text = format!("{name} has {counts} counts and {offsets} offsets, the group {size} ranks");
            return Err(Misuse::Other(text.into()));
        }
    }
    if send && call.collective == ReduceScatterV && blocks_overlap(&call.send)
        || recv && blocks_overlap(&call.recv)
    {
        return Err(Misuse::Other("blocks that are written or reduced overlap".into()));
    }
    Ok(())
}

fn blocks_overlap(blocks: &Blocks) -> bool {
    let mut spans: Vec<(usize, usize)> =
        blocks.offsets.iter().copied().zip(blocks.counts.iter().copied()).filter(|(_, c)| *c > 0).collect();
    spans.sort_unstable();
    spans.windows(2).any(|w| w[0].0.saturating_add(w[0].1) > w[1].0)
}

/// Elements from the first to the last byte that blocks name.
fn extent(blocks: &Blocks) -> Option<usize> {
    let ends = blocks.offsets.iter().zip(&blocks.counts).filter(|(_, c)| **c > 0);
    ends.map(|(offset, count)| offset.checked_add(*count)).try_fold(0, |most, end| Some(most.max(end?)))
}

fn need(call: &Call, rank: Rank, size: u32) -> Result<(usize, usize), Misuse> {
    use Collective::*;
    let element = call.dtype.size();
    let count = if has_count(call.collective) { call.count } else { 0 };
    let overflow = Misuse::CountOverflow { count, size: element };
    let bytes = |elements: Option<usize>| {
        elements
            .and_then(|n| n.checked_mul(element))
            .filter(|n| *n <= isize::MAX as usize)
            .ok_or_else(|| overflow.clone())
    };
    let one = bytes(Some(count))?;
    let all = bytes(count.checked_mul(size as usize))?;
    let at_root = |n: usize| if call.peer == rank.0 { n } else { 0 };
    let own = |blocks: &Blocks| blocks.counts.get(rank.index()).copied();
    Ok(match call.collective {
        AllReduce => (one, one),
        Reduce => (one, at_root(one)),
        Broadcast => (at_root(one), one),
        AllGather => (one, all),
        ReduceScatter => (all, one),
        AllToAll => (all, all),
        Gather => (one, at_root(all)),
        Scatter => (at_root(all), one),
        Barrier | Commit => (0, 0),
        Send => (one, 0),
        Recv => (0, one),
        AllGatherV => (bytes(own(&call.recv))?, bytes(extent(&call.recv))?),
        ReduceScatterV => (bytes(extent(&call.send))?, bytes(own(&call.send))?),
        AllToAllV => (bytes(extent(&call.send))?, bytes(extent(&call.recv))?),
        GatherV if call.peer == rank.0 => (bytes(own(&call.recv))?, bytes(extent(&call.recv))?),
        ScatterV if call.peer == rank.0 => (bytes(extent(&call.send))?, bytes(own(&call.send))?),
        GatherV => (one, 0),
        ScatterV => (0, one),
    })
}

fn check_len(what: &'static str, segment: &Segment, need: usize) -> Result<(), Misuse> {
    if need > 0 && !segment.is_empty() && segment.as_ptr().is_null() {
        return Err(Misuse::NullPointer { what });
    }
    if segment.len() < need {
        return Err(Misuse::BufferSize { what, got: segment.len(), need });
    }
    Ok(())
}

/// The buffers share memory in the way that the collective allows, or not at all.
fn check_overlap(call: &Call, rank: Rank) -> Result<(), Misuse> {
    use Collective::*;
    if !call.input.overlaps(&call.output) {
        return Ok(());
    }
    let element = call.dtype.size();
    let block_of = |whole: &Segment, part: &Segment, offset: Option<usize>| {
        offset
            .and_then(|elements| elements.checked_mul(element))
            .is_some_and(|bytes| part.as_ptr() as usize == (whole.as_ptr() as usize).wrapping_add(bytes))
    };
    let own = |blocks: &Blocks| blocks.offsets.get(rank.index()).copied();
    let even = call.count.checked_mul(rank.index());
    let (input, output) = (&call.input, &call.output);
    let fits = match call.collective {
        AllReduce | Reduce | Broadcast | AllToAll => input.as_ptr() == output.as_ptr(),
        AllToAllV => input.as_ptr() == output.as_ptr() && call.send == call.recv,
        AllGather | Gather => block_of(output, input, even),
        ReduceScatter | Scatter => block_of(input, output, even),
        AllGatherV | GatherV => block_of(output, input, own(&call.recv)),
        ReduceScatterV | ScatterV => block_of(input, output, own(&call.send)),
        Barrier | Commit | Send | Recv => true,
    };
    if fits { Ok(()) } else { Err(Misuse::Overlap) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronde_core::DType;
    use ronde_core::reduce::Reduction::Builtin;

    #[test]
    fn what_a_collective_does_not_use_is_ignored() {
        let blocks = Blocks::dense(&[0, 0, 0]);
        for collective in Collective::ALL {
            let root = if names_a_rank(collective) { 1 } else { 77 };
            let count = if has_count(collective) { 0 } else { usize::MAX };
            let dtype = if collective == Collective::Barrier { DType::C128 } else { DType::U8 };
            let reduction = collective.reduces().then_some(Builtin(ronde_core::ReduceOp::Sum));
            let (send, recv) = (blocks.clone(), blocks.clone());
            let mut call =
                Call { collective, dtype, count, reduction, peer: root, send, recv, ..Call::EMPTY };
            assert_eq!(buffer_bytes(&call, Rank(0), 3).unwrap(), (0, 0), "{collective}");
            check(&mut call, Rank(0), 3).unwrap();
            let peer = if names_a_rank(collective) { 1 } else { 0 };
            assert_eq!((call.peer, call.count, call.dtype), (peer, 0, DType::U8), "{collective}");
        }
    }

    #[test]
    fn what_it_does_use_is_checked() {
        let with = |collective, peer, count| Call { collective, peer, count, ..Call::EMPTY };
        for call in [with(Collective::Broadcast, 3, 0), with(Collective::Send, 0, 0)] {
            assert!(check(&mut call.clone(), Rank(0), 3).is_err(), "{call:?}");
        }
        let bytes = [1u8; 4];
        ronde_core::memory::lend(|lender| {
            let read = || lender.shared(&bytes);
            let mut call = Call { input: read(), output: read(), ..with(Collective::Broadcast, 1, 4) };
            assert_eq!(check(&mut call, Rank(0), 3), Err(Misuse::ReadOnly { what: "the output" }));
            assert_eq!(check(&mut call, Rank(1), 3), Ok(()), "the root only reads it");
            call.collective = Collective::Send;
            assert_eq!(check(&mut call, Rank(0), 3), Ok(()), "nothing is written");
        });
        let error = check(&mut with(Collective::AllGather, 0, usize::MAX), Rank(0), 3).unwrap_err();
        assert!(matches!(error, Misuse::CountOverflow { .. }), "{error}");
    }
}
