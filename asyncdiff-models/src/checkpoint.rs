//! Where a model's files come from.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;

use asyncdiff_burn::weights::WeightFile;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// A model in diffusers' folder layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Checkpoint {
    /// A folder with a `model_index.json` and one folder for each part of the pipeline.
    ///
    /// # Errors
    ///
    /// [`Error::NoFolder`] and [`Error::NoModelIndex`].
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        if !path.is_dir() {
            return Err(Error::NoFolder(path));
        }
        if !path.join("model_index.json").is_file() {
            return Err(Error::NoModelIndex(path));
        }
        Ok(Self {
            source: Source::Folder(path),
        })
    }

    /// A folder of one model, such as a motion adapter: its `config.json`, and its weights beside that.
    ///
    /// # Errors
    ///
    /// [`Error::NoFolder`] and [`Error::NoConfig`].
    pub fn part(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        if !path.is_dir() {
            return Err(Error::NoFolder(path));
        }
        if !path.join("config.json").is_file() {
            return Err(Error::NoConfig(path));
        }
        Ok(Self {
            source: Source::Folder(path),
        })
    }

    /// The small emoji model that is part of the program; `embedded/README.md` is its card.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            source: Source::Embedded(crate::embedded::FILES),
        }
    }

    /// What to call the file `name` of this model in messages.
    #[must_use]
    pub fn describe(&self, name: &str) -> String {
        match &self.source {
            Source::Folder(folder) => folder.join(name).display().to_string(),
            Source::Embedded(_) => format!("embedded model, {name}"),
        }
    }

    /// Whether the model has a file `name`.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder(folder) => folder.join(name).is_file(),
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
            Source::Folder(folder) => fs::read(folder.join(name)).map(Cow::Owned).map_err(error),
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

    /// The weights of one part of the pipeline, from `<part>/<stem>.safetensors`; an empty part is the model itself.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] if there is no such file.
    pub fn weights(&self, part: &str, stem: &str) -> Result<WeightFile, Error> {
        let file = format!("{stem}.safetensors");
        let name = if part.is_empty() {
            file
        } else {
            format!("{part}/{file}")
        };
        match &self.source {
            Source::Folder(folder) => Ok(WeightFile::open(&folder.join(name))?),
            Source::Embedded(_) => {
                let bytes = self.embedded_file(&name).ok_or_else(|| Error::Read {
                    file: self.describe(&name),
                    source: std::io::ErrorKind::NotFound.into(),
                })?;
                Ok(WeightFile::embedded(&self.describe(&name), bytes))
            }
        }
    }

    fn embedded_file(&self, name: &str) -> Option<&'static [u8]> {
        match &self.source {
            Source::Folder(_) => None,
            Source::Embedded(files) => files
                .iter()
                .find_map(|(file, bytes)| (*file == name).then_some(*bytes)),
        }
    }
}
