//! The UNet of an original checkpoint: `model.diffusion_model.*`.
//!
//! The original code counts blocks from one end to the other: `input_blocks.0` is the first convolution, then come the
//! resnets (with `.1`, the attention after it) and samplers of all levels in one list, `middle_block`, and `output_blocks`
//! likewise; an output block that ends a level has the upsampler as its last module.

use std::collections::BTreeMap;

use asyncdiff_burn::weights::Form;
use serde_json::{Value, json};

use super::super::error::CheckpointError;
use super::part::{Names, Part, rename};
use crate::unet::original::{OUTSIDE, RESNET, SAMPLER};

/// A module of the original list, and what diffusers makes of it.
struct Module {
    kind: Kind,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Resnet,
    Transformer,
    Sampler,
}

/// The shape of the network as a list of levels.
struct Level {
    /// The original name of its first resnet.
    resnet: String,
    /// The original name of its first transformer.
    transformer: Option<String>,
    resnets: usize,
}

/// A UNet's modules by their original names.
pub(super) struct UNet<'a> {
    part: Part<'a>,
    modules: BTreeMap<String, Module>,
    down: Vec<Level>,
    up: Vec<Level>,
}

/// What the shapes cannot tell.
pub(super) struct Conventions {
    /// Latent height and width that it was trained for.
    pub sample_size: usize,
}

impl<'a> UNet<'a> {
    pub fn new(part: Part<'a>) -> Self {
        let mut unet = Self {
            part,
            modules: BTreeMap::new(),
            down: Vec::new(),
            up: Vec::new(),
        };
        unet.down = unet.levels("input_blocks", 1, "down_blocks", "downsamplers");
        unet.up = unet.levels("output_blocks", 0, "up_blocks", "upsamplers");
        for (index, (kind, name)) in [
            (Kind::Resnet, "resnets.0"),
            (Kind::Transformer, "attentions.0"),
            (Kind::Resnet, "resnets.1"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("mid_block.{name}");
            unet.modules
                .insert(format!("middle_block.{index}"), Module { kind, name });
        }
        unet
    }

    /// Walks through a list of blocks from `first`, and notes what each module is.
    fn levels(&mut self, list: &str, first: usize, blocks: &str, samplers: &str) -> Vec<Level> {
        let mut levels: Vec<Level> = Vec::new();
        let mut in_level = false;
        for index in first.. {
            let block = format!("{list}.{index}");
            if !self.part.has_module(&block) {
                break;
            }
            for position in 0..self.part.count(&block) {
                let module = format!("{block}.{position}");
                let has = |name: &str| self.part.has(&format!("{module}.{name}.weight"));
                let kind = if has("op") || has("conv") {
                    Kind::Sampler
                } else if has("in_layers.2") {
                    Kind::Resnet
                } else {
                    Kind::Transformer
                };
                if !in_level && kind == Kind::Resnet {
                    levels.push(Level {
                        resnet: module.clone(),
                        transformer: None,
                        resnets: 0,
                    });
                    in_level = true;
                }
                let number = levels.len().saturating_sub(1);
                let Some(level) = levels.last_mut() else {
                    continue;
                };
                let name = match kind {
                    Kind::Resnet => {
                        level.resnets += 1;
                        format!("resnets.{}", level.resnets - 1)
                    }
                    Kind::Transformer => {
                        level.transformer.get_or_insert(module.clone());
                        format!("attentions.{}", level.resnets - 1)
                    }
                    Kind::Sampler => {
                        in_level = false;
                        format!("{samplers}.0")
                    }
                };
                let name = format!("{blocks}.{number}.{name}");
                self.modules.insert(module, Module { kind, name });
            }
        }
        levels
    }

    /// diffusers' names of all tensors.
    pub fn names(&self) -> Result<Names, CheckpointError> {
        self.part
            .names()
            .map(|name| {
                let renamed = self
                    .rename(name)
                    .ok_or_else(|| self.part.not_understood(name))?;
                Ok((renamed, self.part.stored(name, Form::Same)))
            })
            .collect()
    }

    fn rename(&self, name: &str) -> Option<String> {
        if let Some(renamed) = rename(name, OUTSIDE) {
            return Some(renamed);
        }
        let dots: Vec<_> = name.match_indices('.').map(|(dot, _)| dot).collect();
        let depth = if name.starts_with("middle_block.") {
            1
        } else {
            2
        };
        let (module, rest) = name.split_at(*dots.get(depth)?);
        let Module { kind, name } = self.modules.get(module)?;
        let rest = &rest[1..];
        let rest = match kind {
            Kind::Resnet => rename(rest, RESNET)?,
            Kind::Sampler => rename(rest, SAMPLER)?,
            Kind::Transformer => rest.to_owned(),
        };
        Some(format!("{name}.{rest}"))
    }

    /// Whether there is an embedding for the pooled text and the numbers about the picture, as in Stable Diffusion XL.
    pub fn has_added_embedding(&self) -> bool {
        self.part.has_module("label_emb")
    }

    /// Whether transformers project tokens with linear layers, as from Stable Diffusion 2 on, and not with convolutions.
    pub fn has_linear_projection(&self) -> Result<bool, CheckpointError> {
        let projection = self.part.shape("middle_block.1.proj_in.weight")?;
        Ok(projection.len() == 2)
    }

    /// Channels of the model input: those of the latents, or 9 for inpainting.
    pub fn in_channels(&self) -> Result<usize, CheckpointError> {
        let [_, channels, _, _] = self.part.dims("input_blocks.0.0.weight")?;
        Ok(channels)
    }

    /// Features of a text token.
    pub fn cross_attention_dim(&self) -> Result<usize, CheckpointError> {
        let key = "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
        let [_, features] = self.part.dims(key)?;
        Ok(features)
    }

    fn transformer_layers(&self, transformer: &str) -> usize {
        self.part
            .count(&format!("{transformer}.transformer_blocks"))
    }

    /// Its `config.json`.
    pub fn config(&self, conventions: &Conventions) -> Result<Value, CheckpointError> {
        let linear = self.has_linear_projection()?;
        let [out_channels, _, _, _] = self.part.dims("out.2.weight")?;
        let middle_layers = self.transformer_layers("middle_block.1");
        let mut channels = Vec::new();
        let mut heads = Vec::new();
        let mut layers = Vec::new();
        let mut transformer_layers = Vec::new();
        for level in &self.down {
            let convolution = format!("{}.in_layers.2.weight", level.resnet);
            let [width, _, _, _] = self.part.dims(&convolution)?;
            channels.push(width);
            // The original configurations: 8 heads in version 1, 64 channels for each head from version 2 on.
            heads.push(if linear {
                self.part.heads(width, 64)?
            } else {
                8
            });
            layers.push(level.resnets);
            // The last level's number is that of the middle block, also where the level itself has no transformers.
            transformer_layers.push(match &level.transformer {
                Some(first) => self.transformer_layers(first),
                None => 1,
            });
        }
        if let Some(last) = transformer_layers.last_mut() {
            *last = middle_layers;
        }
        let types = |levels: &[Level], block: &str| -> Vec<String> {
            let class = |level: &Level| match level.transformer {
                Some(_) => format!("CrossAttn{block}"),
                None => block.to_owned(),
            };
            levels.iter().map(class).collect()
        };
        let mut config = json!({
            "_class_name": "UNet2DConditionModel",
            "in_channels": self.in_channels()?,
            "out_channels": out_channels,
            "sample_size": conventions.sample_size,
            "block_out_channels": channels,
            "down_block_types": types(&self.down, "DownBlock2D"),
            "up_block_types": types(&self.up, "UpBlock2D"),
            "layers_per_block": layers,
            "attention_head_dim": heads,
            "transformer_layers_per_block": transformer_layers,
            "cross_attention_dim": self.cross_attention_dim()?,
            "use_linear_projection": linear,
            "norm_num_groups": 32,
        });
        if self.has_added_embedding() {
            let [_, features] = self.part.dims("label_emb.0.0.weight")?;
            config["addition_embed_type"] = json!("text_time");
            // The original configuration of Stable Diffusion XL: as many for each number.
            config["addition_time_embed_dim"] = json!(256);
            config["projection_class_embeddings_input_dim"] = json!(features);
        }
        Ok(config)
    }
}
