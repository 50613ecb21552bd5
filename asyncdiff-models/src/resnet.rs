//! The convolutional parts that UNets and autoencoders share.

mod spatio_temporal;

use asyncdiff_burn::layers;
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, activation};

pub(crate) use spatio_temporal::{FactorOf, Mixer, SpatioTemporalResnet, frames_beside_channels};

/// diffusers' `ResnetBlock2D`.
#[derive(Debug)]
pub(crate) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// The normalisation of a [`Resnet`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub groups: usize,
    pub epsilon: f64,
}

impl Resnet {
    /// `time_features` is the size of the time embedding, where the network has one.
    pub fn load(
        loader: &Loader<'_>,
        [input, output]: [usize; 2],
        norm: Norm,
        time_features: Option<usize>,
    ) -> Result<Self, WeightError> {
        let time = |features| layers::linear(&loader.at("time_emb_proj"), features, output, true);
        let shortcut = || layers::conv2d(&loader.at("conv_shortcut"), [input, output], 1, 1, 0);
        Ok(Self {
            norm1: layers::group_norm(&loader.at("norm1"), norm.groups, input, norm.epsilon)?,
            conv1: layers::conv2d(&loader.at("conv1"), [input, output], 3, 1, 1)?,
            time: time_features.map(time).transpose()?,
            norm2: layers::group_norm(&loader.at("norm2"), norm.groups, output, norm.epsilon)?,
            conv2: layers::conv2d(&loader.at("conv2"), [output, output], 3, 1, 1)?,
            shortcut: (input != output).then(shortcut).transpose()?,
        })
    }

    /// `x` is `[batch, channels, height, width]`; `time` the activated time embedding, `[1 or batch, features]`.
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let mut hidden = self
            .conv1
            .forward(activation::silu(self.norm1.forward(x.clone())));
        if let (Some(layer), Some(time)) = (&self.time, time) {
            let shift: Tensor<4> = layer.forward(time.clone()).unsqueeze_dims(&[2, 3]);
            hidden = hidden + shift;
        }
        let hidden = self
            .conv2
            .forward(activation::silu(self.norm2.forward(hidden)));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        x + hidden
    }
}

/// Nearest-neighbour enlargement to `size` (`[height, width]`).
pub(crate) fn enlarge(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
    interpolate(x, options)
}
