//! Matrices as squares of colour.

use super::{PANEL, Panels, fail, text};
use anyhow::Result;
use plotters::prelude::*;

/// Pixels around a matrix, and of the strip with the scale.
const MARGIN: i32 = 12;
const STRIP: u32 = 90;

/// Steps of colour; neighbours of the same step are one shape, which keeps pictures of many classes small.
const STEPS: usize = 16;

/// One matrix.
#[derive(Clone)]
pub struct Heat<'a> {
    /// Title.
    pub title: String,
    /// A square matrix, drawn with its first row at the top.
    pub matrix: &'a [Vec<f32>],
}

/// From white to a dark blue.
fn color(step: usize) -> RGBColor {
    let share = step as f64 / (STEPS - 1) as f64;
    let mix = |dark: f64| (255.0 + share * (dark - 255.0)).round() as u8;
    RGBColor(mix(0.0), mix(58.0), mix(112.0))
}

/// The step of colour of an absolute value.
fn step(value: f32, max: f64) -> usize {
    let share = f64::from(value.abs()) / max;
    if share.is_finite() { ((share * (STEPS - 1) as f64).round() as usize).min(STEPS - 1) } else { 0 }
}

/// Draws the absolute values of several matrices with the same scale, from 0 to `max`.
pub fn heatmaps(heats: &[Heat<'_>], max: f64) -> Result<String> {
    let mut svg = String::new();
    {
        let titles: Vec<&str> = heats.iter().map(|h| h.title.as_str()).collect();
        let panels = Panels::new(&mut svg, &titles, STRIP)?;
        for (heat, area) in heats.iter().zip(&panels.squares) {
            let size = PANEL as i32 - 2 * MARGIN;
            let count = heat.matrix.len().max(1);
            let at = |i: usize| (i * size as usize / count) as i32;
            let cell = |from: usize, to: usize, row: usize, step: usize| {
                let corners = [(MARGIN + at(from), at(row)), (MARGIN + at(to), at(row + 1))];
                Rectangle::new(corners, color(step).filled())
            };
            for (row, line) in heat.matrix.iter().enumerate() {
                let mut from = 0;
                for run in line.chunk_by(|a, b| step(*a, max) == step(*b, max)) {
                    let (to, step) = (from + run.len(), step(run[0], max));
                    // The paper is white already.
                    if step > 0 {
                        area.draw(&cell(from, to, row, step)).map_err(fail)?;
                    }
                    from = to;
                }
            }
            let frame = Rectangle::new([(MARGIN, 0), (MARGIN + size, size)], BLACK.mix(0.4));
            area.draw(&frame).map_err(fail)?;
        }
        let (top, height) = (40, 10);
        for step in 0..STEPS {
            let y = top + (STEPS - 1 - step) as i32 * height;
            let shape = Rectangle::new([(4, y), (20, y + height)], color(step).filled());
            panels.strip.draw(&shape).map_err(fail)?;
        }
        panels.strip.draw(&text(&format!("{max:.2}"), (26, top - 4))).map_err(fail)?;
        panels.strip.draw(&text("0", (26, top + STEPS as i32 * height - 12))).map_err(fail)?;
        panels.done()?;
    }
    Ok(svg)
}
