//! Loops over whole parameter buffers: the SGD update and the fixed-order sum of partial gradients.

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
        let fresh = S::splat(1.0 - s.dampening);
        for i in (0..n).step_by(LANES) {
            let weight = S::load(w.add(i));
            let gradient = S::fma(wd, weight, S::load(g.add(i)));
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

/// One SGD update, as PyTorch defines it: `g += weight_decay * w`, `m = momentum * m + (1 - dampening) * g` (at first
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

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch's definition in f64.
    fn reference(s: &Sgd, w: &mut [f64], g: &[f64], m: &mut [f64], first: bool) {
        let f = f64::from;
        for i in 0..w.len() {
            let g = g[i] + f(s.weight_decay) * w[i];
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
            for (momentum, dampening, nesterov) in
                [(0.0, 0.0, false), (0.9, 0.0, false), (0.9, 0.0, true), (0.9, 0.1, false)]
            {
                let n = PART + 37;
                let mut w: Vec<f32> = (0..n).map(|i| (i % 40) as f32 * 0.1 - 1.0).collect();
                let mut m = vec![0.0; n];
                let (mut w64, mut m64) = (w.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), vec![0.0; n]);
                for step in 0..4 {
                    let g: Vec<f32> = (0..n).map(|i| ((i * 7 + step) % 5) as f32 * 0.2 - 0.3).collect();
                    let s =
                        Sgd { lr: 0.05, momentum, dampening, weight_decay: 0.01, nesterov, first: step == 0 };
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
}
