//! What several rooms do with tensors.

use burn::tensor::{FloatDType, Tensor};

/// Latents on a device: `[batch, channels, height, width]`.
pub type Latents = Tensor<4>;

/// The latents without noise that a denoiser call points to, if anybody asks for them.
#[derive(Clone, Copy, Debug)]
pub struct Clean<'a> {
    /// Before the call.
    pub(crate) latents: &'a Latents,
    /// The call's.
    pub(crate) prediction: &'a Latents,
    /// The factors on both ([`Schedule::data_prediction`](asyncdiff_core::Schedule::data_prediction)).
    pub(crate) factors: (f64, f64),
}

impl Clean<'_> {
    /// The latents, `[batch, channels, height, width]`: blurred at first, and ever more like the result.
    #[must_use]
    pub fn latents(&self) -> Latents {
        let part = |tensor: &Latents, factor| tensor.clone().cast(FloatDType::F32) * factor;
        part(self.latents, self.factors.0) + part(self.prediction, self.factors.1)
    }
}

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
