//! Back to the beginning of the epoch, with a lower learning rate for the row that needs it.

use super::batch::{Back, MAX_REWINDS};
use super::keeper::{Keeper, restore};
use super::row::Row;
use super::train::Context;
use crate::checkpoint::Place;
use crate::record::{Rewind, RowResult};
use crate::{Error, Event, NonFinite, Result};

/// Whether a row may have to be taken back.
pub(super) fn wanted(rows: &[Row]) -> bool {
    rows.iter().any(|r| r.recipe.nonfinite == NonFinite::Rewind)
}

/// Whether a row was taken back as often as it may be.
pub(super) fn exhausted(result: &RowResult) -> bool {
    result.rewinds.len() >= MAX_REWINDS
}

/// Takes all rows back to `place`, where the epoch began. The log loses the lines of what is taken back, so that it reads as
/// what led to the result.
pub(super) fn rewind(
    rows: &mut [Row],
    results: &mut [RowResult],
    back: &Back,
    (place, step): (Place, u64),
    factor: f64,
    keeper: &mut Keeper,
    context: &mut Context<'_>,
) -> Result<()> {
    let snapshot = keeper.load(place, context)?;
    // How often each row was taken back, and the time spent, is not taken back.
    let kept: Vec<_> = rows
        .iter()
        .zip(results.iter())
        .map(|(r, p)| (r.lr_factor, p.rewinds.clone(), p.seconds, p.waited_seconds))
        .collect();
    restore(&snapshot, rows, results)?;
    for ((row, result), (lr_factor, rewinds, seconds, waited)) in
        rows.iter_mut().zip(results.iter_mut()).zip(kept)
    {
        (row.lr_factor, result.rewinds, result.seconds, result.waited_seconds) =
            (lr_factor, rewinds, seconds, waited);
    }
    let (row, result) = (&mut rows[back.row], &mut results[back.row]);
    row.lr_factor *= factor;
    let (lr_factor, term) = (row.lr_factor, back.bad.term.clone());
    result.rewinds.push(Rewind { epoch: place.epoch, step, term: term.clone(), lr_factor });
    if let Some(bytes) = snapshot.header.log_bytes {
        context.sink.rewind(bytes)?;
    }
    let row = row.recipe.id.clone();
    context.sink.event(&Event::Rewound { row, epoch: place.epoch, step, term, lr_factor })
}

/// Without checkpoints there is nothing to go back to.
pub(super) fn needs_checkpoints(rows: &[Row], keeper: Option<&Keeper>) -> Result<()> {
    if wanted(rows) && keeper.is_none() {
        return Err(Error::Invalid(
            "nonfinite = \"rewind\" needs checkpoints to go back to: give the run a folder for them"
                .to_owned(),
        ));
    }
    Ok(())
}
