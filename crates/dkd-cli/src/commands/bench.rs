//! `dkd bench`.

use super::cpu;
use crate::args::{BenchArgs, BenchMode, Common};
use crate::output;
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use dkd_engine::{DropoutKey, Graph, Mode, Op, SessionOptions};
use dkd_kernels::rng::{Purpose, Stream};
use dkd_losses::cross_entropy;
use dkd_models::ModelOptions;
use dkd_trainer::{EngineNetwork, Network, Sgd, SgdRecipe};
use serde_json::json;
use std::time::Instant;

/// Measures training or inference, and the peak of the same machine in the same run.
pub fn bench(args: &BenchArgs, common: &Common) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds.is_finite()) {
        bail!("--seconds is {}, expected a number above 0", args.seconds);
    }
    let cpu = cpu(common)?;
    let graph = dkd_models::build(&args.model, &ModelOptions::new(args.classes))?;
    let flops = flops(&graph, args.mode) * args.batch as f64;
    let train = args.mode == BenchMode::Train;
    let options = SessionOptions { max_batch: args.batch, train, taps: Vec::new() };
    let mut network = EngineNetwork::new(graph, &cpu, options, 0)?;
    let recipe = SgdRecipe { lr: 1e-3, momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 5e-4 };
    let mut sgd = Sgd::new(recipe, std::sync::Arc::clone(&cpu));
    let (images, labels) = batch(args)?;
    let mut step = |step: u64| -> Result<()> {
        let key = DropoutKey { step, ..DropoutKey::default() };
        if !train {
            return Ok(network.forward(&images, Mode::Eval, key)?);
        }
        network.forward(&images, Mode::Train, key)?;
        let store = cross_entropy(&network.logits()?, &labels, 0.0)?.backward()?;
        network.backward(&store)?;
        network.update(&mut |weights, gradients| sgd.step(recipe.lr, 1.0, weights, gradients));
        Ok(())
    };
    for warm in 0..3 {
        step(warm)?;
    }
    let before = dkd_kernels::fma_peak(&cpu);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed().as_secs_f64() < args.seconds {
        let begin = Instant::now();
        step(times.len() as u64 + 3)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    let peak = before.max(dkd_kernels::fma_peak(&cpu));
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (rate, gflops, bytes) = (args.batch as f64 / median, flops / median / 1e9, peak_bytes());
    let mode = if train { "train" } else { "infer" };
    if args.json {
        return output::json(&json!({
            "model": args.model, "mode": mode, "batch": args.batch, "classes": args.classes, "threads": cpu.threads(),
            "isa": cpu.isa().to_string(), "version": env!("CARGO_PKG_VERSION"), "steps": times.len(),
            "images_per_s": rate, "fastest_images_per_s": args.batch as f64 / times[0], "gflops": gflops,
            "peak_gflops": peak, "peak_fraction": gflops / peak, "peak_bytes": bytes,
            "measured": "median step: forward, cross-entropy, backward, SGD with momentum (train) or forward (infer); \
                operations are those of direct convolutions, so that peak_fraction can exceed 1 where fewer are needed",
        }));
    }
    let memory = bytes.map_or_else(String::new, |b| format!(", {} MB at most", b / 1_000_000));
    output::line(&format!(
        "{} {mode}, batch {}: {rate:.0} img/s, {gflops:.1} GFLOP/s = {:.0} % of the measured peak{memory} ({}, {} threads)",
        args.model,
        args.batch,
        100.0 * gflops / peak,
        cpu.isa(),
        cpu.threads()
    ))
}

/// Floating-point operations for one image, as direct convolutions need them: the common measure of work, whichever way
/// it is done. (3x3 convolutions by Winograd's method take 36 multiplications for every 144 of these, or 16 for 36.) Training is three
/// times the forward pass, less the gradient of the image itself, which nobody needs.
fn flops(graph: &Graph, mode: BenchMode) -> f64 {
    let forward = 2.0 * graph.macs() as f64;
    if mode == BenchMode::Infer {
        return forward;
    }
    let on_image = graph.nodes().iter().enumerate().filter(|(_, n)| {
        matches!(n.op, Op::Conv2d(_) | Op::Linear(_)) && n.inputs.iter().any(|i| i.index() == 0)
    });
    3.0 * forward - on_image.map(|(i, _)| 2.0 * graph.node_macs(i) as f64).sum::<f64>()
}

/// Random images, stored with channels innermost, and labels.
fn batch(args: &BenchArgs) -> Result<(Tensor, Tensor)> {
    let stream = Stream::new(1, Purpose::Other, 0, 0);
    let pixels: Vec<f32> = (0..(args.batch * 32 * 32 * 3) as u64).map(|i| stream.normal(i)).collect();
    let images = Tensor::from_vec(pixels, (args.batch, 32, 32, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?;
    let labels: Vec<u32> = (0..args.batch as u32).map(|i| i % args.classes as u32).collect();
    Ok((images, Tensor::from_vec(labels, args.batch, &Device::Cpu)?))
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
