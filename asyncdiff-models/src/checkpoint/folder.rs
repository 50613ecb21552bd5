//! A model in diffusers' folder layout.

use std::fs;
use std::path::{Path, PathBuf};

use asyncdiff_burn::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_burn::weights::{WeightFile, WeightSet};

use super::error::CheckpointError;
use super::weight_files::{self, WeightFiles};

/// The names of weight files of the parts of a pipeline: of diffusers' models, and of transformers'.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A model in diffusers' folder layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    path: PathBuf,
    /// Of the weights, such as `fp16`.
    variant: Option<String>,
}

impl Folder {
    pub fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        Self::with(path, "model_index.json", CheckpointError::NoModelIndex)
    }

    /// One model without a pipeline around it.
    pub fn open_part(path: PathBuf) -> Result<Self, CheckpointError> {
        Self::with(path, "config.json", CheckpointError::NoConfig)
    }

    fn with(
        path: PathBuf,
        file: &str,
        without: fn(PathBuf) -> CheckpointError,
    ) -> Result<Self, CheckpointError> {
        if !path.is_dir() {
            return Err(CheckpointError::NoFolder(path));
        }
        if !path.join(file).is_file() {
            return Err(without(path));
        }
        Ok(Self {
            path,
            variant: None,
        })
    }

    pub fn with_variant(self, variant: &str) -> Result<Self, CheckpointError> {
        let mut found = self.variants();
        if !found.iter().any(|known| known == variant) {
            found.retain(|known| !known.is_empty());
            return Err(CheckpointError::NoVariant {
                model: self.path.display().to_string(),
                variant: variant.to_owned(),
                found,
            });
        }
        Ok(Self {
            variant: Some(variant.to_owned()),
            ..self
        })
    }

    /// All variants of weights that any part has, sorted; empty for the plain ones.
    fn variants(&self) -> Vec<String> {
        let mut found: Vec<_> = names(&self.path)
            .iter()
            .flat_map(|part| names(&self.path.join(part)))
            .filter_map(|name| {
                let variant = |stem| weight_files::variant(&name, stem).map(str::to_owned);
                STEMS.into_iter().find_map(variant)
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// Where the file `name` is, or should be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn weights(&self, part: &str, stem: &str) -> Result<WeightSet, CheckpointError> {
        let folder = self.file(part);
        let names = names(&folder);
        let variant = self.variant.as_deref();
        match weight_files::choose(&folder.display().to_string(), &names, stem, variant)? {
            WeightFiles::Whole(name) => Ok(WeightFile::open(&folder.join(name))?.into()),
            WeightFiles::Sharded(index) => {
                let path = folder.join(index);
                let index = path.display().to_string();
                let bytes = files::read(&path, MOST_BYTES_OF_TEXT).map_err(|source| {
                    CheckpointError::Read {
                        file: index.clone(),
                        source,
                    }
                })?;
                let open = |shard: &str| Ok(WeightFile::open(&folder.join(shard))?);
                weight_files::sharded(index, &bytes, &names, open)
            }
        }
    }
}

/// The names in a folder, sorted; none if it cannot be read, which whoever wants a file of it finds out with a reason.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
