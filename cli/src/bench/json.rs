//! The results as JSON: the keys of nccl-tests, with real booleans, numbers and nulls.

use super::measure::{Case, Side};
use super::stats::PerIteration;
use super::table::Row;
use crate::args::{Average, BenchArgs, ToleranceArg};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(crate) struct Report {
    version: &'static str,
    start_time: String,
    args: Vec<String>,
    /// `RONDE_*` only: the rest of the environment is nobody's business.
    env: BTreeMap<String, String>,
    nccl_version: Option<u32>,
    config: ReportConfig,
    results: Vec<ResultRow>,
    out_of_bounds: Bounds,
    average_bus_bandwidth: Bandwidth,
    errors: Vec<String>,
    end_time: String,
}

#[derive(Serialize)]
struct ReportConfig {
    collective: &'static str,
    nthreads: u32,
    ngpus: u32,
    nranks: u32,
    minimum_bytes: u64,
    maximum_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_factor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_bytes: Option<u64>,
    warmup_iters: u32,
    iterations: u32,
    aggregated_iterations: u32,
    validation: u32,
    graph: u32,
    blocking_collectives: bool,
    per_iter_timing: bool,
    per_iter_skip: u32,
    parallel_init: bool,
    average: &'static str,
    unalign: u32,
    tolerance: &'static str,
    algorithm: Option<String>,
    registered: bool,
    devices: Vec<Device>,
}

/// One rank and the process behind it.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub(crate) struct Device {
    pub(crate) rank: u32,
    pub(crate) group: u32,
    pub(crate) pid: u32,
    pub(crate) hostname: String,
    pub(crate) device: Option<u32>,
    pub(crate) device_hex: Option<String>,
    pub(crate) device_info: &'static str,
}

#[derive(Serialize)]
struct ResultRow {
    size: u64,
    count: usize,
    #[serde(rename = "type")]
    dtype: &'static str,
    redop: &'static str,
    root: Option<u32>,
    out_of_place: Figures,
    in_place: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_place_per_iter: Option<PerIteration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_place_per_iter: Option<PerIteration>,
    actual_iterations: u32,
    experiment_name: Option<String>,
}

#[derive(Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_time: Option<f64>,
    alg_bw: f64,
    bus_bw: f64,
    nwrong: Option<u64>,
}

#[derive(Serialize)]
struct Bounds {
    count: u64,
    okay: bool,
}

#[derive(Serialize)]
struct Bandwidth {
    bandwidth: f64,
    okay: Option<bool>,
}

impl Report {
    pub(crate) fn new(
        args: &BenchArgs,
        minimum_bytes: u64,
        maximum_bytes: u64,
        devices: Vec<Device>,
    ) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            start_time: crate::clock::now_utc(),
            args: std::env::args().collect(),
            env: environment(std::env::vars()),
            nccl_version: None,
            config: ReportConfig::new(args, minimum_bytes, maximum_bytes, devices),
            results: Vec::new(),
            out_of_bounds: Bounds { count: 0, okay: true },
            average_bus_bandwidth: Bandwidth { bandwidth: 0.0, okay: None },
            errors: Vec::new(),
            end_time: String::new(),
        }
    }

    pub(crate) fn add_row(&mut self, row: &Row, iterations: u32, cpu_time: bool) {
        let Case { dtype, .. } = row.case;
        let in_place = row.in_place.as_ref();
        self.results.push(ResultRow {
            size: row.bytes,
            count: row.count,
            dtype: dtype.name(),
            redop: row.op_name(),
            root: row.root(),
            out_of_place: Figures::new(&row.out_of_place, cpu_time),
            in_place: in_place.map(|side| Figures::new(side, cpu_time)),
            out_of_place_per_iter: row.out_of_place.per_iter.clone(),
            in_place_per_iter: in_place.and_then(|side| side.per_iter.clone()),
            actual_iterations: iterations,
            experiment_name: None,
        });
    }

    pub(crate) fn add_error(&mut self, error: String) {
        self.errors.push(error);
    }

    /// The file's content.
    pub(crate) fn finish(mut self, wrong_rows: u64, bandwidth: f64, okay: Option<bool>) -> Vec<u8> {
        self.out_of_bounds = Bounds { count: wrong_rows, okay: wrong_rows == 0 };
        self.average_bus_bandwidth = Bandwidth { bandwidth, okay };
        self.end_time = crate::clock::now_utc();
        to_json(&self)
    }
}

/// Indented JSON with a line end. The types written here have string keys only, so nothing can fail.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

impl ReportConfig {
    fn new(args: &BenchArgs, minimum_bytes: u64, maximum_bytes: u64, devices: Vec<Device>) -> ReportConfig {
        ReportConfig {
            collective: args.target.name(),
            nthreads: 1,
            ngpus: 0,
            nranks: devices.len() as u32,
            minimum_bytes,
            maximum_bytes,
            step_factor: args.step_factor,
            step_bytes: args.step_factor.is_none().then_some(args.step_bytes),
            warmup_iters: args.warmup_iters,
            iterations: args.iters,
            aggregated_iterations: args.agg_iters,
            validation: args.check,
            graph: 0,
            blocking_collectives: args.blocking > 0,
            per_iter_timing: args.per_iter,
            per_iter_skip: args.per_iter_skip,
            parallel_init: args.gpu_flags.parallel_init,
            average: average_name(args.average),
            unalign: args.unalign,
            tolerance: tolerance_name(args.tolerance),
            algorithm: args.algorithm.clone(),
            registered: args.is_registered(),
            devices,
        }
    }
}

impl Figures {
    fn new(side: &Side, cpu_time: bool) -> Figures {
        Figures {
            time: (!cpu_time).then_some(side.time_us),
            cpu_time: cpu_time.then_some(side.time_us),
            alg_bw: side.alg_bw,
            bus_bw: side.bus_bw,
            nwrong: side.wrong,
        }
    }
}

pub(crate) fn average_name(average: Average) -> &'static str {
    match average {
        Average::Rank0 => "rank0",
        Average::Mean => "mean",
        Average::Min => "min",
        Average::Max => "max",
    }
}

pub(crate) fn tolerance_name(tolerance: ToleranceArg) -> &'static str {
    ronde::Tolerance::from(tolerance).name()
}

/// The `RONDE_*` variables, without the value of the token.
fn environment(variables: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    variables
        .filter(|(name, _)| name.starts_with("RONDE_"))
        .map(
            |(name, value)| if name == "RONDE_TOKEN" { (name, "(hidden)".to_owned()) } else { (name, value) },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BenchOp, Cli, Command, Target};
    use clap::Parser;
    use ronde::{DType, ReduceOp};
    use serde_json::{Value, json};

    fn report(line: &str) -> Report {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Bench(args) = cli.command else { panic!("not a bench") };
        let device = Device {
            rank: 0,
            group: 0,
            pid: 7,
            hostname: "host".into(),
            device: None,
            device_hex: None,
            device_info: "cpu",
        };
        Report::new(&args, 8, 64, vec![device])
    }

    #[test]
    fn keys_of_nccl_tests_with_real_types() {
        let mut report = report("ronde bench all-reduce -f 2 -I -z");
        let per_iter = PerIteration::of(vec![1.0, 2.0]);
        let side = Side { time_us: 2.5, alg_bw: 1.0, bus_bw: 1.5, wrong: Some(0), per_iter, contributors: 4 };
        let op = Some(BenchOp::Builtin(ReduceOp::Sum));
        let case = Case { target: Target::AllReduce, dtype: DType::F32, op, root: 0 };
        report.add_row(&Row { case, bytes: 8, count: 2, out_of_place: side, in_place: None }, 20, false);
        let value: Value = serde_json::from_slice(&report.finish(0, 1.5, None)).unwrap();
        assert_eq!(value["config"]["step_factor"], json!(2));
        assert_eq!(value["config"].get("step_bytes"), None);
        assert_eq!(value["config"]["blocking_collectives"], json!(true));
        assert_eq!(value["config"]["devices"][0]["pid"], json!(7));
        let row = &value["results"][0];
        assert_eq!((&row["size"], &row["type"], &row["root"]), (&json!(8), &json!("f32"), &Value::Null));
        assert_eq!(row["out_of_place"], json!({"time": 2.5, "alg_bw": 1.0, "bus_bw": 1.5, "nwrong": 0}));
        assert_eq!(row["out_of_place_per_iter"]["times_us"], json!([1.0, 2.0]));
        assert_eq!(row["in_place"], Value::Null);
        assert_eq!(value["out_of_bounds"], json!({"count": 0, "okay": true}));
        assert_eq!(value["average_bus_bandwidth"], json!({"bandwidth": 1.5, "okay": null}));
        for key in ["version", "start_time", "args", "env", "nccl_version", "errors", "end_time"] {
            assert!(value.get(key).is_some(), "{key} is missing");
        }
    }

    #[test]
    fn the_environment_is_ours_only_and_keeps_the_token_secret() {
        let all = [("RONDE_TOKEN", "secret"), ("RONDE_RANK", "1"), ("AWS_SECRET", "x")];
        let kept = environment(all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        assert_eq!(
            serde_json::to_value(kept).unwrap(),
            json!({"RONDE_RANK": "1", "RONDE_TOKEN": "(hidden)"})
        );
    }
}
