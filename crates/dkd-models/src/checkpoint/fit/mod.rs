//! Tensors of others, brought to the names of a network.

mod attempt;
mod report;

#[cfg(test)]
mod tests;

pub use report::{Finding, Report};

use super::Foreign;
use crate::{Error, Result};
use attempt::Attempt;
use candle_core::{DType, Tensor};
use dkd_engine::{Graph, Op};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most prefixes that are tried: those under which the most names fit.
const MAX_PREFIXES: usize = 16;

/// Most dots at which a name is cut.
const MAX_CUTS: usize = 12;

/// What happens if not everything fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// It is an error.
    #[default]
    Strict,
    /// What fits is loaded; nothing at all is an error still.
    Lenient,
}

/// Weights for a network.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// Tensors in f32 by the network's names, in its shapes. All of them, unless [`Strictness::Lenient`] allowed less.
    pub tensors: HashMap<String, Tensor>,
    /// What fits, and what was changed to make it fit.
    pub report: Report,
}

impl Fitted {
    /// The fitting tensors, and the network's own ([`dkd_engine::Session::state_dict`]) in place of those that are missing.
    pub fn over(self, own: Vec<(String, Tensor)>) -> HashMap<String, Tensor> {
        let mut all: HashMap<String, Tensor> = own.into_iter().collect();
        all.extend(self.tensors);
        all
    }
}

/// Brings tensors to the names of `graph`'s parameters.
///
/// * What all names begin with is removed: the prefix, of any depth (`module.`, `model.`, `module.student.`), under which the
///   most tensors fit. Tensors outside of it are unexpected, unless it is that of one network among several: `student` or
///   `teacher`.
/// * A classifier called `fc`, `linear`, `classifier`, `classifier.0` or `head` is taken for the network's own last linear layer, also
///   as a convolution of 1x1.
/// * `num_batches_tracked` is not looked at.
/// * f16, bf16 and f64 are converted to f32. Integers are no weights.
///
/// # Errors
/// [`Error::Mismatch`], with a table, unless every parameter has its tensor and every tensor its parameter (strict), or if no
/// tensor fits (lenient); [`Error::Foreign`] if there are several networks that fit, or a tensor cannot be converted.
pub fn fit(graph: &Graph, foreign: &Foreign, strictness: Strictness) -> Result<Fitted> {
    let classifier = graph.nodes().iter().rev().find_map(|node| match &node.op {
        Op::Linear(linear) => Some(linear.name.as_str()),
        _ => None,
    });
    let attempts: Vec<Attempt> = prefixes(graph, classifier, foreign)
        .into_iter()
        .map(|prefix| Attempt::new(graph, classifier, foreign, prefix))
        .collect();
    let best = choose(attempts, foreign)?;
    let report = best.report(graph, foreign);
    let fits = match strictness {
        Strictness::Strict => report.is_perfect(),
        Strictness::Lenient => report.fitting > 0,
    };
    if !fits {
        return Err(Error::Mismatch(Box::new(report)));
    }
    let mut tensors = HashMap::new();
    for (spec, (_, tensor)) in &best.fitting {
        let converted = tensor.to_dtype(DType::F32).and_then(|t| t.reshape(spec.shape.as_slice()));
        let converted = converted.map_err(|e| Error::Foreign {
            path: foreign.path.clone(),
            problem: format!("tensor `{}`: {e}", spec.name),
        })?;
        tensors.insert(spec.name.clone(), converted);
    }
    Ok(Fitted { tensors, report })
}

/// Beginnings of names, with their dot, after which the network's names come; the most frequent first.
fn prefixes(graph: &Graph, classifier: Option<&str>, foreign: &Foreign) -> Vec<String> {
    let mut wanted: BTreeSet<String> = graph.params().iter().map(|p| p.name.clone()).collect();
    if classifier.is_some() {
        let of = |name: &str| [format!("{name}.weight"), format!("{name}.bias")];
        wanted.extend(attempt::CLASSIFIERS.iter().flat_map(|name| of(name)));
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::from([("", 0)]);
    for name in foreign.tensors.keys() {
        let cuts = name.match_indices('.').map(|(at, _)| at + 1).take(MAX_CUTS);
        for cut in std::iter::once(0).chain(cuts).filter(|cut| wanted.contains(&name[*cut..])) {
            *counts.entry(&name[..cut]).or_default() += 1;
        }
    }
    let mut sorted: Vec<(&str, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(prefix, count)| (std::cmp::Reverse(*count), prefix.len()));
    sorted.into_iter().take(MAX_PREFIXES).map(|(prefix, _)| prefix.to_owned()).collect()
}

/// The attempt that is complete and leaves nothing over, else the only complete one, else the one with the most names: of
/// blocks within a network, more may have the right shapes.
fn choose<'a>(attempts: Vec<Attempt<'a>>, foreign: &Foreign) -> Result<Attempt<'a>> {
    let rank = |a: &Attempt<'_>| (a.is_complete(), a.is_complete() && a.unexpected.is_empty());
    let highest = attempts.iter().map(rank).max().unwrap_or_default();
    let mut best: Vec<Attempt<'a>> = attempts.into_iter().filter(|a| rank(a) == highest).collect();
    if highest.0 && best.len() > 1 {
        let keys: Vec<String> = best.iter().map(|a| place(foreign, &a.prefix)).collect();
        return Err(Error::Foreign {
            path: foreign.path.clone(),
            problem: format!("the network fits at {}; choose one by its key", keys.join(" and ")),
        });
    }
    // Of equals, the first stays the first: the shortest prefix of the most frequent.
    best.sort_by_key(|a| std::cmp::Reverse((a.fitting.len() + a.shapes.len(), a.fitting.len())));
    best.into_iter().next().ok_or_else(|| Error::Foreign {
        path: foreign.path.clone(),
        problem: "there are no weights in it".to_owned(),
    })
}

/// The key with which a prefix would be chosen.
fn place(foreign: &Foreign, prefix: &str) -> String {
    let parts = [foreign.key.as_str(), prefix.trim_end_matches('.')];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match parts[..] {
        [] => "the top".to_owned(),
        _ => format!("`{}`", super::import::shown(&parts.join("."))),
    }
}
