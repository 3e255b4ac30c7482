//! GFLOP/s of the convolution kernels on one core, per shape: `cargo run --release -p dkd-kernels --example conv_speed`.
#![allow(clippy::print_stdout)]
use dkd_kernels::conv2d::{
    ConvForward, ConvGeometry, ConvInputGrad, ConvWeightGrad, GroupedConv, Images, PackedConv,
};
use dkd_kernels::{Isa, Map};
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    (0..12)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn fill(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i % 97) as f32 * 0.01).collect()
}

fn main() {
    let isa = Isa::detect().expect("an instruction set");
    let peak = dkd_kernels::fma_peak(&dkd_kernels::Cpu::with_isa(1, isa));
    println!(
        "{isa}: multiply-add peak {peak:.0} GFLOP/s; GFLOP/s of forward, input gradient, weight gradient,\n\
         in multiplications of the direct sum: beyond the peak where Winograd needs fewer"
    );
    for (n, ci, co, k, s, p) in [
        (32, 3, 16, 3, 1, 1),
        (32, 16, 16, 3, 1, 1),
        (32, 16, 32, 3, 2, 1),
        (16, 32, 32, 3, 1, 1),
        (16, 32, 64, 3, 2, 1),
        (8, 64, 64, 3, 1, 1),
        (32, 16, 32, 1, 2, 0),
        (32, 3, 32, 3, 1, 0),
        (29, 32, 64, 3, 1, 0),
        (32, 64, 64, 3, 1, 1),
        (16, 128, 128, 3, 1, 1),
        (8, 256, 256, 3, 1, 1),
        (4, 512, 512, 3, 1, 1),
        (8, 512, 512, 3, 1, 1),
        (8, 512, 512, 3, 2, 1),
        (32, 64, 256, 1, 1, 0),
        (32, 256, 64, 1, 1, 0),
        (16, 512, 128, 1, 1, 0),
        (8, 256, 1024, 1, 1, 0),
        (8, 1024, 256, 1, 1, 0),
        (4, 512, 2048, 1, 1, 0),
        (4, 2048, 512, 1, 1, 0),
        (2, 160, 640, 1, 1, 0),
        (16, 58, 58, 1, 1, 0),
        (8, 116, 116, 1, 1, 0),
        (4, 232, 232, 1, 1, 0),
    ] {
        let out = (n + 2 * p - k) / s + 1;
        let input = if ci == 3 { Map::dense(n, n, ci, p) } else { Map::new(n, n, ci, p) };
        let g = ConvGeometry {
            input,
            output: Map::new(out, out, co, 0),
            kernel: (k, k),
            stride: (s, s),
            padding: (p, p),
        };
        let images = 16;
        let gm = g.output.with_border(g.gradient_border());
        let dxl = Map::new(n, n, ci, 0);
        let (x, dy) = (fill(images * g.input.elements()), fill(images * gm.elements()));
        let (mut y, mut dx) = (fill(images * g.output.elements()), fill(images * dxl.elements()));
        let packing = PackedConv::new(&g);
        let (pieces, size) = packing.backward_pieces();
        let w = fill(packing.forward_pieces().map_or(g.weight_elements(), |(pieces, size)| pieces * size));
        let wt = fill(pieces * size);
        let bias = vec![0.0; g.output_blocks() * 16];
        let mut dw = fill(g.weight_elements());
        let flop = 2.0 * (g.macs() * images) as f64 / 1e9;
        let (f, i, b) = (ConvForward::new(g), ConvInputGrad::new(g, gm, dxl), ConvWeightGrad::new(g, gm));
        let scratch = [f.scratch_elements(), i.scratch_elements(), b.scratch_elements()];
        let mut memory = fill(scratch.into_iter().max().unwrap_or(0));
        // As the engine does: all images at once where that pays, else one after the other.
        let many = |from: &Map, to: &Map| Images { count: images, from: from.elements(), to: to.elements() };
        let calls = |all: Images| {
            let each = (0..images).map(move |k| (Images { count: 1, ..all }, k * all.from, k * all.to));
            if g.takes_many() { vec![(all, 0, 0)] } else { each.collect() }
        };
        let forward = best(|| {
            for (images, from, to) in calls(many(&g.input, &g.output)) {
                f.run(isa, images, &x[from..], &w, &bias, &mut y[to..], &mut memory);
            }
        });
        let input = best(|| {
            for (images, from, to) in calls(many(&gm, &dxl)) {
                i.run(isa, images, &dy[from..], &wt, &mut dx[to..], false, &mut memory);
            }
        });
        let weight = best(|| {
            for (images, from, to) in calls(many(&g.input, &gm)) {
                b.run(isa, images, &x[from..], &dy[to..], &mut dw, from > 0, &mut memory);
            }
        });
        println!(
            "{n:2}x{n:<2} {ci:4}->{co:<4} k{k} s{s}: {:6.1} {:6.1} {:6.1}",
            flop / forward,
            flop / input,
            flop / weight
        );
    }
    println!("grouped:");
    for (n, ci, co, groups, k, s) in [
        (16, 240, 60, 3, 1, 1),
        (16, 60, 240, 3, 1, 1),
        (8, 480, 120, 3, 1, 1),
        (8, 120, 480, 3, 1, 1),
        (4, 960, 240, 3, 1, 1),
        (4, 240, 960, 3, 1, 1),
        (16, 96, 96, 8, 3, 1),
        (16, 96, 96, 96, 3, 1),
        (32, 96, 96, 96, 3, 2),
        (8, 96, 96, 96, 3, 1),
    ] {
        let p = k / 2;
        let out = (n + 2 * p - k) / s + 1;
        let (input, output) = (Map::new(n, n, ci, p), Map::new(out, out, co, 0));
        let g = ConvGeometry { input, output, kernel: (k, k), stride: (s, s), padding: (p, p) };
        let gm = g.output.with_border(g.gradient_border());
        let dxl = Map::new(n, n, ci, 0);
        let conv = GroupedConv::new(g, groups, gm, dxl);
        let images = 64;
        let (x, dy) = (fill(images * g.input.elements()), fill(images * gm.elements()));
        let (mut y, mut dx) = (fill(images * g.output.elements()), fill(images * dxl.elements()));
        let (w, mut dw) = (fill(conv.weight_elements()), fill(conv.weight_elements()));
        let wt = fill(conv.backward_elements().unwrap_or(w.len()));
        let bias = vec![0.0; g.output.stride];
        let flop = 2.0 * (g.macs() / groups * images) as f64 / 1e9;
        // Images that lie in the first caches, and images that do not: what a training step sees is between the two.
        let mut speeds = Vec::new();
        for apart in [0, 1] {
            let part = |map: &Map, k: usize| apart * k * map.elements()..(apart * k + 1) * map.elements();
            let forward = best(|| {
                for k in 0..images {
                    conv.forward(isa, &x[part(&input, k)], &w, &bias, &mut y[part(&output, k)]);
                }
            });
            let input_grad = best(|| {
                for k in 0..images {
                    conv.input_grad(isa, &dy[part(&gm, k)], &wt, &mut dx[part(&dxl, k)], false);
                }
            });
            let weight = best(|| {
                for k in 0..images {
                    conv.weight_grad(isa, &x[part(&input, k)], &dy[part(&gm, k)], &mut dw, true);
                }
            });
            speeds.extend([flop / forward, flop / input_grad, flop / weight]);
        }
        println!(
            "{n:2}x{n:<2} {ci:4}->{co:<4} {groups:3} groups k{k} s{s}: {:6.1} {:6.1} {:6.1}   apart: {:6.1} {:6.1} {:6.1}",
            speeds[0], speeds[1], speeds[2], speeds[3], speeds[4], speeds[5]
        );
    }
}
