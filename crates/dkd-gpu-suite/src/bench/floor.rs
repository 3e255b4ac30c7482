//! What a step takes at least: its operations at the rate of products, or its bytes at the rate of a copy.

use dkd_engine::{Graph, Op};
use dkd_trainer::Arithmetic;

/// Of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub operations: f64,
    /// Read and written.
    pub bytes: f64,
}

/// Rates of the device, as far as they could be measured.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Operations in a second.
    pub products: Option<f64>,
    /// Bytes in a second, read and written.
    pub copy: Option<f64>,
}

/// Bytes of a parameter's weight, gradient and momentum.
const PARAMETER: f64 = 4.0;

impl Work {
    /// A training step. Each map is written and read on the way forward, and read once more on the way back, where its gradient is
    /// written and read; each weight is read twice and its gradient written, then the optimizer reads three numbers and writes two.
    pub fn training(graph: &Graph, batch: usize, arithmetic: Arithmetic) -> Self {
        let element = arithmetic.element().bytes() as f64;
        let parameters = graph.num_parameters() as f64 * (2.0 * element + 6.0 * PARAMETER);
        Self {
            operations: 6.0 * graph.macs() as f64,
            bytes: 5.0 * element * elements(graph, true) + parameters / batch as f64,
        }
    }

    /// A teacher's answers: each map is written and read, each weight is read.
    pub fn answers(graph: &Graph, batch: usize, arithmetic: Arithmetic) -> Self {
        let element = arithmetic.element().bytes() as f64;
        Self {
            operations: 2.0 * graph.macs() as f64,
            bytes: element * (2.0 * elements(graph, false) + graph.num_parameters() as f64 / batch as f64),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, bytes: self.bytes + other.bytes }
    }

    /// Images in a second at most, and what bounds them.
    pub fn bound(self, rates: Rates) -> Option<(f64, &'static str)> {
        let products = rates.products.map(|rate| (rate / self.operations, "products"));
        let memory = rates.copy.map(|rate| (rate / self.bytes, "memory"));
        products.into_iter().chain(memory).min_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// Numbers of all maps that have to be in memory: what is left of a map within a kernel is not counted, so neither are activations,
/// sums, and in evaluation batch norms.
fn elements(graph: &Graph, training: bool) -> f64 {
    let counted = |op: &Op| match op {
        Op::Conv2d(_) | Op::Linear(_) | Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::GlobalAvgPool => true,
        Op::BatchNorm(_) => training,
        _ => false,
    };
    let nodes = graph.nodes().iter().filter(|node| counted(&node.op));
    nodes.map(|node| node.shape.elements() as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dkd_engine::{Conv2d, GraphBuilder};

    #[test]
    fn small_networks_are_counted_by_hand() {
        let mut builder = GraphBuilder::new(3, 8, 8);
        let image = builder.input();
        let map = builder.conv2d(image, Conv2d::new("c", 4, 3).padding(1));
        let map = builder.batch_norm(map, "b");
        let map = builder.relu(map);
        let output = builder.global_avg_pool(map);
        let graph = builder.build(output).unwrap();
        let (macs, map, parameters) = (8.0 * 8.0 * 4.0 * 27.0, 256.0, 4.0 * 27.0 + 8.0);
        let training = Work::training(&graph, 2, Arithmetic::F32);
        assert_eq!(training.operations, 6.0 * macs);
        assert_eq!(training.bytes, 20.0 * (2.0 * map + 4.0) + 16.0 * parameters);
        let answers = Work::answers(&graph, 2, Arithmetic::Bf16);
        assert_eq!(answers, Work { operations: 2.0 * macs, bytes: 4.0 * (map + 4.0) + parameters });
        let rates = Rates { products: Some(2.0 * macs), copy: Some(answers.bytes * 3.0) };
        assert_eq!(answers.bound(rates), Some((1.0, "products")));
        assert_eq!(answers.bound(Rates { products: None, ..rates }), Some((3.0, "memory")));
        assert_eq!(answers.bound(Rates { products: None, copy: None }), None);
    }
}
