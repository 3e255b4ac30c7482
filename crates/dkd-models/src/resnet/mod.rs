//! Residual networks.

mod block;
mod cifar;
mod four_stages;
mod option_a;
mod torchvision;

pub(crate) use cifar::{Width, resnet};
pub(crate) use four_stages::{Blocks, four_stages};
pub(crate) use option_a::option_a;
pub(crate) use torchvision::torchvision;
