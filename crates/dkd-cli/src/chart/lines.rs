//! Curves.

use super::{Area, COLORS, LINE, NAME, decimals, fail, text};
use crate::output::shorten;
use anyhow::Result;
use plotters::prelude::*;

/// Width of the plot and of the legend beside it, and the height of both.
const PLOT: u32 = 680;
const LEGEND: u32 = 240;
const HEIGHT: u32 = 420;

/// One curve.
pub struct Line {
    /// Name in the legend.
    pub label: String,
    /// Joined by a line; those outside of the plot are left out.
    pub points: Vec<(f64, f64)>,
    /// Not joined, in the same colour.
    pub dots: Vec<(f64, f64)>,
}

/// A picture of curves.
pub struct Plot<'a> {
    /// What the horizontal axis means.
    pub x: &'a str,
    /// What the vertical axis means.
    pub y: &'a str,
    /// Its ends.
    pub x_range: (f64, f64),
    /// Its ends.
    pub y_range: (f64, f64),
    /// The curves.
    pub lines: Vec<Line>,
    /// What dots mean, if there are any.
    pub dots: Option<&'a str>,
}

/// Draws curves with a legend beside them.
pub fn lines(plot: &Plot<'_>) -> Result<String> {
    let (x, y) = (plot.x_range, plot.y_range);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (PLOT + LEGEND, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(fail)?;
        let (left, side) = area.split_horizontally(PLOT);
        let mut chart = ChartBuilder::on(&left)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(46)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)
            .map_err(fail)?;
        let (digits_x, digits_y) = (decimals(x.1 - x.0), decimals(y.1 - y.0));
        chart
            .configure_mesh()
            .x_desc(plot.x)
            .y_desc(plot.y)
            .light_line_style(WHITE)
            .x_label_formatter(&|v| format!("{v:.digits_x$}"))
            .y_label_formatter(&|v| format!("{v:.digits_y$}"))
            .draw()
            .map_err(fail)?;
        // A line to a point far outside would have dashes without end.
        let inside = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points
                .iter()
                .copied()
                .filter(|p| (x.0..=x.1).contains(&p.0) && (y.0..=y.1).contains(&p.1))
                .collect()
        };
        for (i, line) in plot.lines.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            // Beyond the last colour the lines are dashed.
            let (style, dashed) = (color.stroke_width(2), i >= COLORS.len());
            if dashed {
                chart.draw_series(DashedLineSeries::new(inside(&line.points), 6, 4, style)).map_err(fail)?;
            } else {
                chart.draw_series(LineSeries::new(inside(&line.points), style)).map_err(fail)?;
            }
            let dots = inside(&line.dots).into_iter().map(|p| Circle::new(p, 2, color.mix(0.6).filled()));
            chart.draw_series(dots).map_err(fail)?;
        }
        let labels: Vec<&str> = plot.lines.iter().map(|l| l.label.as_str()).collect();
        legend(&side, &labels, plot.dots)?;
        area.present().map_err(fail)?;
    }
    Ok(svg)
}

/// The names of the lines, outside of the plot, where they hide nothing.
fn legend(area: &Area<'_>, labels: &[&str], dots: Option<&str>) -> Result<()> {
    let mut y = 24;
    for (i, label) in labels.iter().enumerate() {
        let style = COLORS[i % COLORS.len()].stroke_width(2);
        // As in the plot: solid, or two dashes.
        let dashes = if i < COLORS.len() { vec![(8, 28)] } else { vec![(8, 16), (20, 28)] };
        for (from, to) in dashes {
            area.draw(&PathElement::new(vec![(from, y), (to, y)], style)).map_err(fail)?;
        }
        area.draw(&text(&shorten(label, NAME), (36, y - 7))).map_err(fail)?;
        y += LINE;
    }
    if let Some(dots) = dots {
        for x in [10, 18, 26] {
            area.draw(&Circle::new((x, y), 2, BLACK.mix(0.5).filled())).map_err(fail)?;
        }
        area.draw(&text(dots, (36, y - 7))).map_err(fail)?;
    }
    Ok(())
}
