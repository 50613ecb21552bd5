//! Autoencoders in tiles against diffusers' tiled autoencoders.

use std::fs;

use asyncdiff_models::vae::AutoencoderKl;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::Value;

use super::fixtures::{Model, Reference, folder, models};
use super::networks::{config, tensor, values, weights};

fn autoencoder(model: &Model) -> AutoencoderKl {
    let file = weights(model, "vae/diffusion_pytorch_model.safetensors");
    let weights = file.read().unwrap();
    let device = Device::flex();
    AutoencoderKl::load(&config(model, "vae"), &weights.on(&device, FloatDType::F32)).unwrap()
}

/// The formula of the reference's picture, `[1, 3, height, width]` with values in -1 … 1.
fn picture(height: usize, width: usize) -> Tensor<4> {
    let mut values = Vec::new();
    for channel in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let byte = (2 * y + 3 * x + 29 * channel + (y * x) / 64 % 61) % 256;
                values.push(byte as f32 / 127.5 - 1.0);
            }
        }
    }
    Tensor::from_data(
        TensorData::new(values, [1, 3, height, width]),
        &Device::flex(),
    )
}

#[test]
fn tiled_autoencoders() {
    let Some(folder) = folder("vae_tiling") else {
        return;
    };
    let manifest = fs::read(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let models = models();
    let mut checked = 0;
    for (file, entry) in manifest["files"].as_object().unwrap() {
        let Some(model) = models.iter().find(|model| entry["model"] == *model.name) else {
            println!("passing over {file}: no such model");
            continue;
        };
        let reference = Reference::open(&folder.join(file), entry);
        let number = |value: &Value| value.as_u64().unwrap() as usize;
        let stride = number(&reference.params["pixel_stride"]);
        let vae = autoencoder(model);
        for case in reference.params["cases"].as_array().unwrap() {
            let case = case.as_str().unwrap();
            let latents = tensor(&reference, &format!("{case}.z"));
            let decoded = vae.decode_tiled(latents);
            let [_, _, _, width] = decoded.dims();
            let height = decoded.dims()[2];
            let decoded = values(decoded);
            let rows = decoded.chunks(width).enumerate();
            let kept = rows
                .filter(|(row, _)| (row % height).is_multiple_of(stride))
                .flat_map(|(_, row)| row.iter().step_by(stride).copied());
            let what = format!("{}: {case}", model.name);
            reference.check(&what, &format!("{case}.decoded"), &kept.collect::<Vec<_>>());
        }
        let size = &reference.params["picture_size"];
        let latents = vae.encode_tiled(picture(number(&size[0]), number(&size[1])));
        let what = |part: &str| format!("{}: {part}", model.name);
        reference.check(&what("mean"), "mean", &values(latents.mean));
        reference.check(&what("logvar"), "logvar", &values(latents.log_variance));
        checked += 1;
    }
    println!("{checked} tiled autoencoders checked");
    assert!(checked > 0 || models.is_empty());
}

#[test]
fn one_tile_is_the_whole_to_the_last_bit() {
    for model in models() {
        let vae = autoencoder(&model);
        let config = vae.config();
        let side = config.sample_size.unwrap_or(32) / config.scale_factor();
        let count = config.latent_channels * side * side;
        let noise = (0..count).map(|index| (index as f32 * 0.7).sin()).collect();
        let shape = [1, config.latent_channels, side, side];
        let latents =
            Tensor::<4>::from_data(TensorData::new::<f32, _>(noise, shape), &Device::flex());
        let whole = values(vae.decode(latents.clone()));
        assert!(values(vae.decode_tiled(latents)) == whole, "{}", model.name);
        let pixels = side * config.scale_factor();
        let [whole, tiled] = [
            vae.encode(picture(pixels, pixels)),
            vae.encode_tiled(picture(pixels, pixels)),
        ];
        assert!(values(whole.mean) == values(tiled.mean), "{}", model.name);
    }
}
