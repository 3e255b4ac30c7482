//! Networks from files of weights, what they say about images, and students beside their teacher.

use super::result::{Network, Pairs, Points, Student};
use crate::args::WeightsArgs;
use crate::weights::{Trained, fitted, foreign, normalization};
use anyhow::{Context, Result, bail};
use dkd_datasets::{Loader, LoaderConfig, Normalization, Split};
use dkd_engine::{Precision, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::Temperature;
use dkd_models::checkpoint::Metadata;
use dkd_trainer::analysis::{Answers, NetworkReport, Wanted, answers, choose, compare, tsne};
use dkd_trainer::{EngineNetwork, Network as _};
use std::path::Path;
use std::sync::Arc;

/// Images in a batch: results do not depend on it.
const BATCH: usize = 100;

/// The feature map that is drawn: the classifier's input.
const TAP: &str = "pooled_feat";

/// Classes of which a picture can show the points.
const SHOWN_CLASSES: usize = 20;

/// What is asked for.
pub struct Job {
    pub cpu: Arc<Cpu>,
    /// In what networks keep their maps.
    pub precision: Precision,
    pub temperature: Temperature,
    /// Most images in the t-SNE pictures; 0 for none.
    pub points: usize,
    /// Normalisation for files that have none.
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
}

/// What the networks see.
pub struct Images {
    pub dataset: String,
    pub split_name: &'static str,
    pub split: Arc<Split>,
    pub class_names: Vec<String>,
    /// Of the data set.
    pub normalization: Normalization,
}

impl Images {
    /// The images of the t-SNE pictures.
    fn chosen(&self, job: &Job) -> Vec<usize> {
        choose(&self.split.labels, SHOWN_CLASSES, job.points)
    }
}

/// A file of weights.
pub struct Source {
    /// What its network is called here.
    pub name: String,
    pub weights: WeightsArgs,
}

impl Source {
    pub fn new(name: &str, file: &Path, model: Option<&str>) -> Self {
        let model = model.map(str::to_owned);
        let weights = WeightsArgs { weights: file.to_owned(), model, key: None, lenient: false };
        Self { name: name.to_owned(), weights }
    }
}

/// Runs the network of a file over the images.
pub fn examine(
    source: &Source,
    images: &Images,
    job: &Job,
    notes: &mut Vec<String>,
) -> Result<(Network, Answers)> {
    let file = source.weights.weights.display().to_string();
    examined(source, images, job, notes).with_context(|| format!("`{file}` cannot be analysed"))
}

fn examined(
    source: &Source,
    images: &Images,
    job: &Job,
    notes: &mut Vec<String>,
) -> Result<(Network, Answers)> {
    let foreign = foreign(&source.weights)?;
    let classes = images.class_names.len();
    if let Some(own) = foreign.metadata.num_classes().filter(|own| *own != classes) {
        bail!(
            "it was trained for {own} classes, but {} has {classes}: name its own images with --data and --dataset",
            images.dataset
        );
    }
    let image = (3, images.split.height, images.split.width);
    let Trained { model, graph, tensors, metadata } =
        fitted(foreign, &source.weights, Some(classes), Some(image))?;
    let chosen = images.chosen(job);
    let has_tap = graph.tap(TAP).is_ok();
    if !has_tap && !chosen.is_empty() {
        notes.push(format!(
            "{}: no t-SNE, since {model} has no feature map `{TAP}`; in a description, give the classifier's input \
             tap = \"{TAP}\"",
            source.name
        ));
    }
    let wanted = (has_tap && !chosen.is_empty()).then_some(Wanted { tap: TAP, images: &chosen });
    let taps = wanted.iter().map(|w| w.tap.to_owned()).collect();
    let options = SessionOptions { max_batch: BATCH, train: false, taps, precision: job.precision };
    let mut network = EngineNetwork::new(graph, &job.cpu, options, 0)?;
    network.load_state_dict(&tensors)?;
    let config = LoaderConfig { batch_size: BATCH, shuffle: false, ..LoaderConfig::default() };
    let seen = seen(&metadata, images, job)?;
    let loader = Loader::new(Arc::clone(&images.split), &seen, config)?;
    let said = answers(&mut network, &loader, wanted)?;
    let placed = wanted.map(|_| tsne(&said.features, chosen.len())).transpose();
    let tsne = placed.unwrap_or_else(|e| {
        notes.push(format!("{}: no t-SNE: {e}", source.name));
        None
    });
    let report = NetworkReport::of(&said)?;
    let file = source.weights.weights.display().to_string();
    Ok((Network { name: source.name.clone(), file, model, report, tsne }, said))
}

/// How a network wants its images: what its file says, else the options, else the data set.
fn seen(metadata: &Metadata, images: &Images, job: &Job) -> Result<Normalization> {
    if let Some(stored) = normalization(None, None, metadata, None)? {
        return Ok(stored);
    }
    let own = normalization(job.mean, job.std, metadata, Some(images.normalization))?;
    own.context("a data set has a normalisation")
}

/// Compares students with their teacher.
pub fn compared(
    teacher: (Network, Answers),
    students: Vec<(Network, Answers)>,
    images: &Images,
    job: &Job,
) -> Result<Pairs> {
    let (teacher, reference) = teacher;
    let beside = |(network, said): (Network, Answers)| {
        let pair = compare(&reference, &said, job.temperature)
            .with_context(|| format!("comparing `{}` with `{}`", network.file, teacher.file))?;
        Ok(Student { network, pair })
    };
    let students = students.into_iter().map(beside).collect::<Result<Vec<_>>>()?;
    let drawn = teacher.tsne.is_some() || students.iter().any(|s| s.network.tsne.is_some());
    let points = drawn.then(|| {
        let chosen = images.chosen(job);
        Points {
            labels: chosen.iter().map(|i| images.split.labels[*i]).collect(),
            images: chosen,
            classes: images.class_names.len().min(SHOWN_CLASSES),
        }
    });
    Ok(Pairs {
        dataset: images.dataset.clone(),
        split: images.split_name,
        images: images.split.len(),
        classes: images.class_names.clone(),
        temperature: job.temperature.get(),
        points,
        teacher,
        students,
    })
}
