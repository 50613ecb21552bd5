//! Stable Video Diffusion: what its reference data has of its own, and videos made of pictures of other sizes, with other numbers of
//! frames, videos and chunks.

use std::collections::BTreeMap;

use asyncdiff_models::device::workers;
use asyncdiff_models::image::Image;
use asyncdiff_models::unet::{AddedConditioning, Conditioning};
use asyncdiff_models::vision::{ClipVisionModelWithProjection, resize_antialiased};
use asyncdiff_models::{ImageToVideo, NamedTensor, Request, Session, Strategy};
use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::Deserialize;

use super::fixtures::{Model, Reference, each_worker, folder, models};
use super::networks::{rows, tensor, values, weights};
use super::pipelines::{Steps, check_picture, check_steps};

/// The inputs of a denoiser call: the latents and those of the picture are one tensor, `[videos, frames, channels, height, width]`.
pub fn inputs(reference: &Reference) -> (Tensor<4>, Conditioning) {
    let sample: Tensor<5> = tensor(reference, "in.sample");
    let added = AddedConditioning {
        text_embeds: None,
        time_ids: rows(reference, "in.added_time_ids"),
    };
    let conditioning = Conditioning {
        context: tensor(reference, "in.encoder_hidden_states"),
        added: Some(added),
        concat: None,
        mask: None,
        frames: sample.dims()[1],
    };
    (sample.flatten(0, 1), conditioning)
}

/// A picture of `[3, height, width]` bytes.
fn picture(reference: &Reference, name: &str) -> Image {
    let [_, height, width] = *reference.shape(name) else {
        panic!("{name} is [3, height, width]");
    };
    let values = reference.values(name);
    let plane = height * width;
    let pixel = |pixel| [0, 1, 2].map(|channel| values[channel * plane + pixel] as u8);
    Image {
        width,
        height,
        rgb: (0..plane).flat_map(pixel).collect(),
    }
}

/// A tensor whose first two dimensions, videos and frames, are one here.
fn noise(reference: &Reference, name: &str, together: usize) -> NamedTensor {
    let shape = reference.shape(name);
    let rows = shape[..together].iter().product();
    NamedTensor {
        name: name.to_owned(),
        shape: std::iter::once(rows)
            .chain(shape[together..].iter().copied())
            .collect(),
        values: reference.values(name).to_vec(),
    }
}

/// What the reference's sequential pipeline was asked for.
pub fn request(model: &Model, sequential: &Reference) -> Request {
    let params = &sequential.params;
    let whole = |key: &str| params[key].as_u64().unwrap() as usize;
    let real = |key: &str| params[key].as_f64().unwrap();
    let mut request = model.pipeline.request("");
    request.shape.steps = whole("steps");
    request.shape.frames = whole("frames");
    request.content.fps = whole("fps");
    request.shape.width = whole("width");
    request.shape.height = whole("height");
    request.shape.guidance_scale = real("max_guidance");
    request.shape.num_images = sequential.shape("in.init_noise")[0];
    request.content.latents = Some(noise(sequential, "in.init_noise", 2));
    let mut video = ImageToVideo::new(picture(sequential, "in.image"));
    request.shape.min_guidance_scale = Some(real("min_guidance"));
    video.motion_bucket_id = real("motion_bucket_id");
    video.noise_aug_strength = real("noise_aug_strength");
    video.noise = Some(noise(sequential, "in.image_aug_noise", 1));
    request.content.image_to_video = Some(video);
    request
}

/// A short video of a small picture.
pub fn small_request(model: &Model) -> Request {
    let mut request = model.pipeline.request("");
    (request.shape.width, request.shape.height) = (64, 72);
    request.shape.frames = 2;
    request.content.image_to_video = Some(ImageToVideo::new(Image {
        width: 5,
        height: 9,
        rgb: (0..135).map(|byte| byte + 60).collect(),
    }));
    request
}

#[test]
fn image_encoders() {
    let mut checked = 0;
    for model in models() {
        let Some(encoder) = model.pipeline.image_encoder() else {
            continue;
        };
        let Some(reference) = model.reference("image_encoder") else {
            println!("{}: no reference for the image encoder", model.name);
            continue;
        };
        let file = weights(&model, "image_encoder/model.safetensors");
        for worker in each_worker() {
            let name = format!("{} on {}", model.name, worker.name());
            let device = worker.device();
            let weights = file.read().unwrap();
            let loader = weights.on(device, FloatDType::F32);
            let network = ClipVisionModelWithProjection::load(&encoder.config, &loader).unwrap();
            weights
                .finish(|name| name.ends_with("position_ids"))
                .unwrap();
            let side = encoder.config.image_size;
            let encode = |samples: Vec<f32>| {
                let data = TensorData::new(samples, [1, 3, side, side]);
                network.encode(Tensor::from_data(data, device))
            };

            let normal = encoder.normalization;
            let pixels = reference.values("pixel_uint8").chunks(side * side);
            let samples = pixels
                .zip(normal.image_mean.iter().zip(normal.image_std))
                .flat_map(|(plane, (mean, deviation))| {
                    plane
                        .iter()
                        .map(move |byte| (byte / 255.0 - mean) / deviation)
                });
            let embedding = encode(samples.collect());
            let tokens = reference.shape("last_hidden_state")[1];
            let hidden = values(embedding.last_hidden_state.narrow(1, 0, tokens));
            reference.check(
                &format!("{name}: hidden state"),
                "last_hidden_state",
                &hidden,
            );
            reference.check(
                &format!("{name}: image_embeds"),
                "image_embeds",
                &values(embedding.image_embeds),
            );

            let picture = picture(&reference, "pipeline_image");
            let resized = resize_antialiased(&picture, side);
            let every = side / reference.shape("pipeline_resized_224")[3];
            let thinned: Vec<f32> = resized
                .chunks(side)
                .enumerate()
                .filter(|(row, _)| row % side % every == 0)
                .flat_map(|(_, row)| row.iter().step_by(every).copied())
                .collect();
            reference.check(
                &format!("{name}: resized"),
                "pipeline_resized_224",
                &thinned,
            );
            let embedding = encode(normal.apply(&picture, side));
            reference.check(
                &format!("{name}: the pipeline's image_embeds"),
                "pipeline_image_embeds",
                &values(embedding.image_embeds),
            );
        }
        checked += 1;
    }
    println!("{checked} image encoders checked");
}

#[derive(Deserialize)]
struct Params {
    seed: u64,
    cases: BTreeMap<String, Case>,
    resize: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    width: usize,
    height: usize,
    frames: usize,
    steps: usize,
    fps: usize,
    motion_bucket_id: f64,
    noise_aug_strength: f64,
    min_guidance: f64,
    max_guidance: f64,
    decode_chunk_size: Option<usize>,
    num_videos: usize,
}

/// The pictures of a tensor whose last three dimensions are `[height, width, 3]`.
fn pictures(reference: &Reference, name: &str) -> Vec<Image> {
    let [.., height, width, 3] = *reference.shape(name) else {
        panic!("{name} is [.., height, width, 3]");
    };
    let bytes: Vec<u8> = reference
        .values(name)
        .iter()
        .map(|byte| *byte as u8)
        .collect();
    let picture = |rgb: &[u8]| Image {
        width,
        height,
        rgb: rgb.to_vec(),
    };
    bytes.chunks(3 * height * width).map(picture).collect()
}

#[test]
fn videos_of_pictures() {
    let Some(folder) = folder("image_to_video") else {
        return;
    };
    let reference = Reference::of_folder(&folder, "image_to_video");
    let params: Params = serde_json::from_value(reference.params.clone()).unwrap();
    let mut checked = 0;
    for model in models() {
        let mut session = Session::new(&model.pipeline, workers("cpu:2", None).unwrap()).unwrap();
        let cases = params.cases.iter();
        for (name, case) in cases.filter(|(_, case)| case.model == model.name) {
            let mut request = model.pipeline.request("");
            request.content.seed = params.seed;
            (request.shape.width, request.shape.height) = (case.width, case.height);
            request.shape.frames = case.frames;
            request.shape.steps = case.steps;
            request.content.fps = case.fps;
            request.shape.guidance_scale = case.max_guidance;
            request.shape.num_images = case.num_videos;
            request.content.batch_noise = true;
            let picture = pictures(&reference, &format!("{name}/picture")).remove(0);
            let mut video = ImageToVideo::new(picture);
            video.motion_bucket_id = case.motion_bucket_id;
            video.noise_aug_strength = case.noise_aug_strength;
            request.shape.min_guidance_scale = Some(case.min_guidance);
            video.decode_chunk_size = case.decode_chunk_size;
            request.content.image_to_video = Some(video.clone());

            let run = model
                .pipeline
                .plan(&request.shape, &Strategy::sequential())
                .unwrap();
            let mut steps = Steps::default();
            let output = session
                .generate(&run, &request.content, &mut steps)
                .unwrap();
            check_steps(&reference, name, &format!("{name}/latents"), &steps.0);
            let frames = pictures(&reference, &format!("{name}/frames"));
            assert_eq!(output.images.len(), frames.len(), "{name}: frames");
            for (index, (found, expected)) in output.images.iter().zip(&frames).enumerate() {
                check_picture(&format!("{name}, frame {index}"), found, expected);
            }

            // Otherwise it would not matter how the frames are decoded.
            if case.decode_chunk_size.is_some() {
                video.decode_chunk_size = None;
                request.content.image_to_video = Some(video);
                let run = model
                    .pipeline
                    .plan(&request.shape, &Strategy::sequential())
                    .unwrap();
                let whole = session.generate(&run, &request.content, &mut ()).unwrap();
                assert_eq!(whole.latents, output.latents, "{name}");
                let differ = whole.images.iter().zip(&output.images).any(|(a, b)| {
                    let worst = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max();
                    worst > Some(2)
                });
                assert!(differ, "{name}: chunks make no difference");
            }
            checked += 1;
        }
    }
    println!("{checked} videos of pictures checked");
    assert_eq!(checked, params.cases.len());
}

#[test]
fn pictures_are_resized_as_by_pillow() {
    let Some(folder) = folder("image_to_video") else {
        return;
    };
    let reference = Reference::of_folder(&folder, "image_to_video");
    let params: Params = serde_json::from_value(reference.params.clone()).unwrap();
    let source = pictures(&reference, "resize/source").remove(0);
    for [width, height] in params.resize {
        let name = format!("resize/{width}x{height}");
        let expected = pictures(&reference, &name).remove(0);
        assert!(source.resized(width, height).unwrap() == expected, "{name}");
    }
}
