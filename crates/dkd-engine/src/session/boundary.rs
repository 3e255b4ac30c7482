//! Where candle's losses meet the engine: logits and taps as leaf variables, and their gradients on the way back.

use crate::graph::{Shape, Tap};
use crate::layout::Layout;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout as TensorLayout, Storage, Tensor, Var};
use dkd_kernels::{AlignedBuf, Map};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One value that losses see.
#[derive(Debug)]
struct Boundary {
    /// `None` for the logits.
    name: Option<String>,
    shape: Shape,
    layout: Layout,
    /// All images, in the order of the leaf's elements.
    stage: Mutex<AlignedBuf>,
}

/// A leaf of the loss's graph and the view of it that is handed out.
#[derive(Debug)]
struct Leaf {
    var: Var,
    view: Tensor,
    /// One element of the same storage: candle checks the layout of what it writes in place, and allocates for it unless
    /// there is just one element.
    handle: Tensor,
}

/// The logits and taps of a session.
#[derive(Debug)]
pub(super) struct Boundaries {
    all: Vec<Boundary>,
    /// Leaves by batch size: each size keeps its own, so that no step allocates them anew.
    leaves: Vec<(usize, Vec<Leaf>)>,
    current: Option<usize>,
}

/// Overwrites a tensor's storage.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "engine-output"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &TensorLayout) -> candle_core::Result<()> {
        match storage {
            CpuStorage::F32(data) if data.len() == self.0.len() => data.copy_from_slice(self.0),
            _ => candle_core::bail!("a leaf holds f32 values of the batch's size"),
        }
        Ok(())
    }
}

impl Boundaries {
    pub fn new(classes: usize, logits: Layout, taps: &[&Tap], layouts: &[Layout], max_batch: usize) -> Self {
        let boundary = |name: Option<String>, shape: Shape, layout: Layout| Boundary {
            name,
            shape,
            layout,
            stage: Mutex::new(AlignedBuf::zeros(max_batch * shape.elements())),
        };
        let mut all = vec![boundary(None, Shape::Vector(classes), logits)];
        all.extend(taps.iter().map(|t| boundary(Some(t.name.clone()), t.shape, layouts[t.value.index()])));
        Self { all, leaves: Vec::new(), current: None }
    }

    fn lock(&self, k: usize) -> MutexGuard<'_, AlignedBuf> {
        self.all[k].stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one image's value from its layout in memory.
    pub fn write(&self, k: usize, image: usize, value: &[f32], map: Map) {
        let b = &self.all[k];
        let n = b.shape.elements();
        let mut stage = self.lock(k);
        let to = &mut stage[image * n..(image + 1) * n];
        b.for_each_run(map, |torch, memory, len| {
            if len == 1 {
                to[torch] = value[memory];
            } else {
                to[torch..torch + len].copy_from_slice(&value[memory..memory + len]);
            }
        });
    }

    /// Adds or writes one image's gradient, to a layout without border.
    pub fn read(&self, k: usize, image: usize, gradient: &mut [f32], map: Map, accumulate: bool) {
        let b = &self.all[k];
        let n = b.shape.elements();
        let stage = self.lock(k);
        let from = &stage[image * n..(image + 1) * n];
        if !accumulate {
            gradient.fill(0.0);
        }
        b.for_each_run(map, |torch, memory, len| {
            let to = &mut gradient[memory..memory + len];
            to.iter_mut().zip(&from[torch..torch + len]).for_each(|(g, v)| *g += v);
        });
    }

    /// Publishes the values of a batch of `n` images in its leaves.
    pub fn publish(&mut self, n: usize) -> Result<()> {
        let index = match self.leaves.iter().position(|(size, _)| *size == n) {
            Some(i) => i,
            None => {
                let leaves = self.all.iter().map(|b| b.leaf(n)).collect::<Result<Vec<_>>>()?;
                self.leaves.push((n, leaves));
                self.leaves.len() - 1
            }
        };
        for (k, leaf) in self.leaves[index].1.iter().enumerate() {
            let stage = self.lock(k);
            leaf.handle.inplace_op1(&Overwrite(&stage[..n * self.all[k].shape.elements()]))?;
        }
        self.current = Some(index);
        Ok(())
    }

    /// Names of the taps.
    pub fn names(&self) -> Vec<String> {
        self.all.iter().filter_map(|b| b.name.clone()).collect()
    }

    fn current(&self) -> Result<&[Leaf]> {
        let index = self.current.ok_or_else(|| Error::State("no batch has gone forward yet".to_owned()))?;
        Ok(&self.leaves[index].1)
    }

    /// The logits of the last batch.
    pub fn logits(&self) -> Result<Tensor> {
        Ok(self.current()?[0].view.clone())
    }

    /// A tap of the last batch.
    pub fn tap(&self, name: &str) -> Result<Tensor> {
        let Some(k) = self.all.iter().position(|b| b.name.as_deref() == Some(name)) else {
            return Err(Error::UnknownTap { name: name.to_owned(), known: self.names().join(", ") });
        };
        Ok(self.current()?[k].view.clone())
    }

    /// Takes the leaves' gradients from a store; a leaf without one has the gradient 0.
    ///
    /// # Errors
    /// No leaf of the last batch has a gradient in the store.
    pub fn take_gradients(&self, store: &GradStore) -> Result<()> {
        let mut found = false;
        for (k, leaf) in self.current()?.iter().enumerate() {
            let mut stage = self.lock(k);
            let Some(gradient) = store.get(leaf.var.as_tensor()) else {
                stage.fill(0.0);
                continue;
            };
            found = true;
            let (storage, layout) = gradient.storage_and_layout();
            let n = leaf.var.elem_count();
            match &*storage {
                Storage::Cpu(CpuStorage::F32(data)) => {
                    gather(&data[layout.start_offset()..], layout.dims(), layout.stride(), &mut stage[..n]);
                }
                _ => {
                    return Err(Error::Tensor {
                        what: "gradient of the logits or of a tap".to_owned(),
                        expected: "f32 on the CPU".to_owned(),
                        got: format!("{:?} on {:?}", gradient.dtype(), gradient.device().location()),
                    });
                }
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

/// Copies a tensor of any strides to a dense slice, without allocating.
fn gather(from: &[f32], dims: &[usize], strides: &[usize], to: &mut [f32]) {
    match (dims, strides) {
        ([n], [1]) => to.copy_from_slice(&from[..*n]),
        ([n, rest @ ..], [stride, strides @ ..]) => {
            let size = to.len() / n;
            for (i, to) in to.chunks_exact_mut(size).enumerate() {
                gather(&from[i * stride..], rest, strides, to);
            }
        }
        _ => to[0] = from[0],
    }
}

impl Boundary {
    /// A leaf for `n` images: maps lie with channels innermost and are seen as NCHW.
    fn leaf(&self, n: usize) -> Result<Leaf> {
        let zeros = |dims: &[usize]| Var::zeros(dims, DType::F32, &Device::Cpu);
        let (var, permuted) = match self.shape {
            Shape::Map { c, h, w } => (zeros(&[n, h, w, c])?, true),
            Shape::Vector(features) => (zeros(&[n, features])?, false),
        };
        let tensor = var.as_tensor();
        let view = if permuted { tensor.permute((0, 3, 1, 2))? } else { tensor.clone() };
        let handle = tensor.detach().flatten_all()?.narrow(0, 0, 1)?;
        Ok(Leaf { var, view, handle })
    }

    /// Calls `f(index in the leaf, index in memory, length)` for runs of one image's elements.
    fn for_each_run(&self, map: Map, mut f: impl FnMut(usize, usize, usize)) {
        let (c, w) = (self.layout.channels, self.layout.width);
        let as_map = matches!(self.shape, Shape::Map { .. }) || self.layout.height * w == 1;
        for y in 0..self.layout.height {
            for x in 0..w {
                let memory = map.at(y as isize, x as isize);
                if as_map {
                    f((y * w + x) * c, memory, c);
                } else {
                    for channel in 0..c {
                        f((channel * self.layout.height + y) * w + x, memory + channel, 1);
                    }
                }
            }
        }
    }
}
