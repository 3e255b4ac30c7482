//! Records a network operation by operation, checking shapes as it goes.

use super::{
    BatchNorm, Conv2d, Dropout, Graph, Init, Linear, Node, Op, ParamKind, ParamSpec, Pool, Shape, Tap,
    ValueId,
};
use crate::{Error, Result};

/// Builds a [`Graph`]. The first error is kept and returned by [`GraphBuilder::build`], so that a model reads as a
/// plain sequence of layers.
///
/// ```
/// use dkd_engine::{Conv2d, GraphBuilder, Linear, Pool};
/// let mut b = GraphBuilder::new(3, 32, 32);
/// let x = b.input();
/// let x = b.conv2d(x, Conv2d::new("conv1", 16, 3).padding(1));
/// let x = b.batch_norm(x, "bn1");
/// let x = b.relu(x);
/// let x = b.max_pool(x, Pool::new(2));
/// b.tap("feats.0", x);
/// let x = b.global_avg_pool(x);
/// let x = b.linear(x, Linear::new("fc", 10));
/// let graph = b.build(x)?;
/// assert_eq!(graph.num_classes(), 10);
/// assert_eq!(graph.tap("feats.0")?.shape.dims(), [16, 16, 16]);
/// # Ok::<(), dkd_engine::Error>(())
/// ```
#[derive(Debug)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
    params: Vec<ParamSpec>,
    taps: Vec<Tap>,
    error: Option<Error>,
}

impl GraphBuilder {
    /// A network for images of `channels` x `height` x `width`.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        let shape = Shape::Map { c: channels, h: height, w: width };
        let nodes = vec![Node { op: Op::Input, inputs: Vec::new(), shape }];
        Self { nodes, params: Vec::new(), taps: Vec::new(), error: None }
    }

    /// The image.
    pub fn input(&self) -> ValueId {
        ValueId(0)
    }

    /// The first error so far, which [`GraphBuilder::build`] will return.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Shape of a value recorded so far.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.nodes[value.0].shape
    }

    /// Convolution.
    pub fn conv2d(&mut self, x: ValueId, conv: Conv2d) -> ValueId {
        let (c, (h, w)) = (self.shape(x).channels(), self.shape(x).size());
        if conv.groups == 0
            || !c.is_multiple_of(conv.groups)
            || !conv.out_channels.is_multiple_of(conv.groups)
        {
            let message = format!(
                "{c} input and {} output channels cannot form {} groups",
                conv.out_channels, conv.groups
            );
            return self.fail(&conv.name, message);
        }
        let Some((oh, ow)) = window(h, w, conv.kernel, conv.stride, conv.padding) else {
            return self.fail(&conv.name, format!("a {}x{} input is too small for {conv:?}", h, w));
        };
        let fan_in = c / conv.groups * conv.kernel.0 * conv.kernel.1;
        let shape = vec![conv.out_channels, c / conv.groups, conv.kernel.0, conv.kernel.1];
        self.param(&conv.name, "weight", shape, ParamKind::Trainable, conv.weight_init, fan_in);
        if conv.bias {
            self.param(
                &conv.name,
                "bias",
                vec![conv.out_channels],
                ParamKind::Trainable,
                conv.bias_init,
                fan_in,
            );
        }
        let shape = Shape::Map { c: conv.out_channels, h: oh, w: ow };
        self.push(Op::Conv2d(conv), &[x], shape)
    }

    /// Batch normalisation with eps 1e-5 and momentum 0.1.
    pub fn batch_norm(&mut self, x: ValueId, name: impl Into<String>) -> ValueId {
        let (name, shape) = (name.into(), self.shape(x));
        let c = vec![shape.channels()];
        self.param(&name, "weight", c.clone(), ParamKind::Trainable, Init::Constant(1.0), 1);
        self.param(&name, "bias", c.clone(), ParamKind::Trainable, Init::Constant(0.0), 1);
        self.param(&name, "running_mean", c.clone(), ParamKind::Buffer, Init::Constant(0.0), 1);
        self.param(&name, "running_var", c, ParamKind::Buffer, Init::Constant(1.0), 1);
        self.push(Op::BatchNorm(BatchNorm { name, eps: 1e-5, momentum: 0.1 }), &[x], shape)
    }

    /// max(x, 0).
    pub fn relu(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.push(Op::Relu, &[x], shape)
    }

    /// min(max(x, 0), 6).
    pub fn relu6(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        self.push(Op::Relu6, &[x], shape)
    }

    /// a + b, of equal shapes.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let (sa, sb) = (self.shape(a), self.shape(b));
        if sa != sb {
            return self.fail("add", format!("cannot add {sa} and {sb}"));
        }
        self.push(Op::Add, &[a, b], sa)
    }

    /// Maximum over windows.
    pub fn max_pool(&mut self, x: ValueId, pool: Pool) -> ValueId {
        self.pool(x, pool, Op::MaxPool2d(pool))
    }

    /// Mean over windows.
    pub fn avg_pool(&mut self, x: ValueId, pool: Pool) -> ValueId {
        self.pool(x, pool, Op::AvgPool2d(pool))
    }

    /// Mean over all positions.
    pub fn global_avg_pool(&mut self, x: ValueId) -> ValueId {
        let shape = Shape::Vector(self.shape(x).channels());
        self.push(Op::GlobalAvgPool, &[x], shape)
    }

    /// A vector in PyTorch's order (channel, row, column).
    pub fn flatten(&mut self, x: ValueId) -> ValueId {
        let shape = Shape::Vector(self.shape(x).elements());
        self.push(Op::Flatten, &[x], shape)
    }

    /// Fully connected layer; a map must be flattened or pooled first.
    pub fn linear(&mut self, x: ValueId, linear: Linear) -> ValueId {
        let Shape::Vector(n) = self.shape(x) else {
            return self.fail(
                &linear.name,
                format!("needs a vector, got {}; flatten or pool it first", self.shape(x)),
            );
        };
        let shape = vec![linear.out_features, n];
        self.param(&linear.name, "weight", shape, ParamKind::Trainable, linear.weight_init, n);
        if linear.bias {
            self.param(
                &linear.name,
                "bias",
                vec![linear.out_features],
                ParamKind::Trainable,
                linear.bias_init,
                n,
            );
        }
        let shape = Shape::Vector(linear.out_features);
        self.push(Op::Linear(linear), &[x], shape)
    }

    /// Dropout with probability `p`; `name` keys its random masks.
    pub fn dropout(&mut self, x: ValueId, name: impl Into<String>, p: f32) -> ValueId {
        let (name, shape) = (name.into(), self.shape(x));
        if !(0.0..1.0).contains(&p) {
            return self.fail(&name, format!("dropout probability {p} is not in [0, 1)"));
        }
        self.push(Op::Dropout(Dropout { name, p }), &[x], shape)
    }

    /// Names a value so that losses can ask for it.
    pub fn tap(&mut self, name: impl Into<String>, value: ValueId) {
        let (name, shape) = (name.into(), self.shape(value));
        if self.taps.iter().any(|t| t.name == name) {
            self.fail(&name, "a tap of this name exists already".to_owned());
            return;
        }
        self.taps.push(Tap { name, value, shape });
    }

    /// The finished graph, whose logits are `output`.
    ///
    /// # Errors
    /// The first error met while recording; an output that is not a vector.
    pub fn build(mut self, output: ValueId) -> Result<Graph> {
        if !matches!(self.shape(output), Shape::Vector(_)) {
            self.fail("output", format!("the logits must be a vector, got {}", self.shape(output)));
        }
        match self.error {
            Some(error) => Err(error),
            None => {
                // One order for the same network, however it was recorded.
                self.taps.sort_by_key(|t| t.value);
                Ok(Graph { nodes: self.nodes, params: self.params, taps: self.taps, output })
            }
        }
    }

    fn pool(&mut self, x: ValueId, pool: Pool, op: Op) -> ValueId {
        let (c, (h, w)) = (self.shape(x).channels(), self.shape(x).size());
        if pool.padding.0 * 2 > pool.kernel.0 || pool.padding.1 * 2 > pool.kernel.1 {
            return self.fail(
                op.kind(),
                format!("padding {:?} is more than half of the kernel {:?}", pool.padding, pool.kernel),
            );
        }
        let Some((oh, ow)) = window(h, w, pool.kernel, pool.stride, pool.padding) else {
            return self.fail(op.kind(), format!("a {h}x{w} input is too small for {pool:?}"));
        };
        self.push(op, &[x], Shape::Map { c, h: oh, w: ow })
    }

    pub(super) fn push(&mut self, op: Op, inputs: &[ValueId], shape: Shape) -> ValueId {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), shape });
        ValueId(self.nodes.len() - 1)
    }

    fn param(
        &mut self,
        layer: &str,
        field: &str,
        shape: Vec<usize>,
        kind: ParamKind,
        init: Init,
        fan_in: usize,
    ) {
        let name = format!("{layer}.{field}");
        if self.params.iter().any(|p| p.name == name) {
            self.error.get_or_insert(Error::DuplicateParameter(name));
            return;
        }
        self.params.push(ParamSpec { name, shape, kind, init, fan_in });
    }

    /// Keeps the first error and goes on with the input as a stand-in, so that a model's code needs no `?` per layer.
    pub(super) fn fail(&mut self, layer: &str, message: String) -> ValueId {
        self.error.get_or_insert(Error::Layer { layer: layer.to_owned(), message });
        ValueId(0)
    }
}

/// Output size of a window sliding over a padded `h` x `w` map; `None` if it does not fit or a setting is 0.
fn window(
    h: usize,
    w: usize,
    kernel: (usize, usize),
    stride: (usize, usize),
    padding: (usize, usize),
) -> Option<(usize, usize)> {
    let one = |n: usize, k: usize, s: usize, p: usize| {
        (k > 0 && s > 0).then_some(())?;
        Some((n + 2 * p).checked_sub(k)? / s + 1)
    };
    Some((one(h, kernel.0, stride.0, padding.0)?, one(w, kernel.1, stride.1, padding.1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_pytorch() {
        let mut b = GraphBuilder::new(3, 32, 32);
        let x = b.conv2d(b.input(), Conv2d::new("a", 8, 3).stride(2).padding(1).bias());
        assert_eq!(b.shape(x), Shape::Map { c: 8, h: 16, w: 16 });
        let x = b.max_pool(x, Pool::new(2).stride(1));
        assert_eq!(b.shape(x), Shape::Map { c: 8, h: 15, w: 15 });
        let x = b.flatten(x);
        let x = b.linear(x, Linear::new("fc", 5));
        let g = b.build(x).unwrap();
        assert_eq!(g.num_parameters(), 8 * 27 + 8 + 5 * 8 * 225 + 5);
        assert_eq!(g.macs(), 16 * 16 * 8 * 27 + 5 * 8 * 225);
    }

    #[test]
    fn the_first_error_is_kept() {
        let mut b = GraphBuilder::new(3, 4, 4);
        let x = b.conv2d(b.input(), Conv2d::new("big", 8, 7));
        let x = b.linear(x, Linear::new("fc", 5));
        let message = b.build(x).unwrap_err().to_string();
        assert!(message.contains("`big`") && message.contains("4x4"), "{message}");
    }

    #[test]
    fn names_are_unique() {
        let mut b = GraphBuilder::new(3, 4, 4);
        let x = b.conv2d(b.input(), Conv2d::new("c", 3, 1));
        let x = b.conv2d(x, Conv2d::new("c", 3, 1));
        let x = b.flatten(x);
        assert!(b.build(x).unwrap_err().to_string().contains("`c.weight`"));
    }
}
