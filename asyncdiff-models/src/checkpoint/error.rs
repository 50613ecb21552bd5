//! Why a model's files cannot be used.

use asyncdiff_core::quoted;
use std::path::PathBuf;

use asyncdiff_burn::weights::WeightError;

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Neither a folder nor a file, nor the form of a Hub id.
    #[error(
        "there is no model folder or file {path}: give a folder in diffusers layout, a .safetensors checkpoint, or a Hub id such as org/name",
        path = .0.display()
    )]
    NotFound(PathBuf),
    /// There is no such folder.
    #[error("there is no model folder {path}: give a folder in diffusers layout", path = .0.display())]
    NoFolder(PathBuf),
    /// The folder is not a model.
    #[error("{path} has no model_index.json: give a folder in diffusers layout, the one above unet/ and vae/", path = .0.display())]
    NoModelIndex(PathBuf),
    /// The folder is not one model.
    #[error("{path} has no config.json: give a folder with the config.json and the weights of one model", path = .0.display())]
    NoConfig(PathBuf),
    /// A part of the model has no weights.
    #[error(
        "there is no {folder}/{stem}.safetensors, no variant of it such as {stem}.fp16.safetensors, and no {stem}.safetensors.index.json that names its shards: download one of them"
    )]
    NoWeights {
        /// The part's folder.
        folder: String,
        /// The name of weight files of this kind.
        stem: String,
    },
    /// A part of the model has weights in a format that runs programs when it is read.
    #[error(
        "{folder} has its weights only as the pickle {found}, which could run any program when it is read: convert them where you trust it, in Python with diffusers: DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, safe_serialization=True)",
        found = quoted(found)
    )]
    PickledPart {
        /// The part's folder.
        folder: String,
        /// The pickle.
        found: String,
    },
    /// A part of the model has several variants of its weights, and none that is plain.
    #[error("{folder} has its weights only as the variants {}: name one of them (--variant)", found.join(", "))]
    WhichVariant {
        /// The part's folder.
        folder: String,
        /// The variants.
        found: Vec<String>,
    },
    /// No part of the model has the variant that was asked for.
    #[error(
        "no weights of {model} have the variant {variant}: leave it out, or take one that is there ({})",
        if found.is_empty() { "there is none".to_owned() } else { found.join(", ") },
        variant = quoted(variant)
    )]
    NoVariant {
        /// The model.
        model: String,
        /// The variant.
        variant: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// The index of sharded weights is damaged.
    #[error("{file} is no index of sharded weights: {fault}; download it again")]
    Index {
        /// The index.
        file: String,
        /// What is wrong.
        fault: String,
    },
    /// A shard that the index names is not there.
    #[error("{index} names the shard {shard}, which is not there: download it too", shard = quoted(shard))]
    MissingShard {
        /// The index.
        index: String,
        /// The shard.
        shard: String,
    },
    /// A single file that is no checkpoint.
    #[error(
        "{file} is no Stable Diffusion checkpoint in the original layout, which has tensors model.diffusion_model.*: {hint}"
    )]
    NotOriginal {
        /// The file.
        file: String,
        /// What it looks like instead.
        hint: String,
    },
    /// A single file of a model that is not implemented.
    #[error("{file} is {kind}, which is not supported: supported are Stable Diffusion 1, 2 and XL")]
    Kind {
        /// The file.
        file: String,
        /// What it is.
        kind: &'static str,
    },
    /// A single file without one of the networks.
    #[error("{file} has no {part}: take a checkpoint that has UNet, VAE and text encoders in it")]
    NoPart {
        /// The file.
        file: String,
        /// The network.
        part: String,
    },
    /// A single file with a tensor that belongs to nothing.
    #[error(
        "{file}: tensor {name} is not understood; what it would change is not computed, so take a checkpoint without it",
        name = quoted(name)
    )]
    NotUnderstood {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A single file without a tensor that every such checkpoint has.
    #[error("{file} has no tensor {name}, which checkpoints of this kind have: take a whole one", name = quoted(name))]
    NoTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A tensor of a single file with another number of dimensions.
    #[error("{file}: tensor {name} has shape {found:?}, it should have {expected} dimensions: take another checkpoint", name = quoted(name))]
    Dimensions {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// How many it should have.
        expected: usize,
    },
    /// A network in a single file whose number of attention heads cannot be told.
    #[error(
        "{file}: {part} has {channels} channels, which is no multiple of the {per_head} of an attention head in the original models: give a folder with its config.json (--config)"
    )]
    Heads {
        /// The file.
        file: String,
        /// The network.
        part: String,
        /// Its channels.
        channels: usize,
        /// Channels of a head.
        per_head: usize,
    },
    /// A folder of configurations for a single file that has none.
    #[error(
        "{path} has no configurations: there should be a model_index.json, scheduler/, unet/, vae/, text_encoder/ or tokenizer/",
        path = .0.display()
    )]
    NoConfiguration(PathBuf),
    /// A pipeline that is not implemented.
    #[error("{file}: pipeline class {found} is not supported, supported is {supported}", found = quoted(found))]
    UnknownPipeline {
        /// The model_index.json.
        file: String,
        /// Its `_class_name`.
        found: String,
        /// What is supported.
        supported: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A configuration is no valid JSON, or lacks something.
    #[error("{file} is not a configuration of this kind: {source}; correct it, or download it again", source = quoted(&source.to_string()))]
    Json {
        /// The file.
        file: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A weight file.
    #[error(transparent)]
    Weights(#[from] WeightError),
}
