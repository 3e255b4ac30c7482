//! Points in panels with axes: a number against what it may depend on.

use super::{COLORS, Panels, decimals, fail};
use crate::output::shorten;
use anyhow::Result;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Most marks at an axis, and the longest of their names.
const MARKS: usize = 7;
const MARK: usize = 12;

/// A horizontal axis.
#[derive(Clone)]
pub enum Axis {
    /// Numbers; equal differences are equally long.
    Linear,
    /// Numbers above 0; equal ratios are equally long.
    Log,
    /// Names; x counts them from 0.
    Names(Vec<String>),
}

/// One panel.
pub struct Points {
    /// Title.
    pub title: String,
    /// What x means.
    pub axis: Axis,
    /// From the first to the last.
    pub points: Vec<(f64, f64)>,
    /// A point to stand out.
    pub best: Option<(f64, f64)>,
}

impl Axis {
    /// Where a value lies.
    fn place(&self, x: f64) -> f64 {
        if matches!(self, Self::Log) { x.ln() } else { x }
    }

    /// The marks between `low` and `high`, which are places: each with its place and what stands there.
    fn marks(&self, low: f64, high: f64) -> Vec<(f64, String)> {
        match self {
            Self::Names(names) => {
                names.iter().enumerate().map(|(i, n)| (i as f64, shorten(n, MARK))).collect()
            }
            Self::Linear => round_numbers(low, high).into_iter().map(|v| (v, plain(v))).collect(),
            Self::Log => {
                let (from, to) = (low.exp(), high.exp());
                let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
                let all = |factors: &[f64]| -> Vec<f64> {
                    let of = |k: i32| factors.iter().map(move |f| f * 10_f64.powi(k));
                    powers.clone().flat_map(of).filter(|v| (from..=to).contains(v)).collect()
                };
                let many = all(&[1.0, 2.0, 5.0]);
                let few = if many.len() > MARKS { all(&[1.0]) } else { many };
                // A range too short for any of these.
                let marks = if few.len() < 2 { round_numbers(from, to) } else { few };
                marks.into_iter().filter(|v| *v > 0.0).map(|v| (v.ln(), plain(v))).collect()
            }
        }
    }
}

/// An axis with marks of its own. (The library's `WithKeyPoints` cannot be formatted over an axis of f64.)
struct Marked {
    axis: RangedCoordf64,
    marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.axis.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.axis.range()
    }
}

/// Numbers with few digits between two others.
fn round_numbers(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / (MARKS - 1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    // A step that is too short by rounding alone is long enough.
    let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| *s >= 0.999 * rough);
    let Some(step) = step.filter(|s| s.is_finite() && *s > 0.0) else { return vec![low] };
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).take(MARKS + 1).map(|i| i as f64 * step).collect()
}

/// A number in three digits or as many as it needs.
fn plain(value: f64) -> String {
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    match rounded.abs() {
        0.0 => "0".to_owned(),
        0.001..100_000.0 => format!("{rounded}"),
        _ => format!("{rounded:e}"),
    }
}

/// The ends of an axis with a little room beside the outermost values.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match high - low {
        length if length > 0.0 => (low - 0.06 * length, high + 0.06 * length),
        0.0 => (low - 1.0, high + 1.0),
        _ => (0.0, 1.0),
    }
}

/// Draws all panels with the same vertical axis, whose name is `y`.
pub fn points(panels: &[Points], y: &str) -> Result<String> {
    let mut svg = String::new();
    {
        let titles: Vec<&str> = panels.iter().map(|p| p.title.as_str()).collect();
        let picture = Panels::new(&mut svg, &titles, 0)?;
        let (bottom, top) = range(panels.iter().flat_map(|p| &p.points).map(|p| p.1));
        let digits = decimals(top - bottom);
        for (panel, area) in panels.iter().zip(&picture.squares) {
            let place = |p: &(f64, f64)| (panel.axis.place(p.0), p.1);
            let (left, right) = match &panel.axis {
                // Also names of which there is no point.
                Axis::Names(names) => (-0.5, names.len() as f64 - 0.5),
                _ => range(panel.points.iter().map(|p| place(p).0)),
            };
            let marks = panel.axis.marks(left, right);
            let mut chart = ChartBuilder::on(area)
                .margin_right(16)
                .margin_left(4)
                .margin_top(4)
                .margin_bottom(4)
                .x_label_area_size(24)
                .y_label_area_size(50)
                .build_cartesian_2d(
                    Marked { axis: (left..right).into(), marks: marks.iter().map(|m| m.0).collect() },
                    bottom..top,
                )
                .map_err(fail)?;
            let name = |v: &f64| {
                let mark = marks.iter().find(|m| m.0 == *v);
                mark.map_or_else(String::new, |m| m.1.clone())
            };
            chart
                .configure_mesh()
                .y_desc(y)
                .y_labels(6)
                .light_line_style(WHITE)
                .x_label_formatter(&name)
                .y_label_formatter(&|v| format!("{v:.digits$}"))
                .draw()
                .map_err(fail)?;
            let finite = panel.points.iter().map(place).filter(|p| p.0.is_finite() && p.1.is_finite());
            let dot = |p| Circle::new(p, 3, COLORS[0].mix(0.6).filled());
            chart.draw_series(finite.map(dot)).map_err(fail)?;
            let best = panel.best.iter().map(place).map(|p| Circle::new(p, 5, COLORS[3].stroke_width(2)));
            chart.draw_series(best).map_err(fail)?;
        }
        picture.done()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis, low: f64, high: f64) -> Vec<String> {
        axis.marks(low, high).into_iter().map(|m| m.1).collect()
    }

    #[test]
    fn marks_are_round_numbers() {
        let log = |low: f64, high: f64| names(&Axis::Log, low.ln(), high.ln());
        assert_eq!(log(0.009, 0.11), ["0.01", "0.02", "0.05", "0.1"]);
        assert_eq!(log(0.9e-6, 1.1).len(), 7);
        assert_eq!(log(0.061, 0.079), ["0.065", "0.07", "0.075"]);
        assert_eq!(names(&Axis::Linear, -0.1, 1.1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(names(&Axis::Linear, 1.0, 1.0), ["1"]);
        assert_eq!(names(&Axis::Names(vec!["a".to_owned()]), -0.5, 0.5), ["a"]);
        assert_eq!([0.000_05, 250_000.0, 0.125].map(plain), ["5e-5", "2.5e5", "0.125"]);
    }

    #[test]
    fn a_picture_is_whole_whatever_the_points() {
        let panel = |axis: Axis, points: Vec<(f64, f64)>| Points {
            title: "a <b>".to_owned(),
            axis,
            best: points.first().copied(),
            points,
        };
        let svg = points(
            &[
                panel(Axis::Log, vec![(0.01, 50.0), (0.1, f64::NAN), (0.05, 60.0)]),
                panel(Axis::Linear, vec![(2.0, 50.0)]),
                panel(Axis::Names(vec!["x".to_owned(), "y".to_owned()]), vec![(1.0, 55.0)]),
                panel(Axis::Linear, Vec::new()),
            ],
            "accuracy, %",
        )
        .unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!((svg.matches("a &lt;b&gt;").count(), svg.contains("NaN")), (4, false), "{svg}");
        // Five points, three of which stand out; the one without a value is not drawn.
        assert_eq!(svg.matches("<circle").count(), 4 + 3, "{svg}");
    }
}
