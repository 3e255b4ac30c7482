//! Any candle module as a network.

use super::Network;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::{ModuleT, VarMap};
use dkd_engine::{DropoutKey, Mode, ParameterSpan};
use std::collections::HashMap;

/// A `candle_nn::ModuleT` whose variables live in a `VarMap`.
///
/// Its weights are the variables in the order of their names, except those whose last name part is `running_mean` or
/// `running_var`: these are the buffers of candle's batch norm, which the module itself moves in training and no optimizer
/// sees. Weights are changed through this type only; the variables follow at the next [`Network::forward`]. Randomness
/// inside the module (candle's dropout) is candle's own and does not follow the run's seed. There are no taps.
pub struct CandleNetwork<M> {
    module: M,
    /// Trainable variables.
    variables: Vec<(String, Var)>,
    /// Running statistics, which live in their variables alone.
    buffers: Vec<(String, Var)>,
    /// The values of `variables`.
    weights: Vec<f32>,
    /// Whether `weights` changed since they were written to `variables`.
    stale: bool,
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
        let mut all: Vec<(String, Var)> = map.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        drop(map);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some((name, var)) = all.iter().find(|(_, v)| v.dtype() != DType::F32 || !v.device().is_cpu()) {
            let (dtype, place) = (var.dtype(), var.device().location());
            let message = format!("variable `{name}` is {dtype:?} on {place:?}, expected F32 on the CPU");
            return Err(Error::Invalid(message));
        }
        let is_buffer = |name: &str| matches!(last_part(name), "running_mean" | "running_var");
        let (buffers, variables): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| is_buffer(name));
        let mut weights = Vec::new();
        for (_, var) in &variables {
            weights.extend(var.as_tensor().flatten_all()?.to_vec1::<f32>()?);
        }
        let gradients = vec![0.0; weights.len()];
        let (stale, output, leaf) = (false, None, None);
        Ok(Self { module, variables, buffers, weights, stale, gradients, output, leaf })
    }

    fn check_names(&self, dict: &HashMap<String, Tensor>) -> Result<()> {
        let known = |name: &String| {
            let mut own = self.variables.iter().chain(&self.buffers);
            last_part(name) == "num_batches_tracked" || own.any(|(n, _)| n == name)
        };
        let mut others: Vec<&str> = dict.keys().filter(|n| !known(n)).map(String::as_str).collect();
        if others.is_empty() {
            return Ok(());
        }
        others.sort_unstable();
        let (expected, others) = (self.variables.len() + self.buffers.len(), others.join("`, `"));
        let message =
            format!("state dictionary: expected the {expected} tensors of this network, got also `{others}`");
        Err(Error::Invalid(message))
    }

    /// Writes the weights into the variables if they changed.
    fn write_weights(&mut self) -> Result<()> {
        if !self.stale {
            return Ok(());
        }
        let mut start = 0;
        for (_, var) in &self.variables {
            let n = var.elem_count();
            var.set(&Tensor::from_slice(&self.weights[start..start + n], var.dims(), var.device())?)?;
            start += n;
        }
        self.stale = false;
        Ok(())
    }
}

/// `weight` of `layer1.0.bn1.weight`.
fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// Fails unless `dict` has a tensor of its shape for each variable.
fn check_shapes(variables: &[(String, Var)], dict: &HashMap<String, Tensor>) -> Result<()> {
    for (name, var) in variables {
        let found = dict.get(name).map(Tensor::dims);
        if found != Some(var.dims()) {
            let found = found.map_or("nothing: it is missing".to_owned(), |dims| format!("{dims:?}"));
            let message = format!("`{name}`: expected shape {:?}, got {found}", var.dims());
            return Err(Error::Invalid(message));
        }
    }
    Ok(())
}

impl<M: ModuleT + Send> Network for CandleNetwork<M> {
    fn forward(&mut self, images: &Tensor, mode: Mode, _: DropoutKey) -> Result<()> {
        self.write_weights()?;
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

    fn update(&mut self, f: &mut dyn FnMut(&mut [f32], &[f32])) -> Result<()> {
        f(&mut self.weights, &self.gradients);
        self.stale = true;
        Ok(())
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
        let mut dict = self.unpack(&self.weights)?;
        for (name, var) in &self.buffers {
            // A copy: the next training batch overwrites the variable.
            dict.push((name.clone(), var.as_detached_tensor().copy()?));
        }
        Ok(dict)
    }

    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
        // Everything is looked at before anything changes.
        self.check_names(dict)?;
        let weights = self.pack(dict)?;
        check_shapes(&self.buffers, dict)?;
        let mut statistics = Vec::with_capacity(self.buffers.len());
        for (name, _) in &self.buffers {
            statistics.push(dict[name].to_dtype(DType::F32)?.copy()?);
        }
        for ((_, var), value) in self.buffers.iter().zip(&statistics) {
            var.set(value)?;
        }
        self.weights = weights;
        self.stale = true;
        Ok(())
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
        check_shapes(&self.variables, dict)?;
        let mut flat = Vec::with_capacity(self.weights.len());
        for (name, _) in &self.variables {
            flat.extend(dict[name].to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(flat)
    }

    fn running(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for (_, var) in &self.buffers {
            all.extend(var.as_tensor().flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }

    fn set_running(&mut self, values: &[f32]) -> Result<()> {
        let expected: usize = self.buffers.iter().map(|(_, var)| var.elem_count()).sum();
        if values.len() != expected {
            let message = format!("{} running statistics were given, expected {expected}", values.len());
            return Err(Error::Invalid(message));
        }
        let mut start = 0;
        for (_, var) in &self.buffers {
            let n = var.elem_count();
            var.set(&Tensor::from_slice(&values[start..start + n], var.dims(), var.device())?)?;
            start += n;
        }
        Ok(())
    }

    fn num_parameters(&self) -> usize {
        self.weights.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sgd, SgdRecipe};
    use candle_core::Device;
    use candle_nn::{VarBuilder, linear};
    use dkd_kernels::Cpu;

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
            net.update(&mut |w, g| w.iter_mut().zip(g).for_each(|(w, g)| *w -= 0.5 * g)).unwrap();
        }
        assert!(losses[49] < 0.3 * losses[0], "{losses:?}");
        assert!(net.tap("feats.1").unwrap_err().to_string().contains("feats.1"));
        let dict: HashMap<String, Tensor> = net.state_dict().unwrap().into_iter().collect();
        assert_eq!(dict["weight"].dims(), [3, 12]);
        let flat: Vec<f32> = (0..39).map(|i| i as f32).collect();
        let unpacked: HashMap<String, Tensor> = net.unpack(&flat).unwrap().into_iter().collect();
        assert_eq!(net.pack(&unpacked).unwrap(), flat);
        assert!(net.unpack(&flat[1..]).unwrap_err().to_string().contains("38 flat values"));
        net.update(&mut |w, _| w.fill(0.0)).unwrap();
        net.load_state_dict(&dict).unwrap();
        assert_eq!(net.spans()[1].range, 3..39);
        assert!(net.weights.iter().any(|w| *w != 0.0));
    }

    struct Normed(candle_nn::BatchNorm, candle_nn::Linear);
    impl ModuleT for Normed {
        fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
            self.0.forward_t(x, train)?.flatten_from(1)?.apply(&self.1)
        }
    }

    fn normed() -> CandleNetwork<Normed> {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let norm = candle_nn::batch_norm(3, 1e-5, vb.pp("bn")).unwrap();
        CandleNetwork::new(Normed(norm, linear(12, 4, vb.pp("fc")).unwrap()), &map).unwrap()
    }

    fn images(mean: f32) -> Tensor {
        let waves: Vec<f32> = (0..60).map(|i| mean + (i as f32 * 1.7).sin()).collect();
        Tensor::from_vec(waves, (5, 3, 2, 2), &Device::Cpu).unwrap()
    }

    fn dict(net: &CandleNetwork<Normed>) -> HashMap<String, Tensor> {
        net.state_dict().unwrap().into_iter().collect()
    }

    fn numbers(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn run(net: &mut CandleNetwork<Normed>, images: &Tensor, mode: Mode) -> Vec<f32> {
        net.forward(images, mode, DropoutKey::default()).unwrap();
        numbers(&net.logits().unwrap())
    }

    /// What evaluation is to give for a state dictionary.
    fn evaluated(d: &HashMap<String, Tensor>, x: &Tensor) -> Vec<f32> {
        let of = |name: &str| d[name].reshape((1, 3, 1, 1)).unwrap();
        let deviation = (of("bn.running_var") + 1e-5).unwrap().sqrt().unwrap();
        let x = x.broadcast_sub(&of("bn.running_mean")).unwrap().broadcast_div(&deviation).unwrap();
        let x = x.broadcast_mul(&of("bn.weight")).unwrap().broadcast_add(&of("bn.bias")).unwrap();
        let y = x.flatten_from(1).unwrap().matmul(&d["fc.weight"].t().unwrap()).unwrap();
        numbers(&y.broadcast_add(&d["fc.bias"]).unwrap())
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + b.abs()))
    }

    #[test]
    fn running_statistics_are_buffers() {
        let (mut net, x) = (normed(), images(2.0));
        let names: Vec<String> = net.spans().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["bn.bias", "bn.weight", "fc.bias", "fc.weight"]);
        assert_eq!((net.num_parameters(), net.gradients().len()), (58, 58));
        // Training moves them a tenth of the way to the batch's, every time.
        let mean = numbers(&x.mean((0, 2, 3)).unwrap());
        let mut share = 0.0;
        for _ in 0..3 {
            run(&mut net, &x, Mode::Train);
            share = 0.9 * share + 0.1;
            let want: Vec<f32> = mean.iter().map(|m| share * m).collect();
            assert!(close(&numbers(&dict(&net)["bn.running_mean"]), &want), "{share}");
        }
        // Evaluation uses them and leaves them alone.
        let trained = dict(&net);
        let logits = run(&mut net, &x, Mode::Eval);
        assert!(close(&logits, &evaluated(&trained, &x)));
        assert!(!close(&logits, &run(&mut normed(), &x, Mode::Eval)));
        assert_eq!(numbers(&dict(&net)["bn.running_var"]), numbers(&trained["bn.running_var"]));
        // A step with weight decay, then nothing but decay: the weights shrink, the statistics stay.
        let recipe =
            SgdRecipe { lr: 1.0, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.25 };
        let mut sgd = Sgd::new(recipe, Cpu::new(1).unwrap());
        run(&mut net, &x, Mode::Train);
        let loss = net.logits().unwrap().sqr().unwrap().mean_all().unwrap();
        net.backward(&loss.backward().unwrap()).unwrap();
        assert!(net.gradients().iter().any(|g| *g != 0.0));
        net.update(&mut |w, g| sgd.step(1e-3, 1.0, w, g)).unwrap();
        let before = dict(&net);
        net.update(&mut |w, _| sgd.step(1.0, 1.0, w, &[0.0; 58])).unwrap();
        let after = dict(&net);
        for (name, values) in &before {
            let factor = if last_part(name).starts_with("running_") { 1.0 } else { 0.75 };
            let want: Vec<f32> = numbers(values).iter().map(|v| factor * v).collect();
            assert!(close(&numbers(&after[name]), &want), "{name}");
        }
        assert!(close(&run(&mut net, &x, Mode::Eval), &evaluated(&after, &x)));
    }

    #[test]
    fn state_dictionaries_hold_everything_and_nothing_else() {
        let (mut net, x) = (normed(), images(2.0));
        run(&mut net, &x, Mode::Train);
        let logits = run(&mut net, &x, Mode::Eval);
        let saved = dict(&net);
        assert_eq!(saved.len(), 6);
        net.update(&mut |w, _| w.iter_mut().for_each(|w| *w += 1.0)).unwrap();
        assert!(net.stale);
        run(&mut net, &images(-5.0), Mode::Train);
        assert!(!net.stale, "the variables follow the weights once");
        let moved = dict(&net);
        // Nothing changes unless all of it fits.
        let mut refuse = |change: &dyn Fn(&mut HashMap<String, Tensor>), parts: [&str; 2]| {
            let mut wrong = saved.clone();
            change(&mut wrong);
            let message = net.load_state_dict(&wrong).unwrap_err().to_string();
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
            assert!(dict(&net).iter().all(|(name, t)| numbers(t) == numbers(&moved[name])), "{message}");
        };
        let of = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
        refuse(&|d| drop(d.insert("fc2.bias".into(), of(1))), ["6 tensors", "also `fc2.bias`"]);
        refuse(
            &|d| drop(d.insert("bn.running_var".into(), of(4))),
            ["`bn.running_var`: expected shape [3]", "[4]"],
        );
        refuse(&|d| drop(d.remove("bn.running_mean")), ["`bn.running_mean`", "missing"]);
        refuse(&|d| drop(d.remove("fc.bias")), ["`fc.bias`: expected shape [4]", "missing"]);
        // Other types are converted, PyTorch's counter is passed over.
        let mut wide = saved.clone();
        wide.values_mut().for_each(|t| *t = t.to_dtype(DType::F64).unwrap());
        wide.insert("bn.num_batches_tracked".to_owned(), Tensor::new(7_i64, &Device::Cpu).unwrap());
        net.load_state_dict(&wide).unwrap();
        assert!(dict(&net).iter().all(|(name, t)| numbers(t) == numbers(&saved[name])));
        assert_eq!(run(&mut net, &x, Mode::Eval), logits);
        assert!(net.state_dict().unwrap().iter().all(|(_, t)| t.dtype() == DType::F32));
    }

    #[test]
    fn variables_of_another_type_are_named() {
        let map = VarMap::new();
        let module = Flat(linear(12, 3, VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu)).unwrap());
        let message = CandleNetwork::new(module, &map).err().unwrap().to_string();
        assert!(message.contains("variable `bias` is F64 on Cpu"), "{message}");
    }
}
