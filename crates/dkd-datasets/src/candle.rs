//! From and to `candle_datasets::vision::Dataset` (feature `candle-datasets`).
//!
//! candle's data sets are f32 tensors `[n, 3, rows, columns]` in [0, 1]. Its hub route for CIFAR-10 (`cifar::load`), however,
//! gives `[n, 3, columns, rows]`: the images are mirrored at their diagonal. A network trained on such images is as good, but
//! its accuracy on correctly oriented ones is not; [`Axes`] says which route the data came by.

use crate::{CIFAR10, Dataset, Error, Normalization, Result, Split};
use candle_core::{DType, Device, Tensor};
use candle_datasets::vision;

/// Order of the last two axes of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// Rows, columns: `cifar::load_dir`, and everything else.
    RowsColumns,
    /// Columns, rows: `cifar::load`, the hub route.
    ColumnsRows,
}

/// CIFAR-10 by candle's hub route, `candle_datasets::vision::cifar::load`, with the axes put right.
///
/// Needs the network, or what an earlier call has left in the hub's cache: candle fetches two Parquet files and
/// checks no checksum. Classes have numbers for names.
///
/// # Errors
/// candle's, for the network and for damaged files; those of [`from_candle`].
///
/// # Panics
/// candle does, if an image in these files cannot be decoded; [`crate::fetch::fetch`] reports an error instead.
pub fn cifar10_from_hub() -> Result<Dataset> {
    from_hub(&vision::cifar::load()?)
}

/// What the hub route gives, as this crate's CIFAR-10.
fn from_hub(data: &vision::Dataset) -> Result<Dataset> {
    from_candle(data, CIFAR10.name, Axes::ColumnsRows, CIFAR10.normalization)
}

/// Converts candle's data set; pixels are rounded to bytes, which is exact for data that were bytes.
///
/// # Errors
/// Images that are not `[n, 3, h, w]`; labels that are not classes; another number of labels than of images.
pub fn from_candle(
    data: &vision::Dataset,
    name: &str,
    axes: Axes,
    normalization: Normalization,
) -> Result<Dataset> {
    Ok(Dataset {
        name: name.to_owned(),
        train: split(&data.train_images, &data.train_labels, axes, data.labels)?,
        test: split(&data.test_images, &data.test_labels, axes, data.labels)?,
        class_names: (0..data.labels).map(|i| i.to_string()).collect(),
        normalization,
    })
}

fn split(images: &Tensor, labels: &Tensor, axes: Axes, classes: usize) -> Result<Split> {
    let [n, 3, a, b] = *images.dims() else {
        return Err(Error::Invalid(format!("images have shape {:?}, expected [n, 3, h, w]", images.dims())));
    };
    let (pixels, height, width) = match axes {
        Axes::RowsColumns => (images.permute((0, 2, 3, 1))?, a, b),
        Axes::ColumnsRows => (images.permute((0, 3, 2, 1))?, b, a),
    };
    let values = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let bytes = values.iter().map(|v| (v * 255.0).round().clamp(0.0, 255.0) as u8).collect();
    let labels = labels.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
    if labels.len() != n {
        return Err(Error::Invalid(format!("{} labels for {n} images", labels.len())));
    }
    Split::new(bytes, labels, height, width, classes)
}

/// Converts to candle's data set, rows before columns; labels are bytes, as candle's are.
///
/// # Errors
/// candle's.
pub fn to_candle(data: &Dataset) -> Result<vision::Dataset> {
    let images = |s: &Split| -> Result<Tensor> {
        let bytes = Tensor::from_slice(&s.images, (s.len(), s.height, s.width, 3), &Device::Cpu)?;
        Ok((bytes.permute((0, 3, 1, 2))?.to_dtype(DType::F32)? / 255.0)?)
    };
    let labels = |s: &Split| -> Result<Tensor> {
        Ok(Tensor::from_slice(&s.labels, s.len(), &Device::Cpu)?.to_dtype(DType::U8)?)
    };
    Ok(vision::Dataset {
        train_images: images(&data.train)?,
        train_labels: labels(&data.train)?,
        test_images: images(&data.test)?,
        test_labels: labels(&data.test)?,
        labels: data.num_classes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Options, generate};

    #[test]
    fn there_and_back() {
        let data = generate(&Options { train: 20, test: 7, seed: 2 });
        let mut candle = to_candle(&data).unwrap();
        assert_eq!(candle.train_images.dims(), [20, 3, 32, 32]);
        let back = from_candle(&candle, "synthetic", Axes::RowsColumns, data.normalization).unwrap();
        assert_eq!((&back.train, &back.test), (&data.train, &data.test));
        // What the hub route would give.
        candle.train_images = candle.train_images.permute((0, 1, 3, 2)).unwrap();
        candle.test_images = candle.test_images.permute((0, 1, 3, 2)).unwrap();
        let hub = from_hub(&candle).unwrap();
        assert_eq!((&hub.train, &hub.test), (&data.train, &data.test));
        assert_eq!(
            (&*hub.name, hub.num_classes(), hub.normalization),
            ("cifar10", 10, CIFAR10.normalization)
        );
        let wrong = from_candle(&candle, "synthetic", Axes::RowsColumns, data.normalization).unwrap();
        assert_ne!(wrong.train, data.train);
        candle.train_labels = candle.test_labels.clone();
        assert!(from_candle(&candle, "x", Axes::RowsColumns, data.normalization).is_err());
    }
}
