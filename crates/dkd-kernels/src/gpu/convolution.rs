//! Convolutions, with their weights as `[outputs, rows, columns, inputs of a group]`.

use super::error::{Result, check};
use super::machine::Machine;
use super::memory::{Element, View};
use super::packs::{apart, holds};
use std::fmt;

/// Sizes of a convolution over a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Images.
    pub images: usize,
    /// Height, width and channels of the input.
    pub input: (usize, usize, usize),
    /// Height, width and channels of the output.
    pub output: (usize, usize, usize),
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Between rows, and between columns.
    pub stride: (usize, usize),
    /// Rows of zeros above and below, columns of zeros on both sides.
    pub padding: (usize, usize),
    /// Groups.
    pub groups: usize,
    /// How it is computed.
    pub arithmetic: Arithmetic,
}

/// What maps and weights are made of, and how they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// All in f32.
    F32,
    /// Maps and weights in f32, of which products see the upper 19 bits.
    Tf32,
    /// Maps and weights in bf16, sums in f32.
    Bf16,
}

impl Arithmetic {
    /// What maps and weights are made of.
    pub fn element(self) -> Element {
        if self == Self::Bf16 { Element::Bf16 } else { Element::F32 }
    }
}

/// Which of a library's algorithms compute convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithms {
    /// The first by the library's rules whose sums have a fixed order: all runs with this library on such a device give the same bits.
    #[default]
    Ruled,
    /// Of those with a fixed order the fastest, measured once for each shape and kept for this user: the same bits for as long as that is kept.
    Measured,
    /// The fastest of all, measured and kept as well: bits may differ from run to run.
    Fastest,
}

impl Algorithms {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ruled, Self::Measured, Self::Fastest];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ruled => "rules",
            Self::Measured => "measured",
            Self::Fastest => "fastest",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithms| algorithms.name() == name)
    }
}

/// An engine that a library would take by its [rules](Algorithms::Ruled), if it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Engine and settings.
    pub name: String,
    /// Bytes that it needs besides the operands.
    pub workspace: usize,
    /// Whether it brings an operand into another order first.
    pub rearranges: bool,
}

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((h, w, inputs), (oh, ow, outputs)) = (self.input, self.output);
        write!(
            f,
            "{} images of {h}x{w}, {inputs} channels, to {oh}x{ow}, {outputs} channels, ",
            self.images
        )?;
        let [kernel, stride, padding] = [self.kernel, self.stride, self.padding];
        write!(f, "kernel {}x{}, stride {}x{}, ", kernel.0, kernel.1, stride.0, stride.1)?;
        write!(f, "padding {}x{}, {} groups, {:?}", padding.0, padding.1, self.groups, self.arithmetic)
    }
}

/// What is computed of input `x`, weights `w` and output `y`, or of their gradients in the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `y` from `x` and `w`.
    Forward,
    /// The gradient of `x` from that of `y` and from `w`.
    InputGradient,
    /// The gradient of `w` from that of `y` and from `x`.
    WeightGradient,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forwards",
            Self::InputGradient => "gradient of the input",
            Self::WeightGradient => "gradient of the weights",
        })
    }
}

/// What a forward pass makes of its sums before it stores them: `y = scale sum + shift`, with a scale and a shift for each channel, then plus
/// an addend, then max(y, 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epilogue {
    /// Whether a map like the output is added.
    pub addend: bool,
    /// Whether what is negative becomes 0.
    pub relu: bool,
}

impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("normalized")?;
        f.write_str(if self.addend { ", added" } else { "" })?;
        f.write_str(if self.relu { ", rectified" } else { "" })
    }
}

/// What a forward pass with an [`Epilogue`] reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Fused<'a> {
    /// Input, weights and output.
    pub operands: [&'a View; 3],
    /// In f32, a number for each channel of the output.
    pub scale: &'a View,
    /// The same.
    pub shift: &'a View,
    /// A map like the output.
    pub addend: Option<&'a View>,
}

impl<'a> Fused<'a> {
    /// All, in the order of the fields.
    pub fn views(&self) -> impl Iterator<Item = &'a View> {
        self.operands.into_iter().chain([self.scale, self.shift]).chain(self.addend)
    }
}

impl Convolution {
    /// Numbers in the input, the weights, the output.
    pub fn lengths(&self) -> [usize; 3] {
        let map = |(h, w, c): (usize, usize, usize)| self.images * h * w * c;
        let weights = self.output.2 * self.kernel.0 * self.kernel.1 * self.input.2 / self.groups;
        [map(self.input), weights, map(self.output)]
    }

    /// Products of two numbers that each pass adds up, those with padding counted.
    #[cfg(feature = "cuda")]
    pub(super) fn products(&self) -> usize {
        let [_, weights, output] = self.lengths();
        output / self.output.2.max(1) * weights
    }

    /// Runs one pass over `[x, w, y]`: see [`Machine::convolve`].
    ///
    /// # Errors
    /// Another length or type; something else than a gradient of the input is to be added; the machine's.
    pub fn run(
        &self,
        machine: &dyn Machine,
        pass: Pass,
        operands: [&View; 3],
        accumulate: bool,
    ) -> Result<()> {
        for ((view, len), what) in operands.iter().zip(self.lengths()).zip(["input", "weights", "output"]) {
            check("convolution", view.len() == len && view.element() == self.arithmetic.element(), || {
                let element = self.arithmetic.element();
                format!("its {what} are {} {:?}, expected {len} {element:?}", view.len(), view.element())
            })?;
        }
        check("convolution", !accumulate || pass == Pass::InputGradient, || {
            format!("{pass} are not added up")
        })?;
        // SAFETY: lengths and types were checked; a view is inside its memory.
        unsafe { machine.convolve(pass, self, operands, accumulate) }
    }

    /// Runs the forward pass with all that follows it: see [`Epilogue`] and [`Machine::convolve_fused`].
    ///
    /// # Errors
    /// Another length or type; the output overlaps something that is read; the machine's.
    pub fn run_fused(&self, machine: &dyn Machine, fused: &Fused<'_>, relu: bool) -> Result<()> {
        const NAME: &str = "convolution with what follows";
        let (element, lengths) = (self.arithmetic.element(), self.lengths());
        for ((view, len), what) in
            fused.operands.iter().zip(lengths).zip(["the input", "the weights", "the output"])
        {
            holds(NAME, what, view, len, element)?;
        }
        for (view, what) in [(fused.scale, "the scale"), (fused.shift, "the shift")] {
            holds(NAME, what, view, self.output.2, Element::F32)?;
        }
        if let Some(addend) = fused.addend {
            holds(NAME, "the addend", addend, lengths[2], element)?;
        }
        let [x, w, y] = fused.operands;
        let read: Vec<&View> = [x, w, fused.scale, fused.shift].into_iter().chain(fused.addend).collect();
        apart(NAME, &read, y)?;
        let epilogue = Epilogue { addend: fused.addend.is_some(), relu };
        // SAFETY: lengths and types were checked; a view is inside its memory.
        unsafe { machine.convolve_fused(self, epilogue, fused) }
    }
}
