//! What is to be computed.

use crate::gpu::convolution::{Arithmetic, Convolution, Epilogue, Pass};
use std::fmt;

/// Numbers of the operands x, w, y, scale, shift and addend, by which addresses are given when a plan is run.
pub(super) const OPERANDS: [i64; 6] = [1, 2, 3, 4, 5, 6];

/// Whether anything is computed with what follows it: in f32 that takes seconds to compile, and has no tensor cores.
pub(super) fn is_fused_in(arithmetic: Arithmetic) -> bool {
    arithmetic != Arithmetic::F32
}

/// A pass of a convolution, and what becomes of its sums. Each of these has an engine of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub pass: Pass,
    pub convolution: Convolution,
    pub end: End,
}

/// What becomes of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// They take the place of what is there.
    Stored,
    /// They are added to what is there, which is a gradient of an input.
    Added,
    /// An output is made of them.
    Normalized(Epilogue),
}

impl Wanted {
    /// A pass without anything else.
    pub fn stored(pass: Pass, convolution: &Convolution) -> Self {
        Self { pass, convolution: *convolution, end: End::Stored }
    }

    /// A pass whose result may be added to what is there.
    pub fn added(pass: Pass, convolution: &Convolution, accumulate: bool) -> Self {
        let end = if accumulate { End::Added } else { End::Stored };
        Self { end, ..Self::stored(pass, convolution) }
    }

    /// An output that is made of sums.
    pub fn fused(convolution: &Convolution, epilogue: Epilogue) -> Self {
        Self { end: End::Normalized(epilogue), ..Self::stored(Pass::Forward, convolution) }
    }

    /// Whether something follows that could be computed apart.
    pub fn is_fused(&self) -> bool {
        matches!(self.end, End::Normalized(_))
    }

    /// How many of [`OPERANDS`] there are.
    pub fn operands(&self) -> usize {
        match self.end {
            End::Stored | End::Added => 3,
            End::Normalized(epilogue) => 5 + usize::from(epilogue.addend),
        }
    }

    /// Bytes of each operand; those that it does not have are 0.
    pub fn bytes(&self) -> [usize; 6] {
        let size = self.convolution.arithmetic.element().bytes();
        let [x, w, y] = self.convolution.lengths().map(|len| len * size);
        let channels = self.convolution.output.2 * size_of::<f32>();
        let mut all = [x, w, y, channels, channels, y];
        all[self.operands()..].fill(0);
        all
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pass)?;
        match self.end {
            End::Stored => {}
            End::Added => f.write_str(", added")?,
            End::Normalized(epilogue) => write!(f, ", {epilogue}")?,
        }
        write!(f, ": {}", self.convolution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_operands_of_its_own() {
        let c = Convolution {
            images: 2,
            input: (4, 4, 3),
            output: (4, 4, 5),
            kernel: (1, 1),
            stride: (1, 1),
            padding: (0, 0),
            groups: 1,
            arithmetic: Arithmetic::Bf16,
        };
        let epilogue = |addend, relu| Wanted::fused(&c, Epilogue { addend, relu });
        let all = [
            Wanted::stored(Pass::Forward, &c),
            Wanted::added(Pass::InputGradient, &c, true),
            Wanted::stored(Pass::InputGradient, &c),
            epilogue(false, false),
            epilogue(false, true),
            epilogue(true, false),
            epilogue(true, true),
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(Wanted::to_string).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all[0].bytes(), [192, 30, 320, 0, 0, 0]);
        assert_eq!(all[4].bytes(), [192, 30, 320, 20, 20, 0]);
        assert_eq!(all[6].bytes(), [192, 30, 320, 20, 20, 320]);
        assert!(all[6].to_string().starts_with("forwards, normalized, added, rectified: 2 images"));
    }
}
