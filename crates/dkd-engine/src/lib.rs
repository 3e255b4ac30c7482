//! Networks as data, and their execution on the CPU.
//!
//! A [`Graph`] is recorded once by a [`GraphBuilder`]. From it come shapes, parameter names, initial weights and the
//! static plan that runs it. Names of particular models, data sets, losses and configuration files have no place here.
//!
//! A [`Session`] runs the plan. Its logits and taps are leaf variables of candle, so that any loss written on candle tensors
//! can train the network:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use dkd_engine::{Conv2d, DropoutKey, GraphBuilder, Linear, Mode, Precision, Session, SessionOptions};
//! let mut b = GraphBuilder::new(3, 8, 8);
//! let x = b.conv2d(b.input(), Conv2d::new("conv", 16, 3).padding(1));
//! let x = b.batch_norm(x, "bn");
//! let x = b.relu(x);
//! b.tap("feats", x);
//! let x = b.global_avg_pool(x);
//! let x = b.linear(x, Linear::new("fc", 10));
//! let graph = b.build(x)?;
//! assert_eq!(graph.num_parameters(), 16 * 27 + 2 * 16 + 10 * 16 + 10);
//!
//! let options = SessionOptions { max_batch: 4, train: true, taps: vec!["feats".to_owned()], precision: Precision::F32 };
//! let mut net = Session::new(graph, dkd_kernels::Cpu::new(1)?, options)?;
//! net.init(0);
//! let images = Tensor::randn(0_f32, 1.0, (4, 3, 8, 8), &Device::Cpu)?;
//! net.forward(&images, Mode::Train, DropoutKey::default())?;
//! let loss = (net.logits()?.sqr()?.mean_all()? + net.tap("feats")?.abs()?.mean_all()?)?;
//! net.backward(&loss.backward()?)?;
//! net.update(|weights, gradients| weights.iter_mut().zip(gradients).for_each(|(w, g)| *w -= 0.1 * g));
//! assert_eq!(net.state_dict()?[0].0, "conv.weight");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
pub mod gpu;
mod graph;
mod layout;
mod params;
mod plan;
mod session;
mod state;

pub use error::{Error, Result};
pub use graph::{
    BatchNorm, Conv2d, Dropout, Graph, GraphBuilder, Head, Init, Linear, Node, Op, ParamKind, ParamSpec,
    Pool, Shape, SliceChannels, Tap, ValueId,
};
pub use session::{
    DropoutKey, MemoryEstimate, Mode, ParameterSpan, Pass, Precision, Session, SessionOptions, SharedMemory,
    StepTime,
};
