//! Where a model's files come from.

mod error;
mod folder;
mod location;
mod single_file;
mod weight_files;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_burn::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_burn::weights::{WeightFile, WeightSet};
use serde::de::DeserializeOwned;

use crate::json;
pub use error::CheckpointError;
use folder::Folder;
pub use location::{HubId, Location};
use single_file::SingleFile;
pub(crate) use weight_files::WeightFiles;
#[cfg(feature = "hub")]
pub(crate) use weight_files::{choose as choose_weights, has_variant, shards};

/// A model's files: in diffusers' folder layout, or as if they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Folder(Folder),
    SingleFile(Arc<SingleFile>),
    #[cfg_attr(
        not(feature = "embedded"),
        expect(dead_code, reason = "nothing is embedded")
    )]
    Embedded(EmbeddedFiles),
}

/// Files that are part of the program, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EmbeddedFiles {
    /// What they are, in messages.
    pub title: &'static str,
    pub files: &'static [(&'static str, &'static [u8])],
}

impl Checkpoint {
    /// A folder with a `model_index.json` and one folder for each part of the pipeline.
    ///
    /// A part's weights are `name.safetensors`, or shards of that with their `name.safetensors.index.json`. A part that has
    /// only a variant of them, such as `name.fp16.safetensors`, is read from that.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoFolder`] and [`CheckpointError::NoModelIndex`].
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        Ok(Self {
            source: Source::Folder(Folder::open(path.into())?),
        })
    }

    /// The same with the weights `name.VARIANT.safetensors`, such as those of `fp16`, in the parts that have them.
    ///
    /// Weights are converted to the compute type either way: fewer bits are less to download and to read from disk, and no
    /// less in memory.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoVariant`] if no part has weights of this variant.
    pub fn with_variant(self, variant: &str) -> Result<Self, CheckpointError> {
        match self.source {
            Source::Folder(folder) => Ok(Self {
                source: Source::Folder(folder.with_variant(variant)?),
            }),
            Source::SingleFile(_) | Source::Embedded(_) => Err(CheckpointError::NoVariant {
                model: self.describe(""),
                variant: variant.to_owned(),
                found: Vec::new(),
            }),
        }
    }

    /// A Stable Diffusion 1, 2 or XL checkpoint in one `.safetensors` file of the original layout, as web UIs load it.
    ///
    /// Names are converted, and configurations are inferred from the tensors and the file's metadata; what they cannot tell
    /// follows the original projects' configurations, as `from_single_file` of diffusers does. CLIP's tokenizer is built in.
    /// Where that does not fit, `config` is a folder with some or all of a diffusers folder's JSON files and tokenizers:
    /// what is in it (`scheduler/`, `unet/`, `tokenizer/`, …) goes before what is inferred or built in.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if the file cannot be read, is a pickle, another kind of file, another kind of model, or has a tensor
    /// that is not understood.
    pub fn single_file(
        path: impl Into<PathBuf>,
        config: Option<&Path>,
    ) -> Result<Self, CheckpointError> {
        let file = SingleFile::open(path.into(), config.map(Path::to_owned))?;
        Ok(Self {
            source: Source::SingleFile(Arc::new(file)),
        })
    }

    /// A folder of one model, such as a motion adapter: its `config.json`, and its weights beside that.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NoFolder`] and [`CheckpointError::NoConfig`].
    pub fn part(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        Ok(Self {
            source: Source::Folder(Folder::open_part(path.into())?),
        })
    }

    /// Files that are part of the program.
    #[cfg(feature = "embedded")]
    pub(crate) fn of_program(files: EmbeddedFiles) -> Self {
        Self {
            source: Source::Embedded(files),
        }
    }

    /// What had to be assumed about a single file because nothing in it says so: a sentence for whoever brought it.
    #[must_use]
    pub fn assumption(&self) -> Option<&str> {
        match &self.source {
            Source::SingleFile(file) => file.assumption(),
            Source::Folder(_) | Source::Embedded(_) => None,
        }
    }

    /// What to call the file `name` of this model in messages.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match &self.source {
            Source::Folder(folder) => folder.file(name).display().to_string(),
            Source::SingleFile(file) => file.describe(name),
            Source::Embedded(embedded) => format!("{}, {name}", embedded.title),
        }
    }

    /// Whether the model has a file `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder(folder) => folder.file(name).is_file(),
            Source::SingleFile(file) => file.has(name),
            Source::Embedded(embedded) => embedded.files.iter().any(|(file, _)| *file == name),
        }
    }

    /// The contents of the file `name`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Read`].
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, CheckpointError> {
        let error = |source| CheckpointError::Read {
            file: self.describe(name),
            source,
        };
        match &self.source {
            Source::Folder(folder) => files::read(&folder.file(name), MOST_BYTES_OF_TEXT)
                .map(Cow::Owned)
                .map_err(error),
            Source::SingleFile(file) => file.read(name).map(Cow::Owned),
            Source::Embedded(_) => self.embedded_file(name).map(Cow::Borrowed),
        }
    }

    /// The JSON file `name` as a `T`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Read`] and [`CheckpointError::Json`].
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, CheckpointError> {
        json::from_slice(&self.read(name)?).map_err(|source| CheckpointError::Json {
            file: self.describe(name),
            source,
        })
    }

    /// The weights of one part of the pipeline: `<part>/<stem>.safetensors`, or what there is in its place. An empty part is the
    /// model itself.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if there are none, a shard is missing, or a file cannot be opened.
    pub fn weights(&self, part: &str, stem: &str) -> Result<WeightSet, CheckpointError> {
        match &self.source {
            Source::Folder(folder) => folder.weights(part, stem),
            Source::SingleFile(file) => file.weights(part),
            Source::Embedded(embedded) => {
                let prefix = match part {
                    "" => String::new(),
                    part => format!("{part}/"),
                };
                let names: Vec<_> = embedded
                    .files
                    .iter()
                    .filter_map(|(file, _)| file.strip_prefix(prefix.as_str()))
                    .map(str::to_owned)
                    .collect();
                let files = weight_files::choose(&self.describe(part), &names, stem, None)?;
                let open = |name: &str| self.weight_file(&format!("{prefix}{name}"));
                match files {
                    WeightFiles::Whole(name) => Ok(open(&name)?.into()),
                    WeightFiles::Sharded(index) => {
                        let name = format!("{prefix}{index}");
                        weight_files::sharded(
                            self.describe(&name),
                            &self.read(&name)?,
                            &names,
                            open,
                        )
                    }
                }
            }
        }
    }

    /// The weight file of that very name.
    pub(crate) fn weight_file(&self, name: &str) -> Result<WeightFile, CheckpointError> {
        match &self.source {
            Source::Folder(folder) => Ok(WeightFile::open(&folder.file(name))?),
            Source::SingleFile(_) | Source::Embedded(_) => {
                let bytes = self.embedded_file(name)?;
                Ok(WeightFile::embedded(&self.describe(name), bytes))
            }
        }
    }

    fn embedded_file(&self, name: &str) -> Result<&'static [u8], CheckpointError> {
        let files = match &self.source {
            Source::Embedded(embedded) => embedded.files,
            Source::Folder(_) | Source::SingleFile(_) => &[],
        };
        files
            .iter()
            .find_map(|(file, bytes)| (*file == name).then_some(*bytes))
            .ok_or_else(|| CheckpointError::Read {
                file: self.describe(name),
                source: std::io::ErrorKind::NotFound.into(),
            })
    }
}
