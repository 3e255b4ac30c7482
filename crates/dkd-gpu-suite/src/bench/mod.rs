//! Training speed through the trainer, beside what the device's own rates would allow.

mod branches;
mod floor;
mod meter;
pub(crate) mod rates;

use crate::network::convolutions;
use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use crate::training::{images, quoted, recipe, train, untrained};
use anyhow::{Result, bail};
use dkd_datasets::Dataset;
use dkd_kernels::gpu::convolution::Pass;
use dkd_models::{ModelOptions, build};
use dkd_trainer::Arithmetic;
use floor::{Rates, Work};
use meter::Meter;
use std::path::Path;

const PART: &str = "bench";

/// Measures the device, then every network alone, then a student of DKD, then several students in one step.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    let mut copy = None;
    report.attempt(PART, "copy", |report| {
        let rate = rates::copy(&*suite.machine, suite.sizes.copy, suite.sizes.repeats)?;
        copy = Some(rate);
        report.add(Line::rate(PART, "copy", "copy, read and written", rate / 1e9, None, "GB/s"));
        Ok(())
    });
    let mut rates = Vec::new();
    for arithmetic in &suite.precisions {
        let case = format!("1x1 convolution, {}", name_of(*arithmetic));
        report.attempt(PART, &case, |report| {
            let rate = rates::products(&*suite.machine, *arithmetic, &suite.sizes)?;
            report.add(Line::rate(PART, "1x1 convolution", &case, rate / 1e12, None, "TFLOP/s"));
            rates.push((*arithmetic, rate));
            Ok(())
        });
    }
    let folder = tempfile::tempdir()?;
    let largest = suite.sizes.batches.iter().copied().max().unwrap_or(1);
    // A cohort has its own.
    let trained = !suite.sizes.bench_models.is_empty() || suite.sizes.pair.is_some();
    let data = images(suite.data.as_ref(), if trained { suite.sizes.images } else { 1 }, largest);
    let bench = Bench { suite, data: &data, products: &rates, copy, teacher: folder.path() };
    for model in &suite.sizes.bench_models {
        bench.all(&Task { student: model, teacher: None }, report);
    }
    if let Some([teacher, student]) = &suite.sizes.pair {
        bench.all(&Task { student, teacher: Some(teacher) }, report);
    }
    if let Some((_, model)) = suite.sizes.cohorts.first() {
        bench.aside(model, report);
    }
    for (students, model) in &suite.sizes.cohorts {
        bench.cohort(*students, model, report);
    }
    Ok(())
}

/// What is trained.
struct Task<'a> {
    student: &'a str,
    /// With DKD, if there is one.
    teacher: Option<&'a str>,
}

impl Task<'_> {
    fn name(&self) -> String {
        match self.teacher {
            Some(teacher) => format!("dkd {teacher}, {}", self.student),
            None => self.student.to_owned(),
        }
    }

    /// What it takes for each image.
    fn work(&self, classes: usize, batch: usize, arithmetic: Arithmetic) -> Result<Work> {
        let options = ModelOptions::new(classes);
        let own = Work::training(&build(self.student, &options)?, batch, arithmetic);
        let Some(teacher) = self.teacher else { return Ok(own) };
        Ok(own.plus(Work::answers(&build(teacher, &options)?, batch, arithmetic)))
    }
}

struct Bench<'a> {
    suite: &'a Suite,
    data: &'a Dataset,
    /// Operations in a second.
    products: &'a [(Arithmetic, f64)],
    /// Bytes in a second.
    copy: Option<f64>,
    /// Folder for teachers.
    teacher: &'a Path,
}

impl Bench<'_> {
    fn all(&self, task: &Task<'_>, report: &mut Report) {
        for batch in &self.suite.sizes.batches {
            for arithmetic in &self.suite.precisions {
                let group = self.suite.group(&format!("{}, {batch}", task.name()));
                let case = format!("{group}, {}", name_of(*arithmetic));
                report.attempt(PART, &case, |report| {
                    let (rate, lost) = self.measure(task, *batch, *arithmetic)?;
                    let bound = task
                        .work(self.data.num_classes(), *batch, *arithmetic)?
                        .bound(self.rates(*arithmetic));
                    let mut line = Line::rate(PART, &group, &case, rate, bound.map(|b| b.0), "img/s");
                    let mut notes: Vec<String> =
                        bound.map(|(_, what)| format!("bound by {what}")).into_iter().collect();
                    if let Some(loss) = lost {
                        line.ok = false;
                        notes.push(format!("the loss is {loss}"));
                    }
                    notes.extend(self.left_to_us(task, *batch, *arithmetic)?);
                    line.note = Some(notes.join("; ")).filter(|notes| !notes.is_empty());
                    report.add(line);
                    Ok(())
                });
            }
        }
    }

    /// What the device can do.
    fn rates(&self, arithmetic: Arithmetic) -> Rates {
        let products = self.products.iter().find(|(a, _)| *a == arithmetic).map(|(_, rate)| *rate);
        Rates { products, copy: self.copy }
    }

    /// How many convolutions of a step, each pass counted, the library does not compute, if there are any.
    fn left_to_us(&self, task: &Task<'_>, batch: usize, arithmetic: Arithmetic) -> Result<Option<String>> {
        let classes = self.data.num_classes();
        let mut all = convolutions((task.student, classes), batch, arithmetic)?;
        if let Some(teacher) = task.teacher {
            let of_teacher = convolutions((teacher, classes), batch, arithmetic)?;
            all.extend(of_teacher.into_iter().filter(|(pass, _)| *pass == Pass::Forward));
        }
        let mut ours = 0;
        for (pass, convolution) in &all {
            ours += usize::from(!self.suite.machine.prepare(*pass, convolution)?);
        }
        Ok((ours > 0).then(|| format!("{ours} of {} convolutions by kernels of ours", all.len())))
    }

    /// Images in a second, and a loss that was not finite.
    fn measure(&self, task: &Task<'_>, batch: usize, arithmetic: Arithmetic) -> Result<(f64, Option<f64>)> {
        // Whole batches only: another size would be recorded anew.
        let images = self.data.train.len().min(self.suite.sizes.images) / batch * batch;
        if images == 0 {
            bail!("a batch has {batch} images, and there are {}", self.data.train.len());
        }
        let (mut teacher, mut loss) = (String::new(), "[{ method = 'ce' }]");
        if let Some(model) = task.teacher {
            let file = self.teacher.join(format!("{model}.safetensors"));
            untrained(model, self.data.num_classes(), &self.suite.cpu, &file)?;
            teacher = format!("teacher = {{ model = '{model}', weights = {} }}", quoted(&file)?);
            loss = "[{ method = 'ce' }, { method = 'dkd', alpha = 1.0, beta = 8.0, temperature = 4.0 }]";
        }
        let recipe = recipe(&format!(
            "data = {{ dataset = 'synthetic', augment = 'crop-flip', train_limit = {images}, test_limit = {} }}
            train = {{ epochs = 10000, batch_size = {batch}, nonfinite = 'continue' }}
            optimizer = {{ lr = 0.01, momentum = 0.9, weight_decay = 5e-4 }}
            student.model = '{}'
            {teacher}
            [[rows]]
            id = 'row'
            loss = {loss}",
            batch.min(self.data.test.len()),
            task.student,
        ))?;
        let compute = self.suite.compute(self.suite.gpu(arithmetic, true));
        let mut meter = Meter::new(self.suite.sizes.seconds);
        let stop = meter.stop();
        train(&recipe, self.data, compute, None, &mut meter, &stop)?;
        Ok((meter.rate()?, meter.lost()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_only_answers() {
        let work = |teacher| Task { student: "resnet8", teacher }.work(10, 64, Arithmetic::F32).unwrap();
        let (alone, taught) = (work(None), work(Some("resnet8")));
        assert!((taught.operations / alone.operations - 4.0 / 3.0).abs() < 1e-12);
        assert!(taught.bytes > alone.bytes);
        assert_eq!(Task { student: "a", teacher: Some("b") }.name(), "dkd b, a");
    }
}
