//! What an evaluation counts, on the machine until all batches are done.

use super::error::Result;
use super::launch::{Parameters, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use super::rows::{check_apart, check_view, each_row, one_block, shape};

/// Counts over batches, as they lie in a machine's memory: three u64 and an f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Images whose best class is the label.
    pub top1: u64,
    /// Images whose label is among the five best classes.
    pub top5: u64,
    /// Images.
    pub images: u64,
    /// Sum of the cross-entropies, in nats.
    pub loss: f64,
}

impl Counts {
    /// Numbers of [`Element::U64`] in the view that holds them; [`Machine::clear`] sets all to 0.
    pub const LEN: usize = 4;

    /// Numbers of [`Element::F64`] that [`count`] needs for each image.
    pub const COLUMNS: usize = 2;

    /// Reads them from `view`, [`Counts::LEN`] u64.
    ///
    /// # Errors
    /// Another view; a step is being recorded.
    pub fn read(machine: &dyn Machine, view: &View) -> Result<Self> {
        check_view("counts", "counts", view, Self::LEN, Element::U64)?;
        let mut bytes = [[0; 8]; Self::LEN];
        machine.read(view, bytes.as_flattened_mut())?;
        let [top1, top5, images, loss] = bytes.map(u64::from_le_bytes);
        Ok(Self { top1, top5, images, loss: f64::from_bits(loss) })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CounterParameters {
    logits: u64,
    labels: u64,
    rows: u64,
    n: u32,
    classes: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for CounterParameters {}

#[repr(C)]
#[derive(Clone, Copy)]
struct CounterTotalsParameters {
    rows: u64,
    counts: u64,
    n: u32,
    classes: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for CounterTotalsParameters {}

/// Adds a batch to `counts`, [`Counts`]: `logits` are f32 `[n, classes]`, `labels` u32 `[n]`; `rows`, f64
/// `[n, Counts::COLUMNS]`, is overwritten.
///
/// The best class is the first of equal values, and NaN counts as the largest, as in PyTorch. A label that is
/// not a class is never among the best, and makes the loss NaN.
///
/// # Errors
/// A view of another length or type; no images; what is written overlaps something else.
pub fn count(machine: &dyn Machine, logits: &View, labels: &View, rows: &View, counts: &View) -> Result<()> {
    const NAME: &str = "count";
    let (n, classes) = shape(NAME, logits, labels)?;
    check_view(NAME, "rows", rows, n * Counts::COLUMNS, Element::F64)?;
    check_view(NAME, "counts", counts, Counts::LEN, Element::U64)?;
    check_apart(NAME, &[rows, counts], &[logits, labels])?;
    let (n_rows, n_classes) = (n as u32, classes as u32);
    let of_rows = CounterParameters {
        logits: logits.address(),
        labels: labels.address(),
        rows: rows.address(),
        n: n_rows,
        classes: n_classes,
    };
    let totals = CounterTotalsParameters {
        rows: rows.address(),
        counts: counts.address(),
        n: n_rows,
        classes: n_classes,
    };
    // SAFETY: all views have the lengths and types that the kernels take, and labels are compared with the
    // classes.
    unsafe {
        launch_blocks(machine, "counter_rows", &of_rows, each_row(n, classes))?;
        launch_blocks(machine, "counter_totals", &totals, one_block())
    }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gpu::testing::{machines, numbers, upload};

    fn zeros(machine: &dyn Machine, n: usize, element: Element) -> View {
        machine.alloc(n * element.bytes()).unwrap().view(element, 0, n).unwrap()
    }

    fn counts_of(machine: &dyn Machine, batches: &[(&[f32], &[u32])]) -> Counts {
        let counts = zeros(machine, Counts::LEN, Element::U64);
        for (logits, labels) in batches {
            let view = zeros(machine, labels.len(), Element::U32);
            let bytes: Vec<u8> = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
            machine.write(&view, &bytes).unwrap();
            let rows = zeros(machine, labels.len() * Counts::COLUMNS, Element::F64);
            count(machine, &upload(machine, logits, Element::F32), &view, &rows, &counts).unwrap();
        }
        Counts::read(machine, &counts).unwrap()
    }

    /// The words of `Counter::add` of the trainer.
    fn reference(batches: &[(&[f32], &[u32])]) -> Counts {
        let mut counts = Counts::default();
        for (logits, labels) in batches {
            let classes = logits.len() / labels.len();
            for (row, label) in logits.chunks_exact(classes).zip(*labels) {
                let label = *label as usize;
                let own = row[label];
                let beats = |i: usize| {
                    let v = row[i];
                    if own.is_nan() {
                        v.is_nan() && i < label
                    } else {
                        v.is_nan() || v > own || (v == own && i < label)
                    }
                };
                let rank = (0..classes).filter(|i| beats(*i)).count();
                counts.top1 += u64::from(rank == 0);
                counts.top5 += u64::from(rank < 5);
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
                counts.loss += f64::from(max) + sum.ln() - f64::from(own);
                counts.images += 1;
            }
        }
        counts
    }

    fn check_counts(machine: &dyn Machine, batches: &[(&[f32], &[u32])]) -> u64 {
        let (got, want) = (counts_of(machine, batches), reference(batches));
        assert_eq!((got.top1, got.top5, got.images), (want.top1, want.top5, want.images));
        let close = (got.loss - want.loss).abs() <= 1e-12 * want.loss.abs().max(1.0);
        assert!(close || got.loss.is_nan() && want.loss.is_nan(), "{got:?} instead of {want:?}");
        got.loss.to_bits()
    }

    #[test]
    fn counts_as_the_cpu_does() {
        let mut all = Vec::new();
        for machine in machines() {
            for (n, classes) in [(1, 1), (5, 2), (33, 10), (300, 100), (4, 1000)] {
                let coarse = |seed| -> Vec<f32> {
                    // Many equal values.
                    numbers(n * classes, seed).iter().map(|v| (2.0 * v).round()).collect()
                };
                let labels: Vec<u32> = (0..n).map(|i| (i * 7 % classes) as u32).collect();
                let [a, b] = [1, 2].map(coarse);
                all.push(check_counts(&machine, &[(&a, &labels), (&b, &labels)]));
                let large: Vec<f32> = a.iter().map(|v| 1e4 * v).collect();
                all.push(check_counts(&machine, &[(&large, &labels)]));
            }
        }
        let (forwards, backwards) = all.split_at(all.len() / 2);
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn ranks_as_pytorch_does() {
        let nan = f32::NAN;
        let rows =
            [[1.0, 3.0, 2.0, 0.0, -1.0, -2.0, -3.0], [nan; 7], [2.0; 7], [0.0, nan, 5.0, 0.0, 0.0, 0.0, 0.0]];
        for machine in machines() {
            for (labels, top) in [([1, 0, 0, 1], (4, 4)), ([0, 1, 1, 2], (0, 4)), ([5, 6, 5, 0], (0, 1))] {
                check_counts(&machine, &[(rows.as_flattened(), &labels)]);
                let got = counts_of(&machine, &[(rows.as_flattened(), &labels)]);
                assert_eq!((got.top1, got.top5), top);
            }
            for value in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                check_counts(&machine, &[(&[value; 7], &[3])]);
                check_counts(&machine, &[(&[1.0, value, 0.0], &[0])]);
            }
        }
    }

    #[test]
    fn a_label_that_is_no_class_is_never_right() {
        for machine in machines() {
            let got = counts_of(&machine, &[(&[1.0, 2.0, 3.0, 4.0], &[2, u32::MAX])]);
            assert!((got.top1, got.top5, got.images) == (0, 0, 2) && got.loss.is_nan());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let new = |n, element| zeros(&machine, n, element);
            let (logits, labels) = (new(6, Element::F32), new(2, Element::U32));
            let (rows, counts) = (new(4, Element::F64), new(Counts::LEN, Element::U64));
            let go = |l: &View, y: &View, r: &View, c: &View| count(&machine, l, y, r, c);
            go(&logits, &labels, &rows, &counts).unwrap();
            assert!(go(&logits, &new(4, Element::U32), &rows, &counts).is_err());
            assert!(go(&logits, &new(0, Element::U32), &rows, &counts).is_err());
            assert!(go(&logits, &new(2, Element::F32), &rows, &counts).is_err());
            assert!(go(&new(6, Element::Bf16), &labels, &rows, &counts).is_err());
            assert!(go(&logits, &labels, &new(3, Element::F64), &counts).is_err());
            assert!(go(&logits, &labels, &rows, &rows).is_err());
            assert!(Counts::read(&machine, &rows).is_err());
        }
    }
}
