//! What the denoiser of a video is told of the picture that it is made of (diffusers' `StableVideoDiffusionPipeline`).

use burn::tensor::{Device, Tensor, TensorData};

use crate::cancel::Cancel;
use crate::error::Error;
use crate::pipeline::Run;
use crate::request::{Content, ImageToVideo, Shape};
use crate::tensors::repeat_each;
use crate::unet::{AddedConditioning, Conditioning};
use crate::vae::AutoencoderKl;
use crate::vision::{ClipVisionModelWithProjection, ImageEncoder};

use super::generators::Generators;

/// What the picture shows, and the numbers that say how it is to move. With guidance, the first half of the samples knows no
/// picture.
pub(super) fn encode(
    encoder: &ImageEncoder,
    model: &ClipVisionModelWithProjection,
    shape: &Shape,
    fps: usize,
    video: &ImageToVideo,
    guided: bool,
    device: &Device,
) -> Conditioning {
    let side = encoder.config.image_size;
    let samples = encoder.normalization.apply(&video.image, side);
    let samples = Tensor::from_data(TensorData::new(samples, [1, 3, side, side]), device);
    let embedding = model.encode(samples).image_embeds.unsqueeze_dim::<3>(1);
    let context = behind_zeros(embedding.repeat_dim(0, shape.num_images), guided);
    // The model was trained with one frame per second less than it was told.
    let fps = fps as f64 - 1.0;
    let numbers = vec![fps, video.motion_bucket_id, video.noise_aug_strength];
    let added = AddedConditioning {
        text_embeds: None,
        time_ids: vec![numbers; context.dims()[0]],
    };
    Conditioning {
        context,
        added: Some(added),
        concat: None,
        mask: None,
        frames: shape.frames,
    }
}

/// The picture's latents beside those of every frame, `[passes · num_images · frames, channels, height, width]`: of the picture at
/// the result's size with noise on it, as the autoencoder encodes it, without its scaling.
pub(super) fn concat(
    (content, video): (&Content, &ImageToVideo),
    run: &Run,
    passes: usize,
    (vae, device, cancel): (&AutoencoderKl, &Device, &Cancel),
    generators: &mut Generators,
) -> Result<Tensor<4>, Error> {
    let &Shape { width, height, .. } = &run.shape;
    let picture = video
        .image
        .resized(width, height)
        .expect("plans are made for pictures with pixels only");
    let picture = picture.to_samples();
    let noise = match &video.noise {
        Some(noise) => noise.values.clone(),
        None => generators.each(picture.len()),
    };
    let strength = video.noise_aug_strength as f32;
    let encode = |noise: &[f32]| {
        let samples = picture.iter().zip(noise);
        let samples: Vec<f32> = samples
            .map(|(sample, noise)| sample + strength * noise)
            .collect();
        let samples = Tensor::from_data(TensorData::new(samples, [1, 3, height, width]), device);
        let latents = vae.encode_unless(samples, content.vae_tiling, cancel)?;
        Ok(latents.mean)
    };
    // One for each video, or one for all; one at a time, as alone.
    let latents: Vec<_> = noise
        .chunks(picture.len())
        .map(encode)
        .collect::<Result<_, Error>>()?;
    let [batch, ..] = run.graph.latents;
    let each = batch / latents.len();
    let latents = repeat_each(Tensor::cat(latents, 0), each);
    Ok(behind_zeros(latents, passes == 2))
}

/// With guidance, zeros for the samples that know no picture.
fn behind_zeros<const D: usize>(tensor: Tensor<D>, guided: bool) -> Tensor<D> {
    if guided {
        Tensor::cat(vec![tensor.zeros_like(), tensor], 0)
    } else {
        tensor
    }
}
