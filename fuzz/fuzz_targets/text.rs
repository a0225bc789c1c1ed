//! Text from others: an id, addresses, names, costs. It means something or is refused, and says the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde::{CostTable, RondeId, strangers};
use ronde_algorithms::{Topology, Tuning, build, choose};
use ronde_core::Collective;
use ronde_core::call::Blocks;
use ronde_core::plan::Plan;
use std::net::{IpAddr, SocketAddr};

fn id(bytes: &[u8]) {
    let Ok(id) = RondeId::from_bytes(bytes) else { return };
    let text = id.as_bytes();
    assert!(text.len() <= RondeId::MAX_BYTES && bytes.starts_with(text));
    assert!(bytes[text.len()..].iter().all(|byte| *byte == 0));
    assert!(RondeId::from_bytes(text).is_ok_and(|again| again == id));
    assert!(!format!("{id:?}").is_empty());
}

/// A name would be asked for over the network.
fn is_a_name(text: &str) -> bool {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let is_number = bare.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
    !is_number && text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok())
}

fn addresses(text: &str) {
    if is_a_name(text) {
        return;
    }
    for found in [strangers::advertised(text).ok(), strangers::coordinator(text).ok()].into_iter().flatten() {
        assert_eq!(found.len(), 1, "{text}");
    }
}

/// The costs of rank 0 are what everybody reckons with.
fn costs(text: &str, count: u32) {
    let Ok(costs) = text.parse::<CostTable>() else { return };
    let topology = Topology::new(&[0, 0, 1], &[0, 0, 0], &costs);
    for collective in Collective::ALL {
        let count = if collective == Collective::Barrier { 0 } else { count as usize % (1 << 24) };
        let blocks = Blocks::dense(&[count; 3]);
        let shape = ronde_core::call::Shape {
            collective,
            rank: 1,
            world: 3,
            count,
            element: 4,
            peer: 0,
            send: &blocks,
            recv: &blocks,
            stand_ins: &[],
            in_place: false,
            ordered: false,
            narrow: false,
        };
        let algorithm = choose(&shape, &topology);
        if count < 5000 {
            let plan = build(&shape, algorithm, &topology, &Tuning::default());
            assert!(
                plan.is_ok_and(|plan| plan.windows() < 1 << 20),
                "{collective:?} of {count} by {algorithm:?}"
            );
        }
    }
}

fuzz_target!(|input: (u8, u32, &str, &[u8])| {
    let (which, number, text, bytes) = input;
    match which % 6 {
        0 => id(bytes),
        1 => id(format!("ronde1;{text}").as_bytes()),
        2 => addresses(text),
        3 => addresses(&format!("[{text}]:{number}")),
        4 => costs(text, number),
        _ => {
            strangers::interface(text, &String::from_utf8_lossy(bytes));
            assert!(strangers::job(text).is_err() || text.len() <= 128);
        }
    }
});
