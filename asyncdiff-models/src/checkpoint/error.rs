//! Why a model's files cannot be used.

use std::path::PathBuf;

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// There is no such folder.
    #[error("there is no model folder {path}: give a folder in diffusers layout", path = .0.display())]
    NoFolder(PathBuf),
    /// The folder is not a model.
    #[error("{path} has no model_index.json: give a folder in diffusers layout, the one above unet/ and vae/", path = .0.display())]
    NoModelIndex(PathBuf),
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
        "{folder} has its weights only as the pickle {found}, which could run any program when it is read: convert them where you trust it, in Python with diffusers: DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, safe_serialization=True)"
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
        if found.is_empty() { "there is none".to_owned() } else { found.join(", ") }
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
    #[error("{index} names the shard {shard}, which is not there: download it too")]
    MissingShard {
        /// The index.
        index: String,
        /// The shard.
        shard: String,
    },
}
