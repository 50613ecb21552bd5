//! Where a model's files come from.

mod error;
mod weight_files;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_burn::weights::{WeightFile, WeightSet};
use serde::de::DeserializeOwned;

use crate::error::Error;
pub use error::CheckpointError;
use weight_files::WeightFiles;

/// The names of weight files of the parts of a pipeline: of diffusers' models, and of transformers'.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A model in diffusers' folder layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Folder {
        path: PathBuf,
        /// Of the weights, such as `fp16`.
        variant: Option<String>,
    },
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Checkpoint {
    /// A folder with a `model_index.json` and one folder for each part of the pipeline.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoFolder`] and [`CheckpointError::NoModelIndex`].
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let path = path.into();
        if !path.is_dir() {
            return Err(CheckpointError::NoFolder(path));
        }
        if !path.join("model_index.json").is_file() {
            return Err(CheckpointError::NoModelIndex(path));
        }
        Ok(Self {
            source: Source::Folder {
                path,
                variant: None,
            },
        })
    }

    /// The same folder with the weights `name.VARIANT.safetensors`, such as those of `fp16`, in the parts that have them.
    ///
    /// Without a variant, every part takes its plain weights, or its only variant if it has no plain ones. Weights are
    /// converted to the compute type either way: a variant with fewer bits is smaller on disk, not in memory.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoVariant`] if no part has weights of this variant.
    pub fn with_variant(self, variant: &str) -> Result<Self, CheckpointError> {
        let mut found = self.variants();
        if !found.iter().any(|known| known == variant) {
            found.retain(|known| !known.is_empty());
            return Err(CheckpointError::NoVariant {
                model: self.name(),
                variant: variant.to_owned(),
                found,
            });
        }
        Ok(match self.source {
            Source::Folder { path, .. } => Self {
                source: Source::Folder {
                    path,
                    variant: Some(variant.to_owned()),
                },
            },
            Source::Embedded(_) => self,
        })
    }

    /// All variants of weights that any part has, sorted; empty for the plain ones.
    fn variants(&self) -> Vec<String> {
        let parts: Vec<String> = match &self.source {
            Source::Folder { path, .. } => file_names(path),
            Source::Embedded(_) => Vec::new(),
        };
        let mut found: Vec<_> = parts
            .iter()
            .flat_map(|part| self.names(part))
            .filter_map(|name| {
                let variant = |stem| weight_files::variant(&name, stem).map(str::to_owned);
                STEMS.into_iter().find_map(variant)
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// The small emoji model that is part of the program; `embedded/README.md` is its card.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            source: Source::Embedded(crate::embedded::FILES),
        }
    }

    /// What to call the model in messages.
    fn name(&self) -> String {
        match &self.source {
            Source::Folder { path, .. } => path.display().to_string(),
            Source::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    /// What to call the file `name` of this model in messages.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match &self.source {
            Source::Folder { path, .. } => path.join(name).display().to_string(),
            Source::Embedded(_) => format!("embedded model, {name}"),
        }
    }

    /// Whether the model has a file `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder { path, .. } => path.join(name).is_file(),
            Source::Embedded(files) => files.iter().any(|(file, _)| *file == name),
        }
    }

    /// The contents of the file `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, Error> {
        let error = |source| Error::Read {
            file: self.describe(name),
            source,
        };
        match &self.source {
            Source::Folder { path, .. } => fs::read(path.join(name)).map(Cow::Owned).map_err(error),
            Source::Embedded(_) => self
                .embedded_file(name)
                .map(Cow::Borrowed)
                .ok_or_else(|| error(std::io::ErrorKind::NotFound.into())),
        }
    }

    /// The JSON file `name` as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] and [`Error::Json`].
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.read(name)?).map_err(|source| Error::Json {
            file: self.describe(name),
            source,
        })
    }

    /// The weights of one part of the pipeline: `<part>/<stem>.safetensors`, its shards, or a variant of either.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there are none, or a shard is missing; [`Error::Weights`] if a file cannot be opened.
    pub fn weights(&self, part: &str, stem: &str) -> Result<WeightSet, Error> {
        let variant = match &self.source {
            Source::Folder { variant, .. } => variant.as_deref(),
            Source::Embedded(_) => None,
        };
        let names = self.names(part);
        match weight_files::choose(&self.describe(part), &names, stem, variant)? {
            WeightFiles::Whole(name) => Ok(self.weight_file(&format!("{part}/{name}"))?.into()),
            WeightFiles::Sharded(name) => self.sharded(part, &names, &name),
        }
    }

    fn sharded(&self, part: &str, names: &[String], index: &str) -> Result<WeightSet, Error> {
        let file = format!("{part}/{index}");
        let index = self.describe(&file);
        let shards = weight_files::shards(&index, &self.read(&file)?)?;
        if let Some(missing) = shards.files.iter().find(|shard| !names.contains(shard)) {
            return Err(CheckpointError::MissingShard {
                index,
                shard: missing.clone(),
            }
            .into());
        }
        let files = shards
            .files
            .iter()
            .map(|shard| self.weight_file(&format!("{part}/{shard}")))
            .collect::<Result<_, _>>()?;
        Ok(WeightSet::sharded(index, files, shards.tensors))
    }

    fn weight_file(&self, name: &str) -> Result<WeightFile, Error> {
        match &self.source {
            Source::Folder { path, .. } => Ok(WeightFile::open(&path.join(name))?),
            Source::Embedded(_) => {
                let bytes = self.embedded_file(name).ok_or_else(|| Error::Read {
                    file: self.describe(name),
                    source: std::io::ErrorKind::NotFound.into(),
                })?;
                Ok(WeightFile::embedded(&self.describe(name), bytes))
            }
        }
    }

    /// The names in the folder of a part.
    fn names(&self, part: &str) -> Vec<String> {
        match &self.source {
            Source::Folder { path, .. } => file_names(&path.join(part)),
            Source::Embedded(files) => files
                .iter()
                .filter_map(|(file, _)| file.strip_prefix(part)?.strip_prefix('/'))
                .map(str::to_owned)
                .collect(),
        }
    }

    fn embedded_file(&self, name: &str) -> Option<&'static [u8]> {
        match &self.source {
            Source::Folder { .. } => None,
            Source::Embedded(files) => files
                .iter()
                .find_map(|(file, bytes)| (*file == name).then_some(*bytes)),
        }
    }
}

/// The names in a folder, sorted; none if it cannot be read, which whoever wants a file of it finds out with a reason.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
