//! From files to pixels of one size, on all cores.

use super::Size;
use crate::{Error, Result, picture};
use image::RgbImage;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Files that a message names, at most.
const NAMED: usize = 5;

/// All images, one after the other, and their size.
pub(super) fn decode_all(folder: &Path, paths: &[&Path], size: Option<Size>) -> Result<(Vec<u8>, Size)> {
    let (height, width) = match (size, paths.first()) {
        (Some(size), _) => size,
        (None, Some(first)) => size_of(&picture::decode(first)?),
        (None, None) => (0, 0),
    };
    let bytes = height * width * 3;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(bytes * paths.len()).map_err(|_| Error::Folder {
        path: folder.to_owned(),
        problem: format!(
            "{} images of {height}x{width} do not fit into memory; set a smaller `data.image_size`",
            paths.len()
        ),
    })?;
    pixels.resize(bytes * paths.len(), 0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = paths.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (paths, pixels) in paths.chunks(share).zip(pixels.chunks_mut((share * bytes).max(1))) {
            let failures = &failures;
            scope.spawn(move || {
                for (path, to) in paths.iter().zip(pixels.chunks_exact_mut(bytes.max(1))) {
                    match one(path, size, (height, width)) {
                        Ok(image) => to.copy_from_slice(&image),
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

fn one(path: &Path, size: Option<Size>, (height, width): Size) -> Result<RgbImage> {
    if size.is_some() {
        return picture::read(path, width, height);
    }
    let image = picture::decode(path)?;
    let (h, w) = size_of(&image);
    if (h, w) == (height, width) {
        return Ok(image);
    }
    Err(Error::Folder {
        path: path.to_owned(),
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
