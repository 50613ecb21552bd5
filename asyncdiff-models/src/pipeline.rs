//! The Stable Diffusion pipelines: what a checkpoint is, and what a request asks of it. Weights come later, with
//! [`Session`](crate::Session).

mod class;
mod loras;
mod request;

use asyncdiff_core::plan::Guidance;
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{UNet2d, UNet2dConfig};
use asyncdiff_core::{Partition, PartitionError, Plan, Schedule, SegmentGraph, Summary};
use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::Error;
use crate::lora::Fitted;
use crate::text::{TextEncoders, pieces};
use crate::vae::VaeConfig;

pub(crate) use class::Class;
pub use request::{InitImage, PartitionChoice, Request, Run, Strategy};

/// Far above what any model was trained for, and low enough that no product of sizes overflows.
const MOST_PIXELS: usize = 16_384;
const MOST_IMAGES: usize = 1024;

/// A text-to-image checkpoint (diffusers' `StableDiffusionPipeline` or `StableDiffusionXLPipeline`), without its weights.
#[derive(Debug)]
pub struct StableDiffusion {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) class: Class,
    pub(crate) text_encoders: TextEncoders,
    pub(crate) unet: UNet2d,
    pub(crate) vae: VaeConfig,
    pub(crate) loras: Vec<Fitted>,
    pub(crate) dtype: Dtype,
    scheduler: SchedulerConfig,
    recommended: GenerationConfig,
}

/// `generation_config.json`, which a checkpoint may have: what its makers recommend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    guidance_scale: Option<f64>,
    num_inference_steps: Option<usize>,
}

fn scheduler(checkpoint: &Checkpoint) -> Result<SchedulerConfig, Error> {
    let name = "scheduler/scheduler_config.json";
    String::from_utf8_lossy(&checkpoint.read(name)?)
        .parse()
        .map_err(|source| Error::SchedulerFile {
            file: checkpoint.describe(name),
            source,
        })
}

fn same(what: &str, found: usize, other: &str, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: what.to_owned(),
        found,
        other: other.to_owned(),
        expected,
    })
}

/// The partition, and whether it is the balanced one for want of a published one.
fn choose(
    graph: &SegmentGraph,
    choice: &PartitionChoice,
) -> Result<(Partition, bool), PartitionError> {
    Ok(match choice {
        PartitionChoice::Published(segments) => match Partition::published(graph, *segments) {
            Err(PartitionError::NoFit) => (Partition::balanced(graph, *segments)?, true),
            other => (other?, false),
        },
        PartitionChoice::Balanced(segments) => (Partition::balanced(graph, *segments)?, false),
        PartitionChoice::Map(map) => (Partition::from_map(graph, map)?, false),
    })
}

impl StableDiffusion {
    /// Reads a checkpoint's configurations and tokenizers. The class in its `model_index.json` decides which it must have.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file is missing or broken, or the checkpoint is of a kind that is not supported.
    pub fn open(checkpoint: Checkpoint) -> Result<Self, Error> {
        let class = Class::of(&checkpoint)?;
        let generation = "generation_config.json";
        let recommended = if checkpoint.has(generation) {
            checkpoint.json(generation)?
        } else {
            GenerationConfig::default()
        };
        let pipeline = Self {
            class,
            text_encoders: TextEncoders::open(&checkpoint, class)?,
            unet: UNet2d::new(&checkpoint.json::<UNet2dConfig>("unet/config.json")?)?,
            vae: checkpoint.json("vae/config.json")?,
            scheduler: scheduler(&checkpoint)?,
            recommended,
            loras: Vec::new(),
            dtype: Dtype::default(),
            checkpoint,
        };
        pipeline.check_settings()?;
        pipeline.check_parts()?;
        Ok(pipeline)
    }

    /// Lets the denoiser and the text encoders of every session compute in `dtype`, and plans count its bytes. Without
    /// this, they compute in `f32`, whatever type the checkpoint's files have.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// Whether every part can be built.
    fn check_settings(&self) -> Result<(), Error> {
        let mut faults = vec![("vae", self.vae.fault())];
        for encoder in self.text_encoders.iter() {
            faults.push((encoder.folder, encoder.config.fault()));
            let (entries, tokens) = (encoder.config.vocab_size, encoder.tokenizer.vocab_size());
            if entries < tokens {
                let fault = (
                    "vocab_size",
                    entries.to_string(),
                    "at least the tokenizer's number of tokens",
                );
                faults.push((encoder.folder, Some(fault)));
            }
        }
        match faults
            .into_iter()
            .find_map(|(part, fault)| Some((part, fault?)))
        {
            Some((part, (key, found, supported))) => Err(Error::Setting {
                file: self.checkpoint.describe(&format!("{part}/config.json")),
                key,
                found,
                supported,
            }),
            None => Ok(()),
        }
    }

    /// Whether the parts' settings agree.
    fn check_parts(&self) -> Result<(), Error> {
        let (unet, vae) = (&self.unet.config, &self.vae);
        let encoders = &self.text_encoders;
        let latents = vae.latent_channels;
        if !self.reads_mask() {
            same(
                "unet in_channels",
                unet.in_channels,
                "vae latent_channels",
                latents,
            )?;
        }
        same(
            "unet out_channels",
            unet.out_channels,
            "vae latent_channels",
            latents,
        )?;
        for values in [&vae.latents_mean, &vae.latents_std].into_iter().flatten() {
            let what = "length of vae latents_mean or latents_std";
            same(what, values.len(), "vae latent_channels", latents)?;
        }
        let together = match encoders {
            TextEncoders::One(_) => "text_encoder hidden_size",
            TextEncoders::Two { .. } => "hidden_size of both text encoders together",
        };
        let read = unet.cross_attention_dim;
        same(
            "unet cross_attention_dim",
            read,
            together,
            encoders.features(),
        )?;
        for encoder in encoders.iter() {
            let folder = encoder.folder;
            let length = encoder.tokenizer.model_max_length();
            let what = format!("model_max_length of {folder}'s tokenizer");
            let positions = encoder.config.max_position_embeddings;
            let other = format!("{folder} max_position_embeddings");
            same(&what, length, &other, positions)?;
            same(
                &what,
                length,
                "that of the first tokenizer",
                encoders.tokens(),
            )?;
        }
        match (encoders, unet.added()) {
            (TextEncoders::One(_), None) => Ok(()),
            (TextEncoders::Two { second, .. }, Some(added)) => {
                let numbers = self.class.time_ids(0, 0).map_or(0, |ids| ids.len());
                same(
                    "unet projection_class_embeddings_input_dim",
                    added.input_features,
                    &format!("text_encoder_2 projection_dim + {numbers} addition_time_embed_dim"),
                    second.config.projection_dim + numbers * added.number_features,
                )
            }
            (TextEncoders::One(_), Some(_)) | (TextEncoders::Two { .. }, None) => {
                let found = unet.addition_embed_type.as_deref().unwrap_or("null");
                Err(Error::AdditionEmbedType {
                    found: found.to_owned(),
                    class: self.class.name(),
                })
            }
        }
    }

    /// A request for one picture with the model's defaults: its training size, and the steps and guidance scale of its
    /// `generation_config.json` where it has one (otherwise those of its pipeline class in diffusers).
    #[must_use]
    pub fn request(&self, prompt: impl Into<String>) -> Request {
        let defaults = self.class.defaults();
        let sample_size = self.unet.config.sample_size;
        let side = sample_size.unwrap_or(defaults.sample_size) * self.vae.scale_factor();
        let recommended = self.recommended;
        Request {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            steps: recommended
                .num_inference_steps
                .unwrap_or(defaults.num_inference_steps),
            guidance_scale: recommended
                .guidance_scale
                .unwrap_or(defaults.guidance_scale),
            seed: 0,
            width: side,
            height: side,
            num_images: 1,
            prompt_weighting: false,
            vae_tiling: false,
            scheduler: None,
            latents: None,
            init_image: None,
        }
    }

    /// Plans a request, without loading weights.
    ///
    /// # Errors
    ///
    /// [`Error`] for a request that the model cannot meet, or a strategy that is not possible.
    pub fn plan(&self, request: &Request, strategy: &Strategy) -> Result<Run, Error> {
        let shape = self.latents_shape(request)?;
        if let Some(latents) = request
            .latents
            .as_ref()
            .filter(|latents| latents.shape != shape)
        {
            return Err(Error::Latents {
                found: latents.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let guidance = self.guidance(request)?;
        let graph = self.graph(request)?;
        let scheduler = match &request.scheduler {
            Some(name) => self.scheduler.with_class(name)?,
            None => self.scheduler.clone(),
        };
        let schedule = self.schedule(&scheduler, request)?;
        let sequential = Plan::sequential(&graph, &schedule, guidance)?;
        let (plan, fell_back) = match strategy {
            Strategy::Sequential => (sequential.clone(), false),
            Strategy::Asynchronous {
                partition,
                parameters,
            } => {
                let (partition, fell_back) = choose(&graph, partition)?;
                let plan = Plan::asyncdiff(&graph, &partition, &schedule, guidance, parameters)?;
                (plan, fell_back)
            }
        };
        Ok(Run {
            request: request.clone(),
            summary: Summary::new(&plan, &sequential, &graph, self.dtype.bytes()),
            graph,
            schedule,
            plan,
            scheduler: scheduler.class_name,
            dtype: self.dtype,
            fell_back,
        })
    }

    /// The denoiser's blocks at the request's size.
    pub(crate) fn graph(&self, request: &Request) -> Result<SegmentGraph, Error> {
        let [batch, _, height, width] = self.latents_shape(request)?;
        let passes = if self.guidance(request)?.is_some() {
            2
        } else {
            1
        };
        let tokens = self.text_encoders.tokens();
        Ok(self.unet.graph(passes, [batch, height, width], tokens))
    }

    /// Whether the denoiser reads a mask and the picture outside it beside the latents (an inpainting UNet).
    pub(crate) fn reads_mask(&self) -> bool {
        let latents = self.vae.latent_channels;
        self.unet.config.in_channels == 2 * latents + 1
    }

    /// The schedule of a request: from its picture on, if it has one.
    fn schedule(&self, scheduler: &SchedulerConfig, request: &Request) -> Result<Schedule, Error> {
        let mask = request
            .init_image
            .as_ref()
            .and_then(|init| init.mask.as_ref());
        if self.reads_mask() && mask.is_none() {
            return Err(Error::NeedsMask);
        }
        let Some(init) = &request.init_image else {
            return Ok(Schedule::new(scheduler, request.steps)?);
        };
        if !(init.strength > 0.0 && init.strength <= 1.0) {
            return Err(Error::Strength(init.strength));
        }
        let sizes = [
            (
                "picture to start from",
                Some((init.image.width, init.image.height)),
            ),
            ("mask", mask.map(|mask| (mask.width, mask.height))),
        ];
        for (what, size) in sizes {
            let expected = (request.width, request.height);
            if let Some(found) = size.filter(|size| *size != expected) {
                return Err(Error::PictureSize {
                    what,
                    found,
                    expected,
                });
            }
        }
        init.image.check()?;
        let schedule = Schedule::part_way(scheduler, request.steps, init.skipped(request.steps))?;
        Ok(if mask.is_some() && !self.reads_mask() {
            schedule.keeping_outside()
        } else {
            schedule
        })
    }

    /// `[batch, channels, height, width]` of the request's latents.
    fn latents_shape(&self, request: &Request) -> Result<[usize; 4], Error> {
        if request.num_images == 0 {
            return Err(Error::NoImages);
        }
        for (what, found, most) in [
            ("width", request.width, MOST_PIXELS),
            ("height", request.height, MOST_PIXELS),
            ("number of images", request.num_images, MOST_IMAGES),
        ] {
            if found > most {
                return Err(Error::TooLarge { what, found, most });
            }
        }
        let factor = self.vae.scale_factor();
        let side = |side, found: usize| {
            if found == 0 || !found.is_multiple_of(factor) {
                return Err(Error::Size {
                    side,
                    found,
                    factor,
                    nearest: ((found + factor / 2) / factor).max(1) * factor,
                });
            }
            Ok(found / factor)
        };
        Ok([
            request.num_images,
            self.vae.latent_channels,
            side("height", request.height)?,
            side("width", request.width)?,
        ])
    }

    pub(crate) fn guidance(&self, request: &Request) -> Result<Option<Guidance>, Error> {
        let scale = request.guidance_scale;
        if !scale.is_finite() {
            return Err(Error::Guidance(scale));
        }
        Ok((scale > 1.0).then(|| scale.into()))
    }

    /// The part of a prompt, with or without [weights](crate::prompt) in it, that is longer than the text encoders take, if
    /// there is one. Generation cuts it off.
    #[must_use]
    pub fn truncated(&self, prompt: &str, weighting: bool) -> Option<String> {
        let pieces = pieces(prompt, weighting);
        self.text_encoders.iter().find_map(|encoder| {
            let texts = pieces.iter().map(|piece| piece.text.as_str());
            encoder.tokenizer.encode_pieces(texts).0.truncated
        })
    }

    /// The configuration of the checkpoint's noise scheduler.
    pub(crate) fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The tokenizers and text encoders.
    #[must_use]
    pub fn text_encoders(&self) -> &TextEncoders {
        &self.text_encoders
    }

    /// The denoiser's structure.
    #[must_use]
    pub fn unet(&self) -> &UNet2d {
        &self.unet
    }
}
