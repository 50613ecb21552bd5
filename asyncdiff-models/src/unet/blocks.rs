//! Runs the blocks of a UNet.

use std::collections::HashMap;

use asyncdiff_burn::latents::Blocks;
use asyncdiff_burn::layers::{self, join_channels, threads};
use asyncdiff_core::BlockId;
use asyncdiff_core::plan::Branch;
use asyncdiff_core::unet::level_size;
use burn::tensor::Tensor;

use super::conditioning::half;
use super::transformer::KeysValues;
use super::{Conditioning, Module, UNet};

/// Runs the blocks of a [`UNet`] for one batch.
#[derive(Debug)]
pub struct UNetBlocks<'a> {
    unet: &'a UNet,
    frames: usize,
    size: [usize; 2],
    /// What both halves of the guidance batch are told, and each half that was asked for: it is taken once.
    told: HashMap<Branch, Told>,
}

/// What the blocks of a branch are told.
#[derive(Clone, Debug)]
struct Told {
    context: Tensor<3>,
    /// What the context is to the layers of each block that has run: the same in all calls.
    keys_values: HashMap<BlockId, Vec<KeysValues>>,
    /// What is added to the time embedding: the same for all timesteps.
    added: Option<Tensor<2>>,
    concat: Option<Tensor<4>>,
    /// The last timestep's embedding: all blocks of a call share it.
    time: Option<(f64, Tensor<2>)>,
}

impl Told {
    /// What a branch is told, of what both halves are.
    fn of(&self, branch: Branch) -> Self {
        Self {
            context: half(self.context.clone(), branch),
            keys_values: HashMap::new(),
            added: self.added.clone().map(|added| half(added, branch)),
            concat: self.concat.clone().map(|concat| half(concat, branch)),
            time: None,
        }
    }
}

impl<'a> UNetBlocks<'a> {
    pub(super) fn new(unet: &'a UNet, conditioning: Conditioning, size: [usize; 2]) -> Self {
        let dtype = unet.embeddings.dtype();
        let both = Told {
            context: conditioning.context.cast(dtype),
            keys_values: HashMap::new(),
            added: unet.embeddings.added(conditioning.added),
            concat: conditioning.concat.map(|concat| concat.cast(dtype)),
            time: None,
        };
        Self {
            unet,
            frames: conditioning.frames,
            size,
            told: HashMap::from([(Branch::Both, both)]),
        }
    }

    /// Sees to what a block is told in a branch, with the embedding of `timestep`.
    fn tell(&mut self, block: BlockId, branch: Branch, timestep: f64) {
        if !self.told.contains_key(&branch) {
            let of_branch = self.told[&Branch::Both].of(branch);
            self.told.insert(branch, of_branch);
        }
        let told = self.told.get_mut(&branch).expect("it is there by now");
        if told.time.as_ref().is_none_or(|(of, _)| *of != timestep) {
            let mut embedding = self.unet.embeddings.at(timestep, told.added.as_ref());
            // One row does for all of the batch. Otherwise there is one for each sample, whose frames share it.
            if embedding.dims()[0] > 1 {
                let each = embedding.unsqueeze_dim::<3>(1);
                embedding = each.repeat_dim(1, self.frames).flatten(0, 1);
            }
            told.time = Some((timestep, embedding));
        }
        let Told {
            context,
            keys_values,
            ..
        } = told;
        keys_values
            .entry(block)
            .or_insert_with(|| self.unet.blocks[&block].module.keys_values(context));
    }
}

impl Blocks for UNetBlocks<'_> {
    /// # Panics
    ///
    /// For half of a batch whose conditioning has an odd number of samples.
    fn run(
        &mut self,
        block: BlockId,
        branch: Branch,
        timestep: f64,
        inputs: Vec<Tensor<4>>,
    ) -> Tensor<4> {
        let unet = self.unet;
        // What the plan combined, the latents above all, is f32; what blocks give each other is rounded, for the values are the
        // same whether they travel or not.
        let inputs: Vec<_> = inputs
            .into_iter()
            .map(|input| layers::cast(input, unet.embeddings.dtype()))
            .collect();
        let halves = match (branch, &unet.blocks[&block].module) {
            // Its input is the latents, which it repeats.
            (_, Module::ConvIn(_)) => None,
            (Branch::Both, _) => self.halves(&inputs),
            _ => None,
        };
        let Some([negative, positive]) = halves else {
            self.tell(block, branch, timestep);
            let output = self.module(block, &self.told[&branch], inputs);
            return layers::cast(output, unet.dtype);
        };
        self.tell(block, Branch::Negative, timestep);
        self.tell(block, Branch::Positive, timestep);
        let run = |branch, inputs| {
            layers::cast(self.module(block, &self.told[&branch], inputs), unet.dtype)
        };
        let (negative, positive) = rayon::join(
            || run(Branch::Negative, negative),
            || run(Branch::Positive, positive),
        );
        // With the channels side by side, as layers on a CPU make and read them: otherwise each block would arrange them twice.
        let halves = [negative, positive].map(|half| half.permute([0, 2, 3, 1]));
        Tensor::cat(halves.into(), 0).permute([0, 3, 1, 2])
    }
}

/// Channels whose weights a processor's caches hold: of a 3x3 convolution, transformed, about 2 MiB.
const FEW_CHANNELS: usize = 128;

impl UNetBlocks<'_> {
    /// The inputs of both halves of the batch, where two threads should take one each: they need not wait for each other
    /// inside the block, as they would after each of its layers. Where a half has few positions, and the weights are too many for
    /// a cache, its time is that of reading them, which both would.
    fn halves(&self, inputs: &[Tensor<4>]) -> Option<[Vec<Tensor<4>>; 2]> {
        let [rows, channels, height, width] = inputs.first()?.dims();
        let even = self.told[&Branch::Both].context.dims()[0].is_multiple_of(2);
        let worth = height * width >= channels / 2 || channels <= FEW_CHANNELS;
        if !even || !worth || rows % 2 > 0 || threads(&self.unet.device) < 2 {
            return None;
        }
        let half = |first| {
            let of = |input: &Tensor<4>| input.clone().narrow(0, first, rows / 2);
            inputs.iter().map(of).collect()
        };
        Some([half(0), half(rows / 2)])
    }

    /// Computes a block for those who are `told` something.
    fn module(&self, block: BlockId, told: &Told, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        let (unet, frames, size) = (self.unet, self.frames, self.size);
        let time = told.time.as_ref().map(|(_, embedding)| embedding);
        let context = &told.keys_values[&block];
        let input = match <[Tensor<4>; 1]>::try_from(inputs) {
            Ok([only]) => only,
            Err(several) => join_channels(several),
        };
        match &unet.blocks[&block].module {
            Module::ConvIn(conv) => {
                let passes = told.context.dims()[0] * frames / input.dims()[0];
                let latents = input.repeat_dim(0, passes);
                conv.forward(match &told.concat {
                    Some(concat) => Tensor::cat(vec![latents, concat.clone()], 1),
                    None => latents,
                })
            }
            Module::Resnet(resnet) => resnet.forward(input, time),
            Module::Transformer(transformer) => transformer.forward(input, context),
            Module::SpatioTemporalResnet(resnet) => resnet.forward(input, time, frames),
            Module::SpatioTemporalTransformer(transformer) => {
                transformer.forward(input, context, frames)
            }
            Module::Motion(module) => module.forward(input, frames),
            Module::Downsample(conv) => conv.forward(input),
            Module::Upsample(conv) => {
                let level = unet.spec.blocks[block.0].level;
                conv.forward_enlarged(input, size.map(|size| level_size(size, level)))
            }
            Module::ConvOut(norm, conv) => conv.forward(norm.forward_silu(input)),
        }
    }
}
