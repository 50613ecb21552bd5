//! Safetensors files to tensors on a device: strict, memory-mapped, and only what is asked for.

mod entry;
mod file;
mod set;

use asyncdiff_core::quoted;
use asyncdiff_kernels::Storage;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rayon::prelude::*;
use safetensors::SafeTensorError;
use safetensors::tensor::Dtype;

use crate::layers::fast;
use entry::Entry;
pub use file::WeightFile;
pub use set::{Form, Stored, WeightSet};

/// What is added to weights while they are loaded.
pub trait Deltas: std::fmt::Debug {
    /// Adds to the tensor `name` of `shape` whatever there is for it, and says whether there is; `values` are its elements,
    /// row-major. They may be those in the file, which are not to be copied where there is nothing to add.
    ///
    /// # Errors
    ///
    /// [`WeightError`] if what should be added cannot be read.
    fn add(
        &self,
        name: &str,
        shape: &[usize],
        values: &mut Cow<'_, [f32]>,
    ) -> Result<bool, WeightError>;
}

/// The tensors of a weight file, or of a [`WeightSet`]. Remembers which were read.
#[derive(Debug)]
pub struct Weights<'a> {
    file: &'a str,
    tensors: BTreeMap<Cow<'a, str>, Entry<'a>>,
    read: RefCell<Read>,
    /// Memory of values that are no longer needed. The system clears what it gives, which takes longer than to write it.
    room: RefCell<Vec<f32>>,
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
    /// A pickle, which could run anything when it is read.
    #[error(
        "{file} is a pickle, which could run any program when it is read: convert it where you trust it, in Python: tensors = torch.load(OLD, map_location=\"cpu\", weights_only=True); safetensors.torch.save_file(tensors.get(\"state_dict\", tensors), NEW)"
    )]
    Pickle {
        /// The file.
        file: String,
    },
    /// Not a safetensors file, or only a part of one.
    #[error(
        "{file} is no whole safetensors file ({source}): it is of another kind, truncated or damaged; give the right file, or download it again",
        source = quoted(&source.to_string())
    )]
    Corrupt {
        /// The file.
        file: String,
        /// What the parser says.
        source: SafeTensorError,
    },
    /// A tensor that the model needs is not in the file.
    #[error(
        "{file} has no tensor {name} of shape {expected:?}, which the model's config.json asks for: take both files from one model",
        name = quoted(name)
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
        "{file}: tensor {name} has shape {found:?}, the model's config.json asks for {expected:?}: take both files from one model",
        name = quoted(name)
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
    #[error("{file} has no tensor {name}: take a file that has it", name = quoted(name))]
    NoTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A tensor of integers, or of a floating-point type that is not supported.
    #[error("{file}: tensor {name} has dtype {found:?}, supported are F32, F16 and BF16: convert it to one of these", name = quoted(name))]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The type found.
        found: Dtype,
    },
    /// A tensor with values that nothing can be computed from.
    #[error(
        "{file}: tensor {name} has {count} values that are infinite or no numbers: the file is damaged or its training has failed, download it again or take another",
        name = quoted(name)
    )]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// How many of its values.
        count: usize,
    },
    /// A shard lacks a tensor that its index says it has.
    #[error(
        "{index} says that tensor {name} is in {file}, but it is not: the files are of different versions, download both again",
        name = quoted(name)
    )]
    NotInShard {
        /// The index.
        index: String,
        /// The tensor.
        name: String,
        /// The shard.
        file: String,
    },
    /// A tensor of the original layout that does not have the form that its name promises.
    #[error("{file}: tensor {name} has shape {found:?}, it should be {expected}: take another file", name = quoted(name))]
    Form {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What would work.
        expected: &'static str,
    },
    /// The file has a tensor that no part of the model reads.
    #[error(
        "{file} has a tensor {name} of shape {found:?} that the model described by config.json does not have: take both files from one model",
        name = quoted(name)
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

    /// A view for loading onto a device.
    #[must_use]
    pub fn on<'w>(&'w self, device: &'w Device, dtype: FloatDType) -> Loader<'w> {
        Loader {
            weights: self,
            device,
            dtype,
            plain: false,
            pixels: None,
            prefix: Cow::Borrowed(""),
        }
    }

    /// Names and shapes of the tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.tensors
            .iter()
            .map(|(name, entry)| (&**name, entry.shape()))
    }

    /// The tensor `name` in plain memory, as it is in the file; also of types that no weights have, such as integers.
    ///
    /// # Errors
    ///
    /// [`WeightError::NoTensor`], [`WeightError::Dtype`], [`WeightError::NotFinite`].
    pub fn plain(&self, name: &str) -> Result<NamedTensor, WeightError> {
        let entry = self.entry(name)?;
        let values = entry
            .values(Vec::new())
            .or_else(|| entry.wide_values().map(Cow::Owned))
            .ok_or_else(|| unreadable(entry, name))?;
        finite(&values, entry, name)?;
        Ok(NamedTensor {
            name: name.to_owned(),
            shape: entry.shape(),
            values: values.into_owned(),
        })
    }

    /// The shape of the tensor `name`, if [`Weights::plain`] can read it.
    ///
    /// # Errors
    ///
    /// As [`Weights::plain`].
    pub fn shape(&self, name: &str) -> Result<Vec<usize>, WeightError> {
        use Dtype::{BF16, F16, F32, F64, I32, I64};
        let entry = self.entry(name)?;
        match entry.dtype() {
            F32 | F16 | BF16 | F64 | I64 | I32 => Ok(entry.shape()),
            _ => Err(unreadable(entry, name)),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry<'a>, WeightError> {
        self.tensors.get(name).ok_or_else(|| WeightError::NoTensor {
            file: self.file.to_owned(),
            name: name.to_owned(),
        })
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
        for tensor in self.tensors.values() {
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
        match self
            .tensors
            .iter()
            .find(|(name, _)| !read.contains(&***name) && !elsewhere(name))
        {
            Some((name, entry)) => Err(WeightError::Unexpected {
                file: entry.file.name().to_owned(),
                name: entry.name(name),
                found: entry.shape(),
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
    plain: bool,
    pixels: Option<usize>,
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

    /// The type that tensors are loaded in, and that layers compute with: `f32` where they run on the kernels, whatever weights
    /// are held in.
    #[must_use]
    pub fn dtype(&self) -> FloatDType {
        match self.wants_kernels() {
            true => FloatDType::F32,
            false => self.dtype,
        }
    }

    /// How the kernels' weights are held, if not [as in the file](Values::storage).
    pub(crate) fn storage(&self) -> Storage {
        match self.dtype {
            FloatDType::F16 => Storage::F16,
            FloatDType::BF16 => Storage::Bf16Pairs,
            _ => Storage::F32,
        }
    }

    /// The same, for [layers](crate::layers) that run on Burn's operations whatever the device.
    #[must_use]
    pub fn plain(self) -> Self {
        Self {
            plain: true,
            ..self
        }
    }

    /// The same, for layers whose feature maps will mostly have so many pixels. Others come out as well, perhaps later.
    #[must_use]
    pub fn for_maps_of(self, pixels: usize) -> Self {
        Self {
            pixels: Some(pixels),
            ..self
        }
    }

    /// What [`Loader::for_maps_of`] has said.
    pub(crate) fn pixels(&self) -> Option<usize> {
        self.pixels
    }

    /// Whether layers should run on the kernels.
    pub(crate) fn wants_kernels(&self) -> bool {
        !self.plain && fast::is_for(self.device)
    }

    /// Whether the module `name` below this one has any tensor in the file.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let module = self.at(name).prefix;
        self.weights
            .tensors
            .range::<str, _>((Bound::Excluded(&*module), Bound::Unbounded))
            .take_while(|(tensor, _)| tensor.starts_with(&*module))
            .any(|(tensor, _)| tensor[module.len()..].starts_with('.'))
    }

    /// The tensor `name` in this module.
    ///
    /// # Errors
    ///
    /// [`WeightError::Missing`], [`WeightError::Shape`], [`WeightError::Dtype`], [`WeightError::NotFinite`]; what `deltas` fail with.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightError> {
        let data = TensorData::new(self.values(name, shape)?.into_vec(), shape);
        Ok(Tensor::from_data(data, (self.device, self.dtype().into())))
    }

    /// The elements of the tensor `name` in this module, row-major.
    pub(crate) fn values<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Values<'a>, WeightError> {
        let name = self.at(name).prefix.into_owned();
        let Some(entry) = self.weights.tensors.get(&*name) else {
            return Err(WeightError::Missing {
                file: self.weights.file.to_owned(),
                name,
                expected: shape.to_vec(),
            });
        };
        let file = entry.file.name().to_owned();
        let found = entry.shape();
        if found != shape {
            return Err(WeightError::Shape {
                file,
                name: entry.name(&name),
                expected: shape.to_vec(),
                found,
            });
        }
        let Some(mut values) = entry.values(self.weights.room.take()) else {
            return Err(unreadable(entry, &name));
        };
        finite(&values, entry, &name)?;
        let changed = match self.weights.deltas {
            Some(deltas) => deltas.add(&name, &shape, &mut values)?,
            None => false,
        };
        // Finite numbers can have a sum that is not.
        if changed {
            finite(&values, entry, &name)?;
        }
        let mut read = self.weights.read.borrow_mut();
        if read.names.insert(name) {
            read.parameters += values.len() as u64;
        }
        Ok(Values {
            numbers: values,
            changed,
            entry: entry.clone(),
            room: &self.weights.room,
        })
    }
}

/// The elements of a tensor. With them go the pages of the file that they are in, of which a layer that has packed its weights
/// has no more need.
pub(crate) struct Values<'a> {
    numbers: Cow<'a, [f32]>,
    /// Whether they are others than in the file.
    changed: bool,
    entry: Entry<'a>,
    /// Where their memory goes.
    room: &'a RefCell<Vec<f32>>,
}

impl Values<'_> {
    /// How a layer that is asked for `storage` should hold them. Those that the file has in half as many bits lose nothing in
    /// these, are read faster, and take half of the memory.
    pub fn storage(&self, storage: Storage) -> Storage {
        match self.entry.dtype() {
            Dtype::F16 if storage == Storage::F32 && !self.changed => Storage::F16,
            Dtype::BF16 if storage == Storage::F32 && !self.changed => Storage::Bf16,
            _ => storage,
        }
    }

    /// The elements in memory of their own.
    pub fn into_vec(mut self) -> Vec<f32> {
        match &self.numbers {
            // In room that a larger tensor has had, it would hold all of that as long as it lives.
            Cow::Owned(numbers) if numbers.capacity() > 2 * numbers.len() => numbers.clone(),
            _ => std::mem::take(&mut self.numbers).into_owned(),
        }
    }
}

impl std::ops::Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}

impl Drop for Values<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(numbers) = std::mem::take(&mut self.numbers)
            && numbers.capacity() > self.room.borrow().capacity()
        {
            self.room.replace(numbers);
        }
        self.entry.file.release(self.entry.view.data());
    }
}

/// Whether all elements of a tensor are numbers. One that is not spreads to the whole picture, or, in a matrix whose products are
/// only compared, to nothing that anybody would notice.
fn finite(values: &[f32], entry: &Entry<'_>, name: &str) -> Result<(), WeightError> {
    // The greatest magnitude first, which takes vectors of numbers at a time: as bits, those of what is not finite are the greatest.
    let magnitude = |value: &f32| (value.to_bits() & i32::MAX as u32) as i32;
    let wild = |chunk: &[f32]| {
        let greatest = chunk.iter().map(magnitude).fold(0, i32::max);
        match f32::from_bits(greatest as u32).is_finite() {
            true => 0,
            false => chunk.iter().filter(|value| !value.is_finite()).count(),
        }
    };
    match values.par_chunks(PARALLEL_CHUNK).map(wild).sum() {
        0 => Ok(()),
        count => Err(WeightError::NotFinite {
            file: entry.file.name().to_owned(),
            name: entry.name(name),
            count,
        }),
    }
}

/// Elements that are not worth handing to another thread.
const PARALLEL_CHUNK: usize = 1 << 16;

fn unreadable(entry: &Entry<'_>, name: &str) -> WeightError {
    WeightError::Dtype {
        file: entry.file.name().to_owned(),
        name: entry.name(name),
        found: entry.dtype(),
    }
}

/// Integers are positions, counters and the like, not weights.
fn is_floating_point(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    !matches!(dtype, BOOL | U8 | I8 | I16 | U16 | I32 | U32 | I64 | U64)
}

/// Named tensors of a file as `f32` vectors with their shapes, for inputs such as initial latents.
///
/// # Errors
///
/// [`WeightError::Open`], [`WeightError::Corrupt`], [`WeightError::Dtype`], [`WeightError::NotFinite`].
pub fn read_tensors(path: &Path) -> Result<Vec<NamedTensor>, WeightError> {
    let file = WeightFile::open(path)?;
    let weights = file.read()?;
    weights
        .tensors
        .iter()
        .map(|(name, entry)| {
            let values = entry.values(Vec::new()).ok_or_else(|| WeightError::Dtype {
                file: file.name().to_owned(),
                name: name.clone().into_owned(),
                found: entry.dtype(),
            })?;
            finite(&values, entry, name)?;
            Ok(NamedTensor {
                name: name.clone().into_owned(),
                shape: entry.shape(),
                values: values.into_owned(),
            })
        })
        .collect()
}

/// A tensor of a file in plain memory.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, in row-major order.
    pub values: Vec<f32>,
}
