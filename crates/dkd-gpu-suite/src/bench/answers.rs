//! A teacher's answers: convolutions and what follows them apart, and in one.

use super::{Bench, PART, answers, rates};
use crate::compare::{bounds, largest};
use crate::network::ready;
use crate::report::{Line, Report};
use crate::suite::name_of;
use anyhow::Result;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Recorded, record};
use dkd_trainer::Arithmetic;
use std::time::Instant;

/// Batches after which running statistics are near those of a batch.
const STATISTICS: usize = 20;

impl Bench<'_> {
    /// Measures what the teacher of a student of DKD computes in every step, in both ways, and compares the logits.
    pub fn answers(&self, model: &str, report: &mut Report) {
        let batch = self.suite.sizes.batches.iter().copied().min().unwrap_or(1);
        for arithmetic in &self.suite.precisions {
            let case = format!("{model}, {batch}, answers, {}", name_of(*arithmetic));
            report.attempt(PART, &case, |report| self.both(model, batch, *arithmetic, report));
        }
    }

    fn both(&self, model: &str, batch: usize, arithmetic: Arithmetic, report: &mut Report) -> Result<()> {
        let (machine, precision) = (&*self.suite.machine, name_of(arithmetic));
        let mut session = ready(&self.suite.machine, (model, self.data.num_classes()), batch, arithmetic, 0)?;
        // Running statistics of these images, so that nothing grows from layer to layer.
        for _ in 0..STATISTICS {
            session.run(Mode::Train, batch)?;
        }
        session.freeze(batch)?;
        machine.copy(&session.input(Mode::Train, batch)?, &session.input(Mode::Eval, batch)?)?;
        let mut measure = |session: &mut GpuSession, way: &str, note: Option<String>| -> Result<Vec<f32>> {
            let step = record(machine, &mut || session.run(Mode::Eval, batch))?;
            let seconds = rates::seconds(machine, self.suite.sizes.repeats, || Ok(step.replay()?))?;
            let rate = batch as f64 / seconds;
            let group = self.suite.group(&format!("{model}, {batch}, answers {way}"));
            let work = answers(model, self.data.num_classes(), batch, arithmetic)?;
            let bound = work.bound(self.rates(arithmetic)).map(|b| b.0);
            let line = Line::rate(PART, &group, &format!("{group}, {precision}"), rate, bound, "img/s");
            report.add(Line { note, ..line });
            logits(&*step, session, batch)
        };
        let apart = measure(&mut session, "apart", None)?;
        let begin = Instant::now();
        let pairs = session.fuse(batch, u64::MAX)?;
        let seconds = begin.elapsed().as_secs_f64();
        if pairs == 0 {
            report.say(&format!("{PART}: {model}, {precision}: nothing is computed in one"));
            return Ok(());
        }
        let note = format!("{pairs} of {} in one, ready in {seconds:.1} s", session.fusible(batch)?.len());
        let in_one = measure(&mut session, "in one", Some(note))?;
        let group = format!("{model}, answers in one");
        let (value, [bound, _]) = (largest(&in_one, &apart), bounds(arithmetic));
        report.add(Line::difference(PART, &group, precision, value, bound));
        Ok(())
    }
}

/// What a recorded evaluation answers.
fn logits(step: &dyn Recorded, session: &GpuSession, batch: usize) -> Result<Vec<f32>> {
    let view = session.logits_view(Mode::Eval, batch)?;
    session.machine().clear(&view)?;
    step.replay()?;
    let mut bytes = vec![0; view.bytes()];
    session.machine().read(&view, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}
