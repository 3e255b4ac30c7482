//! Batch normalisation of maps `[rows, channels]`, with what is fused into it.
//!
//! Forward: `y = scale z + shift`, then plus an addend, then ReLU; `scale = gamma / sqrt(var + eps)`, `shift = beta - mean scale`, from the
//! batch ([`moments`]) or from running statistics ([`running`]). Backward, with g the gradient of the normalised value ([`complete`]):
//! `dz = c1 g + c2 z + c3` ([`input_gradient`]), whose coefficients need only two sums per channel.

mod backward;
#[cfg(all(test, feature = "emulated"))]
mod tests;

pub use backward::{Gradients, Incoming, Output, complete, input_gradient};

use super::columns::{self, Chunks, rows};
use super::error::{Result, check};
use super::launch::{Parameters, Threads, launch, launch_blocks};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{PackKernel, holds, pack_kernel};

/// What a batch normalisation keeps between its passes, each a number of f32 per channel.
#[derive(Clone, Debug)]
pub struct Channels {
    mean: View,
    inverse: View,
    scale: View,
    shift: View,
    coefficients: [View; 3],
    /// How many blocks are done, while sums are made; else 0.
    tickets: View,
}

impl Channels {
    /// Memory for so many channels.
    ///
    /// # Errors
    /// There are none; the machine's.
    pub fn new(machine: &dyn Machine, channels: usize) -> Result<Self> {
        check("norm", channels > 0, || "no channels".to_owned())?;
        // Packs of 8 begin on multiples of 32 bytes.
        let stride = channels.next_multiple_of(64);
        let tickets = columns::groups(channels);
        let memory = machine.alloc((7 * stride + tickets) * 4)?;
        let part = |i: usize| memory.view(Element::F32, i * stride * 4, channels);
        Ok(Self {
            mean: part(0)?,
            inverse: part(1)?,
            scale: part(2)?,
            shift: part(3)?,
            coefficients: [part(4)?, part(5)?, part(6)?],
            tickets: memory.view(Element::U32, 7 * stride * 4, tickets)?,
        })
    }

    /// Channels.
    pub fn count(&self) -> usize {
        self.mean.len()
    }

    /// Mean of the last batch, or the running one.
    pub fn mean(&self) -> &View {
        &self.mean
    }

    /// `1 / sqrt(var + eps)`.
    pub fn inverse(&self) -> &View {
        &self.inverse
    }

    /// What a value is multiplied by.
    pub fn scale(&self) -> &View {
        &self.scale
    }

    /// What is added then.
    pub fn shift(&self) -> &View {
        &self.shift
    }

    /// c1, c2, c3 of the last backward pass.
    pub fn coefficients(&self) -> &[View; 3] {
        &self.coefficients
    }
}

/// What a normalised value is added to.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a> {
    /// Nothing.
    None,
    /// A map.
    Value(&'a View),
    /// A map that another batch normalisation's scale and shift are applied to.
    Normalized(&'a View, &'a Channels),
}

impl<'a> Addend<'a> {
    fn value(self) -> Option<&'a View> {
        match self {
            Self::None => None,
            Self::Value(value) | Self::Normalized(value, _) => Some(value),
        }
    }

    fn channels(self) -> Option<&'a Channels> {
        match self {
            Self::Normalized(_, channels) => Some(channels),
            _ => None,
        }
    }
}

/// Parameters and running statistics of a batch normalisation, in f32.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Weight.
    pub gamma: &'a View,
    /// Bias.
    pub beta: &'a View,
    /// What every value lacks that is normalised, for each channel: the bias of a convolution that nobody has added. Running statistics
    /// are those of the sums.
    pub lacking: Option<&'a View>,
    /// Running mean and variance.
    pub running: [&'a View; 2],
    /// Added to the variance.
    pub eps: f32,
    /// Weight of a batch in the running statistics.
    pub momentum: f32,
}

/// Numbers of f32 that a batch normalisation's sums need on their way.
pub fn scratch_len(rows: usize, channels: usize) -> usize {
    3 * columns::scratch_len(rows, channels)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MomentParameters {
    z: u64,
    partial: u64,
    tickets: u64,
    gamma: u64,
    beta: u64,
    bias: u64,
    running_mean: u64,
    running_var: u64,
    mean: u64,
    inverse: u64,
    scale: u64,
    shift: u64,
    rows: u64,
    inverse_rows: f64,
    unbiased: f64,
    channels: u32,
    chunk_rows: u32,
    eps: f32,
    momentum: f32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for MomentParameters {}

impl MomentParameters {
    /// Everything but what is summed.
    fn new(name: &'static str, affine: &Affine<'_>, state: &Channels) -> Result<Self> {
        let channels = state.count();
        let [mean, var] = affine.running;
        for (what, view) in [
            ("gamma", affine.gamma),
            ("beta", affine.beta),
            ("the running mean", mean),
            ("the variance", var),
        ] {
            holds(name, what, view, channels, Element::F32)?;
        }
        if let Some(bias) = affine.lacking {
            holds(name, "what is lacking", bias, channels, Element::F32)?;
        }
        Ok(Self {
            z: 0,
            partial: 0,
            tickets: state.tickets.address(),
            gamma: affine.gamma.address(),
            beta: affine.beta.address(),
            bias: affine.lacking.map_or(0, View::address),
            running_mean: mean.address(),
            running_var: var.address(),
            mean: state.mean.address(),
            inverse: state.inverse.address(),
            scale: state.scale.address(),
            shift: state.shift.address(),
            rows: 0,
            inverse_rows: 0.0,
            unbiased: 0.0,
            channels: channels as u32,
            chunk_rows: 0,
            eps: affine.eps,
            momentum: affine.momentum,
        })
    }
}

const MOMENTS: PackKernel = pack_kernel!("moments");
const APPLY: PackKernel = pack_kernel!("norm_apply");

/// Mean and variance of every channel of `z`, and the affine map that follows from them.
///
/// The variance that normalises is divided by the rows; the running statistics move by `momentum` towards the mean and the variance
/// divided by one less (of a single row, by 1). Sums are of differences from a value of the channel, so that a mean far larger than the
/// standard deviation does no harm, and f64 where they end.
///
/// # Errors
/// `z` are no whole rows of the state's channels; `scratch` has fewer than [`scratch_len`] numbers of f32.
pub fn moments(
    machine: &dyn Machine,
    z: &View,
    affine: &Affine<'_>,
    scratch: &View,
    state: &Channels,
) -> Result<()> {
    const NAME: &str = "moments";
    let channels = state.count();
    let rows = rows(NAME, z, channels)?;
    let chunks = Chunks::new(rows, channels);
    let partial = columns::partial(NAME, scratch, (3, chunks, channels))?;
    let parameters = MomentParameters {
        z: z.address(),
        partial: partial.address(),
        rows: rows as u64,
        inverse_rows: 1.0 / rows as f64,
        unbiased: rows as f64 / (rows - 1).max(1) as f64,
        chunk_rows: chunks.rows as u32,
        ..MomentParameters::new(NAME, affine, state)?
    };
    let (kernel, pack) = MOMENTS.choose(z.element(), channels, &[z, &partial]);
    // SAFETY: lengths and types were checked.
    unsafe { launch_blocks(machine, kernel, &parameters, chunks.threads(channels, pack)) }
}

/// The affine map from running statistics.
///
/// # Errors
/// Lengths or types do not fit.
pub fn running(machine: &dyn Machine, affine: &Affine<'_>, state: &Channels) -> Result<()> {
    let parameters = MomentParameters::new("running", affine, state)?;
    // SAFETY: lengths and types were checked.
    unsafe { launch(machine, "norm_running", &parameters, Threads::each(state.count())) }
}

/// Packs of a map, and how far those of a thread lie apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packs {
    count: u32,
    stride: u32,
}

impl Packs {
    /// So many that a large device is busy with half as many threads, each with two.
    const MANY: usize = 1 << 18;

    /// Of a map with so many in a pixel.
    fn new(count: usize, of_pixel: usize) -> Self {
        let stride = if count < Self::MANY { count } else { (count / of_pixel).div_ceil(2) * of_pixel };
        Self { count: count as u32, stride: stride as u32 }
    }

    fn threads(self) -> Threads {
        Threads::each(self.stride as usize)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ApplyParameters {
    z: u64,
    other: u64,
    y: u64,
    scale: u64,
    shift: u64,
    other_scale: u64,
    other_shift: u64,
    packs: Packs,
    channels: u32,
    addend: u32,
    relu: u32,
    unused: u32,
}
// SAFETY: numbers without padding.
unsafe impl Parameters for ApplyParameters {}

/// `y = scale z + shift`, plus the addend, then with `relu` max(y, 0). `y` may be `z` or the addend.
///
/// # Errors
/// Maps differ in length or type, or are no whole rows of the state's channels.
pub fn apply(
    machine: &dyn Machine,
    z: &View,
    state: &Channels,
    addend: Addend<'_>,
    relu: bool,
    y: &View,
) -> Result<()> {
    const NAME: &str = "norm";
    let channels = state.count();
    rows(NAME, z, channels)?;
    holds(NAME, "the output", y, z.len(), z.element())?;
    check_addend(NAME, z, addend, channels)?;
    let views: Vec<&View> = [z, y].into_iter().chain(addend.value()).collect();
    let (kernel, pack) = APPLY.choose(z.element(), channels, &views);
    let packs = Packs::new(z.len() / pack, channels / pack);
    let other = addend.channels();
    let parameters = ApplyParameters {
        z: z.address(),
        other: addend.value().map_or(0, View::address),
        y: y.address(),
        scale: state.scale.address(),
        shift: state.shift.address(),
        other_scale: other.map_or(0, |c| c.scale.address()),
        other_shift: other.map_or(0, |c| c.shift.address()),
        packs,
        channels: channels as u32,
        addend: match addend {
            Addend::None => 0,
            Addend::Value(_) => 1,
            Addend::Normalized(..) => 2,
        },
        relu: u32::from(relu),
        unused: 0,
    };
    // SAFETY: lengths and types were checked.
    unsafe { launch(machine, kernel, &parameters, packs.threads()) }
}

fn check_addend(name: &'static str, z: &View, addend: Addend<'_>, channels: usize) -> Result<()> {
    if let Some(value) = addend.value() {
        holds(name, "the addend", value, z.len(), z.element())?;
    }
    let other = addend.channels().map_or(channels, Channels::count);
    check(name, other == channels, || format!("{channels} channels plus {other}"))
}
