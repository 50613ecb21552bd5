//! The weights of one part of a model, however they are spread over files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::tensor::TensorView;

use super::{Entry, WeightError, WeightFile, Weights};

/// Bytes of a tensor that are looked at to tell it from another one.
const MARK: usize = 64;

/// The weights of one part of a model: a file, the shards of one, or a choice of a file's tensors under other names.
#[derive(Debug)]
pub struct WeightSet {
    name: String,
    files: Vec<WeightFile>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    All,
    Index(BTreeMap<String, usize>),
    Renamed(BTreeMap<String, Stored>),
}

/// Where a model's tensor is in a file that calls it something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name in the file.
    pub name: String,
    /// Its form in the file.
    pub form: Form,
}

/// How a tensor in a file becomes a model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Same,
    /// One of three equal parts along the first dimension: 0, 1 or 2.
    Third(usize),
    /// A matrix, transposed.
    Transposed,
    /// The weights of a 1x1 convolution, `[output, input, 1, 1]`, as a matrix.
    Pointwise,
}

impl From<WeightFile> for WeightSet {
    fn from(file: WeightFile) -> Self {
        Self {
            name: file.name().to_owned(),
            files: vec![file],
            content: Content::All,
        }
    }
}

impl WeightSet {
    /// The shards of a file. `index` is the name of the file that says, for each tensor, which of `shards` has it.
    #[must_use]
    pub fn sharded(
        index: String,
        shards: Vec<WeightFile>,
        tensors: BTreeMap<String, usize>,
    ) -> Self {
        Self {
            name: index,
            files: shards,
            content: Content::Index(tensors),
        }
    }

    /// The tensors of a file that `tensors` lists, by the names that a model has for them.
    #[must_use]
    pub fn renamed(file: WeightFile, tensors: BTreeMap<String, Stored>) -> Self {
        Self {
            name: file.name().to_owned(),
            files: vec![file],
            content: Content::Renamed(tensors),
        }
    }

    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size() as u64).sum()
    }

    /// Tells what these weights are told apart by: of each tensor its name, type and shape, and the first of its bytes. Reads a page
    /// of each, so that this takes no longer for large ones.
    ///
    /// # Errors
    ///
    /// [`WeightError`] of [`WeightSet::read`].
    pub fn marks(&self, mut tell: impl FnMut(&[u8])) -> Result<(), WeightError> {
        for (name, entry) in self.read()?.tensors {
            let bytes = entry.view.data();
            let form = (name, entry.dtype(), entry.shape());
            tell(format!("{form:?}").as_bytes());
            tell(&bytes[..bytes.len().min(MARK)]);
        }
        Ok(())
    }

    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// [`WeightError::Corrupt`] if a file is not a whole safetensors file, [`WeightError::NotInShard`],
    /// [`WeightError::Form`].
    pub fn read(&self) -> Result<Weights<'_>, WeightError> {
        let mut files = Vec::new();
        for file in &self.files {
            files.push((file, file.views()?));
        }
        let mut tensors = BTreeMap::new();
        if let Content::Renamed(renamed) = &self.content {
            for (name, stored) in renamed {
                for (file, views) in &files {
                    if let Some(view) = views.get(&stored.name) {
                        let entry = stored.entry(file, view)?;
                        tensors.insert(Cow::Borrowed(name.as_str()), entry);
                    }
                }
            }
        } else {
            if let Content::Index(index) = &self.content {
                for (name, shard) in index {
                    let (file, views) = &files[*shard];
                    if !views.contains_key(name) {
                        return Err(WeightError::NotInShard {
                            index: self.name.clone(),
                            name: name.clone(),
                            file: file.name().to_owned(),
                        });
                    }
                }
            }
            // A tensor that the index does not name is one all the same.
            for (file, views) in files {
                for (name, view) in views {
                    tensors.insert(Cow::Owned(name), Entry::new(file, view));
                }
            }
        }
        Ok(Weights {
            file: &self.name,
            tensors,
            read: Default::default(),
            room: Default::default(),
            deltas: None,
        })
    }
}

impl Stored {
    /// The tensor as a model reads it.
    fn entry<'a>(
        &'a self,
        file: &'a WeightFile,
        view: &TensorView<'a>,
    ) -> Result<Entry<'a>, WeightError> {
        let shape = view.shape();
        let wrong = |expected| WeightError::Form {
            file: file.name().to_owned(),
            name: self.name.clone(),
            found: shape.to_vec(),
            expected,
        };
        let part = |shape: Vec<usize>, bytes: &'a [u8]| {
            TensorView::new(view.dtype(), shape, bytes)
                .map_err(|_| wrong("of a type with whole bytes"))
        };
        let bytes = view.data();
        let view = match (self.form, shape) {
            (Form::Same, _) => view.clone(),
            (Form::Transposed, [_, _]) => view.clone(),
            (Form::Transposed, _) => return Err(wrong("a matrix")),
            (Form::Pointwise, [_, _]) => view.clone(),
            (Form::Pointwise, [output, input, 1, 1]) => part(vec![*output, *input], bytes)?,
            (Form::Pointwise, _) => return Err(wrong("a 1x1 convolution")),
            (Form::Third(index), [rows, rest @ ..]) if rows % 3 == 0 && index < 3 => {
                let third = bytes.len() / 3;
                let shape = [&[rows / 3], rest].concat();
                part(shape, &bytes[index * third..(index + 1) * third])?
            }
            (Form::Third(_), _) => {
                return Err(wrong("divisible by 3 in its first dimension"));
            }
        };
        Ok(Entry {
            file,
            stored: Some(&self.name),
            transposed: self.form == Form::Transposed,
            view,
        })
    }
}
