//! What a checkpoint's `model_index.json` decides.

use serde::Deserialize;

use crate::checkpoint::{Checkpoint, CheckpointError};

/// The pipeline classes of diffusers that are implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `StableDiffusionPipeline`, of Stable Diffusion 1 and 2, and its siblings that start from a picture.
    Base,
    /// `StableDiffusionXLPipeline` and its siblings.
    Xl {
        /// An empty negative prompt means embeddings of zeros, not the embeddings of an empty text.
        zeros_for_empty: bool,
    },
    /// `StableVideoDiffusionPipeline`.
    Video,
}

/// The settings in which the classes of diffusers differ where a checkpoint is silent.
pub(crate) struct Defaults {
    pub guidance_scale: f64,
    /// Of a video's first frame.
    pub min_guidance_scale: Option<f64>,
    pub num_inference_steps: usize,
    /// Frames per second.
    pub fps: usize,
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
const STABLE_VIDEO_DIFFUSION: &str = "StableVideoDiffusionPipeline";

/// All of them, for people.
const SUPPORTED: &str = "StableDiffusionPipeline and StableDiffusionXLPipeline, their Img2Img and Inpaint siblings, and StableVideoDiffusionPipeline";

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
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let file = "model_index.json";
        let index: ModelIndex = checkpoint.json(file)?;
        match index._class_name.as_str() {
            name if STABLE_DIFFUSION.contains(&name) => Ok(Class::Base),
            name if STABLE_DIFFUSION_XL.contains(&name) => Ok(Class::Xl {
                zeros_for_empty: index.force_zeros_for_empty_prompt,
            }),
            STABLE_VIDEO_DIFFUSION => Ok(Class::Video),
            _ => Err(CheckpointError::UnknownPipeline {
                file: checkpoint.describe(file),
                found: index._class_name,
                supported: SUPPORTED,
            }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Class::Base => STABLE_DIFFUSION[0],
            Class::Xl { .. } => STABLE_DIFFUSION_XL[0],
            Class::Video => STABLE_VIDEO_DIFFUSION,
        }
    }

    pub fn defaults(self) -> Defaults {
        let (guidance_scale, num_inference_steps) = match self {
            Class::Base => (7.5, 50),
            Class::Xl { .. } => (5.0, 50),
            Class::Video => (3.0, 25),
        };
        Defaults {
            guidance_scale,
            min_guidance_scale: matches!(self, Class::Video).then_some(1.0),
            num_inference_steps,
            fps: 7,
        }
    }

    /// Default width and height in pixels, for a denoiser's `sample_size` and an autoencoder that shrinks by `factor`.
    pub fn size(self, sample_size: Option<usize>, factor: usize) -> (usize, usize) {
        let square = |side| (side * factor, side * factor);
        match self {
            Class::Base => square(sample_size.unwrap_or(64)),
            Class::Xl { .. } => square(sample_size.unwrap_or(128)),
            // Not the square that its `sample_size` says, in diffusers neither.
            Class::Video => (1024, 576),
        }
    }

    /// The numbers about a picture of `height` by `width` pixels that the denoiser is told: the size of the original
    /// picture, the top and left of the crop, and the size of the result.
    pub fn time_ids(self, height: usize, width: usize) -> Option<[f64; 6]> {
        let [height, width] = [height, width].map(|side| side as f64);
        match self {
            Class::Base | Class::Video => None,
            Class::Xl { .. } => Some([height, width, 0.0, 0.0, height, width]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ALL: [Class; 3] = [
        Class::Base,
        Class::Xl {
            zeros_for_empty: true,
        },
        Class::Video,
    ];

    #[test]
    fn every_class_is_named_and_has_reference_data() {
        // A class that is not in the list above does not compile.
        let _ = |class| match class {
            Class::Base | Class::Xl { .. } | Class::Video => {}
        };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let folders = std::fs::read_dir(fixtures).unwrap();
        let found: Vec<_> = folders
            .filter_map(|folder| {
                let model = Checkpoint::folder(folder.unwrap().path().join("checkpoint")).ok()?;
                Some(Class::of(&model).unwrap().name())
            })
            .collect();
        let refused = CheckpointError::UnknownPipeline {
            file: String::new(),
            found: String::new(),
            supported: SUPPORTED,
        };
        for class in ALL {
            let name = class.name();
            assert!(found.contains(&name), "no {name} in fixtures/");
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }
}
