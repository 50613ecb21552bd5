//! diffusers' `UNet2DConditionModel`, block by block.
//!
//! A UNet *is* its list of blocks: there is no forward function beside the plan. [`UNet::load`] takes the blocks that a
//! rank owns, [`UNet::denoiser`] gives the engine something to run them with.

mod conditioning;
mod embedding;
mod transformer;

use std::collections::HashMap;
use std::convert::Infallible;

use asyncdiff_burn::layers;
use asyncdiff_burn::weights::{Loader, WeightError, Weights};
use asyncdiff_core::plan::Half;
use asyncdiff_core::unet::{BlockKind, UNet2d, level_size};
use asyncdiff_core::{BlockId, Denoiser};
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, FloatDType, Tensor, activation};

use crate::resnet::{Norm, Resnet, enlarge};
use embedding::Embeddings;
use transformer::Transformer;

pub use conditioning::{AddedConditioning, Conditioning};

/// The blocks of a UNet that one rank owns, on its device.
#[derive(Debug)]
pub struct UNet {
    spec: UNet2d,
    device: Device,
    embeddings: Embeddings,
    blocks: HashMap<BlockId, Module>,
    parameters: u64,
}

#[derive(Debug)]
enum Module {
    ConvIn(Conv2d),
    Resnet(Box<Resnet>),
    Transformer(Box<Transformer>),
    Downsample(Conv2d),
    Upsample(Conv2d),
    ConvOut(GroupNorm, Conv2d),
}

impl UNet {
    /// Loads the blocks `own`, and the embeddings that every rank needs.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit the structure, or that belong to no block of it.
    pub fn load(
        spec: &UNet2d,
        weights: &Weights<'_>,
        own: &[BlockId],
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, WeightError> {
        let loader = weights.on(device, dtype);
        let before = weights.parameters_read();
        let blocks = own
            .iter()
            .map(|id| Ok((*id, Module::load(spec, *id, &loader)?)))
            .collect::<Result<_, WeightError>>()?;
        let unet = Self {
            spec: spec.clone(),
            device: device.clone(),
            embeddings: Embeddings::load(&spec.config, &loader, device, dtype)?,
            blocks,
            parameters: weights.parameters_read() - before,
        };
        weights.finish(|name| {
            spec.blocks.iter().enumerate().any(|(index, block)| {
                !own.contains(&BlockId(index))
                    && block.modules().iter().any(|module| is_in(name, module))
            })
        })?;
        Ok(unet)
    }

    /// Number of weights that are loaded.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Something to run the blocks with, for one batch.
    ///
    /// `size` is the latents' `[height, width]`. `noise` gives the noise of a stochastic scheduler's step, as
    /// `[batch, channels, height, width]`.
    ///
    /// # Panics
    ///
    /// If `conditioning` lacks what the UNet adds to its time embedding.
    pub fn denoiser<'a>(
        &'a self,
        conditioning: Conditioning,
        size: [usize; 2],
        noise: NoiseSource<'a>,
    ) -> UNetDenoiser<'a> {
        UNetDenoiser {
            unet: self,
            context: conditioning.context,
            added: self.embeddings.added(conditioning.added),
            size,
            noise,
            time: None,
        }
    }
}

/// Whether a tensor belongs to a module.
fn is_in(tensor: &str, module: &str) -> bool {
    tensor
        .strip_prefix(module)
        .is_some_and(|rest| rest.starts_with('.'))
}

impl Module {
    fn load(spec: &UNet2d, id: BlockId, root: &Loader<'_>) -> Result<Self, WeightError> {
        let config = &spec.config;
        let block = &spec.blocks[id.0];
        let loader = root.at(&block.name);
        let norm = Norm {
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
        };
        Ok(match block.kind {
            BlockKind::ConvIn { input, output } => {
                Module::ConvIn(layers::conv2d(&loader, [input, output], 3, 1, 1)?)
            }
            BlockKind::Resnet { input, output } => Module::Resnet(Box::new(Resnet::load(
                &loader,
                [input, output],
                norm,
                Some(config.time_embed_dim()),
            )?)),
            BlockKind::Transformer {
                channels,
                heads,
                layers,
            } => Module::Transformer(Box::new(Transformer::load(
                &loader, config, channels, heads, layers,
            )?)),
            BlockKind::Downsample { channels } => Module::Downsample(layers::conv2d(
                &loader.at("conv"),
                [channels, channels],
                3,
                2,
                1,
            )?),
            BlockKind::Upsample { channels } => Module::Upsample(layers::conv2d(
                &loader.at("conv"),
                [channels, channels],
                3,
                1,
                1,
            )?),
            BlockKind::ConvOut { input, output } => Module::ConvOut(
                layers::group_norm(&root.at("conv_norm_out"), norm.groups, input, norm.epsilon)?,
                layers::conv2d(&loader, [input, output], 3, 1, 1)?,
            ),
        })
    }
}

/// Gives the noise of a scheduler's step.
pub type NoiseSource<'a> = Box<dyn FnMut(usize) -> Tensor<4> + Send + 'a>;

/// Runs the blocks of a [`UNet`] for one batch.
pub struct UNetDenoiser<'a> {
    unet: &'a UNet,
    context: Tensor<3>,
    /// What is added to the time embedding: the same for all timesteps.
    added: Option<Tensor<2>>,
    size: [usize; 2],
    noise: NoiseSource<'a>,
    /// The last timestep's embedding: all blocks of a call share it.
    time: Option<(f64, Tensor<2>)>,
}

impl Denoiser for UNetDenoiser<'_> {
    type Tensor = Tensor<4>;
    /// Shapes are proved by the weights' loader, and a failing backend panics.
    type Error = Infallible;

    fn run(
        &mut self,
        block: BlockId,
        timestep: f64,
        inputs: Vec<Tensor<4>>,
    ) -> Result<Tensor<4>, Infallible> {
        if self.time.as_ref().is_none_or(|(of, _)| *of != timestep) {
            let embedding = self.unet.embeddings.at(timestep, self.added.as_ref());
            self.time = Some((timestep, embedding));
        }
        let time = self.time.as_ref().map(|(_, embedding)| embedding);
        let input = match <[Tensor<4>; 1]>::try_from(inputs) {
            Ok([only]) => only,
            Err(several) => Tensor::cat(several, 1),
        };
        Ok(match &self.unet.blocks[&block] {
            Module::ConvIn(conv) => {
                let passes = self.context.dims()[0] / input.dims()[0];
                conv.forward(input.repeat_dim(0, passes))
            }
            Module::Resnet(resnet) => resnet.forward(input, time),
            Module::Transformer(transformer) => transformer.forward(input, &self.context),
            Module::Downsample(conv) => conv.forward(input),
            Module::Upsample(conv) => {
                let level = self.unet.spec.blocks[block.0].level;
                conv.forward(enlarge(
                    input,
                    self.size.map(|size| level_size(size, level)),
                ))
            }
            Module::ConvOut(norm, conv) => conv.forward(activation::silu(norm.forward(input))),
        })
    }

    fn combine(
        &mut self,
        terms: &[(f64, Option<Half>, Tensor<4>)],
    ) -> Result<Tensor<4>, Infallible> {
        let summands = terms.iter().map(|(weight, half, tensor)| {
            let batch = tensor.dims()[0];
            let tensor = tensor.clone();
            let part = match half {
                None => tensor,
                Some(Half::Unconditional) => tensor.narrow(0, 0, batch / 2),
                Some(Half::Conditional) => tensor.narrow(0, batch / 2, batch / 2),
            };
            part * *weight
        });
        // An update whose every coefficient is zero does not occur in a valid schedule.
        let zero = || Tensor::zeros([1, 1, 1, 1], &self.unet.device);
        Ok(summands
            .reduce(|sum, summand| sum + summand)
            .unwrap_or_else(zero))
    }

    fn noise(&mut self, call: usize) -> Result<Tensor<4>, Infallible> {
        Ok((self.noise)(call))
    }
}
