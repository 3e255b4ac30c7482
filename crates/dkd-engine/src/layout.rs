//! Rows, columns and channels behind every value, vectors included.

use crate::graph::{Graph, Op, Shape};
use crate::{Error, Result};
use dkd_kernels::{Map, padded_channels};

/// Rows, columns, channels of a value. A flattened map keeps those of the map: only the order of a linear layer's weights
/// changes, the features stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Layout {
    /// Features in PyTorch's count.
    pub fn features(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Elements in memory, with padding channels, without border.
    pub fn elements(self) -> usize {
        self.height * self.width * padded_channels(self.channels)
    }

    /// The layout in memory.
    pub fn map(self, border: usize) -> Map {
        Map::new(self.height, self.width, self.channels, border)
    }

    /// Calls `f(PyTorch index (channel, row, column), index in memory)` for every feature.
    pub fn for_each(self, mut f: impl FnMut(usize, usize)) {
        let stride = padded_channels(self.channels);
        for c in 0..self.channels {
            for y in 0..self.height {
                for x in 0..self.width {
                    f((c * self.height + y) * self.width + x, (y * self.width + x) * stride + c);
                }
            }
        }
    }
}

/// Layouts of all values of a graph.
///
/// # Errors
/// An operation on channels is applied to a flattened map, or two vectors of different layout are added.
pub(crate) fn layouts(graph: &Graph) -> Result<Vec<Layout>> {
    let mut all: Vec<Layout> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let input = |i: usize| all[node.inputs[i].0];
        let fail = |message: &str| {
            let layer = node.op.name().unwrap_or(node.op.kind()).to_owned();
            Err(Error::Layer { layer, message: message.to_owned() })
        };
        let of_shape = match node.shape {
            Shape::Map { c, h, w } => Layout { height: h, width: w, channels: c },
            Shape::Vector(n) => Layout { height: 1, width: 1, channels: n },
        };
        let layout = match &node.op {
            Op::Flatten | Op::Relu | Op::Relu6 | Op::Dropout(_) => input(0),
            Op::Add if input(0) != input(1) => {
                return fail("cannot add a flattened map and a vector of another origin");
            }
            Op::Add => input(0),
            Op::Conv2d(_)
            | Op::BatchNorm(_)
            | Op::MaxPool2d(_)
            | Op::AvgPool2d(_)
            | Op::GlobalAvgPool
            | Op::Concat
            | Op::SliceChannels(_)
            | Op::ChannelShuffle { .. }
            | Op::PadChannels { .. }
                if node.inputs.iter().any(|i| is_flattened(graph, &all, i.0)) =>
            {
                return fail("works on channels and cannot follow a flattened map");
            }
            _ => of_shape,
        };
        all.push(layout);
    }
    Ok(all)
}

/// Whether a value is a vector that keeps a map's layout.
fn is_flattened(graph: &Graph, layouts: &[Layout], value: usize) -> bool {
    matches!(graph.nodes()[value].shape, Shape::Vector(n) if n != layouts[value].channels)
}
