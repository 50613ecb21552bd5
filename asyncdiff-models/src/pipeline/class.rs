//! What a checkpoint's `model_index.json` decides.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// The pipeline classes of diffusers that are implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `StableDiffusionPipeline`, of Stable Diffusion 1 and 2, and its siblings that start from a picture.
    StableDiffusion,
    /// `StableDiffusionXLPipeline` and its siblings.
    StableDiffusionXl {
        /// An empty negative prompt means embeddings of zeros, not the embeddings of an empty text.
        zeros_for_empty: bool,
    },
}

/// The settings in which the classes of diffusers differ where a checkpoint is silent.
pub(crate) struct Defaults {
    pub guidance_scale: f64,
    pub num_inference_steps: usize,
    /// Height and width of the latents.
    pub sample_size: usize,
}

/// The class that a checkpoint names is that of the pipeline it was saved from. What the siblings do follows from the request
/// and the UNet here.
const STABLE_DIFFUSION: [&str; 3] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
];
const STABLE_DIFFUSION_XL: [&str; 3] = [
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
];

#[derive(Deserialize)]
struct ModelIndex {
    _class_name: String,
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
}

fn yes() -> bool {
    true
}

impl Class {
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let file = "model_index.json";
        let index: ModelIndex = checkpoint.json(file)?;
        match index._class_name.as_str() {
            name if STABLE_DIFFUSION.contains(&name) => Ok(Class::StableDiffusion),
            name if STABLE_DIFFUSION_XL.contains(&name) => Ok(Class::StableDiffusionXl {
                zeros_for_empty: index.force_zeros_for_empty_prompt,
            }),
            _ => Err(Error::UnknownPipeline {
                file: checkpoint.describe(file),
                found: index._class_name,
                supported: "StableDiffusionPipeline, StableDiffusionXLPipeline, and their Img2Img and Inpaint siblings",
            }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Class::StableDiffusion => STABLE_DIFFUSION[0],
            Class::StableDiffusionXl { .. } => STABLE_DIFFUSION_XL[0],
        }
    }

    pub fn defaults(self) -> Defaults {
        let (guidance_scale, sample_size) = match self {
            Class::StableDiffusion => (7.5, 64),
            Class::StableDiffusionXl { .. } => (5.0, 128),
        };
        Defaults {
            guidance_scale,
            num_inference_steps: 50,
            sample_size,
        }
    }

    /// The numbers about a picture of `height` by `width` pixels that the denoiser is told: the size of the original
    /// picture, the top and left of the crop, and the size of the result.
    pub fn time_ids(self, height: usize, width: usize) -> Option<[f64; 6]> {
        let [height, width] = [height, width].map(|side| side as f64);
        match self {
            Class::StableDiffusion => None,
            Class::StableDiffusionXl { .. } => Some([height, width, 0.0, 0.0, height, width]),
        }
    }
}
