//! Resnets that go over each frame, and then along the frames of each video.

use asyncdiff_burn::layers::{Conv2d, GroupNorm, Linear, feature_map, tokens};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::{Tensor, activation};

use super::{Norm, Resnet};

/// diffusers' `SpatioTemporalResBlock`.
#[derive(Debug)]
pub(crate) struct SpatioTemporalResnet {
    spatial: Resnet,
    temporal: TemporalResnet,
    mixer: Mixer,
}

/// diffusers' `TemporalResnetBlock`, whose channels are the same in and out, without its addition at the end.
#[derive(Debug)]
struct TemporalResnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
}

/// diffusers' `AlphaBlender` for videos, with a learned factor.
#[derive(Debug)]
pub(crate) struct Mixer {
    /// The share of what was computed along time, `[1, 1, 1]`.
    temporal: Tensor<3>,
}

/// What the sigmoid of a [`Mixer`]'s factor is the share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FactorOf {
    /// What was computed on each frame.
    Spatial,
    /// What was computed along time (diffusers' `switch_spatial_to_temporal_mix`).
    Temporal,
}

impl Mixer {
    pub fn load(loader: &Loader<'_>, of: FactorOf) -> Result<Self, WeightError> {
        let factor = loader.at("time_mixer").tensor("mix_factor", [1])?;
        let share: Tensor<3> = activation::sigmoid(factor).reshape([1, 1, 1]);
        Ok(Self {
            temporal: match of {
                FactorOf::Spatial => 1.0 - share,
                FactorOf::Temporal => share,
            },
        })
    }

    /// `spatial` on the way to `temporal`, both `[batch, tokens, channels]`.
    pub fn mix(&self, spatial: Tensor<3>, temporal: Tensor<3>) -> Tensor<3> {
        spatial.clone() + (temporal - spatial) * self.temporal.clone()
    }
}

impl SpatioTemporalResnet {
    /// `time_features` is the size of the time embedding, where the network has one. The norms along time have
    /// `temporal_epsilon`.
    pub fn load(
        loader: &Loader<'_>,
        channels: [usize; 2],
        norm: Norm,
        temporal_epsilon: f64,
        time_features: Option<usize>,
        factor_of: FactorOf,
    ) -> Result<Self, WeightError> {
        let [_, output] = channels;
        let temporal = Norm {
            epsilon: temporal_epsilon,
            ..norm
        };
        let spatial_loader = loader.at("spatial_res_block");
        let temporal_loader = loader.at("temporal_res_block");
        Ok(Self {
            spatial: Resnet::load(&spatial_loader, channels, norm, time_features)?,
            temporal: TemporalResnet::load(&temporal_loader, output, temporal, time_features)?,
            mixer: Mixer::load(loader, factor_of)?,
        })
    }

    /// `x` is `[batch, channels, height, width]`, videos of `frames` consecutive rows; `time` the activated time embedding,
    /// `[1 or batch, features]`.
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>, frames: usize) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let spatial = self.spatial.forward(x, time);
        let along_time = self.temporal.forward(spatial.clone(), time, frames);
        // What the temporal resnet adds to its input is all that the two differ in.
        let sum = tokens(along_time) * self.mixer.temporal.clone() + tokens(spatial);
        feature_map(sum, [height, width])
    }
}

impl TemporalResnet {
    fn load(
        loader: &Loader<'_>,
        channels: usize,
        norm: Norm,
        time_features: Option<usize>,
    ) -> Result<Self, WeightError> {
        let group_norm =
            |name| GroupNorm::load(&loader.at(name), norm.groups, channels, norm.epsilon);
        let conv = |name| Conv2d::over_frames(&loader.at(name), [channels, channels], 3);
        let time = |features| Linear::load(&loader.at("time_emb_proj"), features, channels, true);
        Ok(Self {
            norm1: group_norm("norm1")?,
            conv1: conv("conv1")?,
            time: time_features.map(time).transpose()?,
            norm2: group_norm("norm2")?,
            conv2: conv("conv2")?,
        })
    }

    fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>, frames: usize) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        // The norms' statistics are over all frames of a video.
        let hidden = frames_beside_channels(x, frames);
        // A row for all, or for each frame of each video.
        let shift = self.time.as_ref().zip(time);
        let shift = shift.map(|(layer, time)| layer.forward(time.clone()));
        let normed = self.norm1.forward_silu(hidden);
        let hidden = self.conv1.forward_shifted(normed, shift);
        let hidden = self.conv2.forward(self.norm2.forward_silu(hidden));
        frames_as_batch(hidden, [height, width])
    }
}

/// `[videos * frames, channels, height, width]` to `[videos, channels, frames, height * width]`.
pub(crate) fn frames_beside_channels(x: Tensor<4>, frames: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    // By way of the order in which the kernels have them, where all of this moves nothing.
    x.permute([0, 2, 3, 1])
        .reshape([batch / frames, frames, height * width, channels])
        .permute([0, 3, 1, 2])
}

/// Back again, to frames of `size` (`[height, width]`).
pub(crate) fn frames_as_batch(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [videos, channels, frames, _] = x.dims();
    x.permute([0, 2, 3, 1])
        .reshape([videos * frames, height, width, channels])
        .permute([0, 3, 1, 2])
}
