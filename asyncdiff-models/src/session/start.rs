//! What a run starts from: noise, or a picture with noise on it. Random numbers are drawn in the order of diffusers'
//! pipelines, so that the same seed means the same there.

use asyncdiff_core::graph::Structure;
use burn::tensor::{Device, Tensor, TensorData};

use crate::cancel::Cancel;
use crate::error::Error;
use crate::image::Mask;
use crate::pipeline::Run;
use crate::request::{Content, InitImage};
use crate::tensors::{repeat_each, values};
use crate::vae::{AutoencoderKl, LatentDistribution};

use super::animate;
use super::generators::Generators;

/// What the rank that advances the latents is given.
#[derive(Debug)]
pub struct Start {
    /// The latents before the first call, row-major.
    pub(super) latents: Vec<f32>,
    /// The picture's clean latents and the noise on them, for a run that keeps what is outside the mask.
    pub(super) kept: Option<Kept>,
    /// The random numbers behind those that were drawn for the start.
    pub(super) generators: Generators,
}

/// What is outside a mask: the picture's clean latents and the noise on them, row-major.
#[derive(Debug)]
pub(super) struct Kept {
    pub image: Vec<f32>,
    pub noise: Vec<f32>,
}

/// What all ranks are told of a mask, or of the picture that a video is made of, on the autoencoder's device.
#[derive(Default)]
pub(super) struct Beside {
    /// [`Conditioning::concat`](crate::unet::Conditioning).
    pub concat: Option<Tensor<4>>,
    /// [`Conditioning::mask`](crate::unet::Conditioning).
    pub mask: Option<Tensor<4>>,
}

/// The start of `run`, where the denoiser sees `passes` batches at once. `reads_mask` is whether it reads the mask itself. Of several
/// contents, all start from noise.
pub(super) fn start(
    run: &Run,
    contents: &[Content],
    passes: usize,
    reads_mask: bool,
    (vae, device, cancel): (&AutoencoderKl, &Device, &Cancel),
) -> Result<(Start, Beside), Error> {
    let content = &contents[0];
    let mut generators = Generators::of(contents, run.shape.num_images / contents.len());
    let given = content
        .latents
        .as_ref()
        .map(|latents| latents.values.clone());
    let shape = run.graph.latents;
    let pure = |noise: &[f32]| -> Vec<f32> {
        let sigma = run.schedule.init_noise_sigma as f32;
        noise.iter().map(|value| value * sigma).collect()
    };
    let concat = content
        .image_to_video
        .as_ref()
        .map(|video| {
            let vae = (vae, device, cancel);
            animate::concat((content, video), run, passes, vae, &mut generators)
        })
        .transpose()?;
    let Some(init) = &content.init_image else {
        let noise = given.unwrap_or_else(|| noise(&mut generators, run));
        let start = Start {
            latents: pure(&noise),
            kept: None,
            generators,
        };
        let beside = Beside { concat, mask: None };
        return Ok((start, beside));
    };

    let InitImage { image, mask } = init;
    let all = run.shape.start.strength() == Some(1.0);
    let from_noise = mask.is_some() && (all || given.is_some());
    let keeps = mask.is_some() && !reads_mask;
    // A row for each picture of the batch, or one for all.
    let encode = |samples: Vec<f32>, generators: &mut Generators| {
        let picture = TensorData::new(samples, [1, 3, image.height, image.width]);
        let picture = Tensor::from_data(picture, device);
        let distribution = vae.encode_unless(picture, content.vae_tiling, cancel)?;
        Ok::<_, Error>(sample(vae, distribution, generators))
    };
    let each = shape[0] / generators.count();
    let clean = match !from_noise || keeps {
        true => Some(values(encode(image.to_samples(), &mut generators)?).repeat(each)),
        false => None,
    };
    let noise = given.unwrap_or_else(|| noise(&mut generators, run));
    let latents = match &clean {
        Some(clean) if !from_noise => {
            let level = run.schedule.levels[0];
            let (signal, deviation) = (level.signal as f32, level.noise as f32);
            let pairs = clean.iter().zip(&noise);
            pairs
                .map(|(clean, noise)| signal * clean + deviation * noise)
                .collect()
        }
        _ => pure(&noise),
    };
    let beside = match mask {
        None => Beside::default(),
        Some(mask) => {
            let on_latents = shrink(mask, [shape[2], shape[3]], device);
            if reads_mask {
                let mut rest = image.to_samples();
                outside(&mut rest, mask);
                let rest = encode(rest, &mut generators)?;
                let on_latents = repeat_each(on_latents, generators.count());
                let concat = Tensor::cat(vec![on_latents, rest], 1);
                Beside {
                    concat: Some(concat.repeat_dim(0, passes * each)),
                    mask: None,
                }
            } else {
                Beside {
                    concat: None,
                    mask: Some(on_latents),
                }
            }
        }
    };
    let kept = clean.filter(|_| keeps).map(|image| Kept { image, noise });
    let start = Start {
        latents,
        kept,
        generators,
    };
    Ok((start, beside))
}

/// Standard normal numbers for the latents of `run`, in their order.
///
/// diffusers draws those of a video as `[frames, channels, height, width]`, but with motion modules as
/// `[channels, frames, height, width]`.
pub(super) fn noise(generators: &mut Generators, run: &Run) -> Vec<f32> {
    let [batch, channels, height, width] = run.graph.latents;
    let drawn = generators.together(batch * channels * height * width);
    if run.graph.structure != Structure::Motion {
        return drawn;
    }
    let frames = run.shape.frames;
    let plane = height * width;
    let mut rows = Vec::with_capacity(drawn.len());
    for video in drawn.chunks(channels * frames * plane) {
        for frame in 0..frames {
            for channel in video.chunks(frames * plane) {
                rows.extend_from_slice(&channel[frame * plane..(frame + 1) * plane]);
            }
        }
    }
    rows
}

/// Some of the latents that a picture may have, as the denoiser takes them, from each generator.
fn sample(
    vae: &AutoencoderKl,
    distribution: LatentDistribution,
    generators: &mut Generators,
) -> Tensor<4> {
    let device = distribution.mean.device();
    let [_, channels, height, width] = distribution.mean.dims();
    let noise = generators.each(channels * height * width);
    let noise = TensorData::new(noise, [generators.count(), channels, height, width]);
    vae.scale(distribution.sample(Tensor::from_data(noise, &device)))
}

/// 1 where the mask paints and 0 elsewhere, at the top left pixel of each of the latents' elements: `[1, 1, height, width]`.
fn shrink(mask: &Mask, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let paints = |index: usize| {
        let (y, x) = (index / width, index % width);
        f32::from(u8::from(
            mask.paints(y * mask.height / height, x * mask.width / width),
        ))
    };
    let values: Vec<f32> = (0..height * width).map(paints).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, height, width]), device)
}

/// The picture without what the mask paints, which becomes grey (0 between -1 and 1).
fn outside(samples: &mut [f32], mask: &Mask) {
    for plane in samples.chunks_mut(mask.grey.len()) {
        for (index, sample) in plane.iter_mut().enumerate() {
            if mask.paints(index / mask.width, index % mask.width) {
                *sample = 0.0;
            }
        }
    }
}
