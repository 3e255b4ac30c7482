//! A loss that reads the student's classifier: its gradient, and whole runs with it.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use dkd_datasets::synthetic;
use dkd_engine::{DropoutKey, Mode, Precision, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::{
    Batch, DkdWeights, Head, Objective, Outputs, Scales, Sdd, SddBase, SddSettings, Setup, StepDraw,
    Temperature, View, total,
};
use dkd_models::ModelOptions;
use dkd_trainer::config::Config;
use dkd_trainer::record::RowResult;
use dkd_trainer::{Context, EngineNetwork, Network, Recipe, Result, Silent, run};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const BATCH: usize = 8;

fn network(seed: u64, cpu: &Arc<Cpu>) -> EngineNetwork {
    let graph = dkd_models::build("resnet8", &ModelOptions::new(10)).unwrap();
    let options = SessionOptions {
        max_batch: BATCH,
        train: true,
        taps: vec!["feats.3".to_owned()],
        precision: Precision::F32,
    };
    EngineNetwork::new(graph, cpu, options, seed).unwrap()
}

fn images() -> Tensor {
    let pixels: Vec<f32> = (0..BATCH * 3 * 32 * 32).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_vec(pixels, (BATCH, 3, 32, 32), &Device::Cpu).unwrap()
}

/// The loss of the student; its gradients are in the network then.
fn loss(sdd: &mut Sdd, student: &mut EngineNetwork, teacher: &EngineNetwork) -> f64 {
    student.forward(&images(), Mode::Train, DropoutKey::default()).unwrap();
    let outputs = |network: &EngineNetwork| Outputs {
        taps: BTreeMap::from([("feats.3".to_owned(), network.tap("feats.3").unwrap())]),
        ..Outputs::new(network.logits().unwrap())
    };
    let views = [View { student: outputs(student), teacher: Some(outputs(teacher)) }];
    let leaves = student.leaves(&sdd.student_parameters()).unwrap();
    let parameters: BTreeMap<String, Tensor> = teacher.state_dict().unwrap().into_iter().collect();
    let labels = Tensor::new(&[0_u32, 1, 2, 3, 4, 5, 6, 7], &Device::Cpu).unwrap();
    let batch = Batch { student: &leaves, teacher: &parameters, ..Batch::new(&views, &labels) };
    let sum = total(&sdd.terms(&batch).unwrap()).unwrap().remove(0).1;
    student.backward(&sum.backward().unwrap()).unwrap();
    f64::from(sum.to_scalar::<f32>().unwrap())
}

/// Adds to some weights; what they were.
fn shift(network: &mut EngineNetwork, range: Range<usize>, moves: &[f32]) -> Vec<f32> {
    let mut before = Vec::new();
    network
        .update(&mut |w, _| {
            before.extend_from_slice(&w[range.clone()]);
            w[range.clone()].iter_mut().zip(moves).for_each(|(w, m)| *w += m);
        })
        .unwrap();
    before
}

#[test]
fn the_classifiers_gradient_has_the_regions_in_it() {
    let cpu = Cpu::new(2).unwrap();
    let (mut student, mut teacher) = (network(0, &cpu), network(1, &cpu));
    teacher.forward(&images(), Mode::Train, DropoutKey::default()).unwrap();
    let graph = dkd_models::build("resnet8", &ModelOptions::new(10)).unwrap();
    let taps: BTreeMap<String, Vec<usize>> =
        graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect();
    let own = graph.head().unwrap();
    assert_eq!(graph.tap("feats.3").unwrap().value, own.map);
    let head = Head {
        map: "feats.3".to_owned(),
        weight: format!("{}.weight", own.layer),
        bias: Some(format!("{}.bias", own.layer)),
    };
    let weights = DkdWeights { alpha: 1.0, beta: 2.0 };
    // At the scale 2 alone the logits have no part in it: all of the classifier's gradient comes from regions.
    for scales in [&[2][..], &[1, 2, 4]] {
        let mut sdd = Sdd::new(SddSettings {
            base: SddBase::Dkd { weights, temperature: Temperature::ONE },
            scales: Scales::new(scales).unwrap(),
            complementary_weight: 2.0,
        })
        .unwrap();
        sdd.prepare(&Setup {
            device: &Device::Cpu,
            cpu: &cpu,
            num_classes: 10,
            train_labels: &[],
            student_taps: &taps,
            teacher_taps: &taps,
            teacher_norms: &BTreeMap::new(),
            student_head: Some(&head),
            teacher_head: Some(&head),
            draw: &StepDraw { seed: 0, step: 0 },
        })
        .unwrap();
        for name in [&head.weight, head.bias.as_ref().unwrap()] {
            loss(&mut sdd, &mut student, &teacher);
            let range = student.spans().into_iter().find(|s| s.name == *name).unwrap().range;
            let gradient = student.gradients()[range.clone()].to_vec();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{scales:?} {name} {norm}");
            // Along the gradient, the loss grows by its norm.
            let mut along = |step: f64| {
                let moves: Vec<f32> = gradient.iter().map(|g| (f64::from(*g) / norm * step) as f32).collect();
                let before = shift(&mut student, range.clone(), &moves);
                let value = loss(&mut sdd, &mut student, &teacher);
                student.update(&mut |w, _| w[range.clone()].copy_from_slice(&before)).unwrap();
                value
            };
            let slope = (along(0.02) - along(-0.02)) / 0.04;
            assert!((slope / norm - 1.0).abs() < 0.01, "{scales:?} {name}: {slope} {norm}");
        }
    }
}

const TABLE: &str = "
data = { dataset = 'synthetic', augment = 'crop-flip', validation = 40 }
train = { epochs = 2, batch_size = 16 }
optimizer.lr = 0.02
student.model = 'wrn_16_1'
teacher = { model = 'resnet8', epochs = 1 }
[[rows]]
id = 'sdd'
loss = [{ method = 'ce' }, { method = 'sdd', beta = 2.0 }]
";

fn recipe(text: &str) -> Recipe {
    Config::parse(text, "test").unwrap().check().unwrap()
}

fn train(recipe: &Recipe, threads: usize, weights: Option<&Path>) -> Result<Vec<RowResult>> {
    let stop = AtomicBool::new(false);
    let mut context = Context {
        compute: Cpu::new(threads).unwrap().into(),
        sink: &mut Silent,
        weights: weights.map(Path::to_owned),
        host: None,
        last: None,
        stop: &stop,
        checkpoints: None,
        resume: None,
        probe: None,
    };
    let data = synthetic::generate(&synthetic::Options { train: 120, test: 20, seed: 1 });
    run(recipe, &data, 5, &mut context)
}

#[test]
fn a_run_is_finite_and_the_same_with_any_threads_and_a_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let one = train(&recipe(TABLE), 1, Some(&path("one"))).unwrap();
    let row = one.last().unwrap();
    assert!(row.diverged.is_none() && row.epochs.len() == 2, "{row:?}");
    assert!(row.epochs.iter().all(|e| e.train_loss.is_finite()), "{row:?}");
    train(&recipe(TABLE), 2, Some(&path("two"))).unwrap();
    let cached = format!("cache = {{ teacher = 'f32', folder = '{}' }}\n{TABLE}", path("cache").display());
    train(&recipe(&cached), 2, Some(&path("cached"))).unwrap();
    let bytes = |run: &str| std::fs::read(path(run).join("sdd-5.safetensors")).unwrap();
    assert!(bytes("one") == bytes("two"), "threads");
    assert!(bytes("one") == bytes("cached"), "cache");
}

#[test]
fn a_scale_larger_than_the_map_is_refused() {
    let text = TABLE.replace("wrn_16_1", "MobileNetV2");
    let message = train(&recipe(&text), 1, None).unwrap_err().to_string();
    assert!(message.contains("`scales` has 4") && message.contains("the student's last map"), "{message}");
}
