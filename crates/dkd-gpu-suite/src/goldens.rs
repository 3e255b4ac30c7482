//! Networks on the device against PyTorch's reference values.

use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use anyhow::{Result, anyhow};
use candle_core::Device;
use dkd_engine::gpu::GpuSession;
use dkd_models::golden::{Golden, Tolerances, compare, read};
use dkd_trainer::Arithmetic;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PART: &str = "goldens";
/// What looking for neighbours may take for a network: each is a step that is not recorded, with all its gradients read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs every reference in every precision.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    let (goldens, others) = read(&suite.goldens).map_err(|e| anyhow!("{e}"))?;
    if !others.is_empty() {
        report.say(&format!("{PART}: not in the registry: {}", others.join(", ")));
    }
    for golden in goldens.iter().filter(|golden| suite.wants(&golden.name)) {
        for arithmetic in &suite.precisions {
            let case = format!("{}, {}", golden.name, name_of(*arithmetic));
            report.attempt(PART, &case, |report| one(suite, golden, *arithmetic, report));
        }
    }
    Ok(())
}

fn one(suite: &Suite, golden: &Golden, arithmetic: Arithmetic, report: &mut Report) -> Result<()> {
    let graph = golden.graph()?;
    let (options, machine) = (golden.options(&graph), Arc::clone(&suite.machine));
    let mut session = GpuSession::new(graph, machine, options, arithmetic, &Device::Cpu)?;
    let allowed = tolerances(golden, arithmetic);
    // Signs differ in many places with coarser numbers: there no neighbour has them all as the reference has.
    let neighbours = if arithmetic == Arithmetic::F32 { suite.sizes.neighbours } else { 0 };
    let mut run =
        |neighbours| compare(golden, &mut session, &allowed, neighbours).map_err(|e| anyhow!("{e}"));
    let mut outcome = run(0)?;
    let begin = Instant::now();
    // It begins anew each time, so the next one, of three times as many, is not begun where it would take too long.
    for some in [1, 3, neighbours].into_iter().filter(|some| *some <= neighbours) {
        let last = Instant::now();
        if outcome.worst.gradient <= allowed.gradient || neighbours == 0 {
            break;
        }
        outcome = run(some)?;
        if begin.elapsed() + 3 * last.elapsed() > PATIENCE {
            break;
        }
    }
    let name = name_of(arithmetic);
    let found = outcome.worst;
    for (what, value, bound) in [
        ("eval", found.eval, allowed.eval),
        ("train", found.train, allowed.train),
        ("gradients", found.gradient, allowed.gradient),
    ] {
        let mut line = Line::difference(PART, &format!("{name} {what}"), &golden.name, value, bound);
        let neighbour = outcome.neighbour.filter(|_| what == "gradients");
        line.note = neighbour.map(|i| format!("of neighbouring input {i}"));
        report.add(line);
    }
    for difference in outcome.differences.iter().take(5) {
        report.say(&format!("  {difference}"));
    }
    Ok(())
}

/// In f32 those of the test on the CPU. In the others they grow as the numbers are coarser, since a network that makes much of the
/// rounding in f32 makes as much of any other; they are never below a floor, since signs before a ReLU fall differently.
/// Where nothing could be told any more, only finite values are asked for.
fn tolerances(golden: &Golden, arithmetic: Arithmetic) -> Tolerances {
    let exact = golden.tolerances();
    // The unit of rounding, relative to that of f32; floors of values and of gradients.
    let (units, value, gradient) = match arithmetic {
        Arithmetic::F32 => return exact,
        Arithmetic::Tf32 => (8192.0, 1e-2, 0.1),
        Arithmetic::Bf16 => (65536.0, 0.1, 0.5),
    };
    let rule = |exact: f64, floor: f64| {
        // An f32 tolerance of 1e-5 is a floor itself.
        let grown = if exact > 1e-5 { exact * units } else { 0.0 };
        if grown > 1.0 { f64::MAX } else { grown.max(floor) }
    };
    Tolerances {
        eval: rule(exact.eval, value),
        train: rule(exact.train, value),
        gradient: rule(exact.gradient, gradient),
    }
}
