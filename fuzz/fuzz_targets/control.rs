//! Whatever members say, a coordinator does not panic, and what it answers can be written. Bytes that are no message are
//! refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde_core::Instant;
use ronde_core::membership::{Coordinator, CoordinatorOptions, Effect, FromMember, ToMember, decode, encode};
use std::time::Duration;

/// The input is what happens: from which of a few connections, how many milliseconds later, and what it says. Nothing is its
/// end.
type Event<'a> = (u8, u16, &'a [u8]);

fuzz_target!(|input: (bool, Vec<Event<'_>>)| {
    let (succeeds, events) = input;
    let options = CoordinatorOptions { min_peers: Some(2), ..CoordinatorOptions::default() };
    let mut coordinator = match succeeds {
        true => Coordinator::successor(options),
        false => Coordinator::new(options),
    };
    let mut now = Instant(0);
    for (connection, later, bytes) in events {
        now = now.after(Duration::from_millis(later.into()));
        let connection = u64::from(connection % 6);
        let _ = decode::<ToMember>(bytes);
        match decode::<FromMember>(bytes) {
            _ if bytes.is_empty() => coordinator.handle_closed(connection, now),
            Ok(message) => {
                assert!(encode(&message).is_ok());
                coordinator.handle_message(connection, message, now);
            }
            Err(_) => coordinator.handle_tick(now),
        }
        for effect in coordinator.take_effects() {
            if let Effect::Send(_, message) = effect {
                // More than fits into a message ends that connection, and no more.
                let _ = encode(&message);
            }
        }
        let _ = encode(&coordinator.status(now));
    }
});
