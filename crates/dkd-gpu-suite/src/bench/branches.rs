//! Several students in one recorded step: on branches, and one after the other.

use super::{Bench, PART, Task, rates};
use crate::report::{Line, Report};
use crate::suite::name_of;
use anyhow::Result;
use candle_core::Device;
use dkd_engine::gpu::GpuSession;
use dkd_engine::{DropoutKey, Mode, Precision, SessionOptions};
use dkd_kernels::gpu::{Recorded, branches, record};
use dkd_models::{ModelOptions, build};
use dkd_trainer::Arithmetic;
use std::sync::Arc;

/// Images in a second of both ways, and how many students have other gradients on branches.
struct Measured {
    one_by_one: f64,
    branched: f64,
    different: usize,
}

impl Bench<'_> {
    /// Measures forward and backward passes of a cohort, for all batches and precisions.
    pub fn cohort(&self, report: &mut Report) {
        let (students, model) = &self.suite.sizes.cohort;
        let name = format!("{students} x {model}");
        for batch in &self.suite.sizes.batches {
            for arithmetic in &self.suite.precisions {
                let precision = name_of(*arithmetic);
                report.attempt(PART, &format!("{name}, {batch}, {precision}"), |report| {
                    let found = self.branched(*students, model, *batch, *arithmetic)?;
                    let work = Task { student: model, teacher: None }.work(
                        self.data.num_classes(),
                        *batch,
                        *arithmetic,
                    )?;
                    let bound = work.bound(self.rates(*arithmetic)).map(|b| b.0);
                    for (way, rate) in [("one by one", found.one_by_one), ("branches", found.branched)] {
                        let group = format!("{name}, {batch}, {way}");
                        let case = format!("{group}, {precision}");
                        report.add(Line::rate(PART, &group, &case, rate, bound, "img/s"));
                    }
                    let different = found.different as f64;
                    let case = format!("{batch}, {precision}");
                    report.add(Line::difference(PART, &format!("{name}, branches"), &case, different, 0.0));
                    Ok(())
                });
            }
        }
    }

    fn branched(
        &self,
        students: usize,
        model: &str,
        batch: usize,
        arithmetic: Arithmetic,
    ) -> Result<Measured> {
        let machine = &*self.suite.machine;
        let student = |i: usize| -> Result<GpuSession> {
            let graph = build(model, &ModelOptions::new(self.data.num_classes()))?;
            let options =
                SessionOptions { max_batch: batch, train: true, taps: Vec::new(), precision: Precision::F32 };
            let device = Arc::clone(&self.suite.machine);
            let mut session = GpuSession::new(graph, device, options, arithmetic, &Device::Cpu)?;
            session.init(i as u64)?;
            session.prepare(Mode::Train, batch)?;
            session.set_key(DropoutKey { seed: i as u64, epoch: 1, step: 0 })?;
            for (to, key) in [(session.input(Mode::Train, batch)?, 0), (session.logits_gradient(batch)?, 1)] {
                machine.write(&to, &rates::numbers(to.len(), to.element(), 2 * i as u64 + key))?;
            }
            Ok(session)
        };
        let mut all = (0..students).map(student).collect::<Result<Vec<_>>>()?;
        let step = |session: &mut GpuSession| -> dkd_engine::Result<()> {
            session.run(Mode::Train, batch)?;
            session.run_backward()
        };
        machine.prepare_branches(students)?;
        let one_by_one = record(machine, &mut || all.iter_mut().try_for_each(step))?;
        let branched = record(machine, &mut || branches(machine, students, &mut |i| step(&mut all[i])))?;
        let gradients = |step: &dyn Recorded| -> Result<Vec<Vec<f32>>> {
            step.replay()?;
            all.iter().map(|session| Ok(session.read_gradients()?)).collect()
        };
        let (want, got) = (gradients(&*one_by_one)?, gradients(&*branched)?);
        let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        let different = want.iter().zip(&got).filter(|(want, got)| !same(want, got)).count();
        let rate = |step: &dyn Recorded| -> Result<f64> {
            let seconds = rates::seconds(machine, self.suite.sizes.repeats, || Ok(step.replay()?))?;
            Ok((students * batch) as f64 / seconds)
        };
        Ok(Measured { one_by_one: rate(&*one_by_one)?, branched: rate(&*branched)?, different })
    }
}
