//! What cuDNN is told of a convolution's sizes.

use crate::gpu::convolution::{Arithmetic, Convolution};
use crate::gpu::cuda::errors::Called;
use crate::gpu::error::{Result, check};
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use std::ffi::c_int;
use std::ptr;

/// Descriptors of `x`, `w`, `y`, and of how they are convolved; null until they are made.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub x: sys::cudnnTensorDescriptor_t,
    pub w: sys::cudnnFilterDescriptor_t,
    pub y: sys::cudnnTensorDescriptor_t,
    pub convolution: sys::cudnnConvolutionDescriptor_t,
}

const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

impl Descriptors {
    pub fn new(c: &Convolution) -> Result<Self> {
        let element = match c.arithmetic {
            Arithmetic::F32 | Arithmetic::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Arithmetic::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let [images, groups, kh, kw] = ints([c.images, c.groups, c.kernel.0, c.kernel.1])?;
        let [h, w, inputs, group_inputs] = ints([c.input.0, c.input.1, c.input.2, c.input.2 / c.groups])?;
        let [oh, ow, outputs, _] = ints([c.output.0, c.output.1, c.output.2, 0])?;
        let [sh, sw, ph, pw] = ints([c.stride.0, c.stride.1, c.padding.0, c.padding.1])?;
        let mut all =
            Self { x: ptr::null_mut(), w: ptr::null_mut(), y: ptr::null_mut(), convolution: ptr::null_mut() };
        all.x = result::create_tensor_descriptor().called("cudnnCreateTensorDescriptor")?;
        all.y = result::create_tensor_descriptor().called("cudnnCreateTensorDescriptor")?;
        all.w = result::create_filter_descriptor().called("cudnnCreateFilterDescriptor")?;
        all.convolution =
            result::create_convolution_descriptor().called("cudnnCreateConvolutionDescriptor")?;
        // SAFETY: all four were just created.
        unsafe {
            result::set_tensor4d_descriptor(all.x, NHWC, element, [images, inputs, h, w])
                .called("cudnnSetTensor4dDescriptor")?;
            result::set_tensor4d_descriptor(all.y, NHWC, element, [images, outputs, oh, ow])
                .called("cudnnSetTensor4dDescriptor")?;
            result::set_filter4d_descriptor(all.w, element, NHWC, [outputs, group_inputs, kh, kw])
                .called("cudnnSetFilter4dDescriptor")?;
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
            result::set_convolution2d_descriptor(all.convolution, ph, pw, sh, sw, 1, 1, mode, sums)
                .called("cudnnSetConvolution2dDescriptor")?;
            result::set_convolution_group_count(all.convolution, groups)
                .called("cudnnSetConvolutionGroupCount")?;
        }
        all.set_math(math(c.arithmetic))?;
        Ok(all)
    }

    /// Says how numbers are multiplied.
    pub fn set_math(&self, math: sys::cudnnMathType_t) -> Result<()> {
        // SAFETY: the descriptor is alive.
        unsafe { result::set_convolution_math_type(self.convolution, math) }
            .called("cudnnSetConvolutionMathType")
    }
}

/// How numbers are multiplied: only the first is f32 through and through, cuDNN's default is not.
pub(super) fn math(arithmetic: Arithmetic) -> sys::cudnnMathType_t {
    match arithmetic {
        Arithmetic::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Arithmetic::Tf32 | Arithmetic::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

fn ints(sizes: [usize; 4]) -> Result<[c_int; 4]> {
    let mut all = [0; 4];
    for (int, size) in all.iter_mut().zip(sizes) {
        match c_int::try_from(size) {
            Ok(v) => *int = v,
            Err(_) => check("convolution", false, || format!("{size} is too large for cuDNN"))?,
        }
    }
    Ok(all)
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: each is null or was created, and nobody else has it.
        unsafe {
            if !self.x.is_null() {
                let _ = result::destroy_tensor_descriptor(self.x);
            }
            if !self.y.is_null() {
                let _ = result::destroy_tensor_descriptor(self.y);
            }
            if !self.w.is_null() {
                let _ = result::destroy_filter_descriptor(self.w);
            }
            if !self.convolution.is_null() {
                let _ = result::destroy_convolution_descriptor(self.convolution);
            }
        }
    }
}
