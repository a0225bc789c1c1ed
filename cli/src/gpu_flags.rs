//! The flags of nccl-tests that are about GPUs and their threads. Scripts pass them along, so `ronde bench` takes the values
//! that ask for nothing, and refuses others with what to say instead: a figure must not pass for one that was
//! measured in another way.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

/// A flag that takes one value.
struct Flag {
    short: char,
    long: &'static str,
    /// The value that asks for nothing: the default of nccl-tests.
    neutral: u32,
    /// What it is in nccl-tests.
    meaning: &'static str,
    /// Why another value cannot be met, and what to use instead; `{}` is that value.
    refusal: &'static str,
}

const FLAGS: [Flag; 7] = [
    Flag {
        short: 't',
        long: "nthreads",
        neutral: 1,
        meaning: "threads that are ranks, in each process",
        refusal: "a process is one rank here: start {} of them with --ranks {}",
    },
    Flag {
        short: 'g',
        long: "ngpus",
        neutral: 1,
        meaning: "ranks of each thread",
        refusal: "vectors are in the memory of processes, and a process is one rank: start {} of them with --ranks {}",
    },
    Flag {
        short: 'y',
        long: "stream_null",
        neutral: 0,
        meaning: "use of CUDA's null stream",
        refusal: "there are no CUDA streams: operations run on the thread that waits for them, so leave it out",
    },
    Flag {
        short: 'G',
        long: "cudagraph",
        neutral: 0,
        meaning: "launches of a CUDA graph",
        refusal: "there are no CUDA graphs: for more operations use -n, for several in flight at once -m",
    },
    Flag {
        short: 'x',
        long: "cta_policy",
        neutral: 0,
        meaning: "how NCCL spreads over a GPU",
        refusal: "no GPU computes here; to choose how operations run use --algorithm, to write the results as JSON -J",
    },
    Flag {
        short: 'D',
        long: "device_implementation",
        neutral: 0,
        meaning: "a kernel instead of NCCL's",
        refusal: "there are no kernels on a GPU: choose how operations run with --algorithm",
    },
    Flag {
        short: 'V',
        long: "device_cta_count",
        neutral: 16,
        meaning: "size of the kernel of -D",
        refusal: "there are no kernels on a GPU, so leave it out",
    },
];

impl Flag {
    fn argument(&'static self) -> Arg {
        let Flag { neutral, meaning, .. } = self;
        Arg::new(self.long)
            .short(self.short)
            .long(self.long)
            .value_name("N")
            .help(format!("Only {neutral}, for scripts of nccl-tests ({meaning})"))
            .value_parser(|text: &str| self.accept(text))
    }

    fn accept(&self, text: &str) -> Result<(), String> {
        match text.parse::<u32>() {
            Ok(number) if self.neutral == number => Ok(()),
            _ => Err(self.refusal.replace("{}", text)),
        }
    }
}

/// What the flags say that is of use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpuFlags {
    /// Ranks join at the same time. They do in any case, being processes.
    pub(crate) parallel_init: bool,
}

const PARALLEL_INIT: &str = "parallel_init";

impl Args for GpuFlags {
    fn augment_args(command: Command) -> Command {
        let parallel_init = Arg::new(PARALLEL_INIT)
            .short('p')
            .long(PARALLEL_INIT)
            .value_name("0|1")
            .help("Changes nothing: ranks are processes, which join at the same time")
            .value_parser(value_parser!(u8).range(0..=1));
        command.args(FLAGS.iter().map(Flag::argument)).arg(parallel_init)
    }

    fn augment_args_for_update(command: Command) -> Command {
        GpuFlags::augment_args(command)
    }
}

impl FromArgMatches for GpuFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<GpuFlags, Error> {
        Ok(GpuFlags { parallel_init: matches.get_one::<u8>(PARALLEL_INIT) == Some(&1) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = GpuFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Whether `-R` asks for registered vectors.
pub(crate) fn local_register(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        "2" => Err("symmetric windows are of GPUs: use -R 1, vectors that local peers read directly".into()),
        other => Err(format!("`{other}` is neither 0 (plain vectors) nor 1 (registered ones)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        flags: GpuFlags,
    }

    fn parse(line: &str) -> Result<Line, Error> {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))
    }

    #[test]
    fn neutral_values_are_taken_in_both_spellings() {
        for flag in &FLAGS {
            for name in [format!("-{}", flag.short), format!("--{}", flag.long)] {
                assert!(!parse(&format!("{name} {}", flag.neutral)).unwrap().flags.parallel_init);
            }
        }
        assert!(parse("-p 1").unwrap().flags.parallel_init);
        assert!(!parse("-t 1 -g 1 -y 0 -G 0 -x 0 -D 0 -V 16 --parallel_init 0").unwrap().flags.parallel_init);
    }

    #[test]
    fn other_values_are_refused_with_what_to_say_instead() {
        for (line, words) in [
            ("-g 8", "--ranks 8"),
            ("-t 2", "--ranks 2"),
            ("-y 1", "no CUDA streams"),
            ("-G 10", "use -n"),
            ("-x 2", "--algorithm"),
            ("-x out.json", "-J"),
            ("-D 1", "--algorithm"),
            ("-V 32", "leave it out"),
            ("-p 2", "0..=1"),
        ] {
            let text = parse(line).unwrap_err().to_string();
            assert!(text.contains(words) && !text.contains("{}"), "{line}: {text}");
        }
    }

    #[test]
    fn registration_is_local() {
        assert_eq!((local_register("0"), local_register("1")), (Ok(false), Ok(true)));
        assert!(local_register("2").unwrap_err().contains("-R 1"));
        assert!(local_register("yes").is_err());
    }
}
