//! What sessions on the CPU and on a device have in common.

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use dkd_engine::gpu::GpuSession;
use dkd_engine::{DropoutKey, Mode, Result, Session};
use std::collections::HashMap;

/// A session of either kind: each method is the session's own of that name.
#[allow(missing_docs, clippy::missing_errors_doc)]
pub trait Runs {
    fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()>;
    fn logits(&self) -> Result<Tensor>;
    fn tap(&self, name: &str) -> Result<Tensor>;
    fn backward(&mut self, store: &GradStore) -> Result<()>;
    fn gradient_dict(&self) -> Result<Vec<(String, Tensor)>>;
    fn state_dict(&self) -> Result<Vec<(String, Tensor)>>;
    fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()>;
}

macro_rules! runs {
    ($($session:ident)*) => {$(
        impl Runs for $session {
            fn forward(&mut self, images: &Tensor, mode: Mode, key: DropoutKey) -> Result<()> {
                Self::forward(self, images, mode, key)
            }

            fn logits(&self) -> Result<Tensor> {
                Self::logits(self)
            }

            fn tap(&self, name: &str) -> Result<Tensor> {
                Self::tap(self, name)
            }

            fn backward(&mut self, store: &GradStore) -> Result<()> {
                Self::backward(self, store)
            }

            fn gradient_dict(&self) -> Result<Vec<(String, Tensor)>> {
                Self::gradient_dict(self)
            }

            fn state_dict(&self) -> Result<Vec<(String, Tensor)>> {
                Self::state_dict(self)
            }

            fn load_state_dict(&mut self, dict: &HashMap<String, Tensor>) -> Result<()> {
                Self::load_state_dict(self, dict)
            }
        }
    )*};
}

runs!(Session GpuSession);
