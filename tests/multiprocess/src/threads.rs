//! Jobs whose ranks are threads of one process, and calls that nobody waits for.

use crate::free_port;
use ronde::{
    Call, CallOptions, Collective, Config, DType, Digests, Group, ReduceOp, Reduction, Result, Segment,
    SharedBuffer, Tag,
};
use std::sync::Mutex;
use std::time::Duration;

/// Runs `each` as every rank of a job whose ranks may use these transports. Returns what they gave.
///
/// A call that has to miss its deadline gets that deadline itself: the group's is for all calls, also those
/// that only take long on a machine that is busy.
pub fn ranks<T: Send>(transports: &[&str], timeout: Duration, each: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let coordinator = format!("127.0.0.1:{}", free_port());
    let size = transports.len() as u32;
    std::thread::scope(|scope| {
        let start = |(rank, list): (usize, &&str)| {
            let config = Config::new().coordinator(&coordinator).rank(rank as u32).size(size);
            let config =
                config.digests(Digests::Always).timeout(timeout).transports(list.split(',')).unwrap();
            let each = &each;
            scope.spawn(move || each(config.join().expect("join")))
        };
        let threads: Vec<_> = transports.iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// What went wrong, in words.
pub fn error<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_else(|| "it worked".into())
}

/// Memory that lives for ever, for one op.
pub fn memory_for_ever(group: &Group) -> Segment {
    static KEPT: Mutex<Vec<SharedBuffer>> = Mutex::new(Vec::new());
    let memory = group.mem_alloc(4096).unwrap();
    // SAFETY: it is never freed, and only one op uses it.
    let segment = unsafe { memory.segment() };
    KEPT.lock().unwrap().push(memory);
    segment
}

/// Starts an all-reduce on memory that lives for ever.
pub fn start_forever(group: &Group, tag: Tag, timeout: Option<Duration>) -> ronde::Op {
    let segment = memory_for_ever(group);
    let call = Call {
        collective: Collective::AllReduce,
        dtype: DType::U64,
        count: 8,
        reduction: Some(Reduction::Builtin(ReduceOp::Sum)),
        input: segment.slice(0, 64),
        output: segment.slice(64, 64),
        options: CallOptions { tag, timeout, ..CallOptions::default() },
        ..Call::EMPTY
    };
    group.start(call).unwrap()
}

/// Starts a receive of one number into memory that lives for ever.
pub fn receive_forever(group: &Group, from: u32) -> ronde::Op {
    let output = memory_for_ever(group).slice(0, 8);
    let (collective, dtype, count) = (Collective::Recv, DType::U64, 1);
    group.start(Call { collective, dtype, count, peer: from, output, ..Call::EMPTY }).unwrap()
}
