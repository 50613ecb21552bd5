//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{MediaError, WriteProblem};

/// Writes a file that appears whole or not at all: a temporary file beside it takes its name at the end. A file that is
/// already there is replaced.
///
/// # Errors
///
/// [`MediaError::Write`]; nothing is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    let cannot = |error: io::Error| MediaError::write(path, error);
    let (mut file, temporary) = create_beside(folder_of(path)).map_err(cannot)?;
    let written = file
        .write_all(bytes)
        // Without this a crash of the machine may leave the new name with nothing in it.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What went wrong first is worth telling; that the leftover cannot be removed either is not.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(cannot)
}

/// Whether [`write_whole`] could write there, by trying out its folder.
pub(crate) fn check(path: &Path) -> Result<(), WriteProblem> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(WriteProblem::Folder);
    }
    check_folder(folder_of(path))
}

/// Whether something can be created in the folder.
pub(crate) fn check_folder(folder: &Path) -> Result<(), WriteProblem> {
    if !folder.is_dir() {
        return Err(WriteProblem::MissingFolder(folder.to_owned()));
    }
    let (_, temporary) = create_beside(folder).map_err(WriteProblem::Forbidden)?;
    let _ = fs::remove_file(temporary);
    Ok(())
}

/// The folder that holds the file, `.` where the path names none.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file in `folder`, hidden, under a name that nobody else uses.
fn create_beside(folder: &Path) -> io::Result<(File, PathBuf)> {
    unused_name(folder, |path| File::create_new(path))
}

/// What `create` makes under a hidden name in `folder` that nobody else uses, and that name.
pub(crate) fn unused_name<T>(
    folder: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    let process = std::process::id();
    let mut attempt = 0_u32;
    loop {
        let path = folder.join(format!(".asyncdiff-{process}-{attempt}.tmp"));
        match create(&path) {
            Ok(made) => return Ok((made, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
