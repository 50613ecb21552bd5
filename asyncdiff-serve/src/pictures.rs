//! Pictures in requests and answers: base64, data URLs, sizes.

use asyncdiff_media::picture::{self, Format};
use asyncdiff_models::image::{Image, Mask};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::refusal::Refusal;

/// The most pixels of a picture that is sent: those of a good camera.
const MOST_PIXELS: usize = 24 << 20;

/// Bytes as base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes as a data URL.
pub(crate) fn data_url(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", to_base64(bytes))
}

/// The bytes of base64, or of a data URL of base64. Addresses of other kinds are not looked at.
pub(crate) fn from_base64(field: &'static str, text: &str) -> Result<Vec<u8>, Refusal> {
    let coded = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map(|(_, coded)| coded),
        None => Some(text),
    };
    let coded = coded.and_then(|coded| STANDARD.decode(coded.trim()).ok());
    coded.ok_or_else(|| {
        Refusal::field(
            field,
            format!("{field} is neither base64 nor a data URL of base64: send the bytes of a PNG, JPEG or WebP file that way"),
        )
    })
}

/// The picture in the bytes of a file.
pub(crate) fn image(field: &'static str, bytes: &[u8]) -> Result<Image, Refusal> {
    picture::from_bytes(bytes, MOST_PIXELS)
        .map_err(|problem| Refusal::field(field, format!("cannot read {field}: {problem}")))
}

/// The mask in the bytes of a file: white is repainted.
pub(crate) fn mask(field: &'static str, bytes: &[u8]) -> Result<Mask, Refusal> {
    Ok(picture::brightness(&image(field, bytes)?))
}

/// What is transparent in the bytes of a file, if anything can be.
pub(crate) fn transparency(field: &'static str, bytes: &[u8]) -> Result<Option<Mask>, Refusal> {
    picture::transparency(bytes, MOST_PIXELS)
        .map_err(|problem| Refusal::field(field, format!("cannot read {field}: {problem}")))
}

/// The bytes of a picture's file.
pub(crate) fn encode(
    format: Format,
    image: &Image,
    text: &str,
    jpeg_quality: Option<u8>,
) -> Result<Vec<u8>, Refusal> {
    picture::to_bytes(format, image, text, jpeg_quality)
        .map_err(|problem| Refusal::bad(format!("cannot write the picture: {problem}")))
}

/// A picture at another size; itself if it has that size.
pub(crate) fn resized(image: Image, (width, height): (usize, usize)) -> Result<Image, Refusal> {
    if (image.width, image.height) == (width, height) {
        return Ok(image);
    }
    image
        .resized(width, height)
        .map_err(|error| Refusal::bad(error.to_string()))
}

/// A mask at another size.
pub(crate) fn resized_mask(mask: Mask, size: (usize, usize)) -> Result<Mask, Refusal> {
    if (mask.width, mask.height) == size {
        return Ok(mask);
    }
    Ok(picture::brightness(&resized(grey(&mask), size)?))
}

/// A mask as a picture.
pub(crate) fn grey(mask: &Mask) -> Image {
    Image {
        width: mask.width,
        height: mask.height,
        rgb: mask.grey.iter().flat_map(|grey| [*grey; 3]).collect(),
    }
}

/// Part of a picture: the corner at `(left, top)`, of that size.
pub(crate) fn cropped(
    image: &Image,
    (left, top): (usize, usize),
    (width, height): (usize, usize),
) -> Image {
    let row = |y: usize| {
        let start = 3 * (y * image.width + left);
        &image.rgb[start..start + 3 * width]
    };
    Image {
        width,
        height,
        rgb: (top..top + height).flat_map(row).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_as_base64_or_in_a_data_url() {
        let bytes = [0, 1, 2, 250];
        let url = data_url("image/png", &bytes);
        assert_eq!(url, "data:image/png;base64,AAEC+g==");
        for text in [url.as_str(), "AAEC+g==", " AAEC+g==\n"] {
            assert_eq!(from_base64("image", text).unwrap(), bytes, "{text:?}");
        }
        for text in [
            "data:image/png,abc",
            "http://example.org/a.png",
            "/etc/passwd",
            "a",
        ] {
            let refusal = from_base64("image", text).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some("image"), "{text:?}");
        }
    }

    #[test]
    fn parts_of_pictures() {
        let image = Image {
            width: 3,
            height: 2,
            rgb: (0..18).collect(),
        };
        let part = cropped(&image, (1, 1), (2, 1));
        assert_eq!(part.rgb, [12, 13, 14, 15, 16, 17]);
    }
}
