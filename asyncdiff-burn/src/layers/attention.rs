//! Multi-head attention on tokens.

use asyncdiff_kernels::{Heads, Strides, Tokens, attention};
use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;

use super::fast;
use super::room::room;

/// Which tokens a token may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Itself and those before it.
    Causal,
}

/// `softmax(q kᵀ / √d) v` in `heads` heads. Shapes are `[batch, tokens, features]`; keys and values may have other numbers
/// of tokens than queries.
#[must_use]
pub fn attend(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    mask: Mask,
) -> Tensor<3> {
    let [batch, queries, features] = query.dims();
    let keys = key.dims()[1];
    let causal = mask == Mask::Causal;
    let slices = [&query, &key, &value].map(|tensor| fast::numbers(tensor.clone()));
    let [Some(query_numbers), Some(key_numbers), Some(value_numbers)] = &slices else {
        return plain(query, key, value, heads, causal);
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
        Heads {
            sequences: batch,
            heads,
            features: features / heads,
            queries,
            keys,
            causal,
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
fn plain(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let [batch, tokens, features] = query.dims();
    let split = |tensor: Tensor<3>| {
        let [batch, tokens, features] = tensor.dims();
        tensor
            .reshape([batch, tokens, heads, features / heads])
            .swap_dims(1, 2)
    };
    let options = AttentionModuleOptions {
        is_causal: causal,
        ..Default::default()
    };
    let [query, key, value] = [query, key, value].map(split);
    burn::tensor::module::attention(query, key, value, None, None, options)
        .swap_dims(1, 2)
        .reshape([batch, tokens, features])
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
            let causal = mask == Mask::Causal;
            let expected = plain(query.clone(), key.clone(), value.clone(), 3, causal);
            let found = attend(query, key, value, 3, mask);
            let error: f32 = (found - expected).abs().max().into_scalar();
            // Weighted means of numbers of about 1, rounded in two ways.
            assert!(error < 2e-6, "{keys} keys, {mask:?}: {error}");
        }
    }
}
