//! Pictures of latents, finished or not.

use std::sync::Arc;

use burn::tensor::Device;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::image::Image;
use crate::pipeline::Run;
use crate::request::Content;
use crate::tensors::{Clean, Latents, values};
use crate::vae::AutoencoderKl;

/// Makes pictures of what a run is going to make, for use in [`Progress::predicted`](crate::Progress::predicted).
///
/// A denoiser call predicts the noise in its latents, and so the picture without it. Early ones are blurred, the last one is
/// all but the result. Each costs as much as decoding the result does, on the thread that asks, while the run waits; what the run
/// computes stays the same to the last bit.
#[derive(Clone, Debug)]
pub struct Previewer {
    decoder: PictureDecoder,
    decoding: Decoding,
}

impl Previewer {
    pub(crate) fn new(decoder: PictureDecoder, run: &Run, content: &Content) -> Self {
        Self {
            decoder,
            decoding: Decoding::of(run, content),
        }
    }

    /// The same, that gives up as soon as `cancel` asks for it.
    #[must_use]
    pub fn heeding(mut self, cancel: Cancel) -> Self {
        self.decoder.cancel = cancel;
        self
    }

    /// The pictures of latents without noise, as [`Progress::predicted`](crate::Progress::predicted) gets them.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] for latents without elements, [`Error::NotFinite`]; [`Error::Cancelled`], where that is
    /// [heeded](Self::heeding).
    pub fn pictures(&self, clean: &Clean<'_>) -> Result<Vec<Image>, Error> {
        let (samples, shape) = self.decoder.samples(clean.latents(), self.decoding)?;
        images(&samples, shape)
    }
}

/// How latents are decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoding {
    /// In overlapping tiles.
    tiling: bool,
    /// Rows of the latents that belong to one video.
    frames: usize,
    /// How many of them a temporal decoder takes together; all if it is `None`.
    chunk: Option<usize>,
}

impl Decoding {
    pub fn of(run: &Run, content: &Content) -> Self {
        let video = content.image_to_video.as_ref();
        Self {
            tiling: content.vae_tiling,
            frames: run.shape.frames,
            chunk: video.and_then(|video| video.decode_chunk_size),
        }
    }
}

/// The autoencoder on its device.
#[derive(Clone, Debug)]
pub(crate) struct PictureDecoder {
    pub vae: Arc<AutoencoderKl>,
    pub device: Device,
    /// Asks for an end before the last picture.
    pub cancel: Cancel,
}

impl PictureDecoder {
    /// The samples of the pictures of the denoiser's latents, `[batch, channels, height, width]`, from -1 to 1, computed on the
    /// calling thread, and `[channels, height, width]` of each picture.
    pub fn samples(
        &self,
        latents: Latents,
        decoding: Decoding,
    ) -> Result<(Vec<f32>, [usize; 3]), Error> {
        let [batch, ..] = latents.dims();
        let frames = decoding.frames;
        // One at a time where it makes no difference: the decoder's activations are the largest of the whole pipeline.
        let chunk = match self.vae.config().is_temporal() {
            true => decoding.chunk.unwrap_or(frames),
            false => 1,
        };
        let latents = self.vae.unscale(latents.to_device(&self.device));
        let (mut samples, mut shape) = (Vec::new(), [0; 3]);
        for video in (0..batch).step_by(frames) {
            for start in (0..frames).step_by(chunk) {
                let count = chunk.min(frames - start);
                let latents = latents.clone().narrow(0, video + start, count);
                let pictures = self
                    .vae
                    .decode_unless(latents, decoding.tiling, &self.cancel)?;
                let [_, channels, height, width] = pictures.dims();
                shape = [channels, height, width];
                let values = values(pictures);
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(Error::NotFinite);
                }
                samples.extend(values.into_iter().map(|value| value.clamp(-1.0, 1.0)));
            }
        }
        Ok((samples, shape))
    }
}

/// Pictures of samples from -1 to 1, each of `[channels, height, width]`.
pub(crate) fn images(samples: &[f32], shape: [usize; 3]) -> Result<Vec<Image>, Error> {
    let pictures = samples.chunks(shape.iter().product::<usize>().max(1));
    Ok(pictures
        .map(|picture| Image::from_samples(picture, shape))
        .collect::<Result<_, _>>()?)
}
