//! Differentiable functions on candle tensors, made of this crate's kernels: what adapters between networks are built from.
