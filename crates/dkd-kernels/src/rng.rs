//! Counter-based random numbers: every draw is a pure function of (seed, purpose, epoch, index, offset).
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3*,
//! SC 2011). There is no state to carry, so a draw does not depend on the number of threads, on prefetching, on
//! the device, or on where an interrupted run was resumed.

/// What a random number is for. Streams of different purposes never share a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial value of a parameter; index = hash of its name.
    Init = 1,
    /// Order of the samples in an epoch.
    Shuffle = 2,
    /// Crop offsets and flips; index = position of the sample in the data set.
    Augment = 3,
    /// Dropout masks; index = position in the batch.
    Dropout = 4,
    /// Which samples are held out for validation.
    Split = 5,
    /// Generated data.
    Synthetic = 6,
    /// Draws asked for by a loss.
    Loss = 7,
    /// Anything else a caller needs.
    Other = 8,
}

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// One block of Philox4x32-10: four random words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
        }
        let p0 = u64::from(M0) * u64::from(c[0]);
        let p1 = u64::from(M1) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// FNV-1a hash of a name: the `index` of a named stream.
pub const fn hash_name(name: &str) -> u64 {
    let (bytes, mut h, mut i) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
    while i < bytes.len() {
        h = (h ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    h
}

/// A stream of random numbers, addressed by offset.
///
/// The 64-bit `index` and the `epoch` are folded with the purpose into key and counter, so that two streams are equal
/// only if all four of seed, purpose, epoch and index are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    high: [u32; 3],
}

impl Stream {
    /// The stream of (`seed`, `purpose`, `epoch`, `index`).
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, index: u64) -> Self {
        // One Philox block turns the wide coordinates into a 96-bit counter prefix and keeps the seed as the key.
        let key = [seed as u32, (seed >> 32) as u32];
        let mixed = philox4x32([index as u32, (index >> 32) as u32, epoch, purpose as u32], key);
        Self { key: [key[0] ^ mixed[3], key[1]], high: [mixed[0], mixed[1], mixed[2]] }
    }

    /// Words `4 * block .. 4 * block + 4` of the stream.
    #[inline(always)]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox4x32([block, self.high[0], self.high[1], self.high[2]], self.key)
    }

    /// Word `offset` of the stream (`offset < 2^34`).
    pub fn word(&self, offset: u64) -> u32 {
        self.block((offset / 4) as u32)[(offset % 4) as usize]
    }

    /// Draw `offset` as a number in [0, 1) with 24 random bits.
    pub fn uniform(&self, offset: u64) -> f32 {
        (self.word(offset) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Draw `offset` as an integer in `0..bound`; `bound` must be positive.
    ///
    /// Multiply-shift of a 32-bit word: the bias is below `bound / 2^32`.
    pub fn below(&self, offset: u64, bound: u32) -> u32 {
        ((u64::from(self.word(offset)) * u64::from(bound)) >> 32) as u32
    }

    /// Draw `offset` from the standard normal distribution (Box-Muller over words `2 * offset` and `2 * offset + 1`).
    pub fn normal(&self, offset: u64) -> f32 {
        let unit = |w: u32| (f64::from(w) + 0.5) / 4_294_967_296.0;
        let (u, v) = (unit(self.word(2 * offset)), unit(self.word(2 * offset + 1)));
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// A permutation of `0..n` (Fisher-Yates).
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u32 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Known-answer vectors of the Random123 distribution for philox4x32-10.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn streams_differ_in_every_coordinate() {
        let base = Stream::new(7, Purpose::Augment, 3, 11);
        for other in [
            Stream::new(8, Purpose::Augment, 3, 11),
            Stream::new(7 + (1 << 32), Purpose::Augment, 3, 11),
            Stream::new(7, Purpose::Shuffle, 3, 11),
            Stream::new(7, Purpose::Augment, 4, 11),
            Stream::new(7, Purpose::Augment, 3, 12),
            Stream::new(7, Purpose::Augment, 3, 11 + (1 << 32)),
        ] {
            assert_ne!(base.block(0), other.block(0));
        }
    }

    #[test]
    fn moments() {
        let s = Stream::new(1, Purpose::Init, 0, 5);
        let n = 20_000;
        let uniform: Vec<f64> = (0..n).map(|i| f64::from(s.uniform(i))).collect();
        let normal: Vec<f64> = (0..n).map(|i| f64::from(s.normal(i))).collect();
        let moments = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / n as f64;
            (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let ((mu, vu), (mn, vn)) = (moments(&uniform), moments(&normal));
        assert!((mu - 0.5).abs() < 0.01 && (vu - 1.0 / 12.0).abs() < 0.002, "{mu} {vu}");
        assert!(mn.abs() < 0.03 && (vn - 1.0).abs() < 0.04, "{mn} {vn}");
    }

    #[test]
    fn permutation_is_one() {
        let mut p = Stream::new(2, Purpose::Shuffle, 1, 0).permutation(1000);
        assert_ne!(&p[..3], &[0, 1, 2]);
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, &v)| i as u32 == v));
    }
}
