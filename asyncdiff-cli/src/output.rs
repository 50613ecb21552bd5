//! Files for what was made: pictures, or videos where there are several frames.

use std::error::Error;
use std::path::{Path, PathBuf};

use asyncdiff_media::{MediaError, WriteProblem, picture, video};
use asyncdiff_models::Request;
use asyncdiff_models::image::Image;

/// The file of a command that was given none; `pictures` stand side by side. MP4 has a limit that many of them pass.
pub fn default_file(stem: &str, request: &Request, pictures: usize) -> PathBuf {
    let named = |extension| Path::new(stem).with_extension(extension);
    let candidates = match request.shape.frames {
        1 => vec![named("png")],
        _ => vec![named("mp4"), named("gif")],
    };
    let fits = |file: &&PathBuf| check(file, request, pictures).is_ok();
    candidates
        .iter()
        .find(fits)
        .unwrap_or(&candidates[0])
        .clone()
}

/// Whether a picture or a video could be written there, before it is known which it is.
pub fn check_either(path: &Path) -> Result<(), Box<dyn Error>> {
    match (picture::check_path(path), video::check_path(path)) {
        (Ok(()), _) | (_, Ok(())) => Ok(()),
        (Err(picture), Err(video)) if unknown_extension(&picture) && unknown_extension(&video) => Err(format!(
            "cannot write {}: give a name that ends in .png, .jpg, .jpeg or .webp for a picture, in .mp4, .gif, .webp, .png or / for a video",
            path.display()
        )
        .into()),
        (Err(picture), Err(video)) if unknown_extension(&video) => Err(picture.into()),
        (_, Err(video)) => Err(video.into()),
    }
}

/// Whether what the request asks for could be written there; `pictures` of them stand side by side.
pub fn check(path: &Path, request: &Request, pictures: usize) -> Result<(), Box<dyn Error>> {
    let (width, height) = (pictures * request.shape.width, request.shape.height);
    if request.shape.frames > 1 {
        video::check_path(path)?;
        return Ok(video::check_shape(path, width, height, fps(request))?);
    }
    match picture::check_path(path) {
        Err(error) if unknown_extension(&error) && video::check_path(path).is_ok() => Err(format!(
            "cannot write {}: it is for a video, and one frame is a picture; ask for more with --frames, or give a name that ends in .png, .jpg, .jpeg or .webp",
            path.display()
        )
        .into()),
        checked => Ok(checked.and_then(|()| picture::check_size(path, width, height))?),
    }
}

/// Writes pictures or videos, one file for each, with `text` in pictures.
pub fn write<'a>(
    files: &[PathBuf],
    videos: impl Iterator<Item = &'a [Image]>,
    request: &Request,
    text: &str,
) -> Result<(), MediaError> {
    if request.shape.frames == 1 {
        let pictures: Vec<Image> = videos.flatten().cloned().collect();
        return picture::write_all(files, &pictures, text);
    }
    files
        .iter()
        .zip(videos)
        .try_for_each(|(file, frames)| video::write(file, frames, fps(request)))
}

fn unknown_extension(error: &MediaError) -> bool {
    matches!(
        error,
        MediaError::Write {
            problem: WriteProblem::PictureExtension | WriteProblem::VideoExtension,
            ..
        }
    )
}

fn fps(request: &Request) -> u32 {
    u32::try_from(request.content.fps).unwrap_or(u32::MAX)
}
