//! The decoder of an `AutoencoderKLTemporalDecoder` (Stable Video Diffusion): its resnets also look along time.

use asyncdiff_burn::layers::{Conv2d, GroupNorm};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::Tensor;

use super::{Attention, VaeConfig};
use crate::cancel::Cancel;
use crate::error::Error;
use crate::resnet::{FactorOf, SpatioTemporalResnet, frames_as_batch, frames_beside_channels};

/// diffusers fixes it for the resnets along time, unlike those on each frame.
const TEMPORAL_EPSILON: f64 = 1e-5;

#[derive(Debug)]
pub(super) struct TemporalDecoder {
    conv_in: Conv2d,
    first: SpatioTemporalResnet,
    /// The rest of the middle. diffusers leaves it out where `layers_per_block` is 1, although it has weights.
    attended: Option<(Attention, SpatioTemporalResnet)>,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    time_conv_out: Conv2d,
}

#[derive(Debug)]
struct Level {
    resnets: Vec<SpatioTemporalResnet>,
    /// A convolution that follows the enlargement to double the size, except at the end.
    resample: Option<Conv2d>,
}

impl TemporalDecoder {
    pub fn load(config: &VaeConfig, root: &Loader<'_>) -> Result<Self, WeightError> {
        let loader = root.at("decoder");
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let norm = config.norm();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let resnet = |module: &Loader<'_>, index: usize, channels| {
            SpatioTemporalResnet::load(
                &module.at("resnets").at(index),
                channels,
                norm,
                TEMPORAL_EPSILON,
                None,
                FactorOf::Temporal,
            )
        };
        let level = |(index, &width): (usize, &usize)| {
            let block = loader.at("up_blocks").at(index);
            let input = widths[index.saturating_sub(1)];
            let resnets = (0..=config.layers_per_block).map(|layer| {
                let input = if layer == 0 { input } else { width };
                resnet(&block, layer, [input, width])
            });
            let resample = || Conv2d::load(&block.at("upsamplers.0.conv"), [width, width], 3, 1, 1);
            Ok(Level {
                resnets: resnets.collect::<Result<_, _>>()?,
                resample: (index + 1 < widths.len()).then(resample).transpose()?,
            })
        };
        let middle = loader.at("mid_block");
        let attended = || {
            let attention = Attention::load(&middle.at("attentions.0"), first, norm)?;
            Ok::<_, WeightError>((attention, resnet(&middle, 1, [first, first])?))
        };
        let pictures = config.out_channels;
        Ok(Self {
            conv_in: Conv2d::load(
                &loader.at("conv_in"),
                [config.latent_channels, first],
                3,
                1,
                1,
            )?,
            first: resnet(&middle, 0, [first, first])?,
            attended: (config.layers_per_block > 1).then(attended).transpose()?,
            levels: widths
                .iter()
                .enumerate()
                .map(level)
                .collect::<Result<_, WeightError>>()?,
            norm_out: GroupNorm::load(
                &loader.at("conv_norm_out"),
                norm.groups,
                last,
                norm.epsilon,
            )?,
            conv_out: Conv2d::load(&loader.at("conv_out"), [last, pictures], 3, 1, 1)?,
            time_conv_out: Conv2d::over_frames(
                &loader.at("time_conv_out"),
                [pictures, pictures],
                3,
            )?,
        })
    }

    /// `latents` are consecutive frames of one video, `[frames, latent_channels, height, width]`.
    pub fn forward(&self, latents: Tensor<4>, cancel: &Cancel) -> Result<Tensor<4>, Error> {
        let frames = latents.dims()[0];
        let mut hidden = self.conv_in.forward(latents);
        hidden = self.first.forward(hidden, None, frames);
        if let Some((attention, resnet)) = &self.attended {
            hidden = resnet.forward(attention.forward(hidden), None, frames);
        }
        for level in &self.levels {
            for resnet in &level.resnets {
                cancel.check()?;
                hidden = resnet.forward(hidden, None, frames);
            }
            if let Some(resample) = &level.resample {
                let [_, _, height, width] = hidden.dims();
                hidden = resample.forward_enlarged(hidden, [2 * height, 2 * width]);
            }
        }
        cancel.check()?;
        let pictures = self.conv_out.forward(self.norm_out.forward_silu(hidden));
        let [_, _, height, width] = pictures.dims();
        let smoothed = frames_beside_channels(pictures, frames);
        let smoothed = self.time_conv_out.forward(smoothed);
        Ok(frames_as_batch(smoothed, [height, width]))
    }
}
