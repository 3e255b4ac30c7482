//! A teacher's answers: convolutions and what follows them apart, and in one.

use crate::bench::rates;
use crate::compare::{bounds, largest};
use crate::network::ready;
use crate::report::{Line, Report};
use crate::suite::{Suite, name_of};
use anyhow::{Result, bail};
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Recorded, record};
use dkd_trainer::Arithmetic;
use std::time::Instant;

const PART: &str = "answers";
/// Batches after which running statistics are near those of a batch.
const STATISTICS: usize = 20;

/// Measures what each network would compute in every step as a teacher, in both ways, and compares the logits.
pub fn run(suite: &Suite, report: &mut Report) -> Result<()> {
    let batch = suite.sizes.batches.iter().copied().min().unwrap_or(1);
    for model in &suite.sizes.answer_models {
        for arithmetic in &suite.precisions {
            let case = format!("{model}, {batch}, {}", name_of(*arithmetic));
            report.attempt(PART, &case, |report| one(suite, model, batch, *arithmetic, report));
        }
    }
    Ok(())
}

fn one(suite: &Suite, model: &str, batch: usize, arithmetic: Arithmetic, report: &mut Report) -> Result<()> {
    let (machine, precision) = (&*suite.machine, name_of(arithmetic));
    let mut session = ready(&suite.machine, (model, 100), batch, arithmetic, 0)?;
    // Running statistics of these images, so that nothing grows from layer to layer.
    for _ in 0..STATISTICS {
        session.run(Mode::Train, batch)?;
    }
    session.freeze(batch)?;
    machine.copy(&session.input(Mode::Train, batch)?, &session.input(Mode::Eval, batch)?)?;
    let measure = |session: &mut GpuSession, way: &str, note, report: &mut Report| -> Result<Vec<f32>> {
        let step = record(machine, &mut || session.run(Mode::Eval, batch))?;
        let seconds = rates::seconds(machine, suite.sizes.repeats, || Ok(step.replay()?))?;
        let group = suite.group(&format!("{model}, {batch}, answers {way}"));
        let case = format!("{group}, {precision}");
        let line = Line::rate(PART, &group, &case, batch as f64 / seconds, None, "img/s");
        report.add(Line { note, ..line });
        logits(&*step, session, batch)
    };
    let apart = measure(&mut session, "apart", None, report)?;
    let begin = Instant::now();
    let pairs = session.fuse(batch, u64::MAX)?;
    let seconds = begin.elapsed().as_secs_f64();
    let all = session.fusible(batch)?.len();
    if pairs == 0 && arithmetic == Arithmetic::F32 {
        report.say(&format!("{PART}: {model}, {precision}: nothing is computed in one"));
        return Ok(());
    }
    if pairs == 0 {
        bail!("nothing of {all} is computed in one; the log says why");
    }
    let note = format!("{pairs} of {all} in one, ready in {seconds:.1} s");
    let in_one = measure(&mut session, "in one", Some(note), report)?;
    let (value, [bound, _]) = (largest(&in_one, &apart), bounds(arithmetic));
    report.add(Line::difference(PART, &format!("{model}, answers in one"), precision, value, bound));
    Ok(())
}

/// What a recorded evaluation answers.
fn logits(step: &dyn Recorded, session: &GpuSession, batch: usize) -> Result<Vec<f32>> {
    let view = session.logits_view(Mode::Eval, batch)?;
    session.machine().clear(&view)?;
    step.replay()?;
    Ok(session.machine().read_floats(&view)?)
}
