//! Folders of numbered pictures.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use asyncdiff_models::image::Image;

use crate::error::{MediaError, WriteProblem};
use crate::file::{check_folder, folder_of, through_links, unused_name};
use crate::{picture, stale};

/// Writes the frames into a folder that appears whole or not at all: it is filled beside its place and takes its name at
/// the end.
pub(super) fn write(path: &Path, frames: &[Image], text: &str) -> Result<(), MediaError> {
    let io = |error: io::Error| MediaError::write(path, error);
    check(path).map_err(|problem| MediaError::write(path, problem))?;
    let target = target_of(path).map_err(io)?;
    let ((), temporary) =
        unused_name(folder_of(&target), |path| fs::create_dir(path)).map_err(io)?;
    let _held = stale::hold(&temporary);
    let files: Vec<_> = (0..frames.len())
        .map(|index| temporary.join(format!("frame-{index:04}.png")))
        .collect();
    let written = picture::write_all(&files, frames, &vec![text.to_owned(); frames.len()])
        .and_then(|()| take_place(&temporary, &target).map_err(io));
    if written.is_err() {
        // What went wrong first is worth telling; that the leftover cannot be removed either is not.
        let _ = fs::remove_dir_all(&temporary);
    }
    written.map_err(|error| match error {
        // Of the folder that was asked for, not of a file in another.
        MediaError::Write { problem, .. } => MediaError::write(path, problem),
        other => other,
    })
}

/// Renames `new`, and removes the folder whose name it takes.
fn take_place(new: &Path, target: &Path) -> io::Result<()> {
    if !target.is_dir() {
        return fs::rename(new, target);
    }
    let move_away = |path: &Path| match path.exists() {
        true => Err(io::ErrorKind::AlreadyExists.into()),
        false => fs::rename(target, path),
    };
    let ((), old) = unused_name(folder_of(target), move_away)?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(&old, target)?;
        return Err(error);
    }
    fs::remove_dir_all(old)
}

/// Whether [`write()`] could write there.
pub(super) fn check(path: &Path) -> Result<(), WriteProblem> {
    let target = target_of(path)?;
    if target.file_name().is_none() {
        return Err(WriteProblem::Nameless);
    }
    if target.is_dir() {
        for entry in fs::read_dir(&target)? {
            let name = entry?.file_name();
            if !is_frame(&name.to_string_lossy()) {
                return Err(WriteProblem::Occupied(name.into()));
            }
        }
    } else if target.exists() {
        return Err(WriteProblem::File);
    }
    check_folder(folder_of(&target))
}

/// Whether there is a frame in the folder, if it is one.
pub(super) fn holds_frames(path: &Path) -> bool {
    let mut entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.any(|entry| is_frame(&entry.file_name().to_string_lossy()))
}

fn is_frame(name: &str) -> bool {
    let number = name
        .strip_prefix("frame-")
        .and_then(|rest| rest.strip_suffix(".png"));
    number.is_some_and(|digits| {
        digits.len() >= 4 && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Where the folder goes: a separator at the end is of no account, and links are followed.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    through_links(&path.components().collect::<PathBuf>())
}
