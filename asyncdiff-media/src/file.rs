//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use asyncdiff_models::files;

use crate::error::{MediaError, WriteProblem};
use crate::stale;

/// As many as Linux follows.
const MOST_LINKS: usize = 40;

/// Writes a file that appears whole or not at all: a temporary file beside it takes its name at the end. A file that is
/// already there is replaced; of a symbolic link, the file that it leads to.
///
/// # Errors
///
/// [`MediaError::Write`]; nothing is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    let cannot = |error: io::Error| MediaError::write(path, error);
    let target = through_links(path).map_err(cannot)?;
    check_kind(&target).map_err(cannot)?;
    let (mut file, temporary) = create_beside(folder_of(&target)).map_err(cannot)?;
    let written = file
        .write_all(bytes)
        // Without this a crash of the machine may leave the new name with nothing in it.
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // What went wrong first is worth telling; that the leftover cannot be removed either is not.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(cannot)
}

/// Whether [`write_whole`] could write there, by trying out its folder: to be asked before the work whose result is written.
///
/// # Errors
///
/// [`MediaError::Write`] if it names a folder, or one that is not there or cannot be written to.
pub fn check_path(path: &Path) -> Result<(), MediaError> {
    check(path).map_err(|problem| MediaError::write(path, problem))
}

pub(crate) fn check(path: &Path) -> Result<(), WriteProblem> {
    let target = through_links(path)?;
    if target.is_dir() || target.file_name().is_none() {
        return Err(WriteProblem::Folder);
    }
    check_kind(&target)?;
    check_folder(folder_of(&target))
}

/// Refuses to put a file where a device, a pipe or the like is.
fn check_kind(target: &Path) -> io::Result<()> {
    match fs::metadata(target) {
        Ok(found) => match files::refusal(found.file_type()) {
            Some(refusal) => Err(io::Error::new(ErrorKind::InvalidInput, refusal)),
            None => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// Whether something can be created in the folder. What killed runs have left there is removed.
pub(crate) fn check_folder(folder: &Path) -> Result<(), WriteProblem> {
    if !folder.is_dir() {
        return Err(WriteProblem::MissingFolder(folder.to_owned()));
    }
    stale::remove(folder);
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

/// Where a path leads, through symbolic links, whether or not something is there.
pub(crate) fn through_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..=MOST_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            // No link, or nothing at all.
            Err(_) => return Ok(path),
        }
    }
    let circle = "it is a symbolic link that leads to itself";
    Err(io::Error::new(ErrorKind::InvalidInput, circle))
}

/// A new file in `folder`, hidden, under a name that nobody else uses; held until it is closed.
fn create_beside(folder: &Path) -> io::Result<(File, PathBuf)> {
    let (file, path) = unused_name(folder, |path| File::create_new(path))?;
    // Where the file system has no locks, the process's number has to do.
    let _ = file.try_lock();
    Ok((file, path))
}

/// What `create` makes under a hidden name in `folder` that nobody else uses, and that name.
pub(crate) fn unused_name<T>(
    folder: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    let process = std::process::id();
    let mut attempt = 0_u32;
    loop {
        let path = folder.join(stale::name(process, attempt));
        match create(&path) {
            Ok(made) => return Ok((made, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
