//! What of a request does not decide the plan.

use asyncdiff_burn::weights::NamedTensor;
use serde::{Deserialize, Serialize};

use super::shape::StartFrom;
use crate::image::{Image, Mask};

/// What of a request does not decide the plan: texts, seed, pictures. [`StableDiffusion::content`](crate::StableDiffusion::content)
/// fills in the model's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Content {
    /// What to draw.
    pub prompt: String,
    /// What to avoid; empty for nothing. Stable Diffusion XL then takes zeros for its embeddings, if its `model_index.json`
    /// says `force_zeros_for_empty_prompt`.
    pub negative_prompt: String,
    /// Whether brackets in both prompts are [weights](crate::prompt), as in web UIs. If not, they are text, as in diffusers.
    pub prompt_weighting: bool,
    /// Seed of the noise, as for PyTorch's CPU generator. Picture or video `i` of the batch has noise of its own, from the seed
    /// `seed + i` ([`Content::seed_of`]): it starts as the only one of that seed does.
    pub seed: u64,
    /// Draw the noise of the whole batch from `seed` alone, as diffusers does with one generator. Then only the first picture
    /// is that of its seed, and any other is made again with the whole batch.
    pub batch_noise: bool,
    /// Frames per second of a video.
    pub fps: usize,
    /// Encode and decode big pictures in [tiles](crate::vae::AutoencoderKl::decode_tiled), with less memory.
    pub vae_tiling: bool,
    /// Initial noise in place of the seed's: standard normal, `[num_images · frames, channels, height, width]` of the latents,
    /// the frames of a video next to each other.
    pub latents: Option<NamedTensor>,
    /// The picture to start from, if it is not noise alone. Where there is a mask and `latents` are given, the run starts from
    /// them alone at any strength, as in diffusers.
    pub init_image: Option<InitImage>,
    /// The picture that a video is made of, for Stable Video Diffusion.
    pub image_to_video: Option<ImageToVideo>,
}

impl Content {
    /// The seed of picture or video `index` of the batch, from which it can be made alone; with
    /// [`batch_noise`](Content::batch_noise), that of the batch.
    #[must_use]
    pub fn seed_of(&self, index: usize) -> u64 {
        match self.batch_noise {
            true => self.seed,
            false => self.seed.wrapping_add(index as u64),
        }
    }
}

/// A picture that a run starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InitImage {
    /// The picture, of the result's size.
    pub image: Image,
    /// The part of it that is painted anew, of the same size; everything if there is none.
    pub mask: Option<Mask>,
}

impl Content {
    /// The same with another prompt.
    #[must_use]
    pub fn with_prompt(&self, prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            ..self.clone()
        }
    }
}

impl InitImage {
    /// Image to image.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self { image, mask: None }
    }

    /// Inpainting: what the mask leaves black is kept.
    #[must_use]
    pub fn inpaint(image: Image, mask: Mask) -> Self {
        Self {
            image,
            mask: Some(mask),
        }
    }

    /// How a run starts from it, at the usual strength.
    #[must_use]
    pub fn start(&self) -> StartFrom {
        match self.mask {
            None => StartFrom::PICTURE,
            Some(_) => StartFrom::MASKED,
        }
    }
}

/// The picture that a video is made of, and how it is to move (Stable Video Diffusion).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageToVideo {
    /// The picture, of any size: the denoiser's copy is brought to the result's, whatever its proportions.
    pub image: Image,
    /// How much is to move: from 0 to 255 in training.
    pub motion_bucket_id: f64,
    /// Deviation of the noise that is added to the picture, whose samples go from -1 to 1. More makes more motion, and less
    /// likeness.
    pub noise_aug_strength: f64,
    /// Frames that the autoencoder decodes at a time; all of a video if it is `None`. Fewer take less memory, and show at the
    /// borders between chunks.
    pub decode_chunk_size: Option<usize>,
    /// Noise to add to the picture in place of the seed's: standard normal, `[1, 3, height, width]` of the result.
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
            decode_chunk_size: None,
            noise: None,
        }
    }
}
