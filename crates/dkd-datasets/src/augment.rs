//! Random crop and flip on raw pixels.

use dkd_kernels::rng::{Purpose, Stream};

/// Pixels of black border before the crop.
pub const PADDING: usize = 4;

/// Places of the crop along a side.
const OFFSETS: usize = 2 * PADDING + 1;

/// What is done to a training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Augment {
    /// Nothing.
    #[default]
    None,
    /// Pad by 4 black pixels, crop at random back to the size, flip left to right with probability 1/2.
    CropFlip,
}

impl Augment {
    /// Name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CropFlip => "crop-flip",
        }
    }

    /// The augmentation called `name`.
    pub fn named(name: &str) -> Option<Self> {
        [Self::None, Self::CropFlip].into_iter().find(|a| a.name() == name)
    }

    /// How many different pictures it makes of one image.
    pub fn views(self) -> usize {
        match self {
            Self::None => 1,
            Self::CropFlip => 2 * OFFSETS * OFFSETS,
        }
    }

    /// Which of [`Augment::views`] it makes of sample `origin` in `epoch`, `view`: see [`crop_flip`].
    pub fn view_number(self, seed: u64, epoch: u32, view: u32, origin: u32) -> usize {
        match self {
            Self::None => 0,
            Self::CropFlip => {
                let (dy, dx, flip) = crop_flip(seed, epoch, view, origin);
                (dy * OFFSETS + dx) * 2 + usize::from(flip)
            }
        }
    }
}

/// The random numbers of one augmentation of one sample.
pub(crate) fn augmentation(seed: u64, epoch: u32, view: u32, origin: u32) -> Stream {
    Stream::new(seed, Purpose::Augment, epoch, u64::from(origin) | (u64::from(view) << 32))
}

/// Offsets of the crop (0 to 8, where 4 is the middle) and whether to flip, for sample `origin` in `epoch`, `view`.
///
/// Words 0, 1 and 2 of the stream (seed, augment, epoch, origin + view * 2^32): row offset and column offset below 9, and the
/// flip from the lowest bit. A device kernel that repeats these three draws gives the same bytes.
pub fn crop_flip(seed: u64, epoch: u32, view: u32, origin: u32) -> (usize, usize, bool) {
    let stream = augmentation(seed, epoch, view, origin);
    let range = OFFSETS as u32;
    (stream.below(0, range) as usize, stream.below(1, range) as usize, stream.word(2) & 1 == 1)
}

/// Normalises one image to f32, after an optional crop and flip: `shift` are the offsets and the flip of [`crop_flip`].
///
/// `image` and `to` are `[height, width, 3]`; `tables` holds the normalised value of each byte, by channel. Pixels outside
/// are black before normalisation.
///
/// # Panics
/// If the slices do not have `height * width * 3` elements.
pub fn augment_image(
    image: &[u8],
    (height, width): (usize, usize),
    shift: Option<(usize, usize, bool)>,
    tables: &[[f32; 256]; 3],
    to: &mut [f32],
) {
    assert!(image.len() == height * width * 3 && to.len() == image.len(), "slices of one image");
    let black = [tables[0][0], tables[1][0], tables[2][0]];
    shifted(image, (height, width), shift, black, |c, v| tables[c][usize::from(v)], to);
}

/// Writes `value` of the channel and the byte for each byte of an image, after an optional crop and flip.
pub(crate) fn shifted<T: Copy>(
    image: &[u8],
    (height, width): (usize, usize),
    shift: Option<(usize, usize, bool)>,
    black: [T; 3],
    value: impl Fn(usize, u8) -> T,
    to: &mut [T],
) {
    let (dy, dx, flip) = shift.unwrap_or((PADDING, PADDING, false));
    for (y, row) in to.chunks_exact_mut(width * 3).enumerate() {
        let source = (y + dy).checked_sub(PADDING).filter(|y| *y < height);
        let Some(source) = source.map(|y| &image[y * width * 3..(y + 1) * width * 3]) else {
            row.as_chunks_mut::<3>().0.fill(black);
            continue;
        };
        for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let x = if flip { width - 1 - x } else { x };
            *pixel = match (x + dx).checked_sub(PADDING).filter(|x| *x < width) {
                Some(x) => std::array::from_fn(|c| value(c, source[x * 3 + c])),
                None => black,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normalization;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_pad_crop_flip(dy in 0_usize..9, dx in 0_usize..9, flip: bool, h in 1_usize..9, w in 1_usize..9) {
            let image: Vec<u8> = (0..h * w * 3).map(|i| (i * 37 % 255) as u8 + 1).collect();
            let n = Normalization { mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7] };
            let tables = n.tables();
            let mut got = vec![0.0; image.len()];
            augment_image(&image, (h, w), Some((dy, dx, flip)), &tables, &mut got);
            // Pad to (h + 8) x (w + 8), crop at (dy, dx), then flip the crop.
            let padded = |y: usize, x: usize, c: usize| {
                let inside = (4..h + 4).contains(&y) && (4..w + 4).contains(&x);
                if inside { image[((y - 4) * w + x - 4) * 3 + c] } else { 0 }
            };
            for y in 0..h {
                for x in 0..w {
                    for c in 0..3 {
                        let column = if flip { w - 1 - x } else { x };
                        let want = (f32::from(padded(y + dy, column + dx, c)) / 255.0 - n.mean[c]) / n.std[c];
                        prop_assert!((got[(y * w + x) * 3 + c] - want).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_shift_nothing_moves() {
        let image: Vec<u8> = (0..48).collect();
        let tables = Normalization::HALF.tables();
        let mut got = vec![0.0; 48];
        augment_image(&image, (4, 4), None, &tables, &mut got);
        assert!(got.iter().zip(&image).all(|(g, v)| (g - (f32::from(*v) / 127.5 - 1.0)).abs() < 1e-6));
    }

    #[test]
    fn draws_cover_all_offsets_evenly() {
        let mut counts = [[0; 9]; 2];
        let mut flips = 0;
        for origin in 0..9000 {
            let (dy, dx, flip) = crop_flip(5, 2, 0, origin);
            counts[0][dy] += 1;
            counts[1][dx] += 1;
            flips += usize::from(flip);
        }
        assert!(counts.as_flattened().iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        assert!((4300..4700).contains(&flips));
        assert_ne!(crop_flip(5, 2, 0, 1), crop_flip(5, 2, 1, 1));
    }

    #[test]
    fn views_have_numbers() {
        let augment = Augment::CropFlip;
        let mut seen = std::collections::BTreeMap::new();
        for origin in 0..4000 {
            let number = augment.view_number(5, 2, 0, origin);
            let shift = crop_flip(5, 2, 0, origin);
            assert_eq!(*seen.entry(number).or_insert(shift), shift);
        }
        assert_eq!(seen.len(), augment.views());
        assert_eq!(seen.keys().max(), Some(&(augment.views() - 1)));
        assert_eq!((Augment::None.views(), Augment::None.view_number(5, 2, 0, 7)), (1, 0));
    }
}
