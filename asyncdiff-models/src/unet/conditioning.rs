//! What a denoiser is told beside the latents and the timestep.

use burn::tensor::{Device, Tensor};

/// What a denoiser is told beside the latents and the timestep.
///
/// Rows are samples, `passes · batch` of them: with guidance, those of the negative prompt first.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Text embeddings for the cross-attention: `[passes · batch, tokens, features]`.
    pub context: Tensor<3>,
    /// For a UNet whose `addition_embed_type` is `text_time`.
    pub added: Option<AddedConditioning>,
}

/// What a UNet with an `addition_embed_type` of `text_time` adds to its time embedding (diffusers' `added_cond_kwargs`).
#[derive(Clone, Debug)]
pub struct AddedConditioning {
    /// The pooled text: `[passes · batch, features]`.
    pub text_embeds: Tensor<2>,
    /// Numbers about the picture, one row for each sample. Stable Diffusion XL has six: height and width of the original
    /// picture, top and left of the crop, height and width of the result, in pixels.
    pub time_ids: Vec<Vec<f64>>,
}

impl Conditioning {
    /// The same on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            context: self.context.to_device(device),
            added: self.added.map(|added| AddedConditioning {
                text_embeds: added.text_embeds.to_device(device),
                ..added
            }),
        }
    }
}
