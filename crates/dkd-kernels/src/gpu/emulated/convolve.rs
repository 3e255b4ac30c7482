//! Convolutions in plain loops, with sums in f64: what a library does on a GPU.

use crate::gpu::convolution::{Convolution, Pass};
use crate::gpu::memory::Element;

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
    unsafe fn put(&self, i: usize, value: f64, accumulate: bool) {
        // SAFETY: the caller's.
        unsafe {
            let old = if accumulate { f64::from(self.get(i)) } else { 0.0 };
            let value = (value + old) as f32;
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

/// # Safety
/// The operands `x`, `w`, `y` hold what [`Convolution::lengths`] says.
pub(super) unsafe fn convolve(pass: Pass, c: &Convolution, operands: [u64; 3], accumulate: bool) {
    let [x, w, y] = operands.map(|address| Numbers { address, element: c.arithmetic.element() });
    let [x_len, w_len, y_len] = c.lengths();
    let ((h, width, inputs), (oh, ow, outputs)) = (c.input, c.output);
    let (group_in, group_out) = (inputs / c.groups, outputs / c.groups);
    let mut sums = vec![0.0_f64; [y_len, x_len, w_len][pass as usize]];
    for n in 0..c.images {
        for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
            for (ky, kx) in (0..c.kernel.0).flat_map(|ky| (0..c.kernel.1).map(move |kx| (ky, kx))) {
                let row = (oy * c.stride.0 + ky).checked_sub(c.padding.0).filter(|v| *v < h);
                let column = (ox * c.stride.1 + kx).checked_sub(c.padding.1).filter(|v| *v < width);
                let (Some(row), Some(column)) = (row, column) else { continue };
                for o in 0..outputs {
                    let y_at = ((n * oh + oy) * ow + ox) * outputs + o;
                    for i in 0..group_in {
                        let x_at = ((n * h + row) * width + column) * inputs + o / group_out * group_in + i;
                        let w_at = ((o * c.kernel.0 + ky) * c.kernel.1 + kx) * group_in + i;
                        // SAFETY: positions inside the lengths.
                        unsafe {
                            match pass {
                                Pass::Forward => {
                                    sums[y_at] += f64::from(x.get(x_at)) * f64::from(w.get(w_at))
                                }
                                Pass::InputGradient => {
                                    sums[x_at] += f64::from(y.get(y_at)) * f64::from(w.get(w_at));
                                }
                                Pass::WeightGradient => {
                                    sums[w_at] += f64::from(y.get(y_at)) * f64::from(x.get(x_at));
                                }
                            }
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
        // SAFETY: as many sums as numbers.
        unsafe { to.put(i, sum, accumulate) };
    }
}
