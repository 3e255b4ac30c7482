//! The kernels' text, for whoever wants to compile it.

/// Files by name, in the order in which they are put together.
const FILES: &[(&str, &str)] = &[
    ("prelude.cuh", include_str!("../../cuda/prelude.cuh")),
    ("random.cuh", include_str!("../../cuda/random.cuh")),
    ("windows.cuh", include_str!("../../cuda/windows.cuh")),
    ("rows.cuh", include_str!("../../cuda/rows.cuh")),
    ("pointwise.cu", include_str!("../../cuda/pointwise.cu")),
    ("columns.cu", include_str!("../../cuda/columns.cu")),
    ("norm.cu", include_str!("../../cuda/norm.cu")),
    ("norm_gradient.cu", include_str!("../../cuda/norm_gradient.cu")),
    ("dropout.cu", include_str!("../../cuda/dropout.cu")),
    ("channels.cu", include_str!("../../cuda/channels.cu")),
    ("pool.cu", include_str!("../../cuda/pool.cu")),
    ("grouped.cu", include_str!("../../cuda/grouped.cu")),
    ("depthwise.cu", include_str!("../../cuda/depthwise.cu")),
    ("tiles.cu", include_str!("../../cuda/tiles.cu")),
    ("linear.cu", include_str!("../../cuda/linear.cu")),
    ("augment.cu", include_str!("../../cuda/augment.cu")),
    ("reference.cuh", include_str!("../../cuda/reference.cuh")),
    ("losses.cu", include_str!("../../cuda/losses.cu")),
    ("sgd.cu", include_str!("../../cuda/sgd.cu")),
    ("counters.cu", include_str!("../../cuda/counters.cu")),
];

/// Everything that is compiled, as one text.
pub fn kernels() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}\n")).collect()
}

/// What NVRTC is told, besides the device. No fast mathematics: subnormal numbers stay, divisions and roots are rounded correctly.
pub const OPTIONS: &[&str] = &["-std=c++17", "--fmad=true"];

/// What comes before it for a C++ compiler.
#[cfg(feature = "emulated")]
pub(super) const EMULATION: &str = include_str!("../../cuda/emulate.h");

/// What looks at each of their accesses there.
#[cfg(feature = "emulated")]
pub(super) const SANITIZER: &str = include_str!("../../cuda/sanitize.cpp");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_waits_for_its_turn() {
        let text = kernels();
        let mut kernels = text.split("__global__");
        assert!(kernels.next().is_some_and(|before| before.contains("griddepcontrol.wait")));
        let mut count = 0;
        for kernel in kernels {
            let first = kernel.split('{').nth(1).map(|body| body.trim_start_matches(['\\', '\n', ' ']));
            assert!(first.is_some_and(|body| body.starts_with("in_turn();")), "{:.200}", kernel);
            count += 1;
        }
        assert_eq!(count, 2, "each kernel is made by one of two macros");
    }
}
