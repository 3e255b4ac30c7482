//! A data set as a folder of image files: one folder per class, as torchvision's `ImageFolder` reads them, or Tiny-ImageNet as it
//! is published.
//!
//! ```text
//! DIR/train/cat/001.png            DIR/train/n01443537/images/n01443537_0.JPEG
//! DIR/train/dog/002.jpg            DIR/val/images/val_0.JPEG
//! DIR/test/cat/003.webp            DIR/val/val_annotations.txt
//! DIR/test/dog/004.png             DIR/words.txt
//! ```
//!
//! Classes are the folders of `train` in the order of their names; the test images are in `test`, else in `val` (in `val` first where
//! it has `val_annotations.txt`, because Tiny-ImageNet's `test` has no labels). Files that end in `.png`, `.jpg`, `.jpeg` or `.webp`
//! are images, in the order of their names; hidden files and others are passed over. [`crate::picture`] says how grey, transparent,
//! turned and odd-sized images are made RGB of one size. The normalisation is the mean and standard deviation of the training pixels.

mod layout;

use crate::decode::{Encoded, decode_all};
use crate::{Dataset, Normalization, Result, Split};
use layout::Layout;
use std::path::Path;

/// Name of such a data set on the command line.
pub const NAME: &str = "folder";

/// Rows and columns.
pub type Size = (usize, usize);

/// Reads a folder, with all images at `size`, or at the size that all of them have.
///
/// # Errors
/// [`crate::Error::Folder`] for a layout that is none, a test class that is no training class, or images of several sizes without
/// `size`; [`crate::Error::Picture`] for the first image that cannot be read, if it is the only one, else an
/// [`crate::Error::Folder`] that names several.
pub fn read(folder: &Path, size: Option<Size>) -> Result<Dataset> {
    let layout = Layout::of(folder)?;
    let all: Vec<Encoded<'_>> =
        layout.train.iter().chain(&layout.test).map(|(path, _)| Encoded::File(path)).collect();
    let (mut images, (height, width)) = decode_all(folder, &all, size)?;
    let classes = layout.class_names.len();
    let labels = |part: &[(std::path::PathBuf, u32)]| part.iter().map(|(_, label)| *label).collect();
    let test = images.split_off(layout.train.len() * height * width * 3);
    let train = Split::new(images, labels(&layout.train), height, width, classes)?;
    let test = Split::new(test, labels(&layout.test), height, width, classes)?;
    let normalization = normalization(&train);
    Ok(Dataset { name: NAME.to_owned(), train, test, class_names: layout.class_names, normalization })
}

/// Mean and standard deviation of each channel, from counts: exact whatever the number of images.
pub(crate) fn normalization(split: &Split) -> Normalization {
    let mut counts = [[0_u64; 256]; 3];
    for pixel in split.images.chunks_exact(3) {
        (0..3).for_each(|c| counts[c][usize::from(pixel[c])] += 1);
    }
    let moment = |c: usize, f: &dyn Fn(f64) -> f64| {
        let sum: f64 = counts[c].iter().zip(0..).map(|(n, v)| *n as f64 * f(f64::from(v) / 255.0)).sum();
        sum / (split.images.len() / 3).max(1) as f64
    };
    let mean: [f64; 3] = std::array::from_fn(|c| moment(c, &|v| v));
    // A channel without any contrast is left as it is.
    let std = std::array::from_fn(|c| match moment(c, &|v| (v - mean[c]).powi(2)).sqrt() {
        std if std > 1e-6 => std as f32,
        _ => 1.0,
    });
    Normalization { mean: mean.map(|m| m as f32), std }
}

#[cfg(test)]
mod tests;
