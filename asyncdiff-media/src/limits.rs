//! What formats can hold.

use std::ops::RangeInclusive;

use asyncdiff_models::image::Image;

use crate::error::WriteProblem;

/// The sides of a PNG picture, whose numbers have 31 bits.
pub(crate) const PNG_SIDES: RangeInclusive<usize> = 1..=i32::MAX as usize;
/// The sides of a WebP picture, whose numbers have 14 bits and count from 1.
pub(crate) const WEBP_SIDES: RangeInclusive<usize> = 1..=16384;
/// The sides of a format whose numbers have 16 bits.
pub(crate) const SIDES_OF_16_BITS: RangeInclusive<usize> = 1..=u16::MAX as usize;

pub(crate) fn check_sides(
    format: &'static str,
    sides: &RangeInclusive<usize>,
    [width, height]: [usize; 2],
) -> Result<(), WriteProblem> {
    if sides.contains(&width) && sides.contains(&height) {
        return Ok(());
    }
    Err(WriteProblem::Side {
        format,
        width,
        height,
        least: *sides.start(),
        most: *sides.end(),
    })
}

/// Whether the picture has as many bytes as its size says.
pub(crate) fn check_bytes(image: &Image) -> Result<(), WriteProblem> {
    let &Image { width, height, .. } = image;
    let found = image.rgb.len();
    let right = width.checked_mul(height).and_then(|n| n.checked_mul(3));
    if right == Some(found) {
        return Ok(());
    }
    Err(WriteProblem::Torn {
        width,
        height,
        found,
    })
}
