//! Image files as a network takes them: PNG, JPEG and WebP, whatever the name ends in.

use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage, imageops::FilterType};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

/// Largest side and memory of an image that is decoded: a small file can describe a huge one.
const MAX_SIDE: u32 = 16_384;
const MAX_BYTES: u64 = 1 << 30;

/// Reads an image file as `width` x `height` pixels of RGB.
///
/// What [`decode`] gives is cut to the largest part in the middle that has the right ratio of sides, and that is resized with a
/// triangle filter, which averages where it shrinks.
///
/// # Errors
/// Those of [`decode`].
pub fn read(path: &Path, width: usize, height: usize) -> Result<RgbImage> {
    Ok(fitted(&decode(path)?, width as u32, height as u32))
}

/// Reads an image file as RGB. The image is turned as its Exif says; grey becomes RGB; what is transparent is white below.
///
/// # Errors
/// [`Error::Picture`]: a file that cannot be read, is of another kind, is damaged or too large.
pub fn decode(path: &Path) -> Result<RgbImage> {
    // Not `ImageReader::open`, which believes the name.
    let file =
        File::open(path).map_err(|e| Error::Picture { path: path.to_owned(), reason: e.to_string() })?;
    decode_from(BufReader::new(file), path)
}

/// [`decode`] for an image in memory, which is called `name` in messages.
///
/// # Errors
/// As [`decode`].
pub fn decode_bytes(bytes: &[u8], name: &Path) -> Result<RgbImage> {
    decode_from(Cursor::new(bytes), name)
}

fn decode_from(from: impl BufRead + Seek, path: &Path) -> Result<RgbImage> {
    let fail = |reason: String| Error::Picture { path: path.to_owned(), reason };
    let mut reader = ImageReader::new(from).with_guessed_format().map_err(|e| fail(e.to_string()))?;
    if reader.format().is_none() {
        return Err(fail("no PNG, JPEG or WebP file".to_owned()));
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| fail(e.to_string()))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| fail(e.to_string()))?;
    image.apply_orientation(orientation);
    Ok(opaque(image))
}

/// Over white.
fn opaque(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |c: u8| ((u32::from(c) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

/// The middle, resized.
pub(crate) fn fitted(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    // The sides of the largest part with the right ratio, at least a pixel.
    let (long, tall) = (u64::from(w) * u64::from(height), u64::from(h) * u64::from(width));
    let (cut_w, cut_h) = if long > tall {
        ((tall / u64::from(height)).max(1) as u32, h)
    } else {
        (w, (long / u64::from(width)).max(1) as u32)
    };
    let middle = image::imageops::crop_imm(image, (w - cut_w) / 2, (h - cut_h) / 2, cut_w, cut_h).to_image();
    if (cut_w, cut_h) == (width, height) {
        return middle;
    }
    image::imageops::resize(&middle, width, height, FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb, Rgba, RgbaImage};

    #[test]
    fn the_middle_is_kept() {
        let striped = RgbImage::from_fn(9, 3, |x, _| Rgb([if (3..6).contains(&x) { 200 } else { 0 }; 3]));
        let middle = fitted(&striped, 3, 3);
        assert!(middle.pixels().all(|p| p.0 == [200; 3]));
        let large = fitted(&striped, 6, 6);
        assert_eq!((large.dimensions(), large.get_pixel(3, 3).0), ((6, 6), [200; 3]));
        let tall = RgbImage::from_fn(2, 100, |_, y| Rgb([y as u8; 3]));
        assert_eq!(fitted(&tall, 2, 2).get_pixel(0, 0).0, [49; 3]);
        assert_eq!(fitted(&RgbImage::new(1, 50), 40, 1).dimensions(), (40, 1));
    }

    #[test]
    fn formats_transparency_and_grey() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let half = RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 0]));
        half.save_with_format(at("clear.dat"), ImageFormat::Png).unwrap();
        assert_eq!(read(&at("clear.dat"), 4, 4).unwrap().get_pixel(0, 0).0, [255; 3]);
        let grey = image::GrayImage::from_pixel(8, 8, image::Luma([120]));
        grey.save_with_format(at("grey.jpg"), ImageFormat::Jpeg).unwrap();
        assert_eq!(read(&at("grey.jpg"), 4, 4).unwrap().get_pixel(1, 1).0, [120; 3]);
        RgbImage::from_pixel(5, 5, Rgb([1, 2, 3])).save_with_format(at("a.webp"), ImageFormat::WebP).unwrap();
        assert_eq!(read(&at("a.webp"), 5, 5).unwrap().get_pixel(4, 4).0, [1, 2, 3]);
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("text.png"), "no image").unwrap();
        let message = read(&at("text.png"), 4, 4).unwrap_err().to_string();
        assert!(message.contains("text.png`: no PNG, JPEG or WebP"), "{message}");
        RgbImage::new(40, 40).save_with_format(at("whole.png"), ImageFormat::Png).unwrap();
        let bytes = std::fs::read(at("whole.png")).unwrap();
        std::fs::write(at("cut.png"), &bytes[..bytes.len() / 2]).unwrap();
        assert!(read(&at("cut.png"), 4, 4).unwrap_err().to_string().contains("cut.png"));
        assert!(read(&at("none.png"), 4, 4).unwrap_err().to_string().contains("none.png"));
    }
}
