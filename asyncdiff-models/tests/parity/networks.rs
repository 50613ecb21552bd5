//! Text encoders, UNet blocks and autoencoders against the reference tensors.

use asyncdiff_burn::weights::WeightFile;
use asyncdiff_core::{Branch, Denoiser, Input};
use asyncdiff_models::clip::{ClipTextModel, ClipTextModelWithProjection};
use asyncdiff_models::text::TextEncoders;
use asyncdiff_models::unet::{AddedConditioning, Conditioning, UNet};
use asyncdiff_models::vae::{AutoencoderKl, VaeConfig};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::animatediff;
use super::fixtures::{Model, Reference, each_worker, models};
use super::image_to_video;

pub fn tensor<const D: usize>(reference: &Reference, name: &str) -> Tensor<D> {
    let data = TensorData::new(
        reference.values(name).to_vec(),
        reference.shape(name).to_vec(),
    );
    Tensor::from_data(data, &Device::flex())
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

pub fn config<T: serde::de::DeserializeOwned>(model: &Model, part: &str) -> T {
    let path = model
        .folder
        .join("checkpoint")
        .join(part)
        .join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn weights(model: &Model, file: &str) -> WeightFile {
    WeightFile::open(&model.folder.join("checkpoint").join(file)).unwrap()
}

#[test]
fn text_encoders() {
    let mut checked = 0;
    for model in models() {
        let encoders = model.pipeline.text_encoders().into_iter();
        for encoder in encoders.flat_map(TextEncoders::iter) {
            let Some(reference) = model.reference(encoder.folder) else {
                println!("{}: no reference for {}", model.name, encoder.folder);
                continue;
            };
            let prompts = reference.params["prompts"].as_array().unwrap();
            let ids: Vec<Vec<u32>> = prompts
                .iter()
                .map(|prompt| encoder.tokenizer.encode(prompt.as_str().unwrap()).ids)
                .collect();
            let flat: Vec<f32> = ids.iter().flatten().map(|id| *id as f32).collect();
            assert_eq!(
                flat,
                reference.values("input_ids"),
                "{}: token ids",
                model.name
            );

            let file = weights(&model, &format!("{}/model.safetensors", encoder.folder));
            for worker in each_worker() {
                let what = |part: &str| {
                    format!(
                        "{} {} on {}: {part}",
                        model.name,
                        encoder.folder,
                        worker.name()
                    )
                };
                let weights = file.read().unwrap();
                let loader = weights.on(worker.device(), FloatDType::F32);
                let embedding = if reference.has("text_embeds") {
                    let encoder =
                        ClipTextModelWithProjection::load(&encoder.config, &loader).unwrap();
                    let (embedding, text_embeds) = encoder.encode(&ids);
                    reference.check(&what("text_embeds"), "text_embeds", &values(text_embeds));
                    embedding
                } else {
                    let encoder = ClipTextModel::load(&encoder.config, &loader).unwrap();
                    encoder.encode(&ids)
                };
                weights
                    .finish(|name| name.ends_with("position_ids"))
                    .unwrap();

                let rows: Vec<usize> = match reference.params["hidden_rows"].as_array() {
                    Some(rows) => rows
                        .iter()
                        .map(|row| row.as_u64().unwrap() as usize)
                        .collect(),
                    None => (0..ids.len()).collect(),
                };
                let pick = |hidden: &Tensor<3>| {
                    let rows = rows
                        .iter()
                        .map(|row| hidden.clone().narrow(0, *row, 1))
                        .collect();
                    values(Tensor::cat(rows, 0))
                };
                for (name, found) in [
                    ("last_hidden_state", pick(&embedding.last_hidden_state)),
                    ("penultimate", pick(&embedding.penultimate)),
                    ("pooler_output", values(embedding.pooled)),
                ] {
                    if reference.has(name) {
                        reference.check(&what(name), name, &found);
                    }
                }
            }
            checked += 1;
        }
    }
    println!("{checked} text encoders checked");
    let reads_text = |model: &Model| model.pipeline.text_encoders().is_some();
    assert!(checked > 0 || !models().iter().any(reads_text));
}

/// Outputs inside a block or in what every rank computes for itself; the blocks' outputs depend on them.
const INSIDE: [&str; 5] = [
    "add_embedding",
    "add_time_proj",
    "conv_norm_out",
    "time_embedding",
    "time_proj",
];

/// The sample of a denoiser call, `[batch, channels, height, width]`, and what the denoiser is told beside it.
pub fn inputs(model: &Model, reference: &Reference) -> (Tensor<4>, Conditioning) {
    if model.pipeline.image_encoder().is_some() {
        return image_to_video::inputs(reference);
    }
    let (sample, frames) = match model.pipeline.motion_unet() {
        Some(_) => animatediff::frame_by_frame(tensor(reference, "in.sample")),
        None => (tensor(reference, "in.sample"), 1),
    };
    let added = reference.has("in.text_embeds").then(|| AddedConditioning {
        text_embeds: Some(tensor(reference, "in.text_embeds")),
        time_ids: rows(reference, "in.time_ids"),
    });
    let conditioning = Conditioning {
        context: tensor(reference, "in.encoder_hidden_states"),
        added,
        concat: None,
        mask: None,
        frames,
    };
    (sample, conditioning)
}

/// The rows of a matrix.
pub fn rows(reference: &Reference, name: &str) -> Vec<Vec<f64>> {
    reference
        .values(name)
        .chunks(reference.shape(name)[1])
        .map(|row| row.iter().map(|number| f64::from(*number)).collect())
        .collect()
}

#[test]
fn unet_blocks() {
    let mut taps = 0;
    for model in models() {
        let unet_spec = model
            .pipeline
            .motion_unet()
            .unwrap_or(model.pipeline.unet());
        let file = weights(&model, "unet/diffusion_pytorch_model.safetensors");
        let motion_file = model
            .pipeline
            .motion_unet()
            .map(|_| weights(&model, "motion_adapter/diffusion_pytorch_model.safetensors"));
        for case in ["unet_even", "unet_odd"] {
            let Some(reference) = model.reference(case) else {
                continue;
            };
            for worker in each_worker() {
                let what = format!("{} {case} on {}", model.name, worker.name());
                let (sample, conditioning) = inputs(&model, &reference);
                let sample = sample.to_device(worker.device());
                let conditioning = conditioning.to_device(worker.device());
                let frames = conditioning.frames;
                let [batch, _, height, width] = sample.dims();
                let graph = unet_spec.video_graph(
                    1,
                    frames,
                    [batch, height, width],
                    conditioning.context.dims()[1],
                );
                let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
                let unet = UNet::load(
                    unet_spec,
                    &file.read().unwrap(),
                    motion_file
                        .as_ref()
                        .map(|file| file.read().unwrap())
                        .as_ref(),
                    &all,
                    worker.device(),
                    FloatDType::F32,
                )
                .unwrap();
                assert_eq!(
                    unet.parameters(),
                    graph.parameters(&all),
                    "{}: number of weights",
                    model.name
                );

                let given = Box::new(|_| unreachable!("a denoiser call reads nothing else"));
                let mut denoiser = unet.denoiser(conditioning, [height, width], given);
                let timestep = f64::from(reference.values("in.timestep")[0]);
                let mut outputs: Vec<Tensor<4>> = Vec::new();
                for (id, block) in graph.iter() {
                    let inputs = block.inputs.iter().map(|input| match input {
                        Input::Latents => sample.clone(),
                        Input::Block(from) => outputs[from.0].clone(),
                    });
                    let output = denoiser
                        .run(id, Branch::Both, timestep, inputs.collect())
                        .unwrap();
                    assert_eq!(
                        output.dims(),
                        block.output,
                        "{what}: shape of {}",
                        block.name
                    );
                    outputs.push(output);
                }
                for name in reference.names() {
                    let Some(tap) = name
                        .strip_prefix("tap.")
                        .filter(|tap| !INSIDE.contains(tap))
                    else {
                        continue;
                    };
                    // The output of a module that holds several blocks is its last block's.
                    let inside = |block: &str| {
                        block
                            .strip_prefix(tap)
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                    };
                    let (id, _) = graph
                        .iter()
                        .rfind(|(_, block)| inside(&block.name))
                        .unwrap_or_else(|| panic!("{}: no block {tap}", model.name));
                    reference.check(
                        &format!("{what}: {tap}"),
                        name,
                        &values(outputs[id.0].clone()),
                    );
                    taps += 1;
                }
                let out = outputs.pop().unwrap();
                let [_, channels, ..] = out.dims();
                let out = match &motion_file {
                    Some(_) => {
                        animatediff::as_in_diffusers(&values(out), batch / frames, frames, channels)
                    }
                    None => values(out),
                };
                reference.check(&format!("{what}: out"), "out", &out);
            }
        }
    }
    println!("{taps} block outputs checked");
    assert!(taps > 0 || models().is_empty());
}

#[test]
fn autoencoders() {
    for model in models() {
        let Some(reference) = model.reference("vae") else {
            continue;
        };
        let config: VaeConfig = config(&model, "vae");
        let file = weights(&model, "vae/diffusion_pytorch_model.safetensors");
        for worker in each_worker() {
            let device = worker.device();
            let weights = file.read().unwrap();
            let vae = AutoencoderKl::load(&config, &weights.on(device, FloatDType::F32)).unwrap();
            weights.finish(|name| config.leaves_out(name)).unwrap();
            let check = |name: &str, found: Tensor<4>| {
                let what = format!("{} on {}: {name}", model.name, worker.name());
                reference.check(&what, name, &values(found));
            };
            let picture: Tensor<3> = tensor(&reference, "image_uint8");
            let picture = (picture / 127.5 - 1.0).unsqueeze();
            let latents = vae.encode(picture.to_device(device));
            check("mean", latents.mean);
            check("logvar", latents.log_variance);
            let z: Tensor<4> = tensor(&reference, "z");
            check("decoded", vae.decode(z.to_device(device)));
        }
    }
}
