//! The header and this crate agree on every size, offset and number: a C program prints what the compiler
//! makes of the header, and the same lines are made here.

use crate::collectives::{ronde_call, ronde_hole, ronde_options, ronde_outcome, ronde_part};
use crate::config::{ronde_config, ronde_id, ronde_store};
use crate::status::Status;
use crate::update::ronde_change;
use runtime::{Collective, DType, ReduceOp};
use std::fmt::Write;
use std::mem::offset_of;
use std::process::Command;

/// Lines of the C program and the lines expected of it.
#[derive(Default)]
struct Facts {
    program: String,
    expected: String,
}

impl Facts {
    fn number(&mut self, expression: &str, value: usize) {
        writeln!(self.program, "    printf(\"{expression} %zu\\n\", (size_t)({expression}));").unwrap();
        writeln!(self.expected, "{expression} {value}").unwrap();
    }
}

macro_rules! layout {
    ($facts:expr, $name:ident { $($field:ident),* }) => {
        $facts.number(concat!("sizeof(", stringify!($name), ")"), size_of::<$name>());
        $($facts.number(
            concat!("offsetof(", stringify!($name), ", ", stringify!($field), ")"),
            offset_of!($name, $field),
        );)*
    };
}

fn structs(facts: &mut Facts) {
    layout!(
        facts,
        ronde_config {
            size,
            coordinator,
            token,
            advertise,
            transports,
            interfaces,
            id,
            store,
            timeout_ms,
            connect_timeout_ms,
            rank,
            ranks,
            preset,
            insecure,
            streams,
            first_port,
            last_port,
            min_peers,
            max_peers,
            shrink_only,
            newcomer,
            job
        }
    );
    layout!(facts, ronde_id {});
    layout!(facts, ronde_store { size, context, set, get });
    layout!(facts, ronde_options { size, timeout_ms, algorithm, tag, tolerance, strict_commit, reserved });
    layout!(
        facts,
        ronde_outcome {
            size,
            epoch,
            seq,
            bytes_sent,
            bytes_received,
            algorithm,
            contributors,
            interruptions,
            interrupted_ns,
            absent,
            absent_count,
            parts,
            part_count,
            stable_through,
            generation,
            reserved,
            weight,
            part_size,
            detected_ns,
            holes,
            hole_count,
            hole_size
        }
    );
    layout!(facts, ronde_hole { first, bytes, call });
    layout!(facts, ronde_part { first, count, absent, absent_count, contributors, reserved });
    layout!(facts, ronde_change { size, changed, generation, rank, ranks, joined, gone, gone_ranks });
    layout!(
        facts,
        ronde_call {
            size,
            collective,
            dtype,
            reduction,
            count,
            send,
            recv,
            send_counts,
            send_offsets,
            recv_counts,
            recv_offsets,
            options,
            peer,
            reserved
        }
    );
}

fn numbers(facts: &mut Facts) {
    facts.number("sizeof(ronde_status)", 4);
    facts.number("sizeof(ronde_dtype)", 4);
    for dtype in DType::ALL {
        facts.number(&format!("RONDE_{}", dtype.name().to_uppercase()), dtype as usize);
    }
    for op in ReduceOp::ALL {
        facts.number(&format!("RONDE_{}", op.name().to_uppercase()), op as usize);
    }
    for collective in Collective::ALL {
        facts.number(&format!("RONDE_{}", collective.name().to_uppercase()), collective as usize);
    }
    for (status, _) in Status::ALL {
        let debug = format!("{status:?}");
        let mut name = String::from("RONDE");
        for c in debug.chars() {
            if c.is_uppercase() {
                name.push('_');
            }
            name.extend(c.to_uppercase());
        }
        facts.number(&name, status as usize);
    }
    facts.number(
        "RONDE_VERSION_MAJOR * 10000 + RONDE_VERSION_MINOR * 100 + RONDE_VERSION_PATCH",
        crate::VERSION as usize,
    );
}

#[test]
fn the_header_and_the_library_agree() {
    let mut facts = Facts::default();
    structs(&mut facts);
    numbers(&mut facts);
    let Facts { program, expected } = facts;
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("layout.c"), folder.path().join("layout"));
    let text =
        format!("#include <ronde.h>\n#include <stdio.h>\nint main(void) {{\n{program}    return 0;\n}}\n");
    std::fs::write(&source, text).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../include");
    let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    compiler.args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I", include, "-o"]);
    assert!(compiler.arg(&binary).arg(&source).status().unwrap().success());
    let printed = String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap();
    assert_eq!(printed, expected);
}
