//! A student of KD on the device and on the CPU, step by step, and three times on the device, bit by bit.

use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use crate::training::{SEED, images, quoted, recipe, train, untrained};
use anyhow::{Context, Result};
use dkd_datasets::Dataset;
use dkd_trainer::{Arithmetic, Compute, Event, Gpu, Recipe, Sink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const PART: &str = "curves";
const MODEL: &str = "resnet8";
const ROW: &str = "row";
const LR: f64 = 0.05;

/// How many steps are looked at, and what the largest difference of a loss up to there may be, relative to the loss.
///
/// A difference of rounding grows from step to step until two runs have nothing but their level in common. On the CPU, a learning
/// rate that is larger by a millionth gives 7e-6, 1.3e-3 and 3e-3 of KD's loss after 10, 50 and 100 steps, and 1e-4, 9e-4 and 1.5e-3 of the
/// other one; one that is larger by a thousandth 1e-4, 1.1e-3 and 2.6e-3, and 5e-4, 1.5e-3 and 2.4e-3: that is where it ends. The bounds are
/// several times that.
const LOOKS: [usize; 4] = [1, 10, 50, 100];

fn bounds(arithmetic: Arithmetic) -> [f64; 4] {
    match arithmetic {
        Arithmetic::F32 => [1e-5, 5e-4, 1e-2, 2e-2],
        Arithmetic::Tf32 => [2e-3, 1e-2, 2e-2, 3e-2],
        Arithmetic::Bf16 => [1e-2, 3e-2, 5e-2, 0.1],
    }
}

/// Keeps the loss of every step.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Sink for Losses {
    fn event(&mut self, event: &Event) -> dkd_trainer::Result<()> {
        if let Event::Step { loss, .. } = event {
            self.0.push(*loss);
        }
        Ok(())
    }
}

/// What a student learns from.
struct Objective {
    name: &'static str,
    loss: &'static str,
}

const OBJECTIVES: [Objective; 2] = [
    Objective {
        name: "kd",
        loss: "[{ method = 'ce', weight = 0.5 }, { method = 'kd', temperature = 4.0, weight = 0.5 }]",
    },
    // candle's, on logits and on maps: a recorded step has two parts.
    Objective {
        name: "dist + sp",
        loss: "[
            { method = 'ce', weight = 0.5, label_smoothing = 0.1 },
            { method = 'dist', weight = 0.02 },
            { method = 'sp', weight = 0.03 },
        ]",
    },
];

impl Objective {
    /// One epoch of so many steps.
    fn recipe(&self, [steps, batch]: [usize; 2], lr: f64, teacher: &Path) -> Result<Recipe> {
        recipe(&format!(
            "data = {{ dataset = 'synthetic', augment = 'crop-flip', train_limit = {}, test_limit = {batch} }}
            train = {{ epochs = 1, batch_size = {batch} }}
            optimizer = {{ lr = {lr}, momentum = 0.9, weight_decay = 5e-4 }}
            student.model = '{MODEL}'
            teacher = {{ model = '{MODEL}', weights = {} }}
            [[rows]]
            id = '{ROW}'
            loss = {}",
            steps * batch,
            quoted(teacher)?,
            self.loss
        ))
    }
}

/// Trains with each objective on the CPU once, and four times on the device in each precision.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (steps, batch) = (suite.sizes.steps, suite.sizes.curve_batch);
    let data = images(suite.data.as_ref(), steps * batch, batch);
    let teacher = folder.path().join("teacher.safetensors");
    untrained(MODEL, data.num_classes(), &suite.cpu, &teacher)?;
    for objective in &OBJECTIVES {
        let recipe = objective.recipe([steps, batch], LR, &teacher)?;
        let want = losses(&recipe, &data, Arc::clone(&suite.cpu).into())?;
        for arithmetic in &suite.precisions {
            let case = format!("{}, {}", name_of(*arithmetic), objective.name);
            report.attempt(PART, &case, |report| {
                let got = losses(&recipe, &data, suite.compute(suite.gpu(*arithmetic, false)))?;
                curve(&case, *arithmetic, (&got, &want), report);
                repeated(suite, *arithmetic, (&case, &recipe, &data), report)
            });
        }
    }
    Ok(())
}

/// Trains in recorded steps: twice, and once with kernels in turn.
fn repeated(
    suite: &Suite,
    arithmetic: Arithmetic,
    (case, recipe, data): (&str, &Recipe, &Dataset),
    report: &mut Report,
) -> Result<()> {
    let recorded = suite.gpu(arithmetic, true);
    let first = weights(recipe, data, suite.compute(recorded.clone()))?;
    let mut compare = |what: &str, gpu: Gpu| -> Result<()> {
        let different = differing(&first, &weights(recipe, data, suite.compute(gpu))?);
        let group = format!("{case}: other bytes");
        report.add(Line::difference(PART, &group, &format!("{group}, {what}"), different as f64, 0.0));
        Ok(())
    };
    compare("two runs", recorded.clone())?;
    compare("in turn", Gpu { machine: (suite.in_turn)()?, ..recorded })
}

fn losses(recipe: &Recipe, data: &Dataset, compute: Compute) -> Result<Vec<f64>> {
    let mut sink = Losses::default();
    train(recipe, data, compute, None, &mut sink, &AtomicBool::new(false))?;
    Ok(sink.0)
}

/// Weights that a recorded run leaves, as the bytes of their file.
fn weights(recipe: &Recipe, data: &Dataset, compute: Compute) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let kept = Some(folder.path().to_owned());
    train(recipe, data, compute, kept, &mut Losses::default(), &AtomicBool::new(false))?;
    let file = folder.path().join(format!("{ROW}-{SEED}.safetensors"));
    std::fs::read(&file).with_context(|| format!("{}", file.display()))
}

fn curve(case: &str, arithmetic: Arithmetic, (got, want): (&[f64], &[f64]), report: &mut Report) {
    for (look, bound) in LOOKS.into_iter().zip(bounds(arithmetic)) {
        if look > want.len() && look != LOOKS[0] {
            continue;
        }
        let difference = worst(got, want, look);
        let group = format!("{case}: loss");
        let mut line = Line::difference(PART, &group, &format!("{group}, {look} steps"), difference, bound);
        line.note = want.get(look - 1).map(|loss| format!("on the CPU the loss is {loss:.4} then"));
        report.add(line);
    }
}

/// The largest relative difference among the first so many; NaN if one is, or is not there.
fn worst(got: &[f64], want: &[f64], steps: usize) -> f64 {
    if got.len() < steps || want.len() < steps {
        return f64::NAN;
    }
    let differences = got.iter().zip(want).take(steps).map(|(g, w)| (g - w).abs() / w.abs());
    differences.fold(0.0, |m, v| if v.is_nan() || v > m { v } else { m })
}

/// How many bytes are different.
fn differing(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count() + a.len().abs_diff(b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_step_counts() {
        let (got, want) = ([1.0, 2.2, 3.0], [1.0, 2.0, 4.0]);
        assert_eq!(worst(&got, &want, 1), 0.0);
        assert!((worst(&got, &want, 2) - 0.1).abs() < 1e-12);
        assert_eq!(worst(&got, &want, 3), 0.25);
        assert!(worst(&got, &want, 4).is_nan() && worst(&[f64::NAN], &[1.0], 1).is_nan());
        assert_eq!(differing(b"abc", b"abd"), 1);
        assert_eq!(differing(b"abc", b"abcde"), 2);
    }

    /// Where the bounds come from: `cargo test -p dkd-gpu-suite --lib -- --ignored --nocapture natural`.
    #[test]
    #[ignore = "a measurement"]
    fn natural_growth() {
        let folder = tempfile::tempdir().unwrap();
        let cpu = dkd_kernels::Cpu::new(2).unwrap();
        let teacher = folder.path().join("t.safetensors");
        untrained(MODEL, 10, &cpu, &teacher).unwrap();
        let data = images(None, 6400, 64);
        for objective in &OBJECTIVES {
            let curve = |lr: f64| {
                let recipe = objective.recipe([100, 64], lr, &teacher).unwrap();
                losses(&recipe, &data, Arc::clone(&cpu).into()).unwrap()
            };
            let want = curve(LR);
            for share in [1e-6, 1e-4, 1e-3] {
                let got = curve(LR * (1.0 + share));
                println!("{}, {share}: {:?}", objective.name, LOOKS.map(|look| worst(&got, &want, look)));
            }
        }
    }
}
