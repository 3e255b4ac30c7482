//! The interface carries what later methods need: a learned temperature, a memory, an adapter, separate gradients.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use dkd_losses::{
    Batch, Distiller, Error, Objective, Outputs, Part, Reduction, RequiredTaps, Result, Setup, StepDraw,
    Temperature, Term, View, cross_entropy, kd, log_softmax, total,
};
use std::collections::BTreeMap;

fn tensor(rows: usize, columns: usize, salt: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i as f32 + salt) * 1.7).sin()).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn scalar(t: &Tensor) -> f32 {
    t.to_scalar().unwrap()
}

/// KD at a temperature that is learned: T = exp(theta).
struct LearnedTemperature(Var);

impl Objective for LearnedTemperature {
    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let inverse = self.0.as_tensor().neg()?.exp()?;
        let scaled = |t: &Tensor| t.broadcast_mul(&inverse);
        let (s, t) = (scaled(batch.student_logits()?)?, scaled(batch.teacher_logits("learned")?)?);
        // `kd` takes the teacher as a constant; here the temperature moves the teacher's probabilities, too.
        let (q, p) = (log_softmax(&s, Temperature::ONE)?, log_softmax(&t, Temperature::ONE)?);
        let divergence = (p.exp()? * (p - q)?)?.sum_all()?;
        Ok(vec![Term::new("kd", (divergence / batch.labels.elem_count() as f64)?, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        vec![("theta".to_owned(), self.0.clone())]
    }
}

/// Compares logits with those remembered of a random other sample.
struct MemoryBank {
    memory: Tensor,
}

impl Objective for MemoryBank {
    fn needs_teacher(&self) -> bool {
        false
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        self.memory = Tensor::zeros((setup.train_labels.len(), setup.num_classes), DType::F32, setup.device)?;
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let logits = batch.student_logits()?;
        let n = self.memory.dim(0)?;
        let others: Vec<u32> =
            batch.draw.uniform("others", batch.indices.len()).iter().map(|u| (u * n as f32) as u32).collect();
        let others = Tensor::new(others, &Device::Cpu)?;
        let distance = (logits - self.memory.index_select(&others, 0)?)?.sqr()?.mean_all()?;
        let mut rows = self.memory.to_vec2::<f32>()?;
        for (index, row) in batch.indices.iter().zip(logits.detach().to_vec2::<f32>()?) {
            rows[*index as usize] = row;
        }
        self.memory = Tensor::new(rows, &Device::Cpu)?;
        Ok(vec![Term::new("distance", distance, 0.5)])
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        vec![("memory".to_owned(), self.memory.clone())]
    }

    fn set_buffer(&mut self, name: &str, value: &Tensor) -> Result<()> {
        if name != "memory" {
            return Err(Error::UnknownBuffer { name: name.into() });
        }
        self.memory = value.copy()?;
        Ok(())
    }
}

/// A 1x1 convolution from the student's feature map to the teacher's.
struct Adapter(Option<Var>);

impl Objective for Adapter {
    fn taps(&self) -> RequiredTaps {
        RequiredTaps { student: vec!["feats.1".to_owned()], teacher: vec!["feats.2".to_owned()] }
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let (from, to) = (setup.student_taps["feats.1"][0], setup.teacher_taps["feats.2"][0]);
        let start = Tensor::from_vec(setup.draw.normal("adapter", from * to), (from, to), setup.device)?;
        self.0 = Some(Var::from_tensor(&(start * 0.1)?)?);
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let student = batch.view(0)?.student.tap("student", "feats.1")?;
        let teacher = batch.teacher_outputs("adapter", 0)?.tap("teacher", "feats.2")?;
        let pixels = |t: &Tensor| -> Result<Tensor> {
            let (n, c, h, w) = t.dims4()?;
            Ok(t.permute((0, 2, 3, 1))?.reshape((n * h * w, c))?)
        };
        let adapted = pixels(student)?.matmul(self.0.as_ref().unwrap().as_tensor())?;
        Ok(vec![Term::new("hint", (adapted - pixels(teacher)?)?.sqr()?.mean_all()?, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        self.0.iter().map(|v| ("weight".to_owned(), v.clone())).collect()
    }
}

/// Cross-entropy and KD, each with a gradient of its own.
struct Separate;

impl Objective for Separate {
    fn needs_teacher(&self) -> bool {
        true
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let (s, t) = (batch.student_logits()?, batch.teacher_logits("separate")?);
        let ce = Term::new("ce", cross_entropy(s, batch.labels, 0.0)?, 1.0);
        let kd = Term::new("kd", kd(s, t, Temperature::ONE, Reduction::BatchMean)?, 2.0);
        Ok(vec![ce, kd.in_group(1)])
    }
}

#[test]
fn a_learned_temperature_gets_a_gradient() {
    let theta = Var::new(0.5_f32, &Device::Cpu).unwrap();
    let mut objective = LearnedTemperature(theta.clone());
    let student = Var::from_tensor(&tensor(4, 3, 0.0)).unwrap();
    let views = [View::new(student.as_tensor().clone(), Some(tensor(4, 3, 5.0)))];
    let labels = Tensor::new(&[0_u32, 1, 2, 0], &Device::Cpu).unwrap();
    let batch = Batch::new(&views, &labels);
    let mut at = |v: f32| {
        theta.set(&Tensor::new(v, &Device::Cpu).unwrap()).unwrap();
        objective.terms(&batch).unwrap().remove(0).value
    };
    let (value, up, down) = (at(0.5), scalar(&at(0.51)), scalar(&at(0.49)));
    let store = value.backward().unwrap();
    let gradient = scalar(store.get(theta.as_tensor()).unwrap());
    assert!((gradient - (up - down) / 0.02).abs() < 1e-3 && gradient != 0.0, "{gradient}");
    assert!(store.get(student.as_tensor()).is_some());
}

#[test]
fn a_memory_is_state_that_can_be_resumed() {
    let setup_taps = BTreeMap::new();
    let draw = StepDraw { seed: 3, step: 0 };
    let labels = [0_u32; 10];
    let setup = Setup {
        device: &Device::Cpu,
        cpu: &dkd_kernels::Cpu::new(1).unwrap(),
        num_classes: 3,
        train_labels: &labels,
        student_taps: &setup_taps,
        teacher_taps: &setup_taps,
        teacher_norms: &BTreeMap::new(),
        student_head: None,
        teacher_head: None,
        draw: &draw,
    };
    let make = || {
        let mut bank = MemoryBank { memory: Tensor::zeros((0, 0), DType::F32, &Device::Cpu).unwrap() };
        bank.prepare(&setup).unwrap();
        Distiller::new().with(Part::new("bank", bank)).unwrap()
    };
    let step = |d: &mut Distiller, step: u64| {
        let views = [View::new(tensor(2, 3, step as f32), None)];
        let y = Tensor::new(&[0_u32, 1], &Device::Cpu).unwrap();
        let draw = StepDraw { seed: 3, step };
        let indices = [(step * 2) as u32 % 10, (step * 2 + 1) as u32 % 10];
        let batch = Batch { indices: &indices, step, draw: &draw, ..Batch::new(&views, &y) };
        scalar(&d.terms(&batch).unwrap()[0].value)
    };
    let mut whole = make();
    let values: Vec<f32> = (0..8).map(|i| step(&mut whole, i)).collect();
    let mut first = make();
    (0..4).for_each(|i| assert_eq!(step(&mut first, i), values[i as usize]));
    let mut second = make();
    for (name, value) in first.buffers() {
        assert_eq!(name, "bank.memory");
        second.set_buffer(&name, &value).unwrap();
    }
    (4..8).for_each(|i| assert_eq!(step(&mut second, i), values[i as usize]));
    assert!(second.set_buffer("bank.other", &tensor(1, 1, 0.0)).is_err());
}

#[test]
fn an_adapter_on_a_tap_learns() {
    let taps = |name: &str, c: usize| BTreeMap::from([(name.to_owned(), vec![c, 2, 2])]);
    let draw = StepDraw { seed: 1, step: 0 };
    let (student_taps, teacher_taps) = (taps("feats.1", 3), taps("feats.2", 5));
    let setup = Setup {
        device: &Device::Cpu,
        cpu: &dkd_kernels::Cpu::new(1).unwrap(),
        num_classes: 3,
        train_labels: &[],
        student_taps: &student_taps,
        teacher_taps: &teacher_taps,
        teacher_norms: &BTreeMap::new(),
        student_head: None,
        teacher_head: None,
        draw: &draw,
    };
    let mut adapter = Adapter(None);
    adapter.prepare(&setup).unwrap();
    let map = |c: usize, salt: f32| tensor(4, c * 4, salt).reshape((4, c, 2, 2)).unwrap();
    let feature = Var::from_tensor(&map(3, 0.0)).unwrap();
    let with_tap = |name: &str, t: Tensor| {
        let mut outputs = Outputs::new(tensor(4, 3, 1.0));
        outputs.taps.insert(name.to_owned(), t);
        outputs
    };
    let view = View {
        student: with_tap("feats.1", feature.as_tensor().clone()),
        teacher: Some(with_tap("feats.2", map(5, 9.0))),
    };
    let views = [view];
    let labels = Tensor::new(&[0_u32, 1, 2, 0], &Device::Cpu).unwrap();
    let batch = Batch::new(&views, &labels);
    let mut losses = Vec::new();
    for _ in 0..60 {
        let term = adapter.terms(&batch).unwrap().remove(0);
        losses.push(scalar(&term.value));
        let store = term.value.backward().unwrap();
        assert!(store.get(feature.as_tensor()).is_some());
        for (_, var) in adapter.parameters() {
            let step = (store.get(var.as_tensor()).unwrap() * 0.5).unwrap();
            var.set(&(var.as_tensor().detach() - step).unwrap()).unwrap();
        }
    }
    assert!(losses[59] < 0.9 * losses[0], "{losses:?}");
    let missing = [View::new(tensor(4, 3, 0.0), None)];
    let message = adapter.terms(&Batch::new(&missing, &labels)).unwrap_err().to_string();
    assert!(message.contains("feats.1"), "{message}");
}

#[test]
fn groups_have_gradients_of_their_own() {
    let student = Var::from_tensor(&tensor(4, 3, 0.0)).unwrap();
    let views = [View::new(student.as_tensor().clone(), Some(tensor(4, 3, 5.0)))];
    let labels = Tensor::new(&[0_u32, 1, 2, 0], &Device::Cpu).unwrap();
    let terms = Separate.terms(&Batch::new(&views, &labels)).unwrap();
    let groups = total(&terms).unwrap();
    assert_eq!(groups.iter().map(|(g, _)| *g).collect::<Vec<_>>(), [0, 1]);
    let gradient = |loss: &Tensor| {
        let store = loss.backward().unwrap();
        store.get(student.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (ce, kd) = (gradient(&groups[0].1), gradient(&groups[1].1));
    let both = gradient(&(&groups[0].1 + &groups[1].1).unwrap());
    assert!(ce.iter().zip(&kd).zip(both).all(|((a, b), c)| (a + b - c).abs() < 1e-6));
    assert_ne!(ce, kd);
    assert_eq!(scalar(&groups[1].1), 2.0 * scalar(&terms[1].value));
}
