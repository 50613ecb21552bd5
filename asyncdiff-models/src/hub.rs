//! Models of the Hugging Face Hub.
//!
//! [`Hub::fetch`] downloads the files of a pipeline that are read, and no others, into a cache of the Hub's layout, which
//! other programs share. Neither the Hub nor what lies between is trusted: the token goes to the Hub alone, every name is
//! checked before it becomes a path, every wait and every file has its bound, and large files their SHA-256. What the environment says (`HF_HOME`, `HF_TOKEN`, …) is the caller's business: it fills in [`Hub`].

mod cache;
mod client;
mod download;
mod error;
mod needed;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::{Checkpoint, CheckpointError, HubId};
use crate::class::Class;
use cache::Repository;
use download::Online;
pub use error::HubError;
use needed::Kind;

/// The Hub's address.
pub const ENDPOINT: &str = "https://huggingface.co";

/// How long `huggingface_hub` waits for a server, too.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the Hub, and where its files are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// The folder with the `models--org--name` folders.
    pub cache: PathBuf,
    /// For models that are private, or whose terms have to be accepted.
    pub token: Option<String>,
    /// The address, without a slash at the end.
    pub endpoint: String,
    /// Whether to use nothing but the cache.
    pub offline: bool,
    /// How long nothing may come, or next to nothing, before a server is given up.
    pub timeout: Duration,
}

/// A token is nobody's business.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Is told how far a download is. Files come one after another: for each, one `start`, any number of `advance`, one `finish`
/// unless it fails. Files that are in the cache already are not mentioned.
pub trait DownloadProgress {
    /// The file `name` of the model, of `bytes` bytes, begins.
    fn start(&mut self, name: &str, bytes: u64);
    /// So many bytes more of it have come, or were there from an earlier try.
    fn advance(&mut self, bytes: u64);
    /// It is in the cache.
    fn finish(&mut self);
    /// The Hub cannot be reached, and what is used is the model as it was when it was downloaded.
    fn cached(&mut self, reason: &HubError);
}

/// No report.
impl DownloadProgress for () {
    fn start(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn finish(&mut self) {}
    fn cached(&mut self, _: &HubError) {}
}

impl Hub {
    /// The public Hub, without a token.
    #[must_use]
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            token: None,
            endpoint: ENDPOINT.to_owned(),
            offline: false,
            timeout: TIMEOUT,
        }
    }

    /// The model `id`: what is not in the cache is downloaded. `variant` is as in [`Checkpoint::with_variant`].
    ///
    /// Downloads are of configurations, tokenizers, and the safetensors files of the parts that `model_index.json` names, in
    /// the variant that is used; nothing is downloaded of a pipeline class that is not implemented. A download that breaks
    /// off is continued by the next. When the Hub cannot be reached, a model that is in the cache is used as it is.
    ///
    /// # Errors
    ///
    /// [`HubError`]; [`HubError::Checkpoint`] for a pipeline class that is not implemented, or a part without usable weights.
    pub fn fetch(
        &self,
        id: &HubId,
        variant: Option<&str>,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Checkpoint, HubError> {
        let checkpoint = Checkpoint::folder(self.files(id, Kind::Pipeline, variant, progress)?)?;
        Ok(match variant {
            Some(variant) => checkpoint.with_variant(variant)?,
            None => checkpoint,
        })
    }

    /// The model `id` that is a part of a pipeline, such as a motion adapter, as [`Checkpoint::part`]: as
    /// [`fetch`](Self::fetch), but of its `config.json` and its weights.
    ///
    /// # Errors
    ///
    /// [`HubError`]; [`HubError::Checkpoint`] if there are no usable weights.
    pub fn fetch_part(
        &self,
        id: &HubId,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Checkpoint, HubError> {
        Ok(Checkpoint::part(self.files(
            id,
            Kind::Part,
            None,
            progress,
        )?)?)
    }

    /// The folder with the files of a model.
    fn files(
        &self,
        id: &HubId,
        kind: Kind,
        variant: Option<&str>,
        progress: &mut dyn DownloadProgress,
    ) -> Result<PathBuf, HubError> {
        if self.offline {
            return self.cached(id, kind, variant);
        }
        match self.download(id, kind, variant, progress) {
            Err(reason @ HubError::NoNetwork { .. }) => match self.cached(id, kind, variant) {
                Ok(folder) => {
                    progress.cached(&reason);
                    Ok(folder)
                }
                Err(_) => Err(reason),
            },
            other => other,
        }
    }

    fn download(
        &self,
        id: &HubId,
        kind: Kind,
        variant: Option<&str>,
        progress: &mut dyn DownloadProgress,
    ) -> Result<PathBuf, HubError> {
        let online = Online::open(self, id)?;
        let names = online.names().to_vec();
        let mut get = |name: &str| online.get(name, progress);
        let first = kind.first_file();
        if !names.iter().any(|name| name == first) {
            return Err(HubError::NoFile {
                id: id.clone(),
                file: first,
            });
        }
        get(first)?;
        let folder = online.snapshot();
        if kind == Kind::Pipeline {
            Class::of(&Checkpoint::folder(folder)?)?;
        }
        let id = id.to_string();
        needed::get_all(folder, &id, kind, &names, variant, &mut get)?;
        online.name_revision()?;
        Ok(folder.to_owned())
    }

    /// The folder of a model that is wholly in the cache.
    fn cached(&self, id: &HubId, kind: Kind, variant: Option<&str>) -> Result<PathBuf, HubError> {
        let not_cached = |missing: String| HubError::NotCached {
            id: id.clone(),
            cache: self.cache.clone(),
            missing,
        };
        let repository = self.repository(id);
        let commit = repository.commit(&id.revision);
        let commit = commit.ok_or_else(|| not_cached(format!("revision {}", id.revision)))?;
        let folder = repository.snapshot(&commit);
        let mut get = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(not_cached(name.to_owned()))
            }
        };
        get(kind.first_file())?;
        let names = needed::files_below(&folder);
        match needed::get_all(&folder, &id.to_string(), kind, &names, variant, &mut get) {
            // A file that is there and cannot be read is another matter.
            Err(HubError::Checkpoint(fault))
                if !matches!(
                    fault,
                    CheckpointError::Read { .. } | CheckpointError::Json { .. }
                ) =>
            {
                Err(not_cached(format!("part of it: {fault}")))
            }
            other => other,
        }?;
        Ok(folder)
    }

    /// A model's part of the cache.
    fn repository(&self, id: &HubId) -> Repository {
        Repository::new(&self.cache, id)
    }
}

/// Where a person reads about a model, and accepts its terms.
fn page(endpoint: &str, id: &HubId) -> String {
    format!("{endpoint}/{}", id.name)
}

/// Whether a path is that of weights, which are worth a second look before they are downloaded.
fn is_weights(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "safetensors")
}
