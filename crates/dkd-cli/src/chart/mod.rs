//! Pictures as SVG, for reports and analyses.

mod heatmap;
mod lines;
mod points;
mod reliability;
mod scatter;

pub use heatmap::{Heat, heatmaps};
pub use lines::{Line, Plot, lines};
pub use points::{Axis, Points, points};
pub use reliability::{Reliability, reliability};
pub use scatter::{Scatter, scatters};

use crate::output::shorten;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Pixels of a square panel, and of the strip above it in which its title stands.
const PANEL: u32 = 300;
const TITLE: i32 = 26;

/// Most panels beside each other.
const ACROSS: usize = 3;

/// Longest title of a panel.
const TITLE_CHARS: usize = 40;

/// Pixels from one line of a legend to the next, and the longest name.
const LINE: i32 = 19;
const NAME: usize = 32;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn fail(e: DrawingAreaErrorKind<std::io::Error>) -> anyhow::Error {
    anyhow!("cannot draw a picture: {e}")
}

/// Colours that differ also for colour-blind eyes (Okabe and Ito).
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(153, 119, 0),
];

/// A white picture with panels of equal size in rows, and a strip at its right.
struct Panels<'a> {
    whole: Area<'a>,
    squares: Vec<Area<'a>>,
    strip: Area<'a>,
}

impl<'a> Panels<'a> {
    fn new(svg: &'a mut String, titles: &[&str], strip: u32) -> Result<Self> {
        let columns = titles.len().clamp(1, ACROSS);
        let rows = titles.len().div_ceil(columns).max(1);
        let (width, height) = (columns as u32 * PANEL, rows as u32 * (PANEL + TITLE as u32));
        let whole = SVGBackend::with_string(svg, (width + strip, height)).into_drawing_area();
        whole.fill(&WHITE).map_err(fail)?;
        let (left, right) = whole.split_horizontally(width);
        let mut squares = Vec::new();
        for (area, title) in left.split_evenly((rows, columns)).into_iter().zip(titles) {
            area.draw(&text(&shorten(title, TITLE_CHARS), (12, 8))).map_err(fail)?;
            squares.push(area.split_vertically(TITLE).1);
        }
        Ok(Self { whole, squares, strip: right })
    }

    fn done(self) -> Result<()> {
        self.whole.present().map_err(fail)
    }
}

/// A word in a picture, its upper left corner at `at`.
fn text<'a>(words: &str, at: (i32, i32)) -> Text<'a, (i32, i32), String> {
    Text::new(words.to_owned(), at, ("sans-serif", 13))
}

/// How numbers stand at an axis of this length: with as many decimals as its marks need.
fn decimals(length: f64) -> usize {
    // An axis has about ten marks.
    let exponent = -(length / 10.0).abs().log10().floor();
    if exponent.is_finite() { exponent.clamp(0.0, 9.0) as usize } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_the_decimals_that_they_need() {
        assert_eq!([200.0, 10.0, 5.0, 0.5, 0.0].map(decimals), [0, 0, 1, 2, 0]);
    }

    #[test]
    fn every_picture_is_whole_and_its_words_are_escaped() {
        let name = "a <b>".to_owned();
        let line = Line {
            label: name.clone(),
            points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 9.0)],
            dots: vec![(0.0, 2.0)],
        };
        let plot = Plot {
            x: "epoch",
            y: "loss",
            x_range: (0.0, 2.0),
            y_range: (0.0, 5.0),
            lines: vec![line],
            dots: Some("logs"),
        };
        let matrix = vec![vec![0.0, -0.5], vec![0.5, 0.0]];
        let heat = Heat { title: name.clone(), matrix: &matrix };
        let bins = [(0.25, 0.5, 3), (0.75, 1.0, 1)];
        let bars = Reliability { title: name.clone(), bins: bins.to_vec() };
        let points = vec![[0.0, 0.0], [1.0, 2.0]];
        let scatter = Scatter { title: name.clone(), points: &points };
        let names = [name.clone(), name];
        for (svg, parts) in [
            (lines(&plot).unwrap(), 1),
            (heatmaps(&[heat.clone(), heat], 0.5).unwrap(), 2),
            (reliability(&[bars]).unwrap(), 1),
            (scatters(&[scatter], &[0, 1], &names).unwrap(), 3),
        ] {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert_eq!(svg.matches("a &lt;b&gt;").count(), parts, "{svg}");
            assert!(!svg.contains("<b>") && !svg.contains("NaN"), "{svg}");
        }
    }
}
