//! Live progress of rank 0: a bar on a terminal, else a line now and then.

use super::training::Epoch;
use crate::say::say;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// Without a terminal, every how many epochs a line is printed.
const LINES_EVERY: u32 = 5;

pub(super) struct Screen {
    bar: Option<ProgressBar>,
    prints: bool,
    epochs: u32,
    /// Who is in the ring.
    ring: String,
    since: (Instant, u64),
}

impl Screen {
    pub(super) fn new(epochs: u32, prints: bool) -> Screen {
        let bar = (prints && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(u64::from(epochs));
            match ProgressStyle::with_template("epoch {pos:>3}/{len} {bar:24} {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Screen { bar, prints, epochs, ring: String::new(), since: (Instant::now(), 0) }
    }

    /// Shows who is there: `holes` are ranks that were lost.
    pub(super) fn show_ring(&mut self, generation: u32, ranks: u32, holes: &[u32]) {
        let place = |rank: u32| if holes.contains(&rank) { "x".to_owned() } else { rank.to_string() };
        let places: Vec<String> = (0..ranks).map(place).collect();
        self.ring = format!("view {generation} ({})", places.join(" "));
    }

    /// Something happened.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None if self.prints => say!("{line}\n"),
            None => {}
        }
    }

    pub(super) fn show(&mut self, epoch: Epoch, steps: u64) {
        let Epoch { number, loss, .. } = epoch;
        let (since, before) = std::mem::replace(&mut self.since, (Instant::now(), steps));
        let rate = (steps - before) as f64 / since.elapsed().as_secs_f64().max(1e-9);
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}  {rate:.0} steps/s  loss {loss:.4}", self.ring));
                bar.set_length(u64::from(self.epochs.max(number)));
                bar.inc(1);
            }
            None if self.prints && (number % LINES_EVERY == 0 || number == self.epochs) => {
                say!(
                    "epoch {number:>3} of {}: loss {loss:.4}, {}, {rate:.0} steps/s\n",
                    self.epochs.max(number),
                    self.ring
                );
            }
            None => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
