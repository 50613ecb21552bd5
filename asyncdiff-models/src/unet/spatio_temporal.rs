//! diffusers' `TransformerSpatioTemporalModel`.

use asyncdiff_burn::layers::{GroupNorm, LayerNorm, Linear, feature_map, tokens};
use asyncdiff_burn::weights::{Loader, WeightError};
use asyncdiff_core::unet::UNet2dConfig;
use burn::tensor::Tensor;

use super::embedding::{Embedding, Frequencies};
use super::transformer::{FeedForward, KeysValues, Layer};
use crate::resnet::{FactorOf, Mixer};

/// A transformer each of whose layers goes over the positions of a frame, and then over the frames at each position.
#[derive(Debug)]
pub(super) struct SpatioTemporalTransformer {
    norm: GroupNorm,
    project_in: Linear,
    layers: Vec<(Layer, TemporalLayer)>,
    frame_position: Embedding,
    mixer: Mixer,
    project_out: Linear,
}

/// diffusers' `TemporalBasicTransformerBlock`: an ordinary layer behind a feed-forward.
#[derive(Debug)]
struct TemporalLayer {
    norm_in: LayerNorm,
    feed_forward_in: FeedForward,
    layer: Layer,
}

impl SpatioTemporalTransformer {
    pub fn load(
        loader: &Loader<'_>,
        config: &UNet2dConfig,
        channels: usize,
        heads: usize,
        layers: usize,
    ) -> Result<Self, WeightError> {
        let (groups, context) = (config.norm_num_groups, config.cross_attention_dim);
        let project = |name| Linear::load(&loader.at(name), channels, channels, true);
        let layer = |index: usize| {
            let spatial = loader.at("transformer_blocks").at(index);
            let temporal = loader.at("temporal_transformer_blocks").at(index);
            let temporal = TemporalLayer {
                norm_in: LayerNorm::load(&temporal.at("norm_in"), channels, 1e-5)?,
                feed_forward_in: FeedForward::load(&temporal.at("ff_in"), channels)?,
                layer: Layer::load(&temporal, channels, heads, context)?,
            };
            Ok((Layer::load(&spatial, channels, heads, context)?, temporal))
        };
        Ok(Self {
            // diffusers fixes this epsilon.
            norm: GroupNorm::load(&loader.at("norm"), groups, channels, 1e-6)?,
            project_in: project("proj_in")?,
            layers: (0..layers).map(layer).collect::<Result<_, WeightError>>()?,
            frame_position: Embedding::load(
                &loader.at("time_pos_embed"),
                [channels, 4 * channels, channels],
            )?,
            mixer: Mixer::load(loader, FactorOf::Spatial)?,
            project_out: project("proj_out")?,
        })
    }

    /// What `context`, `[videos, tokens, features]`, is to the two parts of each of the layers, one after the other.
    pub fn keys_values(&self, context: &Tensor<3>) -> Vec<KeysValues> {
        let layers = self.layers.iter();
        let parts = layers.flat_map(|(spatial, temporal)| [spatial, &temporal.layer]);
        parts.map(|layer| layer.keys_values(context)).collect()
    }

    /// `x` is `[batch, channels, height, width]`, videos of `frames` consecutive rows; `context` what
    /// [`keys_values`](Self::keys_values) made.
    pub fn forward(&self, x: Tensor<4>, context: &[KeysValues], frames: usize) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let videos = batch / frames;
        let position: Tensor<3> = self
            .positions(frames, &x)
            .unsqueeze_dim::<3>(1)
            .repeat_dim(0, videos);
        let mut hidden = self
            .project_in
            .forward(tokens(self.norm.forward(x.clone())));
        let (contexts, _) = context.as_chunks();
        for ((spatial, temporal), [of_spatial, of_temporal]) in self.layers.iter().zip(contexts) {
            hidden = spatial.forward(hidden, of_spatial);
            let placed = hidden.clone() + position.clone();
            let along_time = temporal.forward(placed, of_temporal, frames);
            hidden = self.mixer.mix(hidden, along_time);
        }
        let sum = self.project_out.forward_onto(hidden, tokens(x));
        feature_map(sum, [height, width])
    }

    /// What every frame's tokens are given to know its place in the video: `[frames, channels]`, on the device of `like`.
    fn positions(&self, frames: usize, like: &Tensor<4>) -> Tensor<2> {
        let frequencies = Frequencies {
            cosines_first: true,
            shift: 0.0,
        };
        let numbers: Vec<f64> = (0..frames).map(|frame| frame as f64).collect();
        let data = frequencies.sinusoids(&numbers, like.dims()[1]);
        self.frame_position
            .forward(Tensor::from_data(data, (&like.device(), like.dtype())))
    }
}

impl TemporalLayer {
    /// `hidden` is `[videos * frames, positions, channels]`.
    fn forward(&self, hidden: Tensor<3>, context: &KeysValues, frames: usize) -> Tensor<3> {
        let [batch, positions, channels] = hidden.dims();
        let videos = batch / frames;
        let hidden: Tensor<3> = hidden
            .reshape([videos, frames, positions, channels])
            .swap_dims(1, 2)
            .reshape([videos * positions, frames, channels]);
        let normed = self.norm_in.forward(hidden.clone());
        let hidden = self.feed_forward_in.forward_onto(normed, hidden);
        self.layer
            .forward(hidden, context)
            .reshape([videos, positions, frames, channels])
            .swap_dims(1, 2)
            .reshape([batch, positions, channels])
    }
}
