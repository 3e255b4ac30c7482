//! Convolutions in plain loops, with sums in f64: what a library does on a GPU.

use crate::gpu::convolution::{Convolution, Pass};
use crate::gpu::memory::Element;

/// What becomes of the sums.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// They take the place of what is there.
    Stored,
    /// They are added to what is there.
    Added,
    /// A forward pass's [`Epilogue`](crate::gpu::convolution::Epilogue).
    Normalized { scale: u64, shift: u64, addend: Option<u64>, relu: bool },
}

impl After {
    /// What is stored as number `i`, of the innermost `channels`, in `to`.
    ///
    /// # Safety
    /// It exists, and so do scales, shifts and addends.
    unsafe fn of(self, sum: f64, i: usize, channels: usize, to: &Numbers) -> f64 {
        let float = |address| Numbers { address, element: Element::F32 };
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Stored => sum,
                Self::Added => sum + f64::from(to.get(i)),
                Self::Normalized { scale, shift, addend, relu } => {
                    let c = i % channels;
                    let map = |address| Numbers { address, element: to.element };
                    let added = addend.map_or(0.0, |address| map(address).get(i));
                    let y = sum * f64::from(float(scale).get(c)) + f64::from(float(shift).get(c));
                    let y = y + f64::from(added);
                    // What is no number stays none.
                    if relu && y < 0.0 { 0.0 } else { y }
                }
            }
        }
    }
}

/// Numbers at an address.
struct Numbers {
    address: u64,
    element: Element,
}

impl Numbers {
    /// # Safety
    /// Number `i` exists.
    unsafe fn get(&self, i: usize) -> f32 {
        // SAFETY: the caller's.
        unsafe {
            match self.element {
                Element::Bf16 => f32::from_bits(u32::from(*(self.address as *const u16).add(i)) << 16),
                _ => *(self.address as *const f32).add(i),
            }
        }
    }

    /// # Safety
    /// Number `i` exists.
    unsafe fn put(&self, i: usize, value: f64) {
        let value = value as f32;
        // SAFETY: the caller's.
        unsafe {
            match self.element {
                Element::Bf16 => {
                    let bits = value.to_bits();
                    let rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
                    *(self.address as *mut u16).add(i) = if value.is_nan() { 0x7fff } else { rounded as u16 };
                }
                _ => *(self.address as *mut f32).add(i) = value,
            }
        }
    }
}

impl Numbers {
    /// The first `n` numbers.
    ///
    /// # Safety
    /// There are as many.
    unsafe fn all(&self, n: usize) -> Vec<f64> {
        // SAFETY: the caller's.
        (0..n).map(|i| f64::from(unsafe { self.get(i) })).collect()
    }
}

/// Where the rows and columns of a kernel fall on an input, for one output position: pairs of a kernel position and a pixel.
fn taps(c: &Convolution, (oy, ox): (usize, usize), found: &mut Vec<(usize, usize)>) {
    let (h, width, _) = c.input;
    found.clear();
    for ky in 0..c.kernel.0 {
        for kx in 0..c.kernel.1 {
            let row = (oy * c.stride.0 + ky).checked_sub(c.padding.0).filter(|v| *v < h);
            let column = (ox * c.stride.1 + kx).checked_sub(c.padding.1).filter(|v| *v < width);
            if let (Some(row), Some(column)) = (row, column) {
                found.push((ky * c.kernel.1 + kx, row * width + column));
            }
        }
    }
}

/// `to += factor * from`
#[inline(always)]
fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
}

/// # Safety
/// The operands `x`, `w`, `y` hold what [`Convolution::lengths`] says, and what comes after them what [`After`] does.
pub(super) unsafe fn convolve(pass: Pass, c: &Convolution, operands: [u64; 3], after: After) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2; the caller's.
        unsafe { with_avx2(pass, c, operands, after) };
        return;
    }
    // SAFETY: the caller's.
    unsafe { loops(pass, c, operands, after) }
}

/// The same sums in the same order, four at a time.
///
/// # Safety
/// As [`convolve`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn with_avx2(pass: Pass, c: &Convolution, operands: [u64; 3], after: After) {
    // SAFETY: the caller's.
    unsafe { loops(pass, c, operands, after) }
}

/// # Safety
/// As [`convolve`].
#[inline(always)]
unsafe fn loops(pass: Pass, c: &Convolution, operands: [u64; 3], after: After) {
    let [x, w, y] = operands.map(|address| Numbers { address, element: c.arithmetic.element() });
    let [x_len, w_len, y_len] = c.lengths();
    // SAFETY: the caller's; what is written is not read here.
    let (xs, ws, ys) = unsafe {
        let read =
            |numbers: &Numbers, len: usize, of: Pass| if pass == of { Vec::new() } else { numbers.all(len) };
        (
            read(&x, x_len, Pass::InputGradient),
            read(&w, w_len, Pass::WeightGradient),
            read(&y, y_len, Pass::Forward),
        )
    };
    let ((h, width, inputs), (oh, ow, outputs)) = (c.input, c.output);
    let (group_in, group_out) = (inputs / c.groups, outputs / c.groups);
    let kernel = c.kernel.0 * c.kernel.1;
    let mut sums = vec![0.0_f64; [y_len, x_len, w_len][pass as usize]];
    // The innermost loop runs over neighbours, so the forward pass wants a tap's outputs side by side.
    let mut across = vec![0.0; if pass == Pass::Forward { w_len } else { 0 }];
    for (i, to) in across.iter_mut().enumerate() {
        let (tap, rest) = (i / (group_in * outputs), i % (group_in * outputs));
        let (input, o) = (rest / outputs, rest % outputs);
        *to = ws[(o * kernel + tap) * group_in + input];
    }
    let mut found = Vec::with_capacity(kernel);
    for (n, oy) in (0..c.images).flat_map(|n| (0..oh).map(move |oy| (n, oy))) {
        for ox in 0..ow {
            let y_at = ((n * oh + oy) * ow + ox) * outputs;
            taps(c, (oy, ox), &mut found);
            for &(tap, pixel) in &found {
                let x_at = (n * h * width + pixel) * inputs;
                for g in 0..c.groups {
                    let (x_at, y_at) = (x_at + g * group_in, y_at + g * group_out);
                    if pass == Pass::Forward {
                        let to = &mut sums[y_at..y_at + group_out];
                        for i in 0..group_in {
                            let row = &across[(tap * group_in + i) * outputs + g * group_out..][..group_out];
                            add(to, xs[x_at + i], row);
                        }
                        continue;
                    }
                    for o in 0..group_out {
                        let w_at = ((g * group_out + o) * kernel + tap) * group_in;
                        let (factor, w_range, x_range) =
                            (ys[y_at + o], w_at..w_at + group_in, x_at..x_at + group_in);
                        match pass {
                            Pass::InputGradient => add(&mut sums[x_range], factor, &ws[w_range]),
                            _ => add(&mut sums[w_range], factor, &xs[x_range]),
                        }
                    }
                }
            }
        }
    }
    let to = match pass {
        Pass::Forward => &y,
        Pass::InputGradient => &x,
        Pass::WeightGradient => &w,
    };
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: as many sums as numbers; the caller's.
        unsafe { to.put(i, after.of(sum, i, outputs, to)) };
    }
}
