//! What a denoiser is told beside the latents and the timestep.

use asyncdiff_burn::exchange::to_device;
use asyncdiff_core::plan::Branch;
use burn::tensor::{Device, Tensor};

/// What a denoiser is told beside the latents and the timestep.
///
/// The context and what is added have a row for each sample, that is, each picture or video: `passes · samples` rows; with
/// guidance, those of the negative prompt come first.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Text embeddings for the cross-attention: `[passes · samples, tokens, features]`.
    pub context: Tensor<3>,
    /// For a UNet with an `add_embedding`.
    pub added: Option<AddedConditioning>,
    /// Channels that the first convolution reads behind those of the latents, for a UNet with more input channels than
    /// latents have: `[passes · samples · frames, channels, height, width]`. Inpainting UNets read the mask and the masked picture.
    pub concat: Option<Tensor<4>>,
    /// 1 where an inpainting run paints and 0 where it keeps the picture, for a UNet that does not read the mask itself:
    /// `[1, 1, height, width]` of the latents.
    pub mask: Option<Tensor<4>>,
    /// Frames of each video; 1 for pictures. The batch holds the frames of one video next to each other.
    pub frames: usize,
}

/// What a UNet with an `add_embedding` adds to its time embedding (diffusers' `added_cond_kwargs` and `added_time_ids`).
#[derive(Clone, Debug)]
pub struct AddedConditioning {
    /// The pooled text, for an `addition_embed_type` of `text_time`: `[passes · samples, features]`.
    pub text_embeds: Option<Tensor<2>>,
    /// Numbers about the result, one row for each sample. Stable Diffusion XL has six: height and width of the original
    /// picture, top and left of the crop, height and width of the result, in pixels. Stable Video Diffusion has three: frames
    /// per second less one, the motion bucket, and the strength of the noise on the picture.
    pub time_ids: Vec<Vec<f64>>,
}

impl Conditioning {
    /// The same on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            context: to_device(self.context, device),
            added: self.added.map(|added| AddedConditioning {
                text_embeds: added.text_embeds.map(|text| to_device(text, device)),
                ..added
            }),
            concat: self.concat.map(|concat| to_device(concat, device)),
            mask: self.mask.map(|mask| to_device(mask, device)),
            frames: self.frames,
        }
    }
}

/// The rows that a branch of the guidance batch reads: all, the first half (the negative prompt's), or the second.
///
/// # Panics
///
/// For half of an odd number of rows.
pub(super) fn half<const D: usize>(tensor: Tensor<D>, branch: Branch) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let half = || {
        assert!(rows.is_multiple_of(2), "a batch of {rows} has no halves");
        rows / 2
    };
    match branch {
        Branch::Both => tensor,
        Branch::Negative => tensor.narrow(0, 0, half()),
        Branch::Positive => tensor.narrow(0, half(), half()),
    }
}
