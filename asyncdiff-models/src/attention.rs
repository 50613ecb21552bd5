//! Multi-head attention on tokens.

use burn::tensor::Tensor;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

/// Which tokens a token may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All.
    None,
    /// Itself and those before it.
    Causal,
}

/// `softmax(q kᵀ / √d) v` in `heads` heads. Shapes are `[batch, tokens, features]`; keys and values may have other numbers
/// of tokens than queries.
pub(crate) fn attend(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    mask: Mask,
) -> Tensor<3> {
    let [batch, tokens, features] = query.dims();
    let split = |tensor: Tensor<3>| {
        let [batch, tokens, features] = tensor.dims();
        tensor
            .reshape([batch, tokens, heads, features / heads])
            .swap_dims(1, 2)
    };
    let options = AttentionModuleOptions {
        is_causal: mask == Mask::Causal,
        ..Default::default()
    };
    attention(split(query), split(key), split(value), None, None, options)
        .swap_dims(1, 2)
        .reshape([batch, tokens, features])
}
