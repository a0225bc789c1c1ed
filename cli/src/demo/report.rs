//! What the demonstration found, for people and as JSON.

use crate::quantity::show_bytes;
use serde::Serialize;

/// What the demonstration found.
#[derive(Serialize, Debug, PartialEq, Default)]
pub(super) struct Report {
    /// Part of the test images that the model names rightly.
    pub(super) accuracy: f64,
    /// xxh3-128 of each rank's parameters.
    pub(super) digests: Vec<String>,
    /// Largest difference between a parameter and that of one process that saw the same images.
    pub(super) max_abs_diff: f64,
    /// Payload that the ranks sent in all-reduces.
    pub(super) bytes: u64,
    pub(super) transports: Vec<PairTransport>,
    /// Steps of the training, each an all-reduce.
    pub(super) steps: u64,
    /// Steps whose result nobody got.
    pub(super) steps_lost: u64,
    /// Who was there, from the start on.
    pub(super) views: Vec<View>,
    pub(super) kills: Vec<Kill>,
    pub(super) joins: Vec<Join>,
}

#[derive(Serialize, Debug, PartialEq)]
pub(super) struct PairTransport {
    pub(super) ranks: [u32; 2],
    pub(super) transport: String,
}

/// From this step on.
#[derive(Serialize, Debug, PartialEq)]
pub(super) struct View {
    pub(super) generation: u32,
    pub(super) ranks: u32,
    pub(super) step: u64,
}

/// A process that was killed in the middle of the all-reduce of this step, as rank 0 saw it.
#[derive(Serialize, Debug, PartialEq, Clone)]
pub(super) struct Kill {
    pub(super) rank: Option<u32>,
    pub(super) step: u64,
    /// From the start of the all-reduce until the loss was known.
    pub(super) detect_ms: f64,
    /// From then until the others went on.
    pub(super) recover_ms: f64,
    /// The whole all-reduce.
    pub(super) total_ms: f64,
    /// An undisturbed one, in the median.
    pub(super) fault_free_ms: f64,
}

/// A process that joined before this step.
#[derive(Serialize, Debug, PartialEq, Clone)]
pub(super) struct Join {
    pub(super) rank: u32,
    pub(super) step: u64,
    /// From asking to join until its first operation was complete, as it saw it.
    pub(super) join_ms: f64,
}

impl Report {
    pub(super) fn models_are_identical(&self) -> bool {
        self.digests.iter().all(|digest| *digest == self.digests[0])
    }

    /// For people; `test` is the number of test images.
    pub(super) fn show(&self, test: usize) -> String {
        let same = if self.models_are_identical() { "identical" } else { "DIFFERENT" };
        let mut text = format!("test accuracy          {:.4} (of {test} images)\n", self.accuracy);
        for (rank, digest) in self.digests.iter().enumerate() {
            text += &format!("model of rank {rank:<8} {digest}\n");
        }
        text += &format!("models                 {same}\n");
        text += &format!(
            "max |difference|       {:.3e} from one process on the same images\n",
            self.max_abs_diff
        );
        text += &format!("steps                  {}, {} lost\n", self.steps, self.steps_lost);
        for kill in &self.kills {
            let who = kill.rank.map_or_else(|| "a process".into(), |rank| format!("rank {rank}"));
            text += &format!(
                "killed                 {who} in step {}: noticed after {:.2} ms, gone on {:.2} later, \
                 {:.2} in all (undisturbed {:.2})\n",
                kill.step, kill.detect_ms, kill.recover_ms, kill.total_ms, kill.fault_free_ms
            );
        }
        for join in &self.joins {
            text += &format!(
                "joined                 rank {} before step {}: at work {:.1} ms after it asked\n",
                join.rank, join.step, join.join_ms
            );
        }
        text += &format!("bytes moved            {} ({})\n", self.bytes, show_bytes(self.bytes));
        for PairTransport { ranks: [a, b], transport } in &self.transports {
            text += &format!("ranks {a} and {b:<11} {transport}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::to_json;

    fn example(digests: [&str; 2]) -> Report {
        Report {
            accuracy: 0.95,
            digests: digests.map(str::to_owned).to_vec(),
            max_abs_diff: 1.5e-6,
            bytes: 2048,
            transports: vec![PairTransport { ranks: [0, 1], transport: "shm".into() }],
            steps: 450,
            steps_lost: 0,
            views: vec![View { generation: 0, ranks: 2, step: 0 }],
            kills: vec![Kill {
                rank: Some(1),
                step: 157,
                detect_ms: 0.5,
                recover_ms: 0.25,
                total_ms: 1.0,
                fault_free_ms: 0.125,
            }],
            joins: vec![Join { rank: 1, step: 200, join_ms: 20.0 }],
        }
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let value: serde_json::Value = serde_json::from_slice(&to_json(&example(["a", "a"]))).unwrap();
        let expected = serde_json::json!({
            "accuracy": 0.95,
            "digests": ["a", "a"],
            "max_abs_diff": 1.5e-6,
            "bytes": 2048,
            "transports": [{"ranks": [0, 1], "transport": "shm"}],
            "steps": 450,
            "steps_lost": 0,
            "views": [{"generation": 0, "ranks": 2, "step": 0}],
            "kills": [{
                "rank": 1, "step": 157, "detect_ms": 0.5, "recover_ms": 0.25, "total_ms": 1.0,
                "fault_free_ms": 0.125
            }],
            "joins": [{"rank": 1, "step": 200, "join_ms": 20.0}],
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn models_that_differ_are_shown_so() {
        assert!(example(["a", "a"]).show(359).contains("models                 identical"));
        assert!(example(["a", "b"]).show(359).contains("models                 DIFFERENT"));
    }

    #[test]
    fn what_death_and_join_cost_is_said() {
        let text = example(["a", "a"]).show(359);
        assert!(
            text.contains("rank 1 in step 157: noticed after 0.50 ms, gone on 0.25 later, 1.00 in all"),
            "{text}"
        );
        assert!(text.contains("rank 1 before step 200: at work 20.0 ms after it asked"), "{text}");
    }
}
