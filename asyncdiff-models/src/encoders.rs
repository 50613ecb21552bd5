//! What a pipeline reads beside noise: texts, or a picture.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType};

use crate::checkpoint::Checkpoint;
use crate::class::Class;
use crate::error::Error;
use crate::lora::{Fitted, Part};
use crate::text::{LoadedTextEncoders, TextEncoders};
use crate::vision::{ClipVisionModelWithProjection, ImageEncoder};

/// The encoders of a checkpoint, without the weights.
#[derive(Clone, Debug)]
pub(crate) enum Encoders {
    /// Of prompts.
    Texts(TextEncoders),
    /// Of the picture that a video is made of.
    Picture(ImageEncoder),
}

impl Encoders {
    pub fn open(checkpoint: &Checkpoint, class: Class) -> Result<Self, Error> {
        Ok(match class {
            Class::Base => Self::Texts(TextEncoders::one(checkpoint)?),
            Class::Xl { zeros_for_empty } => {
                Self::Texts(TextEncoders::two(checkpoint, zeros_for_empty)?)
            }
            Class::Video => Self::Picture(ImageEncoder::open(checkpoint)?),
        })
    }

    /// Tokens that the denoiser's cross-attention reads.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Texts(encoders) => encoders.tokens(),
            Self::Picture(_) => 1,
        }
    }
}

/// The encoders of a pipeline with their weights.
#[derive(Debug)]
pub(crate) enum LoadedEncoders {
    Texts(LoadedTextEncoders),
    Picture(ImageEncoder, Arc<ClipVisionModelWithProjection>),
}

impl LoadedEncoders {
    pub fn load(
        encoders: &Encoders,
        checkpoint: &Checkpoint,
        loras: &[Arc<Fitted>],
        target: (&Device, FloatDType),
    ) -> Result<Self, Error> {
        Ok(match encoders {
            Encoders::Texts(encoders) => {
                let loaded = LoadedTextEncoders::load(encoders, checkpoint, loras, target)?;
                Self::Texts(loaded)
            }
            Encoders::Picture(encoder) => {
                let file = checkpoint.weights(ImageEncoder::FOLDER, "model")?;
                let weights = file.read()?;
                let (device, dtype) = target;
                let loader = weights.on(device, dtype);
                let model = ClipVisionModelWithProjection::load(&encoder.config, &loader)?;
                // A buffer that older versions of transformers saved: the numbers 0, 1, 2, …
                weights.finish(|name| name.ends_with("embeddings.position_ids"))?;
                Self::Picture(encoder.clone(), Arc::new(model))
            }
        })
    }

    /// The same with other LoRAs: what has the `same` weights is shared.
    pub fn beside(
        &self,
        same: impl Fn(Part) -> bool,
        checkpoint: &Checkpoint,
        loras: &[Arc<Fitted>],
        target: (&Device, FloatDType),
    ) -> Result<Self, Error> {
        Ok(match self {
            Self::Texts(encoders) => Self::Texts(encoders.beside(same, checkpoint, loras, target)?),
            Self::Picture(encoder, model) => Self::Picture(encoder.clone(), Arc::clone(model)),
        })
    }
}
