//! What becomes of a batch normalisation's sums at a barrier.

use crate::params::ParamTable;
use crate::plan::{Addend, Bn, NormUnit, Plan};
use dkd_kernels::norm::{Coefficients, Forward};

/// State of one batch normalisation between the stages of a step.
#[derive(Debug)]
pub(super) struct NormState {
    /// Statistics per channel, from the batch or from the running ones.
    statistics: Vec<Forward>,
    /// y = scale z + shift; zero for padding channels.
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// dz = c1 g + c2 z + c3.
    pub c: [Vec<f32>; 3],
    /// Offset of its sums among a group's moments.
    pub moments: usize,
    channels: usize,
    /// Values per channel and image.
    positions: usize,
}

impl NormState {
    /// States of all batch normalisations, and the length of a group's moments.
    pub fn all(plan: &Plan) -> (Vec<Self>, usize) {
        let mut total = 0;
        let states = plan.bns.iter().map(|bn| {
            let map = plan.tensors[bn.z].map;
            let zeros = || vec![0.0; map.stride];
            let moments = total;
            total += 2 * map.stride;
            Self {
                statistics: Vec::with_capacity(map.channels),
                scale: zeros(),
                shift: zeros(),
                c: [zeros(), zeros(), zeros()],
                moments,
                channels: map.channels,
                positions: map.height * map.width,
            }
        });
        let states = states.collect();
        (states, total)
    }

    /// Channels with padding.
    pub fn stride(&self) -> usize {
        self.scale.len()
    }

    /// From the sums of a batch of `images`; moves the running statistics.
    pub fn set_from_batch(
        &mut self,
        bn: &Bn,
        params: &ParamTable,
        values: &[f32],
        running: &mut [f32],
        sums: &[f64],
        images: usize,
    ) {
        let count = images * self.positions;
        self.statistics.clear();
        let (mean_at, var_at) =
            (params.places[bn.running_mean].range.start, params.places[bn.running_var].range.start);
        for c in 0..self.channels {
            let f = Forward::from_sums(sums[c], sums[self.scale.len() + c], count, bn.eps);
            let mix = |old: f32, new: f64| {
                let m = f64::from(bn.momentum);
                ((1.0 - m) * f64::from(old) + m * new) as f32
            };
            running[mean_at + c] = mix(running[mean_at + c], f.mean);
            running[var_at + c] = mix(running[var_at + c], f.unbiased_variance(count));
            self.statistics.push(f);
        }
        self.set_affine(bn, params, values);
    }

    /// From the running statistics.
    pub fn set_from_running(&mut self, bn: &Bn, params: &ParamTable, values: &[f32], running: &[f32]) {
        let (mean_at, var_at) =
            (params.places[bn.running_mean].range.start, params.places[bn.running_var].range.start);
        self.statistics.clear();
        let of = |c: usize| Forward::from_running(running[mean_at + c], running[var_at + c], bn.eps);
        self.statistics.extend((0..self.channels).map(of));
        self.set_affine(bn, params, values);
    }

    fn set_affine(&mut self, bn: &Bn, params: &ParamTable, values: &[f32]) {
        let (weight, bias) = (params.places[bn.weight].range.start, params.places[bn.bias].range.start);
        for (c, f) in self.statistics.iter().enumerate() {
            (self.scale[c], self.shift[c]) = f.affine(values[weight + c], values[bias + c]);
        }
    }

    /// Coefficients of the input gradient, and the parameters' gradients, from the sums of g and g z.
    fn set_coefficients(
        &mut self,
        bn: &Bn,
        params: &ParamTable,
        values: &[f32],
        gradients: &mut [f32],
        g: &[f64],
        gz: &[f64],
        images: usize,
    ) {
        let (weight, bias) = (params.places[bn.weight].range.start, params.places[bn.bias].range.start);
        for (c, f) in self.statistics.iter().enumerate() {
            let k = Coefficients::of_batch(f, values[weight + c], g[c], gz[c], images * self.positions);
            (self.c[0][c], self.c[1][c], self.c[2][c]) = (k.c1, k.c2, k.c3);
            gradients[weight + c] = k.weight_grad;
            gradients[bias + c] = k.bias_grad;
        }
    }
}

/// Finishes the batch normalisations of a unit from its sums: of g, of g z and of g times the addend.
pub(super) fn finish_backward(
    unit: &NormUnit,
    plan: &Plan,
    params: &ParamTable,
    states: &mut [NormState],
    values: &[f32],
    gradients: &mut [f32],
    sums: &[f64],
    images: usize,
) {
    let n = plan.tensors[unit.y].map.stride;
    let (g, gz, go) = (&sums[..n], &sums[n..2 * n], &sums[2 * n..3 * n]);
    states[unit.bn].set_coefficients(&plan.bns[unit.bn], params, values, gradients, g, gz, images);
    if let Addend::Normalized(_, other) = unit.addend {
        states[other].set_coefficients(&plan.bns[other], params, values, gradients, g, go, images);
    }
}
