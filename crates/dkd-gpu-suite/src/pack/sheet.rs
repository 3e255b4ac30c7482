//! Many small images as tiles of one lossless WebP picture.
//!
//! A picture holds what a pixel is above what those before it in its own image let expect, and so is nothing to look at. With the
//! encoder's own prediction, which is from the pixel above alone, it would be a tenth larger.

use anyhow::{Result, ensure};
use image_webp::{ColorType, EncoderParams, WebPDecoder, WebPEncoder};
use std::io::Cursor;

/// Tiles in a row.
pub const COLUMNS: usize = 40;

/// Side of a tile.
const SIDE: usize = 32;

/// Numbers of one colour in an image.
const PLANE: usize = SIDE * SIDE;

/// A picture of images that consist of three planes; the rest of the last row of tiles is black.
pub fn encode(images: &[&[u8]]) -> Result<Vec<u8>> {
    let (width, rows) = (COLUMNS * SIDE, images.len().div_ceil(COLUMNS));
    let mut pixels = vec![0; 3 * width * rows * SIDE];
    for (i, image) in images.iter().enumerate() {
        for (c, plane) in image.chunks_exact(PLANE).enumerate() {
            for (p, value) in plane.iter().enumerate() {
                pixels[3 * place(i, p, width) + c] = value.wrapping_sub(expected(plane, p));
            }
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = WebPEncoder::new(&mut bytes);
    let mut params = EncoderParams::default();
    params.use_predictor_transform = false;
    encoder.set_params(params);
    encoder.encode(&pixels, u32::try_from(width)?, u32::try_from(rows * SIDE)?, ColorType::Rgb8)?;
    Ok(bytes)
}

/// The first `count` images of a picture, as three planes.
pub fn decode(bytes: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    let (width, rows) = (COLUMNS * SIDE, count.div_ceil(COLUMNS));
    let (found, wanted) = (decoder.dimensions(), (u32::try_from(width)?, u32::try_from(rows * SIDE)?));
    ensure!(found == wanted, "a picture of {found:?} pixels, expected {wanted:?}");
    ensure!(!decoder.has_alpha(), "a picture with four channels, expected 3");
    let mut pixels = vec![0; 3 * width * rows * SIDE];
    decoder.read_image(&mut pixels)?;
    let image = |i: usize| {
        let mut image = vec![0; 3 * PLANE];
        for (c, plane) in image.chunks_exact_mut(PLANE).enumerate() {
            for p in 0..PLANE {
                plane[p] = pixels[3 * place(i, p, width) + c].wrapping_add(expected(plane, p));
            }
        }
        image
    };
    Ok((0..count).map(image).collect())
}

/// What those left of and above pixel `p` let expect, as in JPEG-LS: the smaller or larger of both at an edge, else a plane
/// through them and the one between.
fn expected(plane: &[u8], p: usize) -> u8 {
    match (p / SIDE, p % SIDE) {
        (0, 0) => 0,
        (0, _) => plane[p - 1],
        (_, 0) => plane[p - SIDE],
        _ => {
            let (left, above, between) = (plane[p - 1], plane[p - SIDE], plane[p - SIDE - 1]);
            let (low, high) = (left.min(above), left.max(above));
            if between >= high {
                low
            } else if between <= low {
                high
            } else {
                high - (between - low)
            }
        }
    }
}

/// Where pixel `p` of image `i` is.
fn place(i: usize, p: usize, width: usize) -> usize {
    let (row, column) = (i / COLUMNS * SIDE + p / SIDE, i % COLUMNS * SIDE + p % SIDE);
    row * width + column
}
