//! Why a file cannot be read or written.

use std::io;
use std::path::{Path, PathBuf};

/// Why a picture or video cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// A file cannot be read as a picture.
    #[error("cannot read {}: {problem}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ReadProblem,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}: {problem}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with its name, its place or its content.
        problem: WriteProblem,
    },
}

impl MediaError {
    pub(crate) fn read(path: &Path, problem: impl Into<ReadProblem>) -> Self {
        Self::Read {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn write(path: &Path, problem: impl Into<WriteProblem>) -> Self {
        Self::Write {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// What is wrong with a file that should be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadProblem {
    /// It cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file begins like none of the known formats.
    #[error("it is no PNG, JPEG or WebP picture, convert it to one of these")]
    NotAPicture,
    /// The file begins like a picture but cannot be decoded to its end.
    #[error("the {format} picture is damaged or cut short ({reason}), get the file again")]
    Damaged {
        /// The format that the file begins like.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// Decoded, the picture would take too much memory.
    #[error(
        "the picture has {width} by {height} pixels, at most {limit} pixels are read; make it smaller"
    )]
    TooLarge {
        /// Pixels per row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// The most pixels that are read.
        limit: usize,
    },
}

/// What is wrong with a file or folder that should be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteProblem {
    /// The operating system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file is to be written where a folder is.
    #[error("it names a folder, not a file")]
    Folder,
    /// The folder of the file is not there.
    #[error("the folder {} does not exist, create it first", .0.display())]
    MissingFolder(PathBuf),
    /// Nothing can be created in the folder of the file.
    #[error("{0}; give a folder that can be written to")]
    Forbidden(io::Error),
    /// No known picture format has this extension.
    #[error(
        "pictures are written as PNG, JPEG or WebP, give a name that ends in .png, .jpg, .jpeg or .webp"
    )]
    PictureExtension,
    /// No known video format has this extension.
    #[error(
        "videos are written as MP4, GIF, animated WebP or PNG, or as a folder of numbered pictures; give a name that ends in .mp4, .gif, .webp, .png or /"
    )]
    VideoExtension,
    /// This build has no MP4.
    #[error(
        "this program was built without the feature mp4; give a name that ends in .gif, .webp, .png or /, or build it with the feature"
    )]
    NoMp4,
    /// A folder is to be written where a file is.
    #[error("it names a file, not a folder; give a folder that does not exist")]
    File,
    /// The path ends in `.`, `..` or `/`, where no folder can be put.
    #[error("it names no folder of its own, give one that can be created")]
    Nameless,
    /// A folder for frames holds something else.
    #[error("the folder holds {}, which is no frame of a video; give a folder that does not exist", .0.display())]
    Occupied(PathBuf),
    /// A video without frames.
    #[error("a video needs at least one frame")]
    NoFrames,
    /// The frames of a video have several sizes.
    #[error("frame {index} has {} by {} pixels, the first frame {} by {}; all need one size", found.0, found.1, first.0, first.1)]
    FrameSizes {
        /// Width and height of the first frame.
        first: (usize, usize),
        /// Number of the first that differs, from 0.
        index: usize,
        /// Its width and height.
        found: (usize, usize),
    },
    /// The format cannot play that fast, or the video would stand still.
    #[error("{format} plays 1 to {most} frames a second, found {found}")]
    FrameRate {
        /// Name of the format.
        format: &'static str,
        /// The most frames a second.
        most: u32,
        /// The frames a second asked for.
        found: u32,
    },
    /// The picture has other than the bytes that its size asks for, or no pixel.
    #[error("a picture of {width} by {height} pixels with {found} bytes is none")]
    Torn {
        /// Pixels per row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// Number of bytes found.
        found: usize,
    },
    /// A side is shorter or longer than the format allows.
    #[error(
        "{format} holds {least} to {most} pixels a side, found {width} by {height}; make it smaller, or choose another format"
    )]
    Side {
        /// Name of the format.
        format: &'static str,
        /// Pixels per row.
        width: usize,
        /// Number of rows.
        height: usize,
        /// The shortest side.
        least: usize,
        /// The longest side.
        most: usize,
    },
    /// The text that comes with the picture does not fit the format.
    #[error("the text that comes with it {0}")]
    Text(&'static str),
    /// The encoder refuses.
    #[error("{0}")]
    Encoder(String),
}
