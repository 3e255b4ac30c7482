//! The operation behind pooling and resizing: every pixel of the result is the mean of a rectangle of pixels.

use super::batch::{Batch, Operand};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};
use std::ops::Range;

/// Means over the rectangles `rows[r]` x `columns[q]`, or the gradient of that.
#[derive(Clone, Debug)]
pub(super) struct WindowMeans {
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
    /// Rows and columns of the images.
    size: (usize, usize),
    /// Whether it takes the means' gradient to that of the images.
    backward: bool,
}

impl WindowMeans {
    /// `window(from, to, i)` is the range of pixels behind pixel i of a row that goes from so many to so many.
    pub fn new(
        from: (usize, usize),
        to: (usize, usize),
        window: impl Fn(usize, usize, usize) -> Range<usize>,
    ) -> Self {
        Self {
            rows: (0..to.0).map(|i| window(from.0, to.0, i)).collect(),
            columns: (0..to.1).map(|i| window(from.1, to.1, i)).collect(),
            size: from,
            backward: false,
        }
    }

    /// The rectangles in the order of the result's pixels.
    fn rectangles(&self) -> impl Iterator<Item = Rectangle> {
        let pairs = self.rows.iter().flat_map(|rows| self.columns.iter().map(move |columns| (rows, columns)));
        pairs.map(|(rows, columns)| Rectangle {
            rows: rows.clone(),
            columns: columns.clone(),
            width: self.size.1,
        })
    }

    fn run<T: WithDType>(&self, x: Operand) -> Result<(CpuStorage, Shape)> {
        let x = Batch::<T>::new(x)?;
        let (values, [batch, channels, ..]) = (x.contiguous(), x.dims);
        let (rows, columns) = if self.backward { self.size } else { (self.rows.len(), self.columns.len()) };
        let mut all = Vec::with_capacity(batch * channels * rows * columns);
        let mut sums = vec![0.0; if self.backward { rows * columns } else { 0 }];
        for plane in values.chunks_exact(x.plane()) {
            if self.backward {
                sums.fill(0.0);
                for (window, g) in self.rectangles().zip(plane) {
                    let share = g.to_f64() / window.pixels();
                    window.lines().for_each(|line| sums[line].iter_mut().for_each(|sum| *sum += share));
                }
                all.extend(sums.iter().map(|sum| T::from_f64(*sum)));
            } else {
                all.extend(self.rectangles().map(|window| {
                    let values = window.lines().flat_map(|line| &plane[line]);
                    T::from_f64(values.map(|v| v.to_f64()).sum::<f64>() / window.pixels())
                }));
            }
        }
        Ok((T::to_cpu_storage_owned(all), Shape::from((batch, channels, rows, columns))))
    }
}

/// Some pixels of an image of `width` columns.
struct Rectangle {
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
}

impl Rectangle {
    fn pixels(&self) -> f64 {
        (self.rows.len() * self.columns.len()) as f64
    }

    /// Its pixels in a plane, row by row.
    fn lines(&self) -> impl Iterator<Item = Range<usize>> {
        let (columns, width) = (self.columns.clone(), self.width);
        self.rows.clone().map(move |y| y * width + columns.start..y * width + columns.end)
    }
}

impl CustomOp1 for WindowMeans {
    fn name(&self) -> &'static str {
        "dkd-window-means"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match storage {
            CpuStorage::F32(_) => self.run::<f32>((storage, layout)),
            _ => self.run::<f64>((storage, layout)),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.apply_op1_no_bwd(&Self { backward: true, ..self.clone() }).map(Some)
    }
}
