//! Motion adapters: what makes videos with a model of pictures (AnimateDiff).

use std::sync::Arc;

use asyncdiff_burn::weights::WeightSet;
use asyncdiff_core::scheduler::{ScheduleError, SchedulerConfig};
use asyncdiff_core::unet::{MotionConfig, UNet2d};
use serde::Deserialize;

use super::{SCHEDULER_CONFIG, StableDiffusion, scheduler};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::class::Class;
use crate::error::Error;
use crate::fit::FitError;
use crate::lora::{Fitted, Lora, Part};
use crate::request::{RequestError, Shape, StartFrom};

/// The frames that published adapters were trained with.
const USUAL_FRAMES: usize = 16;
/// As their examples are saved.
const USUAL_FPS: usize = 8;

/// What diffusers calls the LoRA of a folder.
const LORA: &str = "pytorch_lora_weights.safetensors";

/// A motion adapter (diffusers' `MotionAdapter`), without its weights.
#[derive(Debug)]
pub struct MotionAdapter {
    files: Checkpoint,
    config: MotionConfig,
    scheduler: Option<SchedulerConfig>,
    lora: Option<Lora>,
}

/// A motion adapter in a pipeline.
#[derive(Debug)]
pub(crate) struct Motion {
    pub adapter: MotionAdapter,
    /// The pipeline's UNet with the adapter's motion modules.
    pub unet: UNet2d,
    /// The noise scheduler for videos.
    pub scheduler: SchedulerConfig,
    /// What the adapter changes in the pipeline's UNet.
    pub lora: Option<Fitted>,
}

#[derive(Deserialize)]
struct ClassName {
    _class_name: Option<String>,
}

impl MotionAdapter {
    /// Reads an adapter's `config.json` and, where it has them, its `scheduler/scheduler_config.json`, the noise scheduler that
    /// it was trained with, and its `pytorch_lora_weights.safetensors`, a LoRA of the UNet that it needs beside its own
    /// weights: motion modules see no text, so what a prompt says of motion is for the UNet to understand.
    ///
    /// # Errors
    ///
    /// [`Error`] if a file is missing or broken, or of another kind of model.
    pub fn open(files: Checkpoint) -> Result<Self, Error> {
        let name = "config.json";
        let class: ClassName = files.json(name)?;
        if let Some(found) = class._class_name.filter(|class| class != "MotionAdapter") {
            return Err(FitError::NoMotionAdapter {
                file: files.describe(name),
                found,
            }
            .into());
        }
        let scheduler = files
            .has(SCHEDULER_CONFIG)
            .then(|| scheduler(&files))
            .transpose()?;
        let lora = files
            .has(LORA)
            .then(|| -> Result<_, Error> { Ok(Lora::of(files.weight_file(LORA)?)?) })
            .transpose()?;
        Ok(Self {
            config: files.json(name)?,
            scheduler,
            lora,
            files,
        })
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &MotionConfig {
        &self.config
    }

    pub(crate) fn weights(&self) -> Result<WeightSet, CheckpointError> {
        self.files.weights("", "diffusion_pytorch_model")
    }

    pub(super) fn files(&self) -> &Checkpoint {
        &self.files
    }

    /// Tells what the adapter is told apart by, its LoRA included.
    pub(super) fn marks(&self, mut tell: impl FnMut(&[u8])) -> Result<(), Error> {
        tell(&self.files.read("config.json")?);
        self.weights()?.marks(&mut tell)?;
        if self.files.has(LORA) {
            WeightSet::from(self.files.weight_file(LORA)?).marks(&mut tell)?;
        }
        Ok(())
    }
}

/// The noise scheduler that AnimateDiff was published with: DDIM with the image model's settings, but a linear β schedule and
/// timesteps over the whole range.
fn published(image: &SchedulerConfig) -> Result<SchedulerConfig, ScheduleError> {
    let mut config = image.with_class("ddim")?;
    config.beta_schedule = Some("linear".to_owned());
    config.timestep_spacing = Some("linspace".to_owned());
    config.steps_offset = Some(1);
    config.clip_sample = Some(false);
    Ok(config)
}

impl StableDiffusion {
    /// The same pipeline with a motion adapter: shapes of several frames become videos (diffusers' `AnimateDiffPipeline`).
    /// A shape of one frame is that of a picture, and made as without the adapter.
    ///
    /// The noise scheduler of videos is that of the adapter's folder if it has one; otherwise the one that AnimateDiff was
    /// published with: DDIM with the checkpoint's settings, but linear βs, linspace timesteps and no clipping.
    /// [`Shape::scheduler`] changes its class, [`StableDiffusion::with_scheduler`] all of it.
    ///
    /// # Errors
    ///
    /// [`FitError::Motion`] if the adapter was made for another UNet or asks for something that is not implemented,
    /// [`Error::Lora`] if its LoRA was, or changes more than the UNet, [`FitError::NoMotion`] for a kind of model that no motion
    /// adapter goes with.
    pub fn with_motion(self, mut adapter: MotionAdapter) -> Result<Self, Error> {
        let no_motion = |what: &str| Error::from(FitError::NoMotion(what.to_owned()));
        if self.class != Class::Base {
            return Err(no_motion(&format!("of the class {}", self.class.name())));
        }
        if self.reads_mask() {
            return Err(no_motion("with an inpainting UNet"));
        }
        let unet = self
            .unet
            .with_motion(&adapter.config)
            .map_err(|source| FitError::Motion {
                file: adapter.files.describe("config.json"),
                source,
            })?;
        let scheduler = match &adapter.scheduler {
            Some(own) => own.clone(),
            None => published(&self.scheduler)?,
        };
        // The text encoder serves pictures too, so it is no part that an adapter could change.
        let changeable = |part| match part {
            Part::UNet => self.weights(part),
            Part::TextEncoder | Part::TextEncoder2 => Ok(None),
        };
        let lora = adapter
            .lora
            .take()
            .map(|lora| Fitted::new(lora, 1.0, &self.unet, changeable))
            .transpose()?;
        Ok(Self {
            motion: Some(Arc::new(Motion {
                adapter,
                unet,
                scheduler,
                lora,
            })),
            ..self
        })
    }

    /// The UNet with motion modules, if there is a motion adapter.
    #[must_use]
    pub fn motion_unet(&self) -> Option<&UNet2d> {
        self.motion.as_ref().map(|motion| &motion.unet)
    }

    /// The frames of a video where it is not said; 1 for pictures.
    pub(super) fn default_frames(&self) -> usize {
        self.motion.as_ref().map_or(self.frames, |motion| {
            USUAL_FRAMES.min(motion.adapter.config.motion_max_seq_length)
        })
    }

    /// Frames per second where it is not said.
    pub(super) fn default_fps(&self) -> usize {
        match self.motion {
            Some(_) => USUAL_FPS,
            None => self.class.defaults().fps,
        }
    }

    /// What makes the motion in what has this shape: nothing for a picture.
    pub(crate) fn motion(&self, shape: &Shape) -> Option<&Motion> {
        self.motion.as_deref().filter(|_| shape.frames > 1)
    }

    /// Whether a model of pictures can make that number of frames.
    pub(super) fn check_motion(&self, shape: &Shape) -> Result<(), RequestError> {
        let frames = shape.frames;
        if frames == 1 {
            return Ok(());
        }
        let Some(motion) = &self.motion else {
            return Err(RequestError::NeedsMotionAdapter(frames));
        };
        let most = motion.adapter.config.motion_max_seq_length;
        if frames > most {
            return Err(RequestError::TooManyFrames {
                found: frames,
                most,
            });
        }
        match shape.start {
            StartFrom::Noise => Ok(()),
            _ => Err(RequestError::VideoFromPicture(frames)),
        }
    }
}
