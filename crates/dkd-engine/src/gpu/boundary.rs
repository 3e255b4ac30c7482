//! Where losses meet a network on a device: logits and taps in f32, as candle's leaves or as they lie in memory.

use crate::graph::{Shape, Tap};
use crate::layout::Layout;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use dkd_kernels::gpu::{Element, Machine, TensorMachine, View, pointwise};

/// One value that losses see.
#[derive(Debug)]
struct Boundary {
    /// `None` for the logits.
    name: Option<String>,
    shape: Shape,
    layout: Layout,
    /// The value in f32, of the largest batch, if the network's own is not.
    value: Option<View>,
    /// The loss's gradient, of the largest batch.
    gradient: Option<View>,
}

/// The logits and taps of a session.
#[derive(Debug)]
pub(super) struct Boundaries {
    all: Vec<Boundary>,
    /// Leaves by batch size, on each device that was asked for, none allocated anew.
    leaves: Vec<(usize, Vec<Var>)>,
    current: Option<usize>,
}

impl Boundaries {
    /// With memory for `max_batch` images; gradients only if there is training.
    pub fn new(
        machine: &dyn Machine,
        (logits, taps): ((usize, Layout), &[(&Tap, Layout)]),
        max_batch: usize,
        element: Element,
        train: bool,
    ) -> Result<Self> {
        let boundary = |name: Option<String>, shape: Shape, layout: Layout| -> Result<Boundary> {
            let n = max_batch * shape.elements();
            let floats = |wanted: bool| -> Result<Option<View>> {
                Ok(if wanted { Some(machine.zeros(Element::F32, n)?) } else { None })
            };
            let (value, gradient) = (floats(element != Element::F32)?, floats(train)?);
            Ok(Boundary { name, shape, layout, value, gradient })
        };
        let mut all = vec![boundary(None, Shape::Vector(logits.0), logits.1)?];
        for (tap, layout) in taps {
            all.push(boundary(Some(tap.name.clone()), tap.shape, *layout)?);
        }
        Ok(Self { all, leaves: Vec::new(), current: None })
    }

    /// What losses see of boundary `k`, whose value in the network is `own`, after [`Boundaries::convert`].
    pub fn value(&self, k: usize, own: &View) -> Result<View> {
        match &self.all[k].value {
            Some(value) => Ok(value.first(own.len())?),
            None => Ok(own.clone()),
        }
    }

    /// The loss's gradient of boundary `k` for `n` images.
    pub fn gradient(&self, k: usize, n: usize) -> Result<View> {
        let b = &self.all[k];
        let gradient = b.gradient.as_ref().ok_or_else(|| {
            Error::State("this session was made without training (SessionOptions::train)".to_owned())
        })?;
        Ok(gradient.first(n * b.shape.elements())?)
    }

    /// Brings the f32 copy of boundary `k` up to date.
    pub fn convert(&self, machine: &dyn Machine, k: usize, own: &View) -> Result<()> {
        match &self.all[k].value {
            Some(value) => Ok(pointwise::convert(machine, own, &value.first(own.len())?, false)?),
            None => Ok(()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Publishes the values of a batch of `n` images in its leaves on `device`; `value` gives each in f32.
    pub fn publish(
        &mut self,
        machine: &dyn TensorMachine,
        (n, device): (usize, &Device),
        value: impl Fn(&Self, usize) -> Result<View>,
    ) -> Result<()> {
        let same = |leaves: &[Var]| leaves.iter().all(|leaf| leaf.device().same_device(device));
        let index = match self.leaves.iter().position(|(size, leaves)| *size == n && same(leaves)) {
            Some(i) => i,
            None => {
                let leaves = self.all.iter().map(|b| b.leaf(n, device)).collect::<Result<Vec<_>>>()?;
                self.leaves.push((n, leaves));
                self.leaves.len() - 1
            }
        };
        for (k, leaf) in self.leaves[index].1.iter().enumerate() {
            machine.write_tensor(&value(self, k)?, &leaf.as_tensor().detach())?;
        }
        self.current = Some(index);
        Ok(())
    }

    fn current(&self) -> Result<&[Var]> {
        let index = self.current.ok_or_else(|| Error::State("no batch has gone forward yet".to_owned()))?;
        Ok(&self.leaves[index].1)
    }

    /// The logits of the last batch.
    pub fn logits(&self) -> Result<Tensor> {
        self.all[0].view(&self.current()?[0])
    }

    /// A tap of the last batch.
    pub fn tap(&self, name: &str) -> Result<Tensor> {
        let Some(k) = self.all.iter().position(|b| b.name.as_deref() == Some(name)) else {
            let known: Vec<&str> = self.all.iter().filter_map(|b| b.name.as_deref()).collect();
            return Err(Error::UnknownTap { name: name.to_owned(), known: known.join(", ") });
        };
        self.all[k].view(&self.current()?[k])
    }

    /// Takes the leaves' gradients from a store; a leaf without one has the gradient 0.
    ///
    /// # Errors
    /// No leaf of the last batch has a gradient in the store.
    pub fn take_gradients(&self, machine: &dyn TensorMachine, store: &GradStore) -> Result<()> {
        let mut found = false;
        for (k, leaf) in self.current()?.iter().enumerate() {
            let to = self.gradient(k, leaf.dims()[0])?;
            match store.get(leaf.as_tensor()) {
                Some(gradient) => {
                    machine.read_tensor(gradient, &to)?;
                    found = true;
                }
                None => machine.clear(&to)?,
            }
        }
        if found {
            return Ok(());
        }
        Err(Error::State(
            "the loss does not depend on the last batch's logits or taps: no gradient to propagate"
                .to_owned(),
        ))
    }
}

impl Boundary {
    /// A leaf for `n` images, in the order of the device's memory.
    fn leaf(&self, n: usize, device: &Device) -> Result<Var> {
        let Layout { height, width, channels } = self.layout;
        let zeros = |dims: &[usize]| Var::zeros(dims, DType::F32, device);
        Ok(match self.shape {
            Shape::Vector(features) if height * width == 1 => zeros(&[n, features])?,
            _ => zeros(&[n, height, width, channels])?,
        })
    }

    /// The leaf as PyTorch would have it.
    fn view(&self, leaf: &Var) -> Result<Tensor> {
        let tensor = leaf.as_tensor();
        Ok(match (self.shape, tensor.dims().len()) {
            (Shape::Map { .. }, _) => tensor.permute((0, 3, 1, 2))?,
            (Shape::Vector(_), 2) => tensor.clone(),
            (Shape::Vector(_), _) => tensor.permute((0, 3, 1, 2))?.flatten_from(1)?,
        })
    }
}
