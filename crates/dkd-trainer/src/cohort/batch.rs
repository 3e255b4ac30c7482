//! One batch for all rows, and what happens when a number is not finite.

use super::row::{Bad, Life, Position, Row};
use super::teacher::Teacher;
use super::train::Context;
use crate::debug::Origin;
use crate::record::{Diverged, RowResult};
use crate::{Error, Event, NonFinite, Result};
use dkd_datasets::Batch as Images;
use std::time::Instant;

/// Batches that a row may leave out one after the other.
const MAX_SKIPPED: usize = 100;

/// Times that a row may be taken back.
pub(super) const MAX_REWINDS: usize = 8;

/// A row that asks to be taken back to the beginning of the epoch.
pub(super) struct Back {
    /// Its place among the rows.
    pub row: usize,
    pub bad: Bad,
}

/// The teacher's answers to a batch, then a step of every row; the first row that is to be taken back ends it.
pub(super) fn batch_of_all(
    rows: &mut [Row],
    results: &mut [RowResult],
    mut teacher: Option<&mut Teacher>,
    images: &Images,
    at: Position,
    context: &mut Context<'_>,
) -> Result<Option<Back>> {
    let pupils = rows.iter().filter(|r| r.life == Life::Alive && r.recipe.needs_teacher()).count();
    let views = |r: &Row| if r.life == Life::Alive && r.recipe.needs_teacher() { r.recipe.views } else { 0 };
    let views = rows.iter().map(views).max().unwrap_or(0);
    let mut teaching_s = 0.0;
    if let Some(teacher) = teacher.as_mut().filter(|_| pupils > 0) {
        let start = Instant::now();
        teacher.answer(images, views, at)?;
        teaching_s = start.elapsed().as_secs_f64() / pupils as f64;
    }
    let probed = context.probe.as_ref().is_some_and(|p| p.step == at.step && p.teacher == at.teacher);
    for (i, (row, result)) in rows.iter_mut().zip(results).enumerate() {
        match row.life {
            Life::Alive if probed => examine(row, images, teacher.as_deref(), at, context)?,
            Life::Alive => {
                result.seconds += if row.recipe.needs_teacher() { teaching_s } else { 0.0 };
                if let Some(bad) = step_row(row, result, images, teacher.as_deref(), at, context)? {
                    return Ok(Some(Back { row: i, bad }));
                }
            }
            Life::Nan => row.step_nan(images),
            Life::Ended => {}
        }
    }
    Ok(None)
}

/// Looks into a step in the place of making it.
fn examine(
    row: &mut Row,
    images: &Images,
    teacher: Option<&Teacher>,
    at: Position,
    context: &mut Context<'_>,
) -> Result<()> {
    let report = row.examine(images, teacher.and_then(|t| t.answers(&row.recipe)), at)?;
    if let Some(probe) = &mut context.probe {
        probe.reports.push(report);
    }
    Ok(())
}

/// One step of one row, its events, and what a number that is not finite means. What is returned asks to be taken back.
#[tracing::instrument(level = "trace", skip_all, fields(row = row.recipe.id, step = at.step))]
fn step_row(
    row: &mut Row,
    result: &mut RowResult,
    images: &Images,
    teacher: Option<&Teacher>,
    at: Position,
    context: &mut Context<'_>,
) -> Result<Option<Bad>> {
    let start = Instant::now();
    let outcome = row.step(images, teacher.and_then(|t| t.answers(&row.recipe)), at)?;
    result.seconds += start.elapsed().as_secs_f64();
    let id = row.recipe.id.clone();
    let (epoch, step) = (at.epoch, at.step);
    if let Some(bad) = outcome.bad {
        let policy = row.recipe.nonfinite;
        match policy {
            NonFinite::Stop => return Err(give_up(row, &bad, images, teacher, at, None, context)),
            NonFinite::Rewind => return Ok(Some(bad)),
            NonFinite::Skip => {
                if row.skipped_in_a_row > MAX_SKIPPED {
                    let tried = format!("The {MAX_SKIPPED} batches before were left out for the same reason");
                    return Err(give_up(row, &bad, images, teacher, at, Some(tried), context));
                }
                result.skipped += 1;
                context.sink.event(&Event::Skipped { row: id, epoch, step, term: bad.term })?;
                return Ok(None);
            }
            NonFinite::Mark | NonFinite::Continue if result.diverged.is_none() => {
                let goes_on = policy == NonFinite::Continue;
                // After the update everything is NaN, and nothing tells where it began.
                let origin =
                    if goes_on { String::new() } else { origin(row, &bad, images, teacher, at)?.place };
                let term = bad.term;
                context.sink.event(&Event::Diverged {
                    row: id.clone(),
                    epoch,
                    step,
                    term: term.clone(),
                    goes_on,
                })?;
                result.diverged = Some(Diverged { epoch, step, term, origin });
                if !goes_on {
                    row.life = Life::Ended;
                    return Ok(None);
                }
            }
            NonFinite::Mark | NonFinite::Continue => {}
        }
    }
    context.sink.event(&Event::Step {
        row: id,
        epoch,
        step,
        images: images.labels.len(),
        lr: outcome.lr,
        loss: outcome.loss,
        terms: outcome.terms,
        gradient_norm: outcome.gradient_norm,
    })?;
    Ok(None)
}

/// Tells that the run ends with a row, and gives the error, with the place where the numbers went wrong.
pub(super) fn give_up(
    row: &Row,
    bad: &Bad,
    images: &Images,
    teacher: Option<&Teacher>,
    at: Position,
    tried: Option<String>,
    context: &mut Context<'_>,
) -> Error {
    let (epoch, step, term) = (at.epoch, at.step, bad.term.clone());
    let id = row.recipe.id.clone();
    let event = Event::Diverged { row: id.clone(), epoch, step, term: term.clone(), goes_on: false };
    let told = context.sink.event(&event);
    match told.and_then(|()| origin(row, bad, images, teacher, at)) {
        Err(e) => e,
        Ok(origin) => {
            Error::NonFinite { row: id, term, value: bad.value, epoch, step, origin: Box::new(origin), tried }
        }
    }
}

fn origin(row: &Row, bad: &Bad, images: &Images, teacher: Option<&Teacher>, at: Position) -> Result<Origin> {
    row.origin(images, bad.view, teacher.and_then(|t| t.answers(&row.recipe)), at, bad.is_gradient())
}
