//! The SGD update of flat buffers, and the norm of gradients that clipping needs.

use super::error::{Result, check};
use super::launch::{Parameters, Threads, address, launch, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use crate::flat;

/// Settings of an update, as they lie in a machine's memory: 40 bytes.
///
/// `lr`, `momentum`, `dampening`, `weight_decay` and `scale` are f32, then come `nesterov` and `first` as u32
/// of 0 or 1 and 4 bytes that are not used, then the largest norm of the gradients as f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// As on the CPU.
    pub sgd: flat::Sgd,
    /// Gradients of a larger Euclidean norm are scaled down to about this one, by `min(1, limit / (norm +
    /// 1e-6))`; 0: never.
    pub limit: f64,
}

impl Settings {
    /// Numbers of [`Element::U64`] in the view that holds them.
    pub const LEN: usize = 5;

    /// Writes them to `view`, [`Settings::LEN`] u64.
    ///
    /// # Errors
    /// Another view; a step is being recorded.
    pub fn write(&self, machine: &dyn Machine, view: &View) -> Result<()> {
        check_settings(view)?;
        let s = &self.sgd;
        let numbers = [s.lr, s.momentum, s.dampening, s.weight_decay, s.scale].map(f32::to_bits);
        let words = numbers.into_iter().chain([u32::from(s.nesterov), u32::from(s.first), 0]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).chain(self.limit.to_le_bytes()).collect();
        machine.write(view, &bytes)
    }
}

fn check_settings(view: &View) -> Result<()> {
    check("sgd", view.len() == Settings::LEN && view.element() == Element::U64, || {
        format!("settings in {} {:?}, expected {} U64", view.len(), view.element(), Settings::LEN)
    })
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SgdParameters {
    settings: u64,
    weights: u64,
    gradients: u64,
    momentum: u64,
    squared_norm: u64,
    rounded: u64,
    packs: u64,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for SgdParameters {}

/// What an update reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// [`Settings`].
    pub settings: &'a View,
    /// f32 `[n]`, updated.
    pub weights: &'a View,
    /// f32 `[n]`.
    pub gradients: &'a View,
    /// f32 `[n]`, updated unless the momentum is 0.
    pub momentum: &'a View,
    /// What [`squared_norm`] has made of the gradients, f64 `[1]`; without it the settings' limit has no
    /// effect.
    pub squared_norm: Option<&'a View>,
    /// Where the new weights go as bf16 `[n]`, too.
    pub rounded: Option<&'a View>,
}

/// One update, as [`flat::sgd`] makes it, with the same bits as where the CPU has fused multiply-adds.
///
/// If gradients are clipped, `scale` is multiplied by the factor in f32.
///
/// # Errors
/// A view of another length or type; two that are written overlap.
pub fn sgd(machine: &dyn Machine, update: &Update<'_>) -> Result<()> {
    const NAME: &str = "sgd";
    let Update { settings, weights, gradients, momentum, squared_norm, rounded } = *update;
    check_settings(settings)?;
    let n = weights.len();
    for (what, view) in [("weights", weights), ("gradients", gradients), ("momentum", momentum)] {
        check(NAME, view.len() == n && view.element() == Element::F32, || {
            format!("{} {:?} as {what}, expected {n} F32", view.len(), view.element())
        })?;
    }
    if let Some(norm) = squared_norm {
        check(NAME, norm.len() == 1 && norm.element() == Element::F64, || {
            format!("a squared norm in {} {:?}, expected 1 F64", norm.len(), norm.element())
        })?;
    }
    if let Some(copy) = rounded {
        check(NAME, copy.len() == n && copy.element() == Element::Bf16, || {
            format!("{} {:?} for rounded weights, expected {n} Bf16", copy.len(), copy.element())
        })?;
    }
    let apart = !weights.overlaps(gradients)
        && !momentum.overlaps(gradients)
        && !weights.overlaps(momentum)
        && !rounded.is_some_and(|r| [weights, gradients, momentum].iter().any(|v| v.overlaps(r)));
    check(NAME, apart, || "weights, gradients, momentum and rounded weights overlap".to_owned())?;
    // 16 bytes of f32 at a time, and 8 of bf16, where everything lies on multiples of that.
    let aligned = [weights, gradients, momentum].iter().all(|v| v.address().is_multiple_of(16))
        && address(rounded).is_multiple_of(8);
    let packed = aligned && n.is_multiple_of(4);
    let packs = if packed { n / 4 } else { n };
    let parameters = SgdParameters {
        settings: settings.address(),
        weights: weights.address(),
        gradients: gradients.address(),
        momentum: momentum.address(),
        squared_norm: address(squared_norm),
        rounded: address(rounded),
        packs: packs as u64,
    };
    let kernel = if packed { "sgd_packed" } else { "sgd_plain" };
    // SAFETY: all views have the lengths and types that the kernel takes.
    unsafe { launch(machine, kernel, &parameters, Threads::each(packs)) }
}

/// Numbers that [`squared_norm`] needs for itself.
pub const NORM_PARTS: usize = 512;

#[repr(C)]
#[derive(Clone, Copy)]
struct SquaredNormParameters {
    x: u64,
    partial: u64,
    result: u64,
    n: u64,
    parts: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for SquaredNormParameters {}

/// The sum of the squares of `x`, f32 of any length, in f64 into `result`, f64 `[1]`: it does not overflow.
///
/// `partial` is f64 `[NORM_PARTS]`, overwritten. The sum has a fixed order, which is not the CPU's.
///
/// # Errors
/// A view of another length or type; two overlap.
pub fn squared_norm(machine: &dyn Machine, x: &View, partial: &View, result: &View) -> Result<()> {
    const NAME: &str = "squared_norm";
    let fits = x.element() == Element::F32
        && (partial.len(), partial.element()) == (NORM_PARTS, Element::F64)
        && (result.len(), result.element()) == (1, Element::F64);
    check(NAME, fits, || {
        let list = [x, partial, result].map(|v| format!("{} {:?}", v.len(), v.element())).join(", ");
        format!("{list}; expected F32, {NORM_PARTS} F64, 1 F64")
    })?;
    let apart = !x.overlaps(partial) && !x.overlaps(result) && !partial.overlaps(result);
    check(NAME, apart, || "its views overlap".to_owned())?;
    let block = [256, 1, 1];
    // A thread sums a few numbers at least; the finishing block is there for no numbers, too.
    let parts = x.len().div_ceil(1024).min(NORM_PARTS) as u32;
    let parameters = SquaredNormParameters {
        x: x.address(),
        partial: partial.address(),
        result: result.address(),
        n: x.len() as u64,
        parts,
        unused: 0,
    };
    // SAFETY: each of at most `NORM_PARTS` blocks writes one number; `x.len()` are read.
    unsafe {
        launch_blocks(machine, "squared_norm_partial", &parameters, Threads { grid: [parts, 1, 1], block })?;
        launch_blocks(machine, "squared_norm_finish", &parameters, Threads { grid: [1, 1, 1], block })
    }
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gpu::testing::{download, machines, numbers, stored, upload};
    use crate::{Cpu, Isa};

    fn zeros(machine: &dyn Machine, n: usize, element: Element) -> View {
        machine.alloc(n * element.bytes()).unwrap().view(element, 0, n).unwrap()
    }

    fn double(machine: &dyn Machine, view: &View) -> f64 {
        let mut bytes = [0; 8];
        machine.read(view, &mut bytes).unwrap();
        f64::from_le_bytes(bytes)
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// One update as the CPU with fused multiply-adds makes it, by the words of [`flat::sgd`].
    fn fused(s: &flat::Sgd, w: &mut [f32], g: &[f32], m: &mut [f32]) {
        for ((w, g), m) in w.iter_mut().zip(g).zip(m) {
            let gradient = s.weight_decay.mul_add(*w, s.scale * g);
            let mut step = gradient;
            if s.momentum != 0.0 {
                *m = if s.first { gradient } else { s.momentum.mul_add(*m, (1.0 - s.dampening) * gradient) };
                step = if s.nesterov { s.momentum.mul_add(*m, gradient) } else { *m };
            }
            *w = (-s.lr).mul_add(step, *w);
        }
    }

    #[test]
    fn has_the_bits_of_the_cpu() {
        let recipes = [
            (0.0, 0.0, false, 1.0),
            (0.9, 0.0, false, 0.25),
            (0.9, 0.0, true, 1.0),
            (0.9, 0.1, false, 0.3),
            (0.9, 0.1, true, 1.0),
        ];
        for machine in machines() {
            // Whole packs; a rest; whole packs that lie on no multiple of 16 bytes.
            for (n, offset) in [(1024, 0), (37, 0), (64, 1)] {
                for (momentum, dampening, nesterov, scale) in recipes {
                    let part = |values: &[f32]| {
                        let view = upload(&machine, &[&vec![0.0; offset], values].concat(), Element::F32);
                        view.part(offset..offset + n).unwrap()
                    };
                    let (mut w, mut m) = (numbers(n, 1), numbers(n, 2));
                    let (weights, velocity) = (part(&w), part(&m));
                    let settings = zeros(&machine, Settings::LEN, Element::U64);
                    let rounded = zeros(&machine, n, Element::Bf16);
                    for step in 0..3 {
                        let g = numbers(n, 3 + step);
                        let (lr, weight_decay, first) = (0.05, 0.01, step == 0);
                        let s = flat::Sgd { lr, momentum, dampening, weight_decay, scale, nesterov, first };
                        Settings { sgd: s, limit: 1.0 }.write(&machine, &settings).unwrap();
                        let update = Update {
                            settings: &settings,
                            weights: &weights,
                            gradients: &part(&g),
                            momentum: &velocity,
                            squared_norm: None,
                            rounded: Some(&rounded),
                        };
                        sgd(&machine, &update).unwrap();
                        let (old, old_m) = (w.clone(), m.clone());
                        fused(&s, &mut w, &g, &mut m);
                        // The portable loops round twice, and so are not compared.
                        for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
                            let (mut ours, mut ours_m) = (old.clone(), old_m.clone());
                            flat::sgd(&Cpu::with_isa(1, isa), &s, &mut ours, &g, &mut ours_m);
                            assert_eq!((bits(&ours), bits(&ours_m)), (bits(&w), bits(&m)), "{isa}");
                        }
                    }
                    assert_eq!(bits(&download(&machine, &weights)), bits(&w), "{n} {momentum} {nesterov}");
                    assert_eq!(bits(&download(&machine, &velocity)), bits(&m), "{n} {momentum} {nesterov}");
                    let half: Vec<f32> = w.iter().map(|v| stored(*v, Element::Bf16)).collect();
                    assert_eq!(download(&machine, &rounded), half);
                }
            }
        }
    }

    #[test]
    fn a_recorded_update_reads_its_settings_anew() {
        for machine in machines() {
            let (mut w, g, mut m) = (numbers(40, 1), numbers(40, 2), vec![0.0; 40]);
            let [weights, gradients, momentum] = [&w, &g, &m].map(|v| upload(&machine, v, Element::F32));
            let settings = zeros(&machine, Settings::LEN, Element::U64);
            let update = Update {
                settings: &settings,
                weights: &weights,
                gradients: &gradients,
                momentum: &momentum,
                squared_norm: None,
                rounded: None,
            };
            let record = machine.record(&mut || sgd(&machine, &update)).unwrap();
            for (lr, first) in [(0.1, true), (0.02, false)] {
                let s = flat::Sgd {
                    lr,
                    momentum: 0.9,
                    dampening: 0.1,
                    weight_decay: 0.01,
                    scale: 1.0,
                    nesterov: true,
                    first,
                };
                Settings { sgd: s, limit: 0.0 }.write(&machine, &settings).unwrap();
                record.replay().unwrap();
                fused(&s, &mut w, &g, &mut m);
            }
            assert_eq!(bits(&download(&machine, &weights)), bits(&w));
        }
    }

    #[test]
    fn norms_are_sums_of_squares() {
        let mut all = Vec::new();
        for machine in machines() {
            let partial = zeros(&machine, NORM_PARTS, Element::F64);
            let result = zeros(&machine, 1, Element::F64);
            for n in [0, 1, 1000, 5000, 700_001] {
                let values = numbers(n, 5);
                squared_norm(&machine, &upload(&machine, &values, Element::F32), &partial, &result).unwrap();
                let got = double(&machine, &result);
                let want = flat::norm(&values).powi(2);
                assert!((got - want).abs() <= 1e-13 * want, "{n}: {got} instead of {want}");
                all.push(got.to_bits());
            }
            let large = upload(&machine, &[f32::MAX; 4], Element::F32);
            squared_norm(&machine, &large, &partial, &result).unwrap();
            assert_eq!(double(&machine, &result).sqrt(), 2.0 * f64::from(f32::MAX));
        }
        let (forwards, backwards) = all.split_at(all.len() / 2);
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn clipping_follows_pytorch() {
        for machine in machines() {
            let partial = zeros(&machine, NORM_PARTS, Element::F64);
            let norm = zeros(&machine, 1, Element::F64);
            let settings = zeros(&machine, Settings::LEN, Element::U64);
            let infinite = vec![f32::INFINITY, 1.0];
            for (g, limit) in [
                (vec![3.0, -4.0], 1.0),
                (vec![3.0, -4.0], 7.0),
                (vec![3.0, -4.0], 0.0),
                (vec![3.0, -4.0], -1.0),
                (vec![0.0, 0.0], 0.1),
                (infinite, 1.0),
            ] {
                let s = flat::Sgd {
                    lr: 0.1,
                    momentum: 0.0,
                    dampening: 0.0,
                    weight_decay: 0.0,
                    scale: 1.0,
                    nesterov: false,
                    first: true,
                };
                Settings { sgd: s, limit }.write(&machine, &settings).unwrap();
                let mut w = [1.0, 2.0];
                let [weights, gradients, momentum] =
                    [&w[..], &g, &[0.0; 2]].map(|v| upload(&machine, v, Element::F32));
                squared_norm(&machine, &gradients, &partial, &norm).unwrap();
                let update = Update {
                    settings: &settings,
                    weights: &weights,
                    gradients: &gradients,
                    momentum: &momentum,
                    squared_norm: Some(&norm),
                    rounded: None,
                };
                sgd(&machine, &update).unwrap();
                let clip = if limit > 0.0 { (limit / (flat::norm(&g) + 1e-6)).min(1.0) as f32 } else { 1.0 };
                fused(&flat::Sgd { scale: clip, ..s }, &mut w, &g, &mut [0.0; 2]);
                let got = download(&machine, &weights);
                assert!(
                    got.iter().zip(w).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for machine in machines() {
            let [w, g, m, short] = [4, 4, 4, 3].map(|n| zeros(&machine, n, Element::F32));
            let settings = zeros(&machine, Settings::LEN, Element::U64);
            let half = zeros(&machine, 3, Element::Bf16);
            let partial = zeros(&machine, NORM_PARTS, Element::F64);
            let good = Update {
                settings: &settings,
                weights: &w,
                gradients: &g,
                momentum: &m,
                squared_norm: None,
                rounded: None,
            };
            sgd(&machine, &good).unwrap();
            for bad in [
                Update { settings: &w, ..good },
                Update { gradients: &short, ..good },
                Update { momentum: &short, ..good },
                Update { momentum: &w, ..good },
                Update { squared_norm: Some(&partial), ..good },
                Update { rounded: Some(&half), ..good },
            ] {
                assert!(sgd(&machine, &bad).is_err(), "{bad:?}");
            }
            let one = zeros(&machine, 1, Element::F64);
            assert!(squared_norm(&machine, &w, &one, &one).is_err());
            assert!(squared_norm(&machine, &half, &partial, &one).is_err());
            assert!(squared_norm(&machine, &w, &partial, &partial.first(1).unwrap()).is_err());
        }
    }
}
