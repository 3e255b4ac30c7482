//! Training speed through the trainer, beside what the device's own rates would allow.

mod meter;
mod rates;

use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use crate::training::{images, quoted, recipe, train, untrained};
use anyhow::{Result, bail};
use dkd_datasets::Dataset;
use dkd_models::{ModelOptions, build};
use dkd_trainer::{Arithmetic, Compute};
use meter::Meter;
use std::path::Path;
use std::sync::Arc;

const PART: &str = "bench";

/// Measures the device, then every network alone, then a student of DKD.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    report.attempt(PART, "copy", |report| {
        let rate = rates::copy(&*suite.machine, suite.sizes.copy, suite.sizes.repeats)?;
        report.add(Line::rate(PART, "copy", "copy, read and written", rate / 1e9, None, "GB/s"));
        Ok(())
    });
    let mut rates = Vec::new();
    for arithmetic in &suite.precisions {
        let case = format!("1x1 convolution, {}", name_of(*arithmetic));
        report.attempt(PART, &case, |report| {
            let rate = rates::products(&*suite.machine, *arithmetic, &suite.sizes)?;
            report.add(Line::rate(PART, &case, &case, rate / 1e12, None, "TFLOP/s"));
            rates.push((*arithmetic, rate));
            Ok(())
        });
    }
    let folder = tempfile::tempdir()?;
    let largest = suite.sizes.batches.iter().copied().max().unwrap_or(1);
    let data = images(suite.data.as_ref(), suite.sizes.images, largest);
    let bench = Bench { suite, data: &data, rates: &rates, teacher: folder.path() };
    for model in &suite.sizes.bench_models {
        bench.all(&Task { student: model, teacher: None }, report);
    }
    let [teacher, student] = &suite.sizes.pair;
    bench.all(&Task { student, teacher: Some(teacher) }, report);
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

    /// Operations for each image: forward and twice as many backward, and the teacher's forward.
    fn operations(&self, classes: usize) -> Result<f64> {
        let macs =
            |model: &str| -> Result<f64> { Ok(build(model, &ModelOptions::new(classes))?.macs() as f64) };
        let teacher = self.teacher.map(macs).transpose()?.unwrap_or(0.0);
        Ok(2.0 * (3.0 * macs(self.student)? + teacher))
    }
}

struct Bench<'a> {
    suite: &'a Suite,
    data: &'a Dataset,
    /// Operations in a second.
    rates: &'a [(Arithmetic, f64)],
    /// Folder for teachers.
    teacher: &'a Path,
}

impl Bench<'_> {
    fn all(&self, task: &Task<'_>, report: &mut Report) {
        for batch in &self.suite.sizes.batches {
            for arithmetic in &self.suite.precisions {
                let group = format!("{}, {batch}", task.name());
                let case = format!("{group}, {}", name_of(*arithmetic));
                report.attempt(PART, &case, |report| {
                    let rate = self.measure(task, *batch, *arithmetic)?;
                    let own = self.rates.iter().find(|(a, _)| a == arithmetic).map(|(_, rate)| *rate);
                    let operations = task.operations(self.data.num_classes())?;
                    let bound = own.map(|own| own / operations);
                    let mut line = Line::rate(PART, &group, &case, rate, bound, "img/s");
                    line.note = bound.map(|bound| format!("{:.1} % of it", 100.0 * rate / bound));
                    report.add(line);
                    Ok(())
                });
            }
        }
    }

    /// Images in a second.
    fn measure(&self, task: &Task<'_>, batch: usize, arithmetic: Arithmetic) -> Result<f64> {
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
        let gpu = Some(self.suite.gpu(arithmetic, true));
        let compute = Compute { cpu: Arc::clone(&self.suite.cpu), gpu };
        let mut meter = Meter::new(self.suite.sizes.seconds);
        let stop = meter.stop();
        train(&recipe, self.data, compute, None, &mut meter, &stop)?;
        meter.rate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_only_answers() {
        let alone = Task { student: "resnet8", teacher: None }.operations(10).unwrap();
        let taught = Task { student: "resnet8", teacher: Some("resnet8") };
        assert_eq!(taught.name(), "dkd resnet8, resnet8");
        assert!((taught.operations(10).unwrap() / alone - 4.0 / 3.0).abs() < 1e-12);
    }
}
