//! Losses with parameters, buffers, taps and separate gradients, through a real step.

use super::*;
use crate::network::EngineNetwork;
use crate::{MetricKind, Schedule, SgdRecipe, TeacherMode};
use candle_core::{DType, Device, Tensor, Var};
use dkd_datasets::{Loader, LoaderConfig, synthetic};
use dkd_engine::SessionOptions;
use dkd_losses::{Term, cross_entropy};
use dkd_models::ModelOptions;

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
        schedule: Schedule::CONSTANT,
        teacher_mode: TeacherMode::Eval,
        nonfinite: NonFinite::Stop,
        metric: MetricKind::Last,
        seed_offset: 0,
        published: None,
        baseline: None,
        note: String::new(),
        quick: false,
    }
}

/// Trains three steps with `objective`; the final weights, and the row.
fn train(objective: impl Objective + 'static) -> (Vec<f32>, Row) {
    let cpu = Cpu::new(2).unwrap();
    let data = synthetic::generate(&synthetic::Options { train: 24, test: 1, seed: 2 });
    let labels = data.train.labels.clone();
    let config = LoaderConfig { batch_size: 8, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(data.train), &data.normalization, config).unwrap();
    let graph = dkd_models::build("resnet8", &ModelOptions::new(10)).unwrap();
    let taps: BTreeMap<String, Vec<usize>> =
        graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect();
    let objective = Distiller::new().with(Part::new("own", objective)).unwrap();
    let options = SessionOptions { max_batch: 8, train: true, taps: objective.taps().student };
    let network = Box::new(EngineNetwork::new(graph, &cpu, options, 0).unwrap());
    let setup = Setup {
        device: &Device::Cpu,
        num_classes: 10,
        train_labels: &labels,
        student_taps: &taps,
        teacher_taps: &BTreeMap::new(),
        draw: &StepDraw { seed: 0, step: u64::MAX },
    };
    let mut row = Row::with_objective(recipe(), objective, network, &setup, &cpu).unwrap();
    for (step, images) in loader.epoch(1, 0).enumerate() {
        let at = Position { seed: 0, epoch: 1, step: step as u64, batch: step, batches: 3, epochs: 1 };
        let result = row.step(&images.unwrap(), None, at).unwrap();
        assert!(result.bad.is_none() && result.loss.is_finite());
    }
    let mut weights = Vec::new();
    row.network.update(&mut |w, _| weights.extend_from_slice(w));
    (weights, row)
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
    assert_eq!(row.sgd.steps(), 3);
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
