//! Weights from a file, whoever wrote it, and the network that they belong to.

use crate::args::WeightsArgs;
use crate::output;
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use dkd_datasets::Normalization;
use dkd_engine::{Graph, Op};
use dkd_models::checkpoint::{Finding, Fitted, Foreign, Metadata, Select, Strictness, fit, read_weights};
use dkd_models::{ModelOptions, build, models};
use std::collections::HashMap;

/// A network with its weights.
pub struct Trained {
    /// Its name.
    pub model: String,
    /// Its graph.
    pub graph: Graph,
    /// Every parameter and running statistic, in f32.
    pub tensors: HashMap<String, Tensor>,
    /// What the file says beside them.
    pub metadata: Metadata,
}

/// Reads the file of weights.
pub fn foreign(args: &WeightsArgs) -> Result<Foreign> {
    Ok(read_weights(&args.weights, &Select { key: args.key.clone() })?)
}

/// [`fitted`] to the file that the options name.
pub fn trained(
    args: &WeightsArgs,
    classes: Option<usize>,
    image: Option<(usize, usize, usize)>,
) -> Result<Trained> {
    fitted(foreign(args)?, args, classes, image)
}

/// Brings weights to the names of the network; says what had to be changed for that. Classes and image size are those
/// of the data at hand; without data what the file says, else what the classifier has and 3x32x32.
pub fn fitted(
    foreign: Foreign,
    args: &WeightsArgs,
    classes: Option<usize>,
    image: Option<(usize, usize, usize)>,
) -> Result<Trained> {
    // Files of others may call anything a model.
    let named = foreign.metadata.model().filter(|name| dkd_models::find(name).is_ok());
    let model = args.model.as_deref().or(named);
    let model = model.context("the weights' file does not name its network; use --model M")?.to_owned();
    let image = image.or(foreign.metadata.image()).unwrap_or((3, 32, 32));
    let classes = match classes.or(foreign.metadata.num_classes()) {
        Some(classes) => classes,
        None => classifier_outputs(&model, image, &foreign)?,
    };
    let graph = build(&model, &ModelOptions { image, ..ModelOptions::new(classes) })?;
    let strictness = if args.lenient { Strictness::Lenient } else { Strictness::Strict };
    let fitted = fit(&graph, &foreign, strictness).map_err(|e| with_advice(e, &model, &foreign, image))?;
    tell(args, &fitted);
    let tensors = fitted.over(initial(&graph)?);
    Ok(Trained { model, graph, tensors, metadata: foreign.metadata })
}

/// How many outputs the classifier in the file has.
pub fn classifier_outputs(model: &str, image: (usize, usize, usize), foreign: &Foreign) -> Result<usize> {
    // No classifier has as many: it is found by not fitting.
    const UNLIKELY: usize = 7919;
    let graph = build(model, &ModelOptions { image, ..ModelOptions::new(UNLIKELY) })?;
    let last = graph.nodes().iter().rev().find_map(|node| match &node.op {
        Op::Linear(l) => Some(format!("{}.weight", l.name)),
        Op::Conv2d(c) => Some(format!("{}.weight", c.name)),
        _ => None,
    });
    let report = match fit(&graph, foreign, Strictness::Lenient) {
        Ok(fitted) => fitted.report,
        Err(dkd_models::Error::Mismatch(report)) => *report,
        Err(e) => return Err(e.into()),
    };
    let outputs = report.findings.iter().find_map(|finding| match finding {
        Finding::Differs { name, found, .. } if Some(name) == last.as_ref() => found.first().copied(),
        _ => None,
    });
    // A network that does not fit at all is told of with a number of classes that people expect.
    Ok(outputs.unwrap_or(10))
}

/// The networks of the list whose parameters these are, with their numbers of classes.
pub fn fitting(foreign: &Foreign, image: (usize, usize, usize)) -> Vec<(&'static str, usize)> {
    let image = foreign.metadata.image().unwrap_or(image);
    let fits = |name: &'static str| {
        let classes = classifier_outputs(name, image, foreign).ok()?;
        let graph = build(name, &ModelOptions { image, ..ModelOptions::new(classes) }).ok()?;
        fit(&graph, foreign, Strictness::Strict).ok().map(|_| (name, classes))
    };
    models().iter().filter_map(|m| fits(m.name)).collect()
}

/// What to do about weights that do not fit.
fn with_advice(
    error: dkd_models::Error,
    model: &str,
    foreign: &Foreign,
    image: (usize, usize, usize),
) -> anyhow::Error {
    if !matches!(error, dkd_models::Error::Mismatch(_)) {
        return error.into();
    }
    let others = fitting(foreign, image);
    let others: Vec<String> =
        others.iter().map(|(name, classes)| format!("{name} ({classes} classes)")).collect();
    let advice = match &others[..] {
        [] => "--lenient loads what fits".to_owned(),
        some => format!("they fit {}", some.join(", ")),
    };
    anyhow::Error::from(error).context(format!("the weights are not those of this {model}; {advice}"))
}

fn tell(args: &WeightsArgs, fitted: &Fitted) {
    if args.lenient && !fitted.report.is_perfect() {
        output::note(&format!("{}\nwhat is missing starts untrained", fitted.report));
    }
    tracing::info!("{}: {}", args.weights.display(), fitted.report.summary());
}

/// Untrained weights.
pub fn initial(graph: &Graph) -> Result<Vec<(String, Tensor)>> {
    let own = graph.params().iter().map(|p| {
        Ok((p.name.clone(), Tensor::from_vec(p.initial_values(0), p.shape.as_slice(), &Device::Cpu)?))
    });
    own.collect()
}

/// The normalisation from options, else from the file, else `default`.
pub fn normalization(
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    metadata: &Metadata,
    default: Option<Normalization>,
) -> Result<Option<Normalization>> {
    let three = |v: &[f32], name: &str| -> Result<[f32; 3]> {
        let Ok(values) = <[f32; 3]>::try_from(v) else { bail!("{name} has {} values, expected 3", v.len()) };
        Ok(values)
    };
    let stored = match metadata.normalization() {
        Some(n) => {
            Some(Normalization { mean: three(&n.mean, "stored mean")?, std: three(&n.std, "stored std")? })
        }
        None => default,
    };
    Ok(match (mean, std, stored) {
        (Some(mean), Some(std), _) => Some(Normalization { mean, std }),
        (mean, std, Some(s)) => {
            Some(Normalization { mean: mean.unwrap_or(s.mean), std: std.unwrap_or(s.std) })
        }
        (None, None, None) => None,
        _ => bail!("--mean and --std belong together: the file has neither"),
    })
}
