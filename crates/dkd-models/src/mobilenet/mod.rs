//! MobileNetV2 (Sandler et al.: *MobileNetV2: inverted residuals and linear bottlenecks*, CVPR 2018), in three forms.

mod half;
mod tiny_imagenet;
mod torchvision;

pub(crate) use half::half;
pub(crate) use tiny_imagenet::tiny_imagenet;
pub(crate) use torchvision::torchvision;
