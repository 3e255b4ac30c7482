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
