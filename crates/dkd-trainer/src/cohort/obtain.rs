//! Where the teacher comes from: a file, an earlier run, or its own training.

use super::keeper::Keeper;
use super::loaders::Loaders;
use super::networks::{Architecture, Shapes, Told, new_row};
use super::teacher::Teacher;
use super::train::{Cohort, Context, train_rows};
use crate::network::{Compute, Network};
use crate::record::{DataInfo, RowResult};
use crate::teacher_cache::TeacherCache;
use crate::{
    Error, MetricKind, NonFinite, PartRecipe, Recipe, Result, RowRecipe, TeacherMode, TeacherRecipe,
};
use candle_core::{DType, Tensor};
use dkd_datasets::Dataset;
use dkd_engine::SharedMemory;
use dkd_losses::{Method, Warmup};
use dkd_models::checkpoint::{self, Select, Strictness, fit, read_weights};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The recipe of the teacher's own training, as a row.
pub(crate) fn teacher_row(recipe: &TeacherRecipe) -> RowRecipe {
    let method = Method::Ce { label_smoothing: 0.0 };
    RowRecipe {
        id: "teacher".to_owned(),
        position: 0,
        label: format!("teacher {}", recipe.model),
        model: recipe.model.clone(),
        parts: vec![PartRecipe {
            name: "ce".to_owned(),
            method,
            weight: 1.0,
            warmup: Warmup::NONE,
            standardize: false,
            own_momentum: None,
        }],
        optimizer: recipe.optimizer,
        clip_norm: recipe.clip_norm,
        schedule: recipe.schedule.clone(),
        teacher_mode: TeacherMode::Eval,
        views: 1,
        nonfinite: NonFinite::Stop,
        metric: MetricKind::Last,
        seed_offset: 0,
        published: recipe.published.clone(),
        log: None,
        baseline: None,
        note: String::new(),
        quick: true,
    }
}

/// The settings that decide a teacher's weights, seed and data aside.
fn settings(recipe: &Recipe, teacher: &TeacherRecipe) -> String {
    let parts = (
        recipe.data.unmixed(),
        recipe.train.batch_size,
        &teacher.optimizer,
        &teacher.schedule,
        teacher.epochs,
    );
    let clip = teacher.clip_norm.map_or_else(String::new, |c| format!(" clip {c}"));
    let described = recipe.described(&teacher.model);
    format!("{} {parts:?}{clip}{described}", teacher.model)
}

/// What decides a teacher's weights: stored with them, so that those of another recipe are never taken for it.
fn teacher_key(recipe: &Recipe, teacher: &TeacherRecipe, data: &Dataset, seed: u64) -> String {
    let text = format!("{} {seed} {}", settings(recipe, teacher), data.fingerprint());
    dkd_files::sha256_bytes(text.as_bytes())
}

/// A teacher with a network for every mode in which it is asked; `taps` are those that losses read.
#[allow(clippy::too_many_arguments)]
pub(super) fn build_teacher(
    recipe: &Recipe,
    teacher: &TeacherRecipe,
    weights: HashMap<String, Tensor>,
    data: &Dataset,
    loaders: &Loaders,
    taps: Vec<String>,
    cache: Option<TeacherCache>,
    compute: &Compute,
) -> Result<Teacher> {
    let mut networks: BTreeMap<TeacherMode, Box<dyn Network>> = BTreeMap::new();
    for row in recipe.rows.iter().filter(|r| r.needs_teacher()) {
        if let Entry::Vacant(place) = networks.entry(row.teacher_mode) {
            let train = row.teacher_mode == TeacherMode::Train;
            let options = compute.options(loaders.largest_batch, train, taps.clone());
            let mut network = recipe.architecture(&teacher.model, data)?.build(
                options,
                compute,
                0,
                &SharedMemory::default(),
            )?;
            network.load_state_dict(&weights)?;
            place.insert(network);
        }
    }
    Ok(Teacher::new(networks, weights.into_iter().collect(), taps, cache))
}

/// The teacher's weights: given, from an earlier run of the same recipe, or trained now.
#[tracing::instrument(level = "info", skip_all, fields(model = teacher.model))]
#[allow(clippy::too_many_arguments)]
pub(super) fn obtain_teacher(
    recipe: &Recipe,
    teacher: &TeacherRecipe,
    data: &Dataset,
    loaders: &Loaders,
    seed: u64,
    keeper: &mut Option<Keeper>,
    context: &mut Context<'_>,
) -> Result<(HashMap<String, Tensor>, Option<RowResult>)> {
    if let Some(path) = &teacher.weights {
        return Ok((given_teacher(path, recipe, teacher, data, loaders)?, None));
    }
    let key = teacher_key(recipe, teacher, data, seed);
    let cached = context.weights.as_ref().map(|folder| folder.join(format!("teacher-{seed}.safetensors")));
    let result_path = cached.as_ref().map(|p| p.with_extension("json"));
    let settings = dkd_files::sha256_bytes(settings(recipe, teacher).as_bytes())[..16].to_owned();
    // A checkpoint of the teacher's own training is newer than its weights are whole: the log ends where it was made.
    let unfinished = context.resume.as_ref().is_some_and(|s| s.header.place.teacher);
    if let (Some(weights), Some(result), false) = (&cached, &result_path, unfinished)
        && let Some(result) = cached_teacher(weights, result, &key)?
            .filter(|r| r.settings_sha256 == settings && r.data == DataInfo::of(data))
    {
        return Ok((checkpoint::load(weights)?.0, Some(result)));
    }
    let told = Told { recipe, data, compute: &context.compute, seed, teacher: &Shapes::default() };
    let row = new_row(teacher_row(teacher), loaders.largest_batch, &told, &SharedMemory::default())?;
    if context.resume.as_ref().is_some_and(|s| !s.header.place.teacher) {
        return Err(Error::Invalid(
            "the run stopped while its students were trained, but its teacher's weights are gone; start it anew".to_owned(),
        ));
    }
    let (epochs, rewind_factor) = (teacher.epochs, recipe.train.rewind_factor);
    // Its own rows would decide how many views the batches have.
    let own = Recipe { data: recipe.data.unmixed(), rows: Vec::new(), ..recipe.clone() };
    let loaders = &Loaders::new(&own, data, seed)?;
    let cohort = Cohort { loaders, data, epochs, seed, teacher: true, rewind_factor };
    let (mut results, rows) = train_rows(&cohort, vec![row], None, keeper, context)?;
    let dict = rows[0].network.state_dict()?;
    let mut result = results.remove(0);
    result.settings_sha256 = settings;
    if let (Some(weights), Some(path)) = (&cached, &result_path) {
        let metadata = loaders.trained(&result, &recipe.name, data).with("recipe", &key);
        checkpoint::save(weights, &dict, &metadata)?;
        let text = serde_json::to_vec_pretty(&result).expect("results are JSON");
        dkd_files::atomic_write_bytes(path, &text)?;
    }
    Ok((dict.into_iter().collect(), Some(result)))
}

/// Weights from a file, whoever wrote it, which must have been trained for images as this run's students see them.
fn given_teacher(
    path: &Path,
    recipe: &Recipe,
    teacher: &TeacherRecipe,
    data: &Dataset,
    loaders: &Loaders,
) -> Result<HashMap<String, Tensor>> {
    let foreign = read_weights(path, &Select { key: teacher.key.clone() })?;
    let metadata = &foreign.metadata;
    let fail = |message: String| Error::Record { path: path.to_owned(), message };
    // Files of others may call anything a model.
    let known = |name: &&str| dkd_models::find(name).is_ok() || recipe.networks.contains_key(*name);
    let model = metadata.model().filter(known);
    if let Some(model) = model.filter(|m| *m != teacher.model) {
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
    let tensors = match recipe.architecture(&teacher.model, data)? {
        Architecture::Engine(graph) => {
            let fitted = fit(&graph, &foreign, Strictness::Strict)?;
            tracing::info!("{}: {}", path.display(), fitted.report.summary());
            fitted.tensors
        }
        // Its own names; a network that they do not fit refuses them.
        Architecture::Registered(..) => {
            let all = foreign.tensors.into_iter();
            all.map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?))).collect::<Result<_>>()?
        }
    };
    for (name, tensor) in &tensors {
        if !tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| v.is_finite()) {
            return Err(fail(format!(
                "has values in `{name}` that are infinite or no numbers: nothing can be learned from it"
            )));
        }
    }
    Ok(tensors)
}

/// The result of an earlier training, if its weights are there and are this recipe's. A crash between the two files leaves
/// one that may belong to other weights: the caller looks at its settings.
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
    Ok(serde_json::from_slice(&text).ok())
}
