//! Pictures as PNG, JPEG and WebP files, and as the bytes of such files.

mod decode;
pub(crate) mod encode;
mod text;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use asyncdiff_models::files;
use asyncdiff_models::image::{Image, Mask};

use crate::error::{MediaError, ReadProblem, WriteProblem};
use crate::file;
use crate::limits::{PNG_SIDES, SIDES_OF_16_BITS, WEBP_SIDES, check_sides};

/// The most pixels that are read: more than any model makes, and 512 MiB decoded. Pillow refuses files of that size too.
const MOST_PIXELS: usize = 178_956_970;

/// The most bytes of a picture's file that are read: those of that many pixels, not compressed, of 16 bits, and then some.
const MOST_BYTES: u64 = 2 << 30;

pub use text::text;

/// A file format for pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG, without loss.
    Png,
    /// JPEG, colours at full resolution.
    Jpeg,
    /// WebP, without loss.
    WebP,
}

impl Format {
    fn by_name(path: &Path) -> Result<Self, WriteProblem> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("png") => Ok(Self::Png),
            Some("jpg" | "jpeg") => Ok(Self::Jpeg),
            Some("webp") => Ok(Self::WebP),
            _ => Err(WriteProblem::PictureExtension),
        }
    }

    fn by_content(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            _ => None,
        }
    }

    /// The media type, as in `image/png`.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }

    fn sides(self) -> RangeInclusive<usize> {
        match self {
            Self::Png => PNG_SIDES,
            Self::Jpeg => SIDES_OF_16_BITS,
            Self::WebP => WEBP_SIDES,
        }
    }
}

/// Writes a picture in the format that the file's name asks for: PNG, JPEG (quality 95, colours at full resolution) or WebP
/// (lossless). A file that is already there is replaced.
///
/// `text` says how the picture was made, empty if there is nothing to say. It goes where web UIs look for it: in PNG a
/// chunk with the keyword `parameters` (`tEXt` where the text is Latin-1, which every reader knows, and `iTXt` where it is
/// not), in JPEG and WebP the user comment of the Exif data.
///
/// # Errors
///
/// [`MediaError::Write`] with what [`check_path`] finds, or because the disk is full, the picture has no pixel or too many
/// for its format, or the text holds a NUL character (PNG) or takes more than 64 KiB (JPEG). Nothing is written then.
pub fn write(path: &Path, image: &Image, text: &str) -> Result<(), MediaError> {
    file::write_whole(path, &encode(path, image, text)?)
}

/// The bytes of the file that [`write()`] would write.
///
/// # Errors
///
/// As [`write()`], of the picture and the text.
pub fn encode(path: &Path, image: &Image, text: &str) -> Result<Vec<u8>, MediaError> {
    Format::by_name(path)
        .and_then(|format| encode::encode(format, image, text, encode::JPEG_QUALITY))
        .map_err(|problem| MediaError::write(path, problem))
}

/// The bytes of a file of that format, as [`write()`] would write it; a JPEG of the quality asked for, from 1 to 100, or the usual
/// one.
///
/// # Errors
///
/// [`WriteProblem`] of the picture and the text.
pub fn to_bytes(
    format: Format,
    image: &Image,
    text: &str,
    jpeg_quality: Option<u8>,
) -> Result<Vec<u8>, WriteProblem> {
    let quality = jpeg_quality.unwrap_or(encode::JPEG_QUALITY).clamp(1, 100);
    encode::encode(format, image, text, quality)
}

/// Writes several pictures, each with its text, as [`write()`] does. All are encoded before the first is written.
///
/// # Errors
///
/// As [`write()`], for the first picture that cannot be written.
///
/// # Panics
///
/// If there are not as many paths and texts as images.
pub fn write_all(paths: &[PathBuf], images: &[Image], texts: &[String]) -> Result<(), MediaError> {
    assert_eq!(paths.len(), images.len(), "one path for every image");
    assert_eq!(texts.len(), images.len(), "one text for every image");
    let files: Vec<_> = paths
        .iter()
        .zip(images)
        .zip(texts)
        .map(|((path, image), text)| encode(path, image, text))
        .collect::<Result<_, _>>()?;
    paths
        .iter()
        .zip(files)
        .try_for_each(|(path, bytes)| file::write_whole(path, &bytes))
}

/// Whether [`write()`] could write there, to be asked before a long computation.
///
/// # Errors
///
/// [`MediaError::Write`] if the name is a folder's or has an extension of no known format, or if its folder does not exist
/// or cannot be written to.
pub fn check_path(path: &Path) -> Result<(), MediaError> {
    let check = || {
        if path.is_dir() {
            return Err(WriteProblem::Folder);
        }
        Format::by_name(path)?;
        file::check(path)
    };
    check().map_err(|problem| MediaError::write(path, problem))
}

/// Whether the format that the file's name asks for holds a picture of `width` by `height` pixels, to be asked as soon as
/// the size is known.
///
/// # Errors
///
/// [`MediaError::Write`] if the name has an extension of no known format, or the format has a limit.
pub fn check_size(path: &Path, width: usize, height: usize) -> Result<(), MediaError> {
    Format::by_name(path)
        .and_then(|format| check_sides(format.name(), &format.sides(), [width, height]))
        .map_err(|problem| MediaError::write(path, problem))
}

/// Reads a PNG, JPEG or WebP picture, whatever its name; of an animation, the first frame.
///
/// The picture is what diffusers' `load_image` makes of the file: turned the right way up as Exif says, without its
/// transparency, without regard to colour profiles, and of 16 bits the upper eight. (Pillow, which diffusers uses, makes
/// white of almost everything in a 16-bit *grey* PNG; here the upper eight bits are taken there too.)
///
/// # Errors
///
/// [`MediaError::Read`] if there is no such file, or it is no such picture, is damaged or too large.
pub fn read(path: &Path) -> Result<Image, MediaError> {
    let bytes = files::read(path, MOST_BYTES).map_err(|error| MediaError::read(path, error))?;
    from_bytes(&bytes, MOST_PIXELS).map_err(|problem| MediaError::read(path, problem))
}

/// The picture in the bytes of a file, as [`read`] reads it, if it has no more than `most_pixels`.
///
/// # Errors
///
/// [`ReadProblem`] of the bytes.
pub fn from_bytes(bytes: &[u8], most_pixels: usize) -> Result<Image, ReadProblem> {
    decode::decode(bytes, most_pixels)
}

/// What of the picture in the bytes of a file is transparent: white where nothing is to be seen, black where it is opaque.
/// `None` for a picture without transparency.
///
/// # Errors
///
/// [`ReadProblem`] of the bytes.
pub fn transparency(bytes: &[u8], most_pixels: usize) -> Result<Option<Mask>, ReadProblem> {
    decode::transparency(bytes, most_pixels)
}

/// Reads a picture as [`read`] does, and keeps its [`brightness`].
///
/// # Errors
///
/// As [`read`].
pub fn read_mask(path: &Path) -> Result<Mask, MediaError> {
    Ok(brightness(&read(path)?))
}

/// How bright a picture is: the luma of ITU-R BT.601, as Pillow's mode `L`.
#[must_use]
pub fn brightness(image: &Image) -> Mask {
    let luma = |pixel: &[u8; 3]| {
        let [red, green, blue] = pixel.map(u32::from);
        ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
    };
    Mask {
        width: image.width,
        height: image.height,
        grey: image.rgb.as_chunks().0.iter().map(luma).collect(),
    }
}
