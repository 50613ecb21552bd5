//! Pictures to the bytes of a file.

use asyncdiff_models::image::Image;

use super::Format;
use crate::error::WriteProblem;
use crate::exif;
use crate::limits::{check_bytes, check_sides};

/// Nothing to be seen of the compression, at about a quarter of the bytes of PNG.
pub(super) const JPEG_QUALITY: u8 = 95;
/// The most bytes of Exif data in a JPEG file (a segment's 16-bit length, less itself and `Exif\0\0`).
const JPEG_EXIF: usize = 65535 - 2 - 6;

/// The whole file, a JPEG of that quality. Sides are in the range of the format, so they are not cut below.
pub(super) fn encode(
    format: Format,
    image: &Image,
    text: &str,
    jpeg_quality: u8,
) -> Result<Vec<u8>, WriteProblem> {
    let size = [image.width, image.height];
    check_sides(format.name(), &format.sides(), size)?;
    check_bytes(image)?;
    match format {
        Format::Png => png(image, text),
        Format::Jpeg => jpeg(image, text, jpeg_quality),
        Format::WebP => webp(image, text),
    }
}

fn png(image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    check_png_text(text)?;
    let mut output = Vec::new();
    let mut encoder = png::Encoder::new(&mut output, image.width as u32, image.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let write = || {
        add_png_text(&mut encoder, text)?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&image.rgb)?;
        writer.finish()
    };
    write().map_err(|error: png::EncodingError| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}

/// Whether a PNG file can hold the text.
pub(crate) fn check_png_text(text: &str) -> Result<(), WriteProblem> {
    match text.contains('\0') {
        true => Err(WriteProblem::Text(
            "contains a NUL character, which PNG cannot hold",
        )),
        false => Ok(()),
    }
}

/// Puts the text where web UIs look for it, as [`write()`](super::write()) tells.
pub(crate) fn add_png_text<W: std::io::Write>(
    encoder: &mut png::Encoder<'_, W>,
    text: &str,
) -> Result<(), png::EncodingError> {
    let keyword = "parameters".to_owned();
    if text.is_empty() {
        Ok(())
    } else if text.chars().all(|character| u32::from(character) <= 0xff) {
        encoder.add_text_chunk(keyword, text.to_owned())
    } else {
        encoder.add_itxt_chunk(keyword, text.to_owned())
    }
}

fn jpeg(image: &Image, text: &str, quality: u8) -> Result<Vec<u8>, WriteProblem> {
    let mut output = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut output, quality);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
    let written = if text.is_empty() {
        Ok(())
    } else {
        let comment = exif::user_comment(text);
        if comment.len() > JPEG_EXIF {
            return Err(WriteProblem::Text(
                "is longer than the 64 KiB that JPEG can hold, write PNG",
            ));
        }
        encoder.add_exif_metadata(&comment)
    };
    written
        .and_then(|()| {
            encoder.encode(
                &image.rgb,
                image.width as u16,
                image.height as u16,
                jpeg_encoder::ColorType::Rgb,
            )
        })
        .map_err(|error| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}

fn webp(image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    let mut output = Vec::new();
    let mut encoder = image_webp::WebPEncoder::new(&mut output);
    if !text.is_empty() {
        encoder.set_exif_metadata(exif::user_comment(text));
    }
    encoder
        .encode(
            &image.rgb,
            image.width as u32,
            image.height as u32,
            image_webp::ColorType::Rgb8,
        )
        .map_err(|error| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}
