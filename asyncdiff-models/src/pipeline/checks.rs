//! Whether a checkpoint's parts can be built and fit each other.

use asyncdiff_burn::weights::WeightSet;

use crate::checkpoint::CheckpointError;
use crate::encoders::Encoders;
use crate::error::Error;
use crate::fit::FitError;
use crate::text::TextEncoders;
use crate::vision::ImageEncoder;

use super::StableDiffusion;

fn same(what: &str, found: usize, other: &str, expected: usize) -> Result<(), FitError> {
    if found == expected {
        return Ok(());
    }
    Err(FitError::Mismatch {
        what: what.to_owned(),
        found,
        other: other.to_owned(),
        expected,
    })
}

/// Numbers that the denoiser of a video is told: frames per second, motion bucket, noise on the picture.
const VIDEO_NUMBERS: usize = 3;

impl StableDiffusion {
    /// Whether the denoiser's weight file can hold what its configuration describes, before anything is built of either: a weight
    /// has at least a byte.
    pub(crate) fn check_parameters(&self, weights: &WeightSet) -> Result<(), FitError> {
        // No block's number of weights depends on the size of the picture.
        let graph = self.unet.graph(1, [1, 1, 1], 1);
        let blocks: u64 = graph.blocks.iter().map(|block| block.parameters).sum();
        let described = graph.shared_parameters + blocks;
        match described > weights.bytes() {
            true => Err(FitError::Parameters {
                config: self.checkpoint.describe("unet/config.json"),
                described,
                file: weights.name().to_owned(),
                bytes: weights.bytes(),
            }),
            false => Ok(()),
        }
    }

    /// Whether the weights of every part are there. Reads no more than the headers of their files.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] and [`Error::Weights`] for files that are missing or broken, [`Error::Fit`] for a denoiser that is larger
    /// than its file.
    pub fn check_weights(&self) -> Result<(), Error> {
        let denoiser = self.checkpoint.weights("unet", "diffusion_pytorch_model")?;
        self.check_parameters(&denoiser)?;
        denoiser.read()?;
        for (_, weights) in self.weights_beside_denoiser()? {
            weights.read()?;
        }
        if let Some(motion) = &self.motion {
            motion.adapter.weights()?.read()?;
        }
        Ok(())
    }

    /// The weights of the encoders and the autoencoder, by the folder of the part.
    pub(super) fn weights_beside_denoiser(
        &self,
    ) -> Result<Vec<(&'static str, WeightSet)>, CheckpointError> {
        let mut parts = vec![("vae", "diffusion_pytorch_model")];
        match &self.encoders {
            Encoders::Texts(encoders) => {
                parts.extend(encoders.iter().map(|encoder| (encoder.folder, "model")));
            }
            Encoders::Picture(_) => parts.push((ImageEncoder::FOLDER, "model")),
        }
        let weights = parts
            .into_iter()
            .map(|(part, stem)| Ok((part, self.checkpoint.weights(part, stem)?)));
        weights.collect()
    }

    /// Whether every part can be built.
    pub(super) fn check_settings(&self) -> Result<(), FitError> {
        let mut faults = vec![("vae", self.vae.fault())];
        match &self.encoders {
            Encoders::Texts(encoders) => {
                for encoder in encoders.iter() {
                    faults.push((encoder.folder, encoder.config.fault()));
                    let entries = encoder.config.vocab_size;
                    if entries < encoder.tokenizer.vocab_size() {
                        let supported = "at least the tokenizer's number of tokens";
                        let fault = ("vocab_size", entries.to_string(), supported);
                        faults.push((encoder.folder, Some(fault)));
                    }
                }
            }
            Encoders::Picture(encoder) => {
                faults.push((ImageEncoder::FOLDER, encoder.config.fault()));
            }
        }
        match faults
            .into_iter()
            .find_map(|(part, fault)| Some((part, fault?)))
        {
            Some((part, (key, found, supported))) => Err(FitError::Setting {
                file: self.checkpoint.describe(&format!("{part}/config.json")),
                key,
                found,
                supported,
            }),
            None => Ok(()),
        }
    }

    /// Whether the parts' settings agree.
    pub(super) fn check_parts(&self) -> Result<(), FitError> {
        let (unet, vae) = (&self.unet.config, &self.vae);
        let latents = vae.latent_channels;
        same(
            "unet out_channels",
            unet.out_channels,
            "vae latent_channels",
            latents,
        )?;
        for values in [&vae.latents_mean, &vae.latents_std].into_iter().flatten() {
            let what = "length of vae latents_mean or latents_std";
            same(what, values.len(), "vae latent_channels", latents)?;
        }
        match &self.encoders {
            Encoders::Texts(encoders) => self.check_text_parts(encoders),
            Encoders::Picture(encoder) => self.check_picture_parts(encoder),
        }
    }

    fn check_text_parts(&self, encoders: &TextEncoders) -> Result<(), FitError> {
        let unet = &self.unet.config;
        if !self.reads_mask() {
            same(
                "unet in_channels",
                unet.in_channels,
                "vae latent_channels",
                self.vae.latent_channels,
            )?;
        }
        let together = match encoders {
            TextEncoders::One(_) => "text_encoder hidden_size",
            TextEncoders::Two { .. } => "hidden_size of both text encoders together",
        };
        same(
            "unet cross_attention_dim",
            unet.cross_attention_dim,
            together,
            encoders.features(),
        )?;
        for encoder in encoders.iter() {
            let folder = encoder.folder;
            let length = encoder.tokenizer.model_max_length();
            let what = format!("model_max_length of {folder}'s tokenizer");
            let positions = encoder.config.max_position_embeddings;
            let other = format!("{folder} max_position_embeddings");
            same(&what, length, &other, positions)?;
            same(
                &what,
                length,
                "that of the first tokenizer",
                encoders.tokens(),
            )?;
        }
        match (encoders, unet.added()) {
            (TextEncoders::One(_), None) => Ok(()),
            (TextEncoders::Two { second, .. }, Some(added)) => {
                let numbers = self.class.time_ids(0, 0).map_or(0, |ids| ids.len());
                same(
                    "unet projection_class_embeddings_input_dim",
                    added.input_features,
                    &format!("text_encoder_2 projection_dim + {numbers} addition_time_embed_dim"),
                    second.config.projection_dim + numbers * added.number_features,
                )
            }
            (TextEncoders::One(_), Some(_)) | (TextEncoders::Two { .. }, None) => {
                let found = unet.addition_embed_type.as_deref().unwrap_or("null");
                Err(FitError::AdditionEmbedType {
                    found: found.to_owned(),
                    class: self.class.name(),
                })
            }
        }
    }

    fn check_picture_parts(&self, encoder: &ImageEncoder) -> Result<(), FitError> {
        let unet = &self.unet.config;
        same(
            "unet in_channels",
            unet.in_channels,
            "twice vae latent_channels",
            2 * self.vae.latent_channels,
        )?;
        same(
            "unet cross_attention_dim",
            unet.cross_attention_dim,
            "image_encoder projection_dim",
            encoder.config.projection_dim,
        )?;
        let (found, each) = unet.added().map_or((0, 0), |added| {
            (added.input_features, added.number_features)
        });
        same(
            "unet projection_class_embeddings_input_dim",
            found,
            "three times addition_time_embed_dim",
            VIDEO_NUMBERS * each,
        )
    }
}
