//! Accuracy curves as SVG.

use super::summary::Profile;
use crate::output::shorten;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Width of the plot and of the legend beside it, and the height of both.
const PLOT: u32 = 680;
const LEGEND: u32 = 240;
const HEIGHT: u32 = 420;

/// Pixels from one line of the legend to the next, and the longest name.
const LINE: i32 = 19;
const NAME: usize = 32;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn fail(e: DrawingAreaErrorKind<std::io::Error>) -> anyhow::Error {
    anyhow!("cannot draw curves: {e}")
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

/// Test accuracy of every row over the epochs: own curves as lines, published ones as dots.
pub fn curves(profile: &Profile) -> Result<String> {
    let published = |r: &super::summary::Row| -> Vec<f64> {
        r.published.as_ref().filter(|_| !r.synthetic).map(|p| p.curve.clone()).unwrap_or_default()
    };
    let all: Vec<f64> =
        profile.rows.iter().flat_map(|r| r.curve.iter().copied().chain(published(r))).collect();
    let longest =
        profile.rows.iter().map(|r| r.curve.len().max(published(r).len())).max().unwrap_or(1).max(2);
    let (low, high) = all.iter().fold((100.0_f64, 0.0_f64), |(l, h), v| (l.min(*v), h.max(*v)));
    let (low, high) = ((low - 2.0).max(0.0).floor(), (high + 2.0).min(100.0).ceil().max(low + 1.0));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (PLOT + LEGEND, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(fail)?;
        let (plot, side) = area.split_horizontally(PLOT);
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(46)
            .build_cartesian_2d(1.0..longest as f64, low..high)
            .map_err(fail)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .y_desc("test accuracy, %")
            .light_line_style(WHITE)
            .x_label_formatter(&|v| format!("{v:.0}"))
            .y_label_formatter(&|v| format!("{v:.0}"))
            .draw()
            .map_err(fail)?;
        for (i, row) in profile.rows.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            // What is no share of anything is not drawn: a line to a point far outside would have dashes without end.
            let points = |curve: &[f64]| -> Vec<(f64, f64)> {
                let numbered = curve.iter().enumerate().filter(|(_, v)| (0.0..=100.0).contains(*v));
                numbered.map(|(e, v)| ((e + 1) as f64, *v)).collect()
            };
            // Beyond the last colour the lines are dashed.
            let (style, dashed) = (color.stroke_width(2), i >= COLORS.len());
            if dashed {
                chart.draw_series(DashedLineSeries::new(points(&row.curve), 6, 4, style)).map_err(fail)?;
            } else {
                chart.draw_series(LineSeries::new(points(&row.curve), style)).map_err(fail)?;
            }
            let dots =
                points(&published(row)).into_iter().map(|p| Circle::new(p, 2, color.mix(0.6).filled()));
            chart.draw_series(dots).map_err(fail)?;
        }
        let labels: Vec<&str> = profile.rows.iter().map(|r| r.label.as_str()).collect();
        legend(&side, &labels, profile.rows.iter().any(|r| !published(r).is_empty()))?;
        area.present().map_err(fail)?;
    }
    Ok(svg)
}

/// The names of the lines, outside of the plot, where they hide nothing.
fn legend(area: &Area<'_>, labels: &[&str], dots: bool) -> Result<()> {
    let text = |text: &str, y: i32| Text::new(text.to_owned(), (36, y - 7), ("sans-serif", 13));
    let mut y = 24;
    for (i, label) in labels.iter().enumerate() {
        let style = COLORS[i % COLORS.len()].stroke_width(2);
        // As in the plot: solid, or two dashes.
        let dashes = if i < COLORS.len() { vec![(8, 28)] } else { vec![(8, 16), (20, 28)] };
        for (from, to) in dashes {
            area.draw(&PathElement::new(vec![(from, y), (to, y)], style)).map_err(fail)?;
        }
        area.draw(&text(&shorten(label, NAME), y)).map_err(fail)?;
        y += LINE;
    }
    if dots {
        for x in [10, 18, 26] {
            area.draw(&Circle::new((x, y), 2, BLACK.mix(0.5).filled())).map_err(fail)?;
        }
        area.draw(&text("published logs", y)).map_err(fail)?;
    }
    Ok(())
}
