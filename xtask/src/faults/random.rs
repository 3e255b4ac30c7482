//! Random moments and damages that can be had again.

/// SplitMix64 (Steele, Lea and Flood, 2014): a stream for every trial. It decides where a fault hits, never what a run
/// computes, so that this task stays free of the crates it tests.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of one trial of a family.
    pub fn new(seed: u64, family: &str, trial: usize) -> Self {
        let mut random = Self(seed);
        for byte in family.bytes() {
            random.0 = random.word() ^ u64::from(byte);
        }
        random.0 = random.word() ^ trial as u64;
        random
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `n`; 0 if there is none.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % (n as u64).max(1)) as usize
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_has_its_own_stream() {
        let first = |seed, family, trial| Random::new(seed, family, trial).word();
        assert_eq!(first(1, "kill", 0), first(1, "kill", 0));
        let others = [first(2, "kill", 0), first(1, "kilm", 0), first(1, "kill", 1)];
        assert!(others.iter().all(|other| *other != first(1, "kill", 0)));
        // The published first value for the state 0.
        assert_eq!(Random(0).word(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn ranges_are_filled() {
        let mut random = Random::new(0, "ranges", 0);
        let mut hit = [0; 5];
        for _ in 0..1000 {
            hit[random.below(5)] += 1;
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        assert!(hit.iter().all(|n| *n > 150), "{hit:?}");
        assert_eq!(random.below(0), 0);
    }
}
