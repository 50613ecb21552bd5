//! diffusers' `AnimateDiffTransformer3D`.

use asyncdiff_burn::layers::{GroupNorm, LayerNorm, Linear};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::Tensor;

use super::transformer::{Attention, FeedForward};
use crate::resnet::frames_beside_channels;

/// Attention along the frames of a video, at each position of the feature map on its own.
#[derive(Debug)]
pub(super) struct MotionModule {
    norm: GroupNorm,
    project_in: Linear,
    layers: Vec<Layer>,
    project_out: Linear,
}

/// diffusers' `BasicTransformerBlock` with two self-attentions, both of which are told the places of the frames.
#[derive(Debug)]
struct Layer {
    /// What tells them: `[1, positions, channels]`. It is read from the file, whose values may be rounded or trained.
    positions: Tensor<3>,
    attentions: [(LayerNorm, Attention); 2],
    norm: LayerNorm,
    feed_forward: FeedForward,
}

impl MotionModule {
    pub fn load(
        loader: &Loader<'_>,
        groups: usize,
        channels: usize,
        heads: usize,
        layers: usize,
        positions: usize,
    ) -> Result<Self, WeightError> {
        let project = |name| Linear::load(&loader.at(name), channels, channels, true);
        let layer = |index| {
            let loader = loader.at("transformer_blocks").at(index);
            Layer::load(&loader, channels, heads, positions)
        };
        Ok(Self {
            // Not the UNet's epsilon: diffusers fixes it for this norm.
            norm: GroupNorm::load(&loader.at("norm"), groups, channels, 1e-6)?,
            project_in: project("proj_in")?,
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            project_out: project("proj_out")?,
        })
    }

    /// `x` is `[batch, channels, height, width]`, videos of `frames` consecutive rows.
    pub fn forward(&self, x: Tensor<4>, frames: usize) -> Tensor<4> {
        let shape = x.dims();
        let [batch, channels, height, width] = shape;
        let (videos, pixels) = (batch / frames, height * width);
        // The norm's statistics are over all frames of a video.
        let normed = self.norm.forward(frames_beside_channels(x.clone(), frames));
        let sequences = normed
            .permute([0, 3, 2, 1])
            .reshape([videos * pixels, frames, channels]);
        let mut hidden = self.project_in.forward(sequences);
        for layer in &self.layers {
            hidden = layer.forward(hidden);
        }
        let back = self
            .project_out
            .forward(hidden)
            .reshape([videos, pixels, frames, channels])
            .permute([0, 2, 3, 1])
            .reshape(shape);
        x + back
    }
}

impl Layer {
    fn load(
        loader: &Loader<'_>,
        channels: usize,
        heads: usize,
        positions: usize,
    ) -> Result<Self, WeightError> {
        let norm = |name| LayerNorm::load(&loader.at(name), channels, 1e-5);
        let attention = |name| Attention::load(&loader.at(name), channels, heads, channels);
        Ok(Self {
            positions: loader
                .at("pos_embed")
                .tensor("pe", [1, positions, channels])?,
            attentions: [
                (norm("norm1")?, attention("attn1")?),
                (norm("norm2")?, attention("attn2")?),
            ],
            norm: norm("norm3")?,
            feed_forward: FeedForward::load(&loader.at("ff"), channels)?,
        })
    }

    /// `hidden` is `[sequences, frames, channels]`.
    fn forward(&self, mut hidden: Tensor<3>) -> Tensor<3> {
        let frames = hidden.dims()[1];
        let positions = self.positions.clone().narrow(1, 0, frames);
        for (norm, attention) in &self.attentions {
            let placed = norm.forward(hidden.clone()) + positions.clone();
            hidden = attention.forward(placed, hidden);
        }
        let normed = self.norm.forward(hidden.clone());
        self.feed_forward.forward_onto(normed, hidden)
    }
}
