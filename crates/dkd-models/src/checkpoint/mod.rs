//! Weights in files: this program's own, and those that others saved.
//!
//! Its own are safetensors files ([`save`], [`load`]), or files for PyTorch ([`save_pth`]). Weights of others come in two calls:
//! [`read_weights`] takes a safetensors file or a file of `torch.save` of any age and finds the state dictionary in it, and
//! [`fit`] brings it to the names of a network. Whatever does not fit is an error with a table, unless less is asked for.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use dkd_models::checkpoint::{Metadata, Select, Strictness, fit, read_weights, save_pth};
//! use dkd_models::{ModelOptions, build};
//! let graph = build("resnet8", &ModelOptions::new(10))?;
//! // As a program would save it that trains on several GPUs and calls its classifier otherwise.
//! let named = |name: &str| format!("module.{}", name.replace("fc.", "linear."));
//! let weights = graph.params().iter().map(|p| {
//!     Ok((named(&p.name), Tensor::zeros(p.shape.as_slice(), DType::F16, &Device::Cpu)?))
//! });
//! let weights = weights.collect::<candle_core::Result<Vec<_>>>()?;
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("teacher.pth");
//! save_pth(&path, &weights, &Metadata::default())?;
//!
//! let foreign = read_weights(&path, &Select::default())?;
//! let fitted = fit(&graph, &foreign, Strictness::Strict)?;
//! assert_eq!(fitted.tensors["fc.weight"].dtype(), DType::F32);
//! assert_eq!(fitted.report.prefix, "module.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod fit;
mod import;
mod metadata;
mod pickle;
mod pytorch;
mod safetensors;

pub use self::safetensors::{MAX_FILE, from_bytes, load, save, to_bytes};
pub use fit::{Finding, Fitted, Report, Strictness, fit};
pub use import::{Container, Foreign, Select, read_weights, weights_from_bytes};
pub use metadata::{Metadata, Normalization, Training};
pub use pytorch::{pth_bytes, save_pth};
