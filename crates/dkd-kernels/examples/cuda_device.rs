//! Looks for a CUDA device and tries it: memory, a kernel, a recorded step, convolutions with their gradients and
//! with what follows them, and some of them on branches of a recorded step.
//!
//! ```text
//! cuda_device [LIBRARIES]
//! ```
//! LIBRARIES is a Python environment with NVIDIA's libraries, or a folder of them, where they are not the
//! system's.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use dkd_kernels::gpu::convolution::{Arithmetic, Convolution, Epilogue, Fused, Pass};
use dkd_kernels::gpu::pointwise::{Pointwise, pointwise};
use dkd_kernels::gpu::{Cuda, Element, GpuError, Machine, Result, TensorMachine, View};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let libraries = std::env::args_os().nth(1).map(PathBuf::from);
    match Cuda::new(0, libraries.as_deref()).and_then(|machine| tried(&machine)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn tried(machine: &Cuda) -> Result<()> {
    let (free, total) = machine.free_memory()?;
    println!("{}: {} of {} MB are free", machine.name(), free >> 20, total >> 20);
    written(machine)?;
    recorded(machine)?;
    for arithmetic in [Arithmetic::F32, Arithmetic::Tf32] {
        for groups in [1, 4] {
            convolved(machine, arithmetic, groups)?;
        }
        fused(machine, arithmetic)?;
    }
    branched(machine)?;
    let tensor = candle_core::Tensor::new(&[1.0_f32; 4], machine.device()).map_err(failed)?;
    let view = upload(machine, &[0.0; 4])?;
    machine.read_tensor(&tensor, &view)?;
    pointwise(machine, Pointwise::Add, &view, Some(&view), &view, false)?;
    machine.write_tensor(&view, &tensor)?;
    let values = tensor.to_vec1::<f32>().map_err(failed)?;
    same("a tensor", &values, &[2.0; 4], 0.0)
}

/// More than the memory that everything is written through, and less, in turns.
fn written(machine: &Cuda) -> Result<()> {
    let large: Vec<f32> = (0..6 << 20).map(|i| i as f32).collect();
    for round in 0..3 {
        let small = [round as f32, -1.0, 0.5];
        let [few, many] = [upload(machine, &small)?, upload(machine, &large)?];
        same("a few numbers", &download(machine, &few)?, &small, 0.0)?;
        same("many numbers", &download(machine, &many)?, &large, 0.0)?;
    }
    Ok(())
}

/// A kernel and a copy, recorded and replayed.
fn recorded(machine: &Cuda) -> Result<()> {
    let [x, y] = [upload(machine, &[1.0, -2.0])?, upload(machine, &[10.0, 20.0])?];
    let record = machine.record(&mut || {
        pointwise(machine, Pointwise::Relu, &x, None, &y, true)?;
        machine.copy(&y, &x)
    })?;
    same("before the replay", &download(machine, &y)?, &[10.0, 20.0], 0.0)?;
    for want in [[11.0, 20.0], [22.0, 40.0]] {
        record.replay()?;
        same("after a replay", &download(machine, &x)?, &want, 0.0)?;
    }
    let refused = machine.record(&mut || machine.wait());
    match refused {
        Err(GpuError::Recording(_)) => machine.wait(),
        _ => Err(wrong("a wait was recorded".to_owned())),
    }
}

/// A convolution is linear in both operands: each gradient times its operand is the output times its
/// gradient.
fn convolved(machine: &Cuda, arithmetic: Arithmetic, groups: usize) -> Result<()> {
    let c = Convolution {
        images: 8,
        input: (9, 8, 16),
        output: (5, 4, 32),
        kernel: (3, 3),
        stride: (2, 2),
        padding: (1, 1),
        groups,
        arithmetic,
    };
    let values = c.lengths().map(|n| (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>());
    let [x, w, g] =
        [upload(machine, &values[0])?, upload(machine, &values[1])?, upload(machine, &values[2])?];
    let zeros = |i: usize| upload(machine, &vec![0.0; values[i].len()]);
    let [gx, gw, y] = [zeros(0)?, zeros(1)?, zeros(2)?];
    c.run(machine, Pass::Forward, [&x, &w, &y], false)?;
    c.run(machine, Pass::InputGradient, [&gx, &w, &g], true)?;
    c.run(machine, Pass::WeightGradient, [&x, &gw, &g], false)?;
    let dot = |view: &View, i: usize| -> Result<f32> {
        let all = download(machine, view)?;
        Ok(all.iter().zip(&values[i]).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32)
    };
    let got = [dot(&gx, 0)?, dot(&gw, 1)?];
    let want = dot(&y, 2)?;
    println!("{arithmetic:?}, {groups} groups: {want}, {}, {}", got[0], got[1]);
    let tolerance = if arithmetic == Arithmetic::F32 { 1e-4 } else { 1e-2 };
    same("gradients", &got, &[want, want], tolerance * want.abs().max(1.0))
}

/// A convolution with what follows it is both apart, where there is one.
fn fused(machine: &Cuda, arithmetic: Arithmetic) -> Result<()> {
    const CHANNELS: usize = 32;
    let c = Convolution {
        images: 8,
        input: (8, 8, 16),
        output: (8, 8, CHANNELS),
        kernel: (3, 3),
        stride: (1, 1),
        padding: (1, 1),
        groups: 1,
        arithmetic,
    };
    let values = |n: usize, step: usize| -> Vec<f32> {
        (0..n).map(|i| (i * step % 101) as f32 / 50.0 - 1.0).collect()
    };
    let [nx, nw, ny] = c.lengths();
    let (scales, shifts, added) = (values(CHANNELS, 17), values(CHANNELS, 19), values(ny, 43));
    let [x, w, scale, shift, addend, apart, in_one] =
        [&values(nx, 37), &values(nw, 41), &scales, &shifts, &added, &vec![0.0; ny], &vec![0.0; ny]]
            .map(|values| upload(machine, values));
    let (x, w, scale, shift, addend) = (x?, w?, scale?, shift?, addend?);
    let (apart, in_one) = (apart?, in_one?);
    c.run(machine, Pass::Forward, [&x, &w, &apart], false)?;
    let sums = download(machine, &apart)?;
    for (is_added, relu) in [(false, false), (false, true), (true, true)] {
        let epilogue = Epilogue { addend: is_added, relu };
        if !machine.prepare_fused(&c, epilogue)? {
            println!("{arithmetic:?}, {epilogue}: apart");
            continue;
        }
        let engine = machine.fused_algorithm(&c, epilogue).unwrap_or_default();
        println!("{arithmetic:?}, {epilogue}: {engine}");
        let (operands, addend) = ([&x, &w, &in_one], is_added.then_some(&addend));
        c.run_fused(machine, &Fused { operands, scale: &scale, shift: &shift, addend }, relu)?;
        let y = |i: usize| {
            let y = sums[i] * scales[i % CHANNELS] + shifts[i % CHANNELS];
            let y = y + if is_added { added[i] } else { 0.0 };
            if relu { y.max(0.0) } else { y }
        };
        let want: Vec<f32> = (0..ny).map(y).collect();
        let largest = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        let got = download(machine, &in_one)?;
        same("a convolution with what follows", &got, &want, 1e-3 * largest)?;
        // On branches, each of which has a stream, and a library's handle, of its own.
        let outputs = [upload(machine, &vec![0.0; ny])?, upload(machine, &vec![0.0; ny])?];
        machine.prepare_branches(outputs.len())?;
        let record = machine.record(&mut || {
            machine.branches(outputs.len(), &mut |i| {
                let operands = [&x, &w, &outputs[i]];
                c.run_fused(machine, &Fused { operands, scale: &scale, shift: &shift, addend }, relu)
            })
        })?;
        record.replay()?;
        for output in &outputs {
            same("the same on a branch", &download(machine, output)?, &got, 0.0)?;
        }
    }
    Ok(())
}

/// Convolutions on branches are those that follow each other.
fn branched(machine: &Cuda) -> Result<()> {
    const BRANCHES: usize = 19;
    let c = Convolution {
        images: 8,
        input: (8, 8, 16),
        output: (8, 8, 16),
        kernel: (3, 3),
        stride: (1, 1),
        padding: (1, 1),
        groups: 1,
        arithmetic: Arithmetic::F32,
    };
    let numbers = |n: usize, i: usize| -> Vec<f32> {
        (0..n).map(|k| (k * (37 + 2 * i) % 101) as f32 / 50.0 - 1.0).collect()
    };
    let operands = |i: usize| -> Result<[View; 3]> {
        let [x, w, y] = c.lengths();
        Ok([
            upload(machine, &numbers(x, i))?,
            upload(machine, &numbers(w, i + 1))?,
            upload(machine, &vec![0.0; y])?,
        ])
    };
    let all = (0..BRANCHES).map(operands).collect::<Result<Vec<_>>>()?;
    let run = |[x, w, y]: &[View; 3]| {
        c.run(machine, Pass::Forward, [x, w, y], false)?;
        pointwise(machine, Pointwise::Relu, y, None, y, false)?;
        c.run(machine, Pass::InputGradient, [x, w, y], true)?;
        c.run(machine, Pass::WeightGradient, [x, w, y], false)
    };
    for pass in [Pass::Forward, Pass::InputGradient, Pass::WeightGradient] {
        machine.prepare(pass, &c)?;
    }
    machine.prepare_branches(BRANCHES)?;
    let record = machine.record(&mut || machine.branches(BRANCHES, &mut |i| run(&all[i])))?;
    record.replay()?;
    for (i, got) in all.iter().enumerate() {
        let want = operands(i)?;
        run(&want)?;
        for (got, want) in got.iter().zip(&want) {
            same("a branch", &download(machine, got)?, &download(machine, want)?, 0.0)?;
        }
    }
    let failed = machine.record(&mut || {
        machine.branches(BRANCHES, &mut |i| if i == 3 { machine.wait() } else { run(&all[i]) })
    });
    match failed {
        Err(GpuError::Recording(_)) => machine.wait(),
        _ => Err(wrong("a wait was recorded in a branch".to_owned())),
    }
}

fn upload(machine: &Cuda, values: &[f32]) -> Result<View> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = machine.alloc(bytes.len())?.view(Element::F32, 0, values.len())?;
    machine.write(&view, &bytes)?;
    Ok(view)
}

fn download(machine: &Cuda, view: &View) -> Result<Vec<f32>> {
    let mut bytes = vec![0; view.bytes()];
    machine.read(view, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn same(what: &str, got: &[f32], want: &[f32], tolerance: f32) -> Result<()> {
    let far = got.iter().zip(want).position(|(g, w)| (g - w).is_nan() || (g - w).abs() > tolerance);
    far.map_or(Ok(()), |i| Err(wrong(format!("{what}, number {i}: {} instead of {}", got[i], want[i]))))
}

fn wrong(message: String) -> GpuError {
    GpuError::Shape { operation: "cuda_device", message }
}

fn failed(e: candle_core::Error) -> GpuError {
    wrong(e.to_string())
}
