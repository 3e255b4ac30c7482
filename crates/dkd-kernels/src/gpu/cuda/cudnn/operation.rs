//! What cuDNN is told of a convolution: a graph of one operation, or of several with what follows it.

use super::descriptor::{Asked, ConvolutionMode, DataType, Descriptor, Flag, Refusal};
use super::epilogue::Steps;
use super::target::Target;
use super::wanted::{End, OPERANDS, Wanted};
use crate::gpu::convolution::{Arithmetic, Convolution, Pass};
use crate::gpu::error::{GpuError, Result};
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

/// Operands begin on multiples of so many bytes.
pub(super) const ALIGNMENT: u64 = 16;

/// What sums are made of.
pub(super) const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;

/// Numbers of tensors that exist within a graph only begin here.
const WITHIN: i64 = 10;

/// A finalised graph.
#[derive(Debug)]
pub(super) struct Operation {
    pub wanted: Wanted,
    pub graph: Descriptor,
    /// What it is made of.
    _parts: Vec<Descriptor>,
}

/// What cuDNN makes of a description.
pub(super) fn answered<T>(asked: Asked<T>) -> Result<T> {
    asked.map_err(|e: Refusal| e.error("cuDNN's description of a convolution"))
}

impl Operation {
    /// What is wanted, on a device.
    pub fn new(target: &Target, wanted: Wanted) -> Result<Self> {
        let Wanted { pass, convolution, end } = &wanted;
        let element = match convolution.arithmetic {
            Arithmetic::F32 | Arithmetic::Tf32 => FLOAT,
            Arithmetic::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let shapes = shapes(convolution)?;
        let [x, w, y] = [0, 1, 2].map(|i| Tensor { number: OPERANDS[i], shape: shapes[i], element });
        let mut parts = vec![x.given()?, w.given()?, y.given()?];
        let how = manner(convolution)?;
        let (convolved, steps) = match end {
            End::Normalized(epilogue) => {
                let sums = Tensor { number: WITHIN, element: FLOAT, ..y }.within()?;
                let steps = Steps::new(*epilogue, [&sums, &parts[2]], y, WITHIN + 1)?;
                let convolved = connected(*pass, [&parts[0], &parts[1], &sums, &how], false)?;
                parts.push(sums);
                (convolved, Some(steps))
            }
            End::Stored | End::Added => {
                let operands = [&parts[0], &parts[1], &parts[2], &how];
                (connected(*pass, operands, *end == End::Added)?, None)
            }
        };
        parts.push(how);
        let mut operations = vec![convolved];
        if let Some(steps) = steps {
            operations.extend(steps.operations);
            parts.extend(steps.parts);
        }
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        answered(target.tell(&graph, Some(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE), None))?;
        let all: Vec<_> = operations.iter().collect();
        answered(graph.set_descriptors(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &all))?;
        let graph = answered(graph.finalize())?;
        parts.extend(operations);
        Ok(Self { wanted, graph, _parts: parts })
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

/// A tensor `[n, c, h, w]` whose second dimension lies innermost.
#[derive(Clone, Copy)]
pub(super) struct Tensor {
    pub number: i64,
    pub shape: [i64; 4],
    pub element: sys::cudnnDataType_t,
}

impl Tensor {
    /// One that has an address.
    pub fn given(self) -> Result<Descriptor> {
        answered(self.described()?.finalize())
    }

    /// One that exists within a graph only.
    pub fn within(self) -> Result<Descriptor> {
        let of = self.described()?;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[Flag::YES]))?;
        answered(of.finalize())
    }

    fn described(self) -> Result<Descriptor> {
        let of = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
        let [n, c, h, w] = self.shape;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[DataType::new(self.element as u32)]))?;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w]))?;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c]))?;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[self.number]))?;
        answered(of.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT as i64]))?;
        Ok(of)
    }
}

/// Strides, padding, and sums in f32.
fn manner(c: &Convolution) -> Result<Descriptor> {
    let of = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let pair = |(rows, columns): (usize, usize)| [rows as i64, columns as i64];
    let mode = ConvolutionMode::new(sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as u32);
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2_i64]))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[DataType::new(FLOAT as u32)]))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[mode]))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &pair(c.padding)))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &pair(c.padding)))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1_i64, 1]))?;
    answered(of.set(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &pair(c.stride)))?;
    answered(of.finalize())
}

/// The operation on x, w, y, as the fourth says.
fn connected(pass: Pass, operands: [&Descriptor; 4], accumulate: bool) -> Result<Descriptor> {
    let of = Descriptor::new(match pass {
        Pass::Forward => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
        Pass::InputGradient => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
        Pass::WeightGradient => Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
    })?;
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
    for (name, operand) in [x, w, y, how].into_iter().zip(operands) {
        answered(of.set_descriptors(name, &[operand]))?;
    }
    answered(of.set(alpha, &[1.0_f32]))?;
    answered(of.set(beta, &[if accumulate { 1.0_f32 } else { 0.0 }]))?;
    answered(of.finalize())
}
