//! What fits under one prefix.

use super::{Finding, Foreign, Report};
use candle_core::Tensor;
use dkd_engine::{Graph, ParamSpec};
use std::collections::BTreeMap;

/// What classifiers are called.
pub const CLASSIFIERS: [&str; 5] = ["fc", "linear", "classifier", "classifier.0", "head"];

/// A tensor and its name in the file.
type Named<'a> = (&'a str, &'a Tensor);

/// The tensors of a file under one prefix, against the parameters of a network.
pub struct Attempt<'a> {
    /// What is removed from the names.
    pub prefix: String,
    /// Parameters with a tensor of the right shape.
    pub fitting: Vec<(&'a ParamSpec, Named<'a>)>,
    /// Parameters with a tensor of another shape, or of integers.
    pub shapes: Vec<(&'a ParamSpec, Named<'a>)>,
    /// Parameters without a tensor.
    pub missing: Vec<&'a ParamSpec>,
    /// Tensors without a parameter.
    pub unexpected: Vec<Named<'a>>,
    /// Tensors of another network in the same file.
    aside: usize,
    /// The classifier's name in the file and in the network, if they differ.
    renamed: Option<(&'static str, &'a str)>,
}

impl<'a> Attempt<'a> {
    pub fn new(graph: &'a Graph, classifier: Option<&'a str>, foreign: &'a Foreign, prefix: String) -> Self {
        let mut inside: BTreeMap<&str, Named<'a>> = BTreeMap::new();
        let mut outside = Vec::new();
        for (name, tensor) in &foreign.tensors {
            let counter = name.rsplit('.').next() == Some("num_batches_tracked");
            match name.strip_prefix(&prefix) {
                _ if counter => {}
                Some(rest) => drop(inside.insert(rest, (name.as_str(), tensor))),
                None => outside.push((name.as_str(), tensor)),
            }
        }
        let renamed = classifier.and_then(|own| Some((other_name(graph, own, &inside)?, own)));
        let own_linear = classifier.map(|own| format!("{own}.weight"));
        let mut this = Self {
            prefix,
            fitting: Vec::new(),
            shapes: Vec::new(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            aside: 0,
            renamed,
        };
        for spec in graph.params() {
            let other = renamed.and_then(|(other, own)| {
                let part = spec.name.strip_prefix(own)?;
                part.starts_with('.').then(|| format!("{other}{part}"))
            });
            let Some(named) = inside.remove(other.as_deref().unwrap_or(&spec.name)) else {
                this.missing.push(spec);
                continue;
            };
            let dims = named.1.dims();
            // A fully connected layer is a convolution of 1x1.
            let point = own_linear.as_deref() == Some(&spec.name)
                && matches!(dims, [_, _, 1, 1])
                && dims[..2] == spec.shape[..];
            let fits = named.1.dtype().is_float() && (dims == spec.shape || point);
            if fits { &mut this.fitting } else { &mut this.shapes }.push((spec, named));
        }
        this.unexpected = inside.into_values().collect();
        let one_of_several = this.prefix.split('.').any(|part| matches!(part, "student" | "teacher"));
        if one_of_several {
            this.aside = outside.len();
        } else {
            this.unexpected.extend(outside);
        }
        this
    }

    /// Whether every parameter has its tensor.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.shapes.is_empty()
    }

    pub fn report(&self, graph: &Graph, foreign: &Foreign) -> Report {
        let dims = |tensor: &Tensor| tensor.dims().to_vec();
        let missing = self
            .missing
            .iter()
            .map(|spec| Finding::Missing { name: spec.name.clone(), shape: spec.shape.clone() });
        let unexpected = self
            .unexpected
            .iter()
            .map(|(name, tensor)| Finding::Unexpected { name: (*name).to_owned(), shape: dims(tensor) });
        let shapes = self.shapes.iter().map(|(spec, (name, tensor))| Finding::Differs {
            name: spec.name.clone(),
            in_file: (*name).to_owned(),
            expected: spec.shape.clone(),
            found: dims(tensor),
            integers: (!tensor.dtype().is_float()).then(|| format!("{:?}", tensor.dtype()).to_lowercase()),
        });
        let mut converted: BTreeMap<String, usize> = BTreeMap::new();
        for (_, (_, tensor)) in &self.fitting {
            *converted.entry(format!("{:?}", tensor.dtype()).to_lowercase()).or_default() += 1;
        }
        converted.remove("f32");
        Report {
            path: foreign.path.clone(),
            key: foreign.key.clone(),
            prefix: self.prefix.clone(),
            parameters: graph.params().len(),
            fitting: self.fitting.len(),
            findings: missing.chain(shapes).chain(unexpected).collect(),
            renamed: self.renamed.map(|(other, own)| (other.to_owned(), own.to_owned())),
            converted: converted.into_iter().collect(),
            aside: self.aside,
        }
    }
}

/// What the file calls the network's classifier `own`, if it has no tensors of that name and one other name fits.
fn other_name(graph: &Graph, own: &str, inside: &BTreeMap<&str, Named<'_>>) -> Option<&'static str> {
    let has = |name: &str| inside.contains_key(format!("{name}.weight").as_str());
    if has(own) {
        return None;
    }
    let layer = |name: &str| graph.nodes().iter().any(|node| node.op.name() == Some(name));
    let mut others = CLASSIFIERS.into_iter().filter(|name| !layer(name) && has(name));
    // Which of two it would be is not to be guessed.
    match (others.next(), others.next()) {
        (Some(other), None) => Some(other),
        _ => None,
    }
}
