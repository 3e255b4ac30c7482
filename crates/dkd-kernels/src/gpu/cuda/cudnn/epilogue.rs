//! What follows a convolution in the same graph: operations on each of its sums.

use super::descriptor::{DataType, Descriptor, NanPropagation, PointwiseMode};
use super::operation::{FLOAT, Tensor, answered};
use super::wanted::OPERANDS;
use crate::gpu::convolution::Epilogue;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;
use sys::cudnnPointwiseMode_t as Mode;

/// The operations on sums.
pub(super) struct Steps {
    pub operations: Vec<Descriptor>,
    /// What they are made of.
    pub parts: Vec<Descriptor>,
}

impl Steps {
    /// Those that make `y`, which is like `output`, of `sums`; what is between exists within the graph only, under numbers from `within` on.
    pub fn new(epilogue: Epilogue, [sums, y]: [&Descriptor; 2], output: Tensor, within: i64) -> Result<Self> {
        let [_, _, _, scale, shift, addend] = OPERANDS;
        let of_channels = |number| Tensor { number, shape: [1, output.shape[1], 1, 1], element: FLOAT };
        let mut steps = vec![
            (Mode::CUDNN_POINTWISE_MUL, Some(of_channels(scale))),
            (Mode::CUDNN_POINTWISE_ADD, Some(of_channels(shift))),
        ];
        if epilogue.addend {
            steps.push((Mode::CUDNN_POINTWISE_ADD, Some(Tensor { number: addend, ..output })));
        }
        if epilogue.relu {
            steps.push((Mode::CUDNN_POINTWISE_RELU_FWD, None));
        }
        let mut values = Vec::new();
        let (mut operations, mut parts) = (Vec::new(), Vec::new());
        let last = steps.len() - 1;
        for (i, (mode, read)) in steps.into_iter().enumerate() {
            if i < last {
                let number = within + i as i64;
                values.push(Tensor { number, element: FLOAT, ..output }.within()?);
            }
            let from = if i == 0 { sums } else { &values[i - 1] };
            let to = if i == last { y } else { &values[i] };
            let read = read.map(Tensor::given).transpose()?;
            let how = manner(mode)?;
            operations.push(operation(&how, from, read.as_ref(), to)?);
            parts.push(how);
            parts.extend(read);
        }
        parts.extend(values);
        Ok(Self { operations, parts })
    }
}

/// How numbers are combined: in f32.
fn manner(mode: Mode) -> Result<Descriptor> {
    let of = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
    answered(of.set(Name::CUDNN_ATTR_POINTWISE_MODE, &[PointwiseMode::new(mode as u32)]))?;
    answered(of.set(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[DataType::new(FLOAT as u32)]))?;
    if mode == Mode::CUDNN_POINTWISE_RELU_FWD {
        let nan = sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;
        answered(of.set(Name::CUDNN_ATTR_POINTWISE_NAN_PROPAGATION, &[NanPropagation::new(nan as u32)]))?;
    }
    answered(of.finalize())
}

/// One operation on what there is, and what it reads besides.
fn operation(
    how: &Descriptor,
    from: &Descriptor,
    read: Option<&Descriptor>,
    to: &Descriptor,
) -> Result<Descriptor> {
    let of = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
    answered(of.set_descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[how]))?;
    answered(of.set_descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[from]))?;
    if let Some(read) = read {
        answered(of.set_descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[read]))?;
    }
    answered(of.set_descriptors(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[to]))?;
    answered(of.finalize())
}
