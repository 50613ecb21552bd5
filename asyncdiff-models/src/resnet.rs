//! The convolutional parts that UNets and autoencoders share.

mod spatio_temporal;

use asyncdiff_burn::layers::{Conv2d, GroupNorm, Linear};
use asyncdiff_burn::weights::{Loader, WeightError};
use burn::tensor::Tensor;

pub(crate) use spatio_temporal::{
    FactorOf, Mixer, SpatioTemporalResnet, frames_as_batch, frames_beside_channels,
};

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
        let time = |features| Linear::load(&loader.at("time_emb_proj"), features, output, true);
        let shortcut = || Conv2d::load(&loader.at("conv_shortcut"), [input, output], 1, 1, 0);
        Ok(Self {
            norm1: GroupNorm::load(&loader.at("norm1"), norm.groups, input, norm.epsilon)?,
            conv1: Conv2d::load(&loader.at("conv1"), [input, output], 3, 1, 1)?,
            time: time_features.map(time).transpose()?,
            norm2: GroupNorm::load(&loader.at("norm2"), norm.groups, output, norm.epsilon)?,
            conv2: Conv2d::load(&loader.at("conv2"), [output, output], 3, 1, 1)?,
            shortcut: (input != output).then(shortcut).transpose()?,
        })
    }

    /// `x` is `[batch, channels, height, width]`; `time` the activated time embedding, `[1 or batch, features]`.
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let shift = self.time.as_ref().zip(time);
        let shift = shift.map(|(layer, time)| layer.forward(time.clone()));
        let normed = self.norm1.forward_silu(x.clone());
        let hidden = self.conv1.forward_shifted(normed, shift);
        let normed = self.norm2.forward_silu(hidden);
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        self.conv2.forward_onto(normed, x)
    }
}
