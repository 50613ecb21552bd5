//! How much memory a run takes, known before anything is loaded.

use std::collections::BTreeSet;

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::memory;
use asyncdiff_burn::weights::{WeightError, WeightSet};
use asyncdiff_core::BlockId;

use super::{Run, StableDiffusion};
use crate::dtype::Dtype;
use crate::error::Error;
use crate::request::Content;

/// A decoded sample, before it is rounded to a byte.
const SAMPLE_BYTES: u64 = 4;

/// Bytes of a weight at least, in layers that compute in `dtype`: one that a file has in 16 bits is held in as many.
fn bytes_of_weight(dtype: Dtype, stored: &WeightSet) -> Result<u64, WeightError> {
    let types = stored.read()?.parameters_by_dtype();
    let narrow = ["F16", "BF16"].iter().any(|name| types.contains_key(*name));
    Ok(match narrow {
        true => Dtype::F16.bytes(),
        false => dtype.bytes(),
    })
}

impl StableDiffusion {
    /// Whether the machine can hold a run, as far as that is on CPU `workers`, one for each rank: the weights, and what is computed
    /// with them at the largest moment. This is an estimate, of what is needed at least.
    ///
    /// # Errors
    ///
    /// [`Error::TooMuchMemory`] with the numbers, if the machine has less in all; [`Error::Checkpoint`] for weight files whose headers
    /// cannot be read.
    pub fn check_memory<'a>(
        &self,
        run: &Run,
        content: &Content,
        workers: impl Iterator<Item = &'a Worker> + Clone,
    ) -> Result<(), Error> {
        match memory::total() {
            Some(found) => self.check_memory_of(run, content, workers, found),
            None => Ok(()),
        }
    }

    fn check_memory_of<'a>(
        &self,
        run: &Run,
        content: &Content,
        workers: impl Iterator<Item = &'a Worker> + Clone,
        found: u64,
    ) -> Result<(), Error> {
        let on_cpu = |worker: &Worker| worker.threads().is_some();
        let first = workers.clone().next();
        let ranks = run.summary.ranks.iter().zip(&run.plan.blocks).zip(workers);
        let ranks = ranks.filter(|(_, worker)| on_cpu(worker));
        let mut denoising = 0_u64;
        // Ranks on the CPU share what several of them own.
        let mut own = BTreeSet::new();
        for ((rank, blocks), _) in ranks {
            denoising = denoising.saturating_add(rank.activation_bytes);
            own.extend(blocks.iter().copied());
        }
        let own: Vec<_> = own.into_iter().collect();
        let mut weights = self.bytes_of_blocks(run, &own)?;
        let decoding = match first.is_some_and(on_cpu) {
            true => {
                weights = weights.saturating_add(self.bytes_beside_denoiser()?);
                self.bytes_of_decoding(run, content)
            }
            false => 0,
        };
        let needed = weights.saturating_add(denoising.max(decoding));
        match needed > found {
            true => Err(Error::TooMuchMemory {
                needed,
                weights,
                found,
            }),
            false => Ok(()),
        }
    }

    /// The same for one rank of a run, in a process of its own: without what is beside the denoiser.
    pub(crate) fn check_memory_of_rank(
        &self,
        run: &Run,
        rank: usize,
        worker: &Worker,
    ) -> Result<(), Error> {
        let part = &run.summary.ranks[rank];
        let weights = self.bytes_of_blocks(run, &run.plan.blocks[rank])?;
        let needed = weights.saturating_add(part.activation_bytes);
        match memory::total() {
            Some(found) if needed > found && worker.threads().is_some() => {
                Err(Error::TooMuchMemory {
                    needed,
                    weights,
                    found,
                })
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the weights of some of the denoiser's blocks.
    fn bytes_of_blocks(&self, run: &Run, blocks: &[BlockId]) -> Result<u64, Error> {
        let stored = self.checkpoint.weights("unet", "diffusion_pytorch_model")?;
        let each = bytes_of_weight(run.dtype, &stored)?;
        Ok(run.graph.parameters(blocks).saturating_mul(each))
    }

    /// Bytes of the weights of the encoders and the autoencoder.
    fn bytes_beside_denoiser(&self) -> Result<u64, Error> {
        let mut bytes = 0_u64;
        for (part, stored) in self.weights_beside_denoiser()? {
            let parameters: u64 = stored.read()?.parameters_by_dtype().values().sum();
            let dtype = match part == "vae" && self.vae.force_upcast {
                true => Dtype::F32,
                false => self.dtype,
            };
            let each = bytes_of_weight(dtype, &stored)?;
            bytes = bytes.saturating_add(parameters.saturating_mul(each));
        }
        Ok(bytes)
    }

    /// Bytes of what is computed with while pictures are decoded, and of the pictures that are done.
    fn bytes_of_decoding(&self, run: &Run, content: &Content) -> u64 {
        let shape = &run.shape;
        let pixels = (shape.width as u64).saturating_mul(shape.height as u64);
        let frames = shape.frames as u64;
        let done = 3 * pixels.saturating_mul(frames.saturating_mul(shape.num_images as u64));
        let video = content.image_to_video.as_ref();
        let at_once = match self.vae.is_temporal() {
            true => video
                .and_then(|video| video.decode_chunk_size)
                .map_or(frames, |chunk| frames.min(chunk as u64)),
            false => 1,
        };
        let tile = self.vae.sample_size.filter(|_| content.vae_tiling);
        let computed = tile.map_or(pixels, |side| pixels.min((side * side) as u64));
        // The first resnet at full size: input, norm and activation of the level below, and its own output.
        let widths = &self.vae.block_out_channels;
        let (own, below) = (widths[0] as u64, widths[widths.len().min(2) - 1] as u64);
        let values = computed
            .saturating_mul(at_once)
            .saturating_mul(3 * below + own);
        values.saturating_mul(SAMPLE_BYTES).saturating_add(done)
    }
}
