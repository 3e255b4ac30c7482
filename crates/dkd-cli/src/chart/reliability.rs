//! Reliability diagrams: how often an answer is right, against how sure the network was.

use super::{COLORS, Panels, fail};
use anyhow::Result;
use plotters::prelude::*;

/// One network.
pub struct Reliability {
    /// Title.
    pub title: String,
    /// From the least sure answers to the surest: mean confidence, share of right answers, both from 0 to 1, and images.
    pub bins: Vec<(f64, f64, usize)>,
}

/// A bar for each bin, darker the more images are in it, a mark at its mean confidence, and the diagonal of perfect honesty.
pub fn reliability(networks: &[Reliability]) -> Result<String> {
    let mut svg = String::new();
    {
        let titles: Vec<&str> = networks.iter().map(|n| n.title.as_str()).collect();
        let panels = Panels::new(&mut svg, &titles, 0)?;
        for (network, area) in networks.iter().zip(&panels.squares) {
            let mut chart = ChartBuilder::on(area)
                .margin_right(16)
                .margin_left(4)
                .margin_top(4)
                .margin_bottom(4)
                .x_label_area_size(34)
                .y_label_area_size(44)
                .build_cartesian_2d(0.0..1.0, 0.0..1.0)
                .map_err(fail)?;
            chart
                .configure_mesh()
                .x_desc("confidence")
                .y_desc("share of right answers")
                .x_labels(5)
                .y_labels(5)
                .light_line_style(WHITE)
                .x_label_formatter(&|v| format!("{v:.1}"))
                .y_label_formatter(&|v| format!("{v:.1}"))
                .draw()
                .map_err(fail)?;
            let width = 1.0 / network.bins.len().max(1) as f64;
            let full = network.bins.iter().map(|b| b.2).max().unwrap_or(0).max(1) as f64;
            let filled = || network.bins.iter().enumerate().filter(|(_, b)| b.2 > 0);
            let bar = |(i, (_, right, images)): (usize, &(f64, f64, usize))| {
                let (from, to) = (i as f64 * width, (i + 1) as f64 * width);
                let shade = 0.25 + 0.75 * (*images as f64 / full).sqrt();
                Rectangle::new([(from, 0.0), (to, *right)], COLORS[0].mix(shade).filled())
            };
            chart.draw_series(filled().map(bar)).map_err(fail)?;
            let line = COLORS[3].stroke_width(2);
            let mark = |(i, (confidence, _, _)): (usize, &(f64, f64, usize))| {
                let (from, to) = (i as f64 * width, (i + 1) as f64 * width);
                PathElement::new(vec![(from, *confidence), (to, *confidence)], line)
            };
            chart.draw_series(filled().map(mark)).map_err(fail)?;
            let diagonal = PathElement::new(vec![(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.5));
            chart.draw_series([diagonal]).map_err(fail)?;
        }
        panels.done()?;
    }
    Ok(svg)
}
