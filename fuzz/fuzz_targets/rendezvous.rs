//! Whatever comes on a control connection, both sides read messages or end: a coordinator, and a member that waits for its
//! first view.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde::strangers;
use ronde_core::membership::{
    FromMember, Hello, LinkEnd, MachineId, MemberInfo, ToMember, View, decode, encode,
};
use ronde_core::{Epoch, Generation, MemberId, PeerId};
use ronde_fuzz::sockets;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A message: which, its numbers, its text; or any bytes, whole or cut.
type Words<'a> = (u8, u32, [u8; 3], &'a [u8]);

fn info(id: u8, peer: u8) -> MemberInfo {
    MemberInfo {
        peer: PeerId([peer; 16]),
        id: MemberId(id.into()),
        host: "host".into(),
        addresses: vec![([127, 0, 0, 1], 1).into()],
        machine: MachineId("machine".into()),
        user: 0,
        pid: 1,
        transports: vec!["tcp".into()],
        costs: String::new(),
    }
}

fn hello(rank: Option<u32>) -> Hello {
    let (size, min_peers, info) = (None, None, info(0, 1));
    Hello { version: 1, rank, size, min_peers, newcomer: false, hosts_coordinator: false, info }
}

fn with_length(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes(), body].concat()
}

fn of_member((which, number, _, text): &Words<'_>) -> Vec<u8> {
    let name = || String::from_utf8_lossy(text).into_owned();
    let message = match which % 6 {
        0 => return text.to_vec(),
        1 => return with_length(text),
        2 => FromMember::Job(name()),
        3 => FromMember::Hello(hello(Some(*number))),
        4 => FromMember::LinkFailed { member: MemberId(*number), reason: name(), end: LinkEnd::Cut },
        _ => FromMember::Status,
    };
    encode(&message).expect("short enough")
}

fn of_coordinator((which, number, ids, text): &Words<'_>) -> Vec<u8> {
    let name = || String::from_utf8_lossy(text).into_owned();
    let message = match which % 8 {
        0 => return text.to_vec(),
        1 => return with_length(text),
        2 => ToMember::Gathering { joined: *number, size: 3, missing: ids.map(u32::from).to_vec() },
        3 => ToMember::Pending { members: *number },
        4 => ToMember::NotHere(name()),
        5 => ToMember::Refused(name()),
        _ => ToMember::View(Arc::new(View {
            epoch: Epoch(u64::from(*number) << 32),
            generation: Generation(*number),
            members: ids.iter().map(|id| info(id & 7, id >> 3)).collect(),
            host: (*which > 99).then_some(MemberId(ids[0].into())),
            ..View::default()
        })),
    };
    encode(&message).expect("short enough")
}

/// As a coordinator reads it.
fn coordinator_reads(bytes: &[u8]) {
    let mut left = bytes;
    let Some((job, mut message)) = strangers::first_message(&mut left) else { return };
    assert!(job.is_empty() || strangers::job(&job).is_ok());
    loop {
        let encoded = encode(&message).expect("it was short enough");
        assert_eq!(decode(&encoded[4..]), Ok(message));
        match strangers::next_message(&mut left) {
            Ok(next) => message = next,
            Err(_) => return,
        }
    }
}

/// As a member reads it that wants to join.
fn member_reads(bytes: &[u8]) {
    let (near, mut far) = sockets();
    // The buffers of the socket take so much at once; nobody reads yet.
    far.write_all(&bytes[..bytes.len().min(32 << 10)]).expect("room");
    far.shutdown(Shutdown::Write).expect("connected");
    let started = Instant::now();
    let view = strangers::await_view(near, hello(None), started + Duration::from_secs(5));
    assert!(started.elapsed() < Duration::from_secs(3), "it waited for somebody who has gone");
    assert!(view.is_err() || view.is_ok_and(|view| view.is_sound()));
    let mut said = Vec::new();
    if far.read_to_end(&mut said).is_ok() {
        assert!(matches!(decode(&said[4..]), Ok(FromMember::Hello(_))));
    }
}

fuzz_target!(|input: (bool, Vec<Words<'_>>)| {
    let (is_member, words) = input;
    let bytes: Vec<Vec<u8>> = words.iter().map(if is_member { of_member } else { of_coordinator }).collect();
    match is_member {
        true => coordinator_reads(&bytes.concat()),
        false => member_reads(&bytes.concat()),
    }
});
