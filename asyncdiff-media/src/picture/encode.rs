//! Pictures to the bytes of a file.

use asyncdiff_models::image::Image;

use super::Format;
use crate::error::WriteProblem;
use crate::exif;

/// Nothing to be seen of the compression, at about a quarter of the bytes of PNG.
const JPEG_QUALITY: u8 = 95;
/// The longest side of the largest WebP picture (14 bits and one).
const WEBP_SIDE: usize = 16384;
/// The most bytes of Exif data in a JPEG file (a segment's 16-bit length, less itself and `Exif\0\0`).
const JPEG_EXIF: usize = 65535 - 2 - 6;

pub(super) fn encode(format: Format, image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    let &Image { width, height, .. } = image;
    let found = image.rgb.len();
    let right = width.checked_mul(height).and_then(|n| n.checked_mul(3));
    if right != Some(found) || found == 0 {
        return Err(WriteProblem::Torn {
            width,
            height,
            found,
        });
    }
    match format {
        Format::Png => png(image, text),
        Format::Jpeg => jpeg(image, text),
        Format::WebP => webp(image, text),
    }
}

fn side<T: TryFrom<usize>>(
    image: &Image,
    format: &'static str,
    limit: usize,
) -> Result<[T; 2], WriteProblem> {
    let &Image { width, height, .. } = image;
    let too_long = WriteProblem::Side {
        format,
        width,
        height,
        limit,
    };
    match (T::try_from(width), T::try_from(height)) {
        (Ok(columns), Ok(rows)) if width.max(height) <= limit => Ok([columns, rows]),
        _ => Err(too_long),
    }
}

fn png(image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    let [width, height] = side(image, "PNG", i32::MAX as usize)?;
    if text.contains('\0') {
        return Err(WriteProblem::Text(
            "contains a NUL character, which PNG cannot hold",
        ));
    }
    let mut output = Vec::new();
    let mut encoder = png::Encoder::new(&mut output, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let write = || {
        if !text.is_empty() {
            let keyword = "parameters".to_owned();
            if text.chars().all(|character| u32::from(character) <= 0xff) {
                encoder.add_text_chunk(keyword, text.to_owned())?;
            } else {
                encoder.add_itxt_chunk(keyword, text.to_owned())?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&image.rgb)?;
        writer.finish()
    };
    write().map_err(|error: png::EncodingError| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}

fn jpeg(image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    let [width, height] = side(image, "JPEG", u16::MAX.into())?;
    let mut output = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut output, JPEG_QUALITY);
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
        .and_then(|()| encoder.encode(&image.rgb, width, height, jpeg_encoder::ColorType::Rgb))
        .map_err(|error| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}

fn webp(image: &Image, text: &str) -> Result<Vec<u8>, WriteProblem> {
    let [width, height] = side(image, "WebP", WEBP_SIDE)?;
    let mut output = Vec::new();
    let mut encoder = image_webp::WebPEncoder::new(&mut output);
    if !text.is_empty() {
        encoder.set_exif_metadata(exif::user_comment(text));
    }
    encoder
        .encode(&image.rgb, width, height, image_webp::ColorType::Rgb8)
        .map_err(|error| WriteProblem::Encoder(error.to_string()))?;
    Ok(output)
}
