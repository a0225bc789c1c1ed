//! What very many newcomers at once cost the coordinator.

use ronde_core::membership::{
    Coordinator, CoordinatorOptions, Effect, FromMember, Hello, MachineId, MemberInfo, ToMember, VERSION,
};
use ronde_core::{Epoch, Instant, MemberId, PeerId};
use std::time::Duration;

fn hello(number: u32, size: Option<u32>) -> FromMember {
    let mut peer = PeerId::default();
    peer.0[..4].copy_from_slice(&number.to_le_bytes());
    let info = MemberInfo {
        peer,
        id: MemberId(0),
        host: format!("node-{:04}", number / 8),
        addresses: vec![
            format!("10.{}.{}.8:{}", number >> 16, number >> 8 & 255, 4000 + number % 8).parse().unwrap(),
        ],
        machine: MachineId(format!("{number:032x} pid:[4026531836] net:[4026531840]")),
        user: 0,
        pid: number,
        transports: vec!["shm".into(), "tcp".into()],
        costs: String::new(),
    };
    FromMember::Hello(Hello {
        version: VERSION,
        rank: None,
        size,
        min_peers: None,
        newcomer: false,
        hosts_coordinator: false,
        info,
    })
}

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// So many processes ask to join a job of one at once: all are taken into one view. Returns the processor time of
/// the coordinator and the bytes of the view.
fn join_at_once(newcomers: u32) -> (Duration, usize) {
    let start = std::time::Instant::now();
    let mut coordinator = Coordinator::new(CoordinatorOptions::default());
    coordinator.handle_message(0, hello(0, Some(1)), Instant(0));
    coordinator.handle_message(0, FromMember::Linked(Epoch(1)), Instant(0));
    drop(coordinator.take_effects());
    for number in 1..=newcomers {
        coordinator.handle_message(u64::from(number), hello(number, None), Instant(1_000_000));
        coordinator.handle_tick(Instant(1_000_000));
    }
    let due = coordinator.next_deadline().expect("newcomers wait");
    coordinator.handle_tick(due);
    let effects = coordinator.take_effects();
    let views = effects.iter().filter_map(|e| match e {
        Effect::Send(_, ToMember::View(view)) => Some(view),
        _ => None,
    });
    let views: Vec<_> = views.collect();
    assert_eq!(views.len() as u32, newcomers + 1);
    assert_eq!(views[0].members.len() as u32, newcomers + 1);
    let bytes = ronde_core::membership::encode(&ToMember::View(views[0].clone())).expect("it fits").len();
    let epoch = views[0].epoch;
    for number in 0..=newcomers {
        coordinator.handle_message(u64::from(number), FromMember::Linked(epoch), due);
        coordinator.handle_tick(due);
    }
    coordinator.handle_message(0, FromMember::Entered(epoch), due);
    assert_eq!(coordinator.view().members.len() as u32, newcomers + 1);
    drop(coordinator.take_effects());
    (start.elapsed(), bytes)
}

#[test]
fn ten_thousand_newcomers_come_in_one_view() {
    println!("newcomers   coordinator's time   bytes of the view   most memory");
    for newcomers in [10, 100, 1_000, 10_000] {
        let (time, bytes) = join_at_once(newcomers);
        println!("{newcomers:>9}   {:>15.1} ms   {bytes:>17}   {:>8} kB", time.as_secs_f64() * 1e3, rss());
    }
}
