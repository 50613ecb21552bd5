//! What of a request decides the plan.

use serde::{Deserialize, Serialize};

/// What of a request decides the plan, and nothing that does not: runs of one shape are planned once.
/// [`StableDiffusion::shape`](crate::StableDiffusion::shape) fills in the model's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shape {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Pictures or videos of one prompt, made as one batch.
    pub num_images: usize,
    /// Frames of each video; 1 for a picture. A model of pictures needs a
    /// [motion adapter](crate::StableDiffusion::with_motion) for more.
    pub frames: usize,
    /// Inference steps.
    pub steps: usize,
    /// Strength of classifier-free guidance; at 1 or less there is none.
    pub guidance_scale: f64,
    /// Strength of guidance at the first frame of a video that is made of a picture; it rises linearly to `guidance_scale` at
    /// the last. For Stable Video Diffusion only; the same for all frames if it is `None`.
    pub min_guidance_scale: Option<f64>,
    /// A noise scheduler in place of the checkpoint's, by a name of
    /// [`SCHEDULERS`](asyncdiff_core::scheduler::SCHEDULERS).
    pub scheduler: Option<String>,
    /// What the run starts from.
    pub start: StartFrom,
}

/// What a run starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum StartFrom {
    /// Noise alone.
    #[default]
    Noise,
    /// A picture with noise on it (image to image).
    Picture {
        /// How much of the picture is replaced: the share of the steps that are run, above 0 and up to 1.
        strength: f64,
    },
    /// A picture with a mask that says what of it is painted anew (inpainting).
    Masked {
        /// As for a picture, but 1 starts from pure noise.
        strength: f64,
    },
}

impl StartFrom {
    /// A picture, at the strength that is usual for it: 0.8.
    pub const PICTURE: Self = Self::Picture { strength: 0.8 };

    /// A picture and a mask. All steps are run.
    pub const MASKED: Self = Self::Masked { strength: 1.0 };

    /// How much of a picture is replaced, if there is one.
    #[must_use]
    pub fn strength(self) -> Option<f64> {
        match self {
            Self::Noise => None,
            Self::Picture { strength } | Self::Masked { strength } => Some(strength),
        }
    }

    /// The same with another strength; noise stays noise.
    #[must_use]
    pub fn with_strength(self, strength: f64) -> Self {
        match self {
            Self::Noise => Self::Noise,
            Self::Picture { .. } => Self::Picture { strength },
            Self::Masked { .. } => Self::Masked { strength },
        }
    }

    /// Whether a mask says what is painted.
    #[must_use]
    pub fn is_masked(self) -> bool {
        matches!(self, Self::Masked { .. })
    }

    /// In messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise alone",
            Self::Picture { .. } => "a picture",
            Self::Masked { .. } => "a picture and a mask",
        }
    }

    /// How many of `steps` inference steps are left out (diffusers' `get_timesteps`).
    pub(crate) fn skipped(self, steps: usize) -> usize {
        let strength = self.strength().unwrap_or(1.0);
        steps - ((steps as f64 * strength) as usize).min(steps)
    }
}
