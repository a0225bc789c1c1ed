//! The data set: 1,797 images of handwritten digits (`data/README.md` has source and licence).

/// 65 bytes per image: 8×8 values from 0 to 16, then the digit.
static BYTES: &[u8] = include_bytes!("../../data/digits.bin");

/// Values of one image.
pub(super) const PIXELS: usize = 64;
/// Different digits.
pub(super) const CLASSES: usize = 10;
/// The largest value of a pixel.
pub(super) const WHITE: f32 = 16.0;
/// One image in this many is kept for the test.
const TEST_SHARE: usize = 5;

/// One image and what it shows.
#[derive(Clone, Copy)]
pub(super) struct Digit {
    pub(super) pixels: &'static [u8],
    pub(super) label: usize,
}

/// All images, in an order that is random but always the same, split into (training, test).
pub(super) fn load() -> (Vec<Digit>, Vec<Digit>) {
    let mut digits: Vec<Digit> = BYTES
        .chunks_exact(PIXELS + 1)
        .map(|record| Digit { pixels: &record[..PIXELS], label: usize::from(record[PIXELS]) })
        .collect();
    shuffle(&mut digits, 1);
    let test = digits.split_off(digits.len() - digits.len() / TEST_SHARE);
    (digits, test)
}

/// Puts items in an order that depends on the seed alone (Fisher and Yates).
pub(super) fn shuffle<T>(items: &mut [T], seed: u64) {
    for last in (1..items.len()).rev() {
        let random = xxhash_rust::xxh3::xxh3_64_with_seed(&(last as u64).to_le_bytes(), seed);
        items.swap(last, (random % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_set_is_whole() {
        assert_eq!(BYTES.len(), 1797 * 65);
        // Of the file as it was made; its SHA-256 stands in data/README.md.
        assert_eq!(xxhash_rust::xxh3::xxh3_64(BYTES), DIGEST);
        let (training, test) = load();
        assert_eq!((training.len(), test.len()), (1438, 359));
        let mut per_class = [0; CLASSES];
        for digit in training.iter().chain(&test) {
            assert!(digit.pixels.iter().all(|&value| f32::from(value) <= WHITE));
            per_class[digit.label] += 1;
        }
        assert_eq!(per_class, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    const DIGEST: u64 = 6_840_618_052_444_908_158;

    #[test]
    fn shuffling_is_a_permutation_that_the_seed_decides() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, seed);
            items
        };
        assert_eq!(shuffled(3), shuffled(3));
        assert_ne!(shuffled(3), shuffled(4));
        let mut sorted = shuffled(5);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
