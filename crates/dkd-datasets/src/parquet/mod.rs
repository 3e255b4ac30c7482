//! A data set in Parquet files, as the Hugging Face hub stores images.
//!
//! ```text
//! DIR/data/train-00000-of-00002.parquet      DIR/plain_text/train-00000-of-00001.parquet
//! DIR/data/train-00001-of-00002.parquet      DIR/plain_text/test-00000-of-00001.parquet
//! DIR/data/test-00000-of-00001.parquet       DIR/default/train/0000.parquet
//! ```
//!
//! A file belongs to the split whose name its own begins with, or else the nearest folder's; the test images are those of `test`,
//! else of `validation`, `valid` or `val`. The files of a split are read in the order of their names. The image is the only column
//! that is a group with `bytes`, or that is binary; the label is the column of whole numbers called `label`, `labels` or `fine_label`,
//! or the only one. The names of the classes are those of the hub's metadata, where the file has them.
//!
//! Images are decoded, brought to one size and normalised as those of a [`crate::folder`] are.

mod columns;
mod files;

#[cfg(test)]
mod tests;

use crate::decode::{Encoded, decode_all};
use crate::folder::{Size, normalization};
use crate::{Dataset, Error, PARQUET, Result, Split};
use columns::Rows;
use files::Files;
use std::path::{Path, PathBuf};

/// Reads the files in `folder`, with all images at `size`, or at the size that all of them have.
///
/// # Errors
/// [`Error::Folder`] names the file: no files of a split, damaged ones, no column of images or labels, a label that is no class;
/// [`Error::Picture`] for an image that cannot be decoded.
pub fn read(folder: &Path, size: Option<Size>) -> Result<Dataset> {
    let files = Files::of(folder)?;
    let train = rows(&files.train)?;
    let test = rows(&files.test)?;
    let class_names = class_names(&train, &test)?;
    let all: Vec<Encoded<'_>> = train.iter().chain(&test).flat_map(Rows::encoded).collect();
    let (mut images, (height, width)) = decode_all(folder, &all, size)?;
    let classes = class_names.len();
    let labels =
        |part: &[Rows]| part.iter().flat_map(|rows| rows.labels.iter().copied()).collect::<Vec<u32>>();
    let (train, test) = (labels(&train), labels(&test));
    let pixels = images.split_off(train.len() * height * width * 3);
    let train = Split::new(images, train, height, width, classes)?;
    let test = Split::new(pixels, test, height, width, classes)?;
    let normalization = normalization(&train);
    Ok(Dataset { name: PARQUET.to_owned(), train, test, class_names, normalization })
}

fn rows(files: &[PathBuf]) -> Result<Vec<Rows>> {
    files.iter().map(|file| Rows::read(file)).collect()
}

/// The names that the first file has, or numbers up to the largest label of the training images; every label must have one.
fn class_names(train: &[Rows], test: &[Rows]) -> Result<Vec<String>> {
    let largest = train.iter().flat_map(|rows| &rows.labels).max();
    let numbers = || (0..=largest.copied().unwrap_or(0)).map(|n| n.to_string()).collect();
    let names: Vec<String> = train.iter().find_map(|rows| rows.class_names.clone()).unwrap_or_else(numbers);
    for rows in train.iter().chain(test) {
        if let Some(i) = rows.labels.iter().position(|l| *l as usize >= names.len()) {
            return Err(Error::Folder {
                path: rows.file.clone(),
                problem: format!("row {i}: label {} is none of the {} classes", rows.labels[i], names.len()),
            });
        }
    }
    Ok(names)
}
