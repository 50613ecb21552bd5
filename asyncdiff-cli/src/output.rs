//! Where results go: a picture or a video, in the format that the name of the file asks for.

use std::path::{Path, PathBuf};

use asyncdiff_media::{MediaError, picture, video};
use asyncdiff_models::Request;
use asyncdiff_models::image::Image;

/// Where the result of `request` goes if nobody says: a picture, or a video, called `stem`.
pub fn default_path(request: &Request, stem: &str) -> PathBuf {
    let extension = match (request.frames, cfg!(feature = "mp4")) {
        (1, _) => "png",
        (_, true) => "mp4",
        (_, false) => "gif",
    };
    format!("{stem}.{extension}").into()
}

/// Whether anything could be written there, to be asked before it is known what.
pub fn check_path(path: &Path) -> Result<(), MediaError> {
    picture::check_path(path).or_else(|error| video::check_path(path).map_err(|_| error))
}

/// Whether the result of `request` could be written there, to be asked before a long computation. `beside` results of its size
/// make up the picture or video.
pub fn check(path: &Path, request: &Request, beside: usize) -> Result<(), MediaError> {
    let (width, height) = (request.width * beside, request.height);
    if request.frames == 1 {
        picture::check_path(path)?;
        picture::check_size(path, width, height)
    } else {
        video::check_path(path)?;
        video::check_shape(path, width, height, frames_per_second(request))
    }
}

/// Writes what a run of `request` has made: as many pictures or videos as there are paths. `text` says how, where a format has
/// a place for that.
pub fn write(
    paths: &[PathBuf],
    request: &Request,
    images: &[Image],
    text: &str,
) -> Result<(), MediaError> {
    if request.frames == 1 {
        return picture::write_all(paths, images, text);
    }
    let videos = images.chunks(request.frames);
    let mut files = paths.iter().zip(videos);
    files.try_for_each(|(path, frames)| video::write(path, frames, frames_per_second(request)))
}

/// More than any format plays is an error of [`check`].
fn frames_per_second(request: &Request) -> u32 {
    u32::try_from(request.fps).unwrap_or(u32::MAX)
}
