//! Where a step's time goes: every convolution alone, and the whole.

use crate::bench::rates;
use crate::network::ready;
use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use anyhow::Result;
use dkd_engine::Mode;
use dkd_kernels::gpu::convolution::{Convolution, Pass};
use dkd_kernels::gpu::{Element, Machine, View, grouped, record};
use dkd_trainer::Arithmetic;
use std::collections::HashMap;

const PART: &str = "profile";
/// Convolutions that are told of each network.
const TOLD: usize = 12;
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

/// One of a network's convolutions.
struct Measured {
    pass: Pass,
    convolution: Convolution,
    count: usize,
    seconds: f64,
    /// Whether the machine's library computes it.
    library: bool,
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
    let measure = |(pass, convolution): (Pass, Convolution)| -> Result<Measured> {
        let (seconds, library) = alone(machine, pass, &convolution, suite.sizes.repeats)?;
        let count = counts[&(pass, convolution)];
        Ok(Measured { pass, convolution, count, seconds, library })
    };
    let mut all = order.into_iter().map(measure).collect::<Result<Vec<_>>>()?;
    all.sort_by(|a, b| (b.seconds * b.count as f64).total_cmp(&(a.seconds * a.count as f64)));
    let of_all: f64 = all.iter().map(|m| m.seconds * m.count as f64).sum();
    let name = format!("{model}, {batch}");
    report.say(&format!(
        "{PART}: {name}, {}: {:.0} us a step; its convolutions alone, one after the other: {:.0} us",
        name_of(arithmetic),
        1e6 * whole,
        1e6 * of_all
    ));
    for m in all.iter().take(TOLD) {
        let own = if m.library { "" } else { ", a kernel of ours" };
        let us = 1e6 * m.seconds;
        report.say(&format!("  {:>2} x {us:>7.1} us  {}: {}{own}", m.count, m.pass, m.convolution));
    }
    let case = format!("{name}, {}", name_of(arithmetic));
    report.add(Line::rate(PART, &name, &case, 1e6 * whole, None, "us"));
    Ok(())
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
    let repeats = repeats.div_ceil(ROW);
    Ok((rates::seconds(machine, repeats, || Ok(row.replay()?))? / ROW as f64, library))
}
