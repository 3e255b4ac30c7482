//! Several students in one recorded step: one after the other, and some of them at once, on branches.

use super::{Bench, PART, Task, rates};
use crate::network::ready;
use crate::report::{Line, Report};
use crate::suite::name_of;
use anyhow::Result;
use dkd_engine::Mode;
use dkd_engine::gpu::GpuSession;
use dkd_kernels::gpu::{Recorded, branches, record};
use dkd_trainer::Arithmetic;

/// Images in a second with so many at once, and how many students have other gradients than one by one, at most.
struct Measured {
    rates: Vec<(usize, f64)>,
    different: usize,
}

impl Bench<'_> {
    /// Measures forward and backward passes of a cohort, for all batches and precisions.
    pub fn cohort(&self, students: usize, model: &str, report: &mut Report) {
        let name = format!("{students} x {model}");
        for batch in &self.suite.sizes.batches {
            for arithmetic in &self.suite.precisions {
                let precision = name_of(*arithmetic);
                report.attempt(PART, &format!("{name}, {batch}, {precision}"), |report| {
                    let found = self.branched(students, model, *batch, *arithmetic)?;
                    let work = Task { student: model, teacher: None }.work(
                        self.data.num_classes(),
                        *batch,
                        *arithmetic,
                    )?;
                    let bound = work.bound(self.rates(*arithmetic)).map(|b| b.0);
                    for (width, rate) in found.rates {
                        let group = self.suite.group(&format!("{name}, {batch}, {width} at once"));
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

    /// Measures forward and backward passes of the cohort's network alone: as they are, with gradients of weights aside, and on a branch, where all
    /// is in line.
    pub fn aside(&self, model: &str, report: &mut Report) {
        let batch = self.suite.sizes.batches.iter().copied().min().unwrap_or(1);
        for arithmetic in &self.suite.precisions {
            let precision = name_of(*arithmetic);
            report.attempt(PART, &format!("{model}, {batch}, aside, {precision}"), |report| {
                let machine = &*self.suite.machine;
                let mut session = self.student(model, batch, *arithmetic, 0)?;
                let mut step = || -> dkd_engine::Result<()> {
                    session.run(Mode::Train, batch)?;
                    session.run_backward()
                };
                let aside = record(machine, &mut step)?;
                let in_line = record(machine, &mut || {
                    branches(machine, 2, &mut |i| if i == 0 { step() } else { Ok(()) })
                })?;
                let gradients = |step: &dyn Recorded| -> Result<Vec<f32>> {
                    step.replay()?;
                    Ok(session.read_gradients()?)
                };
                let (want, got) = (gradients(&*in_line)?, gradients(&*aside)?);
                for (way, step) in [("in line", &in_line), ("aside", &aside)] {
                    let seconds = rates::seconds(machine, self.suite.sizes.repeats, || Ok(step.replay()?))?;
                    let group = self.suite.group(&format!("{model}, {batch}, {way}"));
                    let case = format!("{group}, {precision}");
                    report.add(Line::rate(PART, &group, &case, batch as f64 / seconds, None, "img/s"));
                }
                let different = f64::from(u8::from(!same(&want, &got)));
                report.add(Line::difference(PART, &format!("{model}, aside"), precision, different, 0.0));
                Ok(())
            });
        }
    }

    fn student(&self, model: &str, batch: usize, arithmetic: Arithmetic, seed: u64) -> Result<GpuSession> {
        ready(&self.suite.machine, (model, self.data.num_classes()), batch, arithmetic, seed)
    }

    fn branched(
        &self,
        students: usize,
        model: &str,
        batch: usize,
        arithmetic: Arithmetic,
    ) -> Result<Measured> {
        let machine = &*self.suite.machine;
        let student = |i| self.student(model, batch, arithmetic, i as u64);
        let mut all = (0..students).map(student).collect::<Result<Vec<_>>>()?;
        let step = |session: &mut GpuSession| -> dkd_engine::Result<()> {
            session.run(Mode::Train, batch)?;
            session.run_backward()
        };
        machine.prepare_branches(students)?;
        let (mut rates, mut want, mut different) = (Vec::new(), None, 0);
        for width in widths(students) {
            // Of one branch none is made.
            let recorded = record(machine, &mut || {
                branches(machine, width, &mut |i| all.iter_mut().skip(i).step_by(width).try_for_each(step))
            })?;
            recorded.replay()?;
            let got: Vec<Vec<f32>> =
                all.iter().map(|session| Ok(session.read_gradients()?)).collect::<Result<_>>()?;
            let want = want.get_or_insert_with(|| got.clone());
            different = different.max(want.iter().zip(&got).filter(|(want, got)| !same(want, got)).count());
            let seconds = rates::seconds(machine, self.suite.sizes.repeats, || Ok(recorded.replay()?))?;
            rates.push((width, (students * batch) as f64 / seconds));
        }
        Ok(Measured { rates, different })
    }
}

/// One, all, and powers of two between.
fn widths(students: usize) -> Vec<usize> {
    let mut all: Vec<_> = (0..).map(|power| 1 << power).take_while(|width| *width < students).collect();
    all.push(students);
    all
}

/// Whether all bits are the same.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_go_from_one_to_all() {
        assert_eq!(widths(1), [1]);
        assert_eq!(widths(2), [1, 2]);
        assert_eq!(widths(3), [1, 2, 3]);
        assert_eq!(widths(12), [1, 2, 4, 8, 12]);
    }
}
