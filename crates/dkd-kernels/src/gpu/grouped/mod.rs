//! Convolutions in groups, one channel per group (depthwise) among them, and what a machine's library leaves of those in one: output,
//! gradient of the input, gradient of the weights.

mod plan;
#[cfg(all(test, feature = "emulated"))]
mod tests;

use super::convolution::{Convolution, Pass};
use super::error::{GpuError, Result};
use super::launch::{MapKernel, Parameters, Threads, address, launch, launch_blocks, map_kernel};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{PackKernel, apart, holds, pack_kernel};
use plan::{Plan, TILE_CHANNELS, TILE_PIXELS, TILE_THREADS, Way};

const NAME: &str = "grouped convolution";
/// Outputs in a row for each thread of a depthwise convolution.
const STRIP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedParameters {
    x: u64,
    w: u64,
    y: u64,
    partial: u64,
    images: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    outputs: u32,
    kernel_rows: u32,
    kernel_columns: u32,
    stride_rows: u32,
    stride_columns: u32,
    padding_rows: u32,
    padding_columns: u32,
    groups: u32,
    chunks: u32,
    accumulate: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for GroupedParameters {}

const DEPTHWISE: PackKernel = pack_kernel!("depthwise");
const DEPTHWISE_THREE: PackKernel = pack_kernel!("depthwise", "_three");
const DEPTHWISE_INPUT: PackKernel = pack_kernel!("depthwise_input_gradient");
const DEPTHWISE_INPUT_THREE: PackKernel = pack_kernel!("depthwise_input_gradient", "_three");
const DEPTHWISE_INPUT_THREE_BY_TWO: PackKernel = pack_kernel!("depthwise_input_gradient", "_three_by_two");
const DEPTHWISE_WEIGHT: PackKernel = pack_kernel!("depthwise_weight_gradient");
const DEPTHWISE_WEIGHT_THREE: PackKernel = pack_kernel!("depthwise_weight_gradient", "_three");
const TILES: MapKernel = map_kernel!("grouped_tiles");
const TILES_INPUT: MapKernel = map_kernel!("grouped_tiles_input_gradient");
const TILES_WEIGHT: MapKernel = map_kernel!("grouped_tiles_weight_gradient");
const EACH: MapKernel = map_kernel!("grouped");
const EACH_INPUT: MapKernel = map_kernel!("grouped_input_gradient");
const EACH_WEIGHT: MapKernel = map_kernel!("grouped_weight_gradient");

/// Numbers of f32 that [`run`] needs for [`Pass::WeightGradient`].
///
/// # Errors
/// The sizes do not fit each other, or are too large.
pub fn scratch_len(c: &Convolution) -> Result<usize> {
    Ok(Plan::new(c)?.scratch)
}

/// One pass of a convolution with any number of groups over `[x, w, y]`, overwriting its result or adding to
/// it.
///
/// With k over kernel rows and columns, and i over the inputs of the group of output o:
/// - forward: `y[n, q, o] = sum over k, i of x[n, q * stride + k - padding, i] * w[o, k, i]`;
/// - input gradient: `x[n, r, i] = sum over o and the q, k with q * stride + k - padding = r of y[n, q, o] *
///   w[o, k, i]`;
/// - weight gradient: `w[o, k, i] = sum over n, q of x[n, q * stride + k - padding, i] * y[n, q, o]`.
///
/// `x` is `[images, height, width, channels]`, `y` the same of the output, `w` is `[outputs, kernel rows,
/// kernel columns, channels / groups]`; all are of the arithmetic's type, but a weight gradient is f32.
/// Products and sums are f32 whatever the arithmetic says, the last sums of a weight gradient f64. That pass
/// alone takes `scratch`: at least [`scratch_len`] numbers of f32.
///
/// # Errors
/// Lengths or types do not fit; the sizes do not fit each other; a map, the weights or the scratch has 2^31
/// numbers or more; the result overlaps an operand or the scratch.
pub fn run(
    machine: &dyn Machine,
    pass: Pass,
    c: &Convolution,
    operands: [&View; 3],
    accumulate: bool,
    scratch: Option<&View>,
) -> Result<()> {
    let plan = Plan::new(c)?;
    let element = c.arithmetic.element();
    let weights = if pass == Pass::WeightGradient { Element::F32 } else { element };
    let types = [("the input", element), ("the weights", weights), ("the output", element)];
    for ((view, len), (what, element)) in operands.iter().zip(c.lengths()).zip(types) {
        holds(NAME, what, view, len, element)?;
    }
    let [x, w, y] = operands;
    match pass {
        Pass::Forward => apart(NAME, &[x, w], y)?,
        Pass::InputGradient => apart(NAME, &[w, y], x)?,
        Pass::WeightGradient => apart(NAME, &[x, y], w)?,
    }
    let partial = if pass == Pass::WeightGradient {
        let missing = || {
            let message = format!("its weight gradient needs {} numbers of scratch", plan.scratch);
            GpuError::Shape { operation: NAME, message }
        };
        let scratch = scratch.filter(|scratch| scratch.len() >= plan.scratch).ok_or_else(missing)?;
        holds(NAME, "scratch", scratch, scratch.len(), Element::F32)?;
        apart(NAME, &operands, scratch)?;
        Some(scratch)
    } else {
        None
    };
    let parameters = parameters(c, &plan, operands, partial, accumulate);
    // SAFETY: all lengths and types were checked above.
    unsafe {
        match plan.way {
            Way::Depthwise => depthwise(machine, pass, c, &plan, operands, &parameters)?,
            Way::Tiles => tiles(machine, pass, c, &plan, &parameters)?,
            Way::Each => {
                let (kernel, n) = match pass {
                    Pass::Forward => (&EACH, y.len()),
                    Pass::InputGradient => (&EACH_INPUT, x.len()),
                    Pass::WeightGradient => (&EACH_WEIGHT, plan.scratch),
                };
                launch(machine, kernel.of(element), &parameters, Threads::each(n))?;
            }
        }
        if pass == Pass::WeightGradient {
            launch(machine, "grouped_finish", &parameters, Threads::each(w.len()))?;
        }
    }
    Ok(())
}

/// # Safety
/// The parameters' views have the lengths and types for this convolution.
unsafe fn depthwise(
    machine: &dyn Machine,
    pass: Pass,
    c: &Convolution,
    plan: &Plan,
    [x, w, y]: [&View; 3],
    parameters: &GroupedParameters,
) -> Result<()> {
    let three = c.kernel == (3, 3);
    let kernel = match pass {
        Pass::Forward if three => &DEPTHWISE_THREE,
        Pass::Forward => &DEPTHWISE,
        Pass::InputGradient if three && c.stride == (1, 1) => &DEPTHWISE_INPUT_THREE,
        Pass::InputGradient if three && c.stride == (2, 2) => &DEPTHWISE_INPUT_THREE_BY_TWO,
        Pass::InputGradient => &DEPTHWISE_INPUT,
        Pass::WeightGradient if three => &DEPTHWISE_WEIGHT_THREE,
        Pass::WeightGradient => &DEPTHWISE_WEIGHT,
    };
    // Weights are read in packs as well, but not written.
    let read: &[&View] = if pass == Pass::WeightGradient { &[x, y] } else { &[x, w, y] };
    let (kernel, pack) = kernel.choose(c.arithmetic.element(), c.input.2, read);
    let packs = c.input.2 / pack;
    let strips =
        |(height, width, _): (usize, usize, usize)| c.images * height * width.div_ceil(STRIP) * packs;
    // SAFETY: the caller's.
    unsafe {
        match pass {
            Pass::Forward => launch(machine, kernel, parameters, Threads::each(strips(c.output))),
            Pass::InputGradient => launch(machine, kernel, parameters, Threads::each(strips(c.input))),
            Pass::WeightGradient => {
                let (lanes, parts) = plan::depthwise_block(packs);
                let positions = if three { 1 } else { c.kernel.0 * c.kernel.1 };
                let blocks = packs.div_ceil(lanes) * positions * plan.chunks;
                let threads = Threads { grid: [blocks as u32, 1, 1], block: [lanes as u32, parts as u32, 1] };
                launch_blocks(machine, kernel, parameters, threads)
            }
        }
    }
}

/// # Safety
/// As for [`depthwise`].
unsafe fn tiles(
    machine: &dyn Machine,
    pass: Pass,
    c: &Convolution,
    plan: &Plan,
    parameters: &GroupedParameters,
) -> Result<()> {
    let [inputs, outputs] =
        [c.input.2, c.output.2].map(|channels| (channels / c.groups).div_ceil(TILE_CHANNELS));
    let pixels = |(h, w, _): (usize, usize, usize)| (c.images * h * w).div_ceil(TILE_PIXELS);
    let (kernel, blocks) = match pass {
        Pass::Forward => (&TILES, pixels(c.output) * outputs),
        Pass::InputGradient => (&TILES_INPUT, pixels(c.input) * inputs),
        Pass::WeightGradient => (&TILES_WEIGHT, inputs * outputs * c.kernel.0 * c.kernel.1 * plan.chunks),
    };
    let threads = Threads { grid: [(blocks * c.groups) as u32, 1, 1], block: [TILE_THREADS, 1, 1] };
    // SAFETY: the caller's.
    unsafe { launch_blocks(machine, kernel.of(c.arithmetic.element()), parameters, threads) }
}

fn parameters(
    c: &Convolution,
    plan: &Plan,
    [x, w, y]: [&View; 3],
    partial: Option<&View>,
    accumulate: bool,
) -> GroupedParameters {
    GroupedParameters {
        x: x.address(),
        w: w.address(),
        y: y.address(),
        partial: address(partial),
        images: c.images as u32,
        height: c.input.0 as u32,
        width: c.input.1 as u32,
        channels: c.input.2 as u32,
        out_height: c.output.0 as u32,
        out_width: c.output.1 as u32,
        outputs: c.output.2 as u32,
        kernel_rows: c.kernel.0 as u32,
        kernel_columns: c.kernel.1 as u32,
        stride_rows: c.stride.0 as u32,
        stride_columns: c.stride.1 as u32,
        padding_rows: c.padding.0 as u32,
        padding_columns: c.padding.1 as u32,
        groups: c.groups as u32,
        chunks: plan.chunks as u32,
        accumulate: u32::from(accumulate),
    }
}
