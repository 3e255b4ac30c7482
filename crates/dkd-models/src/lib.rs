//! Image classification networks of the distillation literature, by name, and their checkpoints.
//!
//! [`build`] turns a name into a [`dkd_engine::Graph`]; parameters and taps carry the names that PyTorch code of these
//! networks uses. [`checkpoint`] keeps weights in safetensors files. Training and kernels have no place here.
//!
//! ```
//! use dkd_models::{ModelOptions, build};
//! let graph = build("resnet20", &ModelOptions::new(100))?;
//! assert_eq!(graph.num_parameters(), 278_324);
//! assert_eq!(graph.tap("feats.2")?.shape.dims(), [32, 16, 16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A network can also be a small TOML or JSON text: see [`Description`], and give [`build`] the file's path.
//!
//! # Adding a model
//! A model is one function from [`ModelOptions`] to a graph and one line in the registry's list. This is the whole
//! function, and a [`Model`] is the line:
//!
//! ```
//! use dkd_engine::{Conv2d, Graph, GraphBuilder, Linear, Pool};
//! use dkd_models::{Model, ModelOptions, Result};
//!
//! fn tiny(o: &ModelOptions) -> Result<Graph> {
//!     let mut b = GraphBuilder::new(o.image.0, o.image.1, o.image.2);
//!     let x = b.conv2d(b.input(), Conv2d::new("conv1", 8, 3).padding(1).bias());
//!     let x = b.relu(x);
//!     let x = b.max_pool(x, Pool::new(2));
//!     b.tap("feats.0", x);
//!     let x = b.global_avg_pool(x);
//!     b.tap("pooled_feat", x);
//!     let x = b.linear(x, Linear::new("fc", o.num_classes));
//!     Ok(b.build(x)?)
//! }
//!
//! let line = Model { name: "tiny", description: "one convolution", build: tiny };
//! let graph = line.build(&ModelOptions::new(10))?;
//! assert_eq!(graph.params()[0].name, "conv1.weight");
//! assert_eq!(graph.num_parameters(), 8 * 27 + 8 + 10 * 8 + 10);
//! # Ok::<(), dkd_models::Error>(())
//! ```

pub mod checkpoint;
mod description;
mod error;
#[doc(hidden)]
pub mod golden;
mod mobilenet;
pub mod onnx;
mod options;
mod registry;
mod resnet;
mod seed;
mod shufflenet;
mod sizes;
mod vgg;
mod wrn;

pub use description::{Description, Initial, Layer, Names, Side, Width};
pub use error::{Error, Result};
pub use options::ModelOptions;
pub use registry::{Model, build, find, models, names};
