//! The files that are part of the program.

use crate::checkpoint::{Checkpoint, EmbeddedFiles};

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../embedded/", $folder, $name)))),*]
    };
}

const MODEL: EmbeddedFiles = EmbeddedFiles {
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

const MOTION_ADAPTER: EmbeddedFiles = EmbeddedFiles {
    title: "embedded motion adapter",
    files: files![
        "motion_adapter/":
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "pytorch_lora_weights.safetensors",
        "scheduler/scheduler_config.json",
    ],
};

impl Checkpoint {
    /// The small emoji model that is part of the program; `embedded/README.md` is its card.
    #[must_use]
    pub fn embedded() -> Self {
        Self::of_program(MODEL)
    }

    /// The motion adapter of [`Checkpoint::embedded`]: videos of up to 16 frames, whose motion the prompt names. Its card is
    /// `embedded/motion_adapter/README.md`.
    ///
    /// ```
    /// use asyncdiff_models::{Checkpoint, MotionAdapter, StableDiffusion};
    ///
    /// let adapter = MotionAdapter::open(Checkpoint::embedded_motion_adapter())?;
    /// let pipeline = StableDiffusion::open(Checkpoint::embedded())?.with_motion(adapter)?;
    /// assert_eq!(pipeline.shape().frames, 16);
    /// # Ok::<(), asyncdiff_models::Error>(())
    /// ```
    #[must_use]
    pub fn embedded_motion_adapter() -> Self {
        Self::of_program(MOTION_ADAPTER)
    }
}
