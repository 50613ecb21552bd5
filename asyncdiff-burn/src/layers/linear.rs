//! Products with weights.

use asyncdiff_kernels::{Finish, Packed, product};
use burn::module::Param;
use burn::nn;
use burn::tensor::{Tensor, activation};

use super::room::room;
use super::{Activation, fast, plain_activation};
use crate::weights::{Loader, WeightError};

/// `torch.nn.Linear`, over the last dimension.
#[derive(Debug)]
pub struct Linear {
    form: Form,
    outputs: usize,
}

#[derive(Debug)]
enum Form {
    Packed(Packed),
    Plain(nn::Linear),
}

impl Linear {
    /// `weight` of `[output, input]`, and `bias` where there is one.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn load(
        loader: &Loader<'_>,
        input: usize,
        output: usize,
        bias: bool,
    ) -> Result<Self, WeightError> {
        Self::shaped(loader, [output, input], bias)
    }

    /// `torch.nn.Conv2d` with a kernel of 1x1 and a bias, as the linear layer over channels that it is.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn pointwise(
        loader: &Loader<'_>,
        input: usize,
        output: usize,
    ) -> Result<Self, WeightError> {
        Self::shaped(loader, [output, input, 1, 1], true)
    }

    fn shaped<const D: usize>(
        loader: &Loader<'_>,
        shape: [usize; D],
        bias: bool,
    ) -> Result<Self, WeightError> {
        let [output, input] = [shape[0], shape[1]];
        let form = if loader.wants_kernels() {
            let weight = loader.values("weight", shape)?;
            let bias = bias.then(|| loader.values("bias", [output])).transpose()?;
            let storage = weight.storage(loader.storage());
            Form::Packed(Packed::new(
                storage,
                [output, 1, input],
                bias.as_deref(),
                &weight,
            ))
        } else {
            let weight = loader.tensor("weight", shape)?.reshape([output, input]);
            let bias = bias.then(|| loader.tensor("bias", [output])).transpose()?;
            Form::Plain(nn::Linear {
                // Burn multiplies from the left; the copy makes the rows contiguous once instead of at every call.
                weight: Param::from_tensor(weight.transpose().reshape([input, output])),
                bias: bias.map(Param::from_tensor),
            })
        };
        Ok(Self {
            form,
            outputs: output,
        })
    }

    /// `[…, input]` to `[…, output]`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.run(x, Activation::Identity, None)
    }

    /// The same with an activation after it.
    #[must_use]
    pub fn forward_activated<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
        self.run(x, activation, None)
    }

    /// The same added to a `residual` of its shape.
    #[must_use]
    pub fn forward_onto<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        self.run(x, Activation::Identity, Some(residual))
    }

    fn run<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
        residual: Option<Tensor<D>>,
    ) -> Tensor<D> {
        match &self.form {
            Form::Packed(weights) => {
                let mut shape = x.dims();
                shape[D - 1] = self.outputs;
                let residual = residual.map(numbers);
                let finish = Finish {
                    shift: None,
                    activation,
                    residual: residual.as_ref().map(fast::Numbers::as_slice),
                };
                multiply(weights, &x, shape, &finish)
            }
            Form::Plain(layer) => {
                let result = plain_activation(activation, layer.forward(x));
                match residual {
                    Some(residual) => residual + result,
                    None => result,
                }
            }
        }
    }
}

/// The numbers of a tensor that meets packed weights.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> fast::Numbers {
    fast::numbers(tensor)
        .expect("weights are packed for devices whose tensors the kernels can read")
}

fn multiply<const D: usize>(
    weights: &Packed,
    x: &Tensor<D>,
    shape: [usize; D],
    finish: &Finish<'_>,
) -> Tensor<D> {
    let rows = numbers(x.clone());
    let mut out = room(shape.iter().product());
    product(rows.as_slice(), weights, finish, &mut out);
    fast::to_tensor(out, shape, x)
}

/// diffusers' `GEGLU`: a linear layer whose second half of outputs, through GELU, is multiplied with the first.
#[derive(Debug)]
pub struct GatedLinear {
    form: Form,
    inner: usize,
}

impl GatedLinear {
    /// `weight` of `[2 · inner, input]`, and `bias`.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn load(loader: &Loader<'_>, input: usize, inner: usize) -> Result<Self, WeightError> {
        if !loader.wants_kernels() {
            let Linear { form, .. } = Linear::load(loader, input, 2 * inner, true)?;
            return Ok(Self { form, inner });
        }
        let weight = loader.values("weight", [2 * inner, input])?;
        let bias = loader.values("bias", [2 * inner])?;
        let storage = weight.storage(loader.storage());
        let packed = Packed::gated(storage, [inner, input], Some(&bias), &weight);
        Ok(Self {
            form: Form::Packed(packed),
            inner,
        })
    }

    /// `[…, input]` to `[…, inner]`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.form {
            Form::Packed(weights) => {
                let mut shape = x.dims();
                shape[D - 1] = self.inner;
                multiply(weights, &x, shape, &Finish::default())
            }
            Form::Plain(layer) => {
                let both = layer.forward(x);
                let value = both.clone().narrow(D - 1, 0, self.inner);
                let gate = both.narrow(D - 1, self.inner, self.inner);
                value * activation::gelu(gate)
            }
        }
    }
}
