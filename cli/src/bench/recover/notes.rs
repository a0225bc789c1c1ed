//! What the processes of one job leave for each other in a folder: some of them will be dead when it is read.

use super::{Kill, SafePoint};
use crate::exit::{Code, Failure, code_of};
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long word is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a new process looks whether it may come.
const PAUSE: Duration = Duration::from_millis(1);
/// Codes that a job fails with for a reason of its own.
const CODES: [Code; 4] = [Code::Wrong, Code::Timeout, Code::InvalidUsage, Code::Internal];

pub(super) struct Notes {
    folder: PathBuf,
    /// This process made the folder, and removes it.
    owns: bool,
}

impl Notes {
    /// A folder of its own.
    pub(super) fn new() -> Result<Notes> {
        let folder = std::env::temp_dir().join(format!("ronde-recover-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Notes { folder, owns: true })
    }

    pub(super) fn in_folder(folder: PathBuf) -> Notes {
        Notes { folder, owns: false }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the moment of the next death goes: empty.
    pub(super) fn next_death(&self) -> Result<File> {
        Ok(File::create(self.path("death"))?)
    }

    /// The moment of the last death, which is just about to happen if it has not yet.
    pub(super) fn moment_of_death(&self) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let bytes = std::fs::read(self.path("death"))?;
            if let Ok(bytes) = bytes.try_into() {
                return Ok(u64::from_le_bytes(bytes));
            }
            std::thread::yield_now();
        }
        bail!("the process that was to die did not")
    }

    /// All is measured: a new process may come.
    pub(super) fn open_vacancy(&self) -> Result<()> {
        Ok(std::fs::write(self.path("vacancy"), "")?)
    }

    /// Waits until a process is wanted.
    pub(super) fn await_vacancy(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if std::fs::remove_file(self.path("vacancy")).is_ok() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        bail!("a new process was started, but nobody wanted it")
    }

    /// What a safe point costs.
    pub(super) fn tell_safe_point(&self, safe_point: &SafePoint) -> Result<()> {
        Ok(std::fs::write(self.path("safe-point"), serde_json::to_vec(safe_point)?)?)
    }

    /// What was told of that.
    pub(super) fn safe_point(&self) -> Result<SafePoint> {
        Ok(serde_json::from_slice(&std::fs::read(self.path("safe-point"))?)?)
    }

    /// What one more death cost.
    pub(super) fn add(&self, kill: &Kill) -> Result<()> {
        let mut line = serde_json::to_vec(kill)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(self.path("kills"))?;
        Ok(file.write_all(&line)?)
    }

    /// All that were added.
    pub(super) fn kills(&self) -> Result<Vec<Kill>> {
        let text = std::fs::read_to_string(self.path("kills"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The job has failed. The first word counts: what fails later fails because of it. It is there as a whole when this
    /// returns, whoever said it, so that a process may end all others then.
    pub(super) fn fail(&self, error: &anyhow::Error) {
        let thread = std::thread::current().id();
        let own = self.path(&format!("failure-{}-{thread:?}", std::process::id()));
        let text = format!("{}\n{error:#}", code_of(error) as u8);
        if std::fs::write(&own, text).is_ok() {
            let _ = std::fs::hard_link(&own, self.path("failure"));
        }
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let note = std::fs::read_to_string(self.path("failure")).ok()?;
        let (code, text) = note.split_once('\n')?;
        let known = CODES.into_iter().find(|&known| code == (known as u8).to_string());
        Some(Failure::new(known.unwrap_or(Code::Library), text))
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        if self.owns {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// Several find out at one time why the job fails, and each of them ends all others once it has said so.
    #[test]
    fn who_has_spoken_finds_a_whole_reason() {
        for round in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let start = Barrier::new(4);
            let told = |speaker: u32| {
                let notes = Notes::in_folder(folder.path().to_owned());
                let error = anyhow::anyhow!("{speaker} ").context("long ".repeat(5000));
                start.wait();
                notes.fail(&error);
                notes.failure().map(|failure| failure.text)
            };
            let told: Vec<_> = std::thread::scope(|scope| {
                let speakers: Vec<_> = (0..4)
                    .map(|speaker| {
                        scope.spawn({
                            let told = &told;
                            move || told(speaker)
                        })
                    })
                    .collect();
                speakers.into_iter().map(|speaker| speaker.join().unwrap()).collect()
            });
            let first = told[0].as_ref().expect("a reason");
            assert!(
                first.len() > 25_000 && told.iter().all(|text| text.as_ref() == Some(first)),
                "round {round}"
            );
        }
    }
}
