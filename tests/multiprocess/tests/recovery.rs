//! Peers are killed or stopped in the middle of operations, and the others go on: every result is the
//! reduction of exactly those who are said to have contributed, and the same on all survivors.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde::{CallOptions, Error, Group, Outcome, Part, ReduceOp, Tolerance};
use ronde_multiprocess::{RankProcess, is_child, launch, wait_all};
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

/// Numbers that differ by rank, round and place; sums of a few are exact in any order.
fn value(rank: u32, round: u64, i: usize) -> u64 {
    (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round << 32 ^ i as u64
}

fn present(group: &Group, outcome: &Outcome) -> Vec<u32> {
    (0..group.size()).filter(|rank| !outcome.absent.contains(rank)).collect()
}

/// What an output holds before an operation.
const POISON: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// Who contributed to one operation.
type Contributors = Vec<u32>;

/// One round of operations on vectors of the same length.
struct Round<'a> {
    group: &'a Group,
    number: u64,
    input: Vec<u64>,
}

/// Runs one; returns who contributed to each operation.
fn round(group: &Group, number: u64, length: usize) -> Result<Vec<Contributors>, Error> {
    let input = (0..length).map(|i| value(group.rank(), number, i)).collect();
    let round = Round { group, number, input };
    let mut said = Vec::from(round.all_reduces()?);
    said.extend(round.registered()?);
    said.extend(round.by_windows()?);
    said.push(round.broadcast()?);
    said.extend(round.blocks()?);
    said.push(present(group, &group.barrier()?));
    Ok(said)
}

impl Round<'_> {
    fn length(&self) -> usize {
        self.input.len()
    }

    fn poisoned(&self) -> Vec<u64> {
        vec![POISON; self.length()]
    }

    fn sum(&self, here: &[u32], i: usize) -> u64 {
        here.iter().fold(0, |sum, &rank| u64::wrapping_add(sum, value(rank, self.number, i)))
    }

    /// The result is the sum of exactly those who contributed.
    fn check_sum(&self, what: &str, got: &[u64], outcome: &Outcome) -> Contributors {
        let here = present(self.group, outcome);
        let is_right = (0..self.length()).all(|i| got[i] == self.sum(&here, i));
        assert!(is_right, "{what} of round {}, {here:?}", self.number);
        here
    }

    fn all_reduces(&self) -> Result<[Contributors; 2], Error> {
        let (mut output, mut data) = (self.poisoned(), self.input.clone());
        let outcome = self.group.all_reduce_into(&self.input, &mut output, ReduceOp::Sum)?;
        let apart = self.check_sum("all_reduce", &output, &outcome);
        let is_kept = (0..self.length()).all(|i| self.input[i] == value(self.group.rank(), self.number, i));
        assert!(is_kept, "the input of round {} changed", self.number);
        let outcome = self.group.all_reduce(&mut data, ReduceOp::Sum)?;
        Ok([apart, self.check_sum("all_reduce in place", &data, &outcome)])
    }

    /// Others may be reading registered memory when it is taken back, and it is freed right after.
    fn registered(&self) -> Result<[Contributors; 2], Error> {
        let mut memory = self.group.mem_alloc(8 * self.length())?;
        memory.as_mut_slice::<u64>().copy_from_slice(&self.input);
        let mut output = self.poisoned();
        let outcome = self.group.all_reduce_into(memory.as_slice(), &mut output, ReduceOp::Sum)?;
        let apart = self.check_sum("registered input", &output, &outcome);
        let is_kept = *memory.as_slice::<u64>() == self.input;
        assert!(is_kept, "the registered input of round {} changed", self.number);
        let outcome = self.group.all_reduce(memory.as_mut_slice::<u64>(), ReduceOp::Sum)?;
        Ok([apart, self.check_sum("registered memory", memory.as_slice(), &outcome)])
    }

    /// Each part of a result says who is in it.
    fn by_windows(&self) -> Result<Vec<Contributors>, Error> {
        let options = CallOptions { tolerance: Tolerance::PerWindow, ..CallOptions::default() };
        let mut said = Vec::new();
        for in_place in [false, true] {
            let (mut data, mut output) = (self.input.clone(), self.poisoned());
            let outcome = match in_place {
                true => self.group.all_reduce_with(&mut data, ReduceOp::Sum, &options)?,
                false => {
                    self.group.all_reduce_into_with(&self.input, &mut output, ReduceOp::Sum, &options)?
                }
            };
            let got = if in_place { &data } else { &output };
            said.extend(self.check_parts(got, &outcome, in_place));
        }
        Ok(said)
    }

    fn check_parts(&self, got: &[u64], outcome: &Outcome, in_place: bool) -> Vec<Contributors> {
        let (length, number) = (self.length(), self.number);
        let whole = Part { elements: 0..length, contributors: 0, absent: outcome.absent.clone() };
        let parts = if outcome.parts.is_empty() { &[whole][..] } else { &outcome.parts };
        let (mut said, mut end) = (Vec::new(), 0);
        for Part { elements, absent, .. } in parts {
            assert_eq!(elements.start, end, "parts of round {number}: {parts:?}");
            end = elements.end;
            let here: Vec<u32> = (0..self.group.size()).filter(|rank| !absent.contains(rank)).collect();
            let is_right = elements.clone().all(|i| got[i] == self.sum(&here, i));
            assert!(is_right, "per-window all_reduce of round {number}, in place {in_place}: {parts:?}");
            said.push(here);
        }
        assert_eq!(end, length, "parts of round {number}: {parts:?}");
        said
    }

    /// Without its root it is completed from whoever has all of it, or fails alike everywhere.
    fn broadcast(&self) -> Result<Contributors, Error> {
        let root = (self.number % u64::from(self.group.size())) as u32;
        let mut data = if self.group.rank() == root { self.input.clone() } else { self.poisoned() };
        match self.group.broadcast(&mut data, root) {
            Ok(outcome) => {
                let is_right = (0..self.length()).all(|i| data[i] == value(root, self.number, i));
                assert!(is_right, "broadcast of round {}", self.number);
                Ok(present(self.group, &outcome))
            }
            Err(Error::PeerLost(lost)) if lost.rank.0 == root => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn blocks(&self) -> Result<[Contributors; 2], Error> {
        let (group, length, number) = (self.group, self.length(), self.number);
        let size = group.size() as usize;
        let mut all = vec![POISON; length * size];
        let outcome = group.all_gather(&self.input, &mut all)?;
        let gathered = present(group, &outcome);
        for (at, &got) in all.iter().enumerate() {
            let (rank, i) = ((at / length) as u32, at % length);
            let is_hole = outcome.holes.iter().any(|hole| hole.bytes.contains(&(8 * at)));
            assert_eq!(
                is_hole,
                !gathered.contains(&rank),
                "all_gather of round {number}: {:?}",
                outcome.holes
            );
            assert!(is_hole || got == value(rank, number, i), "all_gather of round {number}");
        }
        let block = length / size;
        let mut mine = vec![POISON; block];
        let outcome = group.reduce_scatter(&self.input[..block * size], &mut mine, ReduceOp::Sum)?;
        let scattered = present(group, &outcome);
        let first = block * group.rank() as usize;
        let is_right = (0..block).all(|i| mine[i] == self.sum(&scattered, first + i));
        assert!(is_right, "reduce_scatter of round {number}");
        Ok([gathered, scattered])
    }
}

/// Every second rank, in calls that tolerate no loss: one in another half is no concern of theirs, one in their
/// own ends them all.
struct Half {
    group: Group,
    ranks: Vec<u32>,
    broken: bool,
}

impl Half {
    fn of(group: &Group) -> Half {
        let colour = group.rank() % 2;
        let ranks = (0..group.size()).filter(|rank| rank % 2 == colour).collect();
        let half = group.split(Some(colour), 0).expect("a split").expect("a half");
        Half { group: half, ranks, broken: false }
    }

    fn round(&mut self, me: u32, round: u64, length: usize) {
        let options = CallOptions { tolerance: Tolerance::None, ..CallOptions::default() };
        for place in 0..2 {
            let mut data: Vec<u64> = (0..length).map(|i| value(me, round, i + place)).collect();
            match self.group.all_reduce_with(&mut data, ReduceOp::Sum, &options) {
                Ok(_) => {
                    assert!(!self.broken, "round {round}: without one who was lost");
                    let sum = |i: usize| {
                        self.ranks.iter().fold(0u64, |s, &r| s.wrapping_add(value(r, round, i + place)))
                    };
                    assert!((0..length).all(|i| data[i] == sum(i)), "strict all_reduce of round {round}");
                }
                Err(Error::PeerLost(lost)) => {
                    assert!(self.ranks.contains(&lost.rank.0), "round {round}: {lost}");
                    self.broken = true;
                }
                Err(Error::Expelled { .. }) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
    }
}

/// Rounds after the last loss.
const ROUNDS_WITHOUT: usize = 6;
/// Until the last loss.
const PATIENCE: Duration = Duration::from_secs(60);

/// Works until so many are lost and a few rounds longer, and says after each round who contributed.
#[test]
fn survivor_rank() {
    if !is_child() {
        return;
    }
    let number = |name| std::env::var(name).expect("set by the parent").parse::<usize>().expect("a number");
    let (length, losses) = (number("RONDE_TEST_LENGTH"), number("RONDE_TEST_LOSSES"));
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    let mut half = Half::of(&group);
    let (mut without, until) = (0, Instant::now() + PATIENCE);
    for at in 0.. {
        half.round(group.rank(), at, length);
        match round(&group, at, length) {
            Ok(said) => {
                println!("\nROUND {at} {said:?}");
                let here = said.last().map_or(0, Vec::len);
                without += usize::from(here + losses == group.size() as usize);
            }
            Err(Error::Expelled { .. }) => return println!("\nEXPELLED"),
            Err(error) => panic!("round {at}: {error}"),
        }
        if without == ROUNDS_WITHOUT {
            break;
        }
        assert!(Instant::now() < until, "round {at}: nobody is lost");
    }
    group.close().expect("close");
    println!("\nDONE");
}

/// Reads the output of a rank until it has finished so many rounds.
fn read_rounds(
    process: &mut RankProcess,
    rounds: usize,
) -> (Vec<String>, BufReader<std::process::ChildStdout>) {
    let mut lines = BufReader::new(process.take_stdout());
    let mut said = Vec::new();
    let mut line = String::new();
    while said.len() < rounds {
        line.clear();
        assert!(lines.read_line(&mut line).expect("its output") > 0, "rank {} ended early", process.rank);
        if line.starts_with("ROUND") {
            said.push(line.clone());
        }
    }
    (said, lines)
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Killed,
    Stopped,
}

/// Ends some ranks of a job, each after a random number of rounds and a random time, while it runs.
fn lose(victims: &[usize], ranks: usize, transport: &str, length: usize, fate: Fate, rng: &mut SmallRng) {
    let what = format!("{victims:?} of {ranks} {transport} {length}");
    let (length_text, losses) = (length.to_string(), victims.len().to_string());
    let variables = [
        ("RONDE_TRANSPORTS", transport),
        ("RONDE_TEST_LENGTH", &length_text),
        ("RONDE_TEST_LOSSES", &losses),
        ("RONDE_TIMEOUT", "30s"),
    ];
    let mut processes = launch("survivor_rank", ranks, &variables);
    let first = rng.random_range(1..4);
    let outputs: Vec<_> = processes.iter_mut().map(|process| read_rounds(process, first)).collect();
    for &victim in victims {
        let pause = Instant::now() + Duration::from_micros(rng.random_range(0..20_000));
        while Instant::now() < pause {
            std::hint::spin_loop();
        }
        match fate {
            Fate::Killed => processes[victim].kill(),
            Fate::Stopped => processes[victim].stop(),
        }
    }
    // All at once: a rank whose output nobody reads stops when the pipe is full.
    let read = |(mut before, mut rest): (Vec<String>, _)| {
        std::thread::spawn(move || {
            let mut text = String::new();
            Read::read_to_string(&mut rest, &mut text).expect("its output");
            before.extend(
                text.lines().filter(|line| line.starts_with("ROUND")).map(|line| format!("{line}\n")),
            );
            (before, text)
        })
    };
    let readers: Vec<_> = outputs.into_iter().map(read).collect();
    let mut said = Vec::new();
    for (rank, reader) in readers.into_iter().enumerate() {
        if victims.contains(&rank) {
            continue;
        }
        let (rounds, text) = reader.join().expect("its output");
        assert!(text.contains("DONE"), "{what}: rank {rank} did not finish: {text}");
        said.push(rounds);
    }
    if fate == Fate::Stopped {
        victims.iter().for_each(|&victim| processes[victim].resume());
    }
    for ended in wait_all(processes, Duration::from_secs(10)) {
        let expected = !victims.contains(&ended.rank) || fate == Fate::Stopped;
        assert!(ended.ok || !expected, "{what}: rank {}: {}", ended.rank, ended.output);
    }
    assert!(said.iter().all(|rounds| *rounds == said[0]), "{what}: survivors disagree: {said:#?}");
    let last = said[0].last().expect("rounds");
    let left: Vec<usize> = (0..ranks).filter(|rank| !victims.contains(rank)).collect();
    assert!(last.contains(&format!("{left:?}")), "{what}: {last}");
}

#[test]
fn killed_in_the_middle() {
    if is_child() {
        return;
    }
    let mut rng = SmallRng::seed_from_u64(1);
    for transport in ["tcp", "shm", "shm,tcp"] {
        for length in [8, 1000, 50_000, 500_000] {
            // Rank 0 hosts the coordinator.
            for (victims, ranks) in [
                (&[1][..], 2),
                (&[0], 3),
                (&[2], 4),
                (&[1, 3], 4),
                (&[2, 0], 4),
                (&[4, 1, 2], 5),
                (&[0, 1], 5),
            ] {
                lose(victims, ranks, transport, length, Fate::Killed, &mut rng);
            }
        }
    }
}

/// Random kills, so many or for as long as `tests/soak kill` says.
#[test]
#[ignore = "as long as one likes: tests/soak kill"]
fn soak() {
    if is_child() {
        return;
    }
    let (seconds, seed) = ronde_multiprocess::soak();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let wanted = std::env::var("RONDE_TEST_KILLS").ok().map(|text| text.parse().expect("a number"));
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut jobs, mut kills) = (0, 0);
    while wanted.map_or(Instant::now() < until, |wanted: usize| kills < wanted) {
        let ranks = rng.random_range(2..7);
        let mut victims: Vec<usize> = (0..ranks).collect();
        victims.swap_remove(rng.random_range(0..ranks));
        while victims.len() > 1 && rng.random() {
            victims.swap_remove(rng.random_range(0..victims.len()));
        }
        let transport = ["tcp", "shm", "shm,tcp"][rng.random_range(0..3)];
        let length = [8, 100, 1000, 20_000, 200_000, 1_000_000][rng.random_range(0..6)];
        lose(&victims, ranks, transport, length, Fate::Killed, &mut rng);
        jobs += 1;
        kills += victims.len();
    }
    println!("{kills} ranks of {jobs} jobs were killed, and nothing was wrong");
}

/// A rank that is stopped is given up after a second; when it wakes it hears that it was expelled.
#[test]
fn stopped_and_woken() {
    if is_child() {
        return;
    }
    let mut rng = SmallRng::seed_from_u64(2);
    for transport in ["tcp", "shm"] {
        lose(&[2], 4, transport, 20_000, Fate::Stopped, &mut rng);
    }
}
