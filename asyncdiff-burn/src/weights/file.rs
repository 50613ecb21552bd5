//! One safetensors file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::{Entry, WeightError, Weights};
use crate::files;

/// The bytes of a weight file and the name to call it by in messages.
#[derive(Debug)]
pub struct WeightFile {
    name: String,
    bytes: Bytes,
}

/// Bytes of a tensor whose pages are many.
#[cfg(unix)]
const WORTH_RELEASING: usize = 1 << 20;

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl WeightFile {
    /// Maps a file into memory.
    ///
    /// # Errors
    ///
    /// [`WeightError::Open`] if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let open = || {
            let file = files::open(path)?;
            // SAFETY: the mapping is read-only. Another process that shortens the file while it is mapped could end this one;
            // every loader that maps weights accepts that.
            unsafe { Mmap::map(&file) }
        };
        let bytes = open().map_err(|source| WeightError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            name: path.display().to_string(),
            bytes: Bytes::Mapped(bytes),
        })
    }

    /// A file that is part of the program.
    #[must_use]
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Self {
        Self {
            name: name.to_owned(),
            bytes: Bytes::Static(bytes),
        }
    }

    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes().len()
    }

    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`WeightError::Corrupt`] if it is not a whole safetensors file.
    pub fn read(&self) -> Result<Weights<'_>, WeightError> {
        let entry = |(name, view)| (Cow::Owned(name), Entry::new(self, view));
        Ok(Weights {
            file: &self.name,
            tensors: self.views()?.into_iter().map(entry).collect(),
            read: Default::default(),
            room: Default::default(),
            deltas: None,
        })
    }

    /// What its makers wrote into the header beside the tensors (`__metadata__`).
    ///
    /// # Errors
    ///
    /// [`WeightError::Corrupt`] if it is not a whole safetensors file.
    pub fn metadata(&self) -> Result<HashMap<String, String>, WeightError> {
        let (_, header) =
            SafeTensors::read_metadata(self.bytes()).map_err(|source| WeightError::Corrupt {
                file: self.name.clone(),
                source,
            })?;
        Ok(header.metadata().clone().unwrap_or_default())
    }

    /// All tensors by name.
    pub(super) fn views(&self) -> Result<BTreeMap<String, TensorView<'_>>, WeightError> {
        let tensors =
            SafeTensors::deserialize(self.bytes()).map_err(|source| match self.is_pickle() {
                true => WeightError::Pickle {
                    file: self.name.clone(),
                },
                false => WeightError::Corrupt {
                    file: self.name.clone(),
                    source,
                },
            })?;
        Ok(tensors.tensors().into_iter().collect())
    }

    /// Whether the file begins as PyTorch's own do: a zip archive, or, as it wrote before, protocol 2 to 5 of pickle alone.
    fn is_pickle(&self) -> bool {
        let bytes = self.bytes();
        bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..])
    }

    /// Lets go of the pages with a part of its bytes. Whoever reads them again finds them in the system's cache, or on the disk.
    #[cfg_attr(
        not(unix),
        expect(unused_variables, reason = "nothing to be told there")
    )]
    pub(super) fn release(&self, part: &[u8]) {
        #[cfg(unix)]
        if let Bytes::Mapped(mapped) = &self.bytes
            && part.len() >= WORTH_RELEASING
        {
            let offset = part.as_ptr().addr() - mapped.as_ptr().addr();
            let unneeded = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages of a file that is mapped for reading come back with the same bytes. That they stay is no promise.
            let _ = unsafe { mapped.unchecked_advise_range(unneeded, offset, part.len()) };
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped,
            Bytes::Static(bytes) => bytes,
        }
    }
}
