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
    /// Somebody asked for an end.
    pub(super) is_last: bool,
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

/// What the processes add up in a step: the gradient, then these.
const LOSS: usize = PARAMETERS;
/// Images whose gradients are in it: the share of a process that dies in the step is not.
const IMAGES: usize = PARAMETERS + 1;
/// More than 0: this epoch is the last.
const STOP: usize = PARAMETERS + 2;
/// Elements of the vector that is added up.
pub(super) const SUMMED: usize = PARAMETERS + 3;

/// Batches of an epoch.
pub(super) fn steps_per_epoch(digits: &[Digit]) -> u64 {
    digits.len().div_ceil(BATCH) as u64
}

/// Training under way. All processes have the same, to the bit.
pub(super) struct Trainer {
    pub(super) model: Model,
    velocity: Vec<f32>,
    /// From 1.
    epoch: u32,
    /// Batches of this epoch that are done.
    batches: u32,
    /// All batches that are done.
    pub(super) steps: u64,
    loss: f32,
    order: Vec<Digit>,
}

impl Trainer {
    pub(super) fn new(digits: &[Digit]) -> Trainer {
        let mut trainer = Trainer {
            model: Model::new(),
            velocity: vec![0.0; PARAMETERS],
            epoch: 1,
            batches: 0,
            steps: 0,
            loss: 0.0,
            order: digits.to_vec(),
        };
        trainer.order_epoch(digits);
        trainer
    }

    fn order_epoch(&mut self, digits: &[Digit]) {
        self.order.copy_from_slice(digits);
        shuffle(&mut self.order, u64::from(self.epoch));
    }

    /// The gradient of a share of the next batch, as it is to be added up.
    pub(super) fn contribution(&self, share: Share) -> Vec<f32> {
        let mut vector = vec![0f32; SUMMED];
        for digit in own_part(self.batch(), share) {
            let (parameters, rest) = vector.split_at_mut(PARAMETERS);
            rest[0] += self.model.add_gradient(digit, parameters);
            rest[1] += 1.0;
        }
        vector
    }

    fn batch(&self) -> &[Digit] {
        let start = self.batches as usize * BATCH;
        &self.order[start..self.order.len().min(start + BATCH)]
    }

    /// Whether the next step ends an epoch, of which this is the number.
    pub(super) fn ends_epoch(&self) -> Option<u32> {
        let last = (self.batches as usize + 1) * BATCH >= self.order.len();
        last.then_some(self.epoch)
    }

    /// Makes a step with the sum of all contributions. Says how the epoch went where it ends one.
    pub(super) fn step(&mut self, sum: &[f32], digits: &[Digit]) -> Option<Epoch> {
        let scale = LEARNING_RATE / sum[IMAGES].max(1.0);
        for ((parameter, velocity), slope) in
            self.model.parameters.iter_mut().zip(&mut self.velocity).zip(sum)
        {
            *velocity = MOMENTUM * *velocity - scale * slope;
            *parameter += *velocity;
        }
        let ends = self.ends_epoch();
        self.loss += sum[LOSS];
        self.batches += 1;
        self.steps += 1;
        let number = ends?;
        let epoch = Epoch { number, loss: self.loss / digits.len() as f32, is_last: sum[STOP] > 0.0 };
        (self.batches, self.loss) = (0, 0.0);
        self.epoch += 1;
        self.order_epoch(digits);
        Some(epoch)
    }

    /// Asks for an end after this epoch.
    pub(super) fn ask_to_stop(vector: &mut [f32]) {
        vector[STOP] = 1.0;
    }

    /// Everything that a newcomer needs to go on like the others.
    pub(super) fn state(&self) -> Vec<u32> {
        let floats = self.model.parameters.iter().chain(&self.velocity).chain([&self.loss]);
        let numbers = [self.epoch, self.batches, self.steps as u32, (self.steps >> 32) as u32];
        floats.map(|value| value.to_bits()).chain(numbers).collect()
    }

    /// Goes on from the state of another.
    pub(super) fn restore(&mut self, state: &[u32], digits: &[Digit]) {
        let mut floats = state.iter().map(|&bits| f32::from_bits(bits));
        let own = self.model.parameters.iter_mut().chain(&mut self.velocity).chain([&mut self.loss]);
        own.zip(&mut floats).for_each(|(value, given)| *value = given);
        let numbers = &state[2 * PARAMETERS + 1..];
        [self.epoch, self.batches] = [numbers[0], numbers[1]];
        self.steps = u64::from(numbers[2]) | u64::from(numbers[3]) << 32;
        self.order_epoch(digits);
    }
}

/// The same training by one process, of so many steps. The given shares of some steps are left out, as they
/// were when their process died in the middle of one.
pub(super) fn alone(digits: &[Digit], steps: u64, lost: &[(u64, Share)]) -> Model {
    let mut trainer = Trainer::new(digits);
    while trainer.steps < steps {
        let mut sum = trainer.contribution(Share { rank: 0, ranks: 1 });
        for (_, share) in lost.iter().filter(|(step, _)| *step == trainer.steps) {
            let missing = trainer.contribution(*share);
            sum.iter_mut().zip(&missing).for_each(|(whole, part)| *whole -= part);
        }
        let _ = trainer.step(&sum, digits);
    }
    trainer.model
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

    /// Steps of an epoch.
    const STEPS: u64 = 15;

    #[test]
    fn an_epoch_has_so_many_steps() {
        assert_eq!(steps_per_epoch(&digits::load().0), STEPS);
    }

    const WHOLE: Share = Share { rank: 0, ranks: 1 };

    #[test]
    fn it_learns() {
        let (training, test) = digits::load();
        let mut trainer = Trainer::new(&training);
        let mut losses = Vec::new();
        while losses.len() < 30 {
            let sum = trainer.contribution(WHOLE);
            losses.extend(trainer.step(&sum, &training).map(|epoch| epoch.loss));
        }
        assert_eq!(trainer.steps, 30 * STEPS);
        assert!(losses[0] > 2.0 * losses[29], "{losses:?}");
        assert!(trainer.model.accuracy(&test) > 0.93, "accuracy {}", trainer.model.accuracy(&test));
        assert!(Model::new().accuracy(&test) < 0.2);
        assert_eq!(alone(&training, 30 * STEPS, &[]), trainer.model);
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
            let mut trainer = Trainer::new(&training);
            while trainer.steps < 2 * STEPS {
                let mut vector = trainer.contribution(share);
                combine(&rank, &mut vector, ReduceOp::Sum).unwrap();
                let _ = trainer.step(&vector, &training);
            }
            trainer.model
        });
        let digests: Vec<u128> = models.iter().map(Model::digest).collect();
        assert_eq!(digests, [digests[0]; 4]);
        let difference = models[0].max_abs_diff(&alone(&training, 2 * STEPS, &[]));
        assert!(difference > 0.0 && difference < 1e-4, "{difference}");
    }

    #[test]
    fn who_takes_over_the_state_goes_on_alike() {
        let (training, _) = digits::load();
        let mut old = Trainer::new(&training);
        for _ in 0..STEPS + 4 {
            let sum = old.contribution(WHOLE);
            let _ = old.step(&sum, &training);
        }
        let mut new = Trainer::new(&training);
        new.restore(&old.state(), &training);
        for _ in 0..STEPS {
            let sums = [old.contribution(WHOLE), new.contribution(WHOLE)];
            assert_eq!(sums[0], sums[1]);
            assert_eq!(old.step(&sums[0], &training).is_some(), new.step(&sums[1], &training).is_some());
        }
        assert_eq!((old.model, old.steps), (new.model, new.steps));
    }

    /// A share that is left out changes the model a little, and is left out alike by whoever does it.
    #[test]
    fn a_lost_share_counts_for_nothing() {
        let (training, _) = digits::load();
        let lost = Share { rank: 1, ranks: 4 };
        let mut trainer = Trainer::new(&training);
        while trainer.steps < STEPS {
            let here = [0, 1, 2, 3].into_iter().filter(|&rank| trainer.steps != 7 || rank != lost.rank);
            let mut sum = vec![0f32; SUMMED];
            for rank in here {
                let part = trainer.contribution(Share { rank, ranks: 4 });
                sum.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
            }
            let _ = trainer.step(&sum, &training);
        }
        assert!(trainer.model.max_abs_diff(&alone(&training, STEPS, &[(7, lost)])) < 1e-4);
        assert!(trainer.model.max_abs_diff(&alone(&training, STEPS, &[])) > 1e-3);
    }
}
