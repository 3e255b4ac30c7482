//! Batches of images inside candle's storage: read with any strides, written contiguously.

use crate::Map;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, WithDType, bail};
use std::borrow::Cow;

/// What candle gives an operation of an argument.
pub(super) type Operand<'a> = (&'a CpuStorage, &'a Layout);

/// A tensor of four dimensions inside its storage: `[batch, channels, rows, columns]`, or a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a, T> {
    /// The storage from the first element on.
    data: &'a [T],
    contiguous: bool,
    pub dims: [usize; 4],
    strides: [usize; 4],
}

impl<'a, T: WithDType> Batch<'a, T> {
    /// A view of an operation's argument.
    pub fn new((storage, layout): Operand<'a>) -> Result<Self> {
        let four = |v: &[usize]| <[usize; 4]>::try_from(v).ok();
        let (Some(dims), Some(strides)) = (four(layout.dims()), four(layout.stride())) else {
            bail!("a tensor has shape {:?}, expected four dimensions", layout.dims())
        };
        let data = storage.as_slice::<T>()?.get(layout.start_offset()..).unwrap_or(&[]);
        Ok(Self { data, contiguous: layout.is_contiguous(), dims, strides })
    }

    /// Elements of a channel of an image.
    pub fn plane(&self) -> usize {
        self.dims[2] * self.dims[3]
    }

    /// All elements in the order of the dimensions, copied only where they do not lie so.
    pub fn contiguous(&self) -> Cow<'a, [T]> {
        let [images, channels, rows, columns] = self.dims;
        let count = images * channels * rows * columns;
        if self.contiguous {
            return Cow::Borrowed(&self.data[..count]);
        }
        let mut all = Vec::with_capacity(count);
        for b in 0..images {
            for c in 0..channels {
                (0..rows).for_each(|y| all.extend(self.row(b, c, y)));
            }
        }
        Cow::Owned(all)
    }

    /// One row of a channel of an image.
    fn row(&self, b: usize, c: usize, y: usize) -> impl Iterator<Item = T> {
        let [image, channel, row, column] = self.strides;
        let data = &self.data[b * image + c * channel + y * row..];
        (0..self.dims[3]).map(move |x| data[x * column])
    }
}

impl Batch<'_, f32> {
    /// Writes image `b` to the interior of a buffer of layout `map`.
    pub fn to_map(self, b: usize, map: &Map, to: &mut [f32]) {
        let [_, channels, rows, _] = self.dims;
        let [image, channel, row, column] = self.strides;
        for y in 0..rows {
            let pixels = to[map.at(y as isize, 0)..][..map.row_elements()].chunks_exact_mut(map.stride);
            if channel == 1 {
                // The order that a network's maps have.
                for (x, pixel) in pixels.enumerate() {
                    let from = &self.data[b * image + y * row + x * column..][..channels];
                    pixel[..channels].copy_from_slice(from);
                }
            } else {
                let mut pixels: Vec<&mut [f32]> = pixels.collect();
                for c in 0..channels {
                    pixels.iter_mut().zip(self.row(b, c, y)).for_each(|(pixel, v)| pixel[c] = v);
                }
            }
        }
    }
}

/// Reads the interior of a buffer of layout `map` as one contiguous image, and adds `bias`, one value for each channel.
pub(super) fn from_map(from: &[f32], map: &Map, bias: Option<&[f32]>, to: &mut [f32]) {
    for y in 0..map.height {
        let pixels = &from[map.at(y as isize, 0)..][..map.row_elements()];
        for c in 0..map.channels {
            let bias = bias.map_or(0.0, |bias| bias[c]);
            let row = &mut to[(c * map.height + y) * map.width..][..map.width];
            let pixels = pixels.chunks_exact(map.stride);
            row.iter_mut().zip(pixels).for_each(|(to, pixel)| *to = pixel[c] + bias);
        }
    }
}

/// A tensor of one dimension.
pub(super) fn vector<T: WithDType>((storage, layout): Operand) -> Result<Vec<T>> {
    let (&[count], &[stride]) = (layout.dims(), layout.stride()) else {
        bail!("a tensor has shape {:?}, expected one dimension", layout.dims())
    };
    let data = storage.as_slice::<T>()?;
    Ok((0..count).map(|i| data[layout.start_offset() + i * stride]).collect())
}

/// The channels of a contiguous batch, `plane` elements each, with their numbers.
pub(super) fn planes<T>(data: &[T], channels: usize, plane: usize) -> impl Iterator<Item = (usize, &[T])> {
    data.chunks_exact(plane).enumerate().map(move |(i, plane)| (i % channels, plane))
}

/// Sums over images and pixels, `[channels]`: the gradient of a bias. Added in f64.
pub(super) struct ChannelSums;

impl ChannelSums {
    fn sums<T: WithDType>(x: Operand) -> Result<(CpuStorage, Shape)> {
        let x = Batch::<T>::new(x)?;
        let mut sums = vec![0.0; x.dims[1]];
        for (c, plane) in planes(&x.contiguous(), x.dims[1], x.plane()) {
            sums[c] += plane.iter().map(|v| v.to_f64()).sum::<f64>();
        }
        let sums: Vec<T> = sums.into_iter().map(T::from_f64).collect();
        Ok((T::to_cpu_storage_owned(sums), Shape::from(x.dims[1])))
    }
}

impl CustomOp1 for ChannelSums {
    fn name(&self) -> &'static str {
        "channel-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match storage {
            CpuStorage::F32(_) => Self::sums::<f32>((storage, layout)),
            _ => Self::sums::<f64>((storage, layout)),
        }
    }
}
