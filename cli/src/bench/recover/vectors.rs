//! What is summed, and what must come out.
//!
//! Every process multiplies one pattern with a weight of its own. All sums are small whole numbers, which `f32` holds
//! exactly, and the sum of the weights tells whose contributions are in it.

use ronde::{Error, Result};
use std::array;
use std::ops::Range;

/// Prime, so that pieces of a vector that got to a wrong place are noticed.
const PERIOD: usize = 127;
/// Weights are from 1 to this: the sums of 1024 processes stay below 2^24.
const MAX_WEIGHT: u32 = 199;

pub(super) struct Vectors {
    pub(super) input: Vec<f32>,
    pub(super) output: Vec<f32>,
    pub(super) weight: u32,
}

impl Vectors {
    pub(super) fn new(count: usize) -> Result<Vectors> {
        // Processes that are started one after another have different numbers.
        let weight = 1 + std::process::id() % MAX_WEIGHT;
        let pattern = pattern(weight);
        let (mut input, mut output) = (reserved(count)?, reserved(count)?);
        input.extend((0..count).map(|at| pattern[at % PERIOD]));
        output.resize(count, f32::NAN);
        Ok(Vectors { input, output, weight })
    }

    /// How many of these elements of the output differ from the sum of contributions with weights of this sum.
    /// Spoils them, so that no later operation finds the right values there.
    pub(super) fn count_wrong(&mut self, elements: Range<usize>, weights: u32) -> usize {
        let expected = pattern(weights);
        let mut wrong = 0;
        for (at, value) in elements.clone().zip(&mut self.output[elements]) {
            wrong += usize::from(*value != expected[at % PERIOD]);
            *value = f32::NAN;
        }
        wrong
    }

    /// All elements.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.output.len()
    }
}

/// Where there is no memory, a process ends with an error, not by a signal, after which another one would take its place.
fn reserved(count: usize) -> Result<Vec<f32>> {
    let mut vector = Vec::new();
    let is_none = |error| Error::resource(format!("no memory for a vector of {count} numbers: {error}"));
    vector.try_reserve_exact(count).map_err(is_none)?;
    Ok(vector)
}

/// Mixed signs.
fn pattern(weight: u32) -> [f32; PERIOD] {
    array::from_fn(|at| (at as f32 - (PERIOD / 2) as f32) * weight as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_sum_is_right_and_only_once() {
        let mut vectors = Vectors::new(1000).unwrap();
        let sum = |vectors: &mut Vectors| {
            let another = pattern(7);
            vectors.output = vectors.input.iter().zip(another.iter().cycle()).map(|(a, b)| a + b).collect();
        };
        let weights = vectors.weight + 7;
        assert_eq!(vectors.count_wrong(0..1000, weights), 1000);
        sum(&mut vectors);
        vectors.output[999] += 1.0;
        assert_eq!(vectors.count_wrong(0..1000, weights), 1);
        assert_eq!(vectors.count_wrong(0..1000, weights), 1000);
        sum(&mut vectors);
        assert!(vectors.count_wrong(0..1000, weights + 1) > 900, "only zeros are the same");
    }

    #[test]
    fn the_largest_sum_is_exact() {
        let largest = pattern(1024 * MAX_WEIGHT);
        assert!(largest.iter().all(|value| value.abs() < (1 << 24) as f32));
    }
}
