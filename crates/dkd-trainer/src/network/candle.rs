//! Any candle module as a network.

use super::Network;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use candle_nn::{ModuleT, VarMap};
use dkd_engine::{DropoutKey, Mode, ParameterSpan};
use std::collections::HashMap;

/// A `candle_nn::ModuleT` whose variables live in a `VarMap`.
///
/// Its weights are the variables in the order of their names. Randomness inside the module (candle's dropout) is candle's
/// own and does not follow the run's seed. There are no taps.
pub struct CandleNetwork<M> {
    module: M,
    variables: Vec<(String, Var)>,
    weights: Vec<f32>,
    gradients: Vec<f32>,
    /// The module's own output, with its graph.
    output: Option<Tensor>,
    /// A leaf with the same values, for the loss.
    leaf: Option<Var>,
}

impl<M: ModuleT + Send> CandleNetwork<M> {
    /// A network over `module`, whose variables were made from `variables`.
    ///
    /// # Errors
    /// A variable is not f32 on the CPU.
    pub fn new(module: M, variables: &VarMap) -> Result<Self> {
        let map =
            variables.data().lock().map_err(|_| Error::Invalid("the variable map is poisoned".to_owned()))?;
        let mut variables: Vec<(String, Var)> = map.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        drop(map);
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let mut network =
            Self { module, variables, weights: Vec::new(), gradients: Vec::new(), output: None, leaf: None };
        network.read_weights()?;
        Ok(network)
    }

    fn check_shapes(&self, dict: &HashMap<String, Tensor>) -> Result<()> {
        for (name, var) in &self.variables {
            let found = dict.get(name).map(Tensor::dims);
            if found != Some(var.dims()) {
                let message = format!("`{name}`: expected shape {:?}, got {found:?}", var.dims());
                return Err(Error::Invalid(message));
            }
        }
        Ok(())
    }

    fn read_weights(&mut self) -> Result<()> {
        self.weights.clear();
        for (_, var) in &self.variables {
            self.weights.extend(var.as_tensor().flatten_all()?.to_vec1::<f32>()?);
        }
        self.gradients.resize(self.weights.len(), 0.0);
        Ok(())
    }
}

impl<M: ModuleT + Send> Network for CandleNetwork<M> {
    fn forward(&mut self, images: &Tensor, mode: Mode, _: DropoutKey) -> Result<()> {
        let mut start = 0;
        for (_, var) in &self.variables {
            let n = var.elem_count();
            var.set(&Tensor::from_slice(&self.weights[start..start + n], var.dims(), var.device())?)?;
            start += n;
        }
        let output = self.module.forward_t(&images.contiguous()?, mode == Mode::Train)?;
        self.leaf = Some(Var::from_tensor(&output.detach())?);
        self.output = (mode == Mode::Train).then_some(output);
        Ok(())
    }

    fn logits(&self) -> Result<Tensor> {
        let leaf =
            self.leaf.as_ref().ok_or_else(|| Error::Invalid("no batch has gone forward yet".to_owned()))?;
        Ok(leaf.as_tensor().clone())
    }

    fn tap(&self, name: &str) -> Result<Tensor> {
        Err(Error::NoTaps { tap: name.to_owned() })
    }

    fn backward(&mut self, store: &GradStore) -> Result<()> {
        let state = |message: &str| Error::Invalid(message.to_owned());
        let output =
            self.output.as_ref().ok_or_else(|| state("a backward pass needs a training batch before it"))?;
        let leaf = self.leaf.as_ref().ok_or_else(|| state("no batch has gone forward yet"))?;
        let gradient = store
            .get(leaf.as_tensor())
            .ok_or_else(|| state("the loss does not depend on the last batch's logits"))?;
        // The sum of output times a constant has that constant as its gradient.
        let store = (output * gradient.detach())?.sum_all()?.backward()?;
        let mut start = 0;
        for (_, var) in &self.variables {
            let n = var.elem_count();
            let to = &mut self.gradients[start..start + n];
            match store.get(var.as_tensor()) {
                Some(g) => to.copy_from_slice(&g.flatten_all()?.to_vec1::<f32>()?),
                None => to.fill(0.0),
            }
            start += n;
        }
        Ok(())
    }

    fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) {
        f(&mut self.weights, &self.gradients);
    }

    fn spans(&self) -> Vec<ParameterSpan> {
        let mut start = 0;
        let span = |(name, var): &(String, Var)| {
            start += var.elem_count();
            ParameterSpan { name: name.clone(), range: start - var.elem_count()..start }
        };
        self.variables.iter().map(span).collect()
    }

    fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
        self.unpack(&self.weights)
    }

    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        self.check_shapes(dict)?;
        for (name, var) in &self.variables {
            var.set(&dict[name])?;
        }
        self.read_weights()
    }

    fn unpack(&self, flat: &[f32]) -> Result<Vec<(String, Tensor)>> {
        if flat.len() != self.weights.len() {
            let message = format!("{} flat values, but {} weights", flat.len(), self.weights.len());
            return Err(Error::Invalid(message));
        }
        let tensors = self.variables.iter().zip(self.spans()).map(|((name, var), span)| {
            Ok((name.clone(), Tensor::from_slice(&flat[span.range], var.dims(), var.device())?))
        });
        tensors.collect()
    }

    fn pack(&self, dict: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
        self.check_shapes(dict)?;
        let mut flat = Vec::with_capacity(self.weights.len());
        for (name, _) in &self.variables {
            flat.extend(dict[name].flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(flat)
    }

    fn num_parameters(&self) -> usize {
        self.weights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::{VarBuilder, linear};

    struct Flat(candle_nn::Linear);
    impl ModuleT for Flat {
        fn forward_t(&self, x: &Tensor, _: bool) -> candle_core::Result<Tensor> {
            x.flatten_from(1)?.apply(&self.0)
        }
    }

    #[test]
    fn learns_and_has_no_taps() {
        let map = VarMap::new();
        let module = Flat(linear(12, 3, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap());
        let mut net = CandleNetwork::new(module, &map).unwrap();
        let images = Tensor::randn(0_f32, 1.0, (5, 3, 2, 2), &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0_u32, 1, 2, 0, 1], &Device::Cpu).unwrap();
        let mut losses = Vec::new();
        for _ in 0..50 {
            net.forward(&images, Mode::Train, DropoutKey::default()).unwrap();
            let loss = candle_nn::loss::cross_entropy(&net.logits().unwrap(), &labels).unwrap();
            losses.push(loss.to_scalar::<f32>().unwrap());
            net.backward(&loss.backward().unwrap()).unwrap();
            net.update(&mut |w, g| w.iter_mut().zip(g).for_each(|(w, g)| *w -= 0.5 * g));
        }
        assert!(losses[49] < 0.3 * losses[0], "{losses:?}");
        assert!(net.tap("feats.1").unwrap_err().to_string().contains("feats.1"));
        let dict: HashMap<String, Tensor> = net.state_dict().unwrap().into_iter().collect();
        assert_eq!(dict["weight"].dims(), [3, 12]);
        let flat: Vec<f32> = (0..39).map(|i| i as f32).collect();
        let unpacked: HashMap<String, Tensor> = net.unpack(&flat).unwrap().into_iter().collect();
        assert_eq!(net.pack(&unpacked).unwrap(), flat);
        assert!(net.unpack(&flat[1..]).unwrap_err().to_string().contains("38 flat values"));
        net.update(&mut |w, _| w.fill(0.0));
        net.load_state_dict(&dict).unwrap();
        assert_eq!(net.spans()[1].range, 3..39);
        assert!(net.weights.iter().any(|w| *w != 0.0));
    }
}
