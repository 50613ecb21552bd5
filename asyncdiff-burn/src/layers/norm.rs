//! Group norms and layer norms.

use asyncdiff_kernels::{Affine, Groups, group_norm, layer_norm};
use burn::module::Param;
use burn::nn;
use burn::nn::{GroupNormConfig, LayerNormConfig};
use burn::tensor::{Tensor, activation};

use super::linear::numbers;
use super::room::room;
use super::{Activation, fast};
use crate::weights::{Loader, WeightError};

/// The learned part of a norm where the kernels compute it.
#[derive(Debug)]
struct Learned {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f64,
}

impl Learned {
    fn load(loader: &Loader<'_>, channels: usize, epsilon: f64) -> Result<Self, WeightError> {
        Ok(Self {
            scale: loader.values("weight", [channels])?.into_vec(),
            shift: loader.values("bias", [channels])?.into_vec(),
            epsilon,
        })
    }

    fn affine(&self) -> Affine<'_> {
        Affine {
            scale: &self.scale,
            shift: &self.shift,
            epsilon: self.epsilon,
        }
    }
}

/// `torch.nn.GroupNorm`, of feature maps `[batch, channels, height, width]`.
#[derive(Debug)]
pub struct GroupNorm {
    form: GroupForm,
}

#[derive(Debug)]
enum GroupForm {
    Kernel { learned: Learned, groups: usize },
    Plain(nn::GroupNorm),
}

impl GroupNorm {
    /// `weight` and `bias`, both of `[channels]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn load(
        loader: &Loader<'_>,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<Self, WeightError> {
        let form = if loader.wants_kernels() {
            let learned = Learned::load(loader, channels, epsilon)?;
            GroupForm::Kernel { learned, groups }
        } else {
            let mut layer = GroupNormConfig::new(groups, channels)
                .with_epsilon(epsilon)
                .init(loader.device());
            layer.gamma = Some(Param::from_tensor(loader.tensor("weight", [channels])?));
            layer.beta = Some(Param::from_tensor(loader.tensor("bias", [channels])?));
            GroupForm::Plain(layer)
        };
        Ok(Self { form })
    }

    /// The normalised map.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, Activation::Identity)
    }

    /// The normalised map, and SiLU of it.
    #[must_use]
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, Activation::Silu)
    }

    fn run(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        match &self.form {
            GroupForm::Kernel { learned, groups } => {
                let [batch, channels, height, width] = x.dims();
                let pixels = numbers(x.clone().permute([0, 2, 3, 1]));
                let mut out = room(pixels.as_slice().len());
                let shape = Groups {
                    batch,
                    positions: height * width,
                    channels,
                    groups: *groups,
                };
                group_norm(
                    pixels.as_slice(),
                    shape,
                    learned.affine(),
                    activation,
                    &mut out,
                );
                fast::to_map(out, [batch, height, width, channels], &x)
            }
            GroupForm::Plain(layer) => match activation {
                Activation::Silu => activation::silu(layer.forward(x)),
                _ => layer.forward(x),
            },
        }
    }
}

/// `torch.nn.LayerNorm` over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    form: LayerForm,
}

#[derive(Debug)]
enum LayerForm {
    Kernel(Learned),
    Plain(nn::LayerNorm),
}

impl LayerNorm {
    /// `weight` and `bias`, both of `[features]`.
    ///
    /// # Errors
    ///
    /// As [`Loader::tensor`].
    pub fn load(loader: &Loader<'_>, features: usize, epsilon: f64) -> Result<Self, WeightError> {
        let form = if loader.wants_kernels() {
            LayerForm::Kernel(Learned::load(loader, features, epsilon)?)
        } else {
            let mut layer = LayerNormConfig::new(features)
                .with_epsilon(epsilon)
                .init(loader.device());
            layer.gamma = Param::from_tensor(loader.tensor("weight", [features])?);
            layer.beta = Some(Param::from_tensor(loader.tensor("bias", [features])?));
            LayerForm::Plain(layer)
        };
        Ok(Self { form })
    }

    /// `[…, features]`, each row normalised.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.form {
            LayerForm::Kernel(learned) => {
                let rows = numbers(x.clone());
                let mut out = room(rows.as_slice().len());
                layer_norm(rows.as_slice(), learned.affine(), &mut out);
                fast::to_tensor(out, x.dims(), &x)
            }
            LayerForm::Plain(layer) => layer.forward(x),
        }
    }
}
