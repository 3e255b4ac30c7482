//! Rows beside published logs, after the same epochs.

use super::compare::{mean_std, pretty};
use super::summary::{Profile, Row};
use dkd_trainer::record::RowResult;

/// Heads of the columns.
pub const HEAD: [&str; 5] = ["row", "epoch", "accuracy", "log", "difference"];

/// What a difference means, in lines for a terminal.
pub const REMARKS: [&str; 3] = [
    "Test accuracy after an epoch, beside that of a published log after the same one.",
    "A log is one run, and single epochs jump by points until the rate falls.",
    "Epochs are left out from where the learning rates are no longer the same.",
];

/// A row and its log after one epoch.
#[derive(Clone, Debug)]
pub struct Track {
    epoch: usize,
    /// Of every seed that has come so far.
    values: Vec<f64>,
    log: f64,
}

/// The epochs that some of these seeds of a row have reached and that may be compared with the row's log; of a whole curve the
/// first and the last of them, since the picture has the others.
pub fn tracks(seeds: &[&RowResult]) -> Vec<Track> {
    let longest = seeds.iter().map(|r| r.epochs.len()).max().unwrap_or(0);
    let after = |epoch: usize| {
        let both = |r: &&RowResult| Some((r.epochs.get(epoch - 1)?.test.top1, r.logged(epoch)?));
        let both: Vec<(f64, f64)> = seeds.iter().filter_map(both).collect();
        let log = both.first()?.1;
        Some(Track { epoch, values: both.into_iter().map(|(own, _)| own).collect(), log })
    };
    let mut all: Vec<Track> = (1..=longest).filter_map(after).collect();
    let whole = seeds.iter().all(|r| r.log.as_ref().is_none_or(|log| log.points.is_empty()));
    if whole && all.len() > 2 {
        all.drain(1..all.len() - 1);
    }
    all
}

/// A line for each row and epoch that can be compared.
pub fn lines(profile: &Profile) -> Vec<[String; 5]> {
    let of = |row: &Row| row.tracks.iter().map(|track| line(&row.label, track)).collect::<Vec<_>>();
    profile.rows.iter().flat_map(of).collect()
}

fn line(label: &str, track: &Track) -> [String; 5] {
    let difference = mean_std(&track.values).map(|(mean, _)| format!("{:+.2}", mean - track.log));
    [
        label.to_owned(),
        track.epoch.to_string(),
        pretty(&track.values),
        format!("{:.2}", track.log),
        difference.unwrap_or_default(),
    ]
}
