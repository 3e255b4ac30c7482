//! Linear layers with few results of many inputs: a library that takes a tile of results at a time would leave most of a device without work.

use super::error::{Result, check};
use super::launch::{MapKernel, Parameters, Threads, launch, launch_blocks, map_kernel};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{apart, countable, holds, is_map};

const NAME: &str = "linear";
const PARTIAL: MapKernel = map_kernel!("linear_partial");
const FINISH: MapKernel = map_kernel!("linear_finish");

/// A tile of results, the threads that compute it, and the inputs that they take at once.
const TILE_ROWS: usize = 64;
const TILE_OUTPUTS: usize = 32;
const TILE_THREADS: u32 = 128;
const TILE_DEPTH: usize = 16;
/// Blocks that fill a device.
const BLOCKS: usize = 256;
/// Fewest inputs that are worth cutting, fewest of a chunk, and most tiles.
const LEAST_INPUTS: usize = 2048;
const LEAST_CHUNK: usize = 128;
const MOST_TILES: usize = 64;

/// Sizes of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Rows: images.
    pub rows: usize,
    /// Inputs of each.
    pub inputs: usize,
    /// Outputs of each.
    pub outputs: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LinearParameters {
    x: u64,
    w: u64,
    y: u64,
    partial: u64,
    bias: u64,
    rows: u32,
    inputs: u32,
    outputs: u32,
    chunks: u32,
    depth: u32,
    relu: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for LinearParameters {}

impl Linear {
    fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS) * self.outputs.div_ceil(TILE_OUTPUTS)
    }

    /// Whether it has so many inputs and so few outputs that [`Linear::forward`] is for it.
    pub fn is_long(&self) -> bool {
        self.inputs >= LEAST_INPUTS && self.tiles() <= MOST_TILES
    }

    /// Chunks, and inputs of each: a function of the sizes alone, as sums depend on it.
    fn chunks(&self) -> (usize, usize) {
        let most = (self.inputs / LEAST_CHUNK).max(1);
        let chunks = (BLOCKS / self.tiles().max(1)).clamp(1, most);
        let depth = self.inputs.div_ceil(chunks).next_multiple_of(TILE_DEPTH);
        (self.inputs.div_ceil(depth), depth)
    }

    /// Numbers of f32 that [`Linear::forward`] needs for so many rows or fewer, if [`Linear::is_long`] for any of them, else 0.
    pub fn scratch_len(&self) -> usize {
        if self.inputs < LEAST_INPUTS {
            return 0;
        }
        // No more blocks than that, each with a tile, and no more chunks than inputs allow.
        (BLOCKS * TILE_ROWS * TILE_OUTPUTS).min(self.inputs / LEAST_CHUNK * self.rows * self.outputs)
    }

    /// `y[n, o] = sum over i of x[n, i] * w[o, i]`, with `[x, w, y]` of one type, f32 or bf16; then `bias[o]` in f32 is added, and with `relu`
    /// negative values become 0. Products and sums are f32, the last sums f64.
    ///
    /// # Errors
    /// Lengths or types do not fit; nothing to compute; 2^31 numbers or more; fewer than [`Linear::scratch_len`] numbers of f32 in
    /// `scratch`; what is written overlaps what is read.
    pub fn forward(
        &self,
        machine: &dyn Machine,
        operands: [&View; 3],
        (bias, relu): (Option<&View>, bool),
        scratch: &View,
    ) -> Result<()> {
        let [x, w, y] = operands;
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        is_map(NAME, x.element())?;
        let lengths = [(rows, inputs), (outputs, inputs), (rows, outputs)];
        for ((view, what), (m, n)) in
            operands.iter().zip(["the input", "the weights", "the output"]).zip(lengths)
        {
            holds(NAME, what, view, countable(NAME, &[m, n])?, x.element())?;
        }
        check(NAME, rows > 0 && inputs > 0 && outputs > 0, || format!("{self:?} computes nothing"))?;
        let (chunks, depth) = self.chunks();
        let partial = chunks * rows * outputs;
        check(NAME, scratch.len() >= partial, || format!("it needs {partial} numbers of scratch"))?;
        holds(NAME, "scratch", scratch, scratch.len(), Element::F32)?;
        apart(NAME, &[x, w], y)?;
        apart(NAME, &operands, scratch)?;
        if let Some(bias) = bias {
            holds(NAME, "the bias", bias, outputs, Element::F32)?;
            apart(NAME, &[bias], y)?;
            apart(NAME, &[bias], scratch)?;
        }
        let parameters = LinearParameters {
            x: x.address(),
            w: w.address(),
            y: y.address(),
            partial: scratch.address(),
            bias: bias.map_or(0, View::address),
            rows: rows as u32,
            inputs: inputs as u32,
            outputs: outputs as u32,
            chunks: chunks as u32,
            depth: depth as u32,
            relu: u32::from(relu),
        };
        let blocks = Threads { grid: [(self.tiles() * chunks) as u32, 1, 1], block: [TILE_THREADS, 1, 1] };
        // SAFETY: all lengths and types were checked above.
        unsafe {
            launch_blocks(machine, PARTIAL.of(x.element()), &parameters, blocks)?;
            launch(machine, FINISH.of(x.element()), &parameters, Threads::each(y.len()))
        }
    }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gpu::testing::{assert_close, download, machines, numbers, stored, upload};

    #[test]
    fn all_sizes_are_plain_sums_in_both_orders() {
        for (rows, inputs, outputs) in [(1, 2048, 1), (64, 2060, 16), (70, 2309, 40), (5, 130, 33), (3, 7, 2)]
        {
            let linear = Linear { rows, inputs, outputs };
            for element in [Element::F32, Element::Bf16] {
                let values = |n: usize, key| -> Vec<f32> {
                    numbers(n, key).into_iter().map(|v| stored(v, element)).collect()
                };
                let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
                let mut want = Vec::new();
                for (n, o) in (0..rows).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
                    let (x, w) = (&x[n * inputs..(n + 1) * inputs], &w[o * inputs..(o + 1) * inputs]);
                    want.push(x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32);
                }
                let bias = numbers(outputs, 3);
                let full: Vec<f32> =
                    want.iter().zip(bias.iter().cycle()).map(|(v, b)| (v + b).max(0.0)).collect();
                let mut results = Vec::new();
                for machine in machines() {
                    let (a, b) = (upload(&machine, &x, element), upload(&machine, &w, element));
                    let y = upload(&machine, &vec![f32::NAN; want.len()], element);
                    let scratch = linear.scratch_len().max(linear.chunks().0 * want.len());
                    let scratch = upload(&machine, &vec![f32::NAN; scratch], Element::F32);
                    linear.forward(&machine, [&a, &b, &y], (None, false), &scratch).unwrap();
                    let got = download(&machine, &y);
                    // Rounding of terms around 1, of which little may be left.
                    let rounding = 2e-6 * (inputs as f32).sqrt();
                    let bound = if element == Element::F32 { rounding } else { 0.005 };
                    assert_close(&got, &want, bound);
                    results.push(got);
                    let bias = upload(&machine, &bias, Element::F32);
                    linear.forward(&machine, [&a, &b, &y], (Some(&bias), true), &scratch).unwrap();
                    assert_close(&download(&machine, &y), &full, bound);
                }
                assert!(results.windows(2).all(|two| two[0] == two[1]), "{linear:?}");
            }
        }
    }

    #[test]
    fn scratch_suffices_for_all_smaller_batches() {
        for (inputs, outputs) in [(2048, 100), (43_264, 16), (43_264, 64), (25_088, 4096), (2047, 1)] {
            for most in [1, 64, 100, 512] {
                let scratch = Linear { rows: most, inputs, outputs }.scratch_len();
                for rows in 1..=most {
                    let linear = Linear { rows, inputs, outputs };
                    let needed = linear.chunks().0 * rows * outputs;
                    assert!(
                        !linear.is_long() || needed <= scratch,
                        "{linear:?} of {most}: {needed} > {scratch}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let linear = Linear { rows: 2, inputs: 2048, outputs: 3 };
        for machine in machines() {
            let view = |n: usize| upload(&machine, &vec![0.0; n], Element::F32);
            let none = (None, false);
            let (x, w, y, scratch) = (view(4096), view(6144), view(6), view(linear.scratch_len()));
            linear.forward(&machine, [&x, &w, &y], none, &scratch).unwrap();
            assert!(linear.forward(&machine, [&w, &x, &y], none, &scratch).is_err());
            assert!(linear.forward(&machine, [&x, &w, &y], none, &view(5)).is_err());
            assert!(linear.forward(&machine, [&x, &w, &x.first(6).unwrap()], none, &scratch).is_err());
            assert!(linear.forward(&machine, [&x, &w, &y], none, &w).is_err());
            assert!(linear.forward(&machine, [&x, &w, &y], (Some(&x), false), &scratch).is_err());
            let bias = y.first(3).unwrap();
            assert!(linear.forward(&machine, [&x, &w, &y], (Some(&bias), false), &scratch).is_err());
            let nothing = Linear { rows: 0, ..linear };
            let empty = x.first(0).unwrap();
            assert!(nothing.forward(&machine, [&empty, &w, &empty], none, &scratch).is_err());
        }
    }
}
