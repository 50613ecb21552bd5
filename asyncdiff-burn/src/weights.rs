//! Safetensors files to tensors on a device: strict, memory-mapped, and only what is asked for.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

/// The bytes of a weight file and the name to call it by in messages.
#[derive(Debug)]
pub struct WeightFile {
    name: String,
    bytes: Bytes,
}

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
            let file = File::open(path)?;
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

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped,
            Bytes::Static(bytes) => bytes,
        }
    }

    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`WeightError::Corrupt`] if it is not a whole safetensors file.
    pub fn read(&self) -> Result<Weights<'_>, WeightError> {
        let tensors =
            SafeTensors::deserialize(self.bytes()).map_err(|source| WeightError::Corrupt {
                file: self.name.clone(),
                source,
            })?;
        Ok(Weights {
            file: &self.name,
            tensors,
            read: RefCell::default(),
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

    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What is added to weights while they are loaded.
pub trait Deltas: std::fmt::Debug {
    /// Adds to the tensor `name` of `shape` whatever there is for it; `values` are its elements, row-major.
    ///
    /// # Errors
    ///
    /// [`WeightError`] if what should be added cannot be read.
    fn add(&self, name: &str, shape: &[usize], values: &mut [f32]) -> Result<(), WeightError>;
}

/// The tensors of a weight file. Remembers which were read.
#[derive(Debug)]
pub struct Weights<'a> {
    file: &'a str,
    tensors: SafeTensors<'a>,
    read: RefCell<Read>,
    deltas: Option<&'a dyn Deltas>,
}

#[derive(Debug, Default)]
struct Read {
    names: BTreeSet<String>,
    parameters: u64,
}

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The file is not there or cannot be read.
    #[error("cannot open the weights {path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not a safetensors file, or only a part of one.
    #[error(
        "{file} is no whole safetensors file ({source}): it is truncated or damaged, download it again"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What the parser says.
        source: SafeTensorError,
    },
    /// A tensor that the model needs is not in the file.
    #[error(
        "{file} has no tensor {name} of shape {expected:?}, which the model's config.json asks for"
    )]
    Missing {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the model's configuration says.
    #[error(
        "{file}: tensor {name} has shape {found:?}, the model's config.json asks for {expected:?}"
    )]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor that was asked for by name is not in the file.
    #[error("{file} has no tensor {name}")]
    NoTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A tensor of integers, or of a floating-point type that is not supported.
    #[error("{file}: tensor {name} has dtype {found:?}, supported are F32, F16 and BF16")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The type found.
        found: Dtype,
    },
    /// The file has a tensor that no part of the model reads.
    #[error(
        "{file} has a tensor {name} of shape {found:?} that the model described by config.json does not have"
    )]
    Unexpected {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },
}

impl<'a> Weights<'a> {
    /// The same, with `deltas` added to the tensors that are loaded.
    #[must_use]
    pub fn with_deltas(self, deltas: &'a dyn Deltas) -> Self {
        Self {
            deltas: Some(deltas),
            ..self
        }
    }

    /// Names and shapes of the tensors, in no order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.tensors
            .iter()
            .map(|(name, view)| (name, view.shape().to_vec()))
    }

    /// The shape of the tensor `name`, if [`Weights::plain`] can read it.
    ///
    /// # Errors
    ///
    /// As [`Weights::plain`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, WeightError> {
        let view = self.view(name)?;
        match view.dtype() {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 | Dtype::I64 | Dtype::I32 => {
                Ok(view.shape().to_vec())
            }
            found => Err(self.unreadable(name, found)),
        }
    }

    fn view(&self, name: &str) -> Result<TensorView<'a>, WeightError> {
        self.tensors
            .tensor(name)
            .map_err(|_| WeightError::NoTensor {
                file: self.file.to_owned(),
                name: name.to_owned(),
            })
    }

    fn unreadable(&self, name: &str, found: Dtype) -> WeightError {
        WeightError::Dtype {
            file: self.file.to_owned(),
            name: name.to_owned(),
            found,
        }
    }

    /// The tensor `name` in plain memory, as it is in the file; also of types that no weights have, such as integers.
    ///
    /// # Errors
    ///
    /// [`WeightError::NoTensor`], [`WeightError::Dtype`].
    pub fn plain(&self, name: &str) -> Result<NamedTensor, WeightError> {
        let view = self.view(name)?;
        let values = to_f32(&view)
            .or_else(|| wide_to_f32(&view))
            .ok_or_else(|| self.unreadable(name, view.dtype()))?;
        Ok(NamedTensor {
            name: name.to_owned(),
            shape: view.shape().to_vec(),
            values,
        })
    }

    /// A view for loading onto a device.
    #[must_use]
    pub fn on<'w>(&'w self, device: &'w Device, dtype: FloatDType) -> Loader<'w> {
        Loader {
            weights: self,
            device,
            dtype,
            prefix: Cow::Borrowed(""),
        }
    }

    /// Number of weights that were read.
    #[must_use]
    pub fn parameters_read(&self) -> u64 {
        self.read.borrow().parameters
    }

    /// Number of floating-point weights in the file, by the type in which they are stored, such as `F16`. Looks at the header
    /// only.
    #[must_use]
    pub fn parameters_by_dtype(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (_, tensor) in self.tensors.iter() {
            if is_floating_point(tensor.dtype()) {
                *counts.entry(tensor.dtype().to_string()).or_default() +=
                    tensor.shape().iter().product::<usize>() as u64;
            }
        }
        counts
    }

    /// Says that everything was read that should have been.
    ///
    /// `elsewhere` tells of a tensor that was not read whether it belongs to a part of the model that is loaded elsewhere,
    /// or to nothing that is computed with.
    ///
    /// # Errors
    ///
    /// [`WeightError::Unexpected`] for the first tensor that was not read and is not `elsewhere`.
    pub fn finish(&self, elsewhere: impl Fn(&str) -> bool) -> Result<(), WeightError> {
        let read = &self.read.borrow().names;
        let mut names = self.tensors.names();
        names.sort_unstable();
        match names
            .into_iter()
            .find(|name| !read.contains(*name) && !elsewhere(name))
        {
            Some(name) => Err(WeightError::Unexpected {
                file: self.file.to_owned(),
                name: name.to_owned(),
                found: self
                    .tensors
                    .tensor(name)
                    .map(|view| view.shape().to_vec())
                    .unwrap_or_default(),
            }),
            None => Ok(()),
        }
    }
}

/// Loads tensors under a name prefix onto a device, in its compute type.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    weights: &'a Weights<'a>,
    device: &'a Device,
    dtype: FloatDType,
    prefix: Cow<'a, str>,
}

impl<'a> Loader<'a> {
    /// The same for the module `name` below this one.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Self {
            prefix: Cow::Owned(prefix),
            ..self.clone()
        }
    }

    /// The device that tensors are loaded onto.
    #[must_use]
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The type that tensors are loaded in.
    #[must_use]
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }

    /// Whether the module `name` below this one has any tensor in the file.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let module = self.at(name).prefix;
        self.weights.tensors.names().iter().any(|tensor| {
            tensor
                .strip_prefix(&*module)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// The tensor `name` in this module.
    ///
    /// # Errors
    ///
    /// [`WeightError::Missing`], [`WeightError::Shape`], [`WeightError::Dtype`].
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightError> {
        let name = self.at(name).prefix.into_owned();
        let file = self.weights.file.to_owned();
        let Ok(view) = self.weights.tensors.tensor(&name) else {
            return Err(WeightError::Missing {
                file,
                name,
                expected: shape.to_vec(),
            });
        };
        if view.shape() != shape {
            return Err(WeightError::Shape {
                file,
                name,
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        let Some(mut values) = to_f32(&view) else {
            return Err(WeightError::Dtype {
                file,
                name,
                found: view.dtype(),
            });
        };
        if let Some(deltas) = self.weights.deltas {
            deltas.add(&name, &shape, &mut values)?;
        }
        let mut read = self.weights.read.borrow_mut();
        if read.names.insert(name) {
            read.parameters += values.len() as u64;
        }
        let data = TensorData::new(values, shape);
        Ok(Tensor::from_data(data, (self.device, self.dtype.into())))
    }
}

/// Integers are positions, counters and the like, not weights.
fn is_floating_point(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    !matches!(dtype, BOOL | U8 | I8 | I16 | U16 | I32 | U32 | I64 | U64)
}

/// The elements as `f32`, whichever supported type they are stored in.
fn to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    Some(match view.dtype() {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect(),
        Dtype::F16 => pairs()
            .map(|pair| f16::from_le_bytes(pair).to_f32())
            .collect(),
        Dtype::BF16 => pairs()
            .map(|pair| bf16::from_le_bytes(pair).to_f32())
            .collect(),
        _ => return None,
    })
}

/// The elements of numbers that are stored in more than 16 bits, and are no weights.
fn wide_to_f32(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = bytes.as_chunks();
        chunks.iter().map(|chunk| read(*chunk)).collect()
    }
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F64 => each(bytes, |eight| f64::from_le_bytes(eight) as f32),
        Dtype::I64 => each(bytes, |eight| i64::from_le_bytes(eight) as f32),
        Dtype::I32 => each(bytes, |four| i32::from_le_bytes(four) as f32),
        _ => return None,
    })
}

/// Named tensors of a file as `f32` vectors with their shapes, for inputs such as initial latents.
///
/// # Errors
///
/// [`WeightError::Open`], [`WeightError::Corrupt`], [`WeightError::Dtype`].
pub fn read_tensors(path: &Path) -> Result<Vec<NamedTensor>, WeightError> {
    let file = WeightFile::open(path)?;
    let weights = file.read()?;
    weights
        .tensors
        .iter()
        .map(|(name, view)| {
            let values = to_f32(&view).ok_or_else(|| WeightError::Dtype {
                file: file.name.clone(),
                name: name.to_owned(),
                found: view.dtype(),
            })?;
            Ok(NamedTensor {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                values,
            })
        })
        .collect()
}

/// A tensor of a file in plain memory.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, in row-major order.
    pub values: Vec<f32>,
}
