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
mod text;
mod tokenizer;
mod unet;
mod vae;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use asyncdiff_burn::weights::{WeightFile, WeightSet, Weights};
use serde_json::{Value, json};

use super::CheckpointError;
use crate::error::Error;
use part::{Names, Part};
use unet::{Conventions, UNet};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

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

/// Tensors that training leaves in a checkpoint, beside the networks.
const LEFTOVERS: [&str; 19] = [
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "denoiser.sigmas",
    "global_step",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "v_pred",
    "ztsnr",
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

/// The generations of Stable Diffusion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    One,
    Two,
    Xl,
}

/// A text encoder of a family.
struct TextPart {
    folder: &'static str,
    tokenizer: &'static str,
    prefix: &'static str,
    open_clip: bool,
    /// Whether its projected text is read, beside the hidden states.
    projects: bool,
    pad: &'static str,
}

const END_OF_TEXT: &str = "<|endoftext|>";

impl Family {
    /// Told by the text encoders.
    fn of(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Self> {
        [Self::Xl, Self::Two, Self::One].into_iter().find(|family| {
            family
                .text_parts()
                .iter()
                .all(|text| has_below(shapes, text.prefix))
        })
    }

    fn text_parts(self) -> Vec<TextPart> {
        let first = TextPart {
            folder: "text_encoder",
            tokenizer: "tokenizer",
            prefix: "cond_stage_model.transformer.",
            open_clip: false,
            projects: false,
            pad: END_OF_TEXT,
        };
        match self {
            Family::One => vec![first],
            Family::Two => vec![TextPart {
                prefix: "cond_stage_model.model.",
                open_clip: true,
                pad: "!",
                ..first
            }],
            Family::Xl => vec![
                TextPart {
                    prefix: "conditioner.embedders.0.transformer.",
                    ..first
                },
                TextPart {
                    folder: "text_encoder_2",
                    tokenizer: "tokenizer_2",
                    prefix: "conditioner.embedders.1.model.",
                    open_clip: true,
                    projects: true,
                    pad: "!",
                },
            ],
        }
    }

    fn class(self, in_channels: usize) -> &'static str {
        match (self, in_channels) {
            (Family::Xl, 9) => "StableDiffusionXLInpaintPipeline",
            (Family::Xl, _) => "StableDiffusionXLPipeline",
            (_, 9) => "StableDiffusionInpaintPipeline",
            _ => "StableDiffusionPipeline",
        }
    }
}

fn has_below(shapes: &BTreeMap<String, Vec<usize>>, prefix: &str) -> bool {
    shapes
        .range(prefix.to_owned()..)
        .next()
        .is_some_and(|(name, _)| name.starts_with(prefix))
}

/// What the file says beside its networks.
struct Hints {
    metadata: HashMap<String, String>,
    v_pred: bool,
    ztsnr: bool,
    global_step: Option<f32>,
}

/// What is not in the shapes.
struct Training {
    velocity: bool,
    sample_size: usize,
    assumption: Option<String>,
}

impl Hints {
    fn new(
        metadata: HashMap<String, String>,
        shapes: &BTreeMap<String, Vec<usize>>,
        weights: &Weights<'_>,
    ) -> Self {
        let step = weights.plain("global_step").ok();
        Self {
            metadata,
            v_pred: shapes.contains_key("v_pred"),
            ztsnr: shapes.contains_key("ztsnr"),
            global_step: step.and_then(|step| step.values.first().copied()),
        }
    }

    fn training(&self, file: &str, family: Family, in_channels: usize) -> Training {
        let declared = match self.metadata.get("modelspec.prediction_type") {
            Some(kind) if kind.starts_with('v') => Some(true),
            Some(kind) if kind.starts_with("eps") => Some(false),
            _ => self.v_pred.then_some(true),
        };
        let stable_diffusion_2 = family == Family::Two && in_channels == 4;
        let (velocity, assumption) = match (declared, self.global_step) {
            (Some(velocity), _) => (velocity, None),
            (None, Some(875_000.0)) if stable_diffusion_2 => (false, None),
            (None, _) if stable_diffusion_2 => {
                let assumption = format!(
                    "nothing in {file} says what the denoiser predicts; v_prediction is assumed, as of Stable Diffusion 2.1. If the picture is noise, give a folder with a scheduler/scheduler_config.json whose prediction_type is epsilon (--config)"
                );
                (true, Some(assumption))
            }
            (None, _) => (false, None),
        };
        let convention = match (family, velocity) {
            (Family::Xl, _) => 128,
            (Family::Two, true) => 96,
            _ => 64,
        };
        let resolution = self.metadata.get("modelspec.resolution");
        Training {
            velocity,
            sample_size: resolution
                .and_then(|resolution| square(resolution))
                .unwrap_or(convention),
            assumption,
        }
    }

    fn scheduler(&self, family: Family, velocity: bool) -> Value {
        let mut config = json!({
            "_class_name": match family {
                Family::One => "PNDMScheduler",
                Family::Two => "DDIMScheduler",
                Family::Xl => "EulerDiscreteScheduler",
            },
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "clip_sample": false,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "prediction_type": if velocity { "v_prediction" } else { "epsilon" },
        });
        // Where nothing of the picture is left in the noise, the noise says nothing about the picture.
        if self.ztsnr && velocity {
            config["rescale_betas_zero_snr"] = json!(true);
            config["timestep_spacing"] = json!("trailing");
        }
        config
    }
}

/// The latents' side of a square picture, from `WIDTHxHEIGHT`.
fn square(resolution: &str) -> Option<usize> {
    let (width, height) = resolution.split_once('x')?;
    let width: usize = width.trim().parse().ok()?;
    (height.trim().parse() == Ok(width) && width >= 8).then_some(width / 8)
}

impl SingleFile {
    pub fn open(path: PathBuf, config: Option<PathBuf>) -> Result<Self, Error> {
        refuse_pickle(&path)?;
        if let Some(folder) = &config
            && !CONFIGURABLE.iter().any(|name| folder.join(name).exists())
        {
            return Err(CheckpointError::NoConfiguration(folder.clone()).into());
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
    ) -> Result<(), Error> {
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
        self.configure("vae", || vae::config(&vae, scaling_factor))?;

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
    ) -> Result<(), Error> {
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
    fn configured_layers(&self, part: &str) -> Result<Option<usize>, Error> {
        let name = format!("{part}/config.json");
        if self.configured(&name).is_none() {
            return Ok(None);
        }
        let config: Value =
            serde_json::from_slice(&self.read(&name)?).map_err(|source| Error::Json {
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
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let error = |source| Error::Read {
            file: self.describe(name),
            source,
        };
        if let Some(path) = self.configured(name) {
            return fs::read(path).map_err(error);
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

    pub fn weights(&self, part: &str) -> Result<WeightSet, Error> {
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

/// Says what to do with a pickle, which is what older checkpoints are, by its first bytes.
fn refuse_pickle(path: &Path) -> Result<(), CheckpointError> {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read(&mut start));
    // A zip archive is what PyTorch writes, protocol 2 to 5 of pickle alone what it wrote before.
    let pickle = start == *b"PK\x03\x04" || (start[0] == 0x80 && (2..=5).contains(&start[1]));
    if read.is_ok() && pickle {
        return Err(CheckpointError::Pickle(path.to_owned()));
    }
    Ok(())
}

/// The family, if the file is a whole checkpoint of one and there is nothing in it that is not understood.
fn recognize(file: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Result<Family, CheckpointError> {
    let file = file.to_owned();
    if !has_below(shapes, UNET) {
        return Err(CheckpointError::NotOriginal {
            file,
            hint: hint(shapes),
        });
    }
    for (tensor, kind) in [
        ("edm_mean", "Playground 2.5, of the EDM kind"),
        ("edm_vpred.sigma_max", "CosXL, of the EDM kind"),
        (
            "conditioner.embedders.0.model.positional_embedding",
            "the refiner of Stable Diffusion XL",
        ),
    ] {
        if shapes.contains_key(tensor) {
            return Err(CheckpointError::Kind { file, kind });
        }
    }
    if !shapes.contains_key("model.diffusion_model.input_blocks.0.0.weight") {
        let kind = "another architecture than the UNet of Stable Diffusion";
        return Err(CheckpointError::Kind { file, kind });
    }
    let Some(family) = Family::of(shapes) else {
        let part = "text encoder".to_owned();
        return Err(CheckpointError::NoPart { file, part });
    };
    if !has_below(shapes, VAE) {
        let part = "VAE (first_stage_model)".to_owned();
        return Err(CheckpointError::NoPart { file, part });
    }
    let known = |name: &str| {
        LEFTOVERS.contains(&name)
            || [UNET, VAE, "model_ema."]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            || family
                .text_parts()
                .iter()
                .any(|text| name.starts_with(text.prefix))
            || name.ends_with(".logit_scale")
    };
    match shapes.keys().find(|name| !known(name)) {
        Some(name) => Err(CheckpointError::NotUnderstood {
            file,
            name: name.clone(),
        }),
        None => Ok(family),
    }
}

/// What a file that is no checkpoint looks like instead.
fn hint(shapes: &BTreeMap<String, Vec<usize>>) -> String {
    let any = |test: &dyn Fn(&str) -> bool| shapes.keys().any(|name| test(name));
    if any(&|name| name.contains("lora_") || name.contains(".lora.")) {
        "it looks like a LoRA, which is added to a model (--lora)".to_owned()
    } else if any(&|name| {
        name.starts_with("down_blocks.")
            || name.starts_with("encoder.down_blocks.")
            || name.starts_with("text_model.")
    }) {
        "it looks like one part of a model in diffusers layout: give the folder with its model_index.json".to_owned()
    } else {
        match shapes.keys().next() {
            Some(first) => format!("its first tensor is {first}"),
            None => "it has no tensors".to_owned(),
        }
    }
}
