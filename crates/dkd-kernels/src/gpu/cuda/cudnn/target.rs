//! The device that cuDNN's plans are for: one that is here, or one whose properties are known.

use super::descriptor::{Asked, Descriptor, Refusal};
use crate::gpu::error::Result;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendDescriptorType_t as Kind;

/// A device.
#[derive(Debug)]
pub(super) enum Target {
    /// That of a handle.
    Here(sys::cudnnHandle_t),
    /// One that is not here: nothing can be run.
    Elsewhere(Descriptor),
}

impl Target {
    /// A device with these properties, in cuDNN's JSON.
    pub fn elsewhere(properties: &str) -> Result<Self> {
        let device = Descriptor::new(Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?;
        // It wants the 0 at the end.
        let text: Vec<u8> = properties.trim().bytes().chain([0]).collect();
        let ready = |device: Descriptor| -> Asked<Descriptor> {
            device.set(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &text)?;
            device.finalize()
        };
        ready(device).map(Self::Elsewhere).map_err(|e: Refusal| e.error("cuDNN's device properties"))
    }

    /// Tells `of` of a device that is here in its attribute `here`, and of another one in `elsewhere`, where it has such attributes.
    pub fn tell(&self, of: &Descriptor, here: Option<Name>, elsewhere: Option<Name>) -> Asked<()> {
        match (self, here, elsewhere) {
            (Self::Here(handle), Some(name), _) => of.set(name, &[*handle]),
            (Self::Elsewhere(device), _, Some(name)) => of.set_descriptors(name, &[device]),
            _ => Ok(()),
        }
    }
}
