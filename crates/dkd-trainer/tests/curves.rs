//! Golden loss curves: every loss of the first hundred steps of no distillation, KD and DKD, bit by bit.
//!
//! A change of kernels, losses, optimizer, data or random numbers that changes results is seen here. The curves of an
//! instruction set are in `tests/fixtures/curves/<isa>.json`; `DKD_WRITE_CURVES=1` writes them anew, for a change that is meant.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use dkd_datasets::synthetic;
use dkd_kernels::{Cpu, Isa};
use dkd_trainer::config::Config;
use dkd_trainer::{Context, Event, Result, Sink, run};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Largest difference between two instruction sets, in parts of the loss: they round differently (with and without fused
/// multiply-add), and a hundred steps let such differences grow. AVX2 and portable differ by 5.5e-3.
const BOUND: f64 = 2e-2;

const CONFIG: &str = "
data = { dataset = 'synthetic', augment = 'crop-flip' }
train = { epochs = 2, batch_size = 16 }
optimizer = { lr = 0.02, weight_decay = 5e-4, nesterov = true }
schedule = { kind = 'cosine', warmup_epochs = 1 }
student.model = 'resnet8'
teacher = { model = 'resnet8', epochs = 1 }
[[rows]]
id = 'none'
[[rows]]
id = 'kd'
loss = [{ method = 'ce', weight = 0.1 }, { method = 'kd', temperature = 4.0, weight = 0.9 }]
[[rows]]
id = 'dkd'
loss = [{ method = 'ce' }, { method = 'dkd', temperature = 4.0, alpha = 1.0, beta = 2.0, warmup_epochs = 2 }]";

type Curves = BTreeMap<String, Vec<f64>>;

#[derive(Default)]
struct Losses(Curves);

impl Sink for Losses {
    fn event(&mut self, event: &Event) -> Result<()> {
        if let Event::Step { row, loss, .. } = event
            && row != "teacher"
        {
            self.0.entry(row.clone()).or_default().push(*loss);
        }
        Ok(())
    }
}

fn curves(isa: Isa) -> Curves {
    let recipe = Config::parse(CONFIG, "curves").unwrap().check().unwrap();
    let data = synthetic::generate(&synthetic::Options { train: 800, test: 16, seed: 3 });
    let mut losses = Losses::default();
    let mut context = Context {
        compute: Cpu::with_isa(2, isa).into(),
        sink: &mut losses,
        weights: None,
        host: None,
        last: None,
        stop: &AtomicBool::new(false),
        checkpoints: None,
        resume: None,
        probe: None,
    };
    run(&recipe, &data, 7, &mut context).unwrap();
    losses.0
}

fn fixture(isa: Isa) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/curves/{isa}.json"))
}

fn stored(isa: Isa) -> Option<Curves> {
    let text = std::fs::read(fixture(isa)).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

#[test]
fn golden_loss_curves() {
    let mut compared = 0;
    for isa in Isa::available() {
        let got = curves(isa);
        assert!(got.len() == 3 && got.values().all(|c| c.len() == 100 && c[99] < c[0]), "{isa}");
        if std::env::var_os("DKD_WRITE_CURVES").is_some() {
            std::fs::create_dir_all(fixture(isa).parent().unwrap()).unwrap();
            std::fs::write(fixture(isa), serde_json::to_string_pretty(&got).unwrap() + "\n").unwrap();
        }
        if let Some(want) = stored(isa) {
            for (row, want) in &want {
                let different = got[row].iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
                assert_eq!(different, None, "{isa}: `{row}` differs from this step on");
            }
            compared += 1;
        } else {
            println!("there are no golden curves of {isa}: compared with the others' within {BOUND}");
        }
        for other in Isa::available() {
            let Some(want) = stored(other) else { continue };
            let relative = |row: &String| {
                let pairs = got[row].iter().zip(&want[row]);
                pairs.map(|(g, w)| (g - w).abs() / w.abs()).fold(0.0, f64::max)
            };
            let worst = want.keys().map(relative).fold(0.0, f64::max);
            println!("{isa} against {other}: {worst:.2e}");
            assert!(worst <= BOUND, "{isa} against {other}: {worst}");
            compared += 1;
        }
    }
    assert!(compared > 0, "no golden curves for any instruction set of this machine");
}
