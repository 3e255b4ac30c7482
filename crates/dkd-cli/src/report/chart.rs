//! Accuracy curves as SVG.

use super::summary::Profile;
use anyhow::{Result, anyhow};
use plotters::prelude::*;

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
        let area = SVGBackend::with_string(&mut svg, (760, 420)).into_drawing_area();
        let fail = |e: DrawingAreaErrorKind<std::io::Error>| anyhow!("cannot draw curves: {e}");
        area.fill(&WHITE).map_err(fail)?;
        let mut chart = ChartBuilder::on(&area)
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
            let points = |curve: &[f64]| -> Vec<(f64, f64)> {
                curve.iter().enumerate().map(|(e, v)| ((e + 1) as f64, *v)).collect()
            };
            // Beyond the last colour the lines are dashed.
            let (style, dashed) = (color.stroke_width(2), i >= COLORS.len());
            let line = if dashed {
                chart.draw_series(DashedLineSeries::new(points(&row.curve), 6, 4, style)).map_err(fail)?
            } else {
                chart.draw_series(LineSeries::new(points(&row.curve), style)).map_err(fail)?
            };
            line.label(row.label.clone()).legend(move |(x, y)| {
                let end = if dashed { 8 } else { 18 };
                PathElement::new(vec![(x, y), (x + end, y)], style)
            });
            let dots =
                points(&published(row)).into_iter().map(|p| Circle::new(p, 2, color.mix(0.6).filled()));
            chart.draw_series(dots).map_err(fail)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(fail)?;
        area.present().map_err(fail)?;
    }
    Ok(svg)
}
