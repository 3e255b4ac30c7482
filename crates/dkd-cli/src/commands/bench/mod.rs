//! `dkd bench`.

mod device;

use crate::args::{BenchArgs, BenchMode, Common};
use crate::compute::compute;
use crate::output::{self, columns, shorten};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use dkd_engine::{DropoutKey, Graph, Mode, Op, Pass, Precision, StepTime};
use dkd_kernels::Cpu;
use dkd_kernels::rng::{Purpose, Stream};
use dkd_losses::cross_entropy;
use dkd_models::ModelOptions;
use dkd_trainer::{EngineNetwork, Gpu, Network, Sgd, SgdRecipe};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Measures training or inference, and the peak of the same machine in the same run.
pub fn bench(args: &BenchArgs, common: &Common) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds.is_finite()) {
        bail!("--seconds is {}, expected a number above 0", args.seconds);
    }
    let compute = compute(common)?;
    let graph = dkd_models::build(
        &args.model,
        &ModelOptions { image: args.image, ..ModelOptions::new(args.classes) },
    )?;
    let flops = flops(&graph, args.mode) * args.batch as f64;
    let train = args.mode == BenchMode::Train;
    let recipe = SgdRecipe { lr: 1e-3, momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 5e-4 };
    if let Some(gpu) = &compute.gpu {
        if args.profile {
            bail!(
                "--profile measures the CPU's steps; on a GPU NVIDIA's profilers show every kernel by its name"
            );
        }
        return on_device(args, gpu, flops, &device::measure(args, gpu, graph, recipe)?);
    }
    let cpu = &compute.cpu;
    let options = compute.options(args.batch, train, Vec::new());
    let mut network = EngineNetwork::new(graph, cpu, options, 0)?;
    let mut sgd = Sgd::new(recipe, Arc::clone(cpu));
    let (images, labels) = batch(args)?;
    let mut step = |network: &mut EngineNetwork, step: u64| -> Result<()> {
        let key = DropoutKey { step, ..DropoutKey::default() };
        if !train {
            return Ok(network.forward(&images, Mode::Eval, key)?);
        }
        network.forward(&images, Mode::Train, key)?;
        let store = cross_entropy(&network.logits()?, &labels, 0.0)?.backward()?;
        network.backward(&store)?;
        network.update(&mut |weights, gradients| sgd.step(recipe.lr, 1.0, weights, gradients))?;
        Ok(())
    };
    let traffic = network.session().traffic(if train { Mode::Train } else { Mode::Eval })?;
    for warm in 0..3 {
        step(&mut network, warm)?;
    }
    if args.profile {
        return profile(args, common, &mut network, step, cpu);
    }
    let before = dkd_kernels::fma_peak(cpu);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed().as_secs_f64() < args.seconds {
        let begin = Instant::now();
        step(&mut network, times.len() as u64 + 3)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    let peak = before.max(dkd_kernels::fma_peak(cpu));
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (rate, gflops, bytes) = (args.batch as f64 / median, flops / median / 1e9, peak_bytes());
    let gb_per_s = rate * traffic / 1e9;
    let mode = if train { "train" } else { "infer" };
    if args.json {
        return output::json(&json!({
            "model": args.model, "mode": mode, "batch": args.batch, "classes": args.classes, "threads": cpu.threads(),
            "isa": cpu.isa().to_string(), "precision": common.precision, "version": env!("CARGO_PKG_VERSION"), "steps": times.len(),
            "images_per_s": rate, "fastest_images_per_s": args.batch as f64 / times[0], "gflops": gflops,
            "peak_gflops": peak, "peak_fraction": gflops / peak, "gb_per_s": gb_per_s, "peak_bytes": bytes,
            "measured": "median step: forward, cross-entropy, backward, SGD with momentum (train) or forward (infer); \
                operations are those of direct convolutions, so that peak_fraction can exceed 1 where fewer are needed; bytes are \
                those of the maps that planned steps read and write, in f32, wherever they are",
        }));
    }
    let as_f32 = if compute.precision == Precision::F32 { "" } else { " as f32" };
    let memory = bytes.map_or_else(String::new, |b| format!(", {} MB at most", b / 1_000_000));
    output::line(&format!(
        "{} {mode}, batch {}: {rate:.0} img/s, {gflops:.1} GFLOP/s = {:.0} % of the measured peak, \
         {gb_per_s:.1} GB/s{as_f32}{memory} ({}, {} threads)",
        args.model,
        args.batch,
        100.0 * gflops / peak,
        cpu.isa(),
        cpu.threads()
    ))
}

/// Says what a device took.
fn on_device(args: &BenchArgs, gpu: &Gpu, flops: f64, measured: &device::Measured) -> Result<()> {
    let mut times = measured.seconds.clone();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (rate, gflops) = (args.batch as f64 / median, flops / median / 1e9);
    let mode = if args.mode == BenchMode::Train { "train" } else { "infer" };
    if args.json {
        return output::json(&json!({
            "model": args.model, "mode": mode, "batch": args.batch, "classes": args.classes, "device": gpu.to_string(),
            "version": env!("CARGO_PKG_VERSION"), "images_per_s": rate, "fastest_images_per_s": args.batch as f64 / times[0],
            "gflops": gflops, "device_bytes": measured.bytes,
            "measured": "median step, recorded and replayed: forward, cross-entropy, backward, SGD with momentum (train) or forward \
                (infer); operations are those of direct convolutions",
        }));
    }
    output::line(&format!(
        "{} {mode}, batch {}: {rate:.0} img/s, {gflops:.0} GFLOP/s, {} MB ({gpu})",
        args.model,
        args.batch,
        measured.bytes / 1_000_000
    ))
}

/// Measures every planned step.
fn profile(
    args: &BenchArgs,
    common: &Common,
    network: &mut EngineNetwork,
    mut step: impl FnMut(&mut EngineNetwork, u64) -> Result<()>,
    cpu: &Cpu,
) -> Result<()> {
    network.session().measure(true);
    let (start, mut steps) = (Instant::now(), 0_u64);
    while steps < 3 || start.elapsed().as_secs_f64() < args.seconds {
        step(network, steps + 3)?;
        steps += 1;
    }
    let wall = start.elapsed().as_secs_f64() / steps as f64;
    let peak = dkd_kernels::fma_peak(cpu);
    let threads = cpu.threads() as f64;
    let mut times = network.session().measured();
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let pass = |p| if p == Pass::Forward { "forward" } else { "backward" };
    // Of the time that all threads together had.
    let share = |t: &StepTime| t.seconds / (wall * steps as f64 * threads);
    let measured: f64 = times.iter().map(share).sum();
    if args.json {
        let object = |t: &StepTime| {
            json!({
                "pass": pass(t.pass), "operation": t.operation, "layer": t.layer, "share": share(t),
                "ms": 1e3 * t.seconds / steps as f64, "gflops": t.flops / t.seconds / 1e9,
                "gb_per_s": t.bytes / t.seconds / 1e9,
            })
        };
        return output::json(&json!({
            "model": args.model, "batch": args.batch, "threads": cpu.threads(), "isa": cpu.isa().to_string(),
            "precision": common.precision,
            "steps": steps, "images_per_s": args.batch as f64 / wall, "peak_gflops": peak, "measured_share": measured,
            "profile": times.iter().map(object).collect::<Vec<_>>(),
            "measured": "time of each planned step, all threads added; rates are for one thread",
        }));
    }
    let head = ["pass", "operation", "layer", "share", "ms", "GFLOP/s", "GB/s"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for t in &times {
        let rate = |n: f64| if n > 0.0 { format!("{:.1}", n / t.seconds / 1e9) } else { String::new() };
        rows.push(vec![
            pass(t.pass).to_owned(),
            shorten(&t.operation, 26),
            shorten(&t.layer, 18),
            format!("{:.1} %", 100.0 * share(t)),
            format!("{:.2}", 1e3 * t.seconds / steps as f64),
            rate(t.flops),
            rate(t.bytes),
        ]);
    }
    output::text(&format!(
        "{}, batch {}, {} threads, {}: {:.0} img/s, peak {:.0} GFLOP/s a thread\n\n{}\n{:.1} % of the threads' time is in these steps;\nthe rest \
         is waiting, loss and optimizer. Rates are for one thread.\n",
        args.model,
        args.batch,
        cpu.threads(),
        cpu.isa(),
        args.batch as f64 / wall,
        peak / threads,
        columns(&rows, 3),
        100.0 * measured
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
    let (c, h, w) = args.image;
    let pixels: Vec<f32> = (0..(args.batch * h * w * c) as u64).map(|i| stream.normal(i)).collect();
    let images = Tensor::from_vec(pixels, (args.batch, h, w, c), &Device::Cpu)?.permute((0, 3, 1, 2))?;
    let labels: Vec<u32> = (0..args.batch as u32).map(|i| i % args.classes as u32).collect();
    Ok((images, Tensor::from_vec(labels, args.batch, &Device::Cpu)?))
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
