//! What cuDNN would choose on a device that is not here.

use super::choose::Trial;
use super::target::Target;
use super::wanted::{self, Wanted};
use crate::gpu::convolution::{Convolution, Epilogue, Pass, Proposed};
use crate::gpu::cuda::libraries;
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::result;
use std::path::Path;

/// cuDNN's own rules for some device, asked without one: it takes the library, and a `libcuda.so.1` that it can open, which may be without
/// any functions that work. cuDNN 9.8 or later.
#[derive(Debug)]
pub struct Elsewhere {
    target: Target,
}

impl Elsewhere {
    /// For a device with these properties, in cuDNN's JSON; `libraries` as for [`Cuda::new`](crate::gpu::Cuda::new).
    ///
    /// # Errors
    /// A library is missing; cuDNN does not understand the properties.
    pub fn new(properties: &str, libraries: Option<&Path>) -> Result<Self> {
        std::mem::forget(libraries::driver()?);
        libraries::open_for_cudnn(libraries)?;
        Ok(Self { target: Target::elsewhere(properties)? })
    }

    /// cuDNN's version: 91900 is 9.19.0.
    pub fn version(&self) -> usize {
        result::get_version()
    }

    /// The engine for a pass of a convolution, whose result is added to what is there with `accumulate`; or what is the matter with each.
    ///
    /// # Errors
    /// cuDNN's.
    pub fn engine(
        &self,
        pass: Pass,
        convolution: &Convolution,
        accumulate: bool,
    ) -> Result<std::result::Result<Proposed, String>> {
        self.proposed(Wanted::added(pass, convolution, accumulate))
    }

    /// The same for a forward pass with what follows it.
    ///
    /// # Errors
    /// cuDNN's.
    pub fn fused_engine(
        &self,
        convolution: &Convolution,
        epilogue: Epilogue,
    ) -> Result<std::result::Result<Proposed, String>> {
        if !wanted::is_fused_in(convolution.arithmetic) {
            return Ok(Err("slower than apart".to_owned()));
        }
        self.proposed(Wanted::fused(convolution, epilogue))
    }

    fn proposed(&self, wanted: Wanted) -> Result<std::result::Result<Proposed, String>> {
        let mut trial = Trial::on_paper(&self.target, wanted)?;
        Ok(match trial.first(false)? {
            Some(plan) => {
                Ok(Proposed { rearranges: plan.rearranges(), workspace: plan.workspace, name: plan.name })
            }
            None => Err(trial.said()),
        })
    }
}
