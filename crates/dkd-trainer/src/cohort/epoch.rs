//! The end of an epoch: evaluation.

use super::loaders::Loaders;
use super::recorded::Recording;
use super::row::{Life, Row};
use super::train::Context;
use crate::evaluate::evaluate_until;
use crate::network::Network;
use crate::record::{EpochPoint, RowResult};
use crate::{Event, Metrics, Result};
use dkd_datasets::Loader;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn measure(
    living: &mut [(&mut Row, &mut RowResult)],
    loader: &Loader,
    recording: Option<(&mut Recording, bool)>,
    stop: &AtomicBool,
) -> Result<Option<Vec<Metrics>>> {
    if let Some((recording, test)) = recording {
        let mut rows: Vec<&mut Row> = living.iter_mut().map(|(row, _)| &mut **row).collect();
        return Ok(Some(recording.evaluate(&mut rows, loader, test)?));
    }
    let mut networks: Vec<&mut dyn Network> = Vec::with_capacity(living.len());
    for (row, _) in living {
        networks.push(&mut *row.network);
    }
    evaluate_until(&mut networks, loader, stop)
}

/// Evaluates all rows that are not ended, and tells; `false` if it was stopped, and nothing has changed.
#[tracing::instrument(level = "debug", skip_all, fields(epoch))]
pub(super) fn finish_epoch(
    rows: &mut [Row],
    results: &mut [RowResult],
    loaders: &Loaders,
    epoch: usize,
    mut recording: Option<&mut Recording>,
    context: &mut Context<'_>,
) -> Result<bool> {
    let start = Instant::now();
    let mut living: Vec<(&mut Row, &mut RowResult)> =
        rows.iter_mut().zip(results).filter(|(r, _)| r.life != Life::Ended).collect();
    let Some(test) =
        measure(&mut living, &loaders.test, recording.as_deref_mut().map(|r| (r, true)), context.stop)?
    else {
        return Ok(false);
    };
    let validation = match &loaders.validation {
        Some(loader) => match measure(&mut living, loader, recording.map(|r| (r, false)), context.stop)? {
            Some(metrics) => Some(metrics),
            None => return Ok(false),
        },
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
    Ok(true)
}
