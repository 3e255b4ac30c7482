//! Stochastic gradient descent as PyTorch defines it.

use candle_core::{Tensor, Var};
use dkd_kernels::{Cpu, flat};
use std::collections::HashMap;
use std::sync::Arc;

/// Settings that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdRecipe {
    /// Base learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Dampening.
    pub dampening: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

impl SgdRecipe {
    /// One update for the kernels, with learning rate `lr`; gradients are multiplied by `scale` before anything else, and the `first` one
    /// fills the momentum.
    pub fn update(&self, lr: f64, scale: f64, first: bool) -> flat::Sgd {
        flat::Sgd {
            lr: lr as f32,
            momentum: self.momentum as f32,
            dampening: self.dampening as f32,
            weight_decay: self.weight_decay as f32,
            scale: scale as f32,
            nesterov: self.nesterov,
            first,
        }
    }
}

/// The optimizer of one network: `g += wd w; m = momentum m + (1 - dampening) g` (at first `m = g`); `w -= lr m`
/// (Nesterov: `w -= lr (g + momentum m)`).
#[derive(Clone, Debug)]
pub struct Sgd {
    recipe: SgdRecipe,
    cpu: Arc<Cpu>,
    momentum: Vec<f32>,
    /// Buffers of the loss's own parameters, by name.
    extra: HashMap<String, Tensor>,
    steps: u64,
}

impl Sgd {
    /// An optimizer without history.
    pub fn new(recipe: SgdRecipe, cpu: Arc<Cpu>) -> Self {
        Self { recipe, cpu, momentum: Vec::new(), extra: HashMap::new(), steps: 0 }
    }

    /// Settings.
    pub fn recipe(&self) -> &SgdRecipe {
        &self.recipe
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The momentum buffer, in the order of the weights; empty before the first step.
    pub fn momentum(&self) -> &[f32] {
        &self.momentum
    }

    /// Momenta of a loss's own parameters, by name, sorted.
    pub fn loss_momentum(&self) -> Vec<(&str, &Tensor)> {
        let mut all: Vec<_> = self.extra.iter().map(|(name, m)| (name.as_str(), m)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// Goes on from an earlier optimizer's state.
    pub fn restore(&mut self, steps: u64, momentum: Vec<f32>, loss_momentum: HashMap<String, Tensor>) {
        (self.steps, self.momentum, self.extra) = (steps, momentum, loss_momentum);
    }

    /// Notes an update that was made elsewhere.
    pub(crate) fn count(&mut self) {
        self.steps += 1;
    }

    /// One update with learning rate `lr`; gradients are multiplied by `scale` first (see [`clip_scale`]).
    pub fn step(&mut self, lr: f64, scale: f64, weights: &mut [f32], gradients: &[f32]) {
        if self.momentum.len() != weights.len() {
            self.momentum = vec![0.0; weights.len()];
        }
        let settings = self.recipe.update(lr, scale, self.steps == 0);
        flat::sgd(&self.cpu, &settings, weights, gradients, &mut self.momentum);
        self.steps += 1;
    }

    /// The same update for a loss's own parameters, each with its gradient; one without a gradient stays as it is.
    ///
    /// # Errors
    /// candle's.
    pub fn step_loss(
        &mut self,
        lr: f64,
        scale: f64,
        parameters: &[(String, Var)],
        gradients: &[Option<Tensor>],
    ) -> candle_core::Result<()> {
        for ((name, var), gradient) in parameters.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let r = &self.recipe;
            let value = var.as_tensor().detach();
            let gradient = ((gradient.detach() * scale)? + (&value * r.weight_decay)?)?;
            let velocity = match self.extra.get(name) {
                Some(m) => ((m * r.momentum)? + (&gradient * (1.0 - r.dampening))?)?,
                None => gradient.clone(),
            };
            let step = if r.nesterov { (&gradient + (&velocity * r.momentum)?)? } else { velocity.clone() };
            var.set(&(value - (step * lr)?)?)?;
            self.extra.insert(name.clone(), velocity);
        }
        Ok(())
    }
}

/// Factor that takes gradients of Euclidean norm `norm` to at most `limit`, as PyTorch's `clip_grad_norm_` computes it:
/// `min(1, limit / (norm + 1e-6))`.
pub fn clip_scale(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn loss_parameters_follow_the_same_rule() {
        let recipe =
            SgdRecipe { lr: 0.1, momentum: 0.9, dampening: 0.2, nesterov: false, weight_decay: 0.01 };
        let cpu = Cpu::new(2).unwrap();
        let (mut flat, mut own) = (Sgd::new(recipe, Arc::clone(&cpu)), Sgd::new(recipe, cpu));
        let mut weights = [1.0_f32, -2.0, 0.5];
        let var = Var::new(&weights, &Device::Cpu).unwrap();
        for step in 0..4 {
            let gradient = [0.3 * step as f32, 0.2, -0.1];
            let loss =
                (var.as_tensor() * Tensor::new(&gradient, &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
            let own_gradient = loss.backward().unwrap().get(var.as_tensor()).cloned();
            own.step_loss(0.1, 0.5, &[("p".to_owned(), var.clone())], &[own_gradient]).unwrap();
            flat.step(0.1, 0.5, &mut weights, &gradient);
        }
        let got = var.as_tensor().to_vec1::<f32>().unwrap();
        assert!(got.iter().zip(weights).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {weights:?}");
        assert_eq!((flat.steps(), flat.momentum().len()), (4, 3));
    }

    /// Weights (1, -2) after each of three steps with gradients for every optimizer, as the reference's own code has them in f64.
    fn steps(mut all: Vec<Sgd>, gradients: impl Fn(usize) -> Vec<[f32; 2]>, expected: [[f64; 2]; 3]) {
        let mut weights = [1.0_f32, -2.0];
        for (k, expected) in (1..).zip(expected) {
            for (sgd, gradient) in all.iter_mut().zip(gradients(k)) {
                sgd.step(0.05, 1.0, &mut weights, &gradient);
            }
            let far = weights.iter().zip(expected).any(|(w, e)| (f64::from(*w) - e).abs() > 5e-7);
            assert!(!far, "step {k}: {weights:?} instead of {expected:?}");
        }
    }

    #[test]
    fn plain_and_separate_momenta_follow_the_reference() {
        let cpu = Cpu::new(1).unwrap();
        let sgd = |momentum, weight_decay| {
            let recipe = SgdRecipe { lr: 0.05, momentum, dampening: 0.0, nesterov: false, weight_decay };
            Sgd::new(recipe, Arc::clone(&cpu))
        };
        let k = |k: usize| k as f32;
        let expected = [[0.984975, -1.99495], [0.9414278756, -1.9803551263], [0.857211928, -1.9521702310]];
        steps(vec![sgd(0.9, 5e-4)], |i| vec![[0.3 * k(i), -0.1 * k(i)]], expected);
        // DOT with a difference of 0.075: the cross-entropy's part, which has the weight decay, and the distillation's.
        let expected = [[0.994975, -2.02495], [0.9685545006, -2.0762331263], [0.9050396248, -2.1557210496]];
        let parts = vec![sgd(0.825, 5e-4), sgd(0.975, 0.0)];
        steps(parts, |i| vec![[-0.2, 0.4], [0.3 * k(i), 0.1 * k(i)]], expected);
    }

    #[test]
    fn clipping_follows_pytorch() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        assert!((clip_scale(4.0, 1.0) - 1.0 / 4.000001).abs() < 1e-15);
    }
}
