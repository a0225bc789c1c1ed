//! A softmax classifier and its training by gradient descent with momentum.

use super::digits::{CLASSES, Digit, PIXELS, WHITE, shuffle};

/// Per class: a weight for each pixel, and a bias.
const ROW: usize = PIXELS + 1;
const PARAMETERS: usize = CLASSES * ROW;
const BATCH: usize = 96;
const LEARNING_RATE: f32 = 0.3;
const MOMENTUM: f32 = 0.9;

/// A trained or untrained classifier.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Model {
    parameters: Vec<f32>,
}

/// This process's share of every batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) rank: u32,
    pub(super) ranks: u32,
}

/// How an epoch went, over all processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    pub(super) number: u32,
    pub(super) loss: f32,
}

impl Model {
    fn new() -> Model {
        Model { parameters: vec![0.0; PARAMETERS] }
    }

    /// Digest of all parameters.
    pub(super) fn digest(&self) -> u128 {
        let bytes: Vec<u8> = self.parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    /// Largest difference between the parameters of two models.
    pub(super) fn max_abs_diff(&self, other: &Model) -> f64 {
        let pairs = self.parameters.iter().zip(&other.parameters);
        pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max)
    }

    /// Part of the digits that the model names rightly.
    pub(super) fn accuracy(&self, digits: &[Digit]) -> f64 {
        let right = digits.iter().filter(|digit| self.guess(digit) == digit.label).count();
        right as f64 / digits.len().max(1) as f64
    }

    fn guess(&self, digit: &Digit) -> usize {
        let scores = self.scores(digit);
        (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
    }

    fn scores(&self, digit: &Digit) -> [f32; CLASSES] {
        std::array::from_fn(|class| {
            let row = &self.parameters[class * ROW..(class + 1) * ROW];
            let weighted = row.iter().zip(digit.pixels).map(|(weight, &pixel)| weight * scaled(pixel));
            weighted.sum::<f32>() + row[PIXELS]
        })
    }

    /// Adds the gradient of the loss on one digit to `gradient`; returns the loss.
    fn add_gradient(&self, digit: &Digit, gradient: &mut [f32]) -> f32 {
        let scores = self.scores(digit);
        let largest = scores.iter().copied().fold(f32::MIN, f32::max);
        let exponentials = scores.map(|score| (score - largest).exp());
        let total: f32 = exponentials.iter().sum();
        for (class, row) in gradient.chunks_exact_mut(ROW).enumerate() {
            let error = exponentials[class] / total - if class == digit.label { 1.0 } else { 0.0 };
            for (slot, &pixel) in row.iter_mut().zip(digit.pixels) {
                *slot += error * scaled(pixel);
            }
            row[PIXELS] += error;
        }
        total.ln() + largest - scores[digit.label]
    }
}

fn scaled(pixel: u8) -> f32 {
    f32::from(pixel) / WHITE
}

/// Trains on this process's share of every batch. `sum` adds a vector up over all processes: the
/// gradient and, as its last element, the loss.
pub(super) fn train<E>(
    digits: &[Digit],
    share: Share,
    epochs: u32,
    mut sum: impl FnMut(&mut [f32]) -> Result<(), E>,
    mut progress: impl FnMut(Epoch),
) -> Result<Model, E> {
    let mut model = Model::new();
    let mut velocity = vec![0f32; PARAMETERS];
    let mut gradient = vec![0f32; PARAMETERS + 1];
    let mut order: Vec<Digit> = digits.to_vec();
    for number in 1..=epochs {
        shuffle(&mut order, u64::from(number));
        let mut loss = 0.0;
        for batch in order.chunks(BATCH) {
            gradient.fill(0.0);
            for digit in own_part(batch, share) {
                let (parameters, last) = gradient.split_at_mut(PARAMETERS);
                last[0] += model.add_gradient(digit, parameters);
            }
            sum(&mut gradient)?;
            loss += gradient[PARAMETERS];
            let scale = LEARNING_RATE / batch.len() as f32;
            for ((parameter, velocity), slope) in
                model.parameters.iter_mut().zip(&mut velocity).zip(&gradient)
            {
                *velocity = MOMENTUM * *velocity - scale * slope;
                *parameter += *velocity;
            }
        }
        progress(Epoch { number, loss: loss / digits.len() as f32 });
    }
    Ok(model)
}

fn own_part(batch: &[Digit], share: Share) -> &[Digit] {
    let (rank, ranks) = (share.rank as usize, share.ranks as usize);
    &batch[batch.len() * rank / ranks..batch.len() * (rank + 1) / ranks]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mesh::on_mesh;
    use crate::bench::{Backend, combine};
    use crate::demo::digits;
    use ronde::ReduceOp;
    use std::convert::Infallible;

    fn alone(epochs: u32) -> (Model, Vec<f32>) {
        let (training, _) = digits::load();
        let mut losses = Vec::new();
        let sum = |_: &mut [f32]| Ok::<(), Infallible>(());
        let share = Share { rank: 0, ranks: 1 };
        let Ok(model) = train(&training, share, epochs, sum, |epoch| losses.push(epoch.loss));
        (model, losses)
    }

    #[test]
    fn it_learns() {
        let (_, test) = digits::load();
        let (model, losses) = alone(30);
        assert!(losses[0] > 2.0 * losses[29], "{losses:?}");
        assert!(model.accuracy(&test) > 0.93, "accuracy {}", model.accuracy(&test));
        assert!(Model::new().accuracy(&test) < 0.2);
    }

    #[test]
    fn shares_of_a_batch_are_all_of_it() {
        let (training, _) = digits::load();
        for ranks in [1, 3, 4, 64] {
            let parts: usize =
                (0..ranks).map(|rank| own_part(&training[..50], Share { rank, ranks }).len()).sum();
            assert_eq!(parts, 50);
        }
    }

    #[test]
    fn four_processes_train_the_same_model_as_one() {
        let (training, _) = digits::load();
        let models = on_mesh(4, |rank| {
            let share = Share { rank: rank.rank(), ranks: 4 };
            train(&training, share, 2, |vector| combine(&rank, vector, ReduceOp::Sum), drop).unwrap()
        });
        let digests: Vec<u128> = models.iter().map(Model::digest).collect();
        assert_eq!(digests, [digests[0]; 4]);
        let difference = models[0].max_abs_diff(&alone(2).0);
        assert!(difference > 0.0 && difference < 1e-4, "{difference}");
    }
}
