//! Gradients of a batch normalisation and of what is fused into it.

use super::{Addend, Channels, check_addend};
use crate::gpu::columns::{Chunks, rows};
use crate::gpu::error::{Result, check};
use crate::gpu::launch::{Parameters, Threads, launch, launch_blocks};
use crate::gpu::machine::Machine;
use crate::gpu::memory::{Element, View};
use crate::gpu::packs::{PackKernel, holds, pack_kernel};

/// A batch normalisation's weight, and where the gradients of weight and bias go, in f32.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// Weight.
    pub gamma: &'a View,
    /// Its gradient, overwritten.
    pub d_gamma: &'a View,
    /// The bias's, overwritten.
    pub d_beta: &'a View,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CompleteParameters {
    g: u64,
    residual: u64,
    y: u64,
    z: u64,
    other: u64,
    scale: u64,
    shift: u64,
    mean: u64,
    inverse: u64,
    other_mean: u64,
    other_inverse: u64,
    partial: u64,
    rows: u64,
    channels: u32,
    chunk_rows: u32,
    relu: u32,
    sums: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for CompleteParameters {}

#[repr(C)]
#[derive(Clone, Copy)]
struct CoefficientParameters {
    partial: u64,
    gamma: u64,
    mean: u64,
    inverse: u64,
    gamma_gradient: u64,
    beta_gradient: u64,
    c1: u64,
    c2: u64,
    c3: u64,
    rows: u64,
    channels: u32,
    chunks: u32,
    sums: u32,
    product: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for CoefficientParameters {}

const COMPLETE: PackKernel = pack_kernel!("norm_complete");
const INPUT: PackKernel = pack_kernel!("norm_input");

/// The output of [`super::apply`], and what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The output; it is read only with a rectifier and an addend.
    pub y: &'a View,
    /// What was normalised.
    pub z: &'a View,
    /// Its normalisation.
    pub state: &'a Channels,
    /// What was added.
    pub addend: Addend<'a>,
    /// Whether the sum was rectified.
    pub relu: bool,
}

/// Completes the gradient `g` of an output: `g = (g + residual) [y > 0]`, the bracket with a rectifier only. Then, with xhat the
/// normalised z before scale and shift, `d_beta = sum g`, `d_gamma = sum g xhat`, and the coefficients of [`input_gradient`]:
/// `dz = gamma inverse (g - d_beta / rows - xhat d_gamma / rows)`.
///
/// `own` are the parameters of the output's normalisation, `other` those of a normalised addend.
///
/// # Errors
/// Maps differ in length or type, or are no whole rows; `scratch` has fewer than [`super::scratch_len`] numbers of f32; `other` is
/// absent, or superfluous.
pub fn complete(
    machine: &dyn Machine,
    g: &View,
    residual: Option<&View>,
    output: &Output<'_>,
    own: &Gradients<'_>,
    other: Option<&Gradients<'_>>,
    scratch: &View,
) -> Result<()> {
    const NAME: &str = "norm_complete";
    let Output { y, z, state, addend, relu } = *output;
    let channels = state.count();
    let rows = rows(NAME, z, channels)?;
    for (what, view) in [("the gradient", g), ("the output", y)] {
        holds(NAME, what, view, z.len(), z.element())?;
    }
    if let Some(residual) = residual {
        holds(NAME, "the residual", residual, z.len(), z.element())?;
    }
    check_addend(NAME, z, addend, channels)?;
    let second = addend.channels();
    check(NAME, second.is_some() == other.is_some(), || {
        "a normalised addend, and nothing else, has parameters of its own".to_owned()
    })?;
    let chunks = Chunks::new(rows, channels);
    let sums = if second.is_some() { 3 } else { 2 };
    let partial = scratch.first(sums * chunks.count * channels)?;
    holds(NAME, "scratch", &partial, partial.len(), Element::F32)?;
    let mask = if relu { addend.value().map(|_| y) } else { None };
    let of_second = second.and(addend.value());
    let views: Vec<&View> = [g, z].into_iter().chain(residual).chain(mask).chain(of_second).collect();
    let (kernel, pack) = COMPLETE.choose(z.element(), channels, &views);
    let address = |view: Option<&View>| view.map_or(0, View::address);
    let parameters = CompleteParameters {
        g: g.address(),
        residual: address(residual),
        y: address(mask),
        z: z.address(),
        other: address(of_second),
        scale: state.scale.address(),
        shift: state.shift.address(),
        mean: state.mean.address(),
        inverse: state.inverse.address(),
        other_mean: address(second.map(Channels::mean)),
        other_inverse: address(second.map(Channels::inverse)),
        partial: partial.address(),
        rows: rows as u64,
        channels: channels as u32,
        chunk_rows: chunks.rows as u32,
        relu: u32::from(relu),
        sums: sums as u32,
    };
    // SAFETY: lengths and types were checked.
    unsafe { launch_blocks(machine, kernel, &parameters, chunks.threads(channels, pack))? };
    let finish = |state: &Channels, gradients: &Gradients<'_>, product: u32| -> Result<()> {
        for (what, view) in
            [("gamma", gradients.gamma), ("its gradient", gradients.d_gamma), ("beta's", gradients.d_beta)]
        {
            holds(NAME, what, view, channels, Element::F32)?;
        }
        let [c1, c2, c3] = state.coefficients.each_ref().map(View::address);
        let parameters = CoefficientParameters {
            partial: partial.address(),
            gamma: gradients.gamma.address(),
            mean: state.mean.address(),
            inverse: state.inverse.address(),
            gamma_gradient: gradients.d_gamma.address(),
            beta_gradient: gradients.d_beta.address(),
            c1,
            c2,
            c3,
            rows: rows as u64,
            channels: channels as u32,
            chunks: chunks.count as u32,
            sums: sums as u32,
            product,
        };
        // SAFETY: lengths and types were checked.
        unsafe { launch_blocks(machine, "norm_coefficients", &parameters, Chunks::finish(channels)) }
    };
    finish(state, own, 1)?;
    match second.zip(other) {
        Some((second, other)) => finish(second, other, 2),
        None => Ok(()),
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct NormInputParameters {
    g: u64,
    z: u64,
    dz: u64,
    c1: u64,
    c2: u64,
    c3: u64,
    packs: u64,
    channels: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for NormInputParameters {}

/// `dz = c1 g + c2 z + c3`, or added to `dz`, with the coefficients of the last [`complete`]; `dz` may be `g`.
///
/// # Errors
/// Maps differ in length or type, or are no whole rows of the state's channels.
pub fn input_gradient(
    machine: &dyn Machine,
    g: &View,
    z: &View,
    state: &Channels,
    dz: &View,
    accumulate: bool,
) -> Result<()> {
    const NAME: &str = "norm_input";
    let channels = state.count();
    rows(NAME, z, channels)?;
    for (what, view) in [("the gradient", g), ("the result", dz)] {
        holds(NAME, what, view, z.len(), z.element())?;
    }
    let (kernel, pack) = INPUT.choose(z.element(), channels, &[g, z, dz]);
    let packs = z.len() / pack;
    let [c1, c2, c3] = state.coefficients.each_ref().map(View::address);
    let parameters = NormInputParameters {
        g: g.address(),
        z: z.address(),
        dz: dz.address(),
        c1,
        c2,
        c3,
        packs: packs as u64,
        channels: channels as u32,
        accumulate: u32::from(accumulate),
    };
    // SAFETY: lengths and types were checked.
    unsafe { launch(machine, kernel, &parameters, Threads::each(packs)) }
}
