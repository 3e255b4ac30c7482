//! Temporary.
#![allow(missing_docs, dead_code)]
use dkd_kernels::{Isa, Map, conv2d::ConvGeometry};
#[derive(Clone, Debug)]
pub struct GroupedConv;
impl GroupedConv {
    pub fn new(_: ConvGeometry, _: usize, _: Map, _: Map) -> Self {
        Self
    }
    pub fn weight_elements(&self) -> usize {
        0
    }
    pub fn for_each(&self, _: impl FnMut(usize, usize)) {}
    pub fn forward(&self, _: Isa, _: &[f32], _: &[f32], _: &[f32], _: &mut [f32]) {}
    pub fn input_grad(&self, _: Isa, _: &[f32], _: &[f32], _: &mut [f32], _: bool) {}
    pub fn weight_grad(&self, _: Isa, _: &[f32], _: &[f32], _: &mut [f32], _: bool) {}
}
