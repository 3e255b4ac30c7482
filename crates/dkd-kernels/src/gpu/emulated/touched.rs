//! What calls use of a machine's memory.

use super::Call;
use super::convolve::After;
use crate::gpu::convolution::Pass;
use crate::gpu::error::{GpuError, Result};

/// Bytes that a call has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub start: u64,
    pub end: u64,
    pub written: bool,
    /// The call.
    pub by: &'static str,
}

/// What `call` uses, if it is no kernel: what those use is found out when they run.
pub(super) fn of(call: &Call) -> Vec<Touched> {
    let used = |by, start, bytes, written| Touched { start, end: start + bytes as u64, written, by };
    match call {
        Call::Launch { .. } => Vec::new(),
        Call::Convolve { pass, convolution, operands, after } => {
            let result = match pass {
                Pass::InputGradient => 0,
                Pass::WeightGradient => 1,
                Pass::Forward => 2,
            };
            let size = convolution.arithmetic.element().bytes();
            let lengths = convolution.lengths();
            let all = operands.iter().zip(lengths).enumerate();
            let all = all.map(|(i, (start, len))| used("convolution", *start, len * size, i == result));
            let read = |start, bytes| used("convolution", start, bytes, false);
            let besides = match *after {
                After::Stored | After::Added => Vec::new(),
                After::Normalized { scale, shift, addend, .. } => {
                    let numbers = [scale, shift].map(|start| read(start, convolution.output.2 * 4));
                    numbers.into_iter().chain(addend.map(|start| read(start, lengths[2] * size))).collect()
                }
            };
            all.chain(besides).collect()
        }
        Call::Copy { from, to, bytes } => {
            vec![used("copy", *from, *bytes, false), used("copy", *to, *bytes, true)]
        }
        Call::Clear { to, bytes } => vec![used("clear", *to, *bytes, true)],
    }
}

/// Fails if a branch writes what another one uses; for each branch, what it has used.
pub(super) fn apart(branches: &[Vec<Touched>]) -> Result<()> {
    let mut all: Vec<_> =
        branches.iter().enumerate().flat_map(|(i, used)| used.iter().map(move |t| (i, t))).collect();
    all.sort_by_key(|(_, t)| t.start);
    let mut open: Vec<(usize, &Touched)> = Vec::new();
    for (i, t) in all {
        open.retain(|(_, other)| other.end > t.start);
        let met = open.iter().find(|(k, other)| *k != i && (other.written || t.written));
        if let Some((k, other)) = met {
            let bytes = other.end.min(t.end) - t.start;
            let does = |t: &Touched| if t.written { "writes" } else { "reads" };
            let message = format!(
                "branch {i} {} {bytes} bytes that branch {k} {} in `{}`, and nothing orders them",
                does(t),
                does(other),
                other.by
            );
            return Err(GpuError::Kernel { name: t.by, message });
        }
        // One of a branch is enough that reaches as far.
        let covered =
            open.iter().any(|(k, other)| *k == i && other.end >= t.end && (other.written || !t.written));
        if !covered {
            open.push((i, t));
        }
    }
    Ok(())
}
