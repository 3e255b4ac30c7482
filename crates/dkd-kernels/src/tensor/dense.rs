//! Convolutions of f32 batches by the kernels: images go to padded maps, some at a time, and come back contiguous.

use super::batch::{Batch, from_map};
use super::convolution::Element;
use super::sizes::Sizes;
use crate::conv2d::{ConvForward, ConvInputGrad, ConvWeightGrad, Images, PackedConv};
use crate::{AlignedBuf, Cpu, LANES, Map};
use std::sync::{Mutex, PoisonError};

/// Most images that a kernel takes at once, where it takes several.
const MANY: usize = 16;

/// Parts of a batch that have sums of their own for the weight's gradient: a fixed number, so that any number of threads adds in
/// the same order.
const PARTS: usize = 8;

/// Elements of the weight's gradient that one thread adds up at a time.
const SUM_ELEMENTS: usize = 16 * 1024;

impl Element for f32 {
    fn output(cpu: &Cpu, s: &Sizes, x: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self> {
        let g = s.geometry();
        let kernel = ConvForward::new(g);
        let weight = forward_weight(cpu, &PackedConv::new(&g), weight);
        // The bias is added where the result is written, as for the transposed convolution.
        let zeros = vec![0.0; g.output_blocks() * LANES];
        let pass = Pass { x, from: g.input, to: g.output, many: g.takes_many(), bias };
        pass.run(cpu, kernel.scratch_elements(), |images, from, to, scratch| {
            kernel.run(cpu.isa(), images, from, &weight, &zeros, to, scratch);
        })
    }

    fn input(cpu: &Cpu, s: &Sizes, y: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self> {
        let (g, from) = (s.geometry(), s.gradient());
        let to = g.input.with_border(0);
        let kernel = ConvInputGrad::new(g, from, to);
        let weight = backward_weight(cpu, &PackedConv::new(&g), weight);
        let pass = Pass { x: y, from, to, many: g.takes_many(), bias };
        pass.run(cpu, kernel.scratch_elements(), |images, from, to, scratch| {
            kernel.run(cpu.isa(), images, from, &weight, to, false, scratch);
        })
    }

    fn weight(cpu: &Cpu, s: &Sizes, x: Batch<Self>, y: Batch<Self>) -> Vec<Self> {
        let g = s.geometry();
        let kernel = ConvWeightGrad::new(g, g.output);
        let (x_len, y_len, n) = (g.input.elements(), g.output.elements(), g.weight_elements());
        let part = s.batch.div_ceil(PARTS);
        let chunk = if g.takes_many() { part.min(MANY) } else { 1 };
        let mut sums = AlignedBuf::zeros(s.batch.div_ceil(part) * n);
        let buffers = || [x_len * chunk, y_len * chunk, kernel.scratch_elements()].map(AlignedBuf::zeros);
        share(cpu, &mut sums, n, buffers, |[xs, ys, scratch], i, sum| {
            let images = i * part..s.batch.min((i + 1) * part);
            for first in images.clone().step_by(chunk) {
                let count = chunk.min(images.end - first);
                for k in 0..count {
                    x.to_map(first + k, &g.input, &mut xs[k * x_len..][..x_len]);
                    y.to_map(first + k, &g.output, &mut ys[k * y_len..][..y_len]);
                }
                let layout = Images { count, from: x_len, to: y_len };
                kernel.run(cpu.isa(), layout, xs, ys, sum, first > images.start, scratch);
            }
        });

        let (total, others) = sums.split_at_mut(n);
        let others = &*others;
        share(
            cpu,
            total,
            SUM_ELEMENTS,
            || (),
            |(), i, total| {
                for other in others.chunks_exact(n) {
                    let other = &other[i * SUM_ELEMENTS..][..total.len()];
                    total.iter_mut().zip(other).for_each(|(total, v)| *total += v);
                }
            },
        );
        let mut weight = vec![0.0; s.weight().into_iter().product()];
        PackedConv::new(&g).for_each(|torch, packed| weight[torch] = total[packed]);
        weight
    }
}

/// A kernel's way through a batch.
struct Pass<'a> {
    x: Batch<'a, f32>,
    from: Map,
    to: Map,
    /// Whether the kernel takes several images.
    many: bool,
    bias: Option<&'a [f32]>,
}

impl Pass<'_> {
    /// Calls `kernel(images, from, to, scratch)` for all images, whose results are put together.
    fn run(
        &self,
        cpu: &Cpu,
        scratch: usize,
        kernel: impl Fn(Images, &[f32], &mut [f32], &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let (x, count) = (self.x, self.x.dims[0]);
        let (from_len, to_len) = (self.from.elements(), self.to.elements());
        let chunk = if self.many { count.min(MANY) } else { 1 };
        let image = self.to.channels * self.to.height * self.to.width;
        let mut all = vec![0.0; count * image];
        let buffers = || [from_len * chunk, to_len * chunk, scratch].map(AlignedBuf::zeros);
        share(cpu, &mut all, chunk * image, buffers, |[from, to, scratch], i, results| {
            let images = Images { count: results.len() / image, from: from_len, to: to_len };
            for k in 0..images.count {
                x.to_map(i * chunk + k, &self.from, &mut from[k * from_len..][..from_len]);
            }
            kernel(images, from, to, scratch);
            for (k, result) in results.chunks_exact_mut(image).enumerate() {
                from_map(&to[k * to_len..][..to_len], &self.to, self.bias, result);
            }
        });
        all
    }
}

/// The weight in the order that the forward pass reads.
fn forward_weight(cpu: &Cpu, packing: &PackedConv, weight: &[f32]) -> AlignedBuf {
    let mut packed = AlignedBuf::zeros(packing.elements());
    let to = &mut packed[..];
    packing.for_each(|torch, at| to[at] = weight[torch]);
    let Some((count, n)) = packing.forward_pieces() else { return packed };
    let mut copy = AlignedBuf::zeros(count * n);
    share(cpu, &mut copy, n, || (), |(), i, to| packing.forward_copy(cpu.isa(), &packed, i, to));
    copy
}

/// The weight in the order that the input gradient reads.
fn backward_weight(cpu: &Cpu, packing: &PackedConv, weight: &[f32]) -> AlignedBuf {
    let from = forward_weight(cpu, packing, weight);
    let (count, n) = packing.backward_pieces();
    let mut copy = AlignedBuf::zeros(count * n);
    share(cpu, &mut copy, n, || (), |(), i, to| packing.backward_copy(&from, i, to));
    copy
}

/// Calls `task(buffers, i, part)` for every part of `len` elements of `data`, shared among the threads, each of which has
/// buffers of its own. The locks only prove that; nobody waits for one.
fn share<B: Send>(
    cpu: &Cpu,
    data: &mut [f32],
    len: usize,
    buffers: impl Fn() -> B + Sync,
    task: impl Fn(&mut B, usize, &mut [f32]) + Sync,
) {
    let parts: Vec<Mutex<&mut [f32]>> = data.chunks_mut(len).map(Mutex::new).collect();
    let owned: Vec<Mutex<Option<B>>> = (0..cpu.threads()).map(|_| Mutex::new(None)).collect();
    cpu.share(parts.len(), |thread, i| {
        let mut owned = owned[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        task(owned.get_or_insert_with(&buffers), i, &mut part[..]);
    });
}
