//! Pictures of latents, finished or not.

use std::sync::Arc;

use burn::tensor::Device;

use crate::error::Error;
use crate::image::Image;
use crate::pipeline::Run;
use crate::session::{Latents, values};
use crate::vae::AutoencoderKl;

/// Makes pictures of what a run has so far, for use in [`Progress::step`](crate::Progress::step).
///
/// Latents on the way are part picture, part noise; they are decoded as they are, at the scale at which the denoiser sees
/// them. So early previews are noise, and the last one is the picture. Each costs as much as decoding the result does, on
/// the thread that asks, while the run waits; what the run computes stays the same to the last bit.
#[derive(Clone, Debug)]
pub struct Previewer {
    decoder: PictureDecoder,
    /// By the number of denoiser calls that are done, except all.
    scales: Vec<f64>,
    tiling: bool,
}

impl Previewer {
    pub(crate) fn new(decoder: PictureDecoder, run: &Run) -> Self {
        let steps = run.schedule.steps.iter();
        Self {
            decoder,
            scales: steps.map(|step| step.input_scale).collect(),
            tiling: run.request.vae_tiling,
        }
    }

    /// The pictures of `latents` after `done` denoiser calls, as [`Progress::step`](crate::Progress::step) gets them.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] for latents without elements.
    pub fn pictures(&self, done: usize, latents: &Latents) -> Result<Vec<Image>, Error> {
        let latents = match self.scales.get(done) {
            Some(scale) if *scale != 1.0 => latents.clone() * *scale,
            _ => latents.clone(),
        };
        self.decoder.pictures(latents, self.tiling)
    }
}

/// The autoencoder on its device.
#[derive(Clone, Debug)]
pub(crate) struct PictureDecoder {
    pub vae: Arc<AutoencoderKl>,
    pub device: Device,
}

impl PictureDecoder {
    /// The pictures of the denoiser's latents, `[batch, channels, height, width]`, computed on the calling thread.
    pub fn pictures(&self, latents: Latents, tiling: bool) -> Result<Vec<Image>, Error> {
        let [batch, ..] = latents.dims();
        let latents = self.vae.unscale(latents.to_device(&self.device));
        // One at a time: the decoder's activations are the largest of the whole pipeline.
        (0..batch)
            .map(|index| {
                let latents = latents.clone().narrow(0, index, 1);
                let picture = match tiling {
                    true => self.vae.decode_tiled(latents),
                    false => self.vae.decode(latents),
                };
                let [_, channels, height, width] = picture.dims();
                Ok(Image::from_samples(
                    &values(picture),
                    [channels, height, width],
                )?)
            })
            .collect()
    }
}
