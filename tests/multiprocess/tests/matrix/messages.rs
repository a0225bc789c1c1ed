//! Messages between all ranks, and barriers.

use crate::case::Here;
use crate::memory::{Odd, POISON};
use crate::values::{element, mix};
use ronde::{Call, CallOptions, Collective, DType, Tag};
use ronde_core::memory::Access;

/// Lengths in elements: none, one, what goes unasked, what does not, and what takes several frames.
const COUNTS: [usize; 6] = [0, 1, 251, 5003, 40_000, 300_001];

pub(crate) fn check(here: &Here) {
    for dtype in DType::ALL {
        exchange(here, dtype);
    }
}

/// A message and its length depend on who sends it to whom.
fn message(dtype: DType, from: u32, to: u32) -> Vec<u8> {
    let seed = mix(u64::from(from) << 32 | u64::from(to), dtype as u64);
    // The longest with one type only.
    let kinds = if dtype == DType::F32 { 6 } else { 4 };
    (0..COUNTS[(seed % kinds) as usize]).flat_map(|i| element(dtype, None, mix(seed, i as u64))).collect()
}

/// Each rank sends a message to each other one, all at once.
fn exchange(here: &Here, dtype: DType) {
    let (group, me) = (here.group, here.group.rank());
    let others: Vec<u32> = (0..group.size()).filter(|&other| other != me).collect();
    let vector = |bytes: &[u8], kind| here.memory.odd(here.registered && kind, bytes);
    let sent: Vec<Vec<u8>> = others.iter().map(|&to| message(dtype, me, to)).collect();
    let wanted: Vec<Vec<u8>> = others.iter().map(|&from| message(dtype, from, me)).collect();
    let sources: Vec<Odd> = sent.iter().map(|bytes| vector(bytes, true)).collect();
    let targets: Vec<Odd> =
        wanted.iter().zip(0..).map(|(b, i)| vector(&vec![POISON; b.len()], i % 2 == 0)).collect();
    let call = |collective, peer, bytes: usize| Call {
        collective,
        dtype,
        count: bytes / dtype.size(),
        peer,
        options: CallOptions { tag: Tag(dtype as u32), ..CallOptions::default() },
        ..Call::EMPTY
    };
    let sends = others
        .iter()
        .zip(&sources)
        .map(|(&to, odd)| Call { input: odd.all(), ..call(Collective::Send, to, odd.all().len()) });
    let receives = others
        .iter()
        .zip(&targets)
        .map(|(&from, odd)| Call { output: odd.all(), ..call(Collective::Recv, from, odd.all().len()) });
    let _ = group.run_all(sends.chain(receives)).unwrap_or_else(|e| panic!("messages of {dtype}: {e}"));
    for ((bytes, odd), from) in wanted.iter().zip(&targets).zip(&others) {
        let whole = odd.all().bytes() == bytes && odd.is_guarded();
        assert!(whole, "a message of {} bytes of {dtype} from rank {from} to {me}", bytes.len());
    }
    let kept = sent.iter().zip(&sources).all(|(bytes, odd)| odd.all().bytes() == bytes);
    assert!(kept, "a message of {dtype} that was sent has changed");
}
