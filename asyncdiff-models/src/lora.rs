//! LoRA files: low-rank changes of a checkpoint's weights, as people share them.
//!
//! A layer's weight becomes `weight + strength · alpha / rank · up · down`, computed in `f32` while the weight is loaded:
//! afterwards nothing is left of the LoRA, and a run costs what it costs without. Files of diffusers (PEFT's names and both
//! older ones) and of kohya (for SDXL also with the original code's block names) are read, for linear layers and
//! convolutions of the UNet and the text encoders.
//!
//! ```no_run
//! use std::path::Path;
//! use asyncdiff_models::lora::Lora;
//! use asyncdiff_models::{Checkpoint, StableDiffusion};
//!
//! let pipeline = StableDiffusion::open(Checkpoint::folder("stable-diffusion-v1-5")?)?
//!     .with_loras(vec![
//!         (Lora::open(Path::new("watercolour.safetensors"))?, 0.8),
//!         (Lora::open(Path::new("detail.safetensors"))?, 0.5),
//!     ])?;
//! // Every session of this pipeline now loads changed weights.
//! # Ok::<(), asyncdiff_models::Error>(())
//! ```

mod alpha;
mod delta;
mod key;
mod names;

use asyncdiff_core::quoted;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use asyncdiff_burn::weights::{WeightError, WeightFile, WeightSet, Weights};
use asyncdiff_core::unet::UNet2d;

use crate::unet::is_in;

use alpha::Alphas;
pub(crate) use delta::PartDeltas;
pub(crate) use key::Part;
use key::{Fault, Key, Role};
use names::{Names, Target};

/// A LoRA file.
#[derive(Debug)]
pub struct Lora {
    file: WeightFile,
    layers: BTreeMap<(Part, String), Tensors>,
    alphas: Alphas,
}

/// The names of a layer's tensors.
#[derive(Clone, Debug, Default)]
struct Tensors {
    down: Option<String>,
    up: Option<String>,
    mid: Option<String>,
    alpha: Option<String>,
}

/// Why a LoRA cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] WeightError),
    /// An adapter that is no LoRA.
    #[error("{file} is no plain LoRA: {key} belongs to a {kind} adapter, which is not supported: take a plain LoRA", key = quoted(key))]
    Kind {
        /// The file.
        file: String,
        /// The first key that says so.
        key: String,
        /// The kind.
        kind: &'static str,
    },
    /// A tensor that belongs to no LoRA layer.
    #[error("{file} is no LoRA that can be read: {key} names no tensor of a LoRA layer: give the file of a LoRA", key = quoted(key))]
    Key {
        /// The file.
        file: String,
        /// The first such key.
        key: String,
    },
    /// A file without a layer.
    #[error("{file} has no LoRA layers: give the file of a LoRA")]
    Empty {
        /// The file.
        file: String,
    },
    /// A layer that lacks one of its two matrices, or has one twice.
    #[error(
        "{file}: the LoRA layer of {key} has {found}, it should have one matrix down and one up: get the file again",
        key = quoted(key)
    )]
    Layer {
        /// The file.
        file: String,
        /// One of its keys.
        key: String,
        /// What it has.
        found: &'static str,
    },
    /// Two layers that change one tensor: which of them is meant, nobody can know.
    #[error(
        "{file}: {first} and {second} both lead to the model's {tensor}: take one of the two layers out of the file, or get the file again"
    )]
    Twice {
        /// The file.
        file: String,
        /// A key of the one layer.
        first: String,
        /// A key of the other.
        second: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape fits no LoRA layer, or not that of the layer's other matrix.
    #[error("{file}: {key} has shape {found:?}, its layer needs {expected}: get the file again", key = quoted(key))]
    Matrix {
        /// The file.
        file: String,
        /// The tensor.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A setting of the file's metadata that is not implemented.
    #[error("{file}: lora_adapter_metadata has {key} = {found}, which is not supported: take a LoRA without it", key = quoted(key), found = quoted(found))]
    Metadata {
        /// The file.
        file: String,
        /// The setting.
        key: String,
        /// Its value.
        found: String,
    },
    /// A layer that the model does not have.
    #[error("{file} was made for another architecture: {key} fits no layer of the model's {part}: take one for this model", key = quoted(key))]
    Unknown {
        /// The file.
        file: String,
        /// The first such key.
        key: String,
        /// The part's folder in a checkpoint.
        part: &'static str,
    },
    /// A layer that has another shape in the model.
    #[error(
        "{file} was made for another architecture: {key} is for a weight of shape {found:?}, the model's {tensor} has {expected:?}: take one for this model",
        key = quoted(key),
        tensor = quoted(tensor)
    )]
    Shape {
        /// The file.
        file: String,
        /// The first such key.
        key: String,
        /// The shape that it changes.
        found: Vec<usize>,
        /// The model's tensor.
        tensor: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A strength that is not a number.
    #[error("{file}: a strength of {strength} is not possible, use a finite number")]
    Strength {
        /// The file.
        file: String,
        /// What was asked for.
        strength: f64,
    },
}

impl Lora {
    /// Opens a `.safetensors` file and checks that it is a LoRA, whichever model it is for.
    ///
    /// # Errors
    ///
    /// [`LoraError`] for a file that is no LoRA, an incomplete one, or one of another kind (DoRA, LoHa, LoKr, …).
    pub fn open(path: &Path) -> Result<Self, LoraError> {
        Self::of(WeightFile::open(path)?)
    }

    /// The LoRA in a file that is open.
    pub(crate) fn of(file: WeightFile) -> Result<Self, LoraError> {
        let mut layers: BTreeMap<(Part, String), Tensors> = BTreeMap::new();
        {
            let weights = file.read()?;
            let mut names: Vec<_> = weights.shapes().map(|(name, _)| name).collect();
            names.sort_unstable();
            let keys = names
                .into_iter()
                .map(|name| (name, Key::parse(name)))
                .collect::<Vec<_>>();
            // Its kind says more about a file than what else is strange about it.
            let kind = keys
                .iter()
                .find(|(_, key)| matches!(key, Err(Fault::Kind(_))));
            if let Some((name, Err(Fault::Kind(kind)))) = kind {
                return Err(LoraError::Kind {
                    file: file.name().to_owned(),
                    key: (*name).to_owned(),
                    kind,
                });
            }
            for (name, key) in keys {
                let Ok(key) = key else {
                    return Err(LoraError::Key {
                        file: file.name().to_owned(),
                        key: name.to_owned(),
                    });
                };
                let tensors = layers.entry((key.part, key.module)).or_default();
                let place = match key.role {
                    Role::Down => &mut tensors.down,
                    Role::Up => &mut tensors.up,
                    Role::Mid => &mut tensors.mid,
                    Role::Alpha => &mut tensors.alpha,
                };
                if place.replace(name.to_owned()).is_some() {
                    return Err(LoraError::Layer {
                        file: file.name().to_owned(),
                        key: name.to_owned(),
                        found: "a tensor twice",
                    });
                }
            }
        }
        if layers.is_empty() {
            return Err(LoraError::Empty {
                file: file.name().to_owned(),
            });
        }
        Ok(Self {
            alphas: Alphas::of(&file)?,
            layers,
            file,
        })
    }

    /// The file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.file.name()
    }
}

/// A layer of a LoRA that has found its weight.
#[derive(Clone, Debug)]
struct Layer {
    down: String,
    up: String,
    mid: Option<String>,
    /// `alpha / rank`
    scale: f64,
}

/// A LoRA, fitted to a model.
#[derive(Debug)]
pub(crate) struct Fitted {
    lora: Lora,
    strength: f64,
    /// By part and by the name of the tensor that they change.
    layers: HashMap<Part, HashMap<String, Layer>>,
}

impl Fitted {
    /// Finds the weight of every layer. `open` opens the weights of a part that the model has.
    ///
    /// # Errors
    ///
    /// [`LoraError`] for a LoRA that does not fit, or whatever `open` says.
    pub fn new<E: From<LoraError>>(
        lora: Lora,
        strength: f64,
        unet: &UNet2d,
        open: impl Fn(Part) -> Result<Option<WeightSet>, E>,
    ) -> Result<Self, E> {
        if !strength.is_finite() {
            let file = lora.name().to_owned();
            return Err(LoraError::Strength { file, strength }.into());
        }
        let mut layers = HashMap::new();
        for part in Part::ALL {
            let mut of_part = lora
                .layers
                .iter()
                .filter(|((of, _), _)| *of == part)
                .peekable();
            if of_part.peek().is_none() {
                continue;
            }
            let file = open(part)?;
            let names = match &file {
                Some(file) => Some(Names::of(
                    part,
                    &file.read().map_err(LoraError::from)?,
                    unet,
                )),
                None => None,
            };
            let weights = lora.file.read().map_err(LoraError::from)?;
            let mut fitted = HashMap::<String, Layer>::new();
            for ((_, module), tensors) in of_part {
                let target = names.as_ref().and_then(|names| names.find(module));
                let (tensor, layer) = lora.fit(&weights, (part, module), tensors, target)?;
                if let Some(first) = fitted.get(&tensor) {
                    return Err(LoraError::Twice {
                        file: lora.name().to_owned(),
                        first: first.down.clone(),
                        second: layer.down,
                        tensor,
                    }
                    .into());
                }
                fitted.insert(tensor, layer);
            }
            layers.insert(part, fitted);
        }
        Ok(Self {
            lora,
            strength,
            layers,
        })
    }
}

impl Fitted {
    /// Whether it changes any of a part.
    pub fn has(&self, part: Part) -> bool {
        self.layers.contains_key(&part)
    }

    /// Whether it changes any of some modules of the denoiser.
    pub fn changes(&self, modules: &[&str]) -> bool {
        let layers = self.layers.get(&Part::UNet);
        let mut tensors = layers.into_iter().flat_map(HashMap::keys);
        tensors.any(|tensor| modules.iter().any(|module| is_in(tensor, module)))
    }
}

impl Lora {
    /// The tensor that a layer changes, and how.
    fn fit(
        &self,
        weights: &Weights<'_>,
        (part, module): (Part, &str),
        tensors: &Tensors,
        target: Option<&Target>,
    ) -> Result<(String, Layer), LoraError> {
        let file = || self.name().to_owned();
        let first = [&tensors.down, &tensors.up, &tensors.mid, &tensors.alpha];
        let key = first
            .into_iter()
            .flatten()
            .next()
            .cloned()
            .unwrap_or_default();
        let Some(target) = target else {
            let part = part.folder();
            return Err(LoraError::Unknown {
                file: file(),
                key,
                part,
            });
        };
        let (Some(down), Some(up)) = (&tensors.down, &tensors.up) else {
            let found = match (&tensors.down, &tensors.up) {
                (Some(_), None) => "no matrix up",
                (None, Some(_)) => "no matrix down",
                _ => "no matrix at all",
            };
            return Err(LoraError::Layer {
                file: file(),
                key,
                found,
            });
        };
        let shape = |key: &str| weights.shape(key).map_err(LoraError::from);
        let mid = tensors.mid.as_deref();
        let change = delta::Shapes {
            down: shape(down)?,
            up: shape(up)?,
            mid: mid.map(shape).transpose()?,
        };
        let (rank, found) = change.product().map_err(|(role, expected)| {
            let (key, found) = match role {
                Role::Up => (up.clone(), change.up.clone()),
                Role::Mid => (
                    mid.unwrap_or_default().to_owned(),
                    change.mid.clone().unwrap_or_default(),
                ),
                Role::Down | Role::Alpha => (down.clone(), change.down.clone()),
            };
            LoraError::Matrix {
                file: file(),
                key,
                found,
                expected,
            }
        })?;
        if !delta::same(&found, &target.shape) {
            return Err(LoraError::Shape {
                file: file(),
                key: down.clone(),
                found,
                tensor: target.tensor.clone(),
                expected: target.shape.clone(),
            });
        }
        let scale = match &tensors.alpha {
            Some(key) => self.alpha(weights, key)? / rank as f64,
            None => self.alphas.scale(part, module, rank),
        };
        let layer = Layer {
            down: down.clone(),
            up: up.clone(),
            mid: tensors.mid.clone(),
            scale,
        };
        Ok((target.tensor.clone(), layer))
    }

    fn alpha(&self, weights: &Weights<'_>, key: &str) -> Result<f64, LoraError> {
        let tensor = weights.plain(key)?;
        match tensor.values[..] {
            [only] if only.is_finite() => Ok(f64::from(only)),
            _ => Err(LoraError::Matrix {
                file: self.name().to_owned(),
                key: key.to_owned(),
                found: tensor.shape,
                expected: "one finite number".to_owned(),
            }),
        }
    }
}
