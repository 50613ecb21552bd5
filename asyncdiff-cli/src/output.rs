//! Files for what was made: pictures, or videos where there are several frames.

use std::path::{Path, PathBuf};

use asyncdiff_media::{MediaError, picture, video};
use asyncdiff_models::Request;
use asyncdiff_models::image::Image;

/// The file of a command that was given none.
pub fn default_file(stem: &str, request: &Request) -> PathBuf {
    let extension = match request.frames {
        1 => "png",
        _ if cfg!(feature = "mp4") => "mp4",
        _ => "gif",
    };
    Path::new(stem).with_extension(extension)
}

/// Whether a picture or a video could be written there, before it is known which it is.
pub fn check_either(path: &Path) -> Result<(), MediaError> {
    picture::check_path(path).or_else(|error| video::check_path(path).map_err(|_| error))
}

/// Whether what the request asks for could be written there; `pictures` of them stand side by side.
pub fn check(path: &Path, request: &Request, pictures: usize) -> Result<(), MediaError> {
    if request.frames == 1 {
        return picture::check_path(path);
    }
    video::check_path(path)?;
    video::check_shape(path, pictures * request.width, request.height, fps(request))
}

/// Writes pictures or videos, one file for each, with `text` in pictures.
pub fn write<'a>(
    files: &[PathBuf],
    videos: impl Iterator<Item = &'a [Image]>,
    request: &Request,
    text: &str,
) -> Result<(), MediaError> {
    if request.frames == 1 {
        let pictures: Vec<Image> = videos.flatten().cloned().collect();
        return picture::write_all(files, &pictures, text);
    }
    files
        .iter()
        .zip(videos)
        .try_for_each(|(file, frames)| video::write(file, frames, fps(request)))
}

fn fps(request: &Request) -> u32 {
    u32::try_from(request.fps).unwrap_or(u32::MAX)
}
