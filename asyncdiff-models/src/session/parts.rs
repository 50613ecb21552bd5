//! What a run needs beside the denoiser: the encoders and the autoencoder.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::{Device, FloatDType};

use super::animate;
use super::start::{Beside, Start, start};
use super::{Output, Timings};
use crate::cancel::Cancel;
use crate::decode::{Decoding, PictureDecoder, images};
use crate::encoders::LoadedEncoders;
use crate::error::Error;
use crate::image::Image;
use crate::pipeline::{Run, StableDiffusion};
use crate::preview::{Colours, Previewer};
use crate::request::{Content, RequestError, Shape};
use crate::tensors::{Latents, values};
use crate::text::{LoadedTextEncoders, PromptEmbedding};
use crate::unet::{AddedConditioning, Conditioning};
use crate::vae::AutoencoderKl;

/// The encoders and the autoencoder of a pipeline with their weights, on one device. They are needed once for a run, by whoever
/// starts it and ends it.
#[derive(Debug)]
pub struct Parts {
    pipeline: Arc<StableDiffusion>,
    device: Device,
    encoders: LoadedEncoders,
    vae: Arc<AutoencoderKl>,
    colours: Arc<Colours>,
    cancel: Cancel,
    encoded: Mutex<Vec<Encoded>>,
}

/// Prompts, and what the encoders made of them.
#[derive(Debug)]
struct Encoded {
    negative: Option<String>,
    prompt: String,
    weighting: bool,
    embedding: PromptEmbedding,
}

/// How many of them are kept, the newest: some MiB of the largest encoders'.
const ENCODED: usize = 16;

impl Parts {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] and [`Error::Checkpoint`] for weights that do not fit or are not there.
    pub fn load(pipeline: &Arc<StableDiffusion>, device: &Device) -> Result<Self, Error> {
        let dtype = pipeline.dtype.of_tensors();
        let encoders = LoadedEncoders::load(
            &pipeline.encoders,
            &pipeline.checkpoint,
            &pipeline.loras,
            (device, dtype),
        )?;
        let file = pipeline
            .checkpoint
            .weights("vae", "diffusion_pytorch_model")?;
        let weights = file.read()?;
        let dtype = if pipeline.vae.force_upcast {
            FloatDType::F32
        } else {
            dtype
        };
        let vae = Arc::new(AutoencoderKl::load(
            &pipeline.vae,
            &weights.on(device, dtype),
        )?);
        weights.finish(|name| pipeline.vae.leaves_out(name))?;
        Ok(Self {
            pipeline: Arc::clone(pipeline),
            device: device.clone(),
            encoders,
            colours: Arc::new(Colours::new(Arc::clone(&vae), device.clone())),
            vae,
            cancel: Cancel::default(),
            encoded: Mutex::default(),
        })
    }

    /// Those of `pipeline` on `device`: what clones of one pipeline have in common on one device is shared.
    pub(super) fn beside(
        &self,
        pipeline: &Arc<StableDiffusion>,
        device: &Device,
    ) -> Result<Self, Error> {
        if !pipeline.is_clone_of(&self.pipeline) || self.device != *device {
            return Self::load(pipeline, device);
        }
        let encoders = self.encoders.beside(
            |part| pipeline.shares_part(&self.pipeline, part),
            &pipeline.checkpoint,
            &pipeline.loras,
            (device, pipeline.dtype.of_tensors()),
        )?;
        Ok(Self {
            pipeline: Arc::clone(pipeline),
            device: device.clone(),
            encoders,
            vae: Arc::clone(&self.vae),
            colours: Arc::clone(&self.colours),
            cancel: Cancel::default(),
            encoded: Mutex::default(),
        })
    }

    /// Lets whatever is computed from now on end with [`Error::Cancelled`] as soon as `cancel` asks for it.
    pub fn heed(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// What the denoiser is told of contents that share a batch equally, for `passes · num_images` samples; with guidance, that of
    /// the negative prompts, or of no picture, first.
    ///
    /// # Errors
    ///
    /// [`RequestError::Guidance`], [`RequestError::NeedsPicture`].
    pub fn encode(&self, shape: &Shape, contents: &[Content]) -> Result<Conditioning, Error> {
        self.cancel.check()?;
        let guided = self.pipeline.guidance(shape)?.is_some();
        match (&self.encoders, &contents[0].image_to_video) {
            (LoadedEncoders::Texts(encoders), _) => {
                let ids = self.pipeline.class.time_ids(shape.height, shape.width);
                let each = shape.num_images / contents.len();
                let prompts = contents.iter().map(|content| {
                    let embedding = self.prompts(encoders, content, guided);
                    embedding.repeat_each(each)
                });
                let prompts = PromptEmbedding::together(&prompts.collect::<Vec<_>>(), guided);
                Ok(conditioning(prompts, shape, ids))
            }
            (LoadedEncoders::Picture(encoder, model), Some(video)) => {
                let (fps, device) = (contents[0].fps, &self.device);
                Ok(animate::encode(
                    encoder, model, shape, fps, video, guided, device,
                ))
            }
            (LoadedEncoders::Picture(..), None) => Err(RequestError::NeedsPicture.into()),
        }
    }

    /// What the encoders make of a content's prompts, or have made of them before.
    fn prompts(
        &self,
        encoders: &LoadedTextEncoders,
        content: &Content,
        guided: bool,
    ) -> PromptEmbedding {
        let (prompt, weighting) = (&content.prompt, content.prompt_weighting);
        let negative = guided.then_some(&content.negative_prompt);
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &Encoded| {
            kept.prompt == *prompt
                && kept.negative.as_ref() == negative
                && kept.weighting == weighting
        };
        if let Some(kept) = encoded.iter().find(|kept| same(kept)) {
            return kept.embedding.clone();
        }
        let embedding = encoders.encode(negative.map(String::as_str), prompt, weighting);
        if encoded.len() >= ENCODED {
            encoded.remove(0);
        }
        encoded.push(Encoded {
            negative: negative.cloned(),
            prompt: prompt.clone(),
            weighting,
            embedding: embedding.clone(),
        });
        embedding
    }

    /// What a run starts from; and `conditioning` gets what the denoiser is told of a mask, or of the picture that a video is made of.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`], where that is [heeded](Self::heed).
    pub fn start(
        &self,
        run: &Run,
        contents: &[Content],
        conditioning: &mut Conditioning,
    ) -> Result<Start, Error> {
        self.cancel.check()?;
        let passes = conditioning.context.dims()[0] / run.shape.num_images;
        let reads_mask = self.pipeline.reads_mask();
        let vae = (&*self.vae, &self.device, &self.cancel);
        let (start, beside) = start(run, contents, passes, reads_mask, vae)?;
        let Beside { concat, mask } = beside;
        conditioning.concat = concat;
        conditioning.mask = mask;
        Ok(start)
    }

    /// What comes before the denoising: what the denoiser is told, and what the run starts from.
    pub(super) fn begin(
        &self,
        run: &Run,
        contents: &[Content],
    ) -> Result<(Conditioning, Start), Error> {
        let mut conditioning = self.encode(&run.shape, contents)?;
        let start = self.start(run, contents, &mut conditioning)?;
        Ok((conditioning, start))
    }

    /// What comes after it: the pictures of the final latents, and how long all took; `encode` is what came before, and the
    /// denoising began at `start`.
    pub(super) fn finish(
        &self,
        run: &Run,
        content: &Content,
        latents: Latents,
        (encode, start): (Duration, Instant),
    ) -> Result<Output, Error> {
        // A GPU computes behind the program's back: only when the values are here has the time passed.
        let numbers = values(latents.clone());
        let denoise = start.elapsed();
        if numbers.iter().any(|value| !value.is_finite()) {
            return Err(Error::NotFinite);
        }
        let start = Instant::now();
        let (images, samples) = self.pictures(run, content, latents)?;
        Ok(Output {
            images,
            samples,
            frames: run.shape.frames,
            latents: numbers,
            timings: Timings {
                encode,
                denoise,
                decode: start.elapsed(),
            },
        })
    }

    /// What makes pictures of unfinished latents.
    #[must_use]
    pub fn previewer(&self) -> Previewer {
        Previewer::new(Arc::clone(&self.colours))
    }

    /// The pictures of final latents, the frames of each video next to each other; and the same before it is rounded to bytes,
    /// `[batch, 3, height, width]`, from -1 to 1.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`]; [`Error::Cancelled`], where that is [heeded](Self::heed).
    pub fn pictures(
        &self,
        run: &Run,
        content: &Content,
        latents: Latents,
    ) -> Result<(Vec<Image>, Vec<f32>), Error> {
        let decoder = PictureDecoder {
            vae: Arc::clone(&self.vae),
            device: self.device.clone(),
            cancel: self.cancel.clone(),
        };
        let (samples, shape) = decoder.samples(latents, Decoding::of(run, content))?;
        Ok((images(&samples, shape)?, samples))
    }
}

/// What the denoiser is told of the prompts of all samples, and of `ids`, the numbers that go with them if it reads any.
fn conditioning(prompts: PromptEmbedding, shape: &Shape, ids: Option<[f64; 6]>) -> Conditioning {
    let samples = prompts.context.dims()[0];
    let added = prompts
        .pooled
        .zip(ids)
        .map(|(pooled, ids)| AddedConditioning {
            text_embeds: Some(pooled),
            time_ids: vec![ids.to_vec(); samples],
        });
    Conditioning {
        context: prompts.context,
        added,
        concat: None,
        mask: None,
        frames: shape.frames,
    }
}
