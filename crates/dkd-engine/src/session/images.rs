//! The image batch as it comes in.

use crate::{Error, Result};
use candle_core::{CpuStorage, DType, Layout as TensorLayout, Storage, Tensor};
use dkd_kernels::Map;

/// A borrowed batch [n, c, h, w] of any strides.
pub(super) struct Images<'a> {
    data: &'a [f32],
    strides: [usize; 4],
    count: usize,
}

impl<'a> Images<'a> {
    /// A view of `tensor`, which `storage` and `layout` describe.
    ///
    /// # Errors
    /// Another type, device or shape than f32 on the CPU and `[1..=max, c, h, w]`.
    pub fn new(
        tensor: &Tensor,
        storage: &'a Storage,
        layout: &TensorLayout,
        image: &[usize],
        max: usize,
    ) -> Result<Self> {
        let wrong = |got: String| Error::Tensor {
            what: "images".to_owned(),
            expected: format!("f32 on the CPU, [1 to {max}, {}, {}, {}]", image[0], image[1], image[2]),
            got,
        };
        let dims = tensor.dims();
        if dims.len() != 4 || dims[1..] != *image || dims[0] == 0 || dims[0] > max {
            return Err(wrong(format!("{dims:?}")));
        }
        let Storage::Cpu(CpuStorage::F32(data)) = storage else {
            let dtype: DType = tensor.dtype();
            return Err(wrong(format!("{dtype:?} on {:?}", tensor.device().location())));
        };
        let s = layout.stride();
        let strides = [s[0], s[1], s[2], s[3]];
        Ok(Self { data: &data[layout.start_offset()..], strides, count: dims[0] })
    }

    /// Images in the batch.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Copies image `n` into a buffer of layout `map`.
    pub fn load(&self, n: usize, to: &mut [f32], map: Map) {
        let [sn, sc, sh, sw] = self.strides;
        let image = &self.data[n * sn..];
        for y in 0..map.height {
            let row = &mut to[map.at(y as isize, 0)..][..map.row_elements()];
            let from = y * sh;
            if sc == 1 && sw == map.channels && map.stride == map.channels {
                row.copy_from_slice(&image[from..from + row.len()]);
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(map.stride).enumerate() {
                for (c, value) in pixel[..map.channels].iter_mut().enumerate() {
                    *value = image[from + x * sw + c * sc];
                }
            }
        }
    }
}
