//! Results from several places as one set, if they belong together.

use anyhow::{Result, bail};
use dkd_trainer::record::RowResult;

/// Results without repetitions.
///
/// The same result may come from several folders; one that is incomplete gives way to any other. What must not be averaged or shown side by side is refused: two different
/// results of one row and seed; seeds of one row with different settings; rows of one table on different images.
pub fn merge(results: Vec<RowResult>) -> Result<Vec<RowResult>> {
    let mut merged: Vec<RowResult> = Vec::with_capacity(results.len());
    for result in results {
        let name = format!("{}, row `{}`", result.profile, result.row);
        // Unknown is no difference.
        let differs = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        let others = |r: &&RowResult| differs(&r.data.sha256, &result.data.sha256);
        if let Some(other) = merged.iter().filter(|r| r.profile == result.profile).find(others) {
            bail!(
                "{name}, was measured on {} ({}…), but row `{}` of the same table on {} ({}…): report them separately",
                kind(&result),
                shorten(&result.data.sha256),
                other.row,
                kind(other),
                shorten(&other.data.sha256)
            );
        }
        let same_row = |r: &&RowResult| r.profile == result.profile && r.row == result.row;
        if let Some(at) = merged.iter().position(|r| same_row(&r) && r.seed == result.seed) {
            let other = &merged[at];
            if other.incomplete && !result.incomplete {
                merged[at] = result;
                continue;
            }
            if result.incomplete && !other.incomplete {
                continue;
            }
            // As text: a loss that is NaN is not equal to itself.
            if serde_json::to_string(other)? != serde_json::to_string(&result)? {
                bail!(
                    "{name}, seed {}: there are two different results; remove one of the files",
                    result.seed
                );
            }
            continue;
        }
        if let Some(other) = merged.iter().filter(same_row).find(|r| {
            differs(&r.settings_sha256, &result.settings_sha256) || r.planned_epochs != result.planned_epochs
        }) {
            bail!(
                "{name}: seeds {} and {} were trained with different settings; they cannot be averaged",
                other.seed,
                result.seed
            );
        }
        merged.push(result);
    }
    Ok(merged)
}

fn kind(result: &RowResult) -> &'static str {
    if result.data.synthetic { "generated images" } else { "real images" }
}

fn shorten(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
