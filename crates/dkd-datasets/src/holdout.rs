//! A validation split.

use crate::{Error, Result, Split};
use dkd_kernels::rng::{Purpose, Stream};

/// Splits off `count` images, the same share of every class (up to rounding): (the rest, the held out).
///
/// Which images are held out depends on `seed` alone; both parts keep the order and the numbers of the images.
///
/// # Errors
/// `count` leaves no image for training.
pub fn hold_out(split: &Split, count: usize, seed: u64) -> Result<(Split, Split)> {
    if count >= split.len() {
        return Err(Error::Invalid(format!(
            "cannot hold out {count} of {} training images: nothing is left to train on",
            split.len()
        )));
    }
    // Random order, then round-robin over the classes by rank within the class.
    let order = Stream::new(seed, Purpose::Split, 0, 0).permutation(split.len());
    let mut rank = vec![0_usize; split.num_classes];
    let mut ranked: Vec<(f64, usize)> = Vec::with_capacity(split.len());
    let mut sizes = vec![0_usize; split.num_classes];
    split.labels.iter().for_each(|l| sizes[*l as usize] += 1);
    for position in order {
        let class = split.labels[position as usize] as usize;
        // The share of its class that comes before this image: taking the smallest takes the same share of all.
        ranked.push(((rank[class] as f64 + 0.5) / sizes[class] as f64, position as usize));
        rank[class] += 1;
    }
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut held = vec![false; split.len()];
    ranked[..count].iter().for_each(|(_, p)| held[*p] = true);
    let part =
        |wanted: bool| split.select(&(0..split.len()).filter(|i| held[*i] == wanted).collect::<Vec<_>>());
    Ok((part(false), part(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Options, generate};

    #[test]
    fn parts_are_disjoint_stratified_and_deterministic() {
        let data = generate(&Options { train: 1000, test: 1, seed: 3 }).train;
        let (train, held) = hold_out(&data, 200, 1).unwrap();
        assert_eq!((train.len(), held.len()), (800, 200));
        let mut all: Vec<u32> = train.origin.iter().chain(&held.origin).copied().collect();
        all.sort_unstable();
        assert_eq!(all, data.origin);
        for class in 0..10 {
            let count = |s: &Split| s.labels.iter().filter(|l| **l == class).count() as f64;
            assert!((count(&held) - 0.2 * count(&data)).abs() <= 1.0);
        }
        for (i, origin) in held.origin.iter().enumerate() {
            assert_eq!(held.image(i), data.image(*origin as usize));
        }
        assert_eq!(hold_out(&data, 200, 1).unwrap().1, held);
        assert_ne!(hold_out(&data, 200, 2).unwrap().1, held);
        assert!(hold_out(&data, 1000, 1).unwrap_err().to_string().contains("1000"));
    }
}
