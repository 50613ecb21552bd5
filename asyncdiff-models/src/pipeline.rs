//! The Stable Diffusion and Stable Video Diffusion pipelines: what a checkpoint is, and what a request asks of it. Weights come later, with
//! [`Session`](crate::Session).

mod assignment;
mod checks;
mod choices;
mod loras;
mod memory;
mod motion;
mod possible;
mod run;

use std::sync::Arc;

use asyncdiff_core::plan::Guidance;
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{SpatioTemporalConfig, UNet2d, UNet2dConfig};
use asyncdiff_core::{Machine, Plan, Schedule, SegmentGraph, Setting, Spread, Strategy, Summary};
use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::class::Class;
use crate::dtype::Dtype;
use crate::encoders::Encoders;
use crate::error::Error;
use crate::fit::FitError;
use crate::lora::Fitted;
use crate::measured::MeasuredMachine;
use crate::request::{Content, Request, RequestError, Shape, StartFrom};
use crate::text::{TextEncoders, pieces};
use crate::vae::VaeConfig;
use crate::vision::ImageEncoder;

pub use assignment::{Assignment, AssignmentError};
pub use choices::Choices;
use motion::Motion;
pub use motion::MotionAdapter;
pub use run::Run;

/// Far above what any model was trained for, and low enough that no product of sizes overflows.
const MOST_PIXELS: usize = 16_384;
const MOST_IMAGES: usize = 1024;
const MOST_FRAMES: usize = 1024;

/// A checkpoint that makes pictures of texts (diffusers' `StableDiffusionPipeline` or `StableDiffusionXLPipeline`), or videos of
/// pictures (`StableVideoDiffusionPipeline`), without its weights.
#[derive(Clone, Debug)]
pub struct StableDiffusion {
    /// Clones have the same one.
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) class: Class,
    pub(crate) encoders: Encoders,
    pub(crate) unet: UNet2d,
    /// Frames of the videos that the denoiser was trained for; 1 for pictures.
    frames: usize,
    pub(crate) vae: VaeConfig,
    motion: Option<Arc<Motion>>,
    pub(crate) loras: Vec<Arc<Fitted>>,
    pub(crate) dtype: Dtype,
    /// The checkpoint's.
    scheduler: SchedulerConfig,
    /// In place of the checkpoint's, and of that for videos.
    given_scheduler: Option<SchedulerConfig>,
    recommended: GenerationConfig,
}

/// `generation_config.json`, which a checkpoint may have: what its makers recommend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    guidance_scale: Option<f64>,
    num_inference_steps: Option<usize>,
}

const SCHEDULER_CONFIG: &str = "scheduler/scheduler_config.json";

fn scheduler(checkpoint: &Checkpoint) -> Result<SchedulerConfig, Error> {
    let name = SCHEDULER_CONFIG;
    String::from_utf8_lossy(&checkpoint.read(name)?)
        .parse()
        .map_err(|source| {
            FitError::SchedulerFile {
                file: checkpoint.describe(name),
                source,
            }
            .into()
        })
}

/// The denoiser, and the frames that it was trained for.
fn denoiser(checkpoint: &Checkpoint, class: Class) -> Result<(UNet2d, usize), Error> {
    let file = "unet/config.json";
    Ok(match class {
        Class::Base | Class::Xl { .. } => {
            let config: UNet2dConfig = checkpoint.json(file)?;
            (UNet2d::new(&config)?, 1)
        }
        Class::Video => {
            let config: SpatioTemporalConfig = checkpoint.json(file)?;
            (UNet2d::spatio_temporal(&config)?, config.num_frames)
        }
    })
}

/// What every plan for a shape starts from: graph, schedule, guidance, and the noise scheduler behind the schedule.
type Planned = (SegmentGraph, Schedule, Option<Guidance>, SchedulerConfig);

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
        let (unet, frames) = denoiser(&checkpoint, class)?;
        let pipeline = Self {
            class,
            encoders: Encoders::open(&checkpoint, class)?,
            unet,
            frames,
            vae: checkpoint.json("vae/config.json")?,
            motion: None,
            scheduler: scheduler(&checkpoint)?,
            given_scheduler: None,
            recommended,
            loras: Vec::new(),
            dtype: Dtype::default(),
            checkpoint: Arc::new(checkpoint),
        };
        pipeline.check_settings()?;
        pipeline.check_parts()?;
        Ok(pipeline)
    }

    /// Lets the denoiser and the encoders of every session compute in `dtype`, and plans count its bytes. Without
    /// this, they compute in `f32`, whatever type the checkpoint's files have.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// The same pipeline with a noise scheduler in place of its own, for pictures and videos.
    #[must_use]
    pub fn with_scheduler(self, config: SchedulerConfig) -> Self {
        Self {
            given_scheduler: Some(config),
            ..self
        }
    }

    /// The shape of one picture or video with the model's defaults: its training size and frames, and the steps and guidance
    /// scale of its `generation_config.json` where it has one (otherwise those of its pipeline class in diffusers). With a
    /// motion adapter, 16 frames, or as many as it can make if that is less.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let defaults = self.class.defaults();
        let sample_size = self.unet.config.sample_size;
        let (width, height) = self.class.size(sample_size, self.vae.scale_factor());
        let recommended = self.recommended;
        Shape {
            width,
            height,
            num_images: 1,
            frames: self.default_frames(),
            steps: recommended
                .num_inference_steps
                .unwrap_or(defaults.num_inference_steps),
            guidance_scale: recommended
                .guidance_scale
                .unwrap_or(defaults.guidance_scale),
            min_guidance_scale: defaults.min_guidance_scale,
            scheduler: None,
            start: StartFrom::Noise,
        }
    }

    /// A prompt with the model's defaults.
    #[must_use]
    pub fn content(&self, prompt: impl Into<String>) -> Content {
        Content {
            prompt: prompt.into(),
            negative_prompt: String::new(),
            prompt_weighting: false,
            seed: 0,
            batch_noise: false,
            fps: self.default_fps(),
            vae_tiling: false,
            latents: None,
            init_image: None,
            image_to_video: None,
        }
    }

    /// [`StableDiffusion::shape`] and [`StableDiffusion::content`].
    #[must_use]
    pub fn request(&self, prompt: impl Into<String>) -> Request {
        Request {
            shape: self.shape(),
            content: self.content(prompt),
        }
    }

    /// Plans what is to be made, without loading weights.
    ///
    /// # Errors
    ///
    /// [`Error`] for a shape that the model cannot make, or a strategy that is not possible.
    pub fn plan(&self, shape: &Shape, strategy: &Strategy) -> Result<Run, Error> {
        self.plan_on(None, shape, strategy)
    }

    /// The same, balanced for a machine that was measured; for one whose time is counted in multiply-adds if there is none.
    ///
    /// # Errors
    ///
    /// The same; [`Error::Measure`] for a machine that was measured for other runs.
    pub fn plan_on(
        &self,
        machine: Option<&MeasuredMachine>,
        shape: &Shape,
        strategy: &Strategy,
    ) -> Result<Run, Error> {
        let (graph, schedule, guidance, scheduler) = self.planned(shape)?;
        let setting = Setting::new(&graph, &schedule, guidance);
        let sequential = Plan::sequential(&setting)?;
        let plan = match machine {
            Some(measured) => strategy.plan(&setting, measured.machine_for(&graph, self.dtype)?)?,
            None => strategy.plan(&setting, &Machine::ideal(&graph))?,
        };
        let fell_back = match &strategy.spread {
            Spread::AsyncDiff { partition, .. } => partition.falls_back(&graph),
            _ => false,
        };
        Ok(Run {
            shape: shape.clone(),
            summary: Summary::new(&plan, &sequential, &graph, self.dtype.bytes()),
            graph,
            schedule,
            strategy: strategy.clone(),
            plan,
            scheduler: scheduler.class_name,
            dtype: self.dtype,
            fell_back,
        })
    }

    /// What every plan for a shape starts from.
    fn planned(&self, shape: &Shape) -> Result<Planned, Error> {
        self.check_video(shape)?;
        let guidance = self.guidance(shape)?;
        let graph = self.graph(shape)?;
        let own = self.scheduler_of(shape);
        let scheduler = match &shape.scheduler {
            Some(name) => own.with_class(name)?,
            None => own.clone(),
        };
        let schedule = self.schedule(&scheduler, shape)?;
        Ok((graph, schedule, guidance, scheduler))
    }

    /// The denoiser's blocks at a shape's size.
    pub(crate) fn graph(&self, shape: &Shape) -> Result<SegmentGraph, RequestError> {
        let [batch, _, height, width] = self.latents_shape(shape)?;
        let passes = if self.guidance(shape)?.is_some() {
            2
        } else {
            1
        };
        let motion = self.motion(shape);
        let unet = motion.map_or(&self.unet, |motion| &motion.unet);
        Ok(unet.video_graph(
            passes,
            shape.frames,
            [batch, height, width],
            self.encoders.tokens(),
        ))
    }

    /// Whether the denoiser reads a mask and the picture outside it beside the latents (an inpainting UNet).
    #[must_use]
    pub fn reads_mask(&self) -> bool {
        let latents = self.vae.latent_channels;
        self.unet.config.in_channels == 2 * latents + 1
    }

    /// The schedule: from the picture on, if the run starts from one.
    fn schedule(&self, scheduler: &SchedulerConfig, shape: &Shape) -> Result<Schedule, Error> {
        let start = shape.start;
        if self.reads_mask() && !start.is_masked() {
            return Err(RequestError::NeedsMask.into());
        }
        let Some(strength) = start.strength() else {
            return Ok(Schedule::new(scheduler, shape.steps)?);
        };
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(RequestError::Strength(strength).into());
        }
        let schedule = Schedule::part_way(scheduler, shape.steps, start.skipped(shape.steps))?;
        Ok(if start.is_masked() && !self.reads_mask() {
            schedule.keeping_outside()
        } else {
            schedule
        })
    }

    /// `[batch, channels, height, width]` of a shape's latents; a video has a row for each frame.
    fn latents_shape(&self, shape: &Shape) -> Result<[usize; 4], RequestError> {
        if shape.num_images == 0 {
            return Err(RequestError::NoImages);
        }
        for (what, found, most) in [
            ("width", shape.width, MOST_PIXELS),
            ("height", shape.height, MOST_PIXELS),
            ("number of images", shape.num_images, MOST_IMAGES),
        ] {
            if found > most {
                return Err(RequestError::TooLarge { what, found, most });
            }
        }
        let factor = self.vae.scale_factor();
        let side = |side, found: usize| {
            if found == 0 || !found.is_multiple_of(factor) {
                return Err(RequestError::Size {
                    side,
                    found,
                    factor,
                    nearest: ((found + factor / 2) / factor).max(1) * factor,
                });
            }
            Ok(found / factor)
        };
        Ok([
            shape.num_images * shape.frames,
            self.vae.latent_channels,
            side("height", shape.height)?,
            side("width", shape.width)?,
        ])
    }

    pub(crate) fn guidance(&self, shape: &Shape) -> Result<Option<Guidance>, RequestError> {
        let last = shape.guidance_scale;
        let first = shape.min_guidance_scale.unwrap_or(last);
        if let Some(scale) = [first, last].into_iter().find(|scale| !scale.is_finite()) {
            return Err(RequestError::Guidance(scale));
        }
        Ok((last > 1.0).then_some(Guidance { first, last }))
    }

    /// The part of a prompt, with or without [weights](crate::prompt) in it, that is longer than the text encoders take, if
    /// there is one. Generation cuts it off.
    #[must_use]
    pub fn truncated(&self, prompt: &str, weighting: bool) -> Option<String> {
        let pieces = pieces(prompt, weighting);
        self.text_encoders()?.iter().find_map(|encoder| {
            let texts = pieces.iter().map(|piece| piece.text.as_str());
            let cut = encoder.tokenizer.encode_pieces(texts).0.truncated;
            // Of what nobody can see, nobody misses the end.
            cut.filter(|cut| !cut.is_empty())
        })
    }

    /// The configuration of a shape's noise scheduler, before the shape's own changes to it.
    pub(crate) fn scheduler_of(&self, shape: &Shape) -> &SchedulerConfig {
        let videos = self.motion(shape).map(|motion| &motion.scheduler);
        let given = self.given_scheduler.as_ref();
        given.or(videos).unwrap_or(&self.scheduler)
    }

    /// The tokenizers and text encoders, of a model that reads texts.
    #[must_use]
    pub fn text_encoders(&self) -> Option<&TextEncoders> {
        match &self.encoders {
            Encoders::Texts(encoders) => Some(encoders),
            Encoders::Picture(_) => None,
        }
    }

    /// The encoder of the picture, of a model that makes a video of one.
    #[must_use]
    pub fn image_encoder(&self) -> Option<&ImageEncoder> {
        match &self.encoders {
            Encoders::Texts(_) => None,
            Encoders::Picture(encoder) => Some(encoder),
        }
    }

    /// What a width and a height in pixels have to be a multiple of.
    #[must_use]
    pub fn size_multiple(&self) -> usize {
        self.vae.scale_factor()
    }

    /// Whether shapes of several frames are possible.
    #[must_use]
    pub fn can_move(&self) -> bool {
        self.motion.is_some() || self.class == Class::Video
    }

    /// The structure of the denoiser of pictures.
    #[must_use]
    pub fn unet(&self) -> &UNet2d {
        &self.unet
    }
}
