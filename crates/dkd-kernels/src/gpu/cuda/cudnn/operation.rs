//! What cuDNN is told of a convolution: a graph of one operation.

use super::descriptor::{Asked, ConvolutionMode, DataType, Descriptor, Refusal};
use super::target::Target;
use crate::gpu::convolution::{Arithmetic, Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

/// Numbers of the operands x, w, y, by which addresses are given when it is run.
pub(super) const OPERANDS: [i64; 3] = [1, 2, 3];

/// Operands begin on multiples of so many bytes.
pub(super) const ALIGNMENT: u64 = 16;

/// A finalised graph.
#[derive(Debug)]
pub(super) struct Operation {
    pub graph: Descriptor,
    /// What it is made of.
    _parts: Vec<Descriptor>,
}

impl Operation {
    /// A pass of a convolution, whose result is added to what is there with `accumulate`.
    pub fn new(target: &Target, pass: Pass, convolution: &Convolution, accumulate: bool) -> Result<Self> {
        let call = "cuDNN's description of a convolution";
        let [x, w, y] = shapes(convolution)?;
        let element = match convolution.arithmetic {
            Arithmetic::F32 | Arithmetic::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Arithmetic::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let mut parts = Vec::with_capacity(5);
        for (number, shape) in OPERANDS.into_iter().zip([x, w, y]) {
            let map = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
            parts.push(tensor(map, number, shape, element).map_err(|e| e.error(call))?);
        }
        let how = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
        parts.push(manner(how, convolution).map_err(|e| e.error(call))?);
        let operation = Descriptor::new(match pass {
            Pass::Forward => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            Pass::InputGradient => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            Pass::WeightGradient => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
        })?;
        parts.push(connected(operation, pass, &parts, accumulate).map_err(|e| e.error(call))?);
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let whole = |graph: Descriptor| -> Asked<Descriptor> {
            target.tell(&graph, Some(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE), None)?;
            graph.set_descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[&parts[4]])?;
            graph.finalize()
        };
        let graph = whole(graph).map_err(|e: Refusal| e.error(call))?;
        Ok(Self { graph, _parts: parts })
    }
}

/// Sizes `[n, c, h, w]` of x, w, y.
fn shapes(c: &Convolution) -> Result<[[i64; 4]; 3]> {
    let fit = |sizes: [usize; 4]| -> Result<[i64; 4]> {
        let mut fitting = [0; 4];
        for (to, size) in fitting.iter_mut().zip(sizes) {
            *to = i32::try_from(size).map(i64::from).map_err(|_| GpuError::Shape {
                operation: "convolution",
                message: format!("{size} is more than cuDNN counts"),
            })?;
        }
        Ok(fitting)
    };
    let ((h, w, inputs), (oh, ow, outputs)) = (c.input, c.output);
    Ok([
        fit([c.images, inputs, h, w])?,
        fit([outputs, inputs / c.groups, c.kernel.0, c.kernel.1])?,
        fit([c.images, outputs, oh, ow])?,
    ])
}

/// A tensor whose second dimension lies innermost.
fn tensor(
    of: Descriptor,
    number: i64,
    [n, c, h, w]: [i64; 4],
    element: sys::cudnnDataType_t,
) -> Asked<Descriptor> {
    of.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[DataType::new(element as u32)])?;
    of.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?;
    of.set(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?;
    of.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[number])?;
    of.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT as i64])?;
    of.finalize()
}

/// Strides, padding, and sums in f32.
fn manner(of: Descriptor, c: &Convolution) -> Asked<Descriptor> {
    let pair = |(rows, columns): (usize, usize)| [rows as i64, columns as i64];
    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2_i64])?;
    of.set(
        Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
        &[DataType::new(sys::cudnnDataType_t::CUDNN_DATA_FLOAT as u32)],
    )?;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[ConvolutionMode::new(mode as u32)])?;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &pair(c.padding))?;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &pair(c.padding))?;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1_i64, 1])?;
    of.set(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &pair(c.stride))?;
    of.finalize()
}

/// The operation on x, w, y, as the fourth of `parts` says.
fn connected(of: Descriptor, pass: Pass, parts: &[Descriptor], accumulate: bool) -> Asked<Descriptor> {
    let [x, w, y, how, alpha, beta] = match pass {
        Pass::Forward => [
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
        ],
        Pass::InputGradient => [
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
        ],
        Pass::WeightGradient => [
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
        ],
    };
    for (name, part) in [x, w, y, how].into_iter().zip(parts) {
        of.set_descriptors(name, &[part])?;
    }
    of.set(alpha, &[1.0_f32])?;
    of.set(beta, &[if accumulate { 1.0_f32 } else { 0.0 }])?;
    of.finalize()
}
