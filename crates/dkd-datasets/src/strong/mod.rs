//! Strong augmentation: two random operations of RandAugment on the raw pixels of a cropped and flipped image.
//!
//! Cubuk et al.: *RandAugment* (2020), with the operations and the ranges of its paper, at magnitude 10 of 30. The operations
//! compute in integers and so give the same bytes on every machine. Like PIL's, those that move pixels take the nearest one.
//! What comes from outside the image is grey, 128.

mod color;
mod geometry;
mod sharpen;

use crate::augment::augmentation;

/// Operations that an image goes through.
const OPERATIONS: u32 = 2;

/// How strong they are, of [`STRONGEST`].
const MAGNITUDE: i64 = 10;

/// The largest magnitude.
const STRONGEST: i64 = 30;

/// The first word of a sample's stream that decides an operation: those before are for crop, flip and mixture.
const FIRST_WORD: u64 = 4;

/// Rows and columns of an image.
pub(crate) type Size = (usize, usize);

/// One operation; those with a direction or a sign draw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Identity,
    Autocontrast,
    Equalize,
    Rotate,
    Solarize,
    Color,
    Posterize,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

impl Operation {
    const ALL: [Self; 14] = [
        Self::Identity,
        Self::Autocontrast,
        Self::Equalize,
        Self::Rotate,
        Self::Solarize,
        Self::Color,
        Self::Posterize,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
    ];

    /// Applies it to an image `[height, width, 3]`; `sign` is 1 or -1.
    fn apply(self, image: &mut [u8], size: Size, sign: i64) {
        // Factors from 0.1 to 1.9.
        let percent = 100 + sign * 90 * MAGNITUDE / STRONGEST;
        // Up to 0.3 for shears, up to 150 pixels of 331 for translations, the sizes of the paper's images.
        let slope = sign * 3 * geometry::ONE * MAGNITUDE / (10 * STRONGEST);
        let distance = |side: usize| sign * side as i64 * 150 * geometry::ONE * MAGNITUDE / (331 * STRONGEST);
        match self {
            Self::Identity => {}
            Self::Autocontrast => color::autocontrast(image),
            Self::Equalize => color::equalize(image),
            Self::Rotate => geometry::rotate(image, size, (sign * 30 * MAGNITUDE / STRONGEST) as f64),
            Self::Solarize => color::solarize(image, (255 - 255 * MAGNITUDE / STRONGEST) as u8),
            Self::Color => color::color(image, percent),
            // Up to four bits are lost, at this magnitude one.
            Self::Posterize => {
                color::posterize(image, 8 - ((8 * MAGNITUDE + STRONGEST) / (2 * STRONGEST)) as u32)
            }
            Self::Contrast => color::contrast(image, percent),
            Self::Brightness => color::brightness(image, percent),
            Self::Sharpness => sharpen::sharpness(image, size, percent),
            Self::ShearX => geometry::shear_x(image, size, slope),
            Self::ShearY => geometry::shear_y(image, size, slope),
            Self::TranslateX => geometry::translate(image, size, (0, distance(size.1))),
            Self::TranslateY => geometry::translate(image, size, (distance(size.0), 0)),
        }
    }
}

/// Operations and signs for sample `origin` in `epoch`, `view`: words 4 to 7 of the stream of [`crate::augment::crop_flip`].
fn drawn(seed: u64, epoch: u32, view: u32, origin: u32) -> impl Iterator<Item = (Operation, i64)> {
    let stream = augmentation(seed, epoch, view, origin);
    (0..u64::from(OPERATIONS)).map(move |i| {
        let word = FIRST_WORD + 2 * i;
        let which = stream.below(word, Operation::ALL.len() as u32) as usize;
        (Operation::ALL[which], if stream.word(word + 1) & 1 == 1 { 1 } else { -1 })
    })
}

/// Applies the two operations that are drawn for sample `origin` to an image `[height, width, 3]`.
pub(crate) fn strengthen(image: &mut [u8], size: Size, (seed, epoch, view, origin): (u64, u32, u32, u32)) {
    for (operation, sign) in drawn(seed, epoch, view, origin) {
        operation.apply(image, size, sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        (0..32 * 32 * 3).map(|i| (i * 89 % 251) as u8).collect()
    }

    #[test]
    fn an_image_is_a_function_of_seed_epoch_view_and_number() {
        let of = |key| {
            let mut image = image();
            strengthen(&mut image, (32, 32), key);
            image
        };
        assert_eq!(of((1, 2, 1, 3)), of((1, 2, 1, 3)));
        let all: std::collections::BTreeSet<Vec<u8>> = (0..200).map(|origin| of((1, 2, 1, origin))).collect();
        assert!(all.len() > 80, "{}", all.len());
        for other in [(2, 2, 1), (1, 3, 1), (1, 2, 0)] {
            assert!((0..20).any(|i| of((other.0, other.1, other.2, i)) != of((1, 2, 1, i))), "{other:?}");
        }
    }

    #[test]
    fn operations_and_signs_are_drawn_evenly() {
        let (mut counts, mut positive) = ([0; 14], 0);
        for origin in 0..14_000 {
            for (operation, sign) in drawn(3, 1, 1, origin) {
                counts[Operation::ALL.iter().position(|o| *o == operation).unwrap()] += 1;
                positive += usize::from(sign == 1);
            }
        }
        assert!(counts.iter().all(|n| (1800..2200).contains(n)), "{counts:?}");
        assert!((13_600..14_400).contains(&positive), "{positive}");
    }

    #[test]
    fn all_operations_but_one_change_an_image() {
        for operation in Operation::ALL {
            for sign in [1, -1] {
                let mut changed = image();
                operation.apply(&mut changed, (32, 32), sign);
                assert_eq!(changed == image(), operation == Operation::Identity, "{operation:?} {sign}");
            }
        }
    }

    #[test]
    fn the_magnitude_is_that_of_the_table() {
        let after = |operation: Operation, sign, pixel: [u8; 3]| {
            let mut image = pixel.to_vec();
            operation.apply(&mut image, (1, 1), sign);
            image
        };
        // 170 is the threshold, 7 the bits, 0.7 and 1.3 the factors.
        assert_eq!(after(Operation::Solarize, 1, [169, 170, 255]), [169, 85, 0]);
        assert_eq!(after(Operation::Posterize, 1, [1, 2, 255]), [0, 2, 254]);
        assert_eq!(after(Operation::Brightness, -1, [100, 10, 255]), [70, 7, 178]);
        assert_eq!(after(Operation::Brightness, 1, [100, 10, 255]), [130, 13, 255]);
        // 32 * 150 / 331 / 3 = 4.8 pixels.
        let mut row: Vec<u8> = (0..32 * 3).map(|i| i as u8 / 3).collect();
        Operation::TranslateX.apply(&mut row, (1, 32), 1);
        assert_eq!((row[0], row[26 * 3], row[27 * 3]), (5, 31, 128));
    }
}
