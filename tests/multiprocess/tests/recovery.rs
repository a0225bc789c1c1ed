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

/// One round of operations; returns who contributed to each.
fn round(group: &Group, round: u64, length: usize) -> Result<Vec<Vec<u32>>, Error> {
    let (me, size) = (group.rank(), group.size());
    let mut said = Vec::new();
    let input: Vec<u64> = (0..length).map(|i| value(me, round, i)).collect();
    let sum = |here: &[u32], i: usize| here.iter().fold(0u64, |s, &r| s.wrapping_add(value(r, round, i)));

    let mut output = vec![0xaaaa_aaaa_aaaa_aaaa; length];
    let here = present(group, &group.all_reduce_into(&input, &mut output, ReduceOp::Sum)?);
    assert!((0..length).all(|i| output[i] == sum(&here, i)), "all_reduce of round {round}, {here:?}");
    assert!((0..length).all(|i| input[i] == value(me, round, i)), "the input of round {round} changed");
    said.push(here);

    let mut data = input.clone();
    let here = present(group, &group.all_reduce(&mut data, ReduceOp::Sum)?);
    assert!((0..length).all(|i| data[i] == sum(&here, i)), "all_reduce in place of round {round}, {here:?}");
    said.push(here);

    // Others may be reading it when it is taken back, and it is freed right after.
    let mut registered = group.mem_alloc(8 * length)?;
    registered.as_mut_slice::<u64>().copy_from_slice(&input);
    output.fill(0xaaaa_aaaa_aaaa_aaaa);
    let outcome = group.all_reduce_into(registered.as_slice(), &mut output, ReduceOp::Sum)?;
    let here = present(group, &outcome);
    assert!((0..length).all(|i| output[i] == sum(&here, i)), "registered input of round {round}, {here:?}");
    assert!(*registered.as_slice::<u64>() == input, "the registered input of round {round} changed");
    said.push(here);
    let here = present(group, &group.all_reduce(registered.as_mut_slice::<u64>(), ReduceOp::Sum)?);
    let data = registered.as_slice::<u64>();
    assert!((0..length).all(|i| data[i] == sum(&here, i)), "registered memory of round {round}, {here:?}");
    said.push(here);
    drop(registered);

    for in_place in [false, true] {
        let options = CallOptions { tolerance: Tolerance::PerWindow, ..CallOptions::default() };
        let (mut data, mut output) = (input.clone(), vec![0xaaaa_aaaa_aaaa_aaaa; length]);
        let outcome = match in_place {
            true => group.all_reduce_with(&mut data, ReduceOp::Sum, &options)?,
            false => group.all_reduce_into_with(&input, &mut output, ReduceOp::Sum, &options)?,
        };
        let whole = Part { elements: 0..length, contributors: 0, absent: outcome.absent.clone() };
        let parts = if outcome.parts.is_empty() { &[whole][..] } else { &outcome.parts };
        let mut end = 0;
        for Part { elements, absent, .. } in parts {
            assert_eq!(elements.start, end, "parts of round {round}: {parts:?}");
            end = elements.end;
            let here: Vec<u32> = (0..size).filter(|rank| !absent.contains(rank)).collect();
            let got = if in_place { &data } else { &output };
            let right = elements.clone().all(|i| got[i] == sum(&here, i));
            assert!(right, "per-window all_reduce of round {round}, in place {in_place}: {parts:?}");
            said.push(here);
        }
        assert_eq!(end, length, "parts of round {round}: {parts:?}");
    }

    // Without its root a broadcast is completed from whoever has all of it, or fails alike everywhere.
    let root = (round % u64::from(size)) as u32;
    let mut data = if me == root { input.clone() } else { vec![0xaaaa_aaaa_aaaa_aaaa; length] };
    match group.broadcast(&mut data, root) {
        Ok(outcome) => {
            assert!((0..length).all(|i| data[i] == value(root, round, i)), "broadcast of round {round}");
            said.push(present(group, &outcome));
        }
        Err(Error::PeerLost(lost)) if lost.rank.0 == root => said.push(Vec::new()),
        Err(error) => return Err(error),
    }

    let mut all = vec![0u64; length * size as usize];
    let here = present(group, &group.all_gather(&input, &mut all)?);
    for &rank in &here {
        let block = &all[rank as usize * length..][..length];
        assert!((0..length).all(|i| block[i] == value(rank, round, i)), "all_gather of round {round}");
    }
    said.push(here);

    let block = length / size as usize;
    let mut mine = vec![0u64; block];
    let here =
        present(group, &group.reduce_scatter(&input[..block * size as usize], &mut mine, ReduceOp::Sum)?);
    let first = block * me as usize;
    assert!((0..block).all(|i| mine[i] == sum(&here, first + i)), "reduce_scatter of round {round}");
    said.push(here);
    said.push(present(group, &group.barrier()?));
    Ok(said)
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
