//! `ronde bench costs`: the parameters by which the library chooses algorithms, as measured here.

use super::backend::{Backend, create_output};
use super::json::to_json;
use crate::args::BenchArgs;
use crate::exit::{Code, Failure};
use crate::say::say;
use anyhow::Result;
use ronde::{Costs, Group};
use serde::Serialize;
use std::fmt::Write;

/// Seconds for a message, its processor time, a byte sent and a byte reduced.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    transport: &'static str,
    latency: f64,
    message: f64,
    byte: f64,
    reduce: f64,
}

/// Measures the link between ranks 0 and 1.
pub(super) fn run(args: &BenchArgs, group: &Group, backend: &dyn Backend) -> Result<Code> {
    if group.size() < 2 {
        return Err(Failure::usage("costs are measured between two ranks: give --ranks 2").into());
    }
    let file = create_output(args.output_file.as_deref(), backend)?;
    let (transport, costs) = group.measure_costs()?;
    if group.rank() == 0 {
        say!("{}", show(transport, &costs));
    }
    let Costs { latency, message, byte, reduce } = costs;
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { version, transport, latency, message, byte, reduce };
    file.finish(|| Ok(to_json(&report)), backend)?;
    Ok(Code::Ok)
}

fn show(transport: &str, costs: &Costs) -> String {
    let mut text = format!("# Costs between ranks 0 and 1 over {transport}\n");
    for (name, value, unit) in [
        ("latency of a message", costs.latency * 1e6, "us"),
        ("processor time of a message", costs.message * 1e6, "us"),
        ("a byte sent while one is received", costs.byte * 1e12, "ps"),
        ("a byte read to be reduced", costs.reduce * 1e12, "ps"),
    ] {
        let _ = writeln!(text, "# {name:34} {value:>10.3} {unit}");
    }
    text + &format!("RONDE_COSTS=\"{transport}={costs}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_for_the_environment() {
        let costs = Costs { latency: 4e-6, message: 3e-6, byte: 160e-12, reduce: 50e-12 };
        let text = show("tcp", &costs);
        assert!(text.ends_with("\nRONDE_COSTS=\"tcp=4.000,3.000,160.0,50.0\"\n"), "{text}");
    }
}
