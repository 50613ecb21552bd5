//! The bytes of a file to a picture.

use std::io::Cursor;

use asyncdiff_models::image::{Image, Mask};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::Format;
use crate::error::ReadProblem;
use crate::exif;

/// A picture as stored: before it is turned, and with channels that are not wanted.
struct Raw {
    width: usize,
    height: usize,
    /// 1 (grey), 2 (grey, alpha), 3 (red, green, blue) or 4 (red, green, blue, alpha).
    channels: usize,
    /// `height * width * channels` bytes, row by row.
    bytes: Vec<u8>,
    /// 1 to 8, as Exif numbers them.
    orientation: u8,
}

/// The colours of a picture that has no more than `limit` pixels.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Result<Image, ReadProblem> {
    let raw = stored(bytes, limit)?;
    let color = |at: usize| match raw.channels {
        1 | 2 => [raw.bytes[at]; 3],
        _ => [raw.bytes[at], raw.bytes[at + 1], raw.bytes[at + 2]],
    };
    let (width, height, pixels) = upright(&raw, color);
    Ok(Image {
        width,
        height,
        rgb: pixels.into_flattened(),
    })
}

/// White where the picture is transparent, black where it is opaque; `None` if it has no transparency.
pub(super) fn transparency(bytes: &[u8], limit: usize) -> Result<Option<Mask>, ReadProblem> {
    let raw = stored(bytes, limit)?;
    if ![2, 4].contains(&raw.channels) {
        return Ok(None);
    }
    let (width, height, grey) = upright(&raw, |at| 255 - raw.bytes[at + raw.channels - 1]);
    Ok(Some(Mask {
        width,
        height,
        grey,
    }))
}

fn stored(bytes: &[u8], limit: usize) -> Result<Raw, ReadProblem> {
    let format = Format::by_content(bytes).ok_or(ReadProblem::NotAPicture)?;
    let raw = match format {
        Format::Png => png(bytes, limit),
        Format::Jpeg => jpeg(bytes, limit),
        Format::WebP => webp(bytes, limit),
    };
    raw.map_err(|failure| match failure {
        Failure::Damaged(reason) => ReadProblem::Damaged {
            format: format.name(),
            reason,
        },
        Failure::TooLarge(width, height) => ReadProblem::TooLarge {
            width,
            height,
            limit,
        },
    })
}

enum Failure {
    /// The decoder's words.
    Damaged(String),
    /// Width and height.
    TooLarge(usize, usize),
}

impl From<png::DecodingError> for Failure {
    fn from(error: png::DecodingError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<zune_jpeg::errors::DecodeErrors> for Failure {
    fn from(error: zune_jpeg::errors::DecodeErrors) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<image_webp::DecodingError> for Failure {
    fn from(error: image_webp::DecodingError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Before memory is taken for what a header promises.
fn check_size(width: usize, height: usize, limit: usize) -> Result<(), Failure> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(Failure::TooLarge(width, height)),
    }
}

fn png(bytes: &[u8], limit: usize) -> Result<Raw, Failure> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    // Palettes and few bits become 8 bits a channel, and of 16 bits the upper eight are kept.
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    // Texts are not read, so they need not be right.
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info()?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height, limit)?;
    let size = reader
        .output_buffer_size()
        .ok_or(Failure::TooLarge(width, height))?;
    let mut pixels = vec![0; size];
    reader.next_frame(&mut pixels)?;
    let (color, _) = reader.output_color_type();
    // Exif may stand behind the pixels.
    reader.finish()?;
    Ok(Raw {
        width,
        height,
        channels: color.samples(),
        bytes: pixels,
        orientation: reader
            .info()
            .exif_metadata
            .as_ref()
            .map_or(1, |data| exif::orientation(data)),
    })
}

/// Whether the end marker is there. The decoder is content with fewer scans than there should be.
fn jpeg_reaches_its_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            END => return true,
            // A byte that fills up.
            0xff => at += 1,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
        if marker == START_OF_SCAN {
            // To the next marker; in a scan, 0xff before 0 is a value, and before 0xd0 to 0xd7 a restart.
            let next = bytes
                .get(at..)
                .unwrap_or_default()
                .windows(2)
                .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7));
            let Some(length) = next else {
                return false;
            };
            at += length;
        }
    }
    false
}

fn jpeg(bytes: &[u8], limit: usize) -> Result<Raw, Failure> {
    let options = DecoderOptions::default()
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into())
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        // Otherwise the missing end of a file is grey.
        .set_strict_mode(true);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| Failure::Damaged("it has no size".to_owned()))?;
    check_size(width, height, limit)?;
    let pixels = decoder.decode()?;
    if !jpeg_reaches_its_end(bytes) {
        return Err(Failure::Damaged("it has no end".to_owned()));
    }
    Ok(Raw {
        width,
        height,
        channels: 3,
        bytes: pixels,
        orientation: decoder.exif().map_or(1, |data| exif::orientation(data)),
    })
}

fn webp(bytes: &[u8], limit: usize) -> Result<Raw, Failure> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes))?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, limit)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; width * height * channels];
    decoder.read_image(&mut pixels)?;
    let exif = decoder.exif_metadata()?;
    Ok(Raw {
        width,
        height,
        channels,
        bytes: pixels,
        orientation: exif.map_or(1, |data| exif::orientation(&data)),
    })
}

/// Width, height and pixels of the picture turned as its orientation says; `pixel` is told where one's first byte is stored.
fn upright<T>(raw: &Raw, pixel: impl Fn(usize) -> T) -> (usize, usize, Vec<T>) {
    let &Raw {
        width,
        height,
        channels,
        orientation,
        ..
    } = raw;
    let (right, bottom) = (width - 1, height - 1);
    // Where the pixel of the upright picture is stored.
    let stored = |x: usize, y: usize| match orientation {
        2 => (right - x, y),
        3 => (right - x, bottom - y),
        4 => (x, bottom - y),
        5 => (y, x),
        6 => (y, bottom - x),
        7 => (right - y, bottom - x),
        8 => (right - y, x),
        _ => (x, y),
    };
    let (columns, rows) = match orientation {
        5..=8 => (height, width),
        _ => (width, height),
    };
    let pixels = (0..rows)
        .flat_map(|y| (0..columns).map(move |x| (x, y)))
        .map(|(x, y)| {
            let (x, y) = stored(x, y);
            pixel((y * width + x) * channels)
        })
        .collect();
    (columns, rows, pixels)
}
