//! Whatever frames a peer sends, whole or half, the executor neither panics nor lets them write elsewhere than where it said,
//! and gives all views back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde_algorithms::kernels::CpuKernels;
use ronde_algorithms::{AnyPlan, CostTable, Topology, Tuning, build, choose};
use ronde_core::call::{Blocks, Call, Shape};
use ronde_core::collective::{Executor, GroupIndex, Limits, Links, NewGroup, NewOp};
use ronde_core::error::{Error, PeerLost};
use ronde_core::frame::{FrameKind, Header, MAX_PAYLOAD};
use ronde_core::memory::{Access, Arena};
use ronde_core::recovery::{RecoveryPlan, Wishes, plan};
use ronde_core::reduce::Reduction;
use ronde_core::transport::{
    Capabilities, Link, LinkFailure, Payload, Placement, Receiver, Submit, ViewToken, WakeSource,
};
use ronde_core::{
    Collective, DType, Epoch, Formation, Generation, GroupId, Instant, MemberId, PeerId, Rank, ReduceOp,
    Segment, Seq, Tag,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const WORLD: usize = 3;
/// Bytes of a payload.
const LONGEST: usize = 4096;
const KINDS: [FrameKind; 8] = {
    use FrameKind::*;
    [Data, Enter, EnterRequest, Done, Ack, AckRequest, Mismatch, Result]
};

/// What this rank has sent, for peers that answer something similar; and views that are out.
#[derive(Default)]
struct Seen {
    sent: Vec<Header>,
    views: usize,
}

struct Null(Arc<Mutex<Seen>>);

impl Link for Null {
    fn capabilities(&self) -> Capabilities {
        let (max_payload, syscall_per_frame) = (MAX_PAYLOAD, true);
        Capabilities { name: "null", views: true, max_payload, syscall_per_frame, registered_memory: false }
    }

    fn submit(&mut self, header: &Header, _: &Segment, _: u64) -> Submit {
        self.0.lock().expect("one thread").sent.push(*header);
        Submit::Sent
    }

    fn poll(&mut self, _: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        Ok(false)
    }

    fn release(&mut self, _: ViewToken) {
        self.0.lock().expect("one thread").views -= 1;
    }

    fn wake_source(&self) -> Option<WakeSource> {
        None
    }

    fn close(&mut self) {}
}

/// One thing that a peer does: which, with what frame, and how its payload comes.
type Event = (u8, u8, u16, (u8, u32, u16, u32), u8);

fn start(executor: &mut Executor<AnyPlan>, links: &mut Links, memory: &Arena, collective: Collective) {
    let topology = Topology::new(&[0, 1, 2], &[0; 3], &CostTable::default());
    let (count, each) = (300, 300 * 4 * WORLD);
    let point_to_point = collective.is_point_to_point();
    let call = Call {
        collective,
        dtype: DType::F32,
        count: if collective == Collective::Barrier { 0 } else { count },
        reduction: collective.reduces().then_some(Reduction::Builtin(ReduceOp::Sum)),
        peer: u32::from(point_to_point || collective.has_root()),
        send: Blocks::dense(&[count; WORLD]),
        recv: Blocks::dense(&[count; WORLD]),
        input: memory.segment(0, each),
        output: memory.segment(each, each),
        ..Call::EMPTY
    };
    let shape = Shape {
        collective,
        rank: 0,
        world: WORLD as u32,
        count: call.count,
        element: 4,
        peer: call.peer,
        send: &call.send,
        recv: &call.recv,
        stand_ins: &[],
        in_place: false,
        ordered: false,
        narrow: false,
    };
    let plan = build(&shape, choose(&shape, &topology), &topology, &Tuning::default()).expect("a good call");
    let (now, deadline) = (Instant(0), Instant(u64::MAX));
    let new =
        NewOp { group: GroupIndex::default(), call, plan, source: None, now, deadline, commit_group: None };
    executor.start(new, links, CpuKernels::detect()).map(drop).expect("there is room");
}

fn header(seen: &[Header], (_, kind, seq, (window, label, returned, len), flags): Event) -> Header {
    let base = match seen.len() {
        0 => Header::EMPTY,
        n => seen[usize::from(seq >> 8) % n],
    };
    let mut header = Header { kind: KINDS[usize::from(kind % 8)], ..base };
    if flags & 1 != 0 {
        header.op.seq = Seq(u64::from(seq & 0xff));
    }
    if flags & 2 != 0 {
        header.op.tag = Tag(label & 3);
    }
    header.window = u32::from(window);
    header.label = returned & 7;
    header.returned_through = Seq(u64::from(returned));
    header.point_to_point ^= flags & 4 != 0;
    header.weighed = flags & 8 != 0;
    header.epoch.0 += u64::from(flags & 16 != 0);
    header.fingerprint ^= u32::from(flags & 32 != 0);
    header.payload_len = match flags >> 6 {
        0 => 0,
        1 => base.payload_len.min(LONGEST as u32),
        2 => 20,
        _ => len % LONGEST as u32,
    };
    header
}

fuzz_target!(|events: Vec<Event>| {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut executor: Executor<AnyPlan> = Executor::new(WORLD, Limits::default());
    let formation = Formation { group: GroupId(0), generation: Generation(0) };
    let (epoch, members, me) = (Epoch(1), vec![0, 1, 2], Rank(0));
    executor.add_group(NewGroup { formation, epoch, members, me, syscall_per_frame: true });
    let link = || -> Option<Box<dyn Link>> { Some(Box::new(Null(seen.clone()))) };
    let mut links: Links = vec![None, link(), link()];
    let memory = Arena::new(2 * 300 * 4 * WORLD);
    let bytes = Arena::new(LONGEST);
    let mut half: Option<(usize, Header, Segment)> = None;
    let mut lost = false;
    for event in events {
        let (what, kind, seq, ..) = event;
        let at = 1 + usize::from(what & 1);
        match what >> 1 & 7 {
            0 => start(&mut executor, &mut links, &memory, Collective::ALL[usize::from(kind) % 16]),
            1 if !lost => {
                lost = true;
                let text = |text: &str| text.to_owned();
                let gone = PeerLost {
                    peer: PeerId([2; 16]),
                    member: MemberId(2),
                    rank: Rank(2),
                    host: text("host"),
                    address: text("address"),
                    reason: text("fuzz"),
                    silent_for: Duration::ZERO,
                    epoch: Epoch(2),
                };
                half = None;
                let report = executor.freeze(Epoch(2), &[Arc::new(gone)], Instant(1), &mut links);
                let agreed = match seq % 2 {
                    0 => RecoveryPlan::default(),
                    _ => plan(&BTreeMap::from([(MemberId(0), report)]), &Wishes::default()),
                };
                let mut replan = |_: GroupIndex, _: &Call| Err(Error::internal("not again"));
                executor.resume(&agreed, Instant(2), &mut replan, &mut links, CpuKernels::detect());
            }
            2 => drop(executor.advance(&mut links, CpuKernels::detect())),
            3 => {
                if let Some((from, header, target)) = half.take() {
                    target.clone().bytes_mut().fill(3);
                    executor.arrived(from, &header, Payload::Placed);
                }
            }
            _ if links[at].is_none() => {}
            4 => {
                let header = header(&seen.lock().expect("one thread").sent, event);
                let payload = bytes.segment(0, header.payload_len as usize);
                seen.lock().expect("one thread").views += 1;
                if !executor.arrived(at, &header, Payload::View(payload, ViewToken(0))) {
                    seen.lock().expect("one thread").views -= 1;
                }
            }
            _ if half.is_some() => {}
            _ => {
                let header = header(&seen.lock().expect("one thread").sent, event);
                if let Placement::Into(mut target) = executor.place(at, &header) {
                    assert_eq!(target.len(), header.payload_len as usize);
                    if what & 64 == 0 {
                        half = Some((at, header, target));
                    } else {
                        target.bytes_mut().fill(7);
                        executor.arrived(at, &header, Payload::Placed);
                    }
                }
            }
        }
        while let Some((at, _)) = executor.take_failure() {
            if half.as_ref().is_some_and(|(from, ..)| *from == at) {
                half = None;
            }
            executor.close_link(&mut links, at);
        }
        executor.take_effects();
    }
    drop(half);
    executor.fail_all(&mut links, &Error::internal("the end"));
    assert_eq!(executor.open_ops(), 0);
    assert_eq!(seen.lock().expect("one thread").views, 0, "views are out");
});
