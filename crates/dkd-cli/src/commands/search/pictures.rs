//! The pictures of a search.

use super::tables::{metric_text, setting};
use crate::chart::{Axis, Line, Plot, Points, lines, points};
use crate::page::Figure;
use anyhow::Result;
use dkd_trainer::search::{Domain, Metric, Scale, Search, State, Trial, number, standing};

/// What counts, against each key.
pub fn keys(search: &Search, state: &State) -> Result<Figure> {
    let metric = state.about.metric;
    let trials = standing(&state.trials, metric);
    let point = |key: &str, domain: &Domain, trial: &Trial| -> Option<(f64, f64)> {
        let value = trial.values.get(key)?;
        let x = match domain {
            Domain::Values(_) => domain.place(value)?,
            Domain::Range(_) => number(value)?,
        };
        Some((x, trial.measured(metric)?))
    };
    let panels: Vec<Points> = search
        .plan
        .space
        .keys()
        .iter()
        .map(|(key, domain)| Points {
            title: key.clone(),
            axis: match domain {
                Domain::Values(values) => Axis::Names(values.iter().map(setting).collect()),
                Domain::Range(range) if range.scale == Scale::Log => Axis::Log,
                Domain::Range(_) => Axis::Linear,
            },
            points: trials.iter().filter_map(|t| point(key, domain, t)).collect(),
            best: trials.first().and_then(|t| point(key, domain, t)),
        })
        .collect();
    let caption =
        "Every trial with its last result, against each key; the best is ringed. What diverged is not drawn.";
    Ok(Figure::new("keys.svg".to_owned(), points(&panels, metric_text(metric))?, caption))
}

/// The best result so far, training by training.
pub fn progress(state: &State) -> Result<Figure> {
    let metric = state.about.metric;
    let mut best: Option<f64> = None;
    let (mut steps, mut dots) = (Vec::new(), Vec::new());
    for (trial, x) in state.trials.iter().zip(1_u32..) {
        let Some(value) = trial.measured(metric) else { continue };
        let at = f64::from(x);
        dots.push((at, value));
        let better = |old: f64| if metric == Metric::Top1 { old.max(value) } else { old.min(value) };
        // A step: the old best up to here, the new one from here on.
        steps.extend(best.map(|old| (at, old)));
        let now = best.map_or(value, better);
        steps.push((at, now));
        best = Some(now);
    }
    let last = state.trials.len().max(2) as f64;
    steps.extend(best.map(|now| (last, now)));
    let values = || dots.iter().map(|d| d.1);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = if high > low { 0.06 * (high - low) } else { 1.0 };
    let y_range = if low.is_finite() { (low - room, high + room) } else { (0.0, 1.0) };
    let svg = lines(&Plot {
        x: "training",
        y: metric_text(metric),
        x_range: (1.0, last),
        y_range,
        lines: vec![Line { label: "best so far".to_owned(), points: steps, dots }],
        dots: Some("trials"),
    })?;
    Ok(Figure::new(
        "progress.svg".to_owned(),
        svg,
        "The best result so far, and every trial's, rung by rung.",
    ))
}
