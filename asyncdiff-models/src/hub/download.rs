//! Downloads of one commit of a model into the cache, through the `hf-hub` crate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::{DownloadProgress, Hub, HubError, is_weights, page};
use crate::checkpoint::HubId;

/// A commit of a model on the Hub. All files are of that one, whatever is pushed meanwhile.
pub(super) struct Online<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    api: Api,
    repo: ApiRepo,
    commit: String,
    names: Vec<String>,
    snapshot: PathBuf,
}

impl<'a> Online<'a> {
    /// Asks the Hub what the model's revision is now.
    pub fn open(hub: &'a Hub, id: &'a HubId) -> Result<Self, HubError> {
        let api = ApiBuilder::from_cache(Cache::new(hub.cache.clone()))
            .with_endpoint(hub.endpoint.clone())
            .with_token(hub.token.clone())
            .with_progress(false)
            .build()
            .map_err(|error| explain(hub, id, &id.name, error))?;
        let repo = |revision: &str| {
            Repo::with_revision(id.name.clone(), RepoType::Model, revision.to_owned())
        };
        let info = api
            .repo(repo(&id.revision))
            .info()
            .map_err(|error| explain(hub, id, &id.name, error))?;
        let plain =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        if !plain(&info.sha) {
            return Err(HubError::Answer {
                endpoint: hub.endpoint.clone(),
                what: id.to_string(),
                reason: format!("with the commit {:?}", info.sha),
            });
        }
        let names = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Self {
            hub,
            id,
            repo: api.repo(repo(&info.sha)),
            api,
            snapshot: hub.repository(id).join("snapshots").join(&info.sha),
            commit: info.sha,
            names: names.filter(|name| is_inside(name)).collect(),
        })
    }

    /// The names of the commit's files.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The folder in the cache that the files come into.
    pub fn snapshot(&self) -> &Path {
        &self.snapshot
    }

    /// Downloads the file `name`, unless it is there.
    pub fn get(
        &self,
        name: &str,
        progress: &mut dyn DownloadProgress,
    ) -> Result<PathBuf, HubError> {
        let path = self.snapshot.join(name);
        if path.is_file() || (is_weights(name) && self.link(name, &path)?) {
            return Ok(path);
        }
        match self.try_get(name, progress) {
            // What an earlier try has left does not fit the file, or is the whole of it: start afresh, once.
            Err(Broken::Remains) => {
                self.forget(name)?;
                self.try_get(name, progress)
            }
            other => other,
        }
        .map_err(|broken| match broken {
            Broken::Remains => HubError::BrokenOff {
                id: self.id.clone(),
                name: name.to_owned(),
                reason: "its size is not what the Hub says".to_owned(),
            },
            Broken::Error(error) => error,
        })
    }

    fn try_get(&self, name: &str, progress: &mut dyn DownloadProgress) -> Result<PathBuf, Broken> {
        let mut size = None;
        let report = Report {
            progress: &mut *progress,
            size: &mut size,
        };
        let path = match self.repo.download_with_progress(name, report) {
            Ok(path) => path,
            Err(ApiError::InvalidResume) => return Err(Broken::Remains),
            Err(ApiError::RequestError(error)) if is_status(&error, 416) => {
                return Err(Broken::Remains);
            }
            // Copying the answer into the cache.
            Err(ApiError::IoError(error)) => {
                return Err(Broken::Error(self.interrupted(name, &error)));
            }
            Err(error) => return Err(Broken::Error(explain(self.hub, self.id, name, error))),
        };
        let found = fs::metadata(&path).map(|file| file.len());
        if found.ok() != size {
            self.forget(name)?;
            return Err(Broken::Remains);
        }
        progress.finish();
        Ok(path)
    }

    fn interrupted(&self, name: &str, error: &io::Error) -> HubError {
        use io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::QuotaExceeded
            | ErrorKind::NotADirectory => self.cache_error(error),
            _ => HubError::BrokenOff {
                id: self.id.clone(),
                name: name.to_owned(),
                reason: error.to_string(),
            },
        }
    }

    fn cache_error(&self, error: &io::Error) -> HubError {
        HubError::Cache {
            cache: self.hub.cache.clone(),
            reason: error.to_string(),
        }
    }

    /// The file of `name` in the cache, which commits share.
    fn blob(&self, name: &str) -> Result<(PathBuf, u64), HubError> {
        let metadata = self
            .api
            .metadata(&self.repo.url(name))
            .map_err(|error| explain(self.hub, self.id, name, error))?;
        let etag = Path::new(metadata.etag()).file_name().unwrap_or_default();
        let blobs = self.hub.repository(self.id).join("blobs");
        Ok((blobs.join(etag), metadata.size() as u64))
    }

    /// Removes what a try has left of the file `name`.
    fn forget(&self, name: &str) -> Result<(), HubError> {
        let (blob, _) = self.blob(name)?;
        for path in [self.snapshot.join(name), blob.with_extension("part"), blob] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.cache_error(&error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the file `name` from another commit that has the same, if there is one.
    fn link(&self, name: &str, path: &Path) -> Result<bool, HubError> {
        let (blob, size) = self.blob(name)?;
        if fs::metadata(&blob).map(|file| file.len()).ok() != Some(size) {
            return Ok(false);
        }
        // From the file's folder up to the model's, past `snapshots` and the commit.
        let up = "../".repeat(name.split('/').count() + 1);
        let target = Path::new(&up)
            .join("blobs")
            .join(blob.file_name().unwrap_or_default());
        let folder = path.parent().unwrap_or(&self.snapshot);
        fs::create_dir_all(folder)
            .and_then(|()| link(&target, &blob, path))
            .map_err(|error| self.cache_error(&error))?;
        Ok(true)
    }

    /// Notes in the cache that the model's revision is this commit, now that its files are there.
    pub fn name_revision(&self) -> Result<(), HubError> {
        let revision = self.id.revision.clone();
        let repo = Repo::with_revision(self.id.name.clone(), RepoType::Model, revision);
        Cache::new(self.hub.cache.clone())
            .repo(repo)
            .create_ref(&self.commit)
            .map_err(|error| self.cache_error(&error))
    }
}

/// How a download fails.
enum Broken {
    /// Because of what an earlier one has left.
    Remains,
    Error(HubError),
}

impl From<HubError> for Broken {
    fn from(error: HubError) -> Self {
        Self::Error(error)
    }
}

/// Whether a name stays inside the model's folder.
fn is_inside(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(plain) && !name.contains(['\\', ':'])
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

/// Hands on what `hf-hub` reports, which starts a file twice.
struct Report<'a> {
    progress: &'a mut dyn DownloadProgress,
    size: &'a mut Option<u64>,
}

impl hf_hub::api::Progress for Report<'_> {
    fn init(&mut self, size: usize, name: &str) {
        if self.size.replace(size as u64).is_none() {
            self.progress.start(name, size as u64);
        }
    }

    fn update(&mut self, size: usize) {
        self.progress.advance(size as u64);
    }

    /// Comes before the file has its name in the cache.
    fn finish(&mut self) {}
}

fn is_status(error: &ureq::Error, status: u16) -> bool {
    matches!(error, ureq::Error::StatusCode(code) if *code == status)
}

/// What an error of the crate means for whoever asked for `what`.
fn explain(hub: &Hub, id: &HubId, what: &str, error: ApiError) -> HubError {
    let endpoint = hub.endpoint.clone();
    let id = id.clone();
    let answer = |reason: String| HubError::Answer {
        endpoint: hub.endpoint.clone(),
        what: what.to_owned(),
        reason,
    };
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(404) => HubError::NoModel { id, endpoint },
            ureq::Error::StatusCode(status @ (401 | 403)) => HubError::Denied {
                page: page(&endpoint, &id),
                id,
                status,
            },
            ureq::Error::StatusCode(status) => answer(format!("with the status {status}")),
            ureq::Error::Json(error) => answer(format!("something else than expected ({error})")),
            other => HubError::NoNetwork {
                id,
                endpoint,
                reason: other.to_string(),
            },
        },
        ApiError::IoError(error) => HubError::Cache {
            cache: hub.cache.clone(),
            reason: error.to_string(),
        },
        ApiError::LockAcquisition(path) => HubError::Cache {
            cache: hub.cache.clone(),
            reason: format!(
                "another program is downloading the same file (it holds {})",
                path.display()
            ),
        },
        other => answer(other.to_string()),
    }
}
