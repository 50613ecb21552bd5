//! What people write to say which model they mean.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::CheckpointError;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder in diffusers layout.
    Folder(PathBuf),
    /// A checkpoint in one file.
    File(PathBuf),
    /// A model of the Hugging Face Hub.
    Hub(HubId),
}

impl Location {
    /// What `model` means: a folder or file that exists, or else an id such as `org/name`.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::NotFound`] if it is none of them.
    pub fn find(model: &Path) -> Result<Self, CheckpointError> {
        if model.is_dir() {
            return Ok(Self::Folder(model.to_owned()));
        }
        if model.exists() {
            return Ok(Self::File(model.to_owned()));
        }
        let id = model.to_str().and_then(|text| text.parse().ok());
        id.map(Self::Hub)
            .ok_or_else(|| CheckpointError::NotFound(model.to_owned()))
    }
}

/// A model of the Hugging Face Hub: `org/name`, or `org/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`
    pub name: String,
    /// A branch, a tag, or a commit: `main` if nothing else is said.
    pub revision: String,
}

/// Endings of files that people bring: a path with one of them is a file that is not there, and no id.
const FILES: [&str; 6] = ["safetensors", "ckpt", "pt", "pth", "bin", "gguf"];

impl FromStr for HubId {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !text.is_empty() && text.chars().all(known) && !text.starts_with(['.', '-'])
        };
        let is_file = Path::new(name)
            .extension()
            .is_some_and(|end| FILES.iter().any(|known| end.eq_ignore_ascii_case(known)));
        match name.split_once('/') {
            Some((organization, model))
                if plain(organization)
                    && plain(model)
                    && !is_file
                    && !name.contains("..")
                    && revision.split('/').all(plain)
                    && !revision.contains("..") =>
            {
                Ok(Self {
                    name: name.to_owned(),
                    revision: revision.to_owned(),
                })
            }
            _ => Err(CheckpointError::NotFound(text.into())),
        }
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_two_plain_names_and_perhaps_a_revision() {
        let id = |text: &str| text.parse::<HubId>().map(|id| (id.name, id.revision));
        let found = |name: &str, revision: &str| (name.to_owned(), revision.to_owned());
        assert_eq!(id("org/name").unwrap(), found("org/name", "main"));
        assert_eq!(id("a-b/c_d.1@v1.0").unwrap(), found("a-b/c_d.1", "v1.0"));
        let pull = id("org/name@refs/pr/1").unwrap();
        assert_eq!(pull, found("org/name", "refs/pr/1"));
        for bad in [
            "",
            "name",
            "/name",
            "org/",
            "a/b/c",
            "./model",
            "../model",
            "org/name@",
            "org/name@a/../b",
            "org/na me",
            "models/file.safetensors",
            "models/file.CKPT",
        ] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
