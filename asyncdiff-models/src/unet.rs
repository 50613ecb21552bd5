//! diffusers' `UNet2DConditionModel`, `UNetMotionModel` and `UNetSpatioTemporalConditionModel`, block by block.
//!
//! A UNet *is* its list of blocks: there is no forward function beside the plan. [`UNet::load`] takes the blocks that a
//! rank owns, [`UNet::denoiser`] gives the engine something to run them with.

mod conditioning;
mod embedding;
mod motion;
pub(crate) mod original;
mod spatio_temporal;
mod transformer;

use std::collections::HashMap;
use std::convert::Infallible;

use asyncdiff_burn::layers;
use asyncdiff_burn::weights::{Loader, WeightError, Weights};
use asyncdiff_core::plan::{Part, Term, Versioned};
use asyncdiff_core::unet::{BlockKind, UNet2d, UNet2dConfig, UNetBlock, level_size};
use asyncdiff_core::{BlockId, Branch, Denoiser};
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, FloatDType, Tensor, TensorData, activation};

use crate::resnet::{FactorOf, Norm, Resnet, SpatioTemporalResnet, enlarge};
use embedding::Embeddings;
use motion::MotionModule;
use spatio_temporal::SpatioTemporalTransformer;
use transformer::Transformer;

pub use conditioning::{AddedConditioning, Conditioning};

/// The blocks of a UNet that one rank owns, on its device.
#[derive(Debug)]
pub struct UNet {
    spec: UNet2d,
    device: Device,
    dtype: FloatDType,
    embeddings: Embeddings,
    blocks: HashMap<BlockId, Module>,
    parameters: u64,
}

#[derive(Debug)]
enum Module {
    ConvIn(Conv2d),
    Resnet(Box<Resnet>),
    Transformer(Box<Transformer>),
    SpatioTemporalResnet(Box<SpatioTemporalResnet>),
    SpatioTemporalTransformer(Box<SpatioTemporalTransformer>),
    Motion(Box<MotionModule>),
    Downsample(Conv2d),
    Upsample(Conv2d),
    ConvOut(GroupNorm, Conv2d),
}

impl UNet {
    /// Loads the blocks `own`, and the embeddings that every rank needs. Motion modules come from `motion`, where they are in a
    /// file of their own (a motion adapter), everything else from `weights`.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit the structure, or that belong to no block of it.
    pub fn load(
        spec: &UNet2d,
        weights: &Weights<'_>,
        motion: Option<&Weights<'_>>,
        own: &[BlockId],
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self, WeightError> {
        let loader = weights.on(device, dtype);
        let motion_loader = motion.map(|motion| motion.on(device, dtype));
        let parameters_read =
            || weights.parameters_read() + motion.map_or(0, Weights::parameters_read);
        let before = parameters_read();
        let in_motion =
            |block: &UNetBlock| motion.is_some() && matches!(block.kind, BlockKind::Motion { .. });
        let blocks = own
            .iter()
            .map(|id| {
                let block = &spec.blocks[id.0];
                let root = motion_loader
                    .as_ref()
                    .filter(|_| in_motion(block))
                    .unwrap_or(&loader);
                Ok((*id, Module::load(&spec.config, block, root)?))
            })
            .collect::<Result<_, WeightError>>()?;
        let unet = Self {
            spec: spec.clone(),
            device: device.clone(),
            dtype,
            embeddings: Embeddings::load(&spec.config, &loader, device, dtype)?,
            blocks,
            parameters: parameters_read() - before,
        };
        let of_others = |name: &str, motion: bool| {
            spec.blocks.iter().enumerate().any(|(index, block)| {
                !own.contains(&BlockId(index))
                    && in_motion(block) == motion
                    && block.modules().iter().any(|module| is_in(name, module))
            })
        };
        weights.finish(|name| of_others(name, false))?;
        if let Some(motion) = motion {
            motion.finish(|name| of_others(name, true))?;
        }
        Ok(unet)
    }

    /// Number of weights that are loaded.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Something to run the blocks with, for one batch.
    ///
    /// `size` is the latents' `[height, width]`. `given` makes the values that [are given](asyncdiff_core::Value::is_given), as
    /// `[batch, channels, height, width]`.
    ///
    /// # Panics
    ///
    /// If `conditioning` lacks what the UNet adds to its time embedding.
    pub fn denoiser<'a>(
        &'a self,
        conditioning: Conditioning,
        size: [usize; 2],
        given: Given<'a>,
    ) -> UNetDenoiser<'a> {
        UNetDenoiser {
            unet: self,
            context: conditioning.context.cast(self.dtype),
            added: self.embeddings.added(conditioning.added),
            concat: conditioning.concat.map(|concat| concat.cast(self.dtype)),
            mask: conditioning.mask,
            frames: conditioning.frames,
            size,
            given,
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
    fn load(
        config: &UNet2dConfig,
        block: &UNetBlock,
        root: &Loader<'_>,
    ) -> Result<Self, WeightError> {
        let loader = root.at(&block.name);
        let norm = Norm {
            groups: config.norm_num_groups,
            epsilon: block.norm_eps,
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
            BlockKind::SpatioTemporalResnet { input, output } => {
                Module::SpatioTemporalResnet(Box::new(SpatioTemporalResnet::load(
                    &loader,
                    [input, output],
                    norm,
                    norm.epsilon,
                    Some(config.time_embed_dim()),
                    FactorOf::Spatial,
                )?))
            }
            BlockKind::SpatioTemporalTransformer {
                channels,
                heads,
                layers,
            } => Module::SpatioTemporalTransformer(Box::new(SpatioTemporalTransformer::load(
                &loader, config, channels, heads, layers,
            )?)),
            BlockKind::Motion {
                channels,
                heads,
                layers,
                positions,
            } => Module::Motion(Box::new(MotionModule::load(
                &loader,
                norm.groups,
                channels,
                heads,
                layers,
                positions,
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

/// Makes the values that [are given](asyncdiff_core::Value::is_given).
pub type Given<'a> = Box<dyn FnMut(Versioned) -> Tensor<4> + Send + 'a>;

/// Runs the blocks of a [`UNet`] for one batch.
pub struct UNetDenoiser<'a> {
    unet: &'a UNet,
    context: Tensor<3>,
    /// What is added to the time embedding: the same for all timesteps.
    added: Option<Tensor<2>>,
    concat: Option<Tensor<4>>,
    mask: Option<Tensor<4>>,
    frames: usize,
    size: [usize; 2],
    given: Given<'a>,
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
        _: Branch,
        timestep: f64,
        inputs: Vec<Tensor<4>>,
    ) -> Result<Tensor<4>, Infallible> {
        if self.time.as_ref().is_none_or(|(of, _)| *of != timestep) {
            let mut embedding = self.unet.embeddings.at(timestep, self.added.as_ref());
            // One row does for all of the batch. Otherwise there is one for each sample, whose frames share it.
            if embedding.dims()[0] > 1 {
                let each = embedding.unsqueeze_dim::<3>(1);
                embedding = each.repeat_dim(1, self.frames).flatten(0, 1);
            }
            self.time = Some((timestep, embedding));
        }
        let time = self.time.as_ref().map(|(_, embedding)| embedding);
        // What the plan combined, the latents above all, is f32.
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|input| input.cast(self.unet.dtype))
            .collect();
        let input = match <[Tensor<4>; 1]>::try_from(inputs) {
            Ok([only]) => only,
            Err(several) => Tensor::cat(several, 1),
        };
        Ok(match &self.unet.blocks[&block] {
            Module::ConvIn(conv) => {
                let passes = self.context.dims()[0] * self.frames / input.dims()[0];
                let latents = input.repeat_dim(0, passes);
                conv.forward(match &self.concat {
                    Some(concat) => Tensor::cat(vec![latents, concat.clone()], 1),
                    None => latents,
                })
            }
            Module::Resnet(resnet) => resnet.forward(input, time),
            Module::Transformer(transformer) => transformer.forward(input, &self.context),
            Module::SpatioTemporalResnet(resnet) => resnet.forward(input, time, self.frames),
            Module::SpatioTemporalTransformer(transformer) => {
                transformer.forward(input, &self.context, self.frames)
            }
            Module::Motion(module) => module.forward(input, self.frames),
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

    fn combine(&mut self, terms: &[(Term, Tensor<4>)]) -> Result<Tensor<4>, Infallible> {
        let summands = terms.iter().map(|(term, tensor)| {
            // Whatever the blocks compute in, a narrower type would round the coefficients' work away.
            let tensor = tensor.clone().cast(FloatDType::F32);
            let part = self.part(term.part, tensor);
            match term.last_frame {
                None => part * term.weight,
                Some(last) => {
                    let weights = self.over_frames(term.weight, last, &part);
                    part * weights
                }
            }
        });
        // An update whose every coefficient is zero does not occur in a valid schedule.
        let zero = || Tensor::zeros([1, 1, 1, 1], &self.unet.device);
        Ok(summands
            .reduce(|sum, summand| sum + summand)
            .unwrap_or_else(zero))
    }

    fn given(&mut self, what: Versioned) -> Result<Tensor<4>, Infallible> {
        Ok((self.given)(what))
    }
}

impl UNetDenoiser<'_> {
    fn part(&self, part: Part, tensor: Tensor<4>) -> Tensor<4> {
        let half = tensor.dims()[0] / 2;
        let mask = || {
            self.mask
                .clone()
                .expect("a plan that keeps what is outside a mask needs one")
        };
        match part {
            Part::Whole => tensor,
            Part::Unconditional => tensor.narrow(0, 0, half),
            Part::Conditional => tensor.narrow(0, half, half),
            Part::Inside => tensor * mask(),
            Part::Outside => tensor * (1.0 - mask()),
        }
    }

    /// A factor for every row of `like`, `[batch, 1, 1, 1]`: from `first` at a video's first frame to `last` at its last.
    fn over_frames(&self, first: f64, last: f64, like: &Tensor<4>) -> Tensor<4> {
        let batch = like.dims()[0];
        let intervals = (self.frames - 1).max(1) as f64;
        let weight = |row: usize| {
            let share = (row % self.frames) as f64 / intervals;
            (first + share * (last - first)) as f32
        };
        let weights: Vec<f32> = (0..batch).map(weight).collect();
        Tensor::from_data(
            TensorData::new(weights, [batch, 1, 1, 1]),
            &self.unet.device,
        )
    }
}
