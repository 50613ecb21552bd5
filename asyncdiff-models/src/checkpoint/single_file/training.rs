//! What a checkpoint says about its training, beside its networks.

use std::collections::{BTreeMap, HashMap};

use asyncdiff_burn::weights::Weights;
use serde_json::{Value, json};

use super::recognize::Family;

/// What the file says beside its networks.
pub(super) struct Hints {
    metadata: HashMap<String, String>,
    v_pred: bool,
    ztsnr: bool,
    global_step: Option<f32>,
}

/// What is not in the shapes.
pub(super) struct Training {
    pub velocity: bool,
    pub sample_size: usize,
    pub assumption: Option<String>,
}

impl Hints {
    pub fn new(
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

    pub fn training(&self, file: &str, family: Family, in_channels: usize) -> Training {
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

    pub fn scheduler(&self, family: Family, velocity: bool) -> Value {
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
