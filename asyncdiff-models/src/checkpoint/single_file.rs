//! A checkpoint in one file, in the layout of the original Stable Diffusion code (CompVis's LDM, Stability's SGM): what web
//! UIs load. It presents itself as a diffusers folder: tensors get diffusers' names, and the JSON files are inferred from
//! the tensors' shapes and names, never from the file's name.
//!
//! What the shapes cannot tell follows the original projects' configurations, as `from_single_file` of diffusers does:
//!
//! | | Stable Diffusion 1 | 2 | XL |
//! |---|---|---|---|
//! | told by its text encoders | `cond_stage_model.transformer` | `cond_stage_model.model` | `conditioner.embedders.0`, `.1` |
//! | attention heads of the UNet | 8 | 64 channels each | 64 channels each |
//! | text encoders' activation | quick GELU | GELU | quick GELU, GELU |
//! | tokenizers pad with | end of text | `!` | end of text, `!` |
//! | latents' scaling factor | 0.18215 | 0.18215 | 0.13025 |
//! | noise scheduler | PNDM | DDIM | Euler |
//! | latents' side | 64 | 96, or 64 where epsilon | 128 |
//!
//! The latents' side is that of `modelspec.resolution` where the file's metadata have one. What the denoiser predicts is,
//! in this order: what `modelspec.prediction_type` says; the velocity if there is a tensor `v_pred`; for Stable
//! Diffusion 2 with 4 input channels, the noise if `global_step` is 875000 (as in diffusers) and otherwise the velocity;
//! the noise. With the velocity, a tensor `ztsnr` means betas rescaled to zero terminal SNR, with trailing timesteps.

mod part;
mod recognize;
mod text;
mod tokenizer;
mod training;
mod unet;
mod vae;

use std::collections::BTreeMap;
use std::path::PathBuf;

use asyncdiff_burn::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_burn::weights::{WeightFile, WeightSet};
use serde_json::{Value, json};

use super::error::CheckpointError;
use crate::json;
use part::{Names, Part};
use recognize::{Family, TextPart, UNET, VAE, recognize};
use training::Hints;
use unet::{Conventions, UNet};

/// What a folder of configurations may have in place of what is inferred.
const CONFIGURABLE: [&str; 9] = [
    "model_index.json",
    "generation_config.json",
    "scheduler",
    "unet",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
];

/// A checkpoint in one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SingleFile {
    path: PathBuf,
    /// A folder of configurations that go before the inferred ones.
    config: Option<PathBuf>,
    /// Where each part's tensors are.
    parts: BTreeMap<&'static str, Names>,
    /// The inferred JSON files.
    inferred: BTreeMap<String, Vec<u8>>,
    /// The built-in tokenizers: folder, length of a text, padding.
    tokenizers: Vec<(&'static str, usize, &'static str)>,
    /// What nothing in the file says.
    assumption: Option<String>,
}

impl SingleFile {
    pub fn open(path: PathBuf, config: Option<PathBuf>) -> Result<Self, CheckpointError> {
        if let Some(folder) = &config
            && !CONFIGURABLE.iter().any(|name| folder.join(name).exists())
        {
            return Err(CheckpointError::NoConfiguration(folder.clone()));
        }
        let file = WeightFile::open(&path)?;
        let name = file.name();
        let weights = file.read()?;
        let shapes: BTreeMap<String, Vec<usize>> = weights
            .shapes()
            .map(|(name, shape)| (name.to_owned(), shape))
            .collect();
        let family = recognize(name, &shapes)?;
        let hints = Hints::new(file.metadata()?, &shapes, &weights);
        let mut this = Self {
            path,
            config,
            parts: BTreeMap::new(),
            inferred: BTreeMap::new(),
            tokenizers: Vec::new(),
            assumption: None,
        };
        this.infer(name, &shapes, family, &hints)?;
        Ok(this)
    }

    fn infer(
        &mut self,
        file: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        family: Family,
        hints: &Hints,
    ) -> Result<(), CheckpointError> {
        let unet = UNet::new(Part::new(file, UNET, shapes, |_| false));
        let in_channels = unet.in_channels()?;
        let training = hints.training(file, family, in_channels);
        self.parts.insert("unet", unet.names()?);
        let conventions = Conventions {
            sample_size: training.sample_size,
        };
        self.configure("unet", || unet.config(&conventions))?;

        let vae = Part::new(file, VAE, shapes, vae::is_surplus);
        self.parts.insert("vae", vae::names(&vae)?);
        let scaling_factor = match family {
            Family::Xl => 0.13025,
            _ => 0.18215,
        };
        self.configure("vae", || {
            vae::config(&vae, scaling_factor, training.sample_size)
        })?;

        for text in family.text_parts() {
            self.infer_text(file, shapes, &text)?;
        }

        let class = json!({ "_class_name": family.class(in_channels) });
        self.infer_file("model_index.json", "model_index.json", class);
        if self.configured("scheduler").is_none() {
            self.assumption = training.assumption;
        }
        let scheduler = hints.scheduler(family, training.velocity);
        self.infer_file("scheduler", "scheduler/scheduler_config.json", scheduler);
        Ok(())
    }

    fn infer_text(
        &mut self,
        file: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        text: &TextPart,
    ) -> Result<(), CheckpointError> {
        let surplus = if text.projects {
            text::is_surplus_beside_projection
        } else {
            text::is_surplus
        };
        let part = Part::new(file, text.prefix, shapes, surplus);
        let length = if text.open_clip {
            let in_file = text::open_clip::layers(&part);
            let read = match self.configured_layers(text.folder)? {
                Some(layers) => layers,
                None if text.projects => in_file,
                None => text::open_clip::layers_read(&part),
            };
            // A last layer that nothing reads is left out; more than one would be a mistake.
            let kept = if in_file == read + 1 { read } else { in_file };
            let names = text::open_clip::names(&part, kept)?;
            self.parts.insert(text.folder, names);
            self.configure(text.folder, || text::open_clip::config(&part, read))?;
            part.dims::<2>("positional_embedding")?[0]
        } else {
            self.parts.insert(text.folder, text::clip::names(&part)?);
            self.configure(text.folder, || text::clip::config(&part))?;
            text::clip::positions(&part)?
        };
        self.tokenizers.push((text.tokenizer, length, text.pad));
        Ok(())
    }

    /// Infers a part's `config.json`, unless there is one.
    fn configure(
        &mut self,
        part: &str,
        infer: impl FnOnce() -> Result<Value, CheckpointError>,
    ) -> Result<(), CheckpointError> {
        if self.configured(part).is_none() {
            self.infer_file(part, &format!("{part}/config.json"), infer()?);
        }
        Ok(())
    }

    fn infer_file(&mut self, entry: &str, name: &str, content: Value) {
        if self.configured(entry).is_none() {
            let content = content.to_string().into_bytes();
            self.inferred.insert(name.to_owned(), content);
        }
    }

    /// `num_hidden_layers` of a part that the folder of configurations has.
    fn configured_layers(&self, part: &str) -> Result<Option<usize>, CheckpointError> {
        let name = format!("{part}/config.json");
        if self.configured(&name).is_none() {
            return Ok(None);
        }
        let config: Value =
            json::from_slice(&self.read(&name)?).map_err(|source| CheckpointError::Json {
                file: self.describe(&name),
                source,
            })?;
        let layers = config["num_hidden_layers"].as_u64();
        Ok(layers.and_then(|layers| usize::try_from(layers).ok()))
    }

    /// Where the file `name` is if the folder of configurations has it, or the folder that it is in.
    fn configured(&self, name: &str) -> Option<PathBuf> {
        let entry = name.split('/').next()?;
        let folder = self.config.as_ref()?;
        folder.join(entry).exists().then(|| folder.join(name))
    }

    pub fn assumption(&self) -> Option<&str> {
        self.assumption.as_deref()
    }

    pub fn describe(&self, name: &str) -> String {
        let file = self.path.display();
        match self.configured(name) {
            Some(path) => path.display().to_string(),
            None if name.is_empty() => file.to_string(),
            None => format!("{file} (inferred {name})"),
        }
    }

    /// The contents of the file `name`, whether inferred, built in, or of the folder of configurations.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let error = |source| CheckpointError::Read {
            file: self.describe(name),
            source,
        };
        if let Some(path) = self.configured(name) {
            return files::read(&path, MOST_BYTES_OF_TEXT).map_err(error);
        }
        if let Some(content) = self.inferred.get(name) {
            return Ok(content.clone());
        }
        self.built_in(name)
            .ok_or_else(|| error(std::io::ErrorKind::NotFound.into()))
    }

    pub fn has(&self, name: &str) -> bool {
        match self.configured(name) {
            Some(path) => path.is_file(),
            None => self.inferred.contains_key(name) || self.built_in(name).is_some(),
        }
    }

    fn built_in(&self, name: &str) -> Option<Vec<u8>> {
        let (folder, name) = name.split_once('/')?;
        let mut tokenizers = self.tokenizers.iter();
        let (_, length, pad) = tokenizers.find(|(known, _, _)| *known == folder)?;
        tokenizer::file(name, *length, pad)
    }

    pub fn weights(&self, part: &str) -> Result<WeightSet, CheckpointError> {
        let names = self
            .parts
            .get(part)
            .ok_or_else(|| CheckpointError::NoPart {
                file: self.path.display().to_string(),
                part: part.to_owned(),
            })?;
        let file = WeightFile::open(&self.path)?;
        Ok(WeightSet::renamed(file, names.clone()))
    }
}
