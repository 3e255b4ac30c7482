//! Where a step's time goes: every convolution alone, and the whole.

use crate::bench::rates;
use crate::network::ready;
use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use crate::table::{OURS, STEP};
use anyhow::Result;
use dkd_engine::Mode;
use dkd_kernels::gpu::convolution::{Convolution, Pass};
use dkd_kernels::gpu::{Element, Machine, View, grouped, record};
use dkd_trainer::Arithmetic;
use std::collections::HashMap;

const PART: &str = "profile";
/// Of one convolution in a recorded row: so the host plays no part.
const ROW: usize = 10;

/// Takes a training step of each network apart.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    let batch = suite.sizes.batches.iter().copied().min().unwrap_or(1);
    for model in &suite.sizes.profile_models {
        for arithmetic in &suite.precisions {
            let case = format!("{model}, {batch}, {}", name_of(*arithmetic));
            report.attempt(PART, &case, |report| one(suite, model, batch, *arithmetic, report));
        }
    }
    Ok(())
}

fn one(suite: &Suite, model: &str, batch: usize, arithmetic: Arithmetic, report: &mut Report) -> Result<()> {
    let machine = &*suite.machine;
    let mut session = ready(&suite.machine, (model, 10), batch, arithmetic, 0)?;
    let step = record(machine, &mut || -> dkd_engine::Result<()> {
        session.run(Mode::Train, batch)?;
        session.run_backward()
    })?;
    let whole = rates::seconds(machine, suite.sizes.repeats, || Ok(step.replay()?))?;
    let mut counts: HashMap<(Pass, Convolution), usize> = HashMap::new();
    let mut order = Vec::new();
    for key in session.convolutions(batch)? {
        let count = counts.entry(key).or_default();
        *count += 1;
        if *count == 1 {
            order.push(key);
        }
    }
    let group = suite.group(&format!("{model}, {batch}"));
    let mut add = |what: &str, seconds: f64, count, note| {
        let case = format!("{what}, {}", name_of(arithmetic));
        report.add(Line { note, ..Line::time(PART, &group, &case, 1e6 * seconds, count) });
    };
    add(STEP, whole, 1, None);
    let mut of_all = 0.0;
    for (pass, convolution) in order {
        let (seconds, library) = alone(machine, pass, &convolution, suite.sizes.repeats)?;
        let count = counts[&(pass, convolution)];
        of_all += seconds * count as f64;
        let by = if library { machine.algorithm(pass, &convolution) } else { Some(OURS.to_owned()) };
        add(&short(pass, &convolution), seconds, count, by);
    }
    add("all convolutions", of_all, 1, None);
    Ok(())
}

/// A convolution in few characters: kernel, channels, size of the input, stride, pass.
fn short(pass: Pass, c: &Convolution) -> String {
    let stride = if c.stride == (1, 1) { String::new() } else { format!("/{}", c.stride.0) };
    let what = match pass {
        Pass::Forward => "forward",
        Pass::InputGradient => "input",
        Pass::WeightGradient => "weights",
    };
    let ((rows, columns), (height, width, inputs), outputs) = (c.kernel, c.input, c.output.2);
    format!("{rows}x{columns} {inputs}>{outputs} {height}x{width}{stride} {what}")
}

/// Seconds of one pass, and whether the machine's library computes it.
fn alone(
    machine: &dyn Machine,
    pass: Pass,
    convolution: &Convolution,
    repeats: usize,
) -> Result<(f64, bool)> {
    let library = machine.prepare(pass, convolution)?;
    let element = convolution.arithmetic.element();
    let operand = |(key, len): (usize, usize)| -> Result<View> {
        let view = machine.zeros(element, len)?;
        machine.write(&view, &rates::numbers(len, element, key as u64))?;
        Ok(view)
    };
    let lengths = convolution.lengths();
    let [x, w, y] = [operand((0, lengths[0]))?, operand((1, lengths[1]))?, operand((2, lengths[2]))?];
    // Ours gives gradients of weights in f32.
    let gradient = machine.zeros(Element::F32, lengths[1])?;
    let scratch = machine.zeros(Element::F32, grouped::scratch_len(convolution)?)?;
    let row = record(machine, &mut || -> dkd_kernels::gpu::Result<()> {
        for _ in 0..ROW {
            if library {
                convolution.run(machine, pass, [&x, &w, &y], false)?;
            } else {
                let weights = pass == Pass::WeightGradient;
                let w = if weights { &gradient } else { &w };
                grouped::run(machine, pass, convolution, [&x, w, &y], false, weights.then_some(&scratch))?;
            }
        }
        Ok(())
    })?;
    Ok((rates::seconds(machine, repeats, || Ok(row.replay()?))? / ROW as f64, library))
}
