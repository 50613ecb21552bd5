//! Files for what was made: pictures, or videos where there are several frames.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use asyncdiff_media::{MediaError, WriteProblem, picture, video};
use asyncdiff_models::Request;
use asyncdiff_models::image::Image;

use crate::args::Printing;

/// The file of a command that was given none; `pictures` stand side by side. MP4 has a limit that many of them pass.
pub fn default_file(stem: &str, request: &Request, pictures: usize) -> PathBuf {
    let named = |extension| Path::new(stem).with_extension(extension);
    let candidates = match request.shape.frames {
        1 => vec![named("png")],
        _ => vec![named("mp4"), named("gif")],
    };
    let fits = |file: &&PathBuf| check_shape(file, request, pictures).is_ok();
    candidates
        .iter()
        .find(fits)
        .unwrap_or(&candidates[0])
        .clone()
}

/// Whether the name stands for standard output.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Whether a report could be printed beside what is written there.
pub fn check_report(path: &Path, printing: &Printing) -> Result<(), Box<dyn Error>> {
    match is_stdout(path) && printing.json {
        true => Err("--json prints its report on standard output, where -o - puts the picture: leave out one of them, or give a file name with -o".into()),
        false => Ok(()),
    }
}

/// Where lines about the run go: not where the picture goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    Stdout,
    Stderr,
    Nowhere,
}

impl Lines {
    /// Away from `output`, and nowhere if they are not wanted.
    pub fn beside(output: Option<&Path>, wanted: bool) -> Self {
        match output {
            _ if !wanted => Self::Nowhere,
            Some(path) if is_stdout(path) => Self::Stderr,
            _ => Self::Stdout,
        }
    }

    /// Prints a line.
    pub fn print(self, line: fmt::Arguments<'_>) -> Result<(), Unprinted> {
        match self {
            Self::Stdout => printed("standard output", writeln!(io::stdout(), "{line}")),
            Self::Stderr => printed("standard error", writeln!(io::stderr(), "{line}")),
            Self::Nowhere => Ok(()),
        }
    }
}

/// Puts bytes on standard output, to the last one: what follows the last line's end would otherwise wait for another.
pub fn put(bytes: &[u8]) -> Result<(), Unprinted> {
    let mut stdout = io::stdout().lock();
    let put = stdout.write_all(bytes).and_then(|()| stdout.flush());
    printed("standard output", put)
}

/// A reader that goes away has seen enough, and is no reason not to make the rest.
fn printed(stream: &'static str, printed: io::Result<()>) -> Result<(), Unprinted> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|source| Unprinted { stream, source }),
    }
}

/// A stream that takes no more.
#[derive(Debug)]
pub struct Unprinted {
    stream: &'static str,
    source: io::Error,
}

impl fmt::Display for Unprinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, source } = self;
        write!(f, "cannot write to {stream}: {source}; send it elsewhere")
    }
}

impl Error for Unprinted {}

/// Whether a picture or a video could be written there, before it is known which it is.
pub fn check_either(path: &Path) -> Result<(), Box<dyn Error>> {
    if is_stdout(path) {
        return match io::stdout().is_terminal() {
            true => Err("standard output is a terminal, which shows no picture: send it to a file or a program, or give a file name with -o".into()),
            false => Ok(()),
        };
    }
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

/// Whether what the request asks for could be written there; `pictures` of them stand side by side. A folder of frames is
/// replaced by `force` only.
pub fn check(
    path: &Path,
    request: &Request,
    pictures: usize,
    force: bool,
) -> Result<(), Box<dyn Error>> {
    if is_stdout(path) {
        return Ok(());
    }
    if request.shape.frames > 1 {
        video::check_path(path)?;
        if !force && video::holds_frames(path) {
            return Err(format!(
                "{} holds the frames of a video: give --force to replace them, or name another folder",
                path.display()
            )
            .into());
        }
        return Ok(check_shape(path, request, pictures)?);
    }
    match picture::check_path(path) {
        Err(error) if unknown_extension(&error) && video::check_path(path).is_ok() => Err(format!(
            "cannot write {}: it is for a video, and one frame is a picture; ask for more with --frames, or give a name that ends in .png, .jpg, .jpeg or .webp",
            path.display()
        )
        .into()),
        checked => Ok(checked.and_then(|()| check_shape(path, request, pictures))?),
    }
}

/// Whether the format that the file's name asks for holds what is asked for.
fn check_shape(path: &Path, request: &Request, pictures: usize) -> Result<(), MediaError> {
    let (width, height) = (pictures * request.shape.width, request.shape.height);
    match request.shape.frames {
        1 => picture::check_size(path, width, height),
        _ => video::check_shape(path, width, height, fps(request)),
    }
}

/// Writes pictures or videos, one file for each, each with its text.
pub fn write<'a>(
    files: &[PathBuf],
    videos: impl Iterator<Item = &'a [Image]>,
    request: &Request,
    texts: &[String],
) -> Result<(), Box<dyn Error>> {
    let videos: Vec<_> = videos.collect();
    if let ([file], [frames], [text]) = (files, &videos[..], texts)
        && is_stdout(file)
    {
        let bytes = encode(frames, request, text)?;
        return Ok(put(&bytes)?);
    }
    if request.shape.frames == 1 {
        let pictures: Vec<Image> = videos.into_iter().flatten().cloned().collect();
        return Ok(picture::write_all(files, &pictures, texts)?);
    }
    let all = files.iter().zip(videos).zip(texts);
    for ((file, frames), text) in all {
        video::write(file, frames, fps(request), text)?;
    }
    Ok(())
}

/// The bytes for standard output, in the format of the default file.
fn encode(frames: &[Image], request: &Request, text: &str) -> Result<Vec<u8>, MediaError> {
    let pictures = frames[0].width / request.shape.width.max(1);
    let named = default_file("standard output", request, pictures);
    match request.shape.frames {
        1 => picture::encode(&named, &frames[0], text),
        _ => video::encode(&named, frames, fps(request), text),
    }
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
