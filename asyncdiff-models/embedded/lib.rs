//! A small emoji model in diffusers' folder layout, and a motion adapter for it: [`MODEL`] and [`MOTION_ADAPTER`], each file's
//! path with its bytes. `README.md` and `motion_adapter/README.md` beside this file are their cards.
//!
//! A crate of its own because a registry takes packages of at most 10 MiB; for the same reason the UNet is in two shards, one of
//! them in `asyncdiff-embedded-unet`.

#![deny(missing_docs)]

/// Paths, as in a folder in diffusers' layout, and contents.
pub type Files = [(&'static str, &'static [u8])];

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?; $($more:expr),*) => {
        &[$(($name, include_bytes!(concat!($folder, $name)))),*, $($more),*]
    };
}

/// The model.
pub static MODEL: &Files = files![
    "":
    "model_index.json",
    "generation_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors";
    (
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        asyncdiff_embedded_unet::FIRST_SHARD
    )
];

/// The motion adapter.
pub static MOTION_ADAPTER: &Files = files![
    "motion_adapter/":
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "scheduler/scheduler_config.json";
];
