//! The layers of networks, filled from PyTorch weights.
//!
//! On the pure-Rust CPU backend they run on [`asyncdiff_kernels`], on every other on Burn's own operations; which of them is
//! decided when a layer is loaded. [`Loader::plain`] asks for Burn's everywhere.
//!
//! Shapes are PyTorch's, `[batch, channels, height, width]` for feature maps. The kernels' maps have their channels side by side
//! in memory all the same, as PyTorch's `channels_last` has: what a layer returns is a permuted view, and the next finds it in
//! the order that it needs. [`tokens`] of such a map is the same memory, too.

mod attention;
mod convolution;
pub(crate) mod fast;
mod linear;
mod norm;
mod room;

use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, FloatDType, Tensor, activation};

use crate::weights::{Loader, WeightError};

use room::room;

pub use asyncdiff_kernels::Activation;
pub use attention::{Heads, Mask};
pub use convolution::Conv2d;
pub use linear::{GatedLinear, Linear};
pub use norm::{GroupNorm, LayerNorm};
pub use room::Reuse;

/// Threads that layers on a device share in the pool that the caller is in; 1 where they do not split their work.
#[must_use]
pub fn threads(device: &Device) -> usize {
    match fast::is_for(device) && rayon::current_thread_index().is_some() {
        true => rayon::current_num_threads(),
        false => 1,
    }
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
    layer.weight = burn::module::Param::from_tensor(loader.tensor("weight", [entries, features])?);
    Ok(layer)
}

/// The pixels of a feature map `[batch, channels, height, width]` as tokens, `[batch, height · width, channels]`.
#[must_use]
pub fn tokens(map: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = map.dims();
    map.permute([0, 2, 3, 1])
        .reshape([batch, height * width, channels])
}

/// The feature map of `size` (`[height, width]`) whose [`tokens`] these are.
#[must_use]
pub fn feature_map(tokens: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = tokens.dims();
    tokens
        .reshape([batch, height, width, channels])
        .permute([0, 3, 1, 2])
}

/// A feature map in another type.
#[must_use]
pub fn cast(map: Tensor<4>, dtype: FloatDType) -> Tensor<4> {
    // With the channels side by side, as layers on a CPU make and read them.
    fast::cast(map.permute([0, 2, 3, 1]), dtype).permute([0, 3, 1, 2])
}

/// The channels of several feature maps, one after another.
#[must_use]
pub fn join_channels(maps: Vec<Tensor<4>>) -> Tensor<4> {
    let numbers: Option<Vec<_>> = maps.iter().map(|map| fast::map(map.clone())).collect();
    let Some(numbers) = numbers.filter(|_| maps.len() > 1) else {
        return Tensor::cat(maps, 1);
    };
    let [batch, _, height, width] = maps[0].dims();
    let parts: Vec<_> = maps
        .iter()
        .zip(&numbers)
        .map(|(map, numbers)| (numbers.as_slice(), map.dims()[1]))
        .collect();
    let channels = parts.iter().map(|(_, channels)| channels).sum();
    let mut out = room(batch * height * width * channels);
    asyncdiff_kernels::join(&parts, &mut out);
    fast::to_map(out, [batch, height, width, channels], &maps[0])
}

/// An activation by Burn's operations.
fn plain_activation<const D: usize>(activation: Activation, x: Tensor<D>) -> Tensor<D> {
    match activation {
        Activation::Identity => x,
        Activation::Silu => activation::silu(x),
        Activation::Gelu => activation::gelu(x),
        Activation::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
    }
}
