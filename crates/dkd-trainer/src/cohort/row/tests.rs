//! Losses with parameters, buffers, taps and separate gradients, through a real step.

use super::step::StepResult;
use super::*;
use crate::network::EngineNetwork;
use crate::{MetricKind, NonFinite, Schedule, SgdRecipe, TeacherMode};
use candle_core::{DType, Device, Tensor, Var};
use dkd_datasets::{Loader, LoaderConfig, synthetic};
use dkd_engine::{Mode, Precision, SessionOptions};
use dkd_losses::{Batch, Part, Setup, StepDraw, Term, cross_entropy};
use dkd_models::ModelOptions;
use std::collections::HashMap;

const SGD: SgdRecipe =
    SgdRecipe { lr: 0.05, momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 1e-3 };

fn recipe() -> RowRecipe {
    RowRecipe {
        id: "r".to_owned(),
        position: 1,
        label: "r".to_owned(),
        model: "resnet8".to_owned(),
        parts: Vec::new(),
        optimizer: SGD,
        clip_norm: None,
        schedule: Schedule::CONSTANT,
        teacher_mode: TeacherMode::Eval,
        views: 1,
        nonfinite: NonFinite::Stop,
        metric: MetricKind::Last,
        seed_offset: 0,
        published: None,
        log: None,
        baseline: None,
        note: String::new(),
        quick: false,
    }
}

/// A row with `objective`, and its three batches.
fn rig(recipe: RowRecipe, objective: impl Objective + 'static) -> (Row, Loader) {
    let cpu = Cpu::new(2).unwrap();
    let data = synthetic::generate(&synthetic::Options { train: 24, test: 1, seed: 2 });
    let labels = data.train.labels.clone();
    let config = LoaderConfig { batch_size: 8, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(data.train), &data.normalization, config).unwrap();
    let graph = dkd_models::build("resnet8", &ModelOptions::new(10)).unwrap();
    let taps: BTreeMap<String, Vec<usize>> =
        graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect();
    let mut objective = Distiller::new().with(Part::new("own", objective)).unwrap();
    let setup = Setup {
        device: &Device::Cpu,
        cpu: &cpu,
        num_classes: 10,
        train_labels: &labels,
        student_taps: &taps,
        teacher_taps: &BTreeMap::new(),
        teacher_norms: &BTreeMap::new(),
        student_head: None,
        teacher_head: None,
        draw: &StepDraw { seed: 0, step: u64::MAX },
    };
    objective.prepare(&setup).unwrap();
    let options = SessionOptions {
        max_batch: 8,
        train: true,
        taps: objective.taps().student,
        precision: Precision::F32,
    };
    let network = Box::new(EngineNetwork::new(graph, &cpu, options, 0).unwrap());
    (Row::new(recipe, objective, network, &cpu), loader)
}

/// The steps of one epoch with these numbers.
fn steps(row: &mut Row, loader: &Loader, wanted: &[usize]) -> Vec<StepResult> {
    let batches = loader.epoch(1, 0).enumerate().filter(|(step, _)| wanted.contains(step));
    let run = batches.map(|(step, images)| row.step(&images.unwrap(), None, at(step)).unwrap());
    run.collect()
}

fn at(step: usize) -> Position {
    Position { teacher: false, seed: 0, epoch: 1, step: step as u64, batch: step, batches: 3, epochs: 1 }
}

fn weights(row: &mut Row) -> Vec<f32> {
    let mut weights = Vec::new();
    row.network.update(&mut |w, _| weights.extend_from_slice(w)).unwrap();
    weights
}

/// Trains three steps with `objective`; the final weights, and the row.
fn train(objective: impl Objective + 'static) -> (Vec<f32>, Row) {
    let (mut row, loader) = rig(recipe(), objective);
    let results = steps(&mut row, &loader, &[0, 1, 2]);
    assert!(results.iter().all(|r| r.bad.is_none() && r.loss.is_finite()));
    (weights(&mut row), row)
}

/// Cross-entropy at a learned inverse temperature, in two halves: as one term, or as two groups with gradients of their own.
struct Scaled {
    inverse: Var,
    apart: bool,
}

impl Scaled {
    fn new(apart: bool) -> Self {
        Self { inverse: Var::new(&[1.5_f32], &Device::Cpu).unwrap(), apart }
    }
}

impl Objective for Scaled {
    fn needs_teacher(&self) -> bool {
        false
    }

    fn terms(&mut self, batch: &Batch) -> dkd_losses::Result<Vec<Term>> {
        let logits = batch.student_logits()?.broadcast_mul(self.inverse.as_tensor())?;
        let loss = cross_entropy(&logits, batch.labels, 0.0)?;
        let half = Term::new("half", loss, 0.5);
        Ok(vec![half.clone(), Term { name: "other".to_owned(), ..half }.in_group(usize::from(self.apart))])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        vec![("inverse".to_owned(), self.inverse.clone())]
    }
}

#[test]
fn groups_give_gradients_that_are_added_before_one_update() {
    let (together, row) = train(Scaled::new(false));
    let (apart, other) = train(Scaled::new(true));
    let distance = together.iter().zip(&apart).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance < 1e-5, "{distance}");
    let inverse = |row: &Row| row.objective.parameters()[0].1.as_tensor().to_vec1::<f32>().unwrap()[0];
    // Learned; and with one momentum and one weight decay for both groups.
    assert!((inverse(&row) - 1.5).abs() > 1e-3);
    assert!((inverse(&row) - inverse(&other)).abs() < 1e-5, "{} {}", inverse(&row), inverse(&other));
    assert_eq!(row.sgd[0].steps(), 3);
}

/// A 1x1 adapter on a tap, sized in `prepare`, and a memory of the samples' pooled outputs.
struct Remembered {
    adapter: Option<Var>,
    memory: Option<Tensor>,
}

impl Objective for Remembered {
    fn taps(&self) -> RequiredTaps {
        RequiredTaps { student: vec!["feats.2".to_owned()], teacher: Vec::new() }
    }

    fn needs_teacher(&self) -> bool {
        false
    }

    fn prepare(&mut self, setup: &Setup<'_>) -> dkd_losses::Result<()> {
        let channels = setup.student_taps["feats.2"][0];
        let start =
            Tensor::from_vec(setup.draw.normal("adapter", channels * 4), (channels, 4), setup.device)?;
        self.adapter = Some(Var::from_tensor(&(start * 0.1)?)?);
        self.memory = Some(Tensor::zeros((setup.train_labels.len(), 4), DType::F32, setup.device)?);
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> dkd_losses::Result<Vec<Term>> {
        let map = batch.view(0)?.student.tap("student", "feats.2")?;
        let (n, c, h, w) = map.dims4()?;
        let pixels = map.permute((0, 2, 3, 1))?.reshape((n * h * w, c))?;
        let adapted = pixels.matmul(self.adapter.as_ref().expect("prepared").as_tensor())?;
        let pooled = adapted.reshape((n, h * w, 4))?.mean(1)?;
        let memory = self.memory.as_ref().expect("prepared");
        let indices = Tensor::new(batch.indices, &Device::Cpu)?;
        let distance = (&pooled - memory.index_select(&indices, 0)?)?.sqr()?.mean_all()?;
        let mut rows = memory.to_vec2::<f32>()?;
        for (index, row) in batch.indices.iter().zip(pooled.detach().to_vec2::<f32>()?) {
            rows[*index as usize] = row;
        }
        self.memory = Some(Tensor::new(rows, &Device::Cpu)?);
        let ce = cross_entropy(batch.student_logits()?, batch.labels, 0.0)?;
        Ok(vec![Term::new("ce", ce, 1.0), Term::new("distance", distance, 0.1)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        self.adapter.iter().map(|v| ("adapter".to_owned(), v.clone())).collect()
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        self.memory.iter().map(|m| ("memory".to_owned(), m.clone())).collect()
    }
}

#[test]
fn adapters_and_memories_are_sized_before_the_first_step_and_move_with_every_one() {
    let (_, row) = train(Remembered { adapter: None, memory: None });
    let (name, adapter) = &row.objective.parameters()[0];
    assert_eq!((name.as_str(), adapter.dims()), ("own.adapter", &[32, 4][..]));
    let start = StepDraw { seed: 0, step: u64::MAX };
    let start: Vec<f32> = dkd_losses::Draw::normal(&start, "adapter", 128).iter().map(|v| v * 0.1).collect();
    assert_ne!(adapter.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap(), start);
    let (name, memory) = &row.objective.buffers()[0];
    assert_eq!((name.as_str(), memory.dims()), ("own.memory", &[24, 4][..]));
    // Three batches of eight: every sample was seen once.
    let rows = memory.to_vec2::<f32>().unwrap();
    assert!(rows.iter().all(|r| r.iter().any(|v| *v != 0.0)));
}

/// Cross-entropy that goes wrong at one step, and counts its calls in a buffer.
struct Faulty {
    step: u64,
    /// A finite loss whose gradient is NaN, instead of a NaN.
    gradient: bool,
    calls: Tensor,
}

impl Faulty {
    fn new(step: u64, gradient: bool) -> Self {
        Self { step, gradient, calls: Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap() }
    }
}

impl Objective for Faulty {
    fn needs_teacher(&self) -> bool {
        false
    }

    fn terms(&mut self, batch: &Batch) -> dkd_losses::Result<Vec<Term>> {
        self.calls = (&self.calls + 1.0)?;
        let mut ce = cross_entropy(batch.student_logits()?, batch.labels, 0.0)?;
        if batch.step == self.step {
            // The root of 0 is 0, its derivative infinite; infinity minus infinity is NaN.
            let zero = (batch.student_logits()? - batch.student_logits()?)?.sum_all()?;
            ce = if self.gradient { (ce + zero.sqrt()?)? } else { (ce * f64::NAN)? };
        }
        Ok(vec![Term::new("ce", ce, 1.0)])
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        vec![("calls".to_owned(), self.calls.clone())]
    }

    fn set_buffer(&mut self, _: &str, value: &Tensor) -> dkd_losses::Result<()> {
        self.calls = value.clone();
        Ok(())
    }
}

#[test]
fn a_bad_batch_that_is_skipped_leaves_no_trace() {
    for gradient in [false, true] {
        let recipe = || RowRecipe { nonfinite: NonFinite::Skip, ..recipe() };
        let (mut with, loader) = rig(recipe(), Faulty::new(1, gradient));
        let results = steps(&mut with, &loader, &[0, 1, 2]);
        let bad: Vec<bool> = results.iter().map(|r| r.bad.is_some()).collect();
        assert_eq!(bad, [false, true, false]);
        assert_eq!(with.skipped_in_a_row, 0);
        let (mut without, loader) = rig(recipe(), Faulty::new(1, gradient));
        steps(&mut without, &loader, &[0, 2]);
        assert_eq!(with.network.running().unwrap(), without.network.running().unwrap());
        let calls = |row: &Row| row.objective.buffers()[0].1.to_vec1::<f32>().unwrap();
        assert_eq!((calls(&with), calls(&without)), (vec![2.0], vec![2.0]));
        assert_eq!(weights(&mut with), weights(&mut without));
        assert_eq!(with.take_epoch(), without.take_epoch());
    }
}

#[test]
fn nothing_is_updated_with_a_bad_loss_or_gradient() {
    for (gradient, term) in [(false, "own.ce"), (true, "gradient of fc.bias")] {
        let (mut row, loader) = rig(recipe(), Faulty::new(0, gradient));
        let before = weights(&mut row);
        let result = steps(&mut row, &loader, &[0]).remove(0);
        let bad = result.bad.unwrap();
        assert_eq!((bad.term.as_str(), bad.is_gradient()), (term, gradient));
        assert!(!bad.value.is_finite());
        assert_eq!(weights(&mut row), before);
        let images = loader.epoch(1, 0).next().unwrap().unwrap();
        let origin = row.origin(&images, 0, None, at(0), bad.is_gradient()).unwrap();
        assert_eq!(origin.samples, images.indices);
        let expected = if gradient { "the gradients: the loss is finite" } else { "the loss itself" };
        assert!(origin.place.starts_with(expected), "{}", origin.place);
    }
}

#[test]
fn the_origin_is_the_first_place_that_is_not_finite() {
    let (mut row, loader) = rig(recipe(), Faulty::new(9, false));
    let images = loader.epoch(1, 0).next().unwrap().unwrap();
    let origin = |row: &mut Row, images: &Images| {
        row.network.forward(&images.images, Mode::Train, at(0).dropout()).unwrap();
        let origin = row.origin(images, 0, None, at(0), false).unwrap();
        (origin.place, origin.samples)
    };
    // One image whose pixels overflow in the first convolution: the others are still fine there.
    let mut pixels = images.images.contiguous().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let each = pixels.len() / images.indices.len();
    pixels[2 * each..3 * each].iter_mut().for_each(|v| *v = v.signum() * 3e38);
    let huge = Images {
        images: Tensor::from_vec(pixels.clone(), images.images.dims(), &Device::Cpu).unwrap(),
        ..images
    };
    assert_eq!(origin(&mut row, &huge), ("the output of conv1".to_owned(), vec![huge.indices[2]]));
    pixels[5 * each] = f32::NAN;
    let bad = Images { images: Tensor::from_vec(pixels, huge.images.dims(), &Device::Cpu).unwrap(), ..huge };
    assert_eq!(origin(&mut row, &bad), ("the images".to_owned(), vec![bad.indices[5]]));
    let mut dict: HashMap<String, Tensor> = row.network.state_dict().unwrap().into_iter().collect();
    let nan = (dict["layer2.0.conv1.weight"].clone() * f64::NAN).unwrap();
    dict.insert("layer2.0.conv1.weight".to_owned(), nan);
    row.network.load_state_dict(&dict).unwrap();
    assert_eq!(origin(&mut row, &bad).0, "weight layer2.0.conv1.weight");
}

#[test]
fn the_gradient_of_two_views_is_the_sum_of_theirs() {
    for apart in [false, true] {
        let (mut row, loader) = rig(RowRecipe { views: 2, ..recipe() }, Scaled::new(apart));
        let config = LoaderConfig { batch_size: 8, views: 2, strong: true, ..LoaderConfig::default() };
        let loader =
            Loader::new(Arc::clone(loader.split()), &dkd_datasets::Normalization::HALF, config).unwrap();
        let both = loader.batch(1, 0).unwrap();
        // One view after the other, each by a row that has not moved.
        let one = |images: &Tensor| {
            let (mut row, _) = rig(recipe(), Scaled::new(apart));
            let images = Images { images: images.clone(), ..both.clone() };
            let result = row.step(&images, None, at(0)).unwrap();
            let (mut row, _) = rig(recipe(), Scaled::new(apart));
            row.network.forward(&images.images, Mode::Train, at(0).dropout()).unwrap();
            let terms = row.terms(row.outputs().unwrap(), (&images).into(), None, None, at(0)).unwrap();
            let (parameters, mut gradients) = (row.objective.parameters(), row.no_gradients());
            row.backward(terms, &parameters, &mut gradients).unwrap();
            let own = gradients.own[0].as_ref().unwrap().to_vec1::<f32>().unwrap()[0];
            (row.flat(&gradients).to_vec(), own, result.loss)
        };
        let (first, second) = (one(&both.images), one(&both.more_views[0]));
        assert_ne!(first.0, second.0);
        let result = row.step(&both, None, at(0)).unwrap();
        assert!((result.loss - (first.2 + second.2)).abs() < 1e-9 && result.terms.len() == 2);
        // The step that the sum would make, by an optimizer of its own.
        let (mut wanted, _) = rig(recipe(), Scaled::new(apart));
        let sum: Vec<f32> = first.0.iter().zip(&second.0).map(|(a, b)| a + b).collect();
        let mut sgd = Sgd::new(SGD, Cpu::new(1).unwrap());
        wanted.network.update(&mut |weights, _| sgd.step(SGD.lr, 1.0, weights, &sum)).unwrap();
        let (got, wanted) = (weights(&mut row), weights(&mut wanted));
        let distance = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Two groups are added group by group, and so rounded otherwise.
        assert!(distance <= if apart { 1e-6 } else { 0.0 }, "{distance}");
        let own = row.objective.parameters()[0].1.as_tensor().to_vec1::<f32>().unwrap()[0];
        let expected = 1.5 - SGD.lr as f32 * (first.1 + second.1 + SGD.weight_decay as f32 * 1.5);
        assert!((own - expected).abs() < 1e-5, "{own} {expected}");
    }
}

#[test]
fn clipping_scales_the_whole_gradient() {
    let sgd = SgdRecipe { weight_decay: 0.0, ..SGD };
    let change = |clip_norm: Option<f64>| {
        let (mut row, loader) = rig(RowRecipe { clip_norm, optimizer: sgd, ..recipe() }, Scaled::new(false));
        let before = weights(&mut row);
        let own = |row: &Row| row.objective.parameters()[0].1.as_tensor().to_vec1::<f32>().unwrap()[0];
        let own_before = own(&row);
        let norm = steps(&mut row, &loader, &[0]).remove(0).gradient_norm;
        let mut change: Vec<f32> = weights(&mut row).iter().zip(&before).map(|(a, b)| a - b).collect();
        change.push(own(&row) - own_before);
        (change, norm)
    };
    let (free, none) = change(None);
    assert_eq!(none, None);
    let (loose, norm) = change(Some(1e9));
    let norm = norm.unwrap();
    assert_eq!(loose, free, "a limit that is not reached changes no bit");
    let length = flat_norm(&free) / sgd.lr;
    assert!((length / norm - 1.0).abs() < 1e-3, "{length} {norm}");
    let (tight, _) = change(Some(norm / 4.0));
    assert!((flat_norm(&tight) / flat_norm(&free) - 0.25).abs() < 1e-3);
}

fn flat_norm(values: &[f32]) -> f64 {
    dkd_kernels::flat::norm(values)
}
