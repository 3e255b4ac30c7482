//! Losses on feature maps, and what they share.

mod attention;
mod crd;
mod eigen;
mod fitnet;
mod hierarchy;
mod kdsvd;
mod layers;
mod nst;
mod numeric;
mod overhaul;
mod pkt;
mod relational;
mod review;
mod similarity;
mod stages;
mod vid;

pub use attention::{Attention, attention};
pub use crd::{Crd, CrdSettings};
pub use fitnet::FitNet;
pub use hierarchy::hcl;
pub use kdsvd::{KdSvd, kdsvd};
pub use nst::{Nst, nst};
pub use overhaul::{Overhaul, margin, partial_l2};
pub use pkt::{Pkt, pkt};
pub use relational::{Relational, Rkd, relational};
pub use review::ReviewKd;
pub use similarity::{Similarity, similarity};
pub(crate) use stages::{
    Pair, aligned_at_the_end, check_batch, check_equal_maps, check_maps, check_per_channel, last_stages,
    pairs, same_size, stage,
};
pub use vid::{Vid, vid};

/// Values in [-1, 1) that any language can make: x becomes (1103515245 x + 12345) mod 2^31, a value is x / 2^30 - 1.
#[cfg(test)]
pub(crate) fn lcg(seed: u64, shape: &[usize]) -> candle_core::Tensor {
    let mut x = seed;
    let mut next = || {
        x = (1_103_515_245 * x + 12345) % (1 << 31);
        x as f64 / f64::from(1_u32 << 30) - 1.0
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
        .expect("as many values as the shape has")
}
