//! From files to pixels of one size, on all cores.

use crate::folder::Size;
use crate::{Error, Result, picture};
use image::RgbImage;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

/// Files that a message names, at most.
const NAMED: usize = 5;

/// An encoded image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Encoded<'a> {
    File(&'a Path),
    /// Of a row of a file with many.
    #[cfg(feature = "parquet")]
    Row {
        file: &'a Path,
        row: usize,
        bytes: &'a [u8],
    },
}

impl Encoded<'_> {
    /// For messages.
    fn name(&self) -> PathBuf {
        match self {
            Self::File(path) => path.to_path_buf(),
            #[cfg(feature = "parquet")]
            Self::Row { file, row, .. } => format!("{}, row {row}", file.display()).into(),
        }
    }

    fn decode(&self) -> Result<RgbImage> {
        match self {
            Self::File(path) => picture::decode(path),
            #[cfg(feature = "parquet")]
            Self::Row { bytes, .. } => picture::decode_bytes(bytes, &self.name()),
        }
    }
}

/// All images, one after the other, and their size.
pub(crate) fn decode_all(folder: &Path, all: &[Encoded<'_>], size: Option<Size>) -> Result<(Vec<u8>, Size)> {
    let (height, width) = match (size, all.first()) {
        (Some(size), _) => size,
        (None, Some(first)) => size_of(&first.decode()?),
        (None, None) => (0, 0),
    };
    let bytes = height * width * 3;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes * all.len()).map_err(|_| Error::Folder {
        path: folder.to_owned(),
        problem: format!(
            "{} images of {height}x{width} do not fit into memory; set a smaller `data.image_size`",
            all.len()
        ),
    })?;
    pixels.resize(bytes * all.len(), 0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (part, pixels) in all.chunks(share).zip(pixels.chunks_mut((share * bytes).max(1))) {
            let failures = &failures;
            scope.spawn(move || {
                for (image, to) in part.iter().zip(pixels.chunks_exact_mut(bytes.max(1))) {
                    match one(image, size, (height, width)) {
                        Ok(pixels) => to.copy_from_slice(&pixels),
                        Err(error) => failures.lock().unwrap_or_else(PoisonError::into_inner).push(error),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure(folder, failures) {
        None => Ok((pixels, (height, width))),
        Some(error) => Err(error),
    }
}

fn size_of(image: &RgbImage) -> Size {
    (image.height() as usize, image.width() as usize)
}

fn one(encoded: &Encoded<'_>, size: Option<Size>, (height, width): Size) -> Result<RgbImage> {
    let image = encoded.decode()?;
    if size.is_some() {
        return Ok(picture::fitted(&image, width as u32, height as u32));
    }
    let (h, w) = size_of(&image);
    if (h, w) == (height, width) {
        return Ok(image);
    }
    Err(Error::Folder {
        path: encoded.name(),
        problem: format!(
            "is {h}x{w}, the first image {height}x{width}: `data.image_size`, for example \"{height}x{width}\", cuts all of them \
             to the middle and resizes them"
        ),
    })
}

/// One message for all files that failed, in the order of their names whichever thread found them.
fn failure(folder: &Path, failures: Vec<Error>) -> Option<Error> {
    let mut messages: Vec<String> = failures.iter().map(ToString::to_string).collect();
    messages.sort();
    match messages.len() {
        0 => None,
        1 => failures.into_iter().next(),
        n => {
            let more = if n > NAMED { format!("; and {} more", n - NAMED) } else { String::new() };
            messages.truncate(NAMED);
            let problem = format!("{n} images cannot be used: {}{more}", messages.join("; "));
            Some(Error::Folder { path: folder.to_owned(), problem })
        }
    }
}
