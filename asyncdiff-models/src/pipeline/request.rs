//! What is asked of a pipeline, and what it makes of that.

use crate::dtype::Dtype;
use asyncdiff_burn::weights::NamedTensor;
use asyncdiff_core::{Plan, Schedule, SegmentGraph, Strategy, Summary};

use crate::image::{Image, Mask};

/// The picture or video that is wanted. [`StableDiffusion::request`](super::StableDiffusion::request) fills in the model's defaults.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What to avoid; empty for nothing. Stable Diffusion XL then takes zeros for its embeddings, if its `model_index.json`
    /// says `force_zeros_for_empty_prompt`.
    pub negative_prompt: String,
    /// Whether brackets in both prompts are [weights](crate::prompt), as in web UIs. If not, they are text, as in diffusers.
    pub prompt_weighting: bool,
    /// Inference steps.
    pub steps: usize,
    /// Strength of classifier-free guidance; at 1 or less there is none.
    pub guidance_scale: f64,
    /// Seed of the noise, as for PyTorch's CPU generator.
    pub seed: u64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Pictures or videos of this prompt, made as one batch.
    pub num_images: usize,
    /// Frames of each video; 1 for a picture. A model of pictures needs a
    /// [motion adapter](super::StableDiffusion::with_motion) for more.
    pub frames: usize,
    /// Frames per second of a video.
    pub fps: usize,
    /// Encode and decode big pictures in [tiles](crate::vae::AutoencoderKl::decode_tiled), with less memory.
    pub vae_tiling: bool,
    /// A noise scheduler in place of the checkpoint's, by a name of
    /// [`SCHEDULERS`](asyncdiff_core::scheduler::SCHEDULERS).
    pub scheduler: Option<String>,
    /// Initial noise in place of the seed's: standard normal, `[num_images · frames, channels, height, width]` of the latents,
    /// the frames of a video next to each other.
    pub latents: Option<NamedTensor>,
    /// The picture to start from, if it is not noise alone. Where there is a mask and `latents` are given, the run starts from
    /// them alone at any strength, as in diffusers.
    pub init_image: Option<InitImage>,
    /// The picture that a video is made of, for Stable Video Diffusion.
    pub image_to_video: Option<ImageToVideo>,
}

/// A picture that a run starts from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InitImage {
    /// The picture, of the request's size.
    pub image: Image,
    /// The part of it that is painted anew, of the same size; everything if there is none.
    pub mask: Option<Mask>,
    /// How much of the picture is replaced: the share of the steps that are run, above 0 and up to 1. With a mask, 1 starts
    /// from pure noise.
    pub strength: f64,
}

impl InitImage {
    /// Image to image, at the strength that is usual for it: 0.8.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image,
            mask: None,
            strength: 0.8,
        }
    }

    /// Inpainting: what the mask leaves black is kept. All steps are run.
    #[must_use]
    pub fn inpaint(image: Image, mask: Mask) -> Self {
        Self {
            image,
            mask: Some(mask),
            strength: 1.0,
        }
    }

    /// How many of `steps` inference steps are left out (diffusers' `get_timesteps`).
    pub(crate) fn skipped(&self, steps: usize) -> usize {
        steps - ((steps as f64 * self.strength) as usize).min(steps)
    }
}

/// The picture that a video is made of, and how it is to move (Stable Video Diffusion).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageToVideo {
    /// The picture, of any size: the denoiser's copy is brought to the request's, whatever its proportions.
    pub image: Image,
    /// How much is to move: from 0 to 255 in training.
    pub motion_bucket_id: f64,
    /// Deviation of the noise that is added to the picture, whose samples go from -1 to 1. More makes more motion, and less
    /// likeness.
    pub noise_aug_strength: f64,
    /// Strength of guidance at the first frame; it rises linearly to the request's `guidance_scale` at the last.
    pub min_guidance_scale: f64,
    /// Frames that the autoencoder decodes at a time; all of a video if it is `None`. Fewer take less memory, and show at the
    /// borders between chunks.
    pub decode_chunk_size: Option<usize>,
    /// Noise to add to the picture in place of the seed's: standard normal, `[1, 3, height, width]` of the request.
    pub noise: Option<NamedTensor>,
}

impl ImageToVideo {
    /// With diffusers' defaults.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image,
            motion_bucket_id: 127.0,
            noise_aug_strength: 0.02,
            min_guidance_scale: 1.0,
            decode_chunk_size: None,
            noise: None,
        }
    }
}

/// A request, planned: everything that will be done, and what it should cost.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is to be made.
    pub request: Request,
    /// The denoiser's blocks at the request's size.
    pub graph: SegmentGraph,
    /// The noise scheduler's coefficients.
    pub schedule: Schedule,
    /// How it was to be spread.
    pub strategy: Strategy,
    /// Who does what.
    pub plan: Plan,
    /// The plan in figures.
    pub summary: Summary,
    /// The noise scheduler's class in diffusers.
    pub scheduler: String,
    /// What the denoiser and the text encoders compute in.
    pub dtype: Dtype,
    /// Whether no published partition fits, and the balanced one was taken.
    pub fell_back: bool,
}

impl Run {
    /// The same run with another prompt and seed. Neither decides who computes what, so there is nothing to plan anew.
    #[must_use]
    pub fn of(&self, prompt: impl Into<String>, seed: u64) -> Self {
        let mut run = self.clone();
        run.request.prompt = prompt.into();
        run.request.seed = seed;
        run
    }
}
