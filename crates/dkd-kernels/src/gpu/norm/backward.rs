//! Gradients of a batch normalisation and of what is fused into it.

use super::{Addend, Channels, Packs, check_addend};
use crate::channels::MAX_SOURCES;
use crate::gpu::channels::Table;
use crate::gpu::columns::{self, Chunks, rows};
use crate::gpu::error::{Result, check};
use crate::gpu::launch::{Parameters, address, launch, launch_blocks};
use crate::gpu::machine::Machine;
use crate::gpu::memory::{Element, View};
use crate::gpu::packs::{PackKernel, apart, fits, holds, pack_kernel};

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
#[derive(Clone, Copy, Default)]
struct Coefficients {
    gamma: u64,
    mean: u64,
    inverse: u64,
    gamma_gradient: u64,
    beta_gradient: u64,
    c: [u64; 3],
}

impl Coefficients {
    fn new(state: &Channels, gradients: &Gradients<'_>) -> Result<Self> {
        let Gradients { gamma, d_gamma, d_beta } = *gradients;
        for (what, view) in [("gamma", gamma), ("its gradient", d_gamma), ("beta's", d_beta)] {
            holds(NAME, what, view, state.count(), Element::F32)?;
        }
        Ok(Self {
            gamma: gamma.address(),
            mean: state.mean.address(),
            inverse: state.inverse.address(),
            gamma_gradient: d_gamma.address(),
            beta_gradient: d_beta.address(),
            c: state.coefficients.each_ref().map(View::address),
        })
    }
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
    own: Coefficients,
    addend: Coefficients,
    partial: u64,
    tickets: u64,
    rows: u64,
    inverse_rows: f64,
    channels: u32,
    chunk_rows: u32,
    relu: u32,
    sums: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for CompleteParameters {}

#[repr(C)]
#[derive(Clone, Copy)]
struct GatheredParameters {
    complete: CompleteParameters,
    sources: [u64; MAX_SOURCES],
    counts: [u32; MAX_SOURCES],
    table: u64,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for GatheredParameters {}

const NAME: &str = "norm_complete";
const COMPLETE: PackKernel = pack_kernel!("norm_complete");
const INPUT: PackKernel = pack_kernel!("norm_input");

/// The output of [`super::apply`], and what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The output, needed only with a rectifier and an addend.
    pub y: Option<&'a View>,
    /// What was normalised.
    pub z: &'a View,
    /// Its normalisation.
    pub state: &'a Channels,
    /// What was added.
    pub addend: Addend<'a>,
    /// Whether the sum was rectified.
    pub relu: bool,
}

/// Where the gradient of an output comes from.
#[derive(Clone, Copy, Debug)]
pub enum Incoming<'a> {
    /// From where it is completed.
    Own,
    /// From there, plus this.
    Plus(&'a View),
    /// From these maps, whose channels the table names for each of the output's; where it is completed is overwritten.
    Gathered(&'a Table, &'a [&'a View]),
}

/// Completes the gradient `g` of an output: `g = incoming [y > 0]`, the bracket with a rectifier only. Then, with xhat the
/// normalised z before scale and shift, `d_beta = sum g`, `d_gamma = sum g xhat`, and the coefficients of [`input_gradient`]:
/// `dz = gamma inverse (g - d_beta / rows - xhat d_gamma / rows)`.
///
/// `own` are the parameters of the output's normalisation, `other` those of a normalised addend.
///
/// # Errors
/// Maps differ in length or type, or are no whole rows; `scratch` has fewer than [`super::scratch_len`] numbers of f32; `other` is
/// absent, or superfluous; the output is absent, and needed; a gradient is gathered for a sum, or from a map that overlaps `g`.
pub fn complete(
    machine: &dyn Machine,
    g: &View,
    incoming: Incoming<'_>,
    output: &Output<'_>,
    own: &Gradients<'_>,
    other: Option<&Gradients<'_>>,
    scratch: &View,
) -> Result<()> {
    let Output { y, z, state, addend, relu } = *output;
    let channels = state.count();
    let rows = rows(NAME, z, channels)?;
    holds(NAME, "the gradient", g, z.len(), z.element())?;
    let residual = match incoming {
        Incoming::Plus(residual) => Some(residual),
        _ => None,
    };
    let mask = if relu && addend.value().is_some() { y } else { None };
    check(NAME, mask.is_some() || !relu || addend.value().is_none(), || "no output".to_owned())?;
    for (what, view) in [("the residual", residual), ("the output", mask)] {
        view.map_or(Ok(()), |view| holds(NAME, what, view, z.len(), z.element()))?;
    }
    check_addend(NAME, z, addend, channels)?;
    let second = addend.channels();
    check(NAME, second.is_some() == other.is_some(), || {
        "a normalised addend, and nothing else, has parameters of its own".to_owned()
    })?;
    let chunks = Chunks::new(rows, channels);
    let sums = if second.is_some() { 3 } else { 2 };
    let partial = columns::partial(NAME, scratch, (sums, chunks, channels))?;
    let of_second = second.and(addend.value());
    let views: Vec<&View> = [g, z].into_iter().chain(residual).chain(mask).chain(of_second).collect();
    let parameters = CompleteParameters {
        g: g.address(),
        residual: address(residual),
        y: address(mask),
        z: z.address(),
        other: address(of_second),
        scale: state.scale.address(),
        shift: state.shift.address(),
        own: Coefficients::new(state, own)?,
        addend: match second.zip(other) {
            Some((second, other)) => Coefficients::new(second, other)?,
            None => Coefficients::default(),
        },
        partial: partial.address(),
        tickets: state.tickets.address(),
        rows: rows as u64,
        inverse_rows: 1.0 / rows as f64,
        channels: channels as u32,
        chunk_rows: chunks.rows as u32,
        relu: u32::from(relu),
        sums: sums as u32,
    };
    if let Incoming::Gathered(table, sources) = incoming {
        check(NAME, addend.value().is_none(), || "a gradient that is gathered for a sum".to_owned())?;
        let gathered = gathered(parameters, table, sources, g)?;
        let (kernel, pack) = match z.element() {
            Element::Bf16 if fits(2, channels, &views) => ("norm_complete_gathered_pairs_bf16", 2),
            Element::Bf16 => ("norm_complete_gathered_bf16", 1),
            _ => ("norm_complete_gathered_f32", 1),
        };
        // SAFETY: lengths and types were checked; the table names channels that its sources have.
        return unsafe { launch_blocks(machine, kernel, &gathered, chunks.threads(channels, pack)) };
    }
    let (kernel, pack) = COMPLETE.choose(z.element(), channels, &views);
    // SAFETY: lengths and types were checked.
    unsafe { launch_blocks(machine, kernel, &parameters, chunks.threads(channels, pack)) }
}

/// Checks where a gradient is gathered from.
fn gathered(
    complete: CompleteParameters,
    table: &Table,
    sources: &[&View],
    g: &View,
) -> Result<GatheredParameters> {
    let rows = complete.rows as usize;
    let fitting = table.channels() == complete.channels as usize && table.sources().len() == sources.len();
    check(NAME, fitting, || format!("{} maps for a table of {:?}", sources.len(), table.sources()))?;
    let mut parameters =
        GatheredParameters { complete, sources: [0; MAX_SOURCES], counts: [0; MAX_SOURCES], table: 0 };
    for (i, (view, channels)) in sources.iter().zip(table.sources()).enumerate() {
        holds(NAME, "a map of gradients", view, rows * channels, g.element())?;
        (parameters.sources[i], parameters.counts[i]) = (view.address(), *channels as u32);
    }
    apart(NAME, sources, g)?;
    parameters.table = table.view().address();
    Ok(parameters)
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
    packs: Packs,
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
    let packs = Packs::new(z.len() / pack, channels / pack);
    let [c1, c2, c3] = state.coefficients.each_ref().map(View::address);
    let parameters = NormInputParameters {
        g: g.address(),
        z: z.address(),
        dz: dz.address(),
        c1,
        c2,
        c3,
        packs,
        channels: channels as u32,
        accumulate: u32::from(accumulate),
    };
    // SAFETY: lengths and types were checked.
    unsafe { launch(machine, kernel, &parameters, packs.threads()) }
}
