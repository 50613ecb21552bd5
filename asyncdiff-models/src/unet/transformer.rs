//! diffusers' `Transformer2DModel`.

use asyncdiff_burn::layers::{
    GatedLinear, GroupNorm, LayerNorm, Linear, Mask, attend, feature_map, tokens,
};
use asyncdiff_burn::weights::{Loader, WeightError};
use asyncdiff_core::unet::UNet2dConfig;
use burn::tensor::Tensor;

/// Attention over the positions of a feature map, and from them to the text.
#[derive(Debug)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    project_in: Linear,
    layers: Vec<Layer>,
    project_out: Linear,
}

/// diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
pub(super) struct Layer {
    norm1: LayerNorm,
    self_attention: Attention,
    norm2: LayerNorm,
    cross_attention: Attention,
    norm3: LayerNorm,
    feed_forward: FeedForward,
}

/// diffusers' `FeedForward` with a gated GELU.
#[derive(Debug)]
pub(super) struct FeedForward {
    up: GatedLinear,
    down: Linear,
}

/// diffusers' `Attention`, of several heads.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl Transformer {
    pub fn load(
        loader: &Loader<'_>,
        config: &UNet2dConfig,
        channels: usize,
        heads: usize,
        layers: usize,
    ) -> Result<Self, WeightError> {
        let (groups, context) = (config.norm_num_groups, config.cross_attention_dim);
        let project = |name| {
            let loader = loader.at(name);
            if config.use_linear_projection {
                Linear::load(&loader, channels, channels, true)
            } else {
                Linear::pointwise(&loader, channels, channels)
            }
        };
        Ok(Self {
            // Not the UNet's epsilon: diffusers fixes it for this norm.
            norm: GroupNorm::load(&loader.at("norm"), groups, channels, 1e-6)?,
            project_in: project("proj_in")?,
            layers: (0..layers)
                .map(|index| {
                    Layer::load(
                        &loader.at("transformer_blocks").at(index),
                        channels,
                        heads,
                        context,
                    )
                })
                .collect::<Result<_, _>>()?,
            project_out: project("proj_out")?,
        })
    }

    /// `x` is `[batch, channels, height, width]`, `context` as for [`Layer::forward`].
    pub fn forward(&self, x: Tensor<4>, context: &Tensor<3>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let mut hidden = self
            .project_in
            .forward(tokens(self.norm.forward(x.clone())));
        for layer in &self.layers {
            hidden = layer.forward(hidden, context);
        }
        let sum = self.project_out.forward_onto(hidden, tokens(x));
        feature_map(sum, [height, width])
    }
}

impl Layer {
    pub fn load(
        loader: &Loader<'_>,
        channels: usize,
        heads: usize,
        context: usize,
    ) -> Result<Self, WeightError> {
        let norm = |name| LayerNorm::load(&loader.at(name), channels, 1e-5);
        Ok(Self {
            norm1: norm("norm1")?,
            self_attention: Attention::load(&loader.at("attn1"), channels, heads, channels)?,
            norm2: norm("norm2")?,
            cross_attention: Attention::load(&loader.at("attn2"), channels, heads, context)?,
            norm3: norm("norm3")?,
            feed_forward: FeedForward::load(&loader.at("ff"), channels)?,
        })
    }

    /// `hidden` is `[batch, tokens, channels]`. `context` is `[samples, tokens, features]`; consecutive rows of the batch share
    /// a sample, as the frames of a video do.
    pub fn forward(&self, hidden: Tensor<3>, context: &Tensor<3>) -> Tensor<3> {
        let normed = self.norm1.forward(hidden.clone());
        let hidden = self.self_attention.forward(normed.clone(), normed, hidden);
        let normed = self.norm2.forward(hidden.clone());
        let hidden = self
            .cross_attention
            .forward(normed, context.clone(), hidden);
        let normed = self.norm3.forward(hidden.clone());
        self.feed_forward.forward_onto(normed, hidden)
    }
}

impl FeedForward {
    pub fn load(loader: &Loader<'_>, channels: usize) -> Result<Self, WeightError> {
        let loader = loader.at("net");
        Ok(Self {
            up: GatedLinear::load(&loader.at("0.proj"), channels, 4 * channels)?,
            down: Linear::load(&loader.at("2"), 4 * channels, channels, true)?,
        })
    }

    /// Adds what it makes of `x` to `residual`.
    pub fn forward_onto(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.down.forward_onto(self.up.forward(x), residual)
    }
}

impl Attention {
    pub fn load(
        loader: &Loader<'_>,
        channels: usize,
        heads: usize,
        context: usize,
    ) -> Result<Self, WeightError> {
        Ok(Self {
            query: Linear::load(&loader.at("to_q"), channels, channels, false)?,
            key: Linear::load(&loader.at("to_k"), context, channels, false)?,
            value: Linear::load(&loader.at("to_v"), context, channels, false)?,
            output: Linear::load(&loader.at("to_out.0"), channels, channels, true)?,
            heads,
        })
    }

    /// `x` and `context` are as for [`Layer::forward`]; adds what it makes of them to `residual`.
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let shape = x.dims();
        let [batch, tokens, channels] = shape;
        // What shares a context may as well be one text: no token looks at another.
        let samples = context.dims()[0];
        let query = self.query.forward(x);
        let attended = attend(
            query.reshape([samples, batch / samples * tokens, channels]),
            self.key.forward(context.clone()),
            self.value.forward(context),
            self.heads,
            Mask::None,
        );
        self.output.forward_onto(attended.reshape(shape), residual)
    }
}
