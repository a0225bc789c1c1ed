//! The C interface, as `include/ronde.h` describes it.
//!
//! Three rules hold for every function: it never unwinds into its caller ([`status::guard`]), it never
//! trusts a pointer that may be null or a number that may be unknown, and the full text of an error stays
//! with the thread that got it. What C cannot check (that a handle is alive, that a buffer is as long as
//! the call says) is the caller's to keep, as the header states it.
#![expect(non_camel_case_types, reason = "the names of the header")]
#![expect(unreachable_pub, reason = "C reaches them")]

mod collectives;
mod commit;
mod config;
mod group;
mod kept;
mod op;
mod reduction;
mod sized;
mod status;
mod update;

#[cfg(test)]
mod layout;

use std::ffi::c_char;

/// Version of the library: major × 10000 + minor × 100 + patch.
const VERSION: u32 = version(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
    + version(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + version(env!("CARGO_PKG_VERSION_PATCH"));

const fn version(text: &str) -> u32 {
    let (mut number, mut at) = (0, 0);
    while at < text.len() {
        number = number * 10 + (text.as_bytes()[at] - b'0') as u32;
        at += 1;
    }
    number
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ronde_version() -> u32 {
    VERSION
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn ronde_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
