//! The random words of kernels are those of [`crate::rng`].

use super::launch::{Parameters, Threads, launch};
use super::machine::Machine;
use super::memory::Element;
use super::testing::machines;
use crate::rng::{Purpose, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct RandomWordsParameters {
    seed: u64,
    index: u64,
    y: u64,
    n: u32,
    purpose: u32,
    epoch: u32,
    bound: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for RandomWordsParameters {}

#[test]
fn words_are_the_streams() {
    const N: usize = 1003;
    for machine in machines() {
        let y = machine.alloc(4 * N).unwrap().view(Element::U32, 0, N).unwrap();
        for (seed, purpose, epoch, index, bound) in [
            (0, Purpose::Dropout, 0, 0, 0),
            (7, Purpose::Augment, 3, 11, 9),
            (u64::MAX - 5, Purpose::Dropout, u32::MAX, u64::MAX / 3, 0),
            (1 << 40, Purpose::Augment, 1, 1 << 33, u32::MAX),
        ] {
            let parameters = RandomWordsParameters {
                seed,
                index,
                y: y.address(),
                n: N as u32,
                purpose: purpose as u32,
                epoch,
                bound,
            };
            // SAFETY: `y` has N words.
            unsafe { launch(&machine, "random_words", &parameters, Threads::each(N)).unwrap() };
            let mut bytes = vec![0; 4 * N];
            machine.read(&y, &mut bytes).unwrap();
            let got: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            let stream = Stream::new(seed, purpose, epoch, index);
            let draw = |i| if bound == 0 { stream.word(i) } else { stream.below(i, bound) };
            assert_eq!(
                got,
                (0..N as u64).map(draw).collect::<Vec<_>>(),
                "{seed} {purpose:?} {epoch} {index}"
            );
        }
    }
}
