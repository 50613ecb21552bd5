//! The cache on disk, in the layout of Python's `huggingface_hub`, which shares it.
//!
//! ```text
//! models--org--name/blobs/ETAG                 contents; ETAG.incomplete while they come
//! models--org--name/snapshots/COMMIT/NAME      a link to a blob
//! models--org--name/refs/REVISION              the commit that a branch or tag was at
//! .locks/models--org--name/ETAG.lock           held by who downloads a blob
//! ```
//!
//! What a server says becomes a part of a path only after [`is_inside`] or [`is_plain`] has said that it stays where it belongs.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use asyncdiff_burn::files;

use super::HubError;
use crate::checkpoint::HubId;

/// One model's part of a cache.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    cache: PathBuf,
    name: String,
}

impl Repository {
    pub fn new(cache: &Path, id: &HubId) -> Self {
        Self {
            cache: cache.to_owned(),
            name: format!("models--{}", id.name.replace('/', "--")),
        }
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The file with the commit that a revision was at.
    fn reference(&self, revision: &str) -> PathBuf {
        self.folder().join("refs").join(revision)
    }

    /// The commit that a revision was at when it was downloaded; a revision that is a commit is its own.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let commit = match files::read(&self.reference(revision), 1024) {
            Ok(commit) => String::from_utf8(commit).ok()?.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        is_plain(&commit).then_some(commit)
    }

    /// Notes what a revision is, now that its files are there.
    pub fn name_revision(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.reference(revision);
        let folder = path.parent().unwrap_or(&self.cache);
        // A name that no revision has, so that whoever reads meanwhile finds the old one or the new one.
        let temporary = folder.join(format!(".asyncdiff-{}.tmp", std::process::id()));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&temporary, commit))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| self.error(&error))
    }

    /// The folder of a commit's files; the commit [is plain](is_plain).
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The place of contents, whose etag [is plain](is_plain).
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// What there is of contents that have not come whole.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder()
            .join("blobs")
            .join(format!("{etag}.incomplete"))
    }

    /// Keeps others, `huggingface_hub` included, from downloading the same contents until what it returns is dropped.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let folder = self.cache.join(".locks").join(&self.name);
        let path = folder.join(format!("{etag}.lock"));
        let make = || {
            fs::create_dir_all(&folder)?;
            fs::create_dir_all(self.folder().join("blobs"))?;
            let mut options = File::options();
            options.create(true).truncate(false).write(true).open(&path)
        };
        let file = make().map_err(|error| self.error(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(HubError::Cache {
                cache: self.cache.clone(),
                reason: format!(
                    "another program is downloading the same file (it holds {})",
                    path.display()
                ),
            }),
            Err(TryLockError::Error(error)) => Err(self.error(&error)),
        }
    }

    /// Gives contents that are whole the name of a file of a commit; the name [is inside](is_inside).
    pub fn link(&self, etag: &str, commit: &str, name: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(name);
        // From the file's folder up to the model's, past `snapshots` and the commit.
        let up = "../".repeat(name.split('/').count() + 1);
        let target = Path::new(&up).join("blobs").join(etag);
        let blob = self.blob(etag);
        fs::create_dir_all(path.parent().unwrap_or(&self.cache))
            .and_then(|()| match fs::remove_file(&path) {
                // A link to contents that are no more.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => link(&target, &blob, &path),
            })
            .map_err(|error| self.error(&error))?;
        Ok(path)
    }

    /// Removes a file that may not be there.
    pub fn remove(&self, path: &Path) -> Result<(), HubError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(&error)),
            _ => Ok(()),
        }
    }

    /// Bytes that the cache's disk has room for, where the system says so.
    pub fn room(&self) -> Option<u64> {
        room(&self.folder())
    }

    /// What is wrong with the cache.
    pub fn error(&self, error: &io::Error) -> HubError {
        HubError::Cache {
            cache: self.cache.clone(),
            reason: error.to_string(),
        }
    }
}

/// Contents on their way into the cache.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub file: File,
    pub path: PathBuf,
}

impl Incomplete {
    /// Gives them their name.
    pub fn finish(mut self, blob: &Path) -> io::Result<()> {
        self.file.flush()?;
        // Without this a crash of the machine may leave the name with nothing behind it.
        self.file.sync_all()?;
        fs::rename(&self.path, blob)
    }
}

/// Whether a file's name stays inside the model's folder, on every system.
pub(super) fn is_inside(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.len() <= 255 && part != "." && part != ".." && !part.ends_with(' ')
    };
    name.len() <= 1024
        && name.split('/').all(plain)
        && !name.contains(['\\', ':'])
        && !name.contains(char::is_control)
}

/// Whether a commit or an etag is one plain word, which no path can be led astray with.
pub(super) fn is_plain(word: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=128).contains(&word.len()) && word.chars().all(known)
}

/// A second name for a file of the cache; `target` is `blob` as seen from the folder of `path`.
#[cfg(unix)]
fn link(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// A second name for a file of the cache; not everyone may make symbolic links.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

#[cfg(unix)]
fn room(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn room(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words_that_could_lead_elsewhere_are_known() {
        for name in ["config.json", "unet/a b.safetensors", ".gitattributes"] {
            assert!(is_inside(name), "{name}");
        }
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "./a",
            "a/.",
            "a\\..\\b",
            "C:a",
            "a\0b",
            "a\nb",
            "a/ ",
        ] {
            assert!(!is_inside(name), "{name:?}");
        }
        assert!(!is_inside(&"a".repeat(256)));
        for word in ["5d41402abc4b2a76b9719d911017c592-2", "0123456789abcdef"] {
            assert!(is_plain(word), "{word}");
        }
        for word in ["", ".", "..", "a/b", "../../x", "/x", "a.lock", "a\0", "é"] {
            assert!(!is_plain(word), "{word:?}");
        }
        assert!(!is_plain(&"a".repeat(129)));
    }
}
