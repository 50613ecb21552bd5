//! What several rooms do with tensors.

use burn::tensor::Tensor;

/// Latents on a device: `[batch, channels, height, width]`.
pub type Latents = Tensor<4>;

/// Every row of the batch, `times` times in a row.
pub(crate) fn repeat_each<const D: usize>(tensor: Tensor<D>, times: usize) -> Tensor<D> {
    let rows = tensor.dims()[0];
    let each = tensor.chunk(rows, 0).into_iter();
    Tensor::cat(each.map(|row| row.repeat_dim(0, times)).collect(), 0)
}

/// The elements of a tensor, row-major.
pub(crate) fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
