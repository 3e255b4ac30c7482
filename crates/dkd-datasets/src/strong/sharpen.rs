//! Sharpness: towards a smoothed copy of the image, or away from it, as PIL computes it.

use super::Size;
use super::color::blend;

/// The middle's weight in the smoothed copy; its eight neighbours have 1 each.
const MIDDLE: i64 = 5;

/// Smoother below 100 percent, sharper above. Pixels at the border have no smoothed value and stay.
pub(super) fn sharpness(image: &mut [u8], (height, width): Size, percent: i64) {
    let from = image.to_vec();
    let at = |y: usize, x: usize, c: usize| i64::from(from[(y * width + x) * 3 + c]);
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            for c in 0..3 {
                let around: i64 = (y - 1..=y + 1)
                    .flat_map(|y| (x - 1..=x + 1).map(move |x| (y, x)))
                    .map(|(y, x)| at(y, x, c))
                    .sum();
                let total = around + (MIDDLE - 1) * at(y, x, c);
                let weight = MIDDLE + 8;
                let smooth = (2 * total + weight) / (2 * weight);
                let value = &mut image[(y * width + x) * 3 + c];
                *value = blend(smooth, *value, percent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_inside_changes() {
        // A point of 130 in darkness: 5 * 130 / 13 = 50 is the smoothed value.
        let mut image = vec![0; 27];
        image[12..15].fill(130);
        for (percent, middle) in [(0, 50), (50, 90), (100, 130), (130, 154)] {
            let mut changed = image.clone();
            sharpness(&mut changed, (3, 3), percent);
            assert_eq!(changed[12..15], [middle; 3]);
            assert!(changed.iter().enumerate().all(|(i, v)| (12..15).contains(&i) || *v == 0));
        }
        // A neighbour of the point: 130 / 13 = 10.
        let mut wide = vec![0; 36];
        wide[15..18].fill(130);
        sharpness(&mut wide, (3, 4), 0);
        assert_eq!((wide[15], wide[18]), (50, 10));
        let mut thin = vec![9, 200, 9, 9, 9, 9];
        sharpness(&mut thin, (1, 2), 0);
        assert_eq!(thin, [9, 200, 9, 9, 9, 9]);
    }
}
