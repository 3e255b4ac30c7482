//! Networks as data, and their execution on the CPU.
//!
//! A [`Graph`] is recorded once by a [`GraphBuilder`]. From it come shapes, parameter names, initial weights and the
//! static plan that runs it. Names of particular models, data sets, losses and configuration files have no place here.

mod error;
mod graph;
mod layout;
mod params;
mod plan;
mod session;

pub use error::{Error, Result};
pub use graph::{
    BatchNorm, Conv2d, Dropout, Graph, GraphBuilder, Init, Linear, Node, Op, ParamKind, ParamSpec, Pool,
    Shape, Tap, ValueId,
};
pub use session::{DropoutKey, Mode, ParameterSpan, Session, SessionOptions};
