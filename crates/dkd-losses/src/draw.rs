//! Random numbers for losses that need them.
use dkd_kernels::rng::{Purpose, Stream, hash_name};

/// Random numbers keyed by name: asking twice for the same name gives the same numbers.
///
/// The caller keys an implementation by run seed and step, so that an objective needs no generator of its own and a
/// resumed run draws what the uninterrupted one would have drawn.
pub trait Draw {
    /// `n` numbers in [0, 1).
    fn uniform(&self, name: &str, n: usize) -> Vec<f32>;
    /// `n` numbers from the standard normal distribution.
    fn normal(&self, name: &str, n: usize) -> Vec<f32>;
    /// A random order of `0..n`.
    fn permutation(&self, name: &str, n: usize) -> Vec<u32>;
    /// `k` different numbers out of `0..n`, in random order; all of them if there are no more.
    fn choice(&self, name: &str, n: usize, k: usize) -> Vec<u32>;
}

/// The standard [`Draw`]: a pure function of (seed, step, name), from the workspace's counter-based generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDraw {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run, counted from 0. Draws repeat after 2^32 steps.
    pub step: u64,
}

impl StepDraw {
    fn stream(&self, name: &str) -> Stream {
        Stream::new(self.seed, Purpose::Loss, self.step as u32, hash_name(name))
    }
}

impl Draw for StepDraw {
    fn uniform(&self, name: &str, n: usize) -> Vec<f32> {
        let stream = self.stream(name);
        (0..n as u64).map(|i| stream.uniform(i)).collect()
    }

    fn normal(&self, name: &str, n: usize) -> Vec<f32> {
        let stream = self.stream(name);
        (0..n as u64).map(|i| stream.normal(i)).collect()
    }

    fn permutation(&self, name: &str, n: usize) -> Vec<u32> {
        self.stream(name).permutation(n)
    }

    fn choice(&self, name: &str, n: usize, k: usize) -> Vec<u32> {
        let (stream, mut numbers) = (self.stream(name), (0..n as u32).collect::<Vec<_>>());
        let k = k.min(n);
        for i in 0..k {
            let other = i + stream.below(i as u64, (n - i) as u32) as usize;
            numbers.swap(i, other);
        }
        numbers.truncate(k);
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_is_a_function_of_seed_step_and_name() {
        let draw = StepDraw { seed: 1, step: 5 };
        assert_eq!(draw.uniform("a", 8), draw.uniform("a", 8));
        assert_eq!(draw.uniform("a", 8)[..4], draw.uniform("a", 4)[..]);
        for other in [StepDraw { seed: 2, step: 5 }, StepDraw { seed: 1, step: 6 }] {
            assert_ne!(draw.uniform("a", 8), other.uniform("a", 8));
            assert_ne!(draw.normal("a", 8), other.normal("a", 8));
            assert_ne!(draw.permutation("a", 50), other.permutation("a", 50));
        }
        assert_ne!(draw.uniform("a", 8), draw.uniform("b", 8));
    }

    #[test]
    fn a_choice_has_no_number_twice() {
        let draw = StepDraw { seed: 1, step: 5 };
        let mut seen = [0; 20];
        for step in 0..2000 {
            let mut some = StepDraw { step, ..draw }.choice("a", 20, 5);
            some.iter().for_each(|i| seen[*i as usize] += 1);
            some.sort_unstable();
            some.dedup();
            assert_eq!(some.len(), 5);
        }
        assert!(seen.iter().all(|n| (400..=600).contains(n)), "each about 500 times: {seen:?}");
        assert_eq!(draw.choice("a", 3, 5).len(), 3);
    }
}
