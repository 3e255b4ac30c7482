//! The operation behind both convolutions, in candle's terms.
//!
//! With y = conv(x, w), the sum over (x, w, y) of matching elements is linear in each of the three. Its gradients are the three
//! maps y(x, w), x(y, w) and w(x, y), and the gradients of each map are the other two.

use super::batch::{Batch, ChannelSums, Operand, vector};
use super::sizes::Sizes;
use crate::Cpu;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};
use std::sync::Arc;

/// What is computed from the other two of x, weight and y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// y from x and the weight: the convolution.
    Output,
    /// x from y and the weight: its input gradient, and the transposed convolution.
    Input,
    /// The weight from x and y: its weight gradient.
    Weight,
}

/// The three maps for a type of elements. Weights are contiguous, and so are results; a bias has one element for each channel of
/// the result.
pub(super) trait Element: WithDType {
    /// y from x.
    fn output(cpu: &Cpu, s: &Sizes, x: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self>;

    /// x from y.
    fn input(cpu: &Cpu, s: &Sizes, y: Batch<Self>, weight: &[Self], bias: Option<&[Self]>) -> Vec<Self>;

    /// The weight from x and y.
    fn weight(cpu: &Cpu, s: &Sizes, x: Batch<Self>, y: Batch<Self>) -> Vec<Self>;
}

/// One of the three maps; the first of its arguments is an image, a weight or a second image follows.
#[derive(Clone, Debug)]
pub(super) struct Convolution {
    cpu: Arc<Cpu>,
    sizes: Sizes,
    of: Of,
}

impl Convolution {
    /// An operation on tensors that have these sizes.
    pub fn new(cpu: &Arc<Cpu>, sizes: Sizes, of: Of) -> Self {
        Self { cpu: Arc::clone(cpu), sizes, of }
    }

    /// Applies it, differentiably unless it is the weight's.
    pub fn apply(self, images: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match bias {
            None => images.apply_op2(weight, self),
            Some(bias) => images.apply_op3(weight, bias, self),
        }
    }

    fn run(&self, first: Operand, second: Operand, bias: Option<Operand>) -> Result<(CpuStorage, Shape)> {
        match first.0 {
            CpuStorage::F32(_) => self.run_in::<f32>(first, second, bias),
            _ => self.run_in::<f64>(first, second, bias),
        }
    }

    fn run_in<T: Element>(
        &self,
        first: Operand,
        second: Operand,
        bias: Option<Operand>,
    ) -> Result<(CpuStorage, Shape)> {
        let (cpu, s) = (&*self.cpu, &self.sizes);
        let (first, second) = (Batch::<T>::new(first)?, Batch::<T>::new(second)?);
        let bias: Option<Vec<T>> = bias.map(vector).transpose()?;
        let bias = bias.as_deref();
        let (wanted, shape) = match self.of {
            Of::Output => ((s.x(), s.weight()), s.y()),
            Of::Input => ((s.y(), s.weight()), s.x()),
            Of::Weight => ((s.x(), s.y()), s.weight()),
        };
        if (first.dims, second.dims) != wanted {
            bail!("a convolution was given {:?} and {:?}, expected {:?}", first.dims, second.dims, wanted)
        }
        let values = match self.of {
            Of::Output => T::output(cpu, s, first, &second.contiguous(), bias),
            Of::Input => T::input(cpu, s, first, &second.contiguous(), bias),
            Of::Weight => T::weight(cpu, s, first, second),
        };
        Ok((T::to_cpu_storage_owned(values), Shape::from(&shape[..])))
    }

    /// Gradients of the images and of the weight, each where something leads to a variable.
    fn gradients(
        &self,
        images: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let with = |of| Self::new(&self.cpu, self.sizes, of);
        let (of_images, x, y) = match self.of {
            Of::Output => (Of::Input, images, grad),
            Of::Input => (Of::Output, grad, images),
            Of::Weight => bail!("the gradient of a convolution's weight has no gradient"),
        };
        let needs = |t: &Tensor, f: &dyn Fn() -> Result<Tensor>| t.track_op().then(f).transpose();
        Ok((
            needs(images, &|| grad.apply_op2_no_bwd(weight, &with(of_images)))?,
            needs(weight, &|| x.apply_op2_no_bwd(y, &with(Of::Weight)))?,
        ))
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "dkd-convolution"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        images: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(images, weight, grad)
    }
}

/// With a bias.
impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "dkd-convolution"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((s1, l1), (s2, l2), Some((s3, l3)))
    }

    fn bwd(
        &self,
        images: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to_images, to_weight) = self.gradients(images, weight, grad)?;
        let to_bias = bias.track_op().then(|| grad.apply_op1_no_bwd(&ChannelSums)).transpose()?;
        Ok((to_images, to_weight, to_bias))
    }
}
