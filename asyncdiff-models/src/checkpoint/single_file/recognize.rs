//! Whether a file is a whole checkpoint of a kind that is implemented.

use std::collections::BTreeMap;

use super::super::error::CheckpointError;

pub(super) const UNET: &str = "model.diffusion_model.";
pub(super) const VAE: &str = "first_stage_model.";

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

/// The generations of Stable Diffusion.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    One,
    Two,
    Xl,
}

/// A text encoder of a family.
pub(super) struct TextPart {
    pub folder: &'static str,
    pub tokenizer: &'static str,
    pub prefix: &'static str,
    pub open_clip: bool,
    /// Whether its projected text is read, beside the hidden states.
    pub projects: bool,
    pub pad: &'static str,
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

    pub fn text_parts(self) -> Vec<TextPart> {
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

    pub fn class(self, in_channels: usize) -> &'static str {
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

/// The family, if the file is a whole checkpoint of one and there is nothing in it that is not understood.
pub(super) fn recognize(
    file: &str,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<Family, CheckpointError> {
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
