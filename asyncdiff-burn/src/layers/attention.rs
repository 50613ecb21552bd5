//! Multi-head attention on tokens.

use asyncdiff_kernels::{self as kernels, Storage, Strides, Tokens, attention};
use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

use super::fast;
use super::room::room;
use crate::weights::Loader;

/// Which tokens a token may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Itself and those before it.
    Causal,
}

/// The heads of a multi-head attention, which has no weights of its own.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    count: usize,
    mask: Mask,
    /// How the weights of the layers around it are held: it multiplies as they do.
    storage: Storage,
}

impl Heads {
    /// `count` heads beside layers that come from `loader`.
    #[must_use]
    pub fn new(loader: &Loader<'_>, count: usize, mask: Mask) -> Self {
        Self {
            count,
            mask,
            storage: loader.storage(),
        }
    }

    /// `softmax(q kᵀ / √d) v` in every head. Shapes are `[batch, tokens, features]`; keys and values may have other numbers of
    /// tokens than queries.
    #[must_use]
    pub fn attend(&self, query: Tensor<3>, key: Tensor<3>, value: Tensor<3>) -> Tensor<3> {
        let [batch, queries, features] = query.dims();
        let keys = key.dims()[1];
        let slices = [&query, &key, &value].map(|tensor| fast::numbers(tensor.clone()));
        let [Some(query_numbers), Some(key_numbers), Some(value_numbers)] = &slices else {
            return self.plain(query, key, value);
        };
        let strides = |tokens: usize| Strides {
            sequence: tokens * features,
            token: features,
        };
        let tokens = |numbers, tokens| Tokens {
            numbers,
            strides: strides(tokens),
        };
        let mut out = room(batch * queries * features);
        attention(
            kernels::Heads {
                sequences: batch,
                heads: self.count,
                features: features / self.count,
                queries,
                keys,
                causal: self.mask == Mask::Causal,
                storage: self.storage,
            },
            tokens(query_numbers.as_slice(), queries),
            tokens(key_numbers.as_slice(), keys),
            tokens(value_numbers.as_slice(), keys),
            &mut out,
            strides(queries),
        );
        fast::to_tensor(out, [batch, queries, features], &query)
    }

    /// The same by Burn's operations.
    fn plain(&self, query: Tensor<3>, key: Tensor<3>, value: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, features] = query.dims();
        let split = |tensor: Tensor<3>| {
            let [batch, tokens, features] = tensor.dims();
            tensor
                .reshape([batch, tokens, self.count, features / self.count])
                .swap_dims(1, 2)
        };
        let options = AttentionModuleOptions {
            is_causal: self.mask == Mask::Causal,
            ..Default::default()
        };
        let [query, key, value] = [query, key, value].map(split);
        burn::tensor::module::attention(query, key, value, None, None, options)
            .swap_dims(1, 2)
            .reshape([batch, tokens, features])
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn the_kernel_attends_as_burn_does() {
        let random = |tokens| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<3>::random([2, tokens, 24], normal, &Device::flex())
        };
        for (keys, mask) in [(7, Mask::None), (77, Mask::None), (7, Mask::Causal)] {
            let (query, key, value) = (random(7), random(keys), random(keys));
            let heads = Heads {
                count: 3,
                mask,
                storage: Storage::F32,
            };
            let expected = heads.plain(query.clone(), key.clone(), value.clone());
            let found = heads.attend(query, key, value);
            let error: f32 = (found - expected).abs().max().into_scalar();
            // Weighted means of numbers of about 1, rounded in two ways.
            assert!(error < 2e-6, "{keys} keys, {mask:?}: {error}");
        }
    }
}
