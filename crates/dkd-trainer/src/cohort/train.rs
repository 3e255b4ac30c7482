//! The loop over epochs and batches.

use super::row::{Life, Position, Row};
use super::teacher::Teacher;
use crate::network::{EngineNetwork, Network};
use crate::record::{Diverged, EpochPoint, Host, RowResult};
use crate::{
    Error, Event, MetricKind, Metrics, NonFinite, NormalizationKind, PartRecipe, Recipe, Result, RowRecipe,
    Sink, TeacherMode, TeacherRecipe, evaluate,
};
use candle_core::{Device, Tensor};
use dkd_datasets::{Augment, Dataset, Loader, LoaderConfig, Normalization, Split, hold_out};
use dkd_engine::{DropoutKey, Graph, SessionOptions};
use dkd_kernels::Cpu;
use dkd_losses::{Method, Objective, Setup, StepDraw, Warmup};
use dkd_models::ModelOptions;
use dkd_models::checkpoint::{self, Metadata};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where and how a run takes place: nothing here changes its results.
pub struct Context<'a> {
    /// Threads and instruction set.
    pub cpu: Arc<Cpu>,
    /// Who is told.
    pub sink: &'a mut dyn Sink,
    /// Folder for the weights of the teacher and, but for [`Context::last`], of every row: `<row>-<seed>.safetensors`.
    pub weights: Option<PathBuf>,
    /// Machine and program, for the results.
    pub host: Option<Host>,
    /// File for the weights of a run with a single row.
    pub last: Option<PathBuf>,
    /// Set from outside to end the run after the current step.
    pub stop: &'a AtomicBool,
}

/// Trains the teacher if need be, then all rows, for one seed. Results come in the order of the rows, the teacher's first.
///
/// A teacher whose weights are already in the context's folder, from the same recipe, is loaded instead of trained.
///
/// # Errors
/// Anything from data to disk; [`Error::NonFinite`]; [`Error::Interrupted`].
#[tracing::instrument(level = "info", skip_all, fields(recipe = recipe.name, data = data.name, seed))]
pub fn run(recipe: &Recipe, data: &Dataset, seed: u64, context: &mut Context<'_>) -> Result<Vec<RowResult>> {
    let loaders = Loaders::new(recipe, data, seed)?;
    let mut results = Vec::new();
    let mut teacher = None;
    let needed = recipe.rows.iter().any(RowRecipe::needs_teacher);
    if let Some(settings) = recipe.teacher.as_ref().filter(|_| needed) {
        let (weights, result) = obtain_teacher(recipe, settings, data, &loaders, seed, context)?;
        results.extend(result);
        teacher = Some(build_teacher(recipe, settings, weights, data, &loaders, &context.cpu)?);
    }
    let teacher_taps = match &recipe.teacher {
        Some(teacher) => tap_shapes(&graph(&teacher.model, data)?),
        None => BTreeMap::new(),
    };
    let mut rows = Vec::with_capacity(recipe.rows.len());
    for row in &recipe.rows {
        let taps = Row::objective(row)?.taps().student;
        let options = SessionOptions { max_batch: loaders.largest_batch, train: true, taps };
        let student_taps = tap_shapes(&graph(&row.model, data)?);
        let setup = Setup {
            device: &Device::Cpu,
            num_classes: data.num_classes(),
            train_labels: &data.train.labels,
            student_taps: &student_taps,
            teacher_taps: &teacher_taps,
            draw: &draw_before(seed),
        };
        let network = build(&row.model, data, options, &context.cpu, seed + row.seed_offset)?;
        rows.push(Row::new(row.clone(), network, &setup, &context.cpu)?);
    }
    results.extend(train(rows, teacher, &loaders, recipe.train.epochs, seed, data, context)?);
    for result in &mut results {
        result.profile.clone_from(&recipe.name);
        result.title.clone_from(&recipe.title);
        result.description.clone_from(&recipe.description);
        if let Some(row) = recipe.rows.iter().find(|r| r.id == result.row) {
            result.settings_sha256 = row.settings_sha256(recipe);
        }
    }
    Ok(results)
}

/// The streams of one seed.
struct Loaders {
    train: Loader,
    test: Loader,
    validation: Option<Loader>,
    normalization: Normalization,
    /// Images of the largest batch that there will be.
    largest_batch: usize,
}

impl Loaders {
    /// What a file of weights says about them.
    fn metadata(&self, model: &str, data: &Dataset) -> Metadata {
        let n = self.normalization;
        let normalization = checkpoint::Normalization { mean: n.mean.to_vec(), std: n.std.to_vec() };
        Metadata::new(model, data.num_classes()).with_normalization(&normalization)
    }

    fn new(recipe: &Recipe, data: &Dataset, seed: u64) -> Result<Self> {
        let normalization = match recipe.data.normalization {
            NormalizationKind::Dataset => data.normalization,
            NormalizationKind::Half => Normalization::HALF,
        };
        let limit = |split: &Split, n: Option<usize>| n.map_or_else(|| split.clone(), |n| split.first(n));
        let (train, test) =
            (limit(&data.train, recipe.data.train_limit), limit(&data.test, recipe.data.test_limit));
        let (train, held) = match recipe.data.validation {
            0 => (train, None),
            n => {
                let (train, held) = hold_out(&train, n, seed)?;
                (train, Some(held))
            }
        };
        let batch_size = recipe.train.batch_size;
        let largest = train.len().max(test.len()).max(held.as_ref().map_or(0, Split::len));
        let training =
            LoaderConfig { batch_size, augment: recipe.data.augment, seed, ..LoaderConfig::default() };
        let plain = LoaderConfig { augment: Augment::None, shuffle: false, ..training };
        let make = |split, config| Loader::new(Arc::new(split), &normalization, config);
        Ok(Self {
            train: make(train, training)?,
            test: make(test, plain)?,
            validation: held.map(|s| make(s, plain)).transpose()?,
            normalization,
            largest_batch: batch_size.min(largest),
        })
    }
}

/// The network `model` for these images and classes.
fn graph(model: &str, data: &Dataset) -> Result<Graph> {
    let image = (3, data.train.height, data.train.width);
    Ok(dkd_models::build(model, &ModelOptions { image, ..ModelOptions::new(data.num_classes()) })?)
}

fn tap_shapes(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    graph.taps().iter().map(|t| (t.name.clone(), t.shape.dims())).collect()
}

/// Random numbers for what happens before the first step: no step has this number.
fn draw_before(seed: u64) -> StepDraw {
    StepDraw { seed, step: u64::MAX }
}

fn build(
    model: &str,
    data: &Dataset,
    options: SessionOptions,
    cpu: &Arc<Cpu>,
    seed: u64,
) -> Result<Box<dyn Network>> {
    Ok(Box::new(EngineNetwork::new(graph(model, data)?, cpu, options, seed)?))
}

/// The recipe of the teacher's own training, as a row.
fn teacher_row(recipe: &TeacherRecipe) -> RowRecipe {
    let method = Method::Ce { label_smoothing: 0.0 };
    RowRecipe {
        id: "teacher".to_owned(),
        position: 0,
        label: format!("teacher {}", recipe.model),
        model: recipe.model.clone(),
        parts: vec![PartRecipe { name: "ce".to_owned(), method, weight: 1.0, warmup: Warmup::NONE }],
        optimizer: recipe.optimizer,
        schedule: recipe.schedule.clone(),
        teacher_mode: TeacherMode::Eval,
        nonfinite: NonFinite::Stop,
        metric: MetricKind::Last,
        seed_offset: 0,
        published: recipe.published.clone(),
        baseline: None,
        note: String::new(),
        quick: true,
    }
}

/// What decides a teacher's weights: stored with them, so that those of another recipe are never taken for it.
fn teacher_key(recipe: &Recipe, teacher: &TeacherRecipe, data: &Dataset, seed: u64) -> String {
    let parts =
        (&recipe.data, recipe.train.batch_size, &teacher.optimizer, &teacher.schedule, teacher.epochs);
    let text = format!("{} {parts:?} {seed} {}", teacher.model, data.fingerprint());
    dkd_files::sha256_bytes(text.as_bytes())
}

/// A teacher with a network for every mode in which it is asked.
fn build_teacher(
    recipe: &Recipe,
    teacher: &TeacherRecipe,
    weights: HashMap<String, Tensor>,
    data: &Dataset,
    loaders: &Loaders,
    cpu: &Arc<Cpu>,
) -> Result<Teacher> {
    let mut taps: Vec<String> = Vec::new();
    let mut networks: BTreeMap<TeacherMode, Box<dyn Network>> = BTreeMap::new();
    for row in &recipe.rows {
        taps.extend(Row::objective(row)?.taps().teacher);
    }
    taps.sort_unstable();
    taps.dedup();
    for row in recipe.rows.iter().filter(|r| r.needs_teacher()) {
        if let Entry::Vacant(place) = networks.entry(row.teacher_mode) {
            let train = row.teacher_mode == TeacherMode::Train;
            let options = SessionOptions { max_batch: loaders.largest_batch, train, taps: taps.clone() };
            let mut network = build(&teacher.model, data, options, cpu, 0)?;
            network.load_state_dict(&weights)?;
            place.insert(network);
        }
    }
    Ok(Teacher::new(networks, weights.into_iter().collect(), taps))
}

/// The teacher's weights: given, from an earlier run of the same recipe, or trained now.
#[tracing::instrument(level = "info", skip_all, fields(model = teacher.model))]
fn obtain_teacher(
    recipe: &Recipe,
    teacher: &TeacherRecipe,
    data: &Dataset,
    loaders: &Loaders,
    seed: u64,
    context: &mut Context<'_>,
) -> Result<(HashMap<String, Tensor>, Option<RowResult>)> {
    if let Some(path) = &teacher.weights {
        return Ok((given_teacher(path, teacher, data, loaders)?, None));
    }
    let key = teacher_key(recipe, teacher, data, seed);
    let cached = context.weights.as_ref().map(|folder| folder.join(format!("teacher-{seed}.safetensors")));
    let result_path = cached.as_ref().map(|p| p.with_extension("json"));
    if let (Some(weights), Some(result)) = (&cached, &result_path)
        && let Some(result) = cached_teacher(weights, result, &key)?
    {
        return Ok((checkpoint::load(weights)?.0, Some(result)));
    }
    let options = SessionOptions { max_batch: loaders.largest_batch, train: true, taps: Vec::new() };
    let network = build(&teacher.model, data, options, &context.cpu, seed)?;
    let (own, none) = (tap_shapes(&graph(&teacher.model, data)?), BTreeMap::new());
    let setup = Setup {
        device: &Device::Cpu,
        num_classes: data.num_classes(),
        train_labels: &data.train.labels,
        student_taps: &own,
        teacher_taps: &none,
        draw: &draw_before(seed),
    };
    let row = Row::new(teacher_row(teacher), network, &setup, &context.cpu)?;
    let (mut results, rows) = train_rows(vec![row], None, loaders, teacher.epochs, seed, data, context)?;
    let dict = rows[0].network.state_dict()?;
    let mut result = results.remove(0);
    key[..16].clone_into(&mut result.settings_sha256);
    if let (Some(weights), Some(path)) = (&cached, &result_path) {
        let metadata = loaders.metadata(&teacher.model, data).with("recipe", &key);
        checkpoint::save(weights, &dict, &metadata)?;
        let text = serde_json::to_vec_pretty(&result).expect("results are JSON");
        dkd_files::atomic_write_bytes(path, &text)?;
    }
    Ok((dict.into_iter().collect(), Some(result)))
}

/// Weights from a file, which must have been trained for images as this run's students see them.
fn given_teacher(
    path: &Path,
    teacher: &TeacherRecipe,
    data: &Dataset,
    loaders: &Loaders,
) -> Result<HashMap<String, Tensor>> {
    let (weights, metadata) = checkpoint::load(path)?;
    let fail = |message: String| Error::Record { path: path.to_owned(), message };
    if let Some(model) = metadata.model().filter(|m| *m != teacher.model) {
        return Err(fail(format!("holds a `{model}`, but teacher.model is `{}`", teacher.model)));
    }
    if let Some(classes) = metadata.num_classes().filter(|c| *c != data.num_classes()) {
        return Err(fail(format!(
            "was trained for {classes} classes; {} has {}",
            data.name,
            data.num_classes()
        )));
    }
    let own = loaders.metadata(&teacher.model, data).normalization();
    if let (Some(theirs), Some(own)) = (metadata.normalization(), own)
        && theirs != own
    {
        return Err(fail(format!(
            "was trained on images normalised with mean {:?} and std {:?}, but this run uses {:?} and {:?}; \
             set data.normalization as it was then",
            theirs.mean, theirs.std, own.mean, own.std
        )));
    }
    let graph = graph(&teacher.model, data)?;
    let missing: Vec<&str> =
        graph.params().iter().map(|p| p.name.as_str()).filter(|n| !weights.contains_key(*n)).collect();
    if let [first, ..] = missing[..] {
        let message =
            format!("is no {}: {} tensors are missing, such as `{first}`", teacher.model, missing.len());
        return Err(fail(message));
    }
    Ok(weights)
}

/// The result of an earlier training by the same recipe, if its weights are there.
fn cached_teacher(weights: &Path, result: &Path, key: &str) -> Result<Option<RowResult>> {
    if !weights.is_file() || !result.is_file() {
        return Ok(None);
    }
    let (_, metadata) = checkpoint::load(weights)?;
    if metadata.get("recipe") != Some(key) {
        tracing::info!("{} belongs to another recipe and is trained anew", weights.display());
        return Ok(None);
    }
    let text = dkd_files::read_limited(result, 1 << 24)?;
    // Two files: a crash between them leaves a result that belongs to other weights.
    let result: Option<RowResult> = serde_json::from_slice(&text).ok();
    Ok(result.filter(|r| r.settings_sha256 == key[..16]))
}

#[allow(clippy::too_many_arguments)]
fn train(
    rows: Vec<Row>,
    teacher: Option<Teacher>,
    loaders: &Loaders,
    epochs: usize,
    seed: u64,
    data: &Dataset,
    context: &mut Context<'_>,
) -> Result<Vec<RowResult>> {
    let (results, rows) = train_rows(rows, teacher, loaders, epochs, seed, data, context)?;
    for row in &rows {
        let metadata = loaders.metadata(&row.recipe.model, data);
        let dict = row.network.state_dict()?;
        match (&context.last, &rows[..], &context.weights) {
            (Some(file), [_], _) => checkpoint::save(file, &dict, &metadata)?,
            (_, _, Some(folder)) => {
                let file = folder.join(format!("{}-{seed}.safetensors", row.recipe.id));
                checkpoint::save(&file, &dict, &metadata)?;
            }
            _ => {}
        }
    }
    Ok(results)
}

fn train_rows(
    mut rows: Vec<Row>,
    mut teacher: Option<Teacher>,
    loaders: &Loaders,
    epochs: usize,
    seed: u64,
    data: &Dataset,
    context: &mut Context<'_>,
) -> Result<(Vec<RowResult>, Vec<Row>)> {
    let batches = loaders.train.batches();
    let ids: Vec<String> = rows.iter().map(|r| r.recipe.id.clone()).collect();
    let images = loaders.train.split().len();
    context.sink.event(&Event::Started { rows: ids.clone(), epochs, batches, images, seed })?;
    let mut results: Vec<RowResult> =
        rows.iter().map(|r| RowResult::new(&r.recipe, seed, epochs, data)).collect();
    results.iter_mut().for_each(|r| r.host.clone_from(&context.host));
    for epoch in 1..=epochs {
        let _span = tracing::debug_span!("epoch", epoch).entered();
        let mut stream = loaders.train.epoch(epoch as u32, 0);
        for batch in 0..batches {
            let waiting = Instant::now();
            let Some(images) = stream.next() else { break };
            let (images, wait_s) = (images?, waiting.elapsed().as_secs_f64());
            results.iter_mut().for_each(|r| r.waited_seconds += wait_s);
            let step = ((epoch - 1) * batches + batch) as u64;
            let at = Position { seed, epoch, step, batch, batches, epochs };
            let pupils = rows.iter().filter(|r| r.life == Life::Alive && r.recipe.needs_teacher()).count();
            let mut teaching_s = 0.0;
            if let Some(teacher) = teacher.as_mut().filter(|_| pupils > 0) {
                let start = Instant::now();
                teacher.answer(&images.images, DropoutKey { seed, epoch: epoch as u32, step })?;
                teaching_s = start.elapsed().as_secs_f64() / pupils as f64;
            }
            for (row, result) in rows.iter_mut().zip(&mut results) {
                match row.life {
                    Life::Alive => {
                        result.seconds += if row.recipe.needs_teacher() { teaching_s } else { 0.0 };
                        step_row(row, result, &images, teacher.as_ref(), at, context)?;
                    }
                    Life::Nan => row.step_nan(&images),
                    Life::Ended => {}
                }
            }
            context.sink.event(&Event::Batch { epoch, batch, images: images.labels.len(), wait_s })?;
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted { epoch, step });
            }
        }
        if rows.iter().all(|r| r.life == Life::Ended) {
            break;
        }
        finish_epoch(&mut rows, &mut results, loaders, epoch, context)?;
    }
    context.sink.event(&Event::Finished { rows: ids })?;
    results.iter_mut().for_each(RowResult::finish);
    Ok((results, rows))
}

/// One step of one row, its events, and what a loss that is not finite means.
#[tracing::instrument(level = "trace", skip_all, fields(row = row.recipe.id, step = at.step))]
fn step_row(
    row: &mut Row,
    result: &mut RowResult,
    images: &dkd_datasets::Batch,
    teacher: Option<&Teacher>,
    at: Position,
    context: &mut Context<'_>,
) -> Result<()> {
    let start = Instant::now();
    let answers = teacher
        .filter(|_| row.recipe.needs_teacher())
        .and_then(|t| Some((t.outputs(row.recipe.teacher_mode)?, &t.parameters)));
    let outcome = row.step(images, answers, at)?;
    result.seconds += start.elapsed().as_secs_f64();
    let id = &row.recipe.id;
    if let Some(bad) = &outcome.bad
        && result.diverged.is_none()
    {
        if row.recipe.nonfinite == NonFinite::Stop {
            let samples = images.indices.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::NonFinite {
                row: id.clone(),
                term: bad.name.clone(),
                value: bad.value,
                epoch: at.epoch,
                step: at.step,
                samples,
            });
        }
        let goes_on = row.recipe.nonfinite == NonFinite::Continue;
        result.diverged = Some(Diverged { epoch: at.epoch, step: at.step, term: bad.name.clone() });
        let event = Event::Diverged {
            row: id.clone(),
            epoch: at.epoch,
            step: at.step,
            term: bad.name.clone(),
            goes_on,
        };
        context.sink.event(&event)?;
        if !goes_on {
            row.life = Life::Ended;
            return Ok(());
        }
    }
    context.sink.event(&Event::Step {
        row: id.clone(),
        epoch: at.epoch,
        step: at.step,
        images: images.labels.len(),
        lr: outcome.lr,
        loss: outcome.loss,
        terms: outcome.terms,
    })
}

fn measure(living: &mut [(&mut Row, &mut RowResult)], loader: &Loader) -> Result<Vec<Metrics>> {
    let mut networks: Vec<&mut dyn Network> = Vec::with_capacity(living.len());
    for (row, _) in living {
        networks.push(&mut *row.network);
    }
    evaluate(&mut networks, loader)
}

/// Evaluates all rows that are not ended, and tells.
#[tracing::instrument(level = "debug", skip_all, fields(epoch))]
fn finish_epoch(
    rows: &mut [Row],
    results: &mut [RowResult],
    loaders: &Loaders,
    epoch: usize,
    context: &mut Context<'_>,
) -> Result<()> {
    let start = Instant::now();
    let mut living: Vec<(&mut Row, &mut RowResult)> =
        rows.iter_mut().zip(results).filter(|(r, _)| r.life != Life::Ended).collect();
    let test = measure(&mut living, &loaders.test)?;
    let validation = match &loaders.validation {
        Some(loader) => Some(measure(&mut living, loader)?),
        None => None,
    };
    let share = start.elapsed().as_secs_f64() / living.len().max(1) as f64;
    for (i, (row, result)) in living.iter_mut().enumerate() {
        let id = row.recipe.id.clone();
        let (loss, top1) = row.take_epoch();
        context.sink.event(&Event::Epoch { row: id.clone(), epoch, loss, top1 })?;
        let evaluation = |split: &str, metrics| Event::Evaluation {
            row: id.clone(),
            epoch,
            split: split.to_owned(),
            metrics,
        };
        let held = validation.as_ref().map(|v| v[i]);
        if let Some(metrics) = held {
            context.sink.event(&evaluation("validation", metrics))?;
        }
        context.sink.event(&evaluation("test", test[i]))?;
        result.seconds += share;
        result.epochs.push(EpochPoint {
            train_loss: loss,
            train_top1: top1,
            test: test[i],
            validation: held,
        });
    }
    Ok(())
}
