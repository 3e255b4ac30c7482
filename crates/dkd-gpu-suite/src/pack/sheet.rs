//! Many small images as tiles of one lossless WebP picture.

use anyhow::{Result, ensure};
use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::{ExtendedColorType, ImageDecoder};
use std::io::Cursor;

/// Tiles in a row.
pub const COLUMNS: usize = 40;

/// Side of a tile.
const SIDE: usize = 32;

/// Numbers in one image: planes of red, green and blue.
const PLANE: usize = SIDE * SIDE;

/// A picture of images that consist of three planes; the rest of the last row of tiles is black.
pub fn encode(images: &[&[u8]]) -> Result<Vec<u8>> {
    let (width, rows) = (COLUMNS * SIDE, images.len().div_ceil(COLUMNS));
    let mut pixels = vec![0; 3 * width * rows * SIDE];
    for (i, image) in images.iter().enumerate() {
        for p in 0..PLANE {
            let at = 3 * place(i, p, width);
            (0..3).for_each(|c| pixels[at + c] = image[c * PLANE + p]);
        }
    }
    let mut bytes = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut bytes);
    encoder.encode(&pixels, u32::try_from(width)?, u32::try_from(rows * SIDE)?, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// The first `count` images of a picture, as three planes.
pub fn decode(bytes: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    let decoder = WebPDecoder::new(Cursor::new(bytes))?;
    let (width, rows) = (COLUMNS * SIDE, count.div_ceil(COLUMNS));
    let (found, expected) = (decoder.dimensions(), (u32::try_from(width)?, u32::try_from(rows * SIDE)?));
    ensure!(found == expected, "a picture of {found:?} pixels, expected {expected:?}");
    // A picture whose pixels are all opaque has no fourth channel.
    let channels = usize::from(decoder.color_type().channel_count());
    ensure!(channels == 3, "a picture with {channels} channels, expected 3");
    let mut pixels = vec![0; 3 * width * rows * SIDE];
    decoder.read_image(&mut pixels)?;
    let image = |i: usize| {
        let mut image = vec![0; 3 * PLANE];
        for p in 0..PLANE {
            let at = 3 * place(i, p, width);
            (0..3).for_each(|c| image[c * PLANE + p] = pixels[at + c]);
        }
        image
    };
    Ok((0..count).map(image).collect())
}

/// Where pixel `p` of image `i` is.
fn place(i: usize, p: usize, width: usize) -> usize {
    let (row, column) = (i / COLUMNS * SIDE + p / SIDE, i % COLUMNS * SIDE + p % SIDE);
    row * width + column
}
