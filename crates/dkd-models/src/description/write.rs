//! From a graph to its description.

use super::Description;
use super::layer::{Initial, Layer, Names, Side, Width};
use super::record::CLASSES;
use dkd_engine::{Graph, Init, Op, Pool, ValueId};
use std::collections::HashSet;

/// Describes `graph`.
pub(super) fn description(graph: &Graph) -> Description {
    let names = names(graph);
    let mut layers = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate().skip(1) {
        let mut layer = operation(graph, index);
        layer.name = names[index].clone();
        let one_before = matches!(node.inputs[..], [x] if x.index() + 1 == index);
        if !one_before {
            let name = |x: &ValueId| names[x.index()].clone().expect("what is read from afar has a name");
            layer.from = Some(node.inputs.iter().map(name).collect());
        }
        let taps: Vec<String> =
            graph.taps().iter().filter(|t| t.value.index() == index).map(|t| t.name.clone()).collect();
        layer.tap = (!taps.is_empty()).then(|| taps.into_iter().collect::<Names>());
        layers.push(layer);
    }
    let output = graph.output().index();
    let named = (output + 1 != graph.nodes().len()).then(|| names[output].clone()).flatten();
    Description { layers, output: named, ..Description::default() }
}

/// A name for every value that has parameters or is read by other than the next layer alone.
fn names(graph: &Graph) -> Vec<Option<String>> {
    let n = graph.nodes().len();
    let mut afar = vec![false; n];
    afar[graph.output().index()] = graph.output().index() + 1 != n;
    for (index, node) in graph.nodes().iter().enumerate() {
        let next = matches!(node.inputs[..], [x] if x.index() + 1 == index);
        if !next {
            node.inputs.iter().for_each(|x| afar[x.index()] = true);
        }
    }
    let own: HashSet<&str> = graph.nodes().iter().filter_map(|node| node.op.name()).collect();
    let name = |(index, node): (usize, &dkd_engine::Node)| match node.op.name() {
        _ if index == 0 => Some("input".to_owned()),
        Some(own) => Some(own.to_owned()),
        None if !afar[index] => None,
        None => {
            let mut name = format!("{}_{index}", node.op.kind());
            while own.contains(name.as_str()) {
                name.push('_');
            }
            Some(name)
        }
    };
    graph.nodes().iter().enumerate().map(name).collect()
}

/// The layer of a node without its names.
fn operation(graph: &Graph, index: usize) -> Layer {
    let node = &graph.nodes()[index];
    let layer = Layer { op: node.op.kind().to_owned(), ..Layer::default() };
    let other = |side: (usize, usize), usual: (usize, usize)| (side != usual).then(|| Side::from(side));
    let init = |init: Init| (init != Init::FanInUniform).then(|| Initial::from(init));
    let window = |p: &Pool| Layer {
        kernel: Some(p.kernel.into()),
        stride: other(p.stride, p.kernel),
        padding: other(p.padding, (0, 0)),
        ..layer.clone()
    };
    match &node.op {
        Op::Conv2d(c) => Layer {
            out: Some(Width::Number(c.out_channels)),
            kernel: Some(c.kernel.into()),
            stride: other(c.stride, (1, 1)),
            padding: other(c.padding, (0, 0)),
            groups: (c.groups != 1).then_some(c.groups),
            bias: c.bias.then_some(true),
            init: init(c.weight_init),
            bias_init: init(c.bias_init),
            ..layer
        },
        Op::Linear(l) => Layer {
            out: Some(if index == graph.output().index() {
                Width::Word(CLASSES.to_owned())
            } else {
                Width::Number(l.out_features)
            }),
            bias: (!l.bias).then_some(false),
            init: init(l.weight_init),
            bias_init: init(l.bias_init),
            ..layer
        },
        Op::MaxPool2d(p) => window(p),
        Op::AvgPool2d(p) => Layer { count_include_pad: (!p.count_include_pad).then_some(false), ..window(p) },
        Op::Dropout(d) => Layer { p: Some(d.p), ..layer },
        Op::SliceChannels(s) => Layer { start: Some(s.start), count: Some(s.count), ..layer },
        Op::ChannelShuffle { groups } => Layer { groups: Some(*groups), ..layer },
        Op::PadChannels { before, after } => Layer { before: Some(*before), after: Some(*after), ..layer },
        _ => layer,
    }
}
