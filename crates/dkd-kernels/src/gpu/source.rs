//! The kernels' text.

/// Files by name, in the order in which they are put together.
const FILES: &[(&str, &str)] = &[
    ("prelude.cuh", include_str!("../../cuda/prelude.cuh")),
    ("random.cuh", include_str!("../../cuda/random.cuh")),
    ("rows.cuh", include_str!("../../cuda/rows.cuh")),
    ("pointwise.cu", include_str!("../../cuda/pointwise.cu")),
    ("sgd.cu", include_str!("../../cuda/sgd.cu")),
    ("augment.cu", include_str!("../../cuda/augment.cu")),
    ("losses.cu", include_str!("../../cuda/losses.cu")),
    ("counters.cu", include_str!("../../cuda/counters.cu")),
];

/// Everything that is compiled, as one text.
pub fn kernels() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// What comes before it for a C++ compiler.
#[cfg(feature = "emulated")]
pub(super) const EMULATION: &str = include_str!("../../cuda/emulate.h");
