//! When a cohort's state goes to the disk.

use super::row::Row;
use super::train::Context;
use crate::checkpoint::{Header, Identity, Place, Since, Snapshot, Store, Writer, decode};
use crate::record::RowResult;
use crate::{CheckpointRecipe, Error, Event, Result};
use std::path::PathBuf;
use std::time::Instant;

/// Where and when checkpoints are written. Nothing here changes a run's results.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// Folder for the files.
    pub folder: PathBuf,
    /// When, how many are kept, and what happens if one cannot be written.
    pub settings: CheckpointRecipe,
    /// What a run must agree in to go on with one.
    pub identity: Identity,
}

/// Hands a cohort's state to the writer when the policy says so.
pub(super) struct Keeper {
    store: Store,
    settings: CheckpointRecipe,
    identity: Identity,
    writer: Writer,
    last: Instant,
    steps: u64,
    /// Batches done at the beginning of the epoch that a row may be taken back to.
    pinned: Option<u64>,
}

impl Keeper {
    pub fn new(checkpoints: &Checkpoints) -> Result<Self> {
        let Checkpoints { folder, settings, identity } = checkpoints;
        let store = Store::new(folder, identity.seed);
        Ok(Self {
            writer: Writer::new(store.clone(), settings.policy)?,
            store,
            settings: *settings,
            identity: identity.clone(),
            last: Instant::now(),
            steps: 0,
            pinned: None,
        })
    }

    /// After a batch, or after the evaluation of epoch `epoch_done`: `place` is what comes next.
    pub fn tick(
        &mut self,
        epoch_done: Option<usize>,
        place: Place,
        rows: &[Row],
        results: &[RowResult],
        context: &mut Context<'_>,
    ) -> Result<()> {
        self.steps += u64::from(epoch_done.is_none());
        self.tell(context)?;
        if self.is_due(epoch_done) {
            self.save(place, rows, results, context, false)?;
        }
        Ok(())
    }

    /// Whether a checkpoint would be written now.
    fn is_due(&mut self, epoch_done: Option<usize>) -> bool {
        let since = Since { epoch_done, steps: self.steps, seconds: self.last.elapsed().as_secs_f64() };
        self.settings.policy.due(&since) && self.writer.is_idle()
    }

    /// Whether [`Keeper::tick`] will write a checkpoint, or may.
    pub fn will_save(&self, epoch_done: Option<usize>) -> bool {
        let ahead = Since {
            epoch_done,
            steps: self.steps + u64::from(epoch_done.is_none()),
            // The clock goes on until it is asked.
            seconds: self.last.elapsed().as_secs_f64() + 1.0,
        };
        self.settings.policy.due(&ahead)
    }

    /// Writes now and waits until it is on the disk: the run is about to end. The file, if it could be written.
    pub fn save_now(
        &mut self,
        place: Place,
        rows: &[Row],
        results: &[RowResult],
        context: &mut Context<'_>,
    ) -> Result<Option<PathBuf>> {
        self.save(place, rows, results, context, true)?;
        self.tell(context)?;
        Ok(Some(self.store.path(place)).filter(|p| p.is_file()))
    }

    /// Writes the beginning of an epoch, to which rows may be taken back, and keeps it until the next one's.
    pub fn pin(
        &mut self,
        place: Place,
        rows: &[Row],
        results: &[RowResult],
        context: &mut Context<'_>,
    ) -> Result<()> {
        self.pinned = Some(place.done);
        self.save_now(place, rows, results, context)?;
        Ok(())
    }

    /// Keeps the beginning of the epoch that a resumed run is in.
    pub fn keep(&mut self, place: Place) {
        self.pinned = Some(place.done);
    }

    /// The checkpoint at `place`, read back from the disk.
    pub fn load(&mut self, place: Place, context: &mut Context<'_>) -> Result<Snapshot> {
        let outcomes = self.writer.wait();
        self.told(outcomes, context)?;
        decode(&self.store.path(place))
    }

    fn save(
        &mut self,
        place: Place,
        rows: &[Row],
        results: &[RowResult],
        context: &mut Context<'_>,
        wait: bool,
    ) -> Result<()> {
        let log = context.sink.mark()?;
        let mut tensors = Vec::new();
        let states = rows.iter().zip(results).map(|(row, result)| row.snapshot(result, &mut tensors));
        let header = Header {
            place,
            identity: self.identity.clone(),
            revision: context.host.as_ref().and_then(|h| h.revision.clone()),
            log_bytes: log.as_ref().map(|l| l.bytes),
            rows: states.collect::<Result<_>>()?,
        };
        self.writer.offer(Snapshot { header, tensors }, log.map(|l| l.file), self.pinned, wait);
        if wait {
            let outcomes = self.writer.wait();
            self.told(outcomes, context)?;
        }
        (self.last, self.steps) = (Instant::now(), 0);
        Ok(())
    }

    /// Tells what became of earlier checkpoints. One that could not be written ends the run only if that was asked for: an
    /// older one is still there.
    fn tell(&mut self, context: &mut Context<'_>) -> Result<()> {
        let outcomes = self.writer.outcomes();
        self.told(outcomes, context)
    }

    fn told(&self, outcomes: Vec<Result<PathBuf>>, context: &mut Context<'_>) -> Result<()> {
        for outcome in outcomes {
            let event = match outcome {
                Ok(path) => Event::Checkpoint { path: Some(path), error: None },
                Err(e) if self.settings.stop_on_failure => return Err(e),
                Err(e) => Event::Checkpoint { path: None, error: Some(e.to_string()) },
            };
            context.sink.event(&event)?;
        }
        Ok(())
    }
}

/// Takes rows and results to where a checkpoint was made.
pub(super) fn restore(snapshot: &Snapshot, rows: &mut [Row], results: &mut [RowResult]) -> Result<()> {
    let states = &snapshot.header.rows;
    let ids: Vec<&str> = states.iter().map(|s| s.id.as_str()).collect();
    if !rows.iter().map(|r| r.recipe.id.as_str()).eq(ids.iter().copied()) {
        return Err(Error::Invalid(format!("the checkpoint has other rows: {}", ids.join(", "))));
    }
    for ((state, row), result) in states.iter().zip(rows).zip(results) {
        row.restore(state, &snapshot.tensors)?;
        let host = result.host.take();
        *result = state.result.clone();
        result.host = host;
    }
    Ok(())
}
