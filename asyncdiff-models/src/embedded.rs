//! The files that are part of the program.

use crate::checkpoint::EmbeddedFiles;

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../embedded/", $folder, $name)))),*]
    };
}

pub(crate) const MODEL: EmbeddedFiles = EmbeddedFiles {
    title: "embedded model",
    files: files![
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
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
};

pub(crate) const MOTION_ADAPTER: EmbeddedFiles = EmbeddedFiles {
    title: "embedded motion adapter",
    files: files![
        "motion_adapter/":
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "pytorch_lora_weights.safetensors",
        "scheduler/scheduler_config.json",
    ],
};
