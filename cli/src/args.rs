//! The command line as data.

use crate::bench::names;
use crate::gpu_flags::{GpuFlags, local_register};
use crate::quantity::parse_bytes;
use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use ronde::{DType, ReduceOp, Tolerance};
use std::ffi::OsString;
use std::path::PathBuf;

/// Fault-tolerant collective communication: benchmarks, a launcher, a coordinator and help with both.
#[derive(Parser, Debug)]
#[command(name = "ronde", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Measure a collective, with the flags, columns and exit codes of nccl-tests
    Bench(Box<BenchArgs>),
    /// Train a small model on four processes and compare it with a single-process run
    Demo(DemoArgs),
    /// Start N local processes of a program that uses Ronde
    Run(RunArgs),
    /// Serve as the coordinator of all jobs that come, by their names, until they have ended
    Coordinator(CoordinatorArgs),
    /// Ask the coordinator of a job how that is: members, losses, who waits to join
    Status(StatusArgs),
    /// Look over this machine and say what Ronde would use, and why
    Doctor(DoctorArgs),
    /// Become a rank: bind this process's life to the launcher's, then execute the program
    #[command(name = "__rank", hide = true)]
    Rank(ChildArgs),
}

/// What to measure.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Target {
    #[value(alias = "all_reduce", alias = "allreduce")]
    AllReduce,
    #[value(alias = "all_gather", alias = "allgather")]
    AllGather,
    #[value(alias = "reduce_scatter", alias = "reducescatter")]
    ReduceScatter,
    #[value(alias = "all_to_all", alias = "alltoall")]
    AllToAll,
    #[value(alias = "all_to_all_v", alias = "alltoallv")]
    AllToAllV,
    Broadcast,
    Reduce,
    Gather,
    Scatter,
    /// Every rank sends to the next and receives from the one before
    #[value(alias = "send_recv", alias = "sendrecv")]
    SendRecv,
    Barrier,
    /// Latency and bandwidth between every two ranks
    Pairs,
    /// What messages and bytes cost, as a line for the environment (RONDE_COSTS) by which algorithms are chosen
    Costs,
    /// What the death of a process in the middle of an all-reduce costs the others: time to notice it, to go on,
    /// and until another one has taken its place
    Recover,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ToleranceArg {
    /// A lost peer is an error on all
    None,
    /// Operations keep what they need to survive a lost peer
    Recover,
    /// The same, but all-reduces commit window by window: contributors may differ along the vector
    PerWindow,
}

impl From<ToleranceArg> for Tolerance {
    fn from(arg: ToleranceArg) -> Tolerance {
        match arg {
            ToleranceArg::None => Tolerance::None,
            ToleranceArg::Recover => Tolerance::Recover,
            ToleranceArg::PerWindow => Tolerance::PerWindow,
        }
    }
}

/// How the numbers of the ranks become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Average {
    Rank0,
    Mean,
    Min,
    Max,
}

/// One value of a flag that may also be `all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pick<T> {
    One(T),
    All,
}

/// The operator of a bench.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BenchOp {
    Builtin(ReduceOp),
    /// Sum of contributions that each rank multiplies by a number of its own.
    MulSum,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct JoinArgs {
    /// Start N local processes of this command and measure among them (recover: a list [default: 2,4])
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) ranks: Option<u32>,
    /// Coordinator of a job on several hosts, host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) coordinator: Option<String>,
    /// This process's rank (else RONDE_RANK, RANK, or the launcher's variable)
    #[arg(long)]
    pub(crate) rank: Option<u32>,
    /// Number of ranks (else RONDE_SIZE, WORLD_SIZE, or the launcher's variable)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: Option<u32>,
    /// Transports to use, best first (else RONDE_TRANSPORTS), for example shm,tcp
    #[arg(long, value_name = "LIST")]
    pub(crate) transports: Option<String>,
    /// This process was started by --ranks
    #[arg(long, hide = true)]
    pub(crate) spawned: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    // First: what follows takes its values out of what was parsed.
    #[command(flatten)]
    pub(crate) rank_list: RankList,
    /// What to measure
    #[arg(value_enum)]
    pub(crate) target: Target,
    /// Smallest size in bytes; K, M and G are binary [default: 32M; pairs: 8]
    #[arg(short = 'b', long = "minbytes", value_parser = parse_bytes, value_name = "SIZE")]
    pub(crate) min_bytes: Option<u64>,
    /// Largest size in bytes [default: 32M or the smallest; pairs: 1M]
    #[arg(short = 'e', long = "maxbytes", value_parser = parse_bytes, value_name = "SIZE")]
    pub(crate) max_bytes: Option<u64>,
    /// Fixed step between sizes in bytes
    #[arg(short = 'i', long = "stepbytes", value_parser = parse_bytes, default_value = "1M", value_name = "SIZE")]
    pub(crate) step_bytes: u64,
    /// Factor between sizes; wins over the fixed step
    #[arg(short = 'f', long = "stepfactor", value_name = "FACTOR")]
    pub(crate) step_factor: Option<u32>,
    /// Measured iterations per size
    #[arg(short = 'n', long = "iters", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iters: u32,
    /// Operations in flight at once in an iteration
    #[arg(short = 'm', long = "agg_iters", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) agg_iters: u32,
    /// Iterations per size before the measured ones
    #[arg(short = 'w', long = "warmup_iters", default_value_t = 1)]
    pub(crate) warmup_iters: u32,
    /// Repeat everything this often; 0 is for ever
    #[arg(short = 'N', long = "run_cycles", default_value_t = 1)]
    pub(crate) run_cycles: u32,
    /// Checked iterations per size; 0 checks nothing
    #[arg(short = 'c', long = "check", default_value_t = 1)]
    pub(crate) check: u32,
    /// sum, prod, min, max, avg, band, bor, bxor, mulsum or all
    #[arg(short = 'o', long = "op", default_value = "sum", value_parser = names::parse_op)]
    pub(crate) op: Pick<BenchOp>,
    /// f32 (float), f64 (double), f16 (half), bf16, i8 (int8) … or all
    #[arg(short = 'd', long = "datatype", default_value = "f32", value_parser = names::parse_dtype)]
    pub(crate) dtype: Pick<DType>,
    /// Root of rooted collectives; -1 or all for every rank in turn
    #[arg(short = 'r', long = "root", default_value = "0", value_parser = names::parse_root, allow_hyphen_values = true)]
    pub(crate) root: Pick<u32>,
    /// 0: operations follow each other at once; 1-3: all ranks meet after each, inside the time
    #[arg(short = 'z', long = "blocking", default_value_t = 0, num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) blocking: u8,
    /// Deadline of one operation in seconds; 0, as none: that of RONDE_TIMEOUT
    #[arg(short = 'T', long = "timeout", value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Report processor time of the whole process instead of elapsed time
    #[arg(short = 'C', long = "report_cputime", default_value = "0", num_args = 0..=1, default_missing_value = "1", value_parser = flag)]
    pub(crate) cpu_time: bool,
    /// End each row with the time of day
    #[arg(short = 'S', long = "report_timestamps", default_value = "0", num_args = 0..=1, default_missing_value = "1", value_parser = flag)]
    pub(crate) timestamps: bool,
    /// Write the results as JSON; an existing file is kept and .0, .1 … is added. Pipes and devices are written to as they are
    #[arg(short = 'J', long = "output_file", value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    /// Time to report: 0 of rank 0, 1 mean, 2 least, 3 largest over the ranks
    #[arg(short = 'a', long = "average", default_value = "1", value_parser = average)]
    pub(crate) average: Average,
    /// Time each iteration by itself: least, largest, 99th percentile, variation
    #[arg(short = 'I', long = "per_iter_timing", default_value = "0", num_args = 0..=1, default_missing_value = "1", value_parser = flag)]
    pub(crate) per_iter: bool,
    /// Iterations left out of the per-iteration figures, at the start
    #[arg(short = 'K', long = "per_iter_skip", default_value_t = 0)]
    pub(crate) per_iter_skip: u32,
    /// Report the memory used
    #[arg(short = 'M', long = "memory", default_value = "0", num_args = 0..=1, default_missing_value = "1", value_parser = flag)]
    pub(crate) memory: bool,
    /// Start vectors this many elements past an aligned address
    #[arg(short = 'u', long = "unalign", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub(crate) unalign: u32,
    /// Least acceptable average bus bandwidth in GB/s (else NCCL_TESTS_MIN_BW); below 90 % of it the exit code is 7
    #[arg(long, env = "NCCL_TESTS_MIN_BW", value_name = "GB/s", hide_env_values = true)]
    pub(crate) min_bw: Option<f64>,
    /// Force an algorithm by name
    #[arg(long)]
    pub(crate) algorithm: Option<String>,
    /// Whether operations survive the loss of a peer
    #[arg(long, value_enum, default_value = "recover")]
    pub(crate) tolerance: ToleranceArg,
    /// Take the vectors from registered memory, which local peers read directly
    #[arg(long)]
    pub(crate) registered: bool,
    /// 1: as --registered
    #[arg(short = 'R', long = "local_register", action = ArgAction::Set, default_value = "0", value_name = "0|1", value_parser = local_register)]
    pub(crate) local_register: bool,
    /// pairs: also draw the bandwidths as a heat map
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file)]
    pub(crate) heatmap: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) recover: RecoverArgs,
    #[command(flatten)]
    pub(crate) gpu_flags: GpuFlags,
}

impl BenchArgs {
    /// Vectors come from registered memory.
    pub(crate) fn is_registered(&self) -> bool {
        self.registered || self.local_register
    }
}

/// What only `bench recover` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct RecoverArgs {
    /// recover: sizes in bytes [default: 8,64K,1M,64M, as far as memory allows]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_bytes,
          conflicts_with_all = ["min_bytes", "max_bytes", "step_factor"])]
    pub(crate) sizes: Vec<u64>,
    /// recover: when a process is killed, in parts of the time that the operation takes without
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0.0,0.25,0.5,0.75,0.95",
          value_parser = part_of_one)]
    pub(crate) moments: Vec<f64>,
    /// recover: processes killed for each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) kills: u32,
    /// recover: kill the process that hosts the coordinator, not another one
    #[arg(long)]
    pub(crate) host: bool,
    /// recover: this process is one of those that are killed, with a vector of so many bytes
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) member_bytes: u64,
    /// recover: where the processes of one job leave word for each other
    #[arg(long, hide = true)]
    pub(crate) member_folder: Option<PathBuf>,
}

/// All values of `--ranks`, of which [`JoinArgs`] has the first: only `bench recover` takes several.
#[derive(Clone, Debug)]
pub(crate) struct RankList(pub(crate) Vec<u32>);

impl Args for RankList {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

impl FromArgMatches for RankList {
    fn from_arg_matches(matches: &ArgMatches) -> Result<RankList, clap::Error> {
        let ranks: Vec<u32> = matches.get_many("ranks").into_iter().flatten().copied().collect();
        match matches.get_one("target") {
            Some(Target::Recover) => Ok(RankList(ranks)),
            _ if ranks.len() <= 1 => Ok(RankList(ranks)),
            _ => {
                let text = "only `bench recover` takes several numbers of --ranks";
                Err(clap::Error::raw(ErrorKind::TooManyValues, text))
            }
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = RankList::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Number of processes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) ranks: u32,
    /// Passes over the training images
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) epochs: u32,
    /// Seconds that the training takes at least: a pace to follow it at (0: as fast as it goes)
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Kill nobody
    #[arg(long)]
    pub(crate) undisturbed: bool,
    /// Write accuracy, digests, max_abs_diff, bytes, transports, views, kills and joins as JSON
    #[arg(short = 'J', long = "output_file", value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    /// This process is one of the trainers
    #[arg(long, hide = true)]
    pub(crate) spawned: bool,
    /// Where the first of them leaves the report
    #[arg(long, hide = true)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Number of processes
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) ranks: u32,
    /// Pass output on as it is, without the rank in front of each line
    #[arg(long)]
    pub(crate) no_prefix: bool,
    /// Let the others go on when one fails
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Replace so many processes that fail by new ones, which join the job at its next safe point
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) restarts: u32,
    /// Seconds between asking processes to end (SIGTERM, or what the launcher got itself) and ending them (SIGKILL)
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub(crate) grace: u32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct CoordinatorArgs {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:29400", value_name = "ADDRESS:PORT")]
    pub(crate) listen: String,
    /// Number of ranks of the job (else RONDE_SIZE, or what the members say)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: Option<u32>,
    /// Start once so many are there and those of an earlier job have had 2 s to come; the others join at safe points
    #[arg(long, value_name = "N", conflicts_with = "size", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) min_peers: Option<u32>,
    /// Take in no more than so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_peers: Option<u32>,
    /// Go on for the next jobs when all have ended. Jobs of several names (RONDE_JOB) are served at a time; what is said of
    /// sizes here holds for each
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Address and port of the coordinator (else RONDE_COORDINATOR); RONDE_TOKEN has the job's token
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) coordinator: Option<String>,
    /// Name of the job (else RONDE_JOB)
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Write the findings as JSON
    #[arg(short = 'J', long = "output_file", value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ChildArgs {
    /// Process id of the launcher
    #[arg(long)]
    pub(crate) parent: i32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("`{text}` is not a number of seconds")),
    }
}

fn part_of_one(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err(format!("`{text}` is not a number from 0 to 1")),
    }
}

/// A picture is written as SVG, so no file may say by its name that it is another.
fn svg_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if !extension.eq_ignore_ascii_case("svg") => {
            Err("the heat map is written as SVG: name a file that ends in .svg".into())
        }
        _ => Ok(path),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        other => Err(format!("`{other}` is neither 0 nor 1")),
    }
}

fn average(text: &str) -> Result<Average, String> {
    match text {
        "0" => Ok(Average::Rank0),
        "1" => Ok(Average::Mean),
        "2" => Ok(Average::Min),
        "3" => Ok(Average::Max),
        other => Err(format!("`{other}` is none of 0 (rank 0), 1 (mean), 2 (least), 3 (largest)")),
    }
}
