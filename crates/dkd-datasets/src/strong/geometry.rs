//! Operations that move pixels: the nearest one is taken, and grey where there is none.

use super::Size;

/// 1 in the numbers of this file, which have 16 binary places.
pub(super) const ONE: i64 = 1 << 16;

/// Values outside the image.
const OUTSIDE: u8 = 128;

/// Takes the pixel with its middle at (x, y) from where `a x + b y + c` and `d x + e y + f` point, for `[[a, b, c], [d, e, f]]`.
fn affine(image: &mut [u8], (height, width): Size, [[a, b, c], [d, e, f]]: [[i64; 3]; 2]) {
    let from = image.to_vec();
    let inside = |v: i64, side: usize| usize::try_from(v).ok().filter(|v| *v < side);
    for (i, pixel) in image.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        // Twice the middle, which is a whole number.
        let (x, y) = (2 * (i % width) as i64 + 1, 2 * (i / width) as i64 + 1);
        let column = inside((a * x + b * y + 2 * c) >> 17, width);
        let row = inside((d * x + e * y + 2 * f) >> 17, height);
        *pixel = match (row, column) {
            (Some(row), Some(column)) => {
                let at = (row * width + column) * 3;
                [from[at], from[at + 1], from[at + 2]]
            }
            _ => [OUTSIDE; 3],
        };
    }
}

/// Moves row y by `slope` times y, its distance from the top.
pub(super) fn shear_x(image: &mut [u8], size: Size, slope: i64) {
    affine(image, size, [[ONE, slope, 0], [0, ONE, 0]]);
}

/// Moves column x by `slope` times x, its distance from the left.
pub(super) fn shear_y(image: &mut [u8], size: Size, slope: i64) {
    affine(image, size, [[ONE, 0, 0], [slope, ONE, 0]]);
}

/// Moves the image up and to the left by these distances.
pub(super) fn translate(image: &mut [u8], size: Size, (dy, dx): (i64, i64)) {
    affine(image, size, [[ONE, 0, dx], [0, ONE, dy]]);
}

/// Turns the image counter-clockwise about its middle.
pub(super) fn rotate(image: &mut [u8], size: Size, degrees: f64) {
    // Rounded to 16 binary places, so that the last bit of a system's sine does not matter.
    let fixed = |v: f64| (v * ONE as f64).round() as i64;
    let (sin, cos) = (fixed(degrees.to_radians().sin()), fixed(degrees.to_radians().cos()));
    let (half_y, half_x) = (size.0 as i64, size.1 as i64);
    // (x, y) less the middle is turned, and the middle added again.
    let c = (half_x * ONE - cos * half_x + sin * half_y) / 2;
    let f = (half_y * ONE - sin * half_x - cos * half_y) / 2;
    affine(image, size, [[cos, -sin, c], [sin, cos, f]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels of one value in all channels.
    fn after(pixels: &[u8], f: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut image: Vec<u8> = pixels.iter().flat_map(|v| [*v; 3]).collect();
        f(&mut image);
        assert!(image.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
        image.chunks(3).map(|p| p[0]).collect()
    }

    #[test]
    fn translations_leave_grey_behind() {
        let image = [1, 2, 3, 4, 5, 6];
        assert_eq!(after(&image, |i| translate(i, (2, 3), (0, ONE))), [2, 3, 128, 5, 6, 128]);
        assert_eq!(after(&image, |i| translate(i, (2, 3), (-ONE, 0))), [128, 128, 128, 1, 2, 3]);
        // The nearest pixel: 0.4 is none, 0.6 is one.
        assert_eq!(after(&image, |i| translate(i, (2, 3), (0, 4 * ONE / 10))), image);
        assert_eq!(after(&image, |i| translate(i, (2, 3), (0, -6 * ONE / 10))), [128, 1, 2, 128, 4, 5]);
    }

    #[test]
    fn shears_move_rows_and_columns_by_their_distance() {
        let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        // The rows' middles are at 0.5, 1.5 and 2.5 from the top: 0.32, 0.96 and 1.6 to the left.
        let slope = 64 * ONE / 100;
        assert_eq!(after(&image, |i| shear_x(i, (3, 3), slope)), [1, 2, 3, 5, 6, 128, 9, 128, 128]);
        assert_eq!(after(&image, |i| shear_y(i, (3, 3), slope)), [1, 5, 9, 4, 8, 128, 7, 128, 128]);
    }

    #[test]
    fn rotations_turn_about_the_middle() {
        let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(after(&image, |i| rotate(i, (3, 3), 0.0)), image);
        assert_eq!(after(&image, |i| rotate(i, (3, 3), 90.0)), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(after(&image, |i| rotate(i, (3, 3), 180.0)), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        // Of a turn by half a right angle the middles of the sides come to the corners.
        let turned = after(&image, |i| rotate(i, (3, 3), 45.0));
        assert_eq!([turned[0], turned[2], turned[4], turned[6], turned[8]], [2, 6, 5, 4, 8]);
        // In a wider image there is nothing beyond them.
        let wide: Vec<u8> = (1..=25).collect();
        assert_eq!(after(&wide, |i| rotate(i, (5, 5), 45.0))[0], 128);
    }
}
