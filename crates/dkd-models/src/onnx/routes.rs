//! Which nodes are written, and which value each of them reads.

use dkd_engine::{BatchNorm, Graph, Node, Op, Shape};
use std::collections::{HashMap, HashSet};

/// The ways values take through the exported network.
pub(super) struct Routes<'a> {
    graph: &'a Graph,
    /// Node whose output stands for that of each node: another one where nothing is computed.
    source: Vec<usize>,
    live: Vec<bool>,
    /// Batch norms that are part of the layer before them, by its node.
    folded: HashMap<usize, &'a BatchNorm>,
}

impl<'a> Routes<'a> {
    /// With `fold`, a batch norm becomes part of the convolution or linear layer whose only reader it is.
    pub fn new(graph: &'a Graph, fold: bool) -> Self {
        let plain = Self::without(graph, &HashSet::new());
        if !fold {
            return plain;
        }
        let readers = plain.readers();
        let (mut folded, mut gone) = (HashMap::new(), HashSet::new());
        for (i, node) in graph.nodes().iter().enumerate().filter(|(i, _)| plain.live[*i]) {
            let Op::BatchNorm(bn) = &node.op else { continue };
            let layer = plain.input(i, 0);
            if matches!(graph.nodes()[layer].op, Op::Conv2d(_) | Op::Linear(_)) && readers[layer] == 1 {
                folded.insert(layer, bn);
                gone.insert(i);
            }
        }
        Self { folded, ..Self::without(graph, &gone) }
    }

    /// Passes over the nodes in `gone` and those that compute nothing.
    fn without(graph: &'a Graph, gone: &HashSet<usize>) -> Self {
        let nodes = graph.nodes();
        let mut source: Vec<usize> = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            let passes = gone.contains(&i) || computes_nothing(graph, node);
            source.push(if passes { source[node.inputs[0].index()] } else { i });
        }
        let mut live = vec![false; nodes.len()];
        live[source[graph.output().index()]] = true;
        for (i, node) in nodes.iter().enumerate().rev() {
            if live[i] {
                node.inputs.iter().for_each(|input| live[source[input.index()]] = true);
            }
        }
        Self { graph, source, live, folded: HashMap::new() }
    }

    /// How often the output of each node is read, as logits included.
    fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.source.len()];
        readers[self.output()] += 1;
        for (_, node) in self.live() {
            node.inputs.iter().for_each(|input| readers[self.source[input.index()]] += 1);
        }
        readers
    }

    /// The nodes that are written, in order, without the images.
    pub fn live(&self) -> impl Iterator<Item = (usize, &'a Node)> {
        self.graph.nodes().iter().enumerate().filter(|(i, node)| self.live[*i] && node.op != Op::Input)
    }

    /// The node that makes input `k` of node `i`.
    pub fn input(&self, i: usize, k: usize) -> usize {
        self.source[self.graph.nodes()[i].inputs[k].index()]
    }

    /// The node that makes the logits.
    pub fn output(&self) -> usize {
        self.source[self.graph.output().index()]
    }

    /// The batch norm that is part of layer `i`.
    pub fn folded(&self, i: usize) -> Option<&'a BatchNorm> {
        self.folded.get(&i).copied()
    }
}

/// Dropout in evaluation, and what makes a vector of a vector.
fn computes_nothing(graph: &Graph, node: &Node) -> bool {
    match node.op {
        Op::Dropout(_) => true,
        Op::Flatten | Op::GlobalAvgPool => {
            matches!(graph.nodes()[node.inputs[0].index()].shape, Shape::Vector(_))
        }
        _ => false,
    }
}
