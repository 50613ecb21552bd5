//! What runs that were killed have left.
//!
//! A file or folder on its way has the name `.asyncdiff-PROCESS-NUMBER.tmp`, and whoever writes it holds a lock on it. One whose
//! process is gone and which nobody holds (the process could be another machine's, or another container's) is rubbish.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A temporary name.
pub(crate) fn name(process: u32, number: u32) -> String {
    format!(".asyncdiff-{process}-{number}.tmp")
}

/// The process of a temporary name.
fn process(name: &str) -> Option<u32> {
    let (process, number) = name
        .strip_prefix(".asyncdiff-")?
        .strip_suffix(".tmp")?
        .split_once('-')?;
    let (process, number) = (process.parse().ok()?, number.parse().ok()?);
    // And not `+1`, `01` and the like, which we never write.
    (self::name(process, number) == name).then_some(process)
}

/// Says to everybody, as long as what it returns is kept, that somebody works on a file or folder. Not every file system can.
pub(crate) fn hold(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Removes what is stale in a folder; the first time that this program asks for it. What cannot be removed stays, which hurts nobody.
pub(crate) fn remove(folder: &Path) {
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_new = SEEN.lock().map(|mut seen| seen.insert(folder.to_owned()));
    if !matches!(is_new, Ok(true)) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(process) else {
            continue;
        };
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if is_running(process) || !(kind.is_file() || kind.is_dir()) || hold(&path).is_none() {
            continue;
        }
        let _ = match kind.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
    }
}

#[cfg(unix)]
fn is_running(process: u32) -> bool {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    // A process of somebody else runs as well.
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
}

/// Where nobody can be asked, all are left alone.
#[cfg(not(unix))]
fn is_running(_process: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_a_process() {
        assert_eq!(process(&name(17, 3)), Some(17));
        for other in [
            ".asyncdiff-17-3.png",
            "asyncdiff-17-3.tmp",
            ".asyncdiff-17.tmp",
            ".asyncdiff-x-3.tmp",
            ".asyncdiff-+17-3.tmp",
            ".asyncdiff-017-3.tmp",
            ".asyncdiff-17-3-4.tmp",
            ".asyncdiff-99999999999-0.tmp",
        ] {
            assert_eq!(process(other), None, "{other}");
        }
    }
}
