//! Generated images: a data set that needs no download and on which distillation can be seen to work.
//!
//! A class is a set of smooth colour patterns (several, so that it is not one template). An image is a pattern of its own
//! class over a weaker pattern of another, each at a random position, with noise; where both are nearly equally strong, no
//! network can be sure. A larger network, which separates more patterns, is better. And a teacher's probabilities say
//! which class lies beneath, and how strongly, which a label does not: distillation helps. Everything is integer
//! arithmetic on counter-based random numbers: the same bytes on every machine.

use crate::{Dataset, Normalization, Split};
use dkd_kernels::rng::{Purpose, Stream};

/// Name of the data set.
pub const NAME: &str = "synthetic";

const CLASSES: usize = 10;
const SIZE: usize = 32;
/// Patterns of a class.
const MODES: usize = 20;
/// Cells of the coarse random grid that a pattern interpolates.
const GRID: usize = 5;
/// Farthest shift of a pattern, in pixels.
const SHIFT: usize = 4;
/// Largest share of the weaker class, in 256ths: just below a coin toss.
const MAX_MIX: u32 = 120;
/// Contrast of patterns, in 256ths.
const CONTRAST: i32 = 220;
/// Largest noise, in grey levels.
const NOISE: i32 = 80;

/// Side of a pattern: the image and the shift on both sides.
const SIDE: usize = SIZE + 2 * SHIFT;

/// Sizes and seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Seed of patterns and images.
    pub seed: u64,
}

impl Default for Options {
    /// 10,000 training and 2,000 test images.
    fn default() -> Self {
        Self { train: 10_000, test: 2_000, seed: 0 }
    }
}

/// Generates the data set.
pub fn generate(options: &Options) -> Dataset {
    let patterns = patterns(options.seed);
    let split = |n: usize, which: u32| {
        let mut images = vec![0; n * SIZE * SIZE * 3];
        let labels = images
            .chunks_exact_mut(SIZE * SIZE * 3)
            .enumerate()
            .map(|(i, to)| image(&patterns, options.seed, which, i as u64, to))
            .collect();
        Split::new(images, labels, SIZE, SIZE, CLASSES).expect("generated labels are classes")
    };
    Dataset {
        name: NAME.to_owned(),
        train: split(options.train, 1),
        test: split(options.test, 2),
        class_names: (0..CLASSES).map(|c| format!("pattern {c}")).collect(),
        normalization: Normalization { mean: [0.5; 3], std: [0.226; 3] },
    }
}

/// All patterns, `[class][mode][SIDE * SIDE * 3]`, centred at 0.
fn patterns(seed: u64) -> Vec<Vec<i32>> {
    (0..CLASSES * MODES).map(|p| pattern(&Stream::new(seed, Purpose::Synthetic, 0, p as u64))).collect()
}

/// A random grid of colours, interpolated.
fn pattern(stream: &Stream) -> Vec<i32> {
    let node =
        |y: usize, x: usize, c: usize| stream.below(((y * (GRID + 1) + x) * 3 + c) as u64, 256) as i32 - 128;
    let mut values = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            // Position in the grid, in 256ths of a cell.
            let (gy, gx) = (y * GRID * 256 / SIDE, x * GRID * 256 / SIDE);
            let (cy, cx, fy, fx) = (gy / 256, gx / 256, (gy % 256) as i32, (gx % 256) as i32);
            for c in 0..3 {
                let across = |row: usize| node(row, cx, c) * (256 - fx) + node(row, cx + 1, c) * fx;
                values.push((across(cy) * (256 - fy) + across(cy + 1) * fy) >> 16);
            }
        }
    }
    values
}

/// Draws image `index` of split `which` and returns its label, the stronger class.
fn image(patterns: &[Vec<i32>], seed: u64, which: u32, index: u64, to: &mut [u8]) -> u32 {
    let stream = Stream::new(seed, Purpose::Synthetic, which, index);
    let strong = stream.below(0, CLASSES as u32);
    let weak = (strong + 1 + stream.below(1, CLASSES as u32 - 1)) % CLASSES as u32;
    let mix = stream.below(2, MAX_MIX + 1);
    let layer = |class: u32, at: u64| {
        let mode = stream.below(at, MODES as u32);
        let (dy, dx) =
            (stream.below(at + 1, 2 * SHIFT as u32 + 1), stream.below(at + 2, 2 * SHIFT as u32 + 1));
        (&patterns[(class as usize) * MODES + mode as usize], dy as usize, dx as usize)
    };
    let ((a, ay, ax), (b, by, bx)) = (layer(strong, 4), layer(weak, 8));
    let (wa, wb) = ((256 - mix) as i32, mix as i32);
    let mut noise = [0; 4];
    for y in 0..SIZE {
        let row_a = &a[((y + ay) * SIDE + ax) * 3..][..SIZE * 3];
        let row_b = &b[((y + by) * SIDE + bx) * 3..][..SIZE * 3];
        let row = &mut to[y * SIZE * 3..(y + 1) * SIZE * 3];
        let mixed = row.iter_mut().zip(row_a.iter().zip(row_b));
        for (i, (pixel, (a, b))) in mixed.enumerate() {
            let at = y * SIZE * 3 + i;
            if at.is_multiple_of(16) {
                // Of 16 bytes of noise; the draws above are from the first blocks.
                noise = stream.block(16 + (at / 16) as u32);
            }
            let byte = (noise[at / 4 % 4] >> (8 * (at % 4))) as u8;
            let noise = ((i32::from(byte) * (2 * NOISE + 1)) >> 8) - NOISE;
            let signal = ((wa * a + wb * b) * CONTRAST) >> 16;
            *pixel = (128 + signal + noise).clamp(0, 255) as u8;
        }
    }
    strong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let options = Options { train: 50, test: 20, seed: 1 };
        let (a, b) = (generate(&options), generate(&options));
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_ne!(a.fingerprint(), generate(&Options { seed: 2, ..options }).fingerprint());
        assert_ne!(a.train.image(0), a.test.image(0));
        // A longer split begins with the shorter one.
        assert_eq!(generate(&Options { train: 60, ..options }).train.first(50), a.train);
    }

    #[test]
    fn classes_are_balanced_and_pixels_use_the_range() {
        let data = generate(&Options { train: 4000, test: 1, seed: 0 });
        for class in 0..10 {
            let n = data.train.labels.iter().filter(|l| **l == class).count();
            assert!((320..480).contains(&n), "class {class}: {n}");
        }
        let mean =
            data.train.images.iter().map(|v| f64::from(*v)).sum::<f64>() / data.train.images.len() as f64;
        let squares = data.train.images.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
        let std = (squares / data.train.images.len() as f64).sqrt();
        // The stated constants of the normalisation.
        assert!((mean / 255.0 - 0.5).abs() < 0.01 && (std / 255.0 - 0.226).abs() < 0.01, "{mean} {std}");
    }

    #[test]
    fn ten_thousand_images_take_less_than_a_second() {
        let start = std::time::Instant::now();
        generate(&Options::default());
        assert!(
            start.elapsed().as_secs_f64() < 5.0,
            "{:?}: far beyond a second even for a busy machine",
            start.elapsed()
        );
    }
}
