//! Points in a plane, by class.

use super::{Area, COLORS, LINE, NAME, PANEL, Panels, TITLE, fail, text};
use crate::output::shorten;
use anyhow::Result;
use plotters::prelude::*;

/// Pixels around the points, and of the strip with the classes' names.
const MARGIN: f32 = 14.0;
const STRIP: u32 = 180;

/// Panels: one for each network.
pub struct Scatter<'a> {
    /// Title.
    pub title: String,
    /// Places.
    pub points: &'a [[f32; 2]],
}

/// Draws the point of an image; beyond the last colour, classes have other shapes.
fn mark(area: &Area<'_>, at: (i32, i32), class: usize) -> Result<()> {
    let style = COLORS[class % COLORS.len()].mix(0.8);
    match class / COLORS.len() {
        0 => area.draw(&Circle::new(at, 2, style.filled())),
        1 => area.draw(&Cross::new(at, 3, style)),
        _ => area.draw(&TriangleMarker::new(at, 3, style.filled())),
    }
    .map_err(fail)
}

/// Draws the same images in every panel, `classes[i]` the class of point i, with a legend of `names`, of which at most 24 can be
/// told apart.
pub fn scatters(panels: &[Scatter<'_>], classes: &[usize], names: &[String]) -> Result<String> {
    let mut svg = String::new();
    {
        let titles: Vec<&str> = panels.iter().map(|p| p.title.as_str()).collect();
        let picture = Panels::new(&mut svg, &titles, STRIP)?;
        for (panel, area) in panels.iter().zip(&picture.squares) {
            let range = |k: usize| {
                let values = panel.points.iter().map(|p| p[k]);
                values.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
            };
            let (x, y) = (range(0), range(1));
            // One scale for both directions: only distances mean anything.
            let scale = (PANEL as f32 - 2.0 * MARGIN) / (x.1 - x.0).max(y.1 - y.0).max(f32::MIN_POSITIVE);
            let place = |v: f32, (low, high): (f32, f32)| {
                (PANEL as f32 / 2.0 + (v - (low + high) / 2.0) * scale).round() as i32
            };
            for (point, class) in panel.points.iter().zip(classes) {
                mark(area, (place(point[0], x), place(point[1], y)), *class)?;
            }
            let size = PANEL as i32;
            area.draw(&Rectangle::new([(4, 0), (size - 4, size - 4)], BLACK.mix(0.3))).map_err(fail)?;
        }
        for (class, name) in names.iter().enumerate() {
            let y = TITLE + 8 + class as i32 * LINE.min(14);
            mark(&picture.strip, (12, y), class)?;
            picture.strip.draw(&text(&shorten(name, NAME / 2), (22, y - 7))).map_err(fail)?;
        }
        picture.done()?;
    }
    Ok(svg)
}
