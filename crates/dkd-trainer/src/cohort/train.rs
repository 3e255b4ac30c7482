//! The loop over epochs and batches.

use super::batch::{batch_of_all, give_up};
use super::epoch::finish_epoch;
use super::keeper::{Checkpoints, Keeper, restore};
use super::loaders::Loaders;
use super::networks::{Shapes, Told, new_row};
use super::obtain::{build_teacher, obtain_teacher};
use super::recorded::Recording;
use super::rewind;
use super::row::{Life, Position, Row};
use super::teacher::Teacher;
use crate::checkpoint::{Place, Snapshot};
use crate::debug::Probe;
use crate::network::Compute;
use crate::record::{Host, RowResult};
use crate::teacher_cache::{CacheLayout, Origin, TeacherCache};
use crate::{Error, Event, Recipe, Result, RowRecipe, Sink, device_memory, memory};
use dkd_datasets::Dataset;
use dkd_engine::SharedMemory;
use dkd_models::checkpoint;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where and how a run takes place: nothing here changes its results.
pub struct Context<'a> {
    /// Threads, and the device of the networks.
    pub compute: Compute,
    /// Who is told.
    pub sink: &'a mut dyn Sink,
    /// Folder for the weights of the teacher and, but for [`Context::last`], of every row: `<row>-<seed>.safetensors`.
    pub weights: Option<PathBuf>,
    /// Machine and program, for the results.
    pub host: Option<Host>,
    /// File for the weights of a run with a single row.
    pub last: Option<PathBuf>,
    /// Set from outside to end the run after the current step, with a checkpoint if there are any.
    pub stop: &'a AtomicBool,
    /// Where checkpoints go; none are written without it.
    pub checkpoints: Option<Checkpoints>,
    /// The checkpoint to go on from, with a sink whose log ends where it was made.
    pub resume: Option<Snapshot>,
    /// A step to be looked into; the run ends there, with [`Error::Interrupted`].
    pub probe: Option<Probe>,
}

/// Trains the teacher if need be, then all rows, for one seed. Results come in the order of the rows, the teacher's first.
///
/// Checkpoints stay until the caller has stored the results and calls [`crate::checkpoint::Store::clear`].
///
/// A teacher whose weights are already in the context's folder, from the same recipe, is loaded instead of trained.
///
/// # Errors
/// Anything from data to disk; [`Error::Memory`]; [`Error::DeviceMemory`]; [`Error::NonFinite`]; [`Error::Interrupted`].
#[tracing::instrument(level = "info", skip_all, fields(recipe = recipe.name, data = data.name, seed))]
pub fn run(recipe: &Recipe, data: &Dataset, seed: u64, context: &mut Context<'_>) -> Result<Vec<RowResult>> {
    let loaders = Loaders::new(recipe, data, seed)?;
    let batch = loaders.largest_batch;
    let Some(gpu) = &context.compute.gpu else {
        if let Some(available) = memory::available(context.compute.cpu.threads()) {
            memory::check(recipe, data, &context.compute, batch, available)?;
        }
        return all_rows(recipe, data, seed, &loaders, context);
    };
    let (how, planned) = ((gpu.arithmetic, batch), device_memory::check(recipe, data, gpu, batch)?);
    all_rows(recipe, data, seed, &loaders, context)
        .map_err(|e| device_memory::explained(e, recipe, data, how, planned))
}

/// The teacher, then all rows.
fn all_rows(
    recipe: &Recipe,
    data: &Dataset,
    seed: u64,
    loaders: &Loaders,
    context: &mut Context<'_>,
) -> Result<Vec<RowResult>> {
    if let (Some(row), true) = (Recipe::uncacheable(&recipe.rows), recipe.cache.is_some()) {
        let message = format!(
            "row `{}` has two views, and the teacher's answers cannot be kept: turn cache.teacher off",
            row.id
        );
        return Err(Error::Invalid(message));
    }
    // Before the teacher is trained: a cache that is too large is noticed now.
    let layout = CacheLayout::of(recipe, data)?;
    let mut keeper = context.checkpoints.as_ref().map(Keeper::new).transpose()?;
    let mut results = Vec::new();
    let mut trained = None;
    let needed = recipe.rows.iter().any(RowRecipe::needs_teacher);
    if let Some(settings) = recipe.teacher.as_ref().filter(|_| needed) {
        let (weights, result) = obtain_teacher(recipe, settings, data, loaders, seed, &mut keeper, context)?;
        results.extend(result);
        trained = Some((settings, weights));
    }
    let told =
        Told { recipe, data, compute: &context.compute, seed, teacher: &Shapes::of_teacher(recipe, data)? };
    let memory = SharedMemory::default();
    let rows = recipe
        .rows
        .iter()
        .map(|row| new_row(row.clone(), loaders.largest_batch, &told, &memory))
        .collect::<Result<Vec<_>>>()?;
    let teacher = match trained {
        Some((settings, weights)) => {
            let taps: BTreeSet<String> = rows.iter().flat_map(Row::teacher_taps).collect();
            let taps = taps.into_iter().collect();
            let origin = Origin {
                recipe,
                teacher: settings,
                weights: &weights,
                data,
                normalization: &loaders.normalization,
                compute: &context.compute,
                seed,
            };
            let cache = recipe.cache.as_ref().zip(layout);
            let cache = cache.map(|(settings, layout)| TeacherCache::open(settings, layout, &origin));
            let cache = cache.transpose()?;
            Some(build_teacher(recipe, settings, weights, data, loaders, taps, cache, &context.compute)?)
        }
        None => None,
    };
    let (epochs, rewind_factor) = (recipe.train.epochs, recipe.train.rewind_factor);
    let cohort = Cohort { loaders, data, epochs, seed, teacher: false, rewind_factor };
    let (trained, rows) = train_rows(&cohort, rows, teacher, &mut keeper, context)?;
    save_weights(&cohort, &rows, &trained, &recipe.name, context)?;
    results.extend(trained);
    for result in &mut results {
        result.profile.clone_from(&recipe.name);
        result.title.clone_from(&recipe.title);
        result.description.clone_from(&recipe.description);
        if let Some(row) = recipe.rows.iter().find(|r| r.id == result.row) {
            result.described_by(row, recipe);
        }
    }
    Ok(results)
}

/// What all rows of a cohort share.
pub(super) struct Cohort<'a> {
    pub loaders: &'a Loaders,
    pub data: &'a Dataset,
    pub epochs: usize,
    pub seed: u64,
    /// Whether this is the teacher's own training.
    pub teacher: bool,
    /// Factor of the learning rate of a row that is taken back.
    pub rewind_factor: f64,
}

/// Writes the weights of trained rows.
fn save_weights(
    cohort: &Cohort<'_>,
    rows: &[Row],
    results: &[RowResult],
    run: &str,
    context: &Context<'_>,
) -> Result<()> {
    for (row, result) in rows.iter().zip(results) {
        let metadata = cohort.loaders.trained(result, run, cohort.data);
        let dict = row.network.state_dict()?;
        match (&context.last, rows, &context.weights) {
            (Some(file), [_], _) => checkpoint::save(file, &dict, &metadata)?,
            (_, _, Some(folder)) => {
                let file = folder.join(format!("{}-{}.safetensors", row.recipe.id, cohort.seed));
                checkpoint::save(&file, &dict, &metadata)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Trains `rows` to the end, from the start or from a checkpoint of this cohort.
pub(super) fn train_rows(
    cohort: &Cohort<'_>,
    mut rows: Vec<Row>,
    mut teacher: Option<Teacher>,
    keeper: &mut Option<Keeper>,
    context: &mut Context<'_>,
) -> Result<(Vec<RowResult>, Vec<Row>)> {
    let Cohort { loaders, data, epochs, seed, .. } = *cohort;
    let batches = loaders.train.batches();
    let ids: Vec<String> = rows.iter().map(|r| r.recipe.id.clone()).collect();
    let mut results: Vec<RowResult> =
        rows.iter().map(|r| RowResult::new(&r.recipe, seed, epochs, data)).collect();
    results.iter_mut().for_each(|r| r.host.clone_from(&context.host));
    let mut next = Place { teacher: cohort.teacher, epoch: 1, batch: 0, done: 0 };
    match context.resume.take_if(|s| s.header.place.teacher == cohort.teacher) {
        Some(snapshot) => {
            restore(&snapshot, &mut rows, &mut results)?;
            next = snapshot.header.place;
            let Place { epoch, batch, .. } = next;
            context.sink.event(&Event::Resumed { rows: ids.clone(), epochs, batches, seed, epoch, batch })?;
        }
        None => {
            let images = loaders.train.split().len();
            context.sink.event(&Event::Started { rows: ids.clone(), epochs, batches, images, seed })?;
            // From here on the teacher's own training is over, whatever happens.
            if let Some(keeper) = keeper.as_mut().filter(|_| !cohort.teacher) {
                keeper.save_now(next, &rows, &results, context)?;
            }
        }
    }
    rewind::needs_checkpoints(&rows, keeper.as_ref())?;
    let mut recording = Recording::new(loaders, &mut rows, teacher.as_mut(), context)?;
    'epochs: while next.epoch <= epochs && rows.iter().any(|r| r.life != Life::Ended) {
        let epoch = next.epoch;
        let start = Place { batch: 0, done: (epoch - 1) as u64 * batches as u64, ..next };
        if let Some(keeper) = keeper.as_mut().filter(|_| rewind::wanted(&rows)) {
            if next.batch == 0 { keeper.pin(start, &rows, &results, context)? } else { keeper.keep(start) }
        }
        let _span = tracing::debug_span!("epoch", epoch).entered();
        // A recorded step makes its own batches.
        let mut stream =
            recording.is_none().then(|| loaders.train.epoch(epoch as u32, next.batch)).into_iter().flatten();
        for batch in next.batch..batches {
            let at =
                Position { teacher: cohort.teacher, seed, epoch, step: next.done, batch, batches, epochs };
            if let Some(recording) = &mut recording {
                let images = recording.step(&mut rows, teacher.as_mut(), &loaders.train, at)?;
                next = Place { batch: batch + 1, done: next.done + 1, ..next };
                let saves = keeper.as_ref().is_some_and(|k| k.will_save(None));
                if saves || recording.is_due(batch + 1, batches) {
                    recording.look(&mut rows, &mut results, at, context)?;
                }
                context.sink.event(&Event::Batch { epoch, batch, images, wait_s: 0.0 })?;
                let stopped = context.stop.load(Ordering::Relaxed);
                if stopped {
                    recording.look(&mut rows, &mut results, at, context)?;
                }
                if stopped || saves {
                    recording.bring_home(&mut rows)?;
                }
                if stopped {
                    return Err(interrupted(next, &rows, &results, keeper, context));
                }
                if let Some(keeper) = keeper {
                    keeper.tick(None, next, &rows, &results, context)?;
                }
                continue;
            }
            let waiting = Instant::now();
            let Some(images) = stream.next() else { break };
            let (images, wait_s) = (images?, waiting.elapsed().as_secs_f64());
            results.iter_mut().for_each(|r| r.waited_seconds += wait_s);
            let back = batch_of_all(&mut rows, &mut results, teacher.as_mut(), &images, at, context)?;
            if let Some(back) = back {
                let (row, bad) = (&rows[back.row], &back.bad);
                if rewind::exhausted(&results[back.row]) {
                    let tried = "The row was taken back too many times";
                    return Err(give_up(
                        row,
                        bad,
                        &images,
                        teacher.as_ref(),
                        at,
                        Some(tried.to_owned()),
                        context,
                    ));
                }
                if let Some(keeper) = keeper {
                    rewind::rewind(
                        &mut rows,
                        &mut results,
                        &back,
                        (start, at.step),
                        cohort.rewind_factor,
                        keeper,
                        context,
                    )?;
                }
                // The epoch's checkpoint is written again there: a run that is resumed must not go wrong in the same way.
                next = start;
                continue 'epochs;
            }
            if context.probe.as_ref().is_some_and(|p| !p.reports.is_empty()) {
                return Err(Error::Interrupted { epoch, step: at.step, saved: None });
            }
            context.sink.event(&Event::Batch { epoch, batch, images: images.labels.len(), wait_s })?;
            next = Place { batch: batch + 1, done: next.done + 1, ..next };
            if context.stop.load(Ordering::Relaxed) {
                return Err(interrupted(next, &rows, &results, keeper, context));
            }
            if let Some(keeper) = keeper {
                keeper.tick(None, next, &rows, &results, context)?;
            }
        }
        if rows.iter().all(|r| r.life == Life::Ended) {
            break;
        }
        let evaluated = finish_epoch(&mut rows, &mut results, loaders, epoch, recording.as_mut(), context)?;
        let saves = keeper.as_ref().is_some_and(|k| k.will_save(Some(epoch)));
        if let Some(recording) = recording.as_ref().filter(|_| saves || !evaluated) {
            recording.bring_home(&mut rows)?;
        }
        if !evaluated {
            return Err(interrupted(next, &rows, &results, keeper, context));
        }
        next = Place { epoch: epoch + 1, batch: 0, ..next };
        if let Some(keeper) = keeper {
            keeper.tick(Some(epoch), next, &rows, &results, context)?;
        }
    }
    context.sink.event(&Event::Finished { rows: ids })?;
    results.iter_mut().for_each(RowResult::finish);
    Ok((results, rows))
}

/// Saves what there is and says where the run stopped.
fn interrupted(
    next: Place,
    rows: &[Row],
    results: &[RowResult],
    keeper: &mut Option<Keeper>,
    context: &mut Context<'_>,
) -> Error {
    let saved = match keeper {
        Some(keeper) => match keeper.save_now(next, rows, results, context) {
            Ok(saved) => saved,
            Err(e) => return e,
        },
        None => None,
    };
    Error::Interrupted { epoch: next.epoch, step: next.done.saturating_sub(1), saved }
}
