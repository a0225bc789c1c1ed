//! Gives the shared library its name: the number changes when programs must be linked anew.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libronde.so.0");
    println!("cargo:rerun-if-changed=build.rs");
}
