//! Burn's layers, filled from PyTorch weights.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear,
    PaddingConfig2d,
};

use burn::tensor::Tensor;

use crate::weights::{Loader, WeightError};

/// `torch.nn.Linear`: `weight` of `[output, input]`, and `bias` where there is one.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn linear(
    loader: &Loader<'_>,
    input: usize,
    output: usize,
    bias: bool,
) -> Result<Linear, WeightError> {
    let weight = loader.tensor("weight", [output, input])?;
    let bias = bias.then(|| loader.tensor("bias", [output])).transpose()?;
    Ok(from_rows(weight, bias))
}

/// `torch.nn.Conv2d` with a kernel of 1x1 and a bias, as the linear layer over channels that it is.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn pointwise(loader: &Loader<'_>, input: usize, output: usize) -> Result<Linear, WeightError> {
    let weight = loader.tensor("weight", [output, input, 1, 1])?;
    let bias = loader.tensor("bias", [output])?;
    Ok(from_rows(weight.reshape([output, input]), Some(bias)))
}

fn from_rows(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Linear {
    let [output, input] = weight.dims();
    Linear {
        // Burn multiplies from the left; the copy makes the rows contiguous once instead of at every call.
        weight: Param::from_tensor(weight.transpose().reshape([input, output])),
        bias: bias.map(Param::from_tensor),
    }
}

/// `torch.nn.Conv2d` with a bias: `weight` of `[output, input, kernel, kernel]`, zero padding on all sides.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn conv2d(
    loader: &Loader<'_>,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<Conv2d, WeightError> {
    let [input, output] = channels;
    let config = Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(
            padding, padding, padding, padding,
        ));
    let weight = loader.tensor("weight", [output, input, kernel, kernel])?;
    filled(&config, loader, weight)
}

/// `torch.nn.Conv3d` with a kernel of `[kernel, 1, 1]`, a bias, and as many frames out as in: it looks along time only, so it is
/// the two-dimensional convolution over `[batch, channels, frames, positions]`.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn conv_over_frames(
    loader: &Loader<'_>,
    channels: [usize; 2],
    kernel: usize,
) -> Result<Conv2d, WeightError> {
    let [input, output] = channels;
    let padding = kernel / 2;
    let config = Conv2dConfig::new(channels, [kernel, 1])
        .with_padding(PaddingConfig2d::Explicit(padding, 0, padding, 0));
    let weight = loader.tensor("weight", [output, input, kernel, 1, 1])?;
    filled(&config, loader, weight.reshape([output, input, kernel, 1]))
}

/// `torch.nn.Conv2d` without a bias whose kernel and stride are both `size`: what cuts a picture into patches.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn patches(
    loader: &Loader<'_>,
    channels: [usize; 2],
    size: usize,
) -> Result<Conv2d, WeightError> {
    let [input, output] = channels;
    let mut layer = Conv2dConfig::new(channels, [size, size])
        .with_stride([size, size])
        .with_bias(false)
        .init(loader.device());
    layer.weight = Param::from_tensor(loader.tensor("weight", [output, input, size, size])?);
    Ok(layer)
}

fn filled(
    config: &Conv2dConfig,
    loader: &Loader<'_>,
    weight: Tensor<4>,
) -> Result<Conv2d, WeightError> {
    let [output, ..] = weight.dims();
    let mut layer = config.init(loader.device());
    layer.weight = Param::from_tensor(weight);
    layer.bias = Some(Param::from_tensor(loader.tensor("bias", [output])?));
    Ok(layer)
}

/// `torch.nn.GroupNorm`.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn group_norm(
    loader: &Loader<'_>,
    groups: usize,
    channels: usize,
    epsilon: f64,
) -> Result<GroupNorm, WeightError> {
    let mut layer = GroupNormConfig::new(groups, channels)
        .with_epsilon(epsilon)
        .init(loader.device());
    layer.gamma = Some(Param::from_tensor(loader.tensor("weight", [channels])?));
    layer.beta = Some(Param::from_tensor(loader.tensor("bias", [channels])?));
    Ok(layer)
}

/// `torch.nn.LayerNorm` over the last dimension.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn layer_norm(
    loader: &Loader<'_>,
    features: usize,
    epsilon: f64,
) -> Result<LayerNorm, WeightError> {
    let mut layer = LayerNormConfig::new(features)
        .with_epsilon(epsilon)
        .init(loader.device());
    layer.gamma = Param::from_tensor(loader.tensor("weight", [features])?);
    layer.beta = Some(Param::from_tensor(loader.tensor("bias", [features])?));
    Ok(layer)
}

/// `torch.nn.Embedding`: `weight` of `[entries, features]`.
///
/// # Errors
///
/// As [`Loader::tensor`].
pub fn embedding(
    loader: &Loader<'_>,
    entries: usize,
    features: usize,
) -> Result<Embedding, WeightError> {
    let mut layer = EmbeddingConfig::new(entries, features).init(loader.device());
    layer.weight = Param::from_tensor(loader.tensor("weight", [entries, features])?);
    Ok(layer)
}
