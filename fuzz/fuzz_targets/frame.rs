//! Any 64 bytes are either refused or a header that encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ronde_core::frame::{HEADER_BYTES, Header, MAX_PAYLOAD};

fuzz_target!(|bytes: [u8; HEADER_BYTES]| {
    if let Ok(header) = Header::decode(&bytes) {
        assert_eq!(header.encode(), bytes);
        assert!(header.payload_len as usize <= MAX_PAYLOAD);
    }
});
