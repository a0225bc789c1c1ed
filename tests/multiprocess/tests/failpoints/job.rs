//! One job: its ranks make one call after the other, and in each some are lost.

use crate::case::{Case, Fate};
use ronde_multiprocess::{Ended, RankProcess, launch, wait_all};
use std::fmt::{self, Display, Write};
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// For everything that a job does.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the end of processes that have said all.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// What links are made of: `tcp`, `shm`, `mixed` or `again`.
    pub(crate) links: String,
    pub(crate) ranks: u32,
    pub(crate) cases: Vec<Case>,
}

/// A line that a rank has written, or the end of what it writes.
type Said = (usize, Option<String>);

/// What has been heard of a job.
struct Heard {
    /// By rank.
    texts: Vec<String>,
    /// By case: what survivors say came of it.
    said: Vec<Vec<String>>,
    /// Ranks that have stopped themselves, in the order of their cases, and how many of these were woken.
    stopped: Vec<usize>,
    woken: usize,
    open: usize,
}

impl Job {
    pub(crate) fn parse(text: &str) -> Option<Job> {
        let (links, rest) = text.split_once(' ')?;
        let (ranks, cases) = rest.split_once(' ')?;
        let cases = cases.split(';').map(Case::parse).collect::<Option<Vec<_>>>()?;
        Some(Job { links: links.to_owned(), ranks: ranks.parse().ok()?, cases })
    }

    fn cases_as_text(&self) -> String {
        self.cases.iter().map(Case::to_string).collect::<Vec<_>>().join(";")
    }

    /// Those who are left after so many cases.
    fn left_after(&self, cases: usize) -> usize {
        self.ranks as usize - self.cases[..cases].iter().map(Case::losses).sum::<usize>()
    }

    /// Runs it; what is wrong is an error.
    pub(crate) fn run(&self) -> Result<(), String> {
        let cases = self.cases_as_text();
        let mut processes = start(&self.links, self.ranks, &cases);
        let heard = self.listen(&mut processes);
        let (heard, verdict) = match heard {
            Ok(heard) => (heard, Ok(())),
            Err((heard, error)) => {
                processes.iter_mut().for_each(RankProcess::end);
                (heard, Err(error))
            }
        };
        let ended = wait_all(processes, LAST_PATIENCE);
        let verdict = verdict.and_then(|()| self.judge(&heard, &ended));
        verdict.map_err(|error| {
            let mut text = error;
            for (rank, ended) in ended.iter().enumerate() {
                let _ = write!(text, "\n--- rank {rank}:\n{}{}", heard.texts[rank].trim(), ended.output);
            }
            text
        })
    }

    /// Takes in what ranks say until all have ended, and wakes those that sleep when the others have gone on.
    fn listen(&self, processes: &mut [RankProcess]) -> Result<Heard, (Heard, String)> {
        let until = Instant::now() + PATIENCE;
        let lines = read_all(processes);
        let mut heard = Heard {
            texts: vec![String::new(); processes.len()],
            said: vec![Vec::new(); self.cases.len()],
            stopped: Vec::new(),
            woken: 0,
            open: processes.len(),
        };
        while heard.open > 0 {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((rank, line)) = lines.recv_timeout(left) else {
                return Err((heard, format!("it is not done after {PATIENCE:?}")));
            };
            let Some(line) = line else {
                heard.open -= 1;
                continue;
            };
            if line.starts_with("test result: FAILED") {
                return Err((heard, format!("rank {rank} has failed")));
            }
            if line == "STOPS" {
                heard.stopped.push(rank);
            }
            if let Some((number, said)) = line.strip_prefix("CASE ").and_then(|rest| rest.split_once(' '))
                && let Some(of_case) =
                    number.parse().ok().and_then(|number: usize| heard.said.get_mut(number))
            {
                of_case.push(said.to_owned());
            }
            heard.texts[rank] += &line;
            heard.texts[rank].push('\n');
            self.wake(&mut heard, processes);
        }
        Ok(heard)
    }

    /// Wakes whoever sleeps once the survivors are done with its case.
    fn wake(&self, heard: &mut Heard, processes: &[RankProcess]) {
        let stops = |case: &Case| case.armed.iter().any(|armed| armed.fate == Fate::Stop);
        let done = (0..self.cases.len()).take_while(|&at| heard.said[at].len() == self.left_after(at + 1));
        let may_wake = self.cases[..done.count()].iter().filter(|case| stops(case)).count();
        while heard.woken < may_wake.min(heard.stopped.len()) {
            processes[heard.stopped[heard.woken]].resume();
            heard.woken += 1;
        }
    }

    fn judge(&self, heard: &Heard, ended: &[Ended]) -> Result<(), String> {
        for (at, said) in heard.said.iter().enumerate() {
            let (case, left) = (&self.cases[at], self.left_after(at + 1));
            if said.len() != left {
                return Err(format!("case {at}, {case}: {} of {left} survivors are done", said.len()));
            }
            if said.iter().any(|text| *text != said[0]) {
                return Err(format!("case {at}, {case}: survivors disagree: {said:#?}"));
            }
        }
        let has_said = |word: &str| {
            let said =
                |ended: &&Ended| ended.ok && heard.texts[ended.rank].lines().any(|l| l.starts_with(word));
            ended.iter().filter(said).count()
        };
        let kills: usize = self.cases.iter().map(Case::kills).sum();
        let losses: usize = self.cases.iter().map(Case::losses).sum();
        let got = (ended.iter().filter(|ended| ended.killed).count(), has_said("FENCED"), has_said("DONE"));
        let expected = (kills, losses - kills, self.left_after(self.cases.len()));
        if got != expected {
            return Err(format!("killed, fenced, done are {got:?}, not {expected:?}"));
        }
        Ok(())
    }
}

impl Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.links, self.ranks, self.cases_as_text())
    }
}

/// Starts the ranks of a job; without cases they say which points there are.
pub(crate) fn start(links: &str, ranks: u32, cases: &str) -> Vec<RankProcess> {
    let variables = [("RONDE_TEST_LINKS", links), ("RONDE_TEST_CASES", cases), ("RONDE_TIMEOUT", "20s")];
    launch("rank", ranks as usize, &variables)
}

fn read_all(processes: &mut [RankProcess]) -> mpsc::Receiver<Said> {
    let (say, lines) = mpsc::channel();
    for process in processes {
        let (rank, say, output) = (process.rank, say.clone(), BufReader::new(process.take_stdout()));
        std::thread::spawn(move || {
            // Nobody listens any more once the job has failed.
            output.lines().map_while(Result::ok).for_each(|line| drop(say.send((rank, Some(line)))));
            let _ = say.send((rank, None));
        });
    }
    lines
}
