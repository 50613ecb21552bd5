//! diffusers' `UNet2DConditionModel`, `UNetMotionModel` and `UNetSpatioTemporalConditionModel`, block by block.
//!
//! A UNet *is* its list of blocks: there is no forward function beside the plan. [`UNet::load`] takes the blocks that a
//! rank owns, [`UNet::blocks`] runs them, and
//! [`UNet::denoiser`] gives the engine something to run them with.

mod blocks;
mod conditioning;
mod embedding;
mod motion;
pub(crate) mod original;
mod spatio_temporal;
mod transformer;

use std::collections::HashMap;
use std::sync::Arc;

use asyncdiff_burn::latents::{Given, OnLatents};
use asyncdiff_burn::layers::{Conv2d, GroupNorm};
use asyncdiff_burn::weights::{Loader, WeightError, Weights};
use asyncdiff_core::BlockId;
use asyncdiff_core::unet::{BlockKind, UNet2d, UNet2dConfig, UNetBlock, level_size};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::resnet::{FactorOf, Norm, Resnet, SpatioTemporalResnet};
use embedding::Embeddings;
use motion::MotionModule;
use spatio_temporal::SpatioTemporalTransformer;
use transformer::{KeysValues, Transformer};

pub use blocks::UNetBlocks;
pub use conditioning::{AddedConditioning, Conditioning};

/// The modules that every rank holds.
pub(crate) const EMBEDDINGS: [&str; 2] = ["time_embedding", "add_embedding"];

/// The blocks of a UNet that one rank owns, on its device.
#[derive(Debug)]
pub struct UNet {
    spec: UNet2d,
    device: Device,
    /// What its weights and the values between its blocks are rounded to.
    dtype: FloatDType,
    embeddings: Arc<Embeddings>,
    /// Shared with the other ranks on the device, as the embeddings are.
    blocks: HashMap<BlockId, Arc<Loaded>>,
    /// Weights of the embeddings.
    parameters: u64,
}

/// A block, and the number of its weights.
#[derive(Debug)]
struct Loaded {
    module: Module,
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
        let before = weights.parameters_read();
        let embeddings = {
            let loader = weights.on(device, dtype);
            Embeddings::load(&spec.config, &loader)?
        };
        let mut unet = Self {
            spec: spec.clone(),
            device: device.clone(),
            dtype,
            embeddings: Arc::new(embeddings),
            blocks: HashMap::new(),
            parameters: weights.parameters_read() - before,
        };
        unet.add(weights, motion, own)?;
        let in_motion = |block: &UNetBlock| motion.is_some() && is_motion(block);
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

    /// Loads those of the blocks `more` that are not there yet, from the weights that the others came from.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for weights that do not fit the structure.
    pub fn add(
        &mut self,
        weights: &Weights<'_>,
        motion: Option<&Weights<'_>>,
        more: &[BlockId],
    ) -> Result<(), WeightError> {
        for id in more {
            if self.holds(*id) {
                continue;
            }
            let block = &self.spec.blocks[id.0];
            let source = motion.filter(|_| is_motion(block)).unwrap_or(weights);
            let before = source.parameters_read();
            let loader = source.on(&self.device, self.dtype);
            let module = Module::load(&self.spec.config, block, &loader)?;
            let parameters = source.parameters_read() - before;
            let loaded = Loaded { module, parameters };
            self.blocks.insert(*id, Arc::new(loaded));
        }
        Ok(())
    }

    /// The modules of a block.
    pub(crate) fn modules(&self, block: BlockId) -> Vec<&str> {
        self.spec.blocks[block.0].modules()
    }

    /// The same denoiser on the same device, with those of the blocks `own` that are loaded here: nothing is loaded twice.
    #[must_use]
    pub fn shared(&self, own: &[BlockId]) -> Self {
        let mut shared = Self {
            spec: self.spec.clone(),
            device: self.device.clone(),
            dtype: self.dtype,
            embeddings: Arc::clone(&self.embeddings),
            blocks: HashMap::new(),
            parameters: self.parameters,
        };
        shared.take_from(self, own);
        shared
    }

    /// Shares those of the blocks `more` that are loaded in `other`, of the same denoiser on the same device, and not here.
    pub fn take_from(&mut self, other: &Self, more: &[BlockId]) {
        for id in more {
            if let (false, Some(block)) = (self.holds(*id), other.blocks.get(id)) {
                self.blocks.insert(*id, Arc::clone(block));
            }
        }
    }

    /// Drops all blocks but `own`.
    pub fn keep(&mut self, own: &[BlockId]) {
        self.blocks.retain(|id, _| own.contains(id));
    }

    /// Whether a block is loaded.
    #[must_use]
    pub fn holds(&self, block: BlockId) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Number of weights that are loaded.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let blocks = self.blocks.values();
        self.parameters + blocks.map(|block| block.parameters).sum::<u64>()
    }

    /// Something to run the blocks with, for one batch. `size` is the latents' `[height, width]`.
    ///
    /// # Panics
    ///
    /// If `conditioning` lacks what the UNet adds to its time embedding.
    #[must_use]
    pub fn blocks(&self, conditioning: Conditioning, size: [usize; 2]) -> UNetBlocks<'_> {
        UNetBlocks::new(self, conditioning, size)
    }

    /// The same for the engine, with what `given` makes and the mask of `conditioning`.
    ///
    /// # Panics
    ///
    /// As [`UNet::blocks`].
    pub fn denoiser<'a>(
        &'a self,
        mut conditioning: Conditioning,
        size: [usize; 2],
        given: Given<'a>,
    ) -> OnLatents<'a, UNetBlocks<'a>> {
        let (frames, mask) = (conditioning.frames, conditioning.mask.take());
        OnLatents::new(self.blocks(conditioning, size), frames, &self.device, given).with_mask(mask)
    }
}

/// Whether a block's weights may be in a motion adapter's file.
fn is_motion(block: &UNetBlock) -> bool {
    matches!(block.kind, BlockKind::Motion { .. })
}

/// Whether a tensor belongs to a module.
pub(crate) fn is_in(tensor: &str, module: &str) -> bool {
    tensor
        .strip_prefix(module)
        .is_some_and(|rest| rest.starts_with('.'))
}

impl Module {
    /// What a context is to the layers that look at it, one after another.
    fn keys_values(&self, context: &Tensor<3>) -> Vec<KeysValues> {
        match self {
            Self::Transformer(transformer) => transformer.keys_values(context),
            Self::SpatioTemporalTransformer(transformer) => transformer.keys_values(context),
            _ => Vec::new(),
        }
    }

    fn load(
        config: &UNet2dConfig,
        block: &UNetBlock,
        root: &Loader<'_>,
    ) -> Result<Self, WeightError> {
        let mut loader = root.at(&block.name);
        if let Some(size) = config.sample_size {
            loader = loader.for_maps_of(level_size(size, block.level).pow(2));
        }
        let norm = Norm {
            groups: config.norm_num_groups,
            epsilon: block.norm_eps,
        };
        Ok(match block.kind {
            BlockKind::ConvIn { input, output } => {
                Module::ConvIn(Conv2d::load(&loader, [input, output], 3, 1, 1)?)
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
            BlockKind::Downsample { channels } => Module::Downsample(Conv2d::load(
                &loader.at("conv"),
                [channels, channels],
                3,
                2,
                1,
            )?),
            BlockKind::Upsample { channels } => Module::Upsample(Conv2d::load(
                &loader.at("conv"),
                [channels, channels],
                3,
                1,
                1,
            )?),
            BlockKind::ConvOut { input, output } => Module::ConvOut(
                GroupNorm::load(&root.at("conv_norm_out"), norm.groups, input, norm.epsilon)?,
                Conv2d::load(&loader, [input, output], 3, 1, 1)?,
            ),
        })
    }
}
