//! Videos as MP4, GIF, animated WebP and PNG files, and as folders of numbered pictures.

mod folder;
mod gif;
#[cfg(feature = "mp4")]
mod mp4;
mod png;
mod webp;

use std::ops::RangeInclusive;
use std::path::Path;

use asyncdiff_models::image::Image;

use crate::error::{MediaError, WriteProblem};
use crate::file;
use crate::limits::{PNG_SIDES, SIDES_OF_16_BITS, WEBP_SIDES, check_bytes, check_sides};

/// How a video is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Mp4,
    Gif,
    WebP,
    Png,
    /// A folder of numbered pictures.
    Folder,
}

impl Format {
    fn by_name(path: &Path) -> Result<Self, WriteProblem> {
        let text = path.as_os_str().to_string_lossy();
        if text.ends_with(std::path::is_separator) || path.is_dir() {
            return Ok(Self::Folder);
        }
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("mp4") if !cfg!(feature = "mp4") => Err(WriteProblem::NoMp4),
            Some("mp4") => Ok(Self::Mp4),
            Some("gif") => Ok(Self::Gif),
            Some("webp") => Ok(Self::WebP),
            Some("png") => Ok(Self::Png),
            _ => Err(WriteProblem::VideoExtension),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "MP4",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Png | Self::Folder => "PNG",
        }
    }

    /// For MP4 those of the encoder.
    fn sides(self) -> RangeInclusive<usize> {
        match self {
            Self::Mp4 => 16..=3840,
            Self::Gif => SIDES_OF_16_BITS,
            Self::WebP => WEBP_SIDES,
            Self::Png | Self::Folder => PNG_SIDES,
        }
    }

    /// The most frames a second. Browsers show frames of 10 ms or less for 100 ms; GIF counts in 10 ms.
    fn most_frames_per_second(self) -> u32 {
        match self {
            Self::Mp4 => 240,
            Self::Gif => 50,
            Self::WebP | Self::Png => 90,
            // Pictures do not move.
            Self::Folder => u32::MAX,
        }
    }

    fn check_shape(
        self,
        width: usize,
        height: usize,
        frames_per_second: u32,
    ) -> Result<(), WriteProblem> {
        check_sides(self.name(), &self.sides(), [width, height])?;
        if self == Self::Mp4 {
            // The encoder's limit is a picture of 3840 by 2160, upright or not.
            let shorter = width.min(height);
            check_sides("the shorter side of MP4", &(16..=2160), [shorter; 2])?;
        }
        let most = self.most_frames_per_second();
        if (1..=most).contains(&frames_per_second) {
            return Ok(());
        }
        Err(WriteProblem::FrameRate {
            format: self.name(),
            most,
            found: frames_per_second,
        })
    }
}

/// Writes a video in the format that the path asks for. A file that is already there is replaced.
///
/// * `.mp4`: H.264, High profile, 4:2:0, BT.709 in limited range (and flagged so), with the index first so that browsers
///   play it while they load it. A side of an odd number of pixels, which 4:2:0 cannot have, gets its last row or column
///   twice.
/// * `.gif`: plays forever. All colours if there are at most 256 in the video; else every frame has a palette of its own,
///   and what is between its colours is dithered. Delays are in hundredths of a second; they are long and short in turn
///   where the frame rate asks for it, so that the whole takes as long as it should.
/// * `.webp` and `.png`: animations without loss that play forever.
/// * A path that ends in `/`, or of a folder: PNG pictures `frame-0000.png`, `frame-0001.png`, … in a new folder. A folder
///   that holds nothing, or only such frames, is replaced.
///
/// `text` says how the video was made, empty if there is nothing to say. In MP4 it is the comment of the metadata in the `udta`
/// box, in GIF the comment in front of the frames, in WebP the user comment of the Exif data, in PNG and in every picture
/// of a folder the chunk that [`picture::write`](crate::picture::write()) tells of.
///
/// # Errors
///
/// [`MediaError::Write`] with what [`check_path`] and [`check_shape`] find, if there is no frame or the frames differ in
/// size, because the text holds a NUL character (PNG), or because the disk is full. Nothing is written then.
pub fn write(
    path: &Path,
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<(), MediaError> {
    let cannot = |problem| MediaError::write(path, problem);
    match Format::by_name(path).map_err(cannot)? {
        Format::Folder => {
            check_frames(Format::Folder, frames, frames_per_second).map_err(cannot)?;
            folder::write(path, frames, text)
        }
        _ => file::write_whole(path, &encode(path, frames, frames_per_second, text)?),
    }
}

/// The bytes of the file that [`write()`] would write.
///
/// # Errors
///
/// As [`write()`], of the frames and the text, and for a folder, which has none.
pub fn encode(
    path: &Path,
    frames: &[Image],
    frames_per_second: u32,
    text: &str,
) -> Result<Vec<u8>, MediaError> {
    let encode = || {
        let format = Format::by_name(path)?;
        check_frames(format, frames, frames_per_second)?;
        match format {
            Format::Folder => Err(WriteProblem::Folder),
            Format::Gif => gif::encode(frames, frames_per_second, text),
            Format::WebP => webp::encode(frames, frames_per_second, text),
            Format::Png => png::encode(frames, frames_per_second, text),
            #[cfg(feature = "mp4")]
            Format::Mp4 => mp4::encode(frames, frames_per_second, text),
            #[cfg(not(feature = "mp4"))]
            Format::Mp4 => Err(WriteProblem::NoMp4),
        }
    };
    encode().map_err(|problem| MediaError::write(path, problem))
}

/// Whether the path is a folder that holds frames of an earlier video, which [`write()`] would replace.
#[must_use]
pub fn holds_frames(path: &Path) -> bool {
    folder::holds_frames(path)
}

fn check_frames(
    format: Format,
    frames: &[Image],
    frames_per_second: u32,
) -> Result<(), WriteProblem> {
    let first = frames.first().ok_or(WriteProblem::NoFrames)?;
    format.check_shape(first.width, first.height, frames_per_second)?;
    frames.iter().enumerate().try_for_each(|(index, frame)| {
        if (frame.width, frame.height) != (first.width, first.height) {
            return Err(WriteProblem::FrameSizes {
                first: (first.width, first.height),
                index,
                found: (frame.width, frame.height),
            });
        }
        check_bytes(frame)
    })
}

/// Whether [`write()`] could write there, to be asked before a long computation.
///
/// # Errors
///
/// [`MediaError::Write`] if the name has an extension that can hold no video, if a folder holds something else than the
/// frames of an earlier video, or if the folder around it does not exist or cannot be written to.
pub fn check_path(path: &Path) -> Result<(), MediaError> {
    let check = || match Format::by_name(path)? {
        Format::Folder => folder::check(path),
        _ => file::check(path),
    };
    check().map_err(|problem| MediaError::write(path, problem))
}

/// Whether the format that the path asks for holds a video of `width` by `height` pixels and plays `frames_per_second`, to
/// be asked as soon as these are known.
///
/// # Errors
///
/// [`MediaError::Write`] if the name has an extension that can hold no video, or the format has a limit.
pub fn check_shape(
    path: &Path,
    width: usize,
    height: usize,
    frames_per_second: u32,
) -> Result<(), MediaError> {
    Format::by_name(path)
        .and_then(|format| format.check_shape(width, height, frames_per_second))
        .map_err(|problem| MediaError::write(path, problem))
}

/// When a frame begins, in `units` a second, rounded: the durations of frames add up to that of the video.
fn begins(frame: usize, units: usize, frames_per_second: u32) -> usize {
    let frames_per_second = frames_per_second as usize;
    (2 * frame * units + frames_per_second) / (2 * frames_per_second)
}

/// How long a frame is shown, in `units` a second.
fn duration(frame: usize, units: usize, frames_per_second: u32) -> usize {
    begins(frame + 1, units, frames_per_second) - begins(frame, units, frames_per_second)
}
