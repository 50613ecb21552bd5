//! Models of the Hugging Face Hub.
//!
//! [`Hub::fetch`] downloads the files of a pipeline that are read, and no others, into a cache of the Hub's layout, which
//! other programs share. What the environment says (`HF_HOME`, `HF_TOKEN`, …) is the caller's business: it fills in [`Hub`].

mod download;
mod error;
mod needed;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use crate::checkpoint::{Checkpoint, CheckpointError, HubId};
use crate::class::Class;
use download::Online;
pub use error::HubError;
use needed::Kind;

/// The Hub's address.
pub const ENDPOINT: &str = "https://huggingface.co";

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
}

/// A token is nobody's business.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
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
        let commit = fs::read_to_string(repository.join("refs").join(&id.revision));
        let commit = commit.map_or(id.revision.clone(), |commit| commit.trim().to_owned());
        let folder = repository.join("snapshots").join(commit);
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

    /// The folder of a model in the cache.
    fn repository(&self, id: &HubId) -> PathBuf {
        let name = Repo::new(id.name.clone(), RepoType::Model).folder_name();
        self.cache.join(name)
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
