//! Loops over whole parameter buffers: the SGD update, sums in a fixed order, and the search for values that are no numbers.

use crate::simd::{Simd, simd_kernel};
use crate::threads::DataPointer;
use crate::{Cpu, Isa, LANES};

/// Settings of one SGD update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Factor of the momentum buffer; 0 leaves the buffer untouched.
    pub momentum: f32,
    /// 1 - dampening is the weight of the new gradient in the momentum buffer, from the second step on.
    pub dampening: f32,
    /// Factor of the weights that is added to the gradient.
    pub weight_decay: f32,
    /// Factor of the gradient before anything else, for clipping; 1 changes no bit.
    pub scale: f32,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// Whether this is the first update, which fills the momentum buffer with the gradient.
    pub first: bool,
}

/// # Safety
/// The pointers hold `n` elements, `n` a multiple of [`LANES`]; `m` may dangle if the momentum is 0.
#[inline(always)]
unsafe fn sgd_body<S: Simd>(s: &Sgd, w: *mut f32, g: *const f32, m: *mut f32, n: usize) {
    // SAFETY: i + LANES <= n.
    unsafe {
        let (lr, mu, wd) = (S::splat(-s.lr), S::splat(s.momentum), S::splat(s.weight_decay));
        let (fresh, scale) = (S::splat(1.0 - s.dampening), S::splat(s.scale));
        for i in (0..n).step_by(LANES) {
            let weight = S::load(w.add(i));
            let gradient = S::fma(wd, weight, S::mul(scale, S::load(g.add(i))));
            let mut step = gradient;
            if s.momentum != 0.0 {
                let velocity =
                    if s.first { gradient } else { S::fma(mu, S::load(m.add(i)), S::mul(fresh, gradient)) };
                S::store(m.add(i), velocity);
                step = if s.nesterov { S::fma(mu, velocity, gradient) } else { velocity };
            }
            S::store(w.add(i), S::fma(lr, step, weight));
        }
    }
}

simd_kernel!(fn run_sgd = sgd_body(s: &Sgd, w: *mut f32, g: *const f32, m: *mut f32, n: usize));

/// One SGD update, as PyTorch defines it: `g = scale * g + weight_decay * w`, `m = momentum * m + (1 - dampening) * g` (at first
/// `m = g`), `w -= lr * m` (Nesterov: `w -= lr * (g + momentum * m)`).
///
/// # Panics
/// If `momentum` is not 0 and the slices differ in length.
pub fn sgd(cpu: &Cpu, s: &Sgd, weights: &mut [f32], gradients: &[f32], momentum: &mut [f32]) {
    let n = weights.len();
    assert!(gradients.len() == n && (s.momentum == 0.0 || momentum.len() == n), "slices of equal length");
    let parts = n.div_ceil(PART);
    let (w, m) = (DataPointer(weights.as_mut_ptr()), DataPointer(momentum.as_mut_ptr()));
    let (w, m) = (&w, &m);
    cpu.for_each(parts, |i| {
        let (start, end) = (i * PART, n.min((i + 1) * PART));
        // SAFETY: parts are disjoint and inside the slices, which are borrowed until `for_each` returns.
        let weights = unsafe { std::slice::from_raw_parts_mut(w.0.add(start), end - start) };
        let momentum = if s.momentum == 0.0 {
            &mut []
        } else {
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts_mut(m.0.add(start), end - start) }
        };
        sgd_part(cpu.isa(), s, weights, &gradients[start..end], momentum);
    });
}

/// Elements that one thread updates at a time.
const PART: usize = 1 << 14;

fn sgd_part(isa: Isa, s: &Sgd, weights: &mut [f32], gradients: &[f32], momentum: &mut [f32]) {
    let n = weights.len();
    let whole = n / LANES * LANES;
    // SAFETY: `whole` elements are inside each slice; `momentum` is not touched when it may be shorter.
    unsafe { run_sgd(isa, s, weights.as_mut_ptr(), gradients.as_ptr(), momentum.as_mut_ptr(), whole) }
    let rest = n - whole;
    if rest > 0 {
        let (mut w, mut g, mut m) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        w[..rest].copy_from_slice(&weights[whole..]);
        g[..rest].copy_from_slice(&gradients[whole..]);
        if s.momentum != 0.0 {
            m[..rest].copy_from_slice(&momentum[whole..]);
        }
        // SAFETY: one vector each.
        unsafe { run_sgd(isa, s, w.as_mut_ptr(), g.as_ptr(), m.as_mut_ptr(), LANES) }
        weights[whole..].copy_from_slice(&w[..rest]);
        if s.momentum != 0.0 {
            momentum[whole..].copy_from_slice(&m[..rest]);
        }
    }
}

/// # Safety
/// The pointers hold `n` elements, `n` a multiple of [`LANES`].
#[inline(always)]
unsafe fn add_body<S: Simd>(to: *mut f32, from: *const f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        // SAFETY: i + LANES <= n.
        unsafe { S::store(to.add(i), S::add(S::load(to.add(i)), S::load(from.add(i)))) }
    }
}

simd_kernel!(fn run_add = add_body(to: *mut f32, from: *const f32, n: usize));

/// `to += from`.
///
/// # Panics
/// If the slices differ in length.
pub fn accumulate(isa: Isa, to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len(), "slices of equal length");
    let whole = to.len() / LANES * LANES;
    // SAFETY: `whole` elements are inside both slices.
    unsafe { run_add(isa, to.as_mut_ptr(), from.as_ptr(), whole) }
    to[whole..].iter_mut().zip(&from[whole..]).for_each(|(t, f)| *t += f);
}

/// # Safety
/// The pointer holds `n` elements, `n` a multiple of [`LANES`].
#[inline(always)]
unsafe fn probe_body<S: Simd>(from: *const f32, n: usize, to: &mut [f32; LANES]) {
    // SAFETY: i + LANES <= n; `to` is one vector.
    unsafe {
        let zero = S::splat(0.0);
        let mut sum = zero;
        for i in (0..n).step_by(LANES) {
            // 0 times a number is 0; 0 times anything else is NaN, and stays in the sum.
            sum = S::fma(zero, S::load(from.add(i)), sum);
        }
        S::store(to.as_mut_ptr(), sum);
    }
}

simd_kernel!(fn run_probe = probe_body(from: *const f32, n: usize, to: &mut [f32; LANES]));

/// Whether all values are finite: neither infinite nor NaN.
pub fn all_finite(isa: Isa, values: &[f32]) -> bool {
    let whole = values.len() / LANES * LANES;
    let mut probe = [0.0; LANES];
    // SAFETY: `whole` elements are inside the slice.
    unsafe { run_probe(isa, values.as_ptr(), whole, &mut probe) }
    probe.iter().all(|v| !v.is_nan()) && values[whole..].iter().all(|v| v.is_finite())
}

/// The Euclidean norm, summed in f64 in the order of the values, so that it neither overflows nor depends on threads or
/// instruction set.
pub fn norm(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
    }
    sums.iter_mut().zip(rest).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
    sums.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch's definition in f64.
    fn reference(s: &Sgd, w: &mut [f64], g: &[f64], m: &mut [f64], first: bool) {
        let f = f64::from;
        for i in 0..w.len() {
            let g = f(s.scale) * g[i] + f(s.weight_decay) * w[i];
            m[i] = if first { g } else { f(s.momentum) * m[i] + (1.0 - f(s.dampening)) * g };
            let step = if s.momentum == 0.0 {
                g
            } else if s.nesterov {
                g + f(s.momentum) * m[i]
            } else {
                m[i]
            };
            w[i] -= f(s.lr) * step;
        }
    }

    #[test]
    fn follows_the_definition() {
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(2, isa);
            for (momentum, dampening, nesterov, scale) in [
                (0.0, 0.0, false, 1.0),
                (0.9, 0.0, false, 0.25),
                (0.9, 0.0, true, 1.0),
                (0.9, 0.1, false, 0.3),
            ] {
                let n = PART + 37;
                let mut w: Vec<f32> = (0..n).map(|i| (i % 40) as f32 * 0.1 - 1.0).collect();
                let mut m = vec![0.0; n];
                let (mut w64, mut m64) = (w.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), vec![0.0; n]);
                for step in 0..4 {
                    let g: Vec<f32> = (0..n).map(|i| ((i * 7 + step) % 5) as f32 * 0.2 - 0.3).collect();
                    let (lr, weight_decay, first) = (0.05, 0.01, step == 0);
                    let s = Sgd { lr, momentum, dampening, weight_decay, scale, nesterov, first };
                    sgd(&cpu, &s, &mut w, &g, &mut m);
                    let g64: Vec<f64> = g.iter().map(|v| f64::from(*v)).collect();
                    reference(&s, &mut w64, &g64, &mut m64, step == 0);
                }
                assert!(w.iter().zip(&w64).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{isa}");
            }
        }
    }

    #[test]
    fn accumulates() {
        for isa in Isa::available() {
            let mut a: Vec<f32> = (0..21).map(|i| i as f32).collect();
            accumulate(isa, &mut a, &[1.5; 21]);
            assert!(a.iter().enumerate().all(|(i, v)| *v == i as f32 + 1.5));
        }
    }

    #[test]
    fn finds_what_is_no_number() {
        for isa in Isa::available() {
            for n in [0, 1, 15, 16, 17, 1000] {
                let mut values = vec![f32::MAX; n];
                assert!(all_finite(isa, &values), "{isa} {n}");
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for at in [0, n / 2, n.saturating_sub(1)].into_iter().filter(|at| *at < n) {
                        values[at] = bad;
                        assert!(!all_finite(isa, &values), "{isa} {n} {bad} at {at}");
                        values[at] = 1.0;
                    }
                }
            }
        }
    }

    #[test]
    fn norms_do_not_overflow() {
        assert_eq!(norm(&[]), 0.0);
        assert_eq!(norm(&[3.0, -4.0]), 5.0);
        assert_eq!(norm(&[f32::MAX; 4]), 2.0 * f64::from(f32::MAX));
        assert!(norm(&[1.0, f32::NAN]).is_nan() && norm(&[f32::INFINITY; 9]).is_infinite());
        let values: Vec<f32> = (0..1001).map(|i| i as f32 * 0.01).collect();
        let exact = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!((norm(&values) / exact - 1.0).abs() < 1e-14);
    }
}
