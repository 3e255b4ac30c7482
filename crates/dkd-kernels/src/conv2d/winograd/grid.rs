//! Square tiles of pixels over an image, and the patches they read and write.

use crate::Map;
use std::ops::Range;

/// Tiles in row order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    height: usize,
    width: usize,
    /// Rows and columns of a tile.
    tile: usize,
    columns: usize,
}

/// Neighbouring tiles of one tile row, all whole or all cut off at the same image edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileRun {
    /// Number of the first tile.
    pub first: usize,
    pub count: usize,
    /// Pixel of the first tile.
    pub y: usize,
    pub x: usize,
    /// Rows and columns of each tile inside the image: fewer than the tile's at an edge.
    pub rows: usize,
    pub columns: usize,
}

impl Grid {
    /// The tiles of an image, each of `tile` rows and columns.
    pub fn new(map: &Map, tile: usize) -> Self {
        Self { height: map.height, width: map.width, tile, columns: map.width.div_ceil(tile) }
    }

    /// Number of tiles.
    pub fn count(&self) -> usize {
        self.columns * self.height.div_ceil(self.tile)
    }

    /// The tiles `range`, numbered through several images, as runs, each with its image's number.
    pub fn runs(self, range: Range<usize>) -> impl Iterator<Item = (usize, TileRun)> {
        let n = self.count();
        let images = if range.is_empty() { 0..0 } else { range.start / n..(range.end - 1) / n + 1 };
        images.flat_map(move |image| {
            let start = image * n;
            let within = range.start.max(start) - start..range.end.min(start + n) - start;
            self.runs_of_image(within).map(move |run| (image, TileRun { first: run.first + start, ..run }))
        })
    }

    /// The tiles `range` of one image.
    fn runs_of_image(self, range: Range<usize>) -> impl Iterator<Item = TileRun> {
        let mut next = range.start;
        std::iter::from_fn(move || {
            if next == range.end {
                return None;
            }
            let size = self.tile;
            let (first, y, column) = (next, size * (next / self.columns), next % self.columns);
            let whole = (self.width / size).saturating_sub(column).min(range.end - first);
            let (count, x) = (whole.max(1), size * column);
            next += count;
            let (rows, columns) = ((self.height - y).min(size), (self.width - x).min(size));
            Some(TileRun { first, count, y, x, rows, columns })
        })
    }
}

/// Square patches of an image: that of the tile at pixel (y, x) begins at (y - shift.0, x - shift.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Patches {
    pub map: Map,
    pub shift: (usize, usize),
    /// Rows and columns of a patch.
    pub size: usize,
    /// Columns from one patch to the next.
    pub tile: usize,
}

impl Patches {
    /// Elements of one patch on its own.
    pub fn elements(&self) -> usize {
        self.size * self.size * self.map.stride
    }

    /// How many of a run's patches, from the first, lie inside the buffer.
    pub fn inside(&self, run: &TileRun) -> usize {
        let end = |start: usize, shift: usize| (start + self.size).saturating_sub(shift);
        let border = self.map.border;
        debug_assert!(border >= self.shift.0.max(self.shift.1));
        if end(run.y, self.shift.0) > self.map.height + border {
            return 0;
        }
        let last = self.map.width + border;
        (0..run.count).rev().find(|i| end(run.x + self.tile * i, self.shift.1) <= last).map_or(0, |i| i + 1)
    }

    /// Offset of the patch of the tile at (y, x), which is inside the buffer.
    pub fn at(&self, y: usize, x: usize) -> usize {
        self.map.at(y as isize - self.shift.0 as isize, x as isize - self.shift.1 as isize)
    }

    /// Copies the patch of the tile at (y, x) to the start of `to`, with zeros for what lies outside the image.
    pub fn copy(&self, image: &[f32], y: usize, x: usize, to: &mut [f32]) {
        let stride = self.map.stride;
        to[..self.elements()].fill(0.0);
        for r in 0..self.size {
            let row = (y + r) as isize - self.shift.0 as isize;
            for c in 0..self.size {
                let column = (x + c) as isize - self.shift.1 as isize;
                if (0..self.map.height as isize).contains(&row)
                    && (0..self.map.width as isize).contains(&column)
                {
                    to[(r * self.size + c) * stride..][..stride]
                        .copy_from_slice(&image[self.map.at(row, column)..][..stride]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_tile_of_two_images_once() {
        let sizes = [(4, 4), (5, 7), (27, 27), (8, 5), (9, 10)];
        for ((h, w), tile) in sizes.into_iter().flat_map(|s| [(s, 2), (s, 4)]) {
            let grid = Grid::new(&Map::new(h, w, 16, 0), tile);
            let mut pixels = vec![0; 2 * h * w];
            let (mut next, half) = (0, grid.count() / 2 + 1);
            for (image, run) in grid.runs(0..half).chain(grid.runs(half..2 * grid.count())) {
                assert_eq!(run.first, next);
                assert_eq!(image, next / grid.count());
                next += run.count;
                for t in 0..run.count {
                    for (r, c) in (0..run.rows).flat_map(|r| (0..run.columns).map(move |c| (r, c))) {
                        pixels[image * h * w + (run.y + r) * w + run.x + tile * t + c] += 1;
                    }
                }
            }
            assert_eq!(next, 2 * grid.count());
            assert!(pixels.iter().all(|n| *n == 1), "{h}x{w}");
        }
    }
}
