//! CRD: a sample's embedding in one network, told apart from others' in the other network.
use candle_core::{D, DType, Tensor, Var};

use super::layers::Linear;
use super::{Pair, stage};
use crate::check::check_weight;
use crate::{Batch, Draw, Error, Objective, RequiredTaps, Result, Setup, Term};

/// Added to a probability's divisor, as the authors do.
const EPSILON: f64 = 1e-7;

/// CRD's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrdSettings {
    /// Length of the embeddings.
    pub dimension: usize,
    /// How many samples of other classes stand against each.
    pub negatives: usize,
    /// Temperature of the scores.
    pub temperature: f64,
    /// Share of the old value in a memory's update.
    pub momentum: f64,
}

impl Default for CrdSettings {
    /// The paper's: 128 dimensions, 16,384 negatives, temperature 0.07, momentum 0.5.
    fn default() -> Self {
        Self { dimension: 128, negatives: 16_384, temperature: 0.07, momentum: 0.5 }
    }
}

/// Positions of the training samples, by class.
#[derive(Debug)]
struct Classes {
    /// All positions, those of a class together.
    order: Vec<u32>,
    /// Where each class begins in `order`, and the end.
    starts: Vec<usize>,
}

impl Classes {
    fn new(labels: &[u32], classes: usize) -> Self {
        let mut order: Vec<u32> = (0..labels.len() as u32).collect();
        order.sort_by_key(|i| labels[*i as usize]);
        let starts = (0..=classes as u32).map(|c| order.partition_point(|i| labels[*i as usize] < c));
        Self { starts: starts.collect(), order }
    }

    /// `count` samples of other classes than `class`: different ones, if there are so many.
    fn others(&self, class: usize, count: usize, draw: &dyn Draw, name: &str) -> Vec<u32> {
        let (start, end) = (self.starts[class], self.starts[class + 1]);
        let pool = self.order.len() - (end - start);
        let at = |i: usize| self.order[if i < start { i } else { i + end - start }];
        if count <= pool {
            return draw.choice(name, pool, count).into_iter().map(|i| at(i as usize)).collect();
        }
        let numbers = draw.uniform(name, count).into_iter();
        numbers.map(|u| at(((f64::from(u) * pool as f64) as usize).min(pool - 1))).collect()
    }
}

/// An embedding of every training sample.
#[derive(Debug)]
struct Memory {
    /// [N, dimension].
    rows: Tensor,
    /// Samples seen in the last step and their new rows, not yet in `rows`: the step's gradient is still to be computed from the old.
    pending: Option<(Vec<u32>, Tensor)>,
}

impl Memory {
    fn new(setup: &Setup, name: &str, dimension: usize) -> Result<Self> {
        let (samples, bound) = (setup.train_labels.len(), (3.0 / dimension as f64).sqrt());
        let values = setup.draw.uniform(name, samples * dimension);
        let values = Tensor::from_vec(values, (samples, dimension), setup.device)?;
        Ok(Self { rows: values.affine(2.0 * bound, -bound)?, pending: None })
    }

    /// What is pending, if anything, into the memory. Doing it twice changes nothing.
    fn settle(&self) -> Result<()> {
        if let Some((indices, rows)) = &self.pending {
            for (i, index) in indices.iter().enumerate() {
                self.rows.slice_set(&rows.narrow(0, i, 1)?.copy()?, 0, *index as usize)?;
            }
        }
        Ok(())
    }

    /// New rows for these samples: the old ones mixed with their embeddings, of length 1.
    fn update(&mut self, indices: &[u32], embeddings: &Tensor, momentum: f64) -> Result<()> {
        let ids = Tensor::new(indices, self.rows.device())?;
        let old = self.rows.index_select(&ids, 0)?;
        let mixed = ((old * momentum)? + (embeddings.detach() * (1.0 - momentum))?)?;
        self.pending = Some((indices.to_vec(), unit(&mixed)?));
        Ok(())
    }
}

/// Rows of length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-24)?.sqrt()?)?)
}

/// The contrast of one side: `scores` are exp(similarity / T), [B, 1 + K], the sample itself first.
fn contrast(scores: &Tensor, samples: usize) -> Result<Tensor> {
    let (rows, columns) = scores.dims2()?;
    let noise = (columns - 1) as f64 / samples as f64;
    let (positive, negative) = (scores.narrow(1, 0, 1)?, scores.narrow(1, 1, columns - 1)?);
    let hit = (&positive / (&positive + (noise + EPSILON))?)?.log()?.sum_all()?;
    let missed = ((negative + (noise + EPSILON))?.recip()? * noise)?.log()?.sum_all()?;
    Ok(((hit + missed)? * (-1.0 / rows as f64))?)
}

/// What exists once the networks are known.
#[derive(Debug)]
struct Ready {
    pair: Pair,
    classes: Classes,
    student: Linear,
    teacher: Linear,
    student_memory: Memory,
    teacher_memory: Memory,
    /// Divisors of the student's and of the teacher's scores; 0 before the first batch.
    normalizers: Tensor,
}

/// CRD: `sum over both sides of -1/B sum_i [ln(p / (p + K/N)) + sum_k ln((K/N) / (q_k + K/N))]`, where p and q are
/// `exp(<m, e> / T) / Z`: e is a sample's embedding in one network (a trained linear layer on the tap `pooled_feat`, scaled to length 1), m its
/// own row, or that of one of K samples of other classes, in a memory of the other network's embeddings. One term, `crd`.
///
/// Tian, Krishnan, Isola: *Contrastive representation distillation* (ICLR 2020). N is the number of training samples, Z is N times
/// the mean score of the run's first batch. After a step a sample's rows become `0.5 old + 0.5 new`, scaled to length 1.
/// Memories are buffers of N x dimension numbers each (25.6 MB for 50,000 samples of 128): they are part of a checkpoint.
/// K samples are drawn anew for every sample and step, without repetition if there are enough.
/// Scores against the whole memory are one product [B, dimension] x [dimension, N], from which those of the drawn samples
/// are taken: cheaper than gathering K rows for every sample. Any widths of the two networks work.
#[derive(Debug)]
pub struct Crd {
    settings: CrdSettings,
    ready: Option<Ready>,
}

impl Crd {
    /// CRD with these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] unless there is at least one dimension and one negative, the temperature is above 0 and the momentum
    /// between 0 and 1.
    pub fn new(settings: CrdSettings) -> Result<Self> {
        let CrdSettings { dimension, negatives, temperature, momentum } = settings;
        for (key, count) in [("dimension", dimension), ("negatives", negatives)] {
            if count == 0 {
                return Err(Error::Setting { method: "crd", key, value: 0.0, expected: "at least 1" });
            }
        }
        check_weight("crd", "temperature", temperature)?;
        if temperature == 0.0 {
            let expected = "a finite number above 0";
            return Err(Error::Setting { method: "crd", key: "temperature", value: 0.0, expected });
        }
        if !(0.0..=1.0).contains(&momentum) {
            let expected = "between 0 and 1";
            return Err(Error::Setting { method: "crd", key: "momentum", value: momentum, expected });
        }
        Ok(Self { settings, ready: None })
    }

    fn ready(&mut self) -> Result<&mut Ready> {
        self.ready.as_mut().ok_or(Error::NotPrepared { method: "crd" })
    }
}

impl Ready {
    /// Positions whose scores count: each sample's own, then K of other classes. [B, 1 + K], u32.
    fn drawn(&self, batch: &Batch, count: usize) -> Result<Tensor> {
        let labels = batch.labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let mut all = Vec::with_capacity(labels.len() * (count + 1));
        for (row, (index, label)) in batch.indices.iter().zip(&labels).enumerate() {
            all.push(*index);
            all.extend(self.classes.others(*label as usize, count, batch.draw, &format!("crd {row}")));
        }
        Ok(Tensor::from_vec(all, (labels.len(), count + 1), batch.labels.device())?)
    }
}

impl Objective for Crd {
    fn taps(&self) -> RequiredTaps {
        Pair::taps(self.ready.iter().map(|r| &r.pair))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn prepare(&mut self, setup: &Setup) -> Result<()> {
        let pair = stage(setup, "pooled_feat")?;
        let width = self.settings.dimension;
        let classes = Classes::new(setup.train_labels, setup.num_classes);
        let largest = classes.starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        if largest == setup.train_labels.len() {
            let reason =
                "the training set has samples of one class only, or none; CRD needs others to tell apart"
                    .to_owned();
            return Err(Error::Networks { method: "crd", reason });
        }
        let inputs = |dims: &[usize]| dims.iter().product();
        self.ready = Some(Ready {
            student: Linear::new(setup, "embed_student", inputs(&pair.student_dims), width)?,
            teacher: Linear::new(setup, "embed_teacher", inputs(&pair.teacher_dims), width)?,
            student_memory: Memory::new(setup, "memory_student", width)?,
            teacher_memory: Memory::new(setup, "memory_teacher", width)?,
            pair,
            classes,
            normalizers: Tensor::zeros(2, DType::F32, setup.device)?,
        });
        Ok(())
    }

    fn terms(&mut self, batch: &Batch) -> Result<Vec<Term>> {
        let CrdSettings { negatives, temperature, momentum, .. } = self.settings;
        let ready = self.ready()?;
        let (student, teacher) = ready.pair.maps(batch, "crd")?;
        let samples = ready.classes.order.len();
        if batch.indices.len() != student.dim(0)? || batch.indices.iter().any(|i| *i as usize >= samples) {
            return Err(Error::Shape {
                tensor: "indices".to_owned(),
                expected: format!("one position below {samples} for every sample of the batch"),
                found: vec![batch.indices.len()],
            });
        }
        ready.student_memory.settle()?;
        ready.teacher_memory.settle()?;
        let student = unit(&ready.student.forward(&student.flatten_from(1)?)?)?;
        let teacher = unit(&ready.teacher.forward(&teacher.flatten_from(1)?)?)?;
        let drawn = ready.drawn(batch, negatives)?;
        let scores = |embedding: &Tensor, memory: &Tensor| -> Result<Tensor> {
            Ok((embedding.matmul(&memory.t()?)?.gather(&drawn, 1)? * (1.0 / temperature))?.exp()?)
        };
        let pairs = [(&student, &ready.teacher_memory.rows), (&teacher, &ready.student_memory.rows)];
        let mut divisors = ready.normalizers.to_vec1::<f32>()?;
        let first = divisors.contains(&0.0);
        let mut losses = Vec::with_capacity(2);
        for ((embedding, memory), z) in pairs.into_iter().zip(&mut divisors) {
            let scores = scores(embedding, memory)?;
            if first {
                let mean = scores.detach().to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
                *z = (mean * samples as f64) as f32;
            }
            losses.push(contrast(&(scores * (1.0 / f64::from(*z)))?, samples)?);
        }
        if first {
            ready.normalizers = Tensor::new(divisors, student.device())?;
        }
        ready.student_memory.update(batch.indices, &student, momentum)?;
        ready.teacher_memory.update(batch.indices, &teacher, momentum)?;
        let value = (losses.remove(0) + losses.remove(0))?;
        Ok(vec![Term::new("crd", value, 1.0)])
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        if let Some(ready) = &self.ready {
            ready.student.parameters(&mut all);
            ready.teacher.parameters(&mut all);
        }
        all
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let Some(ready) = &self.ready else { return Vec::new() };
        let memory = |memory: &Memory| {
            memory.settle().expect("new rows of a memory fit where the old ones came from");
            memory.rows.clone()
        };
        vec![
            ("memory_student".to_owned(), memory(&ready.student_memory)),
            ("memory_teacher".to_owned(), memory(&ready.teacher_memory)),
            ("normalizers".to_owned(), ready.normalizers.clone()),
        ]
    }

    fn set_buffer(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let ready = self.ready()?;
        let memory = match name {
            "normalizers" if value.dims() == [2] => {
                ready.normalizers = value.copy()?;
                return Ok(());
            }
            "memory_student" => &mut ready.student_memory,
            "memory_teacher" => &mut ready.teacher_memory,
            _ => return Err(Error::UnknownBuffer { name: name.into() }),
        };
        if value.dims() != memory.rows.dims() {
            let (tensor, expected) = (name.to_owned(), format!("{:?}", memory.rows.dims()));
            return Err(Error::Shape { tensor, expected, found: value.dims().to_vec() });
        }
        *memory = Memory { rows: value.copy()?, pending: None };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::lcg;

    /// The reference's value for these scores.
    #[test]
    fn contrast_of_scores() {
        let scores = (lcg(14, &[4, 9]).abs().unwrap() * 0.05).unwrap();
        let value = contrast(&scores, 100).unwrap().to_scalar::<f64>().unwrap();
        assert!((value - 3.8874195249).abs() < 1e-9, "{value}");
    }
}
