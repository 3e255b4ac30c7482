//! Operations that change values and leave every pixel in its place, as PIL computes them.

/// Luma of a pixel, as in ITU-R 601.
fn gray(pixel: &[u8; 3]) -> i64 {
    let [r, g, b] = pixel.map(i64::from);
    (r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16
}

/// `from + (to - from) * percent / 100`, rounded down and kept within bytes.
pub(super) fn blend(from: i64, to: u8, percent: i64) -> u8 {
    (from * 100 + (i64::from(to) - from) * percent).div_euclid(100).clamp(0, 255) as u8
}

/// Sends the bytes of each channel through a table made of its histogram.
fn by_channel(image: &mut [u8], table: impl Fn(&[u64; 256]) -> Option<[u8; 256]>) {
    for channel in 0..3 {
        let mut histogram = [0; 256];
        image.iter().skip(channel).step_by(3).for_each(|v| histogram[usize::from(*v)] += 1);
        if let Some(table) = table(&histogram) {
            image.iter_mut().skip(channel).step_by(3).for_each(|v| *v = table[usize::from(*v)]);
        }
    }
}

/// Stretches each channel to the whole range.
pub(super) fn autocontrast(image: &mut [u8]) {
    by_channel(image, |histogram| {
        let low = histogram.iter().position(|n| *n > 0)?;
        let high = histogram.iter().rposition(|n| *n > 0)?;
        let stretched = |v: usize| (v.saturating_sub(low) * 255 / (high - low)).min(255) as u8;
        (high > low).then(|| std::array::from_fn(stretched))
    });
}

/// Makes the values of each channel about equally frequent.
pub(super) fn equalize(image: &mut [u8]) {
    by_channel(image, |histogram| {
        let last = *histogram.iter().rfind(|n| **n > 0)?;
        let step = (histogram.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return None;
        }
        let mut below = step / 2;
        Some(histogram.map(|count| {
            let value = (below / step).min(255) as u8;
            below += count;
            value
        }))
    });
}

/// Inverts bytes from `threshold` on.
pub(super) fn solarize(image: &mut [u8], threshold: u8) {
    image.iter_mut().filter(|v| **v >= threshold).for_each(|v| *v = 255 - *v);
}

/// Keeps the upper `bits` of each byte, at least one and at most eight.
pub(super) fn posterize(image: &mut [u8], bits: u32) {
    let mask = 0xff_u8 << (8 - bits);
    image.iter_mut().for_each(|v| *v &= mask);
}

/// Towards grey below 100 percent, away from it above.
pub(super) fn color(image: &mut [u8], percent: i64) {
    for pixel in image.as_chunks_mut::<3>().0 {
        let gray = gray(pixel);
        *pixel = pixel.map(|v| blend(gray, v, percent));
    }
}

/// Towards the mean grey of the image below 100 percent, away from it above.
pub(super) fn contrast(image: &mut [u8], percent: i64) {
    let pixels = image.as_chunks::<3>().0;
    let count = pixels.len().max(1) as i64;
    let mean = (2 * pixels.iter().map(gray).sum::<i64>() + count) / (2 * count);
    image.iter_mut().for_each(|v| *v = blend(mean, *v, percent));
}

/// Darker below 100 percent, brighter above.
pub(super) fn brightness(image: &mut [u8], percent: i64) {
    image.iter_mut().for_each(|v| *v = blend(0, *v, percent));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(image: &[u8], f: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut image = image.to_vec();
        f(&mut image);
        image
    }

    #[test]
    fn autocontrast_stretches_each_channel() {
        // Red from 100 to 200, green constant, blue over the whole range.
        let image = [100, 7, 0, 150, 7, 255, 200, 7, 9];
        assert_eq!(after(&image, autocontrast), [0, 7, 0, 127, 7, 255, 255, 7, 9]);
    }

    #[test]
    fn equalize_spreads_values_evenly() {
        // 510 pixels of 10, 255 of 20 and 255 of 30 in red: (1020 - 255) / 255 = 3 a step, and 1, 511 and 766 lie below.
        let values = [(10, 510), (20, 255), (30, 255)];
        let image: Vec<u8> =
            values.into_iter().flat_map(|(v, n)| std::iter::repeat_n([v, 5, 6], n)).flatten().collect();
        let got = after(&image, equalize);
        let red = |i: usize| got[i * 3];
        assert_eq!((red(0), red(509), red(510), red(765)), (0, 0, 170, 255));
        assert!(got.chunks(3).all(|p| p[1..] == [5, 6]), "a channel of one value stays");
        assert_eq!(after(&[1, 2, 3, 4, 5, 6], equalize), [1, 2, 3, 4, 5, 6], "too few pixels for a step");
    }

    #[test]
    fn solarize_and_posterize_look_at_each_byte() {
        assert_eq!(after(&[0, 127, 128, 255], |i| solarize(i, 128)), [0, 127, 127, 0]);
        assert_eq!(after(&[0, 15, 16, 255], |i| posterize(i, 4)), [0, 0, 16, 240]);
        assert_eq!(after(&[0, 15, 255], |i| posterize(i, 8)), [0, 15, 255]);
    }

    #[test]
    fn factors_go_towards_grey_and_away_from_it() {
        // The luma of (200, 100, 50) is 124.2.
        let image = [200, 100, 50];
        assert_eq!(after(&image, |i| color(i, 0)), [124, 124, 124]);
        assert_eq!(after(&image, |i| color(i, 50)), [162, 112, 87]);
        assert_eq!(after(&image, |i| color(i, 200)), [255, 76, 0]);
        // Mean grey of black and white: 127.5, rounded to 128.
        let image = [0, 0, 0, 255, 255, 255];
        assert_eq!(after(&image, |i| contrast(i, 50)), [64, 64, 64, 191, 191, 191]);
        assert_eq!(after(&image, |i| contrast(i, 100)), image);
        assert_eq!(after(&[0, 10, 200], |i| brightness(i, 130)), [0, 13, 255]);
    }
}
