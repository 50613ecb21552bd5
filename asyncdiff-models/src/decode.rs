//! Pictures of final latents.

use std::sync::Arc;

use asyncdiff_burn::exchange::to_device;
use burn::tensor::Device;

use crate::cancel::Cancel;
use crate::error::Error;
use crate::image::Image;
use crate::pipeline::Run;
use crate::request::Content;
use crate::tensors::{Latents, values};
use crate::vae::AutoencoderKl;

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
        let latents = self.vae.unscale(to_device(latents, &self.device));
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
