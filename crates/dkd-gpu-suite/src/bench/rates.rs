//! What the device can do: products and copies.

use crate::suite::Sizes;
use anyhow::{Result, bail};
use dkd_kernels::gpu::convolution::{Arithmetic, Convolution, Pass};
use dkd_kernels::gpu::{Element, Machine};
use dkd_kernels::rng::{Purpose, Stream};
use std::time::{Duration, Instant};

/// Bytes read and written in a second by a copy.
pub fn copy(machine: &dyn Machine, bytes: usize, repeats: usize) -> Result<f64> {
    let view = || machine.alloc(bytes).and_then(|memory| memory.view(Element::U8, 0, bytes));
    let (from, to) = (view()?, view()?);
    let seconds = seconds(machine, repeats, || Ok(machine.copy(&from, &to)?))?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// Operations in a second of a large 1x1 convolution, which is a product of matrices.
pub fn products(machine: &dyn Machine, arithmetic: Arithmetic, sizes: &Sizes) -> Result<f64> {
    let [side, channels, images] = sizes.matrix;
    let map = (side, side, channels);
    let convolution = Convolution {
        images,
        input: map,
        output: map,
        kernel: (1, 1),
        stride: (1, 1),
        padding: (0, 0),
        groups: 1,
        arithmetic,
    };
    let element = arithmetic.element();
    let [input, weights, output] = convolution.lengths();
    let view = |n: usize| machine.alloc(n * element.bytes()).and_then(|memory| memory.view(element, 0, n));
    let (x, w, y) = (view(input)?, view(weights)?, view(output)?);
    // With zeros a device takes less power and runs faster than it ever would.
    for (operand, key) in [(&x, 1), (&w, 2)] {
        machine.write(operand, &numbers(operand.len(), element, key))?;
    }
    if !machine.prepare(Pass::Forward, &convolution)? {
        bail!("there is no library that computes a large 1x1 convolution, whose rate is the floor's");
    }
    let work = || Ok(convolution.run(machine, Pass::Forward, [&x, &w, &y], false)?);
    let seconds = seconds(machine, sizes.repeats, work)?;
    Ok(2.0 * output as f64 * channels as f64 / seconds)
}

/// Numbers around 1, of either sign, that repeat themselves after 65536: more would take the host seconds.
pub fn numbers(n: usize, element: Element, key: u64) -> Vec<u8> {
    let stream = Stream::new(key, Purpose::Other, 0, 0);
    // Sign and mantissa at random; the exponent is that of 1.
    let bits = (0..n.min(1 << 16) as u64).map(|i| (stream.word(i) & 0x807f_ffff) | 0x3f80_0000);
    // Of bf16 the upper half.
    let skipped = 4 - element.bytes();
    let pattern: Vec<u8> = bits.flat_map(|bits| bits.to_le_bytes().into_iter().skip(skipped)).collect();
    let mut all = pattern.repeat(n.div_ceil(1 << 16).max(1));
    all.truncate(n * element.bytes());
    all
}

/// So long a device works before anything is measured: one that had nothing to do may run at a fraction of its clock.
const WARM: Duration = Duration::from_millis(50);

/// What one of `repeats` takes, after two or more that do not count.
pub fn seconds(machine: &dyn Machine, repeats: usize, work: impl Fn() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    for done in 0.. {
        if done >= 2 && begin.elapsed() >= WARM {
            break;
        }
        work()?;
        machine.wait()?;
    }
    let begin = Instant::now();
    for _ in 0..repeats {
        work()?;
    }
    machine.wait()?;
    Ok(begin.elapsed().as_secs_f64() / repeats as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_around_one_and_as_many_as_are_wanted() {
        for (n, element) in [(0, Element::F32), (3, Element::Bf16), ((1 << 16) + 5, Element::F32)] {
            assert_eq!(numbers(n, element, 1).len(), n * element.bytes());
        }
        let all = numbers((1 << 16) + 5, Element::F32, 1);
        let all: Vec<f32> = all.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert!(all.iter().all(|v| (1.0..2.0).contains(&v.abs())));
        assert_eq!(all[..5], all[1 << 16..]);
        assert!(all.iter().any(|v| *v < 0.0) && all[0] != all[1]);
    }
}
