//! The losses of a batch of logits and their gradient, with sums that stay on the machine.
//!
//! The formulas are those of the crate `dkd-losses`, row by row in f64, rounded to f32 at the end; gradients
//! are those of the mean over the rows.

#[cfg(all(test, feature = "emulated"))]
mod tests;

use super::error::{Result, check};
use super::launch::{Parameters, address, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use super::rows::{check_apart, check_view, each_row, one_block, shape};

const NAME: &str = "losses";

/// Weights and temperatures, as they lie in a machine's memory: these numbers as f32, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of the cross-entropy.
    pub ce: f32,
    /// Of KD.
    pub kd: f32,
    /// Of TCKD.
    pub alpha: f32,
    /// Of NCKD.
    pub beta: f32,
    /// Of KD, above 0.
    pub kd_temperature: f32,
    /// Of TCKD and NCKD, above 0.
    pub dkd_temperature: f32,
}

impl Weights {
    /// Numbers of [`Element::F32`] in the view that holds them.
    pub const LEN: usize = 6;

    /// Writes them to `view`, [`Weights::LEN`] f32.
    ///
    /// # Errors
    /// A temperature that is not finite and above 0; another view; a step is being recorded.
    pub fn write(&self, machine: &dyn Machine, view: &View) -> Result<()> {
        check_view(NAME, "weights", view, Self::LEN, Element::F32)?;
        for t in [self.kd_temperature, self.dkd_temperature] {
            check(NAME, t.is_finite() && t > 0.0, || format!("a temperature of {t}"))?;
        }
        let Self { ce, kd, alpha, beta, kd_temperature, dkd_temperature } = *self;
        let numbers = [ce, kd, alpha, beta, kd_temperature, dkd_temperature];
        machine.write(view, numbers.map(f32::to_le_bytes).as_flattened())
    }
}

/// Sums over rows, as they lie in a machine's memory: these numbers as f64, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Of the cross-entropies.
    pub ce: f64,
    /// Of T² times the divergence of KD.
    pub kd: f64,
    /// Of T² times the divergence of the target against the others.
    pub tckd: f64,
    /// Of T² times the divergence among the others.
    pub nckd: f64,
    /// Of rows whose best class is the label.
    pub correct: f64,
    /// Of rows.
    pub rows: f64,
}

impl Totals {
    /// Numbers of [`Element::F64`] in the view that holds them; [`Machine::clear`] sets all to 0.
    pub const LEN: usize = 6;

    /// Reads them from `view`, [`Totals::LEN`] f64.
    ///
    /// # Errors
    /// Another view; a step is being recorded.
    pub fn read(machine: &dyn Machine, view: &View) -> Result<Self> {
        check_view(NAME, "totals", view, Self::LEN, Element::F64)?;
        let mut bytes = [[0; 8]; Self::LEN];
        machine.read(view, bytes.as_flattened_mut())?;
        let [ce, kd, tckd, nckd, correct, rows] = bytes.map(f64::from_le_bytes);
        Ok(Self { ce, kd, tckd, nckd, correct, rows })
    }
}

/// How DKD is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoupling {
    /// In f64, finite for all finite logits.
    Stable,
    /// As the public reference does, in f32, with its infinities and NaN: `dkd_losses::decoupled_reference` says where they come from.
    Reference,
}

/// What is learnt from a teacher.
#[derive(Clone, Copy, Debug)]
pub struct Distillation<'a> {
    /// Its logits, f32 `[n, classes]`: a constant.
    pub teacher: &'a View,
    /// `KD = T² KL(softmax(t / T) || softmax(s / T))`.
    pub kd: bool,
    /// `TCKD` and `NCKD`: the same divergence of the label against all others together, and among the others.
    pub dkd: Option<Decoupling>,
    /// Whether both networks' logits are standardised first, by row: `(x - mean(x)) / (1e-7 + std(x))`, where
    /// std divides by `classes - 1`. The cross-entropy is of the logits as they are.
    pub standardize: bool,
}

/// What is read and written.
#[derive(Clone, Copy, Debug)]
pub struct Losses<'a> {
    /// f32 `[n, classes]`.
    pub student: &'a View,
    /// u32 `[n]`.
    pub labels: &'a View,
    /// [`Weights`].
    pub weights: &'a View,
    /// Beside the cross-entropy.
    pub distillation: Option<Distillation<'a>>,
    /// Of the weighted sum of all terms, mean over rows, with respect to the student's logits: f32 `[n,
    /// classes]`, overwritten.
    pub gradient: &'a View,
    /// f32 `[n, Losses::COLUMNS]`, overwritten: of each row the four terms, whether its best class is the
    /// label, and whether one of its numbers is not finite.
    pub rows: &'a View,
    /// [`Totals`], added to.
    pub totals: &'a View,
    /// u32 `[1]`: becomes 1 if a term or a number of the gradient is not finite, and else stays.
    pub bad: &'a View,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LossParameters {
    student: u64,
    teacher: u64,
    labels: u64,
    weights: u64,
    gradient: u64,
    rows: u64,
    n: u32,
    classes: u32,
    kd: u32,
    dkd: u32,
    standardize: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for LossParameters {}

#[repr(C)]
#[derive(Clone, Copy)]
struct LossTotalsParameters {
    rows: u64,
    totals: u64,
    bad: u64,
    n: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for LossTotalsParameters {}

impl Losses<'_> {
    /// Columns of [`Losses::rows`].
    pub const COLUMNS: usize = 6;

    /// Computes `ce CE + kd KD + alpha TCKD + beta NCKD`, its gradient, and its sums over the rows.
    ///
    /// Values and gradients are finite for all finite logits, as far as f32 reaches, exactly 0 for logits
    /// like the teacher's (but for the cross-entropy), and NaN for NaN: all this but for [`Decoupling::Reference`]. Terms that are
    /// not asked for are 0.
    /// With two classes NCKD is 0. A label that is not a class makes its row NaN.
    ///
    /// # Errors
    /// A view of another length or type; no rows; DKD with one class; what is written overlaps something
    /// else.
    pub fn run(&self, machine: &dyn Machine) -> Result<()> {
        let Self { student, labels, weights, distillation, gradient, rows, totals, bad } = *self;
        let (n, classes) = shape(NAME, student, labels)?;
        check_view(NAME, "weights", weights, Weights::LEN, Element::F32)?;
        check_view(NAME, "gradient", gradient, student.len(), Element::F32)?;
        check_view(NAME, "rows", rows, n * Self::COLUMNS, Element::F32)?;
        check_view(NAME, "totals", totals, Totals::LEN, Element::F64)?;
        check_view(NAME, "bad", bad, 1, Element::U32)?;
        let teacher = distillation.map(|d| d.teacher);
        if let Some(teacher) = teacher {
            check_view(NAME, "the teacher's logits", teacher, student.len(), Element::F32)?;
        }
        let asked = |of: fn(&Distillation<'_>) -> bool| distillation.as_ref().is_some_and(of);
        let (kd, dkd) = (asked(|d| d.kd), distillation.and_then(|d| d.dkd));
        check(NAME, dkd.is_none() || classes > 1, || "DKD takes two classes or more".to_owned())?;
        let read: Vec<&View> = [student, labels, weights].into_iter().chain(teacher).collect();
        check_apart(NAME, &[gradient, rows, totals, bad], &read)?;
        let of_rows = LossParameters {
            student: student.address(),
            teacher: address(teacher),
            labels: labels.address(),
            weights: weights.address(),
            gradient: gradient.address(),
            rows: rows.address(),
            n: n as u32,
            classes: classes as u32,
            kd: u32::from(kd),
            dkd: match dkd {
                None => 0,
                Some(Decoupling::Stable) => 1,
                Some(Decoupling::Reference) => 2,
            },
            standardize: u32::from((kd || dkd.is_some()) && asked(|d| d.standardize)),
            unused: 0,
        };
        let sums = LossTotalsParameters {
            rows: rows.address(),
            totals: totals.address(),
            bad: bad.address(),
            n: n as u32,
            unused: 0,
        };
        // SAFETY: all views have the lengths and types that the kernels take, and labels are compared with
        // the classes.
        unsafe {
            launch_blocks(machine, "losses", &of_rows, each_row(n, classes))?;
            launch_blocks(machine, "loss_totals", &sums, one_block())
        }
    }
}
